"""The small parts of a node, each by itself: deadlines, alarm, waiters, writes, reads, scribe."""

from __future__ import annotations

import math
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from raft.core import messages as ms
from raft.core import outputs as out
from raft.core.configuration import Configuration, Member
from raft.errors import NodeStopped, OutcomeUnknown, Superseded, Timeout
from raft.node.alarm import Alarm
from raft.node.answers import Answers
from raft.node.deadlines import Deadlines
from raft.node.reads import ReadBatch, Reads
from raft.node.scribe import Scribe
from raft.node.waiters import Waiters, following
from raft.node.writes import Batch, Writes, groups_of
from raft.storage.records import BadRecord, Kind, decode, encode, encode_commands
from tests.node.world import Outcome, Told


class Lines:
    """A `Writes` whose answers are given when entries are applied, or by hand."""

    def __init__(self) -> None:
        self.answers = Answers()
        self.writes = Writes(self.answers)
        self.number = 0

    def batch(self, count: int, start: int, term: int = 1, deadline: float = 9.0) -> Told:
        """Append a batch of `count` at `start`."""
        told = Told()
        self.writes.queue(told.batch(*[b"x"] * count, deadline=deadline))
        (group,) = groups_of(self.writes.take_queued())
        self.number += 1
        self.writes.proposed[self.number] = group
        self.writes.accepted(self.number, start, start + count, term)
        return told

    def apply(self, first: int, count: int) -> None:
        self.writes.applied(first, [("", b"%d" % n) for n in range(first, first + count)])
        self.answers.give()


def results(*indexes: int) -> list[Any]:
    return [[("", b"%d" % n) for n in indexes]]


def test_batches_get_their_own_results_however_the_slices_fall() -> None:
    lines = Lines()
    first, second, third = lines.batch(3, 5), lines.batch(2, 8), lines.batch(1, 12)
    assert lines.writes.wanted == (5, 13)
    lines.apply(5, 2)
    assert first.answers == []
    lines.apply(7, 2)
    assert first.answers == results(5, 6, 7)
    lines.apply(9, 3)
    assert second.answers == results(8, 9)
    lines.apply(12, 4)
    assert third.answers == results(12)
    assert lines.writes.wanted == (0, 0)


def test_a_truncated_batch_waits_until_its_fate_is_known() -> None:
    """L9."""
    lines = Lines()
    cut, gone, back = lines.batch(3, 5), lines.batch(1, 8), lines.batch(1, 9, term=2)
    lines.writes.truncated(6)
    lines.answers.give()
    assert [type(each) for each in cut.answers] == [OutcomeUnknown]
    lines.writes.settle_replaced(8, 1, lambda index: {}[index])
    lines.answers.give()
    assert gone.answers == back.answers == []
    lines.writes.settle_replaced(9, 1, lambda index: {8: 3}[index])
    lines.answers.give()
    assert [type(each) for each in gone.answers] == [Superseded]
    lines.writes.settle_replaced(10, 2, lambda index: {9: 2}[index])
    lines.answers.give()
    assert [type(each) for each in back.answers] == [OutcomeUnknown]


def test_a_snapshot_swallows_what_it_covers_and_no_more() -> None:
    lines = Lines()
    covered, behind = lines.batch(3, 5), lines.batch(1, 8)
    lines.writes.swallowed(6)
    lines.answers.give()
    assert [type(each) for each in covered.answers] == [OutcomeUnknown]
    assert behind.answers == []
    lines.apply(8, 1)
    assert behind.answers == results(8)


def test_an_expired_batch_keeps_its_place_for_those_behind_it() -> None:
    lines = Lines()
    late, following_one = lines.batch(2, 5, deadline=1.0), lines.batch(1, 7)
    lines.writes.expire(1.0)
    lines.apply(5, 3)
    assert [each.appended for each in late.answers] == [True]
    assert following_one.answers == results(7)


def test_giving_up_brings_deadlines_forward_and_never_back() -> None:
    lines = Lines()
    soon, far = lines.batch(1, 5, deadline=1.0), lines.batch(1, 6, deadline=1e6)
    lines.writes.give_up_by(2.0)
    lines.writes.expire(1.5)
    lines.answers.give()
    assert (len(soon.answers), len(far.answers)) == (1, 0)
    lines.writes.expire(2.0)
    lines.answers.give()
    assert isinstance(far.answers[0], Timeout)


