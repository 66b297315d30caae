"""Writes of sessions through whole shells: order, copies, refusals, cancelling, new leaders."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from raft.codec import PLAIN
from raft.core.server import Options
from raft.errors import (
    ElectionInProgress,
    NotAppended,
    NotLeader,
    OutcomeUnknown,
    Overloaded,
    SessionExpired,
    Timeout,
)
from raft.node import sequences
from raft.node.sequences import Place
from raft.node.writes import Batch
from raft.numbering import SessionCall
from raft.storage.records import Kind, encode_registration, session_id, session_payloads
from tests.node.world import Node, Outcome, Told, cluster, leader_of, others

NONCE = b"12345678"


def opened(node: Node) -> bytes:
    """Open a session at the leader."""
    told = Told()
    batch = Batch([encode_registration(NONCE)], node.clock() + 3, told.answers.append)
    batch.kind = Kind.REGISTER
    node.shell.write(batch)
    node.world.run(1.0, lambda: told.answers)
    ((code, encoded),) = told.answers[0]
    assert not code
    return session_id(msgspec.msgpack.decode(encoded)[0], NONCE)


def box(session: bytes, first: int, count: int = 1, low_mark: int = 1, **more: Any) -> Any:
    """Return a client's box and what it is told."""
    told = Told()
    commands = [PLAIN.encode(["add", first + at]) for at in range(count)]
    payloads = session_payloads(session, first, low_mark, commands)
    place = Place(session, first, first + count, low_mark)
    batch = Batch(payloads, more.get("deadline", 99.0), told.answers.append)
    batch.kind, batch.place = Kind.SESSION_COMMAND, place
    return batch, told


def added(told: Told) -> list[Any]:
    """Return what the commands of the box added."""
    (outcomes,) = told.answers
    assert isinstance(outcomes, list), outcomes
    return [msgspec.msgpack.decode(encoded)[1] for _, encoded in outcomes]


def single(**settings: Any) -> tuple[Node, bytes]:
    _, wire, _ = cluster(1, **settings)
    node = leader_of(wire)
    return node, opened(node)


def call(session: bytes, sequence: int, low_mark: int = 1) -> SessionCall:
    return SessionCall(session, sequence, low_mark)


def test_a_copy_of_what_is_on_its_way_takes_no_place_in_the_log() -> None:
    """S8."""
    node, session = single()
    last = node.shell.server.log.last_index
    first, told = box(session, 1, 3)
    second, told_second = box(session, 4, 2)
    copy, told_copy = box(session, 2, 3)
    for batch in (first, second, copy):
        node.shell.write(batch)
    node.world.run(0.1)
    assert added(told) == [1, 2, 3]
    assert added(told_second) == [4, 5]
    assert added(told_copy) == [2, 3, 4]
    assert node.shell.server.log.last_index == last + 5
    assert copy.end == second.start + 1
    assert not node.shell.sequences.lines
    assert node.shell.sequences.joined_count == 1


def test_a_copy_of_what_is_answered_is_answered_from_memory() -> None:
    """S2: the check is at the apply, and needs nothing of the leader."""
    node, session = single()
    for _ in range(2):
        batch, told = box(session, 1, 2)
        node.shell.write(batch)
        node.world.run(0.1)
        assert added(told) == [1, 2]
    assert node.machine.applied == [["add", 1], ["add", 2]]


def test_a_copy_that_is_not_wholly_covered_is_appended_again() -> None:
    """S8: joining is an economy."""
    node, session = single()
    first, told = box(session, 1, 2)
    more, told_more = box(session, 2, 2)
    node.shell.write(first)
    node.shell.write(more)
    node.world.run(0.1)
    assert (added(told), added(told_more)) == ([1, 2], [2, 3])
    assert node.machine.applied == [["add", 1], ["add", 2], ["add", 3]]


def test_a_copy_of_an_expired_one_is_told_that_it_may_be_sent_again() -> None:
    _, wire, _ = cluster(3)
    leader = leader_of(wire)
    session = opened(leader)
    wire.isolate(leader.id)
    first, told = box(session, 1, deadline=leader.clock() + 0.05)
    copy, told_copy = box(session, 1, deadline=leader.clock() + 5)
    leader.shell.write(first)
    leader.world.run()
    leader.shell.write(copy)
    leader.world.run(0.1)
    assert [type(each) for each in told.answers] == [Timeout]
    assert [type(each) for each in told_copy.answers] == [OutcomeUnknown]


