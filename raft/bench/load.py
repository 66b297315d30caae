"""A closed loop: so many operations outstanding, each answer followed by the next operation.

What this costs is in every figure, because the load runs on the machine that it loads. So
an operation here is: a command made, one Deferred, which the measured side makes anyway, two
readings of the clock, and one number kept.
"""

from __future__ import annotations

import random
import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, cycle
from typing import Any

from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from raft.errors import InvariantViolated, RaftError

KEYS = 10_000
KEY_BYTES = 16
PREPARED = 1 << 14
"""So many keys are drawn before a run, and repeated in a circle."""

STATE_BYTES = 64 << 20
"""Where values are large, fewer keys are used: the state of a long run must stay within memory."""

READ_SHARE = 0.9
ZIPF = 0.99
PAUSE_SECONDS = 0.01
"""How long a place waits after a failure: a dead leader must not be asked in a tight loop."""

MOST_LATENCIES = 20_000_000

NO_NAMES: Mapping[str, Any] = {}

Issue = Callable[[int, int, list[Any]], "Deferred[Any]"]
"""Begin one operation: which of the outstanding places, 1 for a read or 0, the command."""


@frozen
class Operations:
    """What a run does, in a circle: keys, and of each whether it is read.

    Commands are made one by one, as an application makes them: tens of thousands made before
    would be fetched from memory, not from a cache, and would be the dearest part of the load.
    """

    keys: list[str]
    reads: bytes
    value: str


def keys(value_bytes: int = 1, prefix: str = "") -> list[str]:
    """Return all keys that are read and written, where values have so many bytes."""
    count = min(KEYS, max(1, STATE_BYTES // value_bytes))
    return [f"{prefix}key-{number:0{KEY_BYTES - 4}d}" for number in range(count)]


def operations(kind: str, value_bytes: int, seed: int, prefix: str = "") -> Operations:
    """Draw the operations of a run: "write", "read" or "mixed", the last by Zipf's law.

    Raises:
        InvariantViolated: there is no such kind.
    """
    chance, names, value = random.Random(seed), keys(value_bytes, prefix), "v" * value_bytes
    if kind == "mixed":
        weights = list(accumulate(1 / rank**ZIPF for rank in range(1, len(names) + 1)))
        drawn = chance.choices(names, cum_weights=weights, k=PREPARED)
        return Operations(drawn, bytes(chance.random() < READ_SHARE for _ in drawn), value)
    if kind not in ("read", "write"):
        raise InvariantViolated(f"no operations {kind!r}")
    drawn = chance.choices(names, k=PREPARED)
    return Operations(drawn, bytes([kind == "read"]), value)


class Loop:
    """Operations on their way, from a start to `stop`; when one begins, is said by who inherits.

    Attributes:
        latencies: of each operation answered in the measured span, in seconds.
        failures: how many failed in it, by the error's class.
    """

    def __init__(
        self, reactor: Any, issue: Issue, drawn: Operations, clock: Callable[[], float]
    ) -> None:
        """Prepare; begin nothing."""
        self.latencies = array("d")
        self.failures: dict[str, int] = {}
        self._reactor = reactor
        self._issue = issue
        self._next_key = cycle(drawn.keys).__next__
        self._next_reads = cycle(drawn.reads).__next__
        self._value = drawn.value
        self._clock = clock
        self._open = 0
        self._running = self._measuring = False
        self._idle: Deferred[None] | None = None

    def told(self) -> dict[str, float]:
        """Return what else there is to say of the measured span: nothing."""
        return {}

    def stop(self) -> Deferred[None]:
        """Begin nothing more; fires once the last operation is answered."""
        self._running = False
        self._idle = Deferred()
        self._look()
        return self._idle

    def _fail(self, error: BaseException | None) -> None:
        name = type(error).__name__
        self.failures[name] = self.failures.get(name, 0) + 1

    def _end_one(self) -> None:
        self._open -= 1
        self._look()

    def _look(self) -> None:
        if not self._open and self._idle is not None and not self._idle.called:
            self._idle.callback(None)


class Load(Loop):
    """A closed loop: so many operations outstanding."""

    def __init__(
        self,
        reactor: Any,
        issue: Issue,
        drawn: Operations,
        outstanding: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Prepare; begin nothing."""
        super().__init__(reactor, issue, drawn, clock)
        self._outstanding = outstanding
        self._most = MOST_LATENCIES
        self._counted: Deferred[Any] | None = None

    def start(self) -> None:
        """Fill all places; they stay filled until `stop`."""
        self._running = True
        self._open = self._outstanding
        for place in range(self._outstanding):
            self._one(place)

    async def measure(self, seconds: float, count: int = 0) -> float:
        """Take the times of what is answered within `seconds`; return how long it truly was.

        With a `count` it ends with so many answers, if these come earlier.
        """
        self.latencies = array("d")
        self.failures = {}
        self._most = count or MOST_LATENCIES
        self._measuring = True
        begun = self._clock()
        self._counted = deferLater(self._reactor, seconds)
        try:
            await self._counted
        except CancelledError:
            # So many were answered.
            pass
        self._counted = None
        self._measuring = False
        return self._clock() - begun

    def _one(self, place: int) -> None:
        is_read, key = self._next_reads(), self._next_key()
        command = ["get", key] if is_read else ["set", key, self._value]
        begun = self._clock()
        self._issue(place, is_read, command).addCallbacks(
            self._answered, self._failed, (place, begun), NO_NAMES, (place,), NO_NAMES
        )

    def _answered(self, result: object, place: int, begun: float) -> None:
        # A connection of its own answers a batch of one, whose item may be an error.
        if type(result) is list and isinstance(result[0], RaftError):
            self._fail(result[0])
            self._pause(place)
            return
        if self._measuring:
            self.latencies.append(self._clock() - begun)
            if len(self.latencies) >= self._most:
                self._measuring = False
                if self._counted is not None:
                    self._counted.cancel()
        if self._running:
            self._one(place)
        else:
            self._end_one()

    def _failed(self, failure: Failure, place: int) -> None:
        self._fail(failure.value)
        self._pause(place)

    def _pause(self, place: int) -> None:
        if self._running:
            self._reactor.callLater(PAUSE_SECONDS, self._resume, place)
        else:
            self._end_one()

    def _resume(self, place: int) -> None:
        if self._running:
            self._one(place)
        else:
            self._end_one()


def summary(latencies: array[float], seconds: float) -> dict[str, float]:
    """Return rate and percentiles (by rank, in milliseconds) of what was measured."""
    ordered = array("d", sorted(latencies))
    found: dict[str, float] = {"ops_per_second": len(ordered) / seconds if seconds else 0.0}
    for name, share in PERCENTILES.items():
        found[name] = _at(ordered, share)
    return found


def percentile(latencies: array[float], share: float) -> float:
    """Return one percentile by rank, in milliseconds; 0 of nothing."""
    return _at(sorted(latencies), share)


def _at(ordered: Sequence[float], share: float) -> float:
    at = min(len(ordered) - 1, int(len(ordered) * share))
    return 1000 * ordered[at] if ordered else 0.0


PERCENTILES: Mapping[str, float] = {"p50_ms": 0.5, "p99_ms": 0.99, "p999_ms": 0.999, "max_ms": 1.0}