def test_the_end_is_definite_for_what_was_queued_only() -> None:
    lines = Lines()
    appended, queued, proposed = lines.batch(1, 5), Told(), Told()
    lines.writes.queue(proposed.batch(b"x"))
    lines.writes.proposed[99] = groups_of(lines.writes.take_queued())[0]
    lines.writes.queue(queued.batch(b"x"))
    lines.writes.fail_all(NodeStopped(), OutcomeUnknown())
    lines.answers.give()
    lines.apply(5, 1)
    found = [[type(a) for a in told.answers] for told in (queued, proposed, appended)]
    assert found == [[NodeStopped], [OutcomeUnknown], [OutcomeUnknown]]


def test_answered_batches_leave_long_before_their_deadlines() -> None:
    deadlines: Deadlines[Batch] = Deadlines()
    waiting = Told().batch(b"x")
    deadlines.add(1.0, waiting)
    for _ in range(20_000):
        batch = Told().batch(b"x")
        deadlines.add(86_400.0, batch)
        batch.close()
    assert len(deadlines) < 3000
    assert list(deadlines.due(0.5)) == []
    assert list(deadlines.due(1.0)) == [waiting]
    assert deadlines.next == math.inf


def test_reads_of_a_turn_share_one_request_and_wait_for_its_index() -> None:
    """R4, R5, sc-O6."""
    answers = Answers()
    reads = Reads(answers)
    batches = [ReadBatch([b"q"], 5.0, Told().answers.append) for _ in range(3)]
    for batch in batches:
        reads.queue(batch)
    batches[1].finish(NodeStopped())
    assert reads.ask(7)
    assert not reads.ask(8)
    reads.confirm(7, 10)
    reads.confirm(7, 10)
    assert reads.ready(9) == []
    assert reads.ready(10) == [batches[0], batches[2]]
    assert reads.ready(10) == []
    for batch in (batches[0], batches[2]):
        answers.put(batch, [("", b"a")])
    assert reads.waiting_bytes == 0


def test_requests_that_nobody_waits_for_are_given_back() -> None:
    answers = Answers()
    reads = Reads(answers)
    late = Told()
    reads.queue(ReadBatch([b"q"], 1.0, late.answers.append))
    reads.ask(1)
    forgotten = ReadBatch([b"q"], 9.0, Told().answers.append)
    reads.queue(forgotten)
    reads.ask(2)
    forgotten.finish(NodeStopped())
    assert reads.expire(0.5) == (2,)
    assert reads.expire(1.0) == (1,)
    answers.give()
    reads.fail(1, NodeStopped())
    assert [type(each) for each in late.answers] == [Timeout]


class Rung:
    def __init__(self) -> None:
        self.clock, self.late, self.rang = Clock(), 0.0, 0
        self.alarm = Alarm(self.clock, lambda: self.clock.seconds() + self.late, self.ring)

    def ring(self) -> None:
        self.rang += 1


def test_an_alarm_rings_at_the_deadline_that_was_set_last() -> None:
    rung = Rung()
    rung.alarm.set(1.0, 0.0)
    for now in (0.2, 0.4, 0.6):
        rung.clock.advance(0.2)
        rung.alarm.set(now + 1.0, now)
    assert len(rung.clock.getDelayedCalls()) == 1
    rung.clock.advance(0.5)
    assert rung.rang == 0
    rung.clock.advance(0.5)
    assert rung.rang == 1
    rung.alarm.set(9.0, 1.6)
    rung.alarm.set(2.0, 1.6)
    rung.clock.advance(0.5)
    assert rung.rang == 2
    rung.alarm.set(math.inf, 2.1)
    assert rung.clock.getDelayedCalls() == []
    rung.alarm.set(3.0, 2.1)
    rung.alarm.cancel()
    assert rung.clock.getDelayedCalls() == []


def test_a_late_alarm_lets_the_reactor_read_first() -> None:
    rung = Rung()
    order: list[str] = []
    rung.alarm.ring = lambda: order.append("ring")
    rung.alarm.set(1.0, 0.0)
    rung.late = 5.0
    rung.clock.callLater(1.0, order.append, "read")
    rung.clock.advance(1.0)
    assert order == ["read", "ring"]


def test_a_reactor_whose_time_is_set_back_delays_no_deadline() -> None:
    """sc-P5: an embedded node tolerates steps of the wall clock."""
    rung = Rung()
    rung.clock.advance(3600.0)
    rung.alarm.set(3601.0, 3600.0)
    rung.clock.rightNow -= 3000.0
    rung.late = 3000.0
    rung.alarm.set(3601.2, 3600.5)
    rung.clock.advance(1.3)
    assert rung.rang == 1