def test_the_time_of_a_copy_is_its_own() -> None:
    _, wire, _ = cluster(3)
    leader = leader_of(wire)
    session = opened(leader)
    wire.isolate(leader.id)
    first, told = box(session, 1, deadline=leader.clock() + 5)
    copy, told_copy = box(session, 1, deadline=leader.clock() + 0.05)
    leader.shell.write(first)
    leader.shell.write(copy)
    leader.world.run(0.1)
    assert not told.answers
    (error,) = told_copy.answers
    assert isinstance(error, Timeout)
    assert error.appended


def test_what_comes_early_waits_for_the_numbers_before_it() -> None:
    """S9, sc-Q5."""
    node, session = single()
    told = [box(session, number) for number in (3, 2, 1)]
    for batch, _ in told:
        node.shell.write(batch)
    node.world.run(0.1)
    assert [added(each) for _, each in told] == [[3], [2], [1]]
    assert node.machine.applied == [["add", 1], ["add", 2], ["add", 3]]


def test_what_comes_early_for_nothing_is_refused_in_time_to_be_sent_again() -> None:
    """S9, sc-Q5."""
    node, session = single()
    batch, told = box(session, 2)
    node.shell.write(batch)
    node.world.run(sequences.EARLY_SECONDS / 2)
    assert not told.answers
    node.world.run(sequences.EARLY_SECONDS)
    (error,) = told.answers
    assert isinstance(error, NotAppended)
    assert "number 2" in str(error)
    assert not node.shell.sequences.lines


def test_what_comes_early_goes_on_when_those_before_it_are_applied() -> None:
    """S9: nobody waits for them any more, and they are on their way all the same."""
    _, wire, _ = cluster(3)
    leader = leader_of(wire)
    session = opened(leader)
    wire.isolate(leader.id)
    first, told = box(session, 1, deadline=leader.clock() + 0.02)
    early, told_early = box(session, 2)
    leader.shell.write(first)
    leader.world.run(0.05)
    assert [type(each) for each in told.answers] == [Timeout]
    leader.shell.write(early)
    leader.world.run(0.02)
    assert leader.shell.sequences.early_bytes
    wire.heal()
    leader.world.run(0.3, lambda: told_early.answers)
    assert added(told_early) == [2]


def test_what_waits_early_is_bounded() -> None:
    node, session = single()
    told = [box(session, 2 + number) for number in range(sequences.EARLY_BATCHES + 1)]
    for batch, _ in told:
        node.shell.write(batch)
    assert [len(each.answers) for _, each in told] == [0] * sequences.EARLY_BATCHES + [1]
    node.stop()
    assert all(len(each.answers) == 1 for _, each in told)


def test_what_waits_early_is_bounded_over_all_sessions_too() -> None:
    node, _ = single()
    most = sequences.EARLY_BYTES // sequences.EARLY_COST_BYTES
    told = []
    for number in range(most + 1):
        # No such sessions are open, and perhaps never will be.
        batch, each = box(session_id(1_000_000 + number, NONCE), 2)
        told.append(each)
        node.shell.write(batch)
    assert [bool(each.answers) for each in told].count(False) <= most
    assert node.shell.sequences.early_bytes <= sequences.EARLY_BYTES
    node.world.run(2 * sequences.EARLY_SECONDS)
    assert all(type(each.answers[0]) is NotAppended for each in told)
    assert not node.shell.sequences.early_bytes


def test_no_more_boxes_of_a_session_are_on_their_way_than_can_be_looked_through() -> None:
    node, session = single()
    told = []
    for number in range(1, sequences.PENDING_BATCHES + 2):
        batch, each = box(session, number)
        told.append(each)
        node.shell.write(batch)
    assert [type(each) for each in told[-1].answers] == [Overloaded]
    node.world.run(2.0, lambda: told[-2].answers)
    assert all(isinstance(each.answers[0], list) for each in told[:-1])


