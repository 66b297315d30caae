"""Admission by expected wait: whoever could not be answered in time is refused at once.

A queue that is bounded in bytes alone may hold more work than a time-out allows. Under lasting
overload everybody then waits for all of it, and in vain. How fast a queue is worked off is learnt
from those who had to wait in it; a new request is refused where what stands before it would take
more than a part of its own time.

    waited long      -> the queue is worked off at (bytes before it and its own) / (its wait)
    waited shortly   -> nothing is known: a queue without a wait may be worked off much faster
    waited through a pause (an election, a stalled disk) -> nothing is learnt from it

So nobody is refused because of a pause, at the beginning, or after an idle time. What is refused
was never queued: it is definitely not applied.
"""

from __future__ import annotations

import math
from typing import Final

from attrs import define

from raft.errors import Overloaded

SHARE: Final = 0.5
"""The share of its time that a request may expect to wait behind others."""
LONG_SECONDS: Final = 0.25
"""A shorter wait is no sign of a queue that is worked off as fast as it can be."""
PAUSE_SECONDS: Final = 0.25
"""Where nothing was answered for longer, what waited meanwhile tells nothing of the rate."""
FREE_BYTES: Final = 64 << 10
"""Behind fewer bytes than these nobody is refused: so few say more of latency than of a rate."""


@define(eq=False)
class Admission:
    """What is known of how fast one queue is worked off.

    Attributes:
        bytes_per_second: the rate; infinite while it is not known.
        refused_count: how many requests, or batches of them, were refused.
    """

    bytes_per_second: float = math.inf
    refused_count: int = 0
    _progressed_at: float = -math.inf
    _resumed_at: float = -math.inf

    @property
    def is_known(self) -> bool:
        """Whether anybody may be refused."""
        return self.bytes_per_second != math.inf

    def forget(self) -> None:
        """What was learnt holds no more: another server leads."""
        self.bytes_per_second = math.inf

    def progressed(self, now: float) -> None:
        """Something that waited is answered at `now` (monotonic seconds)."""
        if now - self._progressed_at > PAUSE_SECONDS:
            self._resumed_at = now
        self._progressed_at = now

    def learn(self, size_bytes: int, begun: float, now: float) -> None:
        """One that came at `begun` is answered, and all `size_bytes` that it stood behind."""
        waited = now - begun
        if begun < self._resumed_at:
            return
        self.bytes_per_second = size_bytes / waited if waited >= LONG_SECONDS else math.inf

    def refusal(self, ahead_bytes: int, seconds: float) -> Overloaded | None:
        """Return why one that has `seconds` left is refused behind `ahead_bytes`, or None."""
        if ahead_bytes <= FREE_BYTES or not self.is_known:
            return None
        if ahead_bytes <= self.bytes_per_second * SHARE * seconds:
            return None
        self.refused_count += 1
        expected = (
            f"{ahead_bytes / self.bytes_per_second:.2g} s" if self.bytes_per_second else "all"
        )
        return Overloaded(
            f"what waits already would take {expected} of the {seconds:.3g} s that are left"
        )
