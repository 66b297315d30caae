"""A node's own time and chance: a clock that rings, and dice that may be loaded."""

from __future__ import annotations

import random
from collections.abc import Callable

from attrs import define

from raft.testing.cores.timeline import Timeline


class Dice(random.Random):
    """A server's chance, which may be told to keep to the lower end of [0, 1)."""

    spread = 1.0

    def random(self) -> float:
        """Return a number in [0, spread)."""
        return super().random() * self.spread


@define(eq=False)
class LocalClock:
    """Tells local seconds, and calls `ring` when a local deadline is reached.

    It starts anywhere, runs at its own rate and never goes back.
    """

    timeline: Timeline
    rate: float
    """Local seconds for each second of the timeline."""
    ring: Callable[[], object]
    deadline: float = 0.0
    _offset: float = 0.0
    _latest: float = 0.0
    _armed: bool = False
    _timer: int = 0
    """Grows with every timer set: an older one that comes due is ignored."""

    def start(self, reading: float) -> None:
        """Begin a life in which the clock shows `reading` now."""
        self._offset = reading - self.timeline.now * self.rate
        self._latest = 0.0
        self.stop()

    def stop(self) -> None:
        """Ring no more, until armed again."""
        self._armed = False
        self._timer += 1

    def now(self) -> float:
        """Return the local time; it never goes back."""
        now = self._offset + self.timeline.now * self.rate
        if now > self._latest:
            self._latest = now
        return self._latest

    def drift(self, rate: float) -> None:
        """Run at `rate` from now on."""
        reading = self.now()
        self.rate = rate
        self._offset = reading - self.timeline.now * rate
        if self._armed:
            self._set_timer(self.due_at)

    def arm(self, deadline: float) -> None:
        """Ring at `deadline` instead of at the one before."""
        later = deadline >= self.deadline
        self.deadline = deadline
        # A later deadline is looked at when the timer for the earlier one fires.
        if not (later and self._armed):
            self._set_timer(self.due_at)

    @property
    def due_at(self) -> float:
        """The moment of the timeline at which the deadline is reached."""
        return (self.deadline - self._offset) / self.rate

    def rearm(self) -> None:
        """Set the timer anew, on a timeline that forgot it."""
        if self._armed:
            self._set_timer(self.due_at)

    def _set_timer(self, moment: float) -> None:
        self._armed = True
        self._timer += 1
        self.timeline.at(moment, self._fire, self._timer)

    def _fire(self, timer: int) -> None:
        if timer != self._timer:
            return
        moment = self.due_at
        if moment > self.timeline.now:
            self._set_timer(moment)
            return
        self.ring_now()

    def ring_now(self) -> None:
        """Ring: the deadline is reached."""
        # Rounding must not leave the clock just below the deadline.
        self._latest = max(self.now(), self.deadline)
        self._armed = False
        self.ring()