def test_what_is_behind_an_expired_batch_of_its_session_is_not_appended() -> None:
    """S9."""
    node, session = single()
    other = opened(node)
    late, told = box(session, 1, deadline=node.clock())
    behind, told_behind = box(session, 2)
    free, told_free = box(other, 1)
    for batch in (late, behind, free):
        node.shell.write(batch)
    node.world.run(0.1)
    assert [type(each) for each in told.answers] == [Timeout]
    assert [type(each) for each in told_behind.answers] == [NotAppended]
    assert added(told_free) == [1]
    assert node.machine.applied == [["add", 1]]


def test_a_small_batch_does_not_go_past_a_large_one_that_found_no_room() -> None:
    """S9, L10: what is refused of a turn is its end."""
    _, wire, _ = cluster(3, options=Options(max_uncommitted_bytes=100_000))
    leader = leader_of(wire)
    session = opened(leader)
    told = []
    for number, size_bytes in ((1, 90_000), (2, 60_000), (3, 10)):
        batch, each = box(session, number)
        batch.payloads[0] += bytes(size_bytes)
        told.append(each)
        leader.shell.write(batch)
    leader.world.run(0.5)
    assert isinstance(told[0].answers[0], list)
    assert [type(each.answers[0]) for each in told[1:]] == [Overloaded, Overloaded]


def test_who_does_not_lead_says_so_at_once() -> None:
    _, wire, _ = cluster(3)
    leader = leader_of(wire)
    session = opened(leader)
    follower = others(wire, leader)[0]
    for number in (1, 7):
        batch, told = box(session, number)
        follower.shell.write(batch)
        assert [type(each) for each in told.answers] == [NotLeader]
    assert isinstance(follower.write(["add", 1], session=call(session, 1)).value, NotLeader)
    assert not follower.shell.sequences.lines


def test_a_new_leader_answers_a_command_of_the_old_one_from_memory() -> None:
    """S7: the same number, sent to any server, has the same result."""
    _, wire, _ = cluster(3)
    leader = leader_of(wire)
    session = opened(leader)
    first, told = box(session, 1, 2)
    leader.shell.write(first)
    leader.world.run(0.1)
    wire.isolate(leader.id)
    again = leader_of(wire, [node.id for node in others(wire, leader)])
    copy, told_copy = box(session, 1, 3)
    again.shell.write(copy)
    again.world.run(0.5)
    assert told_copy.answers[0][:2] == told.answers[0]
    assert again.machine.applied == [["add", 1], ["add", 2], ["add", 3]]


def test_an_old_leader_forgets_what_was_on_its_way() -> None:
    """S9: what it appended may be gone, so nothing has its turn behind that."""
    _, wire, _ = cluster(3)
    leader = leader_of(wire)
    session = opened(leader)
    wire.isolate(leader.id)
    lost, told = box(session, 1)
    early, told_early = box(session, 3)
    leader.shell.write(lost)
    leader.shell.write(early)
    leader.world.run(1.5, lambda: not leader.leads)
    assert [type(each) for each in told_early.answers] == [ElectionInProgress]
    assert not leader.shell.sequences.lines
    new = leader_of(wire, [node.id for node in others(wire, leader)])
    wire.heal()
    leader.world.run(1.0)
    assert [type(each).__name__ for each in told.answers] == ["Superseded"]
    batch, told_new = box(session, 1)
    new.shell.write(batch)
    new.world.run(0.1)
    assert added(told_new) == [1]


def test_a_session_that_has_ended_is_told_so_whatever_the_number() -> None:
    """S2."""
    node, _ = single()
    ended = session_id(1, NONCE)
    batch, told = box(ended, 40, 2, 30)
    node.shell.write(batch)
    node.world.run(0.1)
    assert [code for code, _ in told.answers[0]] == [SessionExpired.code] * 2


# Calls of this process.


def test_consecutive_numbers_are_one_batch_and_calls_keep_their_order() -> None:
    node, session = single()
    saves = node.shell.saving.save_count
    told = [node.write(["add", n], session=call(session, n)) for n in (1, 2, 3)]
    plain = node.write(["add", 9])
    told += [node.write(["add", n], session=call(session, n)) for n in (4, 5)]
    assert len(node.shell.sequences.lines[session].pending) == 2
    node.world.run()
    assert [each.value[1] for each in told] == [1, 2, 3, 4, 5]
    assert plain.value[1] == 9
    assert [command[1] for command in node.machine.applied] == [1, 2, 3, 9, 4, 5]
    assert node.shell.saving.save_count == saves + 1


