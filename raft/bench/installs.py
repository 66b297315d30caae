"""W8s: the leader's writes while it sends a large snapshot to a follower, and without."""

from __future__ import annotations

import time

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from raft.bench.plan import Row, Task
from raft.bench.restarts import LONG_SECONDS, other_than_leader, until
from raft.bench.rows import row_of
from raft.bench.stand import Stand
from raft.errors import Timeout

FILL_BYTES = 4096
MEGABYTE = 1_000_000
MOST_SNAPSHOTS = 20
AGAIN_SECONDS = 0.5
"""Between two of them: a follower that stopped just now counts as one that is nearly there."""
# Snapshots are taken when this says so, by a backup: one more in a span would be in its figures.
SETTINGS = {"snapshot_factor": 0, "snapshot_entries": 0, "trailing_bytes": 65536}


async def measure(task: Task) -> list[Row]:
    """Return two lines, without and with a snapshot of `plan.megabytes` on its way.

    Raises:
        RaftError: no leader was elected, or the load failed, or no snapshot was installed.
    """
    outstanding, value_bytes = task.workload.points()[0]
    async with Stand(task, settings=SETTINGS) as stand:
        task.note(f"W8s: a state of {task.plan.megabytes} MB")
        fill_keys = max(1, task.plan.megabytes * MEGABYTE // FILL_BYTES)
        await stand.start_load(
            outstanding, value_bytes, fill=True, fill_bytes=FILL_BYTES, fill_keys=fill_keys
        )
        await deferLater(task.reactor, task.plan.warm_up_seconds)
        follower = other_than_leader(stand)
        reached = await stand.number(follower, "last_index")
        stand.cluster.kill(follower)
        await deferLater(task.reactor, task.plan.warm_up_seconds)
        await _leave_behind(stand, reached)
        without = await stand.measured(task.plan.seconds)
        task.note("W8s: the snapshot, under load")
        stand.cluster.node(follower).start()
        await until(stand, follower, "last_applied", 0)
        installing = Deferred.fromCoroutine(_installed(stand, follower, reached))
        during = await stand.measured(task.plan.seconds)
        seconds = await installing
        sent_bytes = await stand.number(stand.leader, "snapshot_sent_bytes")
        await stand.stop_load()
    return _rows(stand, without, during, sent_bytes, seconds)


async def _installed(stand: Stand, follower: str, reached: int) -> float:
    """Return how many seconds passed until a follower had a snapshot of more than it had."""
    begun = time.monotonic()
    await until(stand, follower, "snapshot_index", reached + 1)
    return time.monotonic() - begun


async def _leave_behind(stand: Stand, reached: int) -> None:
    """Let the leader take a snapshot, and begin its log behind entry `reached`."""
    client = stand.cluster.client()
    path = stand.directory / "backup"
    try:
        # The leader's own log is the one that must begin later: who has written knows it.
        await client.write(["set", "leave behind", 1])
        for _ in range(MOST_SNAPSHOTS):
            await client.backup(str(path), LONG_SECONDS)
            path.unlink()
            if await stand.number(stand.leader, "first_index") > reached + 1:
                return
            await deferLater(stand.task.reactor, AGAIN_SECONDS)
    finally:
        await client.close()
    raise Timeout(False, f"the leader's log still begins before entry {reached}")


def _rows(stand: Stand, without: Row, during: Row, sent_bytes: int, seconds: float) -> list[Row]:
    outstanding, value_bytes = stand.task.workload.points()[0]
    rows = []
    for run, words in ((without, "without"), (during, "with it on its way")):
        row = row_of(stand.task.workload, outstanding, value_bytes, [run], stand.nodes)
        rows.append(row | {"text": f"{stand.task.workload.text}: {words}", "at": None})
    rows[1]["details"] = {
        "sent_mb": round(sent_bytes / MEGABYTE, 1),
        "installed_after_seconds": round(seconds, 3),
        "mb_per_second": round(sent_bytes / MEGABYTE / seconds, 1),
        "p99_ratio": round(during["p99_ms"] / without["p99_ms"], 2),
        "ops_ratio": round(during["ops_per_second"] / without["ops_per_second"], 3),
    }
    return rows
