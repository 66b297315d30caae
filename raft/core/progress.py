"""What a leader knows of one follower, and how fast it may send to it [RULES L5, L7]."""

from __future__ import annotations

import math
from collections import deque
from enum import Enum

from attrs import Factory, define


class Pace(Enum):
    """How the leader sends to a follower.

    PROBE: one message in flight, until the logs are known to match somewhere.
    REPLICATE: a window of messages, sent ahead of their answers.
    SNAPSHOT: no entries; a snapshot is on its way.
    QUARANTINED: nothing; the follower lost what it had acknowledged.
    """

    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"
    QUARANTINED = "quarantined"


@define
class Progress:
    """One follower, as the leader of one term sees it.

    Invariant: next_index > match_index; match_index only grows but for a quarantine.
    """

    next_index: int
    heard_at: float
    match_index: int = 0
    pace: Pace = Pace.PROBE
    paused: bool = False
    """In PROBE: the one message is in flight."""
    acked_sequence: int = 0
    match_sequence: int = 0
    """The leader's sequence when match_index was learnt: later refusals know of it."""
    append_sequence: int = 0
    """The sequence of the last message that carried entries."""
    first_sequence: int = 0
    """Answers to earlier messages are of one that had this id before, and left."""
    promise_seconds: float = 0.0
    answered_since: float = -math.inf
    """It has answered a message that was sent at this time or later: what a lease counts from."""
    snapshot_index: int = 0
    _inflight: deque[tuple[int, int]] = Factory(deque)
    inflight_bytes: int = 0

    @property
    def inflight_count(self) -> int:
        """How many messages with entries are unanswered."""
        return len(self._inflight)

    @property
    def has_answered(self) -> bool:
        """Whether it has answered in this term: `heard_at` begins with the benefit of doubt."""
        return self.acked_sequence > 0

    def heard(self, now: float, sequence: int) -> None:
        """Note an answer of the current term, a refusal included."""
        self.heard_at = now
        self.acked_sequence = max(self.acked_sequence, sequence)

    def sent(self, end: int, size_bytes: int, sequence: int) -> None:
        """Note that entries up to `end` are on their way."""
        self.append_sequence = sequence
        if self.pace is Pace.PROBE:
            self.paused = True
            return
        self.next_index = end
        self._inflight.append((end, size_bytes))
        self.inflight_bytes += size_bytes

    def matched(self, index: int, sequence: int) -> None:
        """Note that the follower has saved everything up to `index`."""
        while self._inflight and self._inflight[0][0] <= index + 1:
            self.inflight_bytes -= self._inflight.popleft()[1]
        if index > self.match_index:
            self.match_index, self.match_sequence = index, sequence
            self.next_index = max(self.next_index, index + 1)

    def probe(self, next_index: int) -> None:
        """Go back to one message at a time, from `next_index` on (or after the match)."""
        self._change(Pace.PROBE)
        self.next_index = max(next_index, self.match_index + 1)

    def replicate(self, received_index: int) -> None:
        """The logs match up to `received_index`, saved or not: send ahead from there."""
        self._change(Pace.REPLICATE)
        self.next_index = max(self.match_index, received_index) + 1

    def send_snapshot(self) -> None:
        """The log no longer holds what the follower needs."""
        self._change(Pace.SNAPSHOT)

    def quarantine(self) -> None:
        """The follower's disk went back: count nothing it said [RULES L5]."""
        self._change(Pace.QUARANTINED)
        self.match_index = 0

    def _change(self, pace: Pace) -> None:
        self.pace, self.paused, self.inflight_bytes = pace, False, 0
        self._inflight.clear()
