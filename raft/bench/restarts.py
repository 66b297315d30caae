"""W8: a restart with a long log, and a follower that is far behind."""

from __future__ import annotations

import time

from twisted.internet.task import deferLater

from raft.bench.plan import Row, Task
from raft.bench.rows import blank, over_runs
from raft.bench.stand import Stand
from raft.errors import Timeout

LONG_SECONDS = 1800.0
POLL_SECONDS = 0.02
WITHOUT_SNAPSHOTS = {"snapshot_factor": 0, "snapshot_entries": 0}


async def restart(task: Task) -> list[Row]:
    """Return the line of a follower's restart with `plan.entries` after the last snapshot.

    What a node with an empty log takes to start is subtracted before entries a second are told.

    Raises:
        RaftError: no leader was elected, or the load failed, or a node did not come back.
    """
    async with Stand(task, settings=WITHOUT_SNAPSHOTS) as stand:
        follower = other_than_leader(stand)
        empty_seconds, _ = await _started(stand, follower)
        written, rate = await _written(stand)
        await stand.cluster.wait_until_equal(written, LONG_SECONDS)
        task.note(f"{task.workload.name}: a restart with {written:,} entries")
        before = await stand.figures()
        ready_seconds, answers_seconds = await _started(stand, follower)
        used = stand.told(before, await stand.figures(), ready_seconds, 0.0)
        replayed = written / max(1e-3, ready_seconds - empty_seconds)
        details = {
            "entries": written,
            "entries_per_second": round(replayed, 1),
            "ready_seconds": round(ready_seconds, 3),
            "answers_seconds": round(answers_seconds, 3),
            "empty_log_ready_seconds": round(empty_seconds, 3),
            "written_per_second": round(rate, 1),
        }
        return [_row(task, written, replayed, details) | over_runs([used])]


async def behind(task: Task) -> list[Row]:
    """Return the line of a follower that comes back `plan.entries` behind its leader.

    Raises:
        RaftError: no leader was elected, or the load failed, or a node did not come back.
    """
    async with Stand(task, settings=WITHOUT_SNAPSHOTS) as stand:
        follower, term = other_than_leader(stand), await stand.number(stand.leader, "term")
        stand.cluster.kill(follower)
        written, own_rate = await _written(stand)
        task.note(f"{task.workload.name}: a follower {written:,} entries behind")
        last = await stand.number(stand.leader, "last_index")
        before = await stand.figures()
        stand.cluster.node(follower).start()
        await until(stand, follower, "last_applied", 0)
        begun, first = time.monotonic(), await stand.number(follower, "last_index")
        await until(stand, follower, "last_applied", last)
        seconds = max(1e-3, time.monotonic() - begun)
        rate = (last - first) / seconds
        used = stand.told(before, await stand.figures(), seconds, 0.0)
        details = {
            "entries": written,
            "entries_per_second": round(rate, 1),
            "leader_writes_per_second": round(own_rate, 1),
            "share_of_leader": round(rate / own_rate, 3),
        }
        row = _row(task, written, rate, details) | over_runs([used])
        return [row | {"elections": await stand.number(stand.leader, "term") - term}]


def _row(task: Task, entries: int, rate: float, details: Row) -> Row:
    workload = task.workload
    row = blank(workload, None, workload.value_bytes[0])
    return row | {
        "text": f"{workload.text}: {entries:,} entries",
        "ops_per_second": round(rate, 1),
        "details": details,
    }


def other_than_leader(stand: Stand) -> str:
    """Return the id of a follower."""
    return next(id for id in stand.cluster.nodes if id != stand.leader)


async def _started(stand: Stand, id: str) -> tuple[float, float]:
    """Kill a node and start it; return when all was applied, and when it answered, in seconds."""
    last = await stand.number(stand.leader, "last_index")
    stand.cluster.kill(id)
    begun = time.monotonic()
    stand.cluster.node(id).start()
    await until(stand, id, "last_applied", 0)
    answers_seconds = time.monotonic() - begun
    await until(stand, id, "last_applied", last)
    return time.monotonic() - begun, answers_seconds


async def _written(stand: Stand) -> tuple[int, float]:
    """Write as many entries as the plan says; return how many there are, and the rate."""
    outstanding, value_bytes = stand.task.workload.points()[0]
    entries = stand.task.plan.entries
    stand.task.note(f"{stand.task.workload.name}: writing {entries:,} entries")
    await stand.start_load(outstanding, value_bytes)
    run = await stand.measured(LONG_SECONDS, entries)
    await stand.stop_load()
    return await stand.number(stand.leader, "last_index"), run["ops_per_second"]


async def until(stand: Stand, id: str, key: str, least: int) -> None:
    """Wait until a number of a node's status is at least so much.

    Raises:
        Timeout: it was not within half an hour, or the process has ended.
    """
    deadline = time.monotonic() + LONG_SECONDS
    while await stand.number(id, key) < least:
        if time.monotonic() > deadline or not stand.cluster.node(id).running:
            raise Timeout(False, f"{key} of {id} did not reach {least}")
        await deferLater(stand.task.reactor, POLL_SECONDS)
