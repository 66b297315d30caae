"""How much of one lane may be on its way: the rest waits here, where it costs nobody anything.

What is sent cannot be taken back: it waits in buffers of the kernel and of the node, before
everything that others send. A hundred clients fill these with more than a node works off within
their time-outs; then it works for nothing but those who have given up. So each sends no more than
is answered soon:

    answered within LONG_SECONDS of the shortest time seen  -> a full window grows by as much
    answered later  -> it shrinks to what would have been answered by then
    never answered  -> the same: its time counts
    refused because of overload  -> it shrinks by half

The time of an idle way (a long distance, a slow machine) is no sign of a queue: it is the shortest
time seen, and is allowed for.
"""

from __future__ import annotations

import math
from typing import Final

from attrs import define

FIRST_BYTES: Final = 256 << 10
"""What may be on its way before anything is known."""
LEAST_BYTES: Final = 16 << 10
"""It shrinks no further; a single larger request may always go when nothing else is under way."""
LONG_SECONDS: Final = 0.25
"""How long what is sent may wait behind others."""

Passage = tuple[int, int, float]
"""(its bytes, all bytes that were on their way with it, when it was sent)."""


@define(eq=False)
class Window:
    """What is on its way, and how much may be.

    Attributes:
        limit_bytes: nothing is sent while so much is on its way.
        sent_bytes: what is on its way.
    """

    limit_bytes: float = FIRST_BYTES
    sent_bytes: int = 0
    _shortest_seconds: float = math.inf

    @property
    def is_full(self) -> bool:
        """Whether what comes now has to wait."""
        return self.sent_bytes >= self.limit_bytes

    def sent(self, size_bytes: int, now: float) -> Passage:
        """Count a box of so many bytes that leaves at `now` (monotonic seconds)."""
        self.sent_bytes += size_bytes
        return size_bytes, self.sent_bytes, now

    def left(self, passage: Passage) -> None:
        """Count it as gone; how long it took tells nothing."""
        self.sent_bytes -= passage[0]

    def refused(self, passage: Passage) -> None:
        """Count it as gone, and as too much."""
        size_bytes, sent_bytes, _ = passage
        self.sent_bytes -= size_bytes
        self.limit_bytes = max(LEAST_BYTES, min(self.limit_bytes, sent_bytes / 2))

    def ended(self, passage: Passage, now: float) -> None:
        """Count it as gone, and learn from how long that took."""
        size_bytes, sent_bytes, begun = passage
        self.sent_bytes -= size_bytes
        seconds = now - begun
        if seconds < self._shortest_seconds:
            self._shortest_seconds = seconds
        allowed_seconds = self._shortest_seconds + LONG_SECONDS
        if seconds > allowed_seconds:
            fitting = sent_bytes * allowed_seconds / seconds
            self.limit_bytes = max(LEAST_BYTES, min(self.limit_bytes, fitting))
        elif 2 * sent_bytes >= self.limit_bytes:
            self.limit_bytes += size_bytes