def test_cancelling_before_the_append_is_definite_and_those_behind_keep_their_turn() -> None:
    """S9: a cancelled number counts as answered."""
    node, session = single()
    told = [node.write(["add", n], session=call(session, n)) for n in (1, 2, 3)]
    told[1].deferred.cancel()
    told.append(node.write(["add", 4], session=call(session, 4)))
    alone = node.write(["add", 5], session=call(session, 5))
    alone.deferred.cancel()
    node.world.run(0.1)
    assert isinstance(told[1].value, NotAppended)
    assert isinstance(alone.value, NotAppended)
    assert [told[at].value[1] for at in (0, 2, 3)] == [1, 3, 4]
    assert node.write(["add", 6], session=call(session, 6, 6)).deferred is not None
    node.world.run(0.1)
    assert [command[1] for command in node.machine.applied] == [1, 3, 4, 6]


def test_a_copy_is_not_joined_to_a_batch_that_lacks_a_number() -> None:
    """S8: its outcomes would stand in other places."""
    node, session = single()
    told = [node.write(["add", n], session=call(session, n)) for n in (1, 2, 3)]
    told[1].deferred.cancel()
    copy, told_copy = box(session, 1, 3)
    node.shell.write(copy)
    node.world.run(0.1)
    assert added(told_copy) == [1, 2, 3]
    assert [told[at].value[1] for at in (0, 2)] == [1, 3]


def test_a_turn_whose_only_command_was_cancelled_takes_the_next_number_once() -> None:
    node, session = single()
    node.write(["add", 1], session=call(session, 1)).deferred.cancel()
    told = node.write(["add", 2], session=call(session, 2, 2))
    node.world.run(0.1)
    assert told.value[1] == 2
    assert [command[1] for command in node.machine.applied] == [2]


def test_cancelling_after_the_append_leaves_the_outcome_unknown_and_the_number_used() -> None:
    node, session = single()
    told = node.write(["add", 1], session=call(session, 1))
    node.shell.answers.put(Batch([], 0.0, lambda _: told.deferred.cancel()), [])
    node.world.run(0.1)
    assert isinstance(told.value, OutcomeUnknown)
    again = node.write(["add", 1], session=call(session, 1))
    node.world.run(0.1)
    assert again.value[1] == 1
    assert node.machine.applied == [["add", 1]]


def test_cancelling_a_copy_or_what_has_copies_is_never_called_definite() -> None:
    node, session = single()
    first = node.write(["add", 1], session=call(session, 1))
    copy = Outcome(node.writes.write(["add", 1], 5.0, session=call(session, 1)))
    third = Outcome(node.writes.write(["add", 1], 6.0, session=call(session, 1)))
    first.deferred.cancel()
    copy.deferred.cancel()
    node.world.run(0.1)
    assert isinstance(first.value, OutcomeUnknown)
    assert isinstance(copy.value, OutcomeUnknown)
    assert third.value[1] == 1
    assert node.machine.applied == [["add", 1]]


def test_cancelling_what_waits_for_others_is_definite() -> None:
    node, session = single()
    early = node.write(["add", 2], session=call(session, 2))
    early.deferred.cancel()
    assert isinstance(early.value, NotAppended)
    assert not node.shell.sequences.lines
    queued = node.shell.writes.queued_bytes
    assert queued == 0
    first = node.write(["add", 1], session=call(session, 1))
    node.world.run(0.1)
    assert first.value[1] == 1
    assert len(node.machine.applied) == 1


@pytest.mark.parametrize("indexed", [False, True])
def test_a_copy_is_told_an_index_that_a_read_can_wait_for(indexed: bool) -> None:
    """R10."""
    node, session = single()
    told = [
        Outcome(node.writes.write(["add", 1], seconds, indexed, call(session, 1)))
        for seconds in (3.0, 4.0)
    ]
    node.world.run(0.1)
    first, second = (each.value for each in told)
    assert first == second
    if indexed:
        assert first.index == node.applied