def test_waiters_are_told_once_whatever_the_others_do() -> None:
    clock, true = Clock(), [False]
    waiters = Waiters(clock)
    first = waiters.wait(lambda: true[0], 5.0, "never")
    second = waiters.wait(lambda: true[0], 5.0, "never")
    third = Outcome(waiters.wait(lambda: None, 5.0, "never"))
    first.addCallback(lambda _: second.cancel())
    cancelled = Outcome(second)
    waiters.wait(lambda: true[0], 5.0, "never").addCallback(
        lambda _: waiters.fail_all(NodeStopped())
    )
    last = Outcome(waiters.wait(lambda: true[0], 5.0, "never"))
    true[0] = True
    waiters.look()
    assert cancelled.fired
    assert isinstance(last.value, NodeStopped)
    assert isinstance(third.value, NodeStopped)
    assert Outcome(waiters.wait(lambda: "now", 1.0, "never")).value == "now"
    assert clock.getDelayedCalls() == []
    late = Outcome(waiters.wait(lambda: None, 1.0, "never"))
    clock.advance(1.0)
    assert isinstance(late.value, Timeout)


def test_what_follows_a_deferred_cannot_change_it() -> None:
    source: Deferred[Any] = Deferred()
    one, two = following(source), following(source)
    one.addCallback(lambda _: "changed")
    found, own = Outcome(two), Outcome(one)
    source.callback("it")
    assert (found.value, own.value) == ("it", "changed")


def test_cluster_time_runs_by_the_leaders_clock_and_stands_still_without_one() -> None:
    """sc-P5, sc-K13."""
    clock = Clock()
    wrote = Scribe(clock.seconds, lambda: b"s" * 16, 5_000_000)

    def time_us() -> int:
        return next(decode(wrote.records_of(out.NoOp(1, 1), []))).time_us

    clock.advance(100.0)
    assert time_us() == 5_000_000
    wrote.lead_from(7_000_000)
    clock.advance(2.5)
    assert time_us() == 9_500_000
    wrote.stop_leading()
    clock.advance(50.0)
    assert time_us() == 9_500_000
    wrote.lead_from(1)
    assert time_us() == 9_500_000


def test_records_are_cut_out_of_what_arrived() -> None:
    wrote = Scribe(lambda: 0.0, lambda: b"s" * 16)
    records = encode_commands(5, 2, 0, [b"a", b"bb", b"ccc"])
    message = ms.AppendEntries(2, 4, 1, ms.Entries(5), 0, 1)
    entries = wrote.arrived(message, records).entries
    assert (entries.start, entries.end) == (5, 8)
    part = wrote.records_of(out.Replicated(6, 7, entries.arrival), [])
    assert [(each.index, each.payload) for each in decode(part)] == [(6, b"bb")]
    assert wrote.records_of(out.Replicated(5, 8, entries.arrival), []) == records
    wrote.forget_arrivals()
    with pytest.raises(KeyError):
        wrote.records_of(out.Replicated(5, 8, entries.arrival), [])


def test_records_that_do_not_fit_their_message_are_refused() -> None:
    wrote = Scribe(lambda: 0.0, lambda: b"s" * 16)
    message = ms.AppendEntries(2, 4, 1, ms.Entries(5), 0, 1)
    for records in (
        encode_commands(6, 2, 0, [b"gap"]),
        encode_commands(5, 3, 0, [b"of a later term"]),
        encode_commands(5, 2, 0, [b"cut"])[:-1],
        encode(5, 2, 0, Kind.HARD_STATE, b""),
    ):
        with pytest.raises(BadRecord):
            wrote.arrived(message, records)


def test_each_kind_of_entry_becomes_its_record() -> None:
    wrote = Scribe(lambda: 0.0, lambda: b"s" * 16)
    entries: tuple[out.Append, ...] = (
        out.NoOp(1, 1),
        out.Proposed(2, 4, 1, 7),
        out.Configured(4, 1, Configuration((Member("a"),))),
    )
    records = b"".join(wrote.records_of(each, [b"x", b"y", b"cut off"]) for each in entries)
    found = list(decode(records))
    assert [(each.index, each.kind) for each in found] == [
        (1, Kind.NO_OP),
        (2, Kind.COMMAND),
        (3, Kind.COMMAND),
        (4, Kind.CONFIGURATION),
    ]
    assert found[0].payload == b"s" * 16
