"""W0 to W6: so many operations outstanding, for each number and size of the workload."""

from __future__ import annotations

from twisted.internet.task import deferLater

from raft.bench.loaded import Loaded
from raft.bench.plan import Row, Task
from raft.bench.rows import row_of
from raft.bench.targets import loaded


async def measure(task: Task) -> list[Row]:
    """Return a line for each point, all measured on one cluster.

    Raises:
        RaftError: no leader was elected, or the load failed.
    """
    async with loaded(task) as stand:
        return [await _point(stand, *point) for point in task.workload.points()]


async def _point(stand: Loaded, outstanding: int, value_bytes: int) -> Row:
    task = stand.task
    what = f"{task.workload.name}, {outstanding} outstanding, {value_bytes} bytes"
    task.note(f"{what}: warming up")
    await stand.start_load(outstanding, value_bytes)
    await deferLater(task.reactor, task.plan.warm_up_seconds)
    runs = []
    for number in range(task.plan.runs):
        task.note(f"{what}: run {number + 1} of {task.plan.runs}")
        runs.append(await stand.measured(task.plan.seconds))
    await stand.stop_load()
    return row_of(task.workload, outstanding, value_bytes, runs, stand.nodes)
