"""W7: from the kill of the leader to the next write that is acknowledged."""

from __future__ import annotations

import statistics
import time
from contextlib import suppress

from twisted.internet.task import deferLater

from raft.bench.plan import START_SECONDS, Row, Task
from raft.bench.rows import blank
from raft.bench.stand import Stand
from raft.client import RaftClient
from raft.errors import OutcomeUnknown

WRITE_SECONDS = 30.0
CALM_SECONDS = 0.3
P99_SAMPLES = 100
"""Of fewer kills the 99th percentile would be the worst of them under another name."""


async def measure(task: Task) -> list[Row]:
    """Return one line, whose latencies are the gaps.

    Raises:
        RaftError: no leader was elected.
    """
    gaps: list[float] = []
    async with Stand(task) as stand:
        client = stand.cluster.client(timeout_seconds=WRITE_SECONDS)
        try:
            for number in range(task.plan.kills):
                task.note(f"W7: kill {number + 1} of {task.plan.kills}")
                gaps.append(await _kill(stand, client))
        finally:
            await client.close()
    ordered = sorted(1000 * gap for gap in gaps)
    row = blank(task.workload, 1, task.workload.value_bytes[0])
    enough = len(ordered) >= P99_SAMPLES
    return [
        {
            **row,
            "p50_ms": round(statistics.median(ordered), 1),
            "p99_ms": round(ordered[int(0.99 * len(ordered))], 1) if enough else None,
            "max_ms": round(ordered[-1], 1),
            "elections": task.plan.kills,
            "runs": [{"failover_ms": round(each, 1)} for each in ordered],
        }
    ]


async def _kill(stand: Stand, client: RaftClient) -> float:
    """Kill the leader; return how long until a write issued later was acknowledged."""
    cluster = stand.cluster
    leader = await cluster.wait_for_leader(START_SECONDS)
    await client.write(["set", "before", 1])
    # A leader is killed in calm: what came before must not be in the figure.
    await deferLater(stand.task.reactor, CALM_SECONDS)
    begun = time.monotonic()
    cluster.kill(leader)
    while True:
        # It left before the client had heard of the end: the next one tells.
        with suppress(OutcomeUnknown):
            await client.write(["set", "after", 1])
            break
    taken = time.monotonic() - begun
    await cluster.restart(leader, START_SECONDS)
    await cluster.wait_until_equal(timeout_seconds=START_SECONDS)
    return taken
