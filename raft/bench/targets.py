"""Where load goes: a cluster of our own, or the one that runs already."""

from __future__ import annotations

from raft.bench.loaded import Loaded
from raft.bench.plan import Task
from raft.bench.running import RunningStand
from raft.bench.stand import Stand


def loaded(task: Task) -> Loaded:
    """Return what the plan names, to be entered with `async with`."""
    return Stand(task) if task.plan.running is None else RunningStand(task)
