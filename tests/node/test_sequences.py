"""Commands of sessions before the append, against a twin that writes everything down."""

from __future__ import annotations

import struct
from typing import Any

from attrs import Factory, define
from hypothesis import given, settings
from hypothesis import strategies as st

from raft.errors import NotApplied, RaftError, Timeout
from raft.node import sequences
from raft.node.answers import Answers, nobody
from raft.node.sequences import Line, Place, Sequences
from raft.node.writes import Batch, Writes
from raft.storage.records import Kind, session_payloads

SESSION = bytes(range(16))
BAD = frozenset(range(3, 400, 7))
"""Numbers of commands that are refused by themselves, in every copy."""
_numbers_of = struct.Struct("<16xQQ").unpack_from


@define(eq=False)
class Sent:
    """One batch as its client sees it."""

    tag: int
    first: int
    count: int
    deadline: float
    answers: list[Any] = Factory(list)

    @property
    def numbers(self) -> list[int]:
        return [each for each in range(self.first, self.first + self.count) if each not in BAD]


class Leader:
    """Sequences and writes of one session, with a log in place of a core."""

    def __init__(self) -> None:
        self.now = 0.0
        self.answers = Answers()
        self.writes = Writes(self.answers)
        self.sequences = Sequences(self.writes, self.applied_end, lambda: self.now)
        self.log: list[tuple[int, int, int]] = []
        """(number, low mark, tag of its batch), from index 1 on."""
        self.applied = 0
        self.kept: dict[int, int] = {}
        """The tag of the copy that was executed, by number."""
        self.low_mark = 1
        self.sent: list[Sent] = []
        self.term = 1
        self.request = 0

    def applied_end(self, session: bytes) -> int:
        assert session == SESSION
        return max(self.kept, default=0) + 1

    # What happens.

    def write(self, first: int, count: int, seconds: float) -> None:
        sent = Sent(len(self.sent), first, count, self.now + seconds)
        if not sent.numbers:
            place = Place(SESSION, first, first + count, self.low_mark, False)
            self.sequences.write(place, Batch([], sent.deadline, nobody, place=place))
            return
        self.sent.append(sent)
        payloads = session_payloads(
            SESSION, first, self.low_mark, [b"%d" % sent.tag for _ in range(count)]
        )
        payloads = [each for each in payloads if _numbers_of(each)[0] not in BAD]
        whole = len(payloads) == count
        place = Place(SESSION, first, first + count, self.low_mark, whole)
        batch = Batch(payloads, sent.deadline, sent.answers.append, Kind.SESSION_COMMAND, place)
        covered = self.covered() if whole else set()
        self.sequences.write(place, batch)
        # S8: what is wholly on its way is joined; nothing else can be.
        if place.is_copy:
            assert set(sent.numbers) <= covered

    def covered(self) -> set[int]:
        line = self.sequences.lines.get(SESSION)
        pending = line.pending if line is not None else {}
        return {n for place in pending if place.whole for n in range(place.first, place.end)}

    def turn(self, taken: int) -> None:
        """Expire, propose, append; what comes behind the first `taken` batches is refused."""
        self.writes.expire(self.now)
        queued = self.sequences.in_order(self.writes.take_queued())
        for batch in queued[:taken]:
            self.append(batch)
        for batch in queued[taken:]:
            self.answers.put(batch, NotApplied("no room"))
        self.answers.give()
        assert all(sent.answers for sent in self.sent if sent.deadline <= self.now)

    def append(self, batch: Batch) -> None:
        start = len(self.log) + 1
        for payload in batch.payloads:
            number, low_mark = _numbers_of(payload)
            self.check_order(number, low_mark)
            self.log.append((number, low_mark, int(payload[32:])))
        batch.start, batch.end, batch.term = start, len(self.log) + 1, self.term
        batch.payloads = []
        self.writes.appended.append(batch)

    def check_order(self, number: int, low_mark: int) -> None:
        """S9: all numbers below stand in the log already, or nobody waits for them."""
        before = {each for each, _, _ in self.log} | set(self.kept) | BAD
        assert all(each in before for each in range(low_mark, number)), (number, before)

    def apply(self, count: int) -> None:
        first, outcomes = self.applied + 1, []
        for number, low_mark, tag in self.log[self.applied : self.applied + count]:
            if number not in self.kept:
                if number < low_mark:
                    outcomes.append(("STALE", b""))
                    continue
                # S9: so they are executed in order, which is what "applied" can be told from.
                assert number > max(self.kept, default=0)
                self.kept[number] = tag
            outcomes.append(("", b"%d by %d" % (number, self.kept[number])))
        self.applied += len(outcomes)
        if outcomes:
            self.writes.applied(first, outcomes)
        self.sequences.release()
        self.answers.give()
        self.raise_low_mark()

    def raise_low_mark(self) -> None:
        """As a client does: what was answered for good is not waited for."""
        done = set(BAD)
        for sent in self.sent:
            if sent.answers and isinstance(sent.answers[0], list):
                done |= set(sent.numbers)
        while self.low_mark in done:
            self.low_mark += 1

    def lose(self, lost: int) -> None:
        """Another leader takes over, and the last `lost` entries are gone; later it is ours."""
        del self.log[max(self.applied, len(self.log) - lost) :]
        self.sequences.forget(NotApplied("it leads no more"))
        for batch in self.writes.appended:
            self.answers.put(batch, RaftError("unknown"))
        self.writes.appended.clear()
        self.answers.give()
        # The next leader has applied all that is committed before anybody is answered.
        self.term += 1
        self.apply(len(self.log))

    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    def check(self) -> None:
        for sent in self.sent:
            assert len(sent.answers) <= 1
            for answer in sent.answers:
                if isinstance(answer, list):
                    self.check_outcomes(sent, answer)
                elif isinstance(answer, NotApplied) or (
                    isinstance(answer, Timeout) and not answer.appended
                ):
                    # Definite: nothing of this copy is in the log.
                    assert sent.tag not in {tag for _, _, tag in self.log}
        line = self.sequences.lines.get(SESSION)
        if line is not None:
            assert line.pending or line.early
            assert len(line.early) <= sequences.EARLY_BATCHES
            for place in line.early:
                self.check_early(place, line)
        held = sum(
            batch.size_bytes + sequences.EARLY_COST_BYTES
            for batch in (line.early.values() if line else ())
        )
        assert self.sequences.early_bytes == held

    def check_early(self, place: Place, line: Line) -> None:
        """Nobody waits for numbers that are all on their way."""
        found = {n for own in line.pending for n in range(own.first, own.end)}
        found |= set(self.kept)
        assert any(each not in found for each in range(place.low_mark, place.first))

    def check_outcomes(self, sent: Sent, outcomes: list[Any]) -> None:
        assert len(outcomes) == len(sent.numbers)
        for number, (code, content) in zip(sent.numbers, outcomes, strict=True):
            if not code:
                # No answer without an applied entry, and every copy has the same one.
                assert content == b"%d by %d" % (number, self.kept[number])

    def drain(self) -> None:
        """In the end everybody is answered, once, and nothing is kept."""
        for _ in range(4):
            self.turn(99)
            self.apply(999)
            self.pass_time(10.0)
        self.turn(99)
        self.check()
        assert all(len(sent.answers) == 1 for sent in self.sent)
        assert not self.sequences.lines
        assert not self.sequences.early_bytes


