"""Virtual time: what is due is called in order, and nothing waits."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush

from attrs import Factory, define

Action = Callable[..., object]


@define(eq=False)
class Timeline:
    """A queue of actions by moment; those of one moment run in the order they were put."""

    now: float = 0.0
    _count: int = 0
    _queue: list[tuple[float, int, Action, tuple[object, ...]]] = Factory(list)

    def at(self, moment: float, action: Action, *args: object) -> None:
        """Call `action(*args)` at `moment` (virtual seconds), or at once if it has passed."""
        self._count = count = self._count + 1
        heappush(self._queue, (moment, count, action, args))

    def after(self, delay_seconds: float, action: Action, *args: object) -> None:
        """Call `action(*args)` once `delay_seconds` have passed."""
        self._count = count = self._count + 1
        heappush(self._queue, (self.now + delay_seconds, count, action, args))

    def run(self, end: float, going_on: Callable[[], bool] | None = None) -> None:
        """Run what is due before `end`; where given, as long as `going_on()` after each action."""
        queue = self._queue
        while queue and queue[0][0] < end:
            moment, _, action, args = heappop(queue)
            if moment > self.now:
                self.now = moment
            action(*args)
            if going_on is not None and not going_on():
                return
        self.now = end
