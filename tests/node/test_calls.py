"""Calls from within the process: batches of a turn, order, cancelling, results of any kind."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from raft.codec import PLAIN, Codec
from raft.errors import (
    BadCommand,
    CommandError,
    NotAppended,
    OutcomeUnknown,
    Overloaded,
    RaftError,
    Timeout,
)
from raft.node.writes import TURN_BYTES, Batch
from tests.node.world import Journal, Node, Outcome, Told, cluster


class Add(msgspec.Struct, tag=True, array_like=True):
    amount: int


def single(**settings: Any) -> Node:
    _world, _wire, nodes = cluster(1, **settings)
    return nodes["a"]


def test_writes_of_one_turn_are_one_save_in_the_order_of_the_calls() -> None:
    node = single()
    saves = node.shell.saving.save_count
    told = [node.write(["add", number]) for number in range(50)]
    node.world.run()
    assert node.shell.saving.save_count == saves + 1
    first = told[0].value[0]
    assert [each.value for each in told] == [[first + n, n] for n in range(50)]
    assert node.machine.applied == [["add", n] for n in range(50)]


def test_each_caller_is_told_its_own_outcome() -> None:
    node = single()
    told = [node.write(each) for each in (["add", 1], ["refuse"], ["add", 2])]
    node.world.run()
    assert told[0].value[1:] == [1]
    assert isinstance(told[1].value, CommandError)
    assert told[1].value.reason == "no"
    assert told[2].value[1:] == [2]


def test_a_write_with_another_time_out_keeps_its_place() -> None:
    node = single()
    for number, timeout in enumerate((3.0, 5.0, 3.0, 1.0)):
        node.write(["add", number], timeout)
    node.world.run()
    assert node.machine.applied == [["add", n] for n in range(4)]


def test_what_cannot_be_encoded_is_refused_and_takes_no_place() -> None:
    node = single()
    told = [node.write(["add", 1]), node.write(object()), node.write(["add", 2])]
    node.world.run()
    assert isinstance(told[1].value, BadCommand)
    assert node.machine.applied == [["add", 1], ["add", 2]]


def test_cancelling_before_the_end_of_the_turn_appends_nothing() -> None:
    """sc-Q6."""
    node = single()
    told = [node.write(["add", number]) for number in range(3)]
    told[1].deferred.cancel()
    assert isinstance(told[1].value, NotAppended)
    node.world.run()
    assert node.machine.applied == [["add", 0], ["add", 2]]
    assert [each.value[1] for each in (told[0], told[2])] == [0, 2]


def test_cancelling_after_the_append_leaves_the_outcome_unknown() -> None:
    """sc-Q6."""
    node = single()
    node.storage.automatic = False
    told = [node.write(["add", number]) for number in range(2)]
    node.world.run()
    told[0].deferred.cancel()
    assert isinstance(told[0].value, OutcomeUnknown)
    node.storage.complete()
    node.world.run()
    assert told[1].value[1] == 1
    assert node.machine.applied == [["add", 0], ["add", 1]]


def test_cancelling_from_another_writes_callback_ends_it_once() -> None:
    node = single()
    first, second = node.write(["add", 0]), node.write(["add", 1])
    first.deferred.addCallback(lambda _: second.deferred.cancel())
    node.world.run()
    assert isinstance(second.value, OutcomeUnknown)


def test_a_write_beyond_what_may_queue_is_refused_and_the_next_turn_takes_more() -> None:
    """sc-Q9, sc-O1, sc-O8."""
    node = single(queued_bytes=1000)
    # A client's box has filled the queue in this turn.
    client = Told()
    node.shell.write(client.batch(PLAIN.encode(b"x" * 2000)))
    told = [node.write(["add", 1]), node.write(["add", 2])]
    node.world.run()
    assert all(isinstance(each.value, Overloaded) for each in told)
    assert len(client.answers) == 1
    again = node.write(["add", 3])
    node.world.run()
    assert again.value[1] == 3


def test_the_first_command_of_a_batch_counts_as_queued_too() -> None:
    node = single(queued_bytes=1000)
    told = [node.write(["add", b"x" * 900]) for _ in range(3)]
    node.world.run()
    assert [isinstance(each.value, Overloaded) for each in told] == [False, True, True]


def test_a_write_from_the_callback_of_an_expired_one_is_carried_out() -> None:
    node = single()
    first = node.write(["add", 1], timeout=0.0)
    again: list[Outcome] = []
    first.deferred.addCallback(lambda _: again.append(node.write(["add", 2], timeout=0.0)))
    node.world.run(0.1)
    assert isinstance(first.value, Timeout)
    assert not first.value.appended
    assert isinstance(again[0].value, Timeout)
    assert node.machine.applied == []


def test_a_write_from_the_callback_of_an_answered_one_is_the_next_turns() -> None:
    """sc-SM8."""
    node = single()
    again: list[Outcome] = []
    first = node.write(["add", 1])
    first.deferred.addCallback(lambda _: again.append(node.write(["add", 2])))
    node.world.run(0.1)
    assert again[0].value[1] == 2


def test_an_error_reaches_a_caller_whose_commands_have_a_type_of_their_own() -> None:
    class Adder(Journal):
        def apply(self, command: Any, context: Any) -> Any:
            if command.amount < 0:
                raise CommandError("negative", "only up")
            return command.amount

        def query(self, query: Any) -> Any:
            raise CommandError("mute")

    node = single(codec=Codec(command_type=Add), machine=Adder())
    told = [node.write(Add(1)), node.write(Add(-1)), node.write(Add(2))]
    asked = node.read(Add(0))
    node.world.run(0.5)
    assert [told[0].value, told[2].value] == [1, 2]
    assert (told[1].value.reason, told[1].value.detail) == ("negative", "only up")
    assert asked.value.reason == "mute"
    assert not node.failures


def test_a_result_of_the_wrong_type_fails_its_own_caller_and_nobody_else() -> None:
    class Liar(Journal):
        def apply(self, command: Any, context: Any) -> Any:
            return "none" if command == 1 else 7

        def query(self, query: Any) -> Any:
            return "none"

    node = single(codec=Codec(result_type=int), machine=Liar())
    told = [node.write(each) for each in (0, 1, 2)]
    asked = node.read(0)
    node.world.run(0.5)
    assert [told[0].value, told[2].value] == [7, 7]
    assert isinstance(told[1].value, BadCommand)
    assert isinstance(asked.value, BadCommand)
    assert not node.failures


def test_reads_are_answered_from_what_was_written_before() -> None:
    node = single()
    node.write(["add", 1])
    node.world.run()
    asked, refused, bad = node.read(0), node.read(["refuse"]), node.read(object())
    node.world.run(0.1)
    assert asked.value == 1
    assert isinstance(refused.value, CommandError)
    assert isinstance(bad.value, BadCommand)


def test_a_cancelled_read_is_forgotten() -> None:
    """sc-Q6."""
    node = single()
    asked = node.read(0)
    asked.deferred.cancel()
    assert isinstance(asked.value, NotAppended)
    node.world.run(0.1)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_a_batch_of_any_size_is_answered_once(count: int) -> None:
    node = single()
    client = Told()
    node.shell.write(client.batch(*[PLAIN.encode(["add", n]) for n in range(count)], deadline=99.0))
    node.world.run(0.1)
    (outcomes,) = client.answers
    assert not isinstance(outcomes, RaftError)
    assert len(outcomes) == count


def test_a_turn_comes_between_answers_when_much_is_written_anew() -> None:
    """Followers have the first of what is written anew before the last answer is given."""
    node = single()
    size_bytes, count = 8 << 10, 3 * TURN_BYTES // (8 << 10)
    last = node.shell.server.log.last_index
    appended: list[int] = []

    def again(_: object) -> None:
        appended.append(node.shell.server.log.last_index - last - count)
        told.append(node.write(["add", b"y" * size_bytes]))

    told: list[Any] = []
    for _ in range(count):
        node.write(["add", b"x" * size_bytes]).deferred.addCallback(again)
    node.world.run(1.0, lambda: len(told) == count and all(each.fired for each in told))
    assert appended[0] == 0
    assert appended[-1] > 0
    # Nothing is lost, and everything keeps its order.
    assert appended == sorted(appended)
    assert [each.value[1] for each in told] == [b"y" * size_bytes] * count


def test_what_is_not_answered_yet_when_the_node_stops_is_answered_then() -> None:
    node = single()
    count = 3 * TURN_BYTES // (8 << 10)
    written: list[Any] = []

    def again(_: object) -> None:
        written.append(node.write(["add", b"y" * (8 << 10)]))
        if len(written) == count // 2:
            node.shell.stop()

    told = [node.write(["add", b"x" * (8 << 10)]) for _ in range(count)]
    for each in told:
        each.deferred.addCallback(again)
    node.world.run(1.0)
    assert all(each.fired for each in told)
    assert all(each.fired for each in written)


def test_an_answer_that_raises_harms_nobody_else(logged_errors: Any) -> None:
    node = single()

    def answer(_: object) -> None:
        raise ZeroDivisionError

    node.shell.write(Batch([PLAIN.encode(["add", 1])], 99.0, answer))
    told = node.write(["add", 2])
    node.world.run()
    assert told.value[1] == 2
    assert not node.failures
    assert len(logged_errors.flush(ZeroDivisionError)) == 1


def test_all_that_is_written_in_one_turn_fits_into_messages() -> None:
    """N5: no message grows beyond what the transport carries, whatever one turn brings."""
    world, wire, nodes = cluster(3)
    leader = next(node for node in nodes.values() if node.leads)
    # Many small ones and some large ones: the mean says nothing of any of them.
    small = [leader.write(["add", n]) for n in range(2000)]
    told = [leader.write(["add", b"x" * (1 << 20)]) for _ in range(20)]
    sizes: list[int] = []
    carry = wire.carry

    def measured(sender: str, receiver: str, message: Any, *beside: Any) -> bool:
        sizes.append(len(beside[0]))
        return carry(sender, receiver, message, *beside)

    wire.carry = measured  # type: ignore[method-assign]
    world.run(1.0, lambda: all(each.fired for each in told))
    assert [each.value[1] for each in small] == list(range(2000))
    assert [each.value[1] for each in told] == [b"x" * (1 << 20)] * 20
    assert max(sizes) <= 4 << 20
