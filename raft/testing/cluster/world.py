"""A reactor whose time moves by hand: nothing here waits, listens or starts a thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

STEP_SECONDS: Final = 0.01
"""By how much `World.run` moves time on at once."""


class NeverHappened(AssertionError):
    """What was waited for did not come true in time."""


class Pool:
    """A thread pool without threads: what it is given is done at once."""

    def callInThreadWithCallback(self, done: Any, call: Any, *args: Any, **named: Any) -> None:
        """Call, and report as a thread would."""
        try:
            result, ok = call(*args, **named), True
        except BaseException:
            result, ok = Failure(), False
        done(ok, result)


class World(Clock):
    """A reactor whose time moves by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = Pool()

    def callFromThread(self, call: Callable[..., object], *args: object, **named: object) -> None:
        """Call in the next turn."""
        self.callLater(0, call, *args, **named)

    def getThreadPool(self) -> Pool:
        """Return what stands in for the threads."""
        return self.pool

    def run(self, seconds: float = 0.0, until: Callable[[], object] | None = None) -> None:
        """Let `seconds` pass (one turn at least), or less where `until` is true before.

        Raises:
            NeverHappened: `until` is not true by the end.
        """
        end = self.seconds() + seconds
        self.advance(0)
        while self.seconds() < end:
            if until is not None and until():
                return
            self.advance(self.next_step(end))
        if until is not None and not until():
            raise NeverHappened(f"did not happen within {seconds} s")

    def next_step(self, end: float) -> float:
        """Return by how many seconds to move on, on the way to `end`."""
        return STEP_SECONDS


class LeapingWorld(World):
    """A world that leaps from one moment at which something happens to the next."""

    def next_step(self, end: float) -> float:
        """Return the seconds to the next delayed call, or to `end`; a microsecond at least."""
        moments = [call.getTime() for call in self.calls]
        # Rounding must not leave the world forever just before a moment.
        return float(max(min([*moments, end]) - self.seconds(), 1e-6))


class Outcome:
    """What a Deferred came to: `value` once it fired, an exception as itself."""

    def __init__(self, deferred: Deferred[Any]) -> None:
        self.deferred = deferred
        self.values: list[Any] = []
        deferred.addCallbacks(self.values.append, lambda failure: self.values.append(failure.value))

    @property
    def fired(self) -> bool:
        """Whether it has come to anything."""
        return bool(self.values)

    @property
    def value(self) -> Any:
        """What it came to; it must have fired, once."""
        if len(self.values) != 1:
            raise NeverHappened(f"fired {len(self.values)} times")
        return self.values[0]
