"""An open loop: so many operations a second, whether or not those before are answered.

A closed loop slows down with what it loads, so it can never offer too much. This one offers what
it was told. A latency runs from the moment at which the operation was *due*: one that is issued
late, because this process was busy, has waited, too.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable
from typing import Any

from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from raft.bench.load import Issue, Loop, Operations, percentile
from raft.errors import Overloaded, RaftError

TICK_SECONDS = 0.002
LATE_SECONDS = 0.01
"""What is due for longer than this is not offered any more, and counted as such."""
MOST_OPEN = 1_000_000


class Paced(Loop):
    """Operations at a pace.

    Attributes:
        refusals: of each that was refused as too much: from its issue to the refusal, in seconds.
            It is none of the `failures`.
    """

    def __init__(
        self,
        reactor: Any,
        issue: Issue,
        drawn: Operations,
        per_second: float,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Prepare; begin nothing."""
        super().__init__(reactor, issue, drawn, clock)
        self.refusals = array("d")
        self._per_second = per_second
        self._begun = 0.0
        self._due = self._offered = self._most_open = 0

    def start(self) -> None:
        """Begin to offer."""
        self._running = True
        self._begun = self._clock()
        self._tick()

    async def measure(self, seconds: float, count: int = 0) -> float:
        """Note what is answered within `seconds`; return how long it truly was.

        `count` is of no meaning here: a pace has its own.
        """
        self.latencies, self.refusals, self.failures = array("d"), array("d"), {}
        self._offered, self._most_open = 0, self._open
        self._measuring = True
        begun = self._clock()
        await deferLater(self._reactor, seconds)
        self._measuring = False
        return self._clock() - begun

    def told(self) -> dict[str, float]:
        """Return what was offered and refused in the measured span."""
        return {
            "offered": self._offered,
            "refused": len(self.refusals),
            "refused_p50_ms": percentile(self.refusals, 0.5),
            "refused_p99_ms": percentile(self.refusals, 0.99),
            "most_open": self._most_open,
        }

    def _tick(self) -> None:
        if not self._running:
            return
        due = int((self._clock() - self._begun) * self._per_second)
        # What this process could not offer in time is left out, or it would come as one wave.
        self._due = max(self._due, due - int(LATE_SECONDS * self._per_second) - 1)
        for _ in range(min(due - self._due, MOST_OPEN - self._open)):
            self._one()
        self._reactor.callLater(TICK_SECONDS, self._tick)

    def _one(self) -> None:
        is_read, key = self._next_reads(), self._next_key()
        command = ["get", key] if is_read else ["set", key, self._value]
        place = self._due
        self._due += 1
        self._offered += 1
        self._open += 1
        if self._open > self._most_open:
            self._most_open = self._open
        due, begun = self._begun + self._due / self._per_second, self._clock()
        self._issue(place, is_read, command).addCallbacks(
            self._answered, self._failed, (due, begun), {}, (begun,), {}
        )

    def _answered(self, result: object, due: float, begun: float) -> None:
        # A connection of its own answers a batch of one, whose item may be an error.
        if type(result) is list and isinstance(result[0], RaftError):
            self._note(result[0], begun)
        elif self._measuring:
            self.latencies.append(self._clock() - due)
        self._end_one()

    def _failed(self, failure: Failure, begun: float) -> None:
        self._note(failure.value, begun)
        self._end_one()

    def _note(self, error: BaseException | None, begun: float) -> None:
        if not self._measuring:
            return
        if isinstance(error, Overloaded):
            self.refusals.append(self._clock() - begun)
            return
        self._fail(error)
