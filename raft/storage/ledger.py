"""What the log holds, as frames are laid down one after the other.

A `Ledger` is changed by the same few verbs whether the frames are being written or being
read back after a restart; that they cannot differ is why recovery can be trusted. It keeps
one `Span` for each stretch of about 64 KiB of frames and nothing for each entry, so that
its memory is bounded by the log's bytes, however small the entries are.
"""

from __future__ import annotations

from bisect import bisect_right

from attrs import define, field

from raft.core.outputs import HardState
from raft.errors import InvariantViolated
from raft.storage.marks import Mark
from raft.storage.segments import Segment

SPAN_BYTES = 65536


@define(eq=False)
class Span:
    """Consecutive entries from `first` on, in the frames at [offset, stop) of one segment.

    Invariant: the entries of its frames are consecutive. Where the span ends is told by the
    next one, or by the end of the log: what its frames hold beyond was truncated.
    """

    first: int
    segment: Segment
    offset: int
    stop: int


@define(eq=False)
class Ledger:
    """The log's state on disk: entries [first, next_index), hard state, newest mark."""

    hard_state: HardState = HardState()
    mark: Mark | None = None
    first: int = 1
    prev_term: int = 0
    """The term of the entry before `first`; 0 for none."""
    next_index: int = 1
    segments: list[Segment] = field(factory=list)
    """Those in use, oldest first; the last is being written."""
    spans: list[Span] = field(factory=list)
    _firsts: list[int] = field(factory=list)
    _grows: bool = False
    """Whether the last span may take the next frame."""

    @property
    def bound(self) -> int:
        """Entries below this index may go: neither the log nor a snapshot needs them."""
        return self.mark.bound if self.mark else 1

    def open_segment(self, segment: Segment) -> None:
        """Go on in `segment`."""
        segment.start = self.next_index
        self.segments.append(segment)
        self._grows = False

    def begin_at(self, next_index: int, prev_term: int) -> None:
        """Let the log begin here: what was before is in segments that are gone."""
        self.first = self.next_index = next_index
        self.prev_term = prev_term

    def append(self, start: int, end: int, segment: Segment, offset: int, stop: int) -> None:
        """Take entries [start, end), which stand in the frame at [offset, stop)."""
        if start != self.next_index:
            raise InvariantViolated(f"entry {start} appended where {self.next_index} must follow")
        span = self.spans[-1] if self._grows else None
        if span is not None and stop - span.offset <= SPAN_BYTES:
            span.stop = stop
        else:
            self.spans.append(Span(start, segment, offset, stop))
            self._firsts.append(start)
            self._grows = True
        self.next_index = end

    def truncate(self, start: int, prev_term: int) -> None:
        """Forget the entries from `start` on; `prev_term` is the term of the one before."""
        if start > self.next_index:
            raise InvariantViolated(
                f"truncation from {start}, but the log ends at {self.next_index}"
            )
        while self._firsts and self._firsts[-1] >= start:
            self._firsts.pop()
            self.spans.pop()
        self._grows = False
        self.next_index = start
        for segment in self.segments:
            segment.start = min(segment.start, start)
        if start <= self.first:
            self.begin_at(start, prev_term)

    def set_mark(self, mark: Mark, keep_log: bool) -> None:
        """Take the mark of a snapshot; without `keep_log` the log is empty after it."""
        if keep_log and mark.index >= self.next_index:
            raise InvariantViolated(
                f"snapshot mark {mark.index} keeps a log that ends at {self.next_index}"
            )
        self.mark = mark
        if keep_log:
            return
        self._firsts.clear()
        self.spans.clear()
        self._grows = False
        self.begin_at(mark.index + 1, mark.term)
        for segment in self.segments:
            segment.start = mark.index + 1

    @property
    def removable(self) -> bool:
        """Whether the oldest segment holds nothing that is still needed."""
        return len(self.segments) > 1 and self.segments[1].start <= self.bound

    def drop_segment(self, prev_term: int) -> Segment:
        """Forget the oldest segment; `prev_term` is the term of the last entry in it."""
        dropped = self.segments.pop(0)
        count = 0
        while count < len(self.spans) and self.spans[count].segment is dropped:
            count += 1
        del self.spans[:count], self._firsts[:count]
        if self.segments[0].start > self.first:
            self.first = self.segments[0].start
            self.prev_term = prev_term
        return dropped

    def locate(self, index: int) -> tuple[Span, int] | None:
        """Return the span that holds entry `index` and where the span ends, or None."""
        if not self.first <= index < self.next_index:
            return None
        found = bisect_right(self._firsts, index) - 1
        if found < 0:
            raise InvariantViolated(f"entry {index} has no place on disk")
        following = found + 1
        end = self._firsts[following] if following < len(self._firsts) else self.next_index
        return self.spans[found], end
