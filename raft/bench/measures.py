"""Which room measures which workload."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from raft.bench import failover, growth, installs, overload, points, restarts
from raft.bench.plan import Row, Task

MEASURES: Mapping[str, Callable[[Task], Awaitable[list[Row]]]] = {
    "failover": failover.measure,
    "restart": restarts.restart,
    "behind": restarts.behind,
    "install": installs.measure,
    "growth": growth.measure,
    "overload": overload.measure,
}
"""By a workload's `measure`; the others are points of a closed loop."""


async def measured(task: Task) -> list[Row]:
    """Measure one workload on clusters of its own; return its lines.

    Raises:
        RaftError: no leader was elected, or the load failed.
    """
    return await MEASURES.get(task.workload.measure, points.measure)(task)
