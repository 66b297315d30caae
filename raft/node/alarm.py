"""One timer for all deadlines of a node, re-armed as seldom as can be."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from attrs import define

LATE_SECONDS = 0.05
"""A timer this late means that the process stalled: sockets are read before deadlines count."""


@define(eq=False)
class Alarm:
    """Calls `ring` at (or soon after) the deadline that was set last.

    A deadline that moves further away costs an assignment: the timer fires at the old time,
    sees that it is too early, and is armed again. Hearing the leader moves one each time.
    """

    reactor: Any
    clock: Callable[[], float]
    ring: Callable[[], None]
    deadline: float = math.inf
    """When it is to ring; infinity for never."""
    _call: Any = None
    _call_at: float = math.inf

    def set(self, deadline: float, now: float) -> None:
        """Ring at `deadline` (monotonic seconds), and at no earlier one any more."""
        self.deadline = deadline
        if self._call is not None and deadline >= self._call_at and self._on_time(now):
            return
        self._disarm()
        if deadline < math.inf:
            self._call_at = deadline
            self._call = self.reactor.callLater(max(0.0, deadline - now), self._fire, False)

    def _on_time(self, now: float) -> bool:
        """Tell whether the call still comes when it should: a reactor's time may be set back."""
        left = self._call.getTime() - self.reactor.seconds()
        return bool(left <= max(0.0, self._call_at - now) + LATE_SECONDS)

    def cancel(self) -> None:
        """Ring no more."""
        self.deadline = math.inf
        self._disarm()

    def _disarm(self) -> None:
        call, self._call, self._call_at = self._call, None, math.inf
        if call is not None:
            call.cancel()

    def _fire(self, drained: bool) -> None:
        now, planned = self.clock(), self._call_at
        self._call, self._call_at = None, math.inf
        if now < self.deadline:
            self.set(self.deadline, now)
        elif now - planned > LATE_SECONDS and not drained:
            # The process stalled. What has arrived meanwhile is read first: it may be the
            # leader's heartbeat.
            self._call_at = now
            self._call = self.reactor.callLater(0, self._fire, True)
        else:
            self.ring()