WRITES = st.tuples(
    st.just("write"),
    st.sampled_from([0, 0, 0, 0, 0, -1, -1, -2, -3, -6, 1, 2]),
    st.sampled_from([1, 1, 2, 3]),
    st.sampled_from([0.2, 1.0, 5.0]),
)
STEPS = st.one_of(
    WRITES,
    WRITES,
    WRITES,
    st.tuples(st.just("turn"), st.sampled_from([0, 1, 2, 3, 99, 99])),
    st.tuples(st.just("apply"), st.integers(0, 6)),
    st.tuples(st.just("pass"), st.sampled_from([0.1, 0.3, 0.6, 2.0])),
    st.tuples(st.just("lose"), st.integers(0, 5)),
)


@given(st.lists(STEPS, min_size=4, max_size=40))
@settings(max_examples=500, deadline=None)
def test_numbers_reach_the_log_in_order_and_copies_share_one_answer(
    steps: list[tuple[Any, ...]],
) -> None:
    """S8, S9: whatever is refused, expires, comes early or twice, and whoever leads."""
    leader, highest = Leader(), 0
    for name, *arguments in steps:
        if name == "write":
            offset, count, seconds = arguments
            first = max(1, highest + 1 + offset)
            leader.write(first, count, seconds)
            highest = max(highest, first + count - 1)
        elif name == "turn":
            leader.turn(*arguments)
        elif name == "apply":
            leader.apply(*arguments)
        elif name == "pass":
            leader.pass_time(*arguments)
        else:
            leader.turn(99)
            leader.lose(*arguments)
        leader.check()
    leader.drain()
