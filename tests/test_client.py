"""RaftClient on a Clock, over connections whose answers the test gives; without sessions.

What is the same within sessions is tested here only; `test_client_sessions` has the rest.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock

from raft import errors
from raft.client import RaftClient
from raft.client.batches import BOX_BYTES, FULL_BYTES, REQUEST_BYTES
from raft.client.route import HOPS, Backoff, Route
from raft.codec import Codec
from raft.core.configuration import Member
from raft.transport import commands
from raft.transport.arguments import pack_plain, unpack_members
from raft.transport.endpoints import parse_dial
from tests.client_bench import Asked, Bench, Node, Outcome, leading

# -- Boxes ---------------------------------------------------------------------------------


def test_writes_of_one_turn_leave_in_one_box_in_their_order() -> None:
    bench = leading()
    for number in range(100):
        bench.client.write(["set", "k", number])
    assert bench["n1"].boxes() == []
    bench.turn()
    assert bench["n1"].boxes() == [[["set", "k", number] for number in range(100)]]


def test_reads_leave_in_a_box_of_their_own() -> None:
    bench = leading()
    bench.client.write("w")
    bench.client.read("r")
    bench.client.read("s")
    bench.turn()
    assert bench["n1"].boxes() == [["w"]]
    assert bench["n1"].boxes("read") == [["r", "s"]]
    # Both left in one turn of the connection too.
    assert bench["n1"].connections[0].flushed == 2


def test_a_box_is_bounded_and_a_larger_command_has_its_own() -> None:
    bench = Bench()
    third = b"x" * (BOX_BYTES // 3)
    for _ in range(4):
        bench.client.write(third)
    bench.client.write(b"y" * (2 * BOX_BYTES))
    bench.client.write("small")
    # So far there is nobody to whom a full box could be sent.
    bench["n1"].leads()
    bench.turn()
    # Nor does more leave at once than is answered soon.
    for asked in bench["n1"].asked:
        asked.answer(*[None] * len(asked.items))
        bench.turn()
    sizes = [[len(item) for item in items] for items in bench["n1"].boxes()]
    assert sizes == [[len(third)] * 2, [len(third)] * 2, [2 * BOX_BYTES], [5]]


FILLING = "x" * (FULL_BYTES // 4)
"""Four of them are a full box."""


def test_a_full_box_leaves_before_the_turn_ends_and_the_rest_at_its_end() -> None:
    bench = leading()
    for _ in range(9):
        bench.client.write(FILLING)
    assert [len(items) for items in bench["n1"].boxes()] == [4, 4]
    assert bench["n1"].connections[0].flushed == 3
    bench.turn()
    assert [len(items) for items in bench["n1"].boxes()] == [4, 4, 1]


def test_reads_fill_boxes_too() -> None:
    bench = leading()
    for _ in range(5):
        bench.client.read(FILLING)
    assert [len(items) for items in bench["n1"].boxes("read")] == [4]


def test_who_is_answered_may_fill_a_box() -> None:
    """Callbacks of one answer issue what leaves before the last of them is called."""
    bench, sent = leading(), []
    for _ in range(8):
        written = bench.client.write("small")
        written.addCallback(lambda _: bench.client.write(FILLING) and None)
        written.addCallback(lambda _: sent.append(len(bench["n1"].asked)))
    bench.turn()
    before = len(bench["n1"].asked)
    bench["n1"].asked[0].answer(*[None] * 8)
    assert [each - before for each in sent] == [0, 0, 0, 1, 1, 1, 1, 2]


def test_a_full_box_does_not_go_past_what_came_back() -> None:
    """S9, of writes without a session: what is refused keeps its place, or is refused for good."""
    bench = leading()
    for each in ("a", "b"):
        written = bench.client.write(each)
        written.addCallback(lambda _: [bench.client.write(FILLING) for _ in range(4)] and None)
    bench.turn()
    bench["n1"].asked[0].answer(None, errors.Overloaded())
    assert bench["n1"].boxes() == [["a", "b"]]
    bench.turn(1.0)
    assert bench["n1"].boxes()[:2] == [["a", "b"], ["b"]]


def test_a_full_box_waits_for_a_leader() -> None:
    bench = Bench()
    for _ in range(5):
        bench.client.write(FILLING)
    bench.turn()
    assert not bench["n1"].boxes()
    bench["n1"].leads()
    bench.turn(1.0)
    assert [len(items) for items in bench["n1"].boxes()] == [5]


def test_a_full_box_whose_time_is_over_is_for_the_end_of_the_turn() -> None:
    """Nobody's request ends within another one's call."""
    bench = leading()
    early = Outcome(bench.client.write("early", timeout=0.01))
    # The turn is a long one.
    bench.clock.rightNow += 0.02
    for _ in range(4):
        bench.client.write(FILLING)
    assert not early.is_there
    bench.turn()
    assert isinstance(early.error, errors.Timeout)
    assert [len(items) for items in bench["n1"].boxes()] == [4]


def test_many_boxes_are_outstanding_at_a_time() -> None:
    bench = leading()
    writes = []
    for number in range(20):
        writes.append(Outcome(bench.client.write(number)))
        bench.turn()
    assert bench["n1"].boxes() == [[number] for number in range(20)]
    for number, asked in reversed(list(enumerate(bench["n1"].asked))):
        asked.answer(number * 2)
    assert [each.value for each in writes] == [number * 2 for number in range(20)]


def test_each_request_gets_its_own_result_or_error() -> None:
    bench = leading()
    writes = [Outcome(bench.client.write(each)) for each in "abc"]
    bench.turn()
    bench["n1"].asked[0].answer("A", errors.CommandError("no"), "C")
    assert [each.value for each in writes] == ["A", None, "C"]
    assert writes[1].error.reason == "no"


def test_a_wrong_number_of_results_leaves_the_outcome_unknown() -> None:
    bench = leading()
    write = Outcome(bench.client.write("a"))
    bench.turn()
    bench["n1"].asked[0].answer("A", "B")
    assert isinstance(write.error, errors.OutcomeUnknown)


def test_what_a_callback_writes_leaves_in_the_next_turn() -> None:
    bench = leading()
    bench.client.write("a").addCallback(lambda _: bench.client.write("b") and None)
    bench.turn()
    bench["n1"].asked[0].answer(None)
    assert bench["n1"].boxes() == [["a"]]
    bench.turn()
    assert bench["n1"].boxes() == [["a"], ["b"]]


def test_delayed_calls_do_not_grow_with_writes() -> None:
    bench = leading()
    for _ in range(50):
        for number in range(50):
            bench.client.write(number)
        bench.turn()
    assert len(bench.clock.getDelayedCalls()) == 1


def test_the_node_is_given_a_little_less_time_than_the_caller() -> None:
    bench = leading()
    bench.client.write("a", timeout=2.0)
    bench.turn()
    assert bench["n1"].asked[0].timeout_ms == 1900


# -- Bounds and bad input --------------------------------------------------------------------


def test_outstanding_bytes_are_bounded_and_freed_by_answers() -> None:
    bench = leading(limit_bytes=10 * REQUEST_BYTES + 10)
    writes = [Outcome(bench.client.write(number)) for number in range(11)]
    assert isinstance(writes[10].error, errors.Overloaded)
    bench.turn()
    assert bench["n1"].boxes() == [list(range(10))]
    bench["n1"].asked[0].answer(*range(10))
    assert [each.value for each in writes[:10]] == list(range(10))
    again = [Outcome(bench.client.write(number)) for number in range(11)]
    assert sum(each.is_there for each in again) == 1


def test_a_value_that_cannot_be_encoded_is_refused_at_once() -> None:
    """sc-O4, sc-R14."""
    bench = leading(codec=Codec(limit_bytes=100))
    assert isinstance(Outcome(bench.client.write(object())).error, errors.BadCommand)
    too_large = Outcome(bench.client.write(b"x" * 200)).error
    assert isinstance(too_large, errors.CommandTooLarge)
    assert too_large.limit_bytes == 100
    bench.turn()
    assert bench["n1"].boxes() == []


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), "3"])
def test_a_timeout_that_is_none_is_refused(timeout: Any) -> None:
    bench = leading()
    for call in (bench.client.write, bench.client.read):
        assert isinstance(Outcome(call("a", timeout)).error, errors.BadCommand)
    assert isinstance(Outcome(bench.client.leader(timeout)).error, errors.BadCommand)


@pytest.mark.parametrize(
    ("endpoints", "settings", "word"),
    [
        ([], {}, "at least one"),
        ("nonsense", {}, "nonsense"),
        ("tcp:192.0.2.1:7001", {}, "allow_plaintext"),
        ("127.0.0.1:7001", {"timeout_seconds": 0}, "timeout_seconds"),
        ("127.0.0.1:7001", {"connect_timeout_seconds": -1}, "connect_timeout_seconds"),
    ],
)
def test_bad_settings_are_named(endpoints: Any, settings: Any, word: str) -> None:
    with pytest.raises(errors.BadConfiguration, match=word):
        RaftClient(endpoints, reactor=Clock(), **settings)


# -- Cancelling -------------------------------------------------------------------------------


def test_a_call_cancelled_before_it_is_sent_is_never_sent() -> None:
    bench = leading()
    writes = [Outcome(bench.client.write(each)) for each in "abc"]
    writes[1].call.cancel()
    bench.turn()
    assert bench["n1"].boxes() == [["a", "c"]]
    bench["n1"].asked[0].answer("A", "C")
    assert [each.value for each in writes] == ["A", None, "C"]


def test_a_turn_of_which_all_is_cancelled_sends_nothing() -> None:
    bench = leading(limit_bytes=1000)
    for _ in range(100):
        write = Outcome(bench.client.write("a"))
        write.call.cancel()
        # Its room is free again: none is refused as too much.
        assert isinstance(write.error, errors.NotAppended)
    bench.turn()
    assert bench["n1"].boxes() == []


def test_a_call_cancelled_after_it_is_sent_drops_its_answer() -> None:
    bench = leading()
    writes = [Outcome(bench.client.write(each)) for each in "ab"]
    bench.turn()
    writes[0].call.cancel()
    assert isinstance(writes[0].error, errors.OutcomeUnknown)
    bench["n1"].asked[0].answer("A", "B")
    assert [each.value for each in writes] == [None, "B"]


def test_a_read_that_is_cancelled_says_so() -> None:
    bench = leading()
    read = Outcome(bench.client.read("a"))
    read.call.cancel()
    assert isinstance(read.error, CancelledError)


def test_what_was_cancelled_is_not_sent_again() -> None:
    bench = leading()
    writes = [Outcome(bench.client.write(each)) for each in "ab"]
    bench.turn()
    writes[0].call.cancel()
    bench["n1"].asked[0].refuse(errors.Overloaded())
    bench.turn(1.0)
    assert bench["n1"].boxes() == [["a", "b"], ["b"]]


# -- Deadlines --------------------------------------------------------------------------------


def test_a_write_that_was_sent_times_out_with_an_unknown_outcome() -> None:
    bench = leading()
    write, read = Outcome(bench.client.write("a")), Outcome(bench.client.read("a"))
    bench.turn(2.9)
    assert not write.is_there
    bench.turn(0.2)
    assert isinstance(write.error, errors.Timeout)
    assert write.error.appended
    assert not read.error.appended
    # The connection forgets the questions as well.
    assert all(asked.answered.called for asked in bench["n1"].asked)


def test_a_write_that_was_never_sent_times_out_definitely_with_the_reason() -> None:
    bench = Bench()
    bench["n1"].is_up = False
    write = Outcome(bench.client.write("a"))
    bench.turn(3.1)
    assert isinstance(write.error, errors.Timeout)
    assert not write.error.appended
    assert "cannot be reached" in str(write.error)
    assert isinstance(write.error.__cause__, errors.NotAppended)


def test_an_answer_in_the_turn_of_the_timeout_is_one_outcome() -> None:
    """sc-Q7."""
    bench = leading()
    write = Outcome(bench.client.write("a"))
    bench.turn()
    bench.clock.callLater(3.0, lambda: bench["n1"].asked[0].answer("A"))
    bench.clock.advance(3.5)
    assert write.is_there


def test_each_call_may_have_its_own_timeout() -> None:
    bench = leading()
    calls = [Outcome(bench.client.write(each, timeout=each)) for each in (2.0, 0.5, 1.0)]
    bench.turn(0.75)
    assert [each.is_there for each in calls] == [False, True, False]
    bench.turn(0.5)
    assert [each.is_there for each in calls] == [False, True, True]
    bench["n1"].asked[0].answer("in time")
    assert calls[0].value == "in time"


def test_an_expired_write_behind_no_leader_is_not_sent_later() -> None:
    bench = Bench()
    write = Outcome(bench.client.write("old", timeout=0.5))
    bench.turn(1.0)
    assert write.is_there
    bench["n1"].leads()
    bench.client.write("new")
    bench.turn(2.0)
    assert bench["n1"].boxes() == [["new"]]


def test_what_expired_is_not_sent_where_the_timer_is_late() -> None:
    bench = Bench()
    write = Outcome(bench.client.write("a", timeout=0.5))
    bench.turn()
    # A reactor whose clock was set back fires its timers late; here it never does.
    bench.client._deadlines.stop()
    bench.turn(0.7)
    bench["n1"].leads()
    bench.turn(3.0)
    assert write.error.appended is False
    assert bench["n1"].boxes() == []


def test_a_silent_connection_is_given_up_when_a_call_expires() -> None:
    bench = leading()
    expired = Outcome(bench.client.write("a"))
    bench.turn(3.1)
    assert expired.error.appended
    assert bench["n1"].connections == []
    bench["n1"].asked.clear()
    bench.client.write("b")
    bench.turn()
    assert bench["n1"].boxes() == [["b"]]
    assert bench.dialled == ["n1", "n1"]


def test_a_connection_is_not_given_up_for_one_short_timeout() -> None:
    bench = leading()
    short, long = (
        Outcome(bench.client.write("a", timeout=0.1)),
        Outcome(bench.client.write("b", timeout=5.0)),
    )
    bench.turn(2.0)
    assert short.is_there
    assert not long.is_there
    assert len(bench["n1"].connections) == 1


def test_a_connection_that_answers_others_is_kept_when_a_call_expires() -> None:
    bench = leading()
    slow = Outcome(bench.client.write("slow"))
    bench.turn(2.8)
    bench.client.read("quick")
    bench.turn()
    bench["n1"].asked[1].answer(None)
    bench.turn(0.3)
    assert slow.error.appended
    # The connection forgets the question, and goes on.
    assert bench["n1"].asked[0].answered.called
    assert bench.dialled == ["n1"]


# -- Finding and following the leader -----------------------------------------------------------


def test_the_leader_is_found_through_any_node_also_where_it_is_not_listed() -> None:
    bench = Bench(("n1",))
    bench["n3"].leads()
    bench["n1"].says = bench["n3"].says
    write = Outcome(bench.client.write("a"))
    bench.turn()
    bench["n3"].asked[0].answer("A")
    assert write.value == "A"
    assert bench["n1"].boxes() == []
    # The connection to who does not lead is closed again.
    assert bench["n1"].connections == []


def test_the_next_endpoint_is_asked_at_once_where_one_is_down() -> None:
    bench = Bench(("n1", "n2"))
    bench["n1"].is_up = False
    bench["n2"].leads()
    bench.client.write("a")
    bench.turn()
    assert bench["n2"].boxes() == [["a"]]


def test_a_node_that_does_not_answer_is_passed_over() -> None:
    bench = Bench(("n1", "n2"))
    bench["n1"].is_mute = True
    bench["n2"].leads()
    bench.client.write("a")
    bench.turn()
    assert bench["n2"].boxes() == [["a"]]


def test_a_connection_without_an_answer_to_a_question_is_not_used_again() -> None:
    bench = Bench(("n1",))
    bench["n1"].is_mute = True
    bench.client.write("a")
    bench.turn()
    bench["n1"].is_mute = False
    bench["n1"].leads()
    bench.turn(1.0)
    assert bench["n1"].boxes() == [["a"]]
    assert len(bench["n1"].connections) == 1
    assert bench.dialled == ["n1"] * len(bench["n1"].log)


def test_writes_follow_a_redirect_in_their_order() -> None:
    bench = leading()
    writes = []
    for each in ("a", "b", "c"):
        writes.append(Outcome(bench.client.write(each)))
        bench.turn()
    bench["n2"].leads()
    moved = errors.NotLeader("n2", bench["n2"].address)
    for asked in bench["n1"].asked:
        asked.refuse(moved)
    writes.append(Outcome(bench.client.write("d")))
    bench.turn()
    assert [item for items in bench["n2"].boxes() for item in items] == ["a", "b", "c", "d"]
    for asked in bench["n2"].asked:
        asked.answer(*[item.upper() for item in asked.items])
    assert [each.value for each in writes] == ["A", "B", "C", "D"]


def test_a_connection_that_was_left_is_closed_after_its_last_answer() -> None:
    bench = leading()
    write, read = Outcome(bench.client.write("w")), Outcome(bench.client.read("r"))
    bench.turn()
    bench["n2"].leads()
    bench["n1"].asked[0].refuse(errors.NotLeader("n2", bench["n2"].address))
    bench.turn()
    bench["n2"].asked[0].answer("W")
    assert write.is_there
    assert len(bench["n1"].connections) == 1
    bench["n1"].asked[1].answer("R")
    assert read.value == "R"
    assert bench["n1"].connections == []
    assert len(bench["n2"].connections) == 1


def test_nothing_is_sent_again_while_a_later_write_is_open() -> None:
    bench = leading()
    for each in ("a", "b"):
        bench.client.write(each)
        bench.turn()
    bench["n2"].leads()
    moved = errors.NotLeader("n2", bench["n2"].address)
    bench["n1"].asked[0].refuse(moved)
    bench.turn(0.5)
    assert bench["n2"].boxes() == []
    bench["n1"].asked[1].refuse(moved)
    bench.turn()
    assert bench["n2"].boxes() == [["a"], ["b"]]


def test_what_came_back_is_sent_once_the_last_later_write_has_expired() -> None:
    bench = leading(known=("n1", "n2"))
    first = Outcome(bench.client.write("a", timeout=5.0))
    bench.turn()
    second = Outcome(bench.client.write("b", timeout=1.0))
    bench.turn()
    bench["n2"].leads()
    bench["n1"].asked[0].refuse(errors.NotLeader("n2", bench["n2"].address))
    bench.turn(0.9)
    assert not first.is_there
    bench.turn(0.2)
    # The later one may be in the log, so there is no place left for the first.
    assert second.error.appended
    assert isinstance(first.error, errors.NotLeader)
    assert bench["n2"].boxes() == []


def test_what_is_refused_while_it_is_sent_holds_back_what_follows() -> None:
    bench = leading()
    writes = [Outcome(bench.client.write(each, timeout=each)) for each in (1.0, 2.0)]
    bench["n1"].at_once.append(errors.Overloaded("the connection's queue is full"))
    bench.turn(0.5)
    assert bench["n1"].boxes() == [[1.0], [2.0]]
    for asked, write in zip(bench["n1"].asked, writes, strict=True):
        asked.answer("done")
        assert write.value == "done"


def test_a_write_that_lost_its_place_gets_its_own_error() -> None:
    bench = leading()
    writes = []
    for each in ("a", "b"):
        writes.append(Outcome(bench.client.write(each)))
        bench.turn()
    bench["n1"].asked[0].refuse(errors.Overloaded("full"))
    # The pause has passed long before the later write is answered.
    bench.turn(1.5)
    assert not writes[0].is_there
    bench["n1"].asked[1].answer("B")
    bench.turn()
    assert isinstance(writes[0].error, errors.Overloaded)
    assert writes[1].value == "B"
    assert bench["n1"].boxes() == [["a"], ["b"]]


def test_the_tail_of_a_batch_is_sent_again_and_what_stands_before_a_result_is_not() -> None:
    bench = leading()
    writes = [Outcome(bench.client.write(each)) for each in "abcd"]
    bench.turn()
    gone = errors.Superseded()
    bench["n1"].asked[0].answer(gone, "B", gone, gone)
    assert isinstance(writes[0].error, errors.Superseded)
    assert writes[1].value == "B"
    bench.turn(1.0)
    assert bench["n1"].boxes()[1:] == [["c", "d"]]


def test_a_write_that_the_node_dropped_does_not_cost_an_earlier_one_its_place() -> None:
    bench = leading()
    for each in ("a", "b"):
        Outcome(bench.client.write(each))
        bench.turn()
    bench["n1"].asked[0].refuse(errors.Overloaded())
    behind = Outcome(bench.client.write("c"))
    bench["n1"].asked[1].refuse(errors.Timeout(False))
    bench.turn(1.0)
    assert not behind.is_there
    assert bench["n1"].boxes() == [["a"], ["b"], ["a"], ["c"]]


@pytest.mark.parametrize("error", [errors.OutcomeUnknown(), errors.Timeout(True)])
def test_a_later_write_that_may_be_applied_costs_an_earlier_one_its_place(
    error: errors.RaftError,
) -> None:
    bench = leading()
    writes = []
    for each in ("a", "b"):
        writes.append(Outcome(bench.client.write(each)))
        bench.turn()
    bench["n1"].asked[0].refuse(errors.Overloaded())
    bench["n1"].asked[1].refuse(error)
    bench.turn(1.0)
    assert isinstance(writes[0].error, errors.Overloaded)
    assert bench["n1"].boxes() == [["a"], ["b"]]


def test_pauses_begin_small_again_after_an_answer() -> None:
    bench = leading()
    for _ in range(30):
        write = Outcome(bench.client.write("a"))
        bench.turn()
        bench["n1"].asked[-1].refuse(errors.Overloaded())
        bench.turn(0.06)
        bench["n1"].asked[-1].answer("A")
        assert write.value == "A"


@pytest.mark.parametrize(
    "error",
    [
        errors.OutcomeUnknown(),
        errors.Timeout(True),
        errors.Timeout(False),
        errors.CommandError("no"),
        errors.StorageFailed(),
        errors.Unauthorized(),
    ],
)
def test_a_write_is_never_repeated_after(error: errors.RaftError) -> None:
    bench = leading()
    write = Outcome(bench.client.write("a"))
    bench.turn()
    bench["n1"].asked[0].refuse(error)
    bench.turn(4.0)
    assert write.error is error
    assert bench["n1"].boxes() == [["a"]]


@pytest.mark.parametrize(
    "error",
    [
        errors.NotLeader(),
        errors.ElectionInProgress(),
        errors.Overloaded(),
        errors.StorageFull(),
        errors.NotAppended(),
        errors.Superseded(),
        errors.NodeStopped(),
    ],
)
def test_a_write_is_repeated_after(error: errors.RaftError) -> None:
    bench = leading()
    write = Outcome(bench.client.write("a"))
    bench.turn()
    bench["n1"].asked[0].refuse(error)
    bench.turn(2.0)
    bench["n1"].asked[1].answer("A")
    assert write.value == "A"


@pytest.mark.parametrize(
    "error", [errors.OutcomeUnknown(), errors.NotLeader(), errors.StorageFailed()]
)
def test_a_read_is_repeated_after(error: errors.RaftError) -> None:
    bench = leading()
    read = Outcome(bench.client.read("a"))
    bench.turn()
    bench["n1"].asked[0].refuse(error)
    bench.turn(2.0)
    bench["n1"].asked[1].answer("A")
    assert read.value == "A"


def test_single_reads_of_a_batch_are_repeated() -> None:
    bench = leading()
    reads = [Outcome(bench.client.read(each)) for each in "abc"]
    bench.turn()
    bench["n1"].asked[0].answer(errors.NotLeader(), "B", errors.CommandError("no"))
    bench.turn(1.0)
    assert bench["n1"].boxes("read") == [["a", "b", "c"], ["a"]]
    bench["n1"].asked[1].answer("A")
    assert [each.value for each in reads] == ["A", "B", None]


def test_a_full_leader_is_asked_again_after_a_pause_and_nobody_else_is() -> None:
    bench = leading(known=("n1", "n2"))
    bench.client.write("a")
    bench.turn()
    bench["n1"].asked[0].refuse(errors.Overloaded())
    bench.client.write("b")
    bench.turn(1.0)
    assert bench["n1"].boxes() == [["a"], ["a"], ["b"]]
    assert bench.dialled == ["n1"]


def test_a_connection_that_breaks_after_sending_leaves_writes_unknown_and_repeats_reads() -> None:
    """sc-R10."""
    bench = leading()
    write, read = Outcome(bench.client.write("w")), Outcome(bench.client.read("r"))
    bench.turn()
    bench["n1"].connections[0].break_off()
    bench.turn(1.0)
    assert isinstance(write.error, errors.OutcomeUnknown)
    assert not read.is_there
    assert bench["n1"].boxes() == [["w"]]
    assert bench["n1"].boxes("read") == [["r"], ["r"]]


def test_an_idle_client_forgets_a_lost_connection_and_dials_when_it_is_used() -> None:
    bench = leading()
    bench["n1"].connections[0].break_off()
    bench.turn(1.0)
    assert bench.client._links.kept is None
    assert bench.dialled == ["n1"]
    bench.client.write("a")
    bench.turn()
    assert bench["n1"].boxes() == [["a"]]
    assert bench.dialled == ["n1", "n1"]


def test_a_connection_that_breaks_before_sending_repeats_writes() -> None:
    bench = leading()
    write = Outcome(bench.client.write("w"))
    bench.turn()
    bench["n1"].connections[0].break_off(sent=False)
    bench.turn(1.0)
    bench["n1"].asked[1].answer("W")
    assert write.value == "W"


def test_another_leader_is_found_when_the_leader_is_gone() -> None:
    bench = leading(known=("n1", "n2", "n3"))
    bench["n2"].says = bench["n3"].says = bench["n1"].says
    bench["n1"].stop()
    write = Outcome(bench.client.write("a"))
    bench.turn(0.4)
    bench["n3"].leads()
    bench["n2"].says = bench["n3"].says
    bench.turn(1.5)
    bench["n3"].asked[0].answer("A")
    assert write.value == "A"


def test_nodes_that_point_at_each_other_cost_few_questions() -> None:
    """sc-Q8."""
    bench = Bench(("n1", "n2"))
    bench["n1"].says = ("n2", bench["n2"].address)
    bench["n2"].says = ("n1", bench["n1"].address)
    write = Outcome(bench.client.write("a"))
    bench.turn(3.1)
    assert isinstance(write.error, errors.Timeout)
    # Two questions a round; the rounds' pauses grow to a second.
    assert 4 < len(bench["n1"].log) + len(bench["n2"].log) < 60


def test_a_leader_that_refuses_as_if_it_did_not_lead_is_not_asked_in_a_loop() -> None:
    bench = leading()
    write = Outcome(bench.client.write("a"))
    for _ in range(310):
        bench.turn(0.01)
        for asked in bench["n1"].asked:
            asked.refuse(errors.NotLeader("n1", bench["n1"].address))
    assert isinstance(write.error, errors.Timeout)
    assert not write.error.appended
    assert len(bench["n1"].asked) < 30


@pytest.mark.parametrize("hint", ["nonsense", "tcp:192.0.2.1:7001"])
def test_a_hint_that_is_no_address_or_is_not_allowed_is_passed_over(hint: str) -> None:
    bench = Bench(("n1", "n2"))
    bench["n1"].says = ("n9", hint)
    bench["n2"].leads()
    bench.client.write("a")
    bench.turn()
    assert bench["n2"].boxes() == [["a"]]
    assert bench.dialled == ["n1", "n2"]


def test_a_chain_of_hints_has_an_end() -> None:
    """sc-Q8."""
    route = Route(["127.0.0.1:1"], lambda address: parse_dial(address).text)
    visited = 0
    while route.next():
        visited += 1
        route.hint(f"127.0.0.1:{1 + visited}")
    assert visited == 1 + HOPS
    route.new_round()
    assert route.next() == "127.0.0.1:1"


def test_pauses_have_full_jitter_and_a_cap() -> None:
    """sc-Q8, sc-O8."""
    backoff = Backoff(random.Random(3), 0.05, 1.0)
    pauses = [backoff.next() for _ in range(200)]
    assert pauses[0] < 0.05
    assert max(pauses) < 1.0
    assert min(pauses[10:]) < 0.1
    assert max(pauses[10:]) > 0.9
    backoff.reset()
    assert backoff.next() < 0.05


# -- Questions about the cluster ----------------------------------------------------------------


def test_leader_waits_until_a_node_knows_it() -> None:
    bench = Bench(("n1",))
    leader = Outcome(bench.client.leader())
    bench.turn(0.5)
    bench["n1"].says = ("n2", bench["n2"].address)
    bench.turn(2.0)
    assert leader.value == ("n2", bench["n2"].address)
    assert bench["n1"].connections == []


def statuses(bench: Bench) -> None:
    members = [
        {"id": node.name, "client_address": node.address, "voter": True}
        for node in bench.nodes.values()
    ] + [{"id": "n9", "client_address": ""}]
    for node in bench.nodes.values():
        status = {"id": node.name, "members": members}
        node.answers[commands.Status] = lambda status=status: {"status": pack_plain(status)}


def test_status_asks_anyone_or_a_member_by_id_or_by_address() -> None:
    bench = Bench(("n1",))
    statuses(bench)
    assert Outcome(bench.client.status()).value["id"] == "n1"
    assert Outcome(bench.client.status("n2")).value["id"] == "n2"
    assert Outcome(bench.client.status(bench["n3"].address)).value["id"] == "n3"
    missing = Outcome(bench.client.status("n4")).error
    assert isinstance(missing, errors.NotFound)
    assert "n1, n2, n3" in str(missing)
    assert isinstance(Outcome(bench.client.status("n9")).error, errors.NotFound)
    bench["n2"].is_up = False
    assert isinstance(Outcome(bench.client.status("n2")).error, errors.NotAppended)


def test_get_entry_is_asked_of_the_next_node_where_one_fails() -> None:
    bench = Bench(("n1", "n2"))

    def ill(index: int) -> Any:
        raise errors.StorageFailed()

    def missing(index: int) -> Any:
        raise errors.NotFound(f"{index}")

    bench["n1"].answers[commands.GetEntry] = ill
    bench["n2"].answers[commands.GetEntry] = lambda index: {"entry": pack_plain({"index": index})}
    assert Outcome(bench.client.get_entry(7)).value == {"index": 7}
    bench["n2"].answers[commands.GetEntry] = missing
    assert isinstance(Outcome(bench.client.get_entry(7)).error, errors.NotFound)


def test_set_configuration_follows_the_leader_and_takes_members_or_mappings() -> None:
    bench = Bench(("n1",))
    seen: list[Any] = []

    def elsewhere(**arguments: Any) -> Any:
        raise errors.NotLeader("n2", bench["n2"].address)

    bench["n1"].answers[commands.SetConfiguration] = elsewhere
    bench["n2"].answers[commands.SetConfiguration] = lambda members, timeout_ms: seen.append(
        unpack_members(members)
    )
    members = [Member("a", peer_address="tcp:127.0.0.1:1"), {"id": "b", "voter": False}]
    assert Outcome(bench.client.set_configuration(members)).is_there
    assert seen == [(Member("a", "", "tcp:127.0.0.1:1"), Member("b", voter=False))]


@pytest.mark.parametrize(
    ("members", "word"), [([{"name": "a"}], "name"), ([{}], "id"), ([{"id": 3}], "id")]
)
def test_members_that_are_none_are_refused_before_anything_is_sent(members: Any, word: str) -> None:
    bench = Bench()
    error = Outcome(bench.client.set_configuration(members)).error
    assert isinstance(error, errors.BadConfiguration)
    assert word in str(error)
    assert bench.dialled == []


@pytest.mark.parametrize(
    "error",
    [errors.OutcomeUnknown(), errors.Timeout(True), errors.ConfigurationInProgress()],
)
def test_an_order_is_not_repeated_after(error: errors.RaftError) -> None:
    bench = Bench(("n1", "n2"))
    asked: list[str] = []

    def refuse(**arguments: Any) -> Any:
        asked.append("order")
        raise error

    for node in bench.nodes.values():
        node.answers[commands.SetConfiguration] = refuse
        node.answers[commands.TransferLeadership] = refuse
    assert Outcome(bench.client.set_configuration([{"id": "a"}])).error is error
    assert Outcome(bench.client.transfer_leadership("n2")).error is error
    assert len(asked) == 2


def test_transfer_leadership_tells_who_leads() -> None:
    bench = Bench(("n1",))
    bench["n1"].answers[commands.TransferLeadership] = lambda target, timeout_ms: {"leader": target}
    assert Outcome(bench.client.transfer_leadership("n2")).value == "n2"


# -- Closing --------------------------------------------------------------------------------------


def test_close_gives_every_call_its_outcome_and_leaves_nothing_behind() -> None:
    bench = leading()
    sent = [Outcome(bench.client.write("a")), Outcome(bench.client.read("b"))]
    bench.turn()
    waiting = [Outcome(bench.client.write("c")), Outcome(bench.client.read("d"))]
    bench["n1"].stop()
    asking = Outcome(bench.client.leader())
    assert Outcome(bench.client.close()).is_there
    assert isinstance(sent[0].error, errors.OutcomeUnknown)
    for each in (sent[1], *waiting, asking):
        assert isinstance(each.error, errors.NotAppended)
    assert bench.clock.getDelayedCalls() == []
    assert isinstance(Outcome(bench.client.write("e")).error, errors.NotAppended)
    assert isinstance(Outcome(bench.client.status()).error, errors.NotAppended)
    assert Outcome(bench.client.close()).is_there


def test_a_client_closed_in_a_callback_answers_the_rest_of_the_batch() -> None:
    bench = leading()
    bench.client.write("a").addCallback(lambda _: bench.client.close() and None)
    second, later = Outcome(bench.client.write("b")), Outcome(bench.client.write("c", timeout=1.0))
    bench.turn()
    bench["n1"].asked[0].answer("A", "B")
    assert second.value == "B"
    assert isinstance(later.error, errors.OutcomeUnknown)
    assert bench.clock.getDelayedCalls() == []


# -- Any schedule ----------------------------------------------------------------------------------


ACTS = st.lists(
    st.sampled_from(
        ["write", "write", "write", "turn", "turn", "accept", "accept", "refuse", "part", "move"]
        + ["break", "lose", "cut", "wait", "cancel", "overload"]
    ),
    max_size=80,
)


class Cluster(Bench):
    """A bench whose nodes append to one log what they accept, in the order of arrival."""

    def __init__(self) -> None:
        super().__init__(("n1", "n2", "n3"))
        self.applied: list[int] = []
        self.outcomes: list[Outcome] = []
        self.leader = "n1"
        self.lead("n1")

    def lead(self, name: str) -> None:
        self.leader = name
        for node in self.nodes.values():
            node.says = (name, self[name].address)

    def open(self) -> list[tuple[Node, Asked]]:
        found = [(node, each) for node in self.nodes.values() for each in node.asked]
        return [(node, each) for node, each in found if not each.answered.called]

    def accept(self, asked: Asked, upto: int | None = None) -> None:
        self.applied.extend(asked.items[:upto])

    def act(self, act: str, chance: random.Random) -> None:
        if act == "write":
            self.outcomes.append(Outcome(self.client.write(len(self.outcomes))))
        elif act == "cancel" and self.outcomes:
            chance.choice(self.outcomes).call.cancel()
        elif act == "turn":
            self.turn()
        elif act == "wait":
            self.turn(0.5)
        elif act == "move":
            self.lead(chance.choice(["n1", "n2", "n3"]))
        elif self.open():
            # A node takes boxes in their order; its answers are given in the same order here.
            node, asked = self.open()[0]
            self.answer(act, node, asked)

    def answer(self, act: str, node: Node, asked: Asked) -> None:
        moved = errors.NotLeader(self.leader, self[self.leader].address)
        if act == "refuse" or (act == "accept" and node.name != self.leader):
            asked.refuse(moved)
        elif act == "accept":
            self.accept(asked)
            asked.answer(*asked.items)
        elif act == "part":
            half = len(asked.items) // 2
            self.accept(asked, half)
            asked.answer(*asked.items[:half], *[moved] * (len(asked.items) - half))
        elif act == "overload":
            asked.refuse(errors.Overloaded())
        elif act == "lose":
            self.accept(asked)
            asked.refuse(errors.OutcomeUnknown())
        elif act in ("break", "cut"):
            for connection in list(node.connections):
                connection.break_off(sent=act == "break")


def is_definite(error: Exception) -> bool:
    if isinstance(error, errors.Timeout):
        return not error.appended
    return isinstance(error, errors.NotApplied)


@settings(max_examples=300, deadline=None)
@given(acts=ACTS, seed=st.integers(0, 1000))
def test_any_schedule_gives_each_write_one_true_outcome_in_order(
    acts: list[str], seed: int
) -> None:
    """No command is applied twice or out of order, and no answer lies about it."""
    cluster, chance = Cluster(), random.Random(seed)
    for act in acts:
        cluster.act(act, chance)
    cluster.turn(4.0)
    assert all(each.is_there for each in cluster.outcomes)
    assert cluster.applied == sorted(set(cluster.applied))
    for number, outcome in enumerate(cluster.outcomes):
        if outcome.error is None:
            assert outcome.value == number
            assert number in cluster.applied
        elif is_definite(outcome.error):
            assert number not in cluster.applied
    Outcome(cluster.client.close())
    assert cluster.clock.getDelayedCalls() == []
