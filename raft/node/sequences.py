"""Commands of sessions before the append: in the order of their numbers, copies joined.

What makes a command of a session take effect once is the replica's, at the apply. Here, at
the leader, is what comes before:

- *Order* [RULES S9]: a number is appended only behind all numbers below it. Those are
  appended, or applied, or below the low mark. A batch that comes before its turn waits a moment
  for the others, or is refused; and what is refused takes with it all that is queued behind it
  in its session.
- *Joining* [RULES S8]: a copy of commands that are on their way gets their answer, and takes
  no place in the log. It is an economy and nothing rests on it: a copy that is not wholly
  covered by what is on its way is appended again, and the replica answers it from memory.

Nothing is kept of a session for which nothing is on its way, and nothing at all by who does not
lead: what an old leader appended may be gone.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import takewhile
from typing import TYPE_CHECKING, Final

from attrs import Factory, define

from raft.errors import NotAppended, OutcomeUnknown, Overloaded, RaftError, Timeout
from raft.node.answers import Answered, Outcome
from raft.node.parts import Gathering

if TYPE_CHECKING:
    from raft.node.writes import Batch, Writes

EARLY_SECONDS: Final = 0.5
"""How long a batch waits for the numbers before it; its client still has time to send it again."""
EARLY_BATCHES: Final = 16
"""How many batches of one session may wait so."""
EARLY_BYTES: Final = 16 << 20
"""How many bytes may wait so, over all sessions."""
EARLY_COST_BYTES: Final = 4096
"""What a batch that waits counts for besides its records: it bounds the number of small ones."""
PENDING_BATCHES: Final = 4096
"""How many batches of one session may be on their way; what is done for each looks at others."""
COPIES: Final = 16
"""How many copies may join one batch."""


@define(eq=False)
class Place:
    """Which numbers of which session a batch has.

    Attributes:
        session: its id.
        first: the numbers are [first, end). Some of them may be missing among the commands:
            what was refused by itself, or cancelled, counts as answered.
        low_mark: the lowest number without an answer, by the client's word.
        whole: whether no number is missing, so that copies can be answered from its outcomes.
        line: where the batch is kept, while it is neither answered nor a copy.
        is_early: it waits for the numbers before it.
        is_copy: it has joined others.
        copies: how many have joined it.
    """

    session: bytes
    first: int
    end: int
    low_mark: int
    whole: bool = True
    line: Line | None = None
    is_early: bool = False
    is_copy: bool = False
    copies: int = 0

    def closed(self, batch: Batch) -> None:
        """Forget `batch`, whose place this is: it is answered."""
        line, self.line = self.line, None
        if line is not None:
            line.closed(batch, self)

    def lengthen(self) -> None:
        """One more command follows."""
        self.end += 1
        if self.line is not None:
            self.line.end = max(self.line.end, self.end)


@define(eq=False)
class Line:
    """What is on its way of one session.

    Attributes:
        end: behind the highest number that is on its way; a lower one where some were refused.
        pending: batches that are queued or appended, in the order in which they came.
        early: batches that wait for others.
    """

    session: bytes
    owner: Sequences
    end: int = 0
    pending: dict[Place, Batch] = Factory(dict)
    early: dict[Place, Batch] = Factory(dict)

    def covering(self, place: Place) -> list[tuple[Place, Batch, int, int]]:
        """Return what has the numbers of `place`, all of them, or nothing.

        Each with the range of its commands, from 0, that are meant.
        """
        found: list[tuple[Place, Batch, int, int]] = []
        at = place.first
        for own, batch in self.pending.items():
            if own.whole and own.first <= at < own.end and own.copies < COPIES:
                upto = min(own.end, place.end)
                found.append((own, batch, at - own.first, upto - own.first))
                at = upto
                if at == place.end:
                    return found
        return []

    def closed(self, batch: Batch, place: Place) -> None:
        """Forget `batch`; where it was refused, what comes behind it has lost its turn."""
        if place.is_early:
            self.leave_early(place)
        else:
            if batch.payloads:
                # It was never appended. What is queued behind it finds that out by this end,
                # which only falls: those before it may have lost their turn themselves.
                before = takewhile(lambda own: own is not place, self.pending)
                self.end = min(self.end, max((own.end for own in before), default=0))
            del self.pending[place]
        self.owner.leave(self)

    def leave_early(self, place: Place) -> Batch:
        """Let a batch wait no more."""
        batch = self.early.pop(place)
        self.owner.early_bytes -= _early_bytes(batch)
        place.line, place.is_early = None, False
        return batch


@define(eq=False)
class Sequences:
    """The lines of all sessions of which something is on its way.

    Attributes:
        writes: takes the batches whose turn has come.
        applied_end: for a session's id, the number behind the highest one that is applied.
        clock: monotonic seconds.
        lines: by session.
        early_bytes: of all batches that wait for others.
        joined_count: how many copies were joined, for the status.
    """

    writes: Writes
    applied_end: Callable[[bytes], int]
    clock: Callable[[], float]
    lines: dict[bytes, Line] = Factory(dict)
    early_bytes: int = 0
    joined_count: int = 0

    def write(self, place: Place, batch: Batch) -> None:
        """Queue a batch, let it join others or wait for them, or refuse it."""
        line = self.lines.get(place.session)
        if line is None:
            line = self.lines[place.session] = Line(place.session, self)
        if place.whole and place.first < line.end:
            covering = line.covering(place)
            if covering:
                self._join(batch, place, covering)
                return
        if not self._is_next(place, line):
            self._hold(batch, place, line)
            return
        if len(line.pending) >= PENDING_BATCHES:
            batch.finish(Overloaded("too many boxes of the session have no answer yet"))
            return
        place.line = line
        line.pending[place] = batch
        line.end = max(line.end, place.end)
        self.writes.queue(batch)
        if line.early:
            self._release(line)

    def _is_next(self, place: Place, line: Line) -> bool:
        first = place.first
        return (
            first <= line.end or first <= place.low_mark or first <= self.applied_end(place.session)
        )

    def _join(
        self, batch: Batch, place: Place, covering: list[tuple[Place, Batch, int, int]]
    ) -> None:
        """Let `batch` get the outcomes of those that have its numbers [RULES S8]."""
        answers, count = self.writes.answers, len(batch.payloads)
        gathering = Gathering(lambda result: answers.put(batch, result), {})
        takers = [gathering.part(end - begin) for _, _, begin, end in covering]
        for taker, (own, first, begin, end) in zip(takers, covering, strict=True):
            own.copies += 1
            first.answer = _telling(first, first.answer, batch, count, taker, begin, end)
        place.is_copy = True
        batch.payloads = []
        self.joined_count += 1
        self.writes.deadlines.add(batch.deadline, batch)

    def _hold(self, batch: Batch, place: Place, line: Line) -> None:
        """Let a batch wait for the numbers before it, if there is room [RULES S9]."""
        size_bytes = _early_bytes(batch)
        if len(line.early) >= EARLY_BATCHES or self.early_bytes + size_bytes > EARLY_BYTES:
            self.leave(line)
            batch.finish(too_early(place))
            return
        place.line, place.is_early = line, True
        line.early[place] = batch
        self.early_bytes += size_bytes
        self.writes.deadlines.add(min(batch.deadline, self.clock() + EARLY_SECONDS), batch)

    def _release(self, line: Line) -> None:
        """Queue those early ones whose turn has come."""
        for place in sorted(line.early, key=lambda each: each.first):
            if place.is_early and self._is_next(place, line):
                self.write(place, line.leave_early(place))

    def release(self) -> bool:
        """Queue the early ones whose turn has come because others were applied; tell if any."""
        before = self.early_bytes
        for line in [line for line in self.lines.values() if line.early]:
            self._release(line)
        return self.early_bytes < before

    def in_order(self, batches: list[Batch]) -> list[Batch]:
        """Return those of `batches`, about to be proposed, that are still next in their line."""
        return [
            batch for batch in batches if batch.place is None or self._may_go(batch.place, batch)
        ]

    def _may_go(self, place: Place, batch: Batch) -> bool:
        """Tell whether the batch, which is about to be proposed, still has its turn.

        It has not where one before it was refused since it was queued; it is refused then.
        """
        line = place.line
        if line is None:
            self.writes.answers.put(batch, NotAppended("the leadership has changed"))
            return False
        if not self._is_next(place, line):
            self.writes.answers.put(batch, NotAppended("what comes before it was refused"))
            return False
        line.end = max(line.end, place.end)
        return True

    def leave(self, line: Line) -> None:
        """Keep nothing of a line in which nothing is."""
        if not line.pending and not line.early and self.lines.get(line.session) is line:
            del self.lines[line.session]

    def forget(self, error: RaftError) -> None:
        """Leadership is lost, or the node ends: what waits for others is refused with `error`.

        What is appended is answered as ever, and so are the copies that joined it.
        """
        lines, self.lines = self.lines, {}
        self.early_bytes = 0
        for line in lines.values():
            for place in line.pending:
                place.line = None
            for place, batch in line.early.items():
                place.line = None
                self.writes.answers.put(batch, error)


def _early_bytes(batch: Batch) -> int:
    return batch.size_bytes + EARLY_COST_BYTES


def too_early(place: Place) -> NotAppended:
    """Return what is said to a batch whose turn did not come."""
    return NotAppended(
        f"number {place.first} of the session came early: send the numbers before it first"
    )


def _telling(
    first: Batch,
    answer: Answered,
    copy: Batch,
    count: int,
    taker: Answered,
    begin: int,
    end: int,
) -> Answered:
    """Return what gives `answer` the result, and `taker` that of commands [begin, end)."""

    def tell(result: list[Outcome] | RaftError) -> None:
        if isinstance(result, Timeout):
            # It is the first one's time that is over; the copy's may not be.
            taker(
                OutcomeUnknown("the copy before it was not applied in its time")
                if result.appended
                else NotAppended("the copy before it was dropped at its deadline")
            )
        elif isinstance(result, RaftError):
            taker(result)
        else:
            # The indexes of its commands, or where they are not consecutive higher ones.
            copy.end = max(copy.end, first.start + end)
            copy.start = copy.end - count
            taker(result[begin:end])
        answer(result)

    return tell
