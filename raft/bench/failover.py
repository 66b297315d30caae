"""W7: from the kill of the leader to the next write that is acknowledged."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from contextlib import suppress

from twisted.internet.task import deferLater

from raft.bench.plan import START_SECONDS, Row, Task
from raft.bench.rows import blank, over_runs
from raft.bench.stand import Stand
from raft.client import RaftClient
from raft.errors import OutcomeUnknown

WRITE_SECONDS = 30.0
CALM_SECONDS = 0.3


async def measure(task: Task) -> list[Row]:
    """Return one line, whose latencies are the gaps.

    Raises:
        RaftError: no leader was elected.
    """
    gaps: list[float] = []
    async with Stand(task) as stand:
        before, begun = await stand.figures(), time.monotonic()
        client = stand.cluster.client(timeout_seconds=WRITE_SECONDS)
        try:
            for number in range(task.plan.kills):
                task.note(f"W7: kill {number + 1} of {task.plan.kills}")
                gaps.append(await _kill(stand, client))
        finally:
            await client.close()
        used = stand.told(before, await stand.figures(), time.monotonic() - begun, 0.0)
    ordered = sorted(1000 * gap for gap in gaps)
    row = blank(task.workload, 1, task.workload.value_bytes[0])
    return [
        {
            **row,
            **over_runs([used]),
            "p50_ms": round(statistics.median(ordered), 1),
            "p99_ms": _rank(ordered, 0.99),
            "p999_ms": _rank(ordered, 0.999),
            "max_ms": round(ordered[-1], 1),
            "elections": task.plan.kills,
            "runs": [{"failover_ms": round(each, 1)} for each in ordered],
        }
    ]


def _rank(ordered: Sequence[float], share: float) -> float | None:
    """Return a percentile; None of so few that it would be the worst under another name."""
    at = int(share * len(ordered))
    return round(ordered[at], 1) if len(ordered) * (1 - share) >= 1 - 1e-9 else None


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
