"""RaftClient within sessions, on a Clock: numbers, retries, expiry; answers are the test's."""

from __future__ import annotations

import random
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from raft import errors
from raft.client import RaftClient, SavedSession
from raft.client.batches import FULL_BYTES
from raft.client.meanings import Meaning, meaning
from raft.transport.arguments import pack_plain
from tests.client_bench import Asked, Bench, Node, Outcome

MOVED = errors.NotLeader("n2", "tcp:127.0.0.1:7002")


def session_bench(lead: str = "n1", **settings: Any) -> Bench:
    """A bench of which `lead` leads, and whose client has written nothing yet."""
    bench = Bench(("n1", "n2", "n3"), sessions=True, **settings)
    move(bench, lead)
    return bench


def move(bench: Bench, lead: str) -> None:
    for node in bench.nodes.values():
        node.says = (lead, bench[lead].address)


def nobody_leads(bench: Bench) -> None:
    for node in bench.nodes.values():
        node.says = ("", "")


def sent(node: Node) -> list[tuple[list[Any], int, int]]:
    """The boxes of writes that arrived: commands, first number, low mark."""
    found = []
    for asked in node.asked:
        if asked.kind == "write":
            assert asked.call is not None
            found.append((asked.items, asked.call.sequence, asked.call.low_mark))
    return found


def box(node: Node, at: int = -1) -> Asked:
    return [asked for asked in node.asked if asked.kind == "write"][at]


# -- Numbers -----------------------------------------------------------------------------------


def test_the_first_writes_share_one_session_and_are_numbered_in_their_order() -> None:
    bench = session_bench()
    for each in ("a", "b"):
        bench.client.write(each)
    bench.turn()
    bench.client.write("c")
    bench.turn()
    assert len(bench["n1"].sessions) == 1
    assert sent(bench["n1"]) == [(["a", "b"], 1, 1), (["c"], 3, 1)]
    assert {asked.call.id for asked in bench["n1"].asked if asked.call} == {
        bench["n1"].sessions[0].id
    }


def test_writes_wait_while_the_session_is_being_opened() -> None:
    bench = session_bench()
    bench["n1"].opens_late = True
    for each in ("a", "b", "c"):
        bench.client.write(each)
        bench.turn()
    (opening,) = bench["n1"].asked
    opening.answered.callback(bench["n1"].opened(b"12345678"))
    bench.turn()
    assert sent(bench["n1"]) == [(["a"], 1, 1), (["b"], 2, 1), (["c"], 3, 1)]


@pytest.mark.parametrize(
    "error", [errors.Overloaded(), errors.ElectionInProgress(), errors.OutcomeUnknown()]
)
def test_a_session_is_asked_for_again_after(error: errors.RaftError) -> None:
    bench = session_bench()
    bench["n1"].opens_late = True
    bench.client.write("a")
    bench.turn()
    bench["n1"].opens_late = False
    bench["n1"].asked[0].refuse(error)
    bench.turn(1.0)
    assert sent(bench["n1"]) == [(["a"], 1, 1)]


def test_writes_end_with_the_refusal_of_their_session() -> None:
    bench = session_bench()
    bench["n1"].opens_late = True
    write = Outcome(bench.client.write("a"))
    bench.turn()
    bench["n1"].asked[0].refuse(errors.Unauthorized())
    assert isinstance(write.error, errors.Unauthorized)


def test_the_low_mark_is_the_lowest_number_without_an_answer() -> None:
    bench = session_bench()
    for each in "abc":
        bench.client.write(each)
        bench.turn()
    box(bench["n1"], 1).answer("B")
    bench.client.write("d")
    bench.turn()
    box(bench["n1"], 0).answer("A")
    bench.client.write("e")
    bench.turn()
    assert sent(bench["n1"])[3:] == [(["d"], 4, 1), (["e"], 5, 3)]


def test_no_more_numbers_are_out_than_results_are_kept() -> None:
    """S2: a result that a retry may need is never dropped."""
    bench = session_bench()
    bench["n1"].results = 10
    for number in range(25):
        bench.client.write(number)
    bench.turn()
    assert sent(bench["n1"]) == [(list(range(10)), 1, 1)]
    box(bench["n1"]).answer(*range(10))
    bench.turn()
    assert sent(bench["n1"])[1:] == [(list(range(10, 20)), 11, 11)]


def test_a_full_window_is_not_filled_with_ever_smaller_boxes() -> None:
    bench = session_bench()
    bench["n1"].results = 100
    for number in range(99):
        bench.client.write(number)
        bench.turn()
    for number in range(50):
        bench.client.write(number)
    bench.turn()
    for asked in bench["n1"].asked[:23]:
        asked.answer(None)
        bench.turn()
    assert len(bench["n1"].boxes()) == 99
    bench["n1"].asked[23].answer(None)
    bench.turn()
    assert sent(bench["n1"])[99:] == [(list(range(25)), 100, 25)]


# -- Again, until there is an answer -------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        errors.OutcomeUnknown(),
        errors.Timeout(True),
        errors.Timeout(False),
        errors.NotLeader(),
        errors.Overloaded(),
        errors.NotAppended(),
        errors.StorageFailed(),
        errors.RaftError("unforeseen"),
    ],
)
def test_a_box_is_sent_again_with_its_numbers_after(error: errors.RaftError) -> None:
    """S7."""
    bench = session_bench()
    writes = [Outcome(bench.client.write(each)) for each in "ab"]
    bench.turn()
    box(bench["n1"]).refuse(error)
    bench.turn(1.0)
    assert sent(bench["n1"]) == [(["a", "b"], 1, 1)] * 2
    box(bench["n1"]).answer("A", "B")
    assert [each.value for each in writes] == ["A", "B"]


@pytest.mark.parametrize("error", [errors.Unauthorized(), errors.BadCommand()])
def test_a_refusal_is_the_answer_unless_an_earlier_copy_may_be_applied(
    error: errors.RaftError,
) -> None:
    bench = session_bench()
    first = Outcome(bench.client.write("a"))
    bench.turn()
    box(bench["n1"]).refuse(error)
    assert first.error is error
    second = Outcome(bench.client.write("b"))
    bench.turn()
    box(bench["n1"]).refuse(errors.OutcomeUnknown())
    bench.turn(1.0)
    box(bench["n1"]).refuse(error)
    assert isinstance(second.error, errors.OutcomeUnknown)
    assert second.error.__cause__ is error


FILLING = "x" * (FULL_BYTES // 4)
"""Four of them are a full box."""


def fill(bench: Bench, boxes: int) -> None:
    for _ in range(4 * boxes):
        bench.client.write(FILLING)


def numbers(node: Node) -> list[tuple[int, int]]:
    """(commands, first number) of each box."""
    return [(len(items), sequence) for items, sequence, _ in sent(node)]


def begun(**settings: Any) -> Bench:
    """A bench whose client has a session, and no command under way."""
    bench = session_bench(**settings)
    bench.client.write("first")
    bench.turn()
    box(bench["n1"]).answer(None)
    return bench


def test_a_full_box_leaves_before_the_turn_ends() -> None:
    bench = begun()
    fill(bench, 2)
    bench.client.write("last")
    assert numbers(bench["n1"]) == [(1, 1), (4, 2), (4, 6)]
    bench.turn()
    assert numbers(bench["n1"])[3:] == [(1, 10)]


def test_a_full_box_waits_for_its_session() -> None:
    bench = session_bench()
    fill(bench, 1)
    assert not sent(bench["n1"])
    bench.turn()
    assert numbers(bench["n1"]) == [(4, 1)]


def test_no_full_box_goes_past_one_that_came_back() -> None:
    """S9: not even before the turn ends."""
    bench = begun()
    bench.client.write("refused")
    bench.turn()
    box(bench["n1"]).refuse(errors.Overloaded())
    fill(bench, 1)
    assert numbers(bench["n1"]) == [(1, 1), (1, 2)]
    bench.turn(1.0)
    assert numbers(bench["n1"])[2:] == [(1, 2), (4, 3)]


def test_no_full_box_goes_to_a_new_leader_before_what_the_old_one_has() -> None:
    """S9: what is under way elsewhere is called back first."""
    bench = begun()
    bench.client.write("under way")
    read = bench.client.read("a read")
    bench.turn()
    move(bench, "n2")
    (asked,) = [each for each in bench["n1"].asked if each.kind == "read"]
    asked.refuse(MOVED)
    fill(bench, 1)
    assert not sent(bench["n2"])
    bench.turn(1.0)
    assert numbers(bench["n2"]) == [(1, 2), (4, 3)]
    assert not read.called


def test_a_full_box_does_not_go_past_the_window() -> None:
    """S5: no more commands are on their way than results are kept."""
    bench = session_bench()
    bench["n1"].results = 6
    bench.client.write("first")
    bench.turn()
    box(bench["n1"]).answer(None)
    fill(bench, 2)
    assert numbers(bench["n1"]) == [(1, 1), (4, 2)]
    bench.turn()
    assert sum(count for count, _ in numbers(bench["n1"])[1:]) == 6


def test_a_full_box_does_not_go_past_a_number_that_is_missing() -> None:
    """S9: what expired leaves a hole that the low mark has not passed."""
    bench = begun()
    waits = bench.client.write("waits", timeout=60.0)
    waits.addErrback(lambda _: None)
    bench.turn()
    expires = Outcome(bench.client.write("expires", timeout=0.5))
    bench.turn(1.0)
    assert isinstance(expires.error, errors.Timeout)
    before = numbers(bench["n1"])
    fill(bench, 1)
    assert numbers(bench["n1"]) == before


def test_what_was_under_way_goes_to_the_new_leader_in_its_order() -> None:
    """S9: also where the old one still owes its answers."""
    bench = session_bench()
    writes = []
    for each in "abc":
        writes.append(Outcome(bench.client.write(each)))
        bench.turn()
    move(bench, "n2")
    box(bench["n1"], 1).refuse(MOVED)
    bench.turn(0.5)
    bench.client.write("d")
    bench.turn()
    commands = [items for items, _, _ in sent(bench["n2"])]
    assert commands == [["a"], ["b"], ["c"], ["d"]]
    # What the old leader says is heard no more.
    assert all(asked.answered.called for asked in bench["n1"].asked)
    for asked in bench["n2"].asked:
        asked.answer(*asked.items)
    assert [each.value for each in writes] == ["a", "b", "c"]


def test_a_connection_that_breaks_loses_nothing() -> None:
    bench = session_bench()
    writes = [Outcome(bench.client.write(each)) for each in "ab"]
    bench.turn()
    bench["n1"].connections[0].break_off()
    bench.turn(1.0)
    assert sent(bench["n1"]) == [(["a", "b"], 1, 1)] * 2
    box(bench["n1"]).answer("A", "B")
    assert [each.value for each in writes] == ["A", "B"]


def test_a_node_that_hangs_is_given_up_long_before_the_deadline() -> None:
    bench = session_bench()
    write = Outcome(bench.client.write("a", timeout=60.0))
    bench.turn()
    bench["n1"].is_mute = True
    move(bench, "n2")
    bench.turn(3.0)
    assert sent(bench["n2"]) == [(["a"], 1, 1)]
    box(bench["n2"]).answer("A")
    assert write.value == "A"


def test_a_slow_node_that_answers_small_questions_is_kept() -> None:
    bench = session_bench()
    write = Outcome(bench.client.write("a", timeout=60.0))
    bench.turn(20.0)
    assert bench.dialled == ["n1"]
    assert "Leader" in bench["n1"].log[1:]
    box(bench["n1"]).answer("A")
    assert write.value == "A"
    bench.turn(2.0)
    # Nothing is owed any more, so that nobody looks.
    assert bench.client._probes.timer is None


def test_of_a_box_only_what_has_no_answer_is_sent_again() -> None:
    bench = session_bench()
    writes = [Outcome(bench.client.write(each)) for each in "abcdef"]
    bench.turn()
    gone = errors.Superseded()
    box(bench["n1"]).answer("A", gone, "C", errors.CommandError("no"), gone, "F")
    assert [each.is_there for each in writes] == [True, False, True, True, False, True]
    bench.turn(1.0)
    # What stands between goes along: its numbers must not be missing, and it is not repeated.
    assert sent(bench["n1"])[1:] == [(["b", "c", "d", "e"], 2, 2)]
    box(bench["n1"]).answer("B", "C", errors.CommandError("no"), "E")
    assert [each.value for each in writes] == ["A", "B", "C", None, "E", "F"]
    bench.client.write("g")
    bench.turn()
    assert sent(bench["n1"])[2:] == [(["g"], 7, 7)]


@pytest.mark.parametrize("error", [errors.StaleSequence(), errors.ResultDropped()])
def test_an_answer_that_is_lost_for_good_is_an_unknown_outcome(error: errors.RaftError) -> None:
    bench = session_bench()
    write = Outcome(bench.client.write("a"))
    bench.turn()
    box(bench["n1"]).answer(error)
    assert write.error is error
    assert isinstance(write.error, errors.OutcomeUnknown)


def test_a_refused_box_is_told_once_and_its_followers_come_after_it() -> None:
    bench = session_bench()
    for each in "abc":
        bench.client.write(each)
        bench.turn()
    box(bench["n1"], 0).refuse(errors.Overloaded())
    box(bench["n1"], 1).refuse(errors.NotAppended("what was before it was refused"))
    box(bench["n1"], 2).refuse(errors.NotAppended("what was before it was refused"))
    bench.client.write("d")
    bench.turn(0.5)
    assert [items for items, _, _ in sent(bench["n1"])[3:]] == [["a"], ["b"], ["c"], ["d"]]
    assert bench.dialled == ["n1"]


# -- Deadlines and cancelling --------------------------------------------------------------------


def test_a_write_without_a_session_times_out_definitely() -> None:
    bench = session_bench()
    bench["n1"].opens_late = True
    write = Outcome(bench.client.write("a"))
    bench.turn(3.1)
    assert isinstance(write.error, errors.Timeout)
    assert not write.error.appended


def test_a_write_that_found_no_session_says_why() -> None:
    bench = session_bench()
    bench["n1"].opens_late = True
    calls = [Outcome(bench.client.write("a")), Outcome(bench.client.open_session())]
    for _ in range(31):
        bench.turn(0.1)
        for asked in bench["n1"].asked:
            asked.refuse(errors.Overloaded("all 9 sessions that there may be are in use"))
    for call in calls:
        assert isinstance(call.error, errors.Timeout)
        assert not call.error.appended
        assert "all 9 sessions" in str(call.error)
        assert isinstance(call.error.__cause__, errors.Overloaded)


def test_a_write_that_may_have_been_appended_times_out_unknown() -> None:
    """S7."""
    bench = session_bench()
    write = Outcome(bench.client.write("a"))
    bench.turn()
    box(bench["n1"]).refuse(errors.OutcomeUnknown())
    nobody_leads(bench)
    bench.turn(3.1)
    assert isinstance(write.error, errors.Timeout)
    assert write.error.appended


def test_a_write_that_was_only_refused_times_out_definitely() -> None:
    bench = session_bench()
    write = Outcome(bench.client.write("a"))
    bench.turn()
    nobody_leads(bench)
    box(bench["n1"]).refuse(errors.NotLeader())
    bench.turn(3.1)
    assert isinstance(write.error, errors.Timeout)
    assert not write.error.appended


def test_a_box_that_came_too_late_for_its_time_is_not_sent_again() -> None:
    bench = session_bench()
    write = Outcome(bench.client.write("a"))
    bench.turn(2.9)
    box(bench["n1"]).refuse(errors.Timeout(False))
    assert isinstance(write.error, errors.Timeout)
    assert not write.error.appended
    assert len(bench["n1"].boxes()) == 1


def test_the_low_mark_passes_what_expired() -> None:
    """S9: a number that nobody waits for does not hold the session."""
    bench = session_bench()
    bench.client.write("a", timeout=0.5).addErrback(lambda _: None)
    bench.turn(0.7)
    bench.client.write("b")
    bench.turn()
    assert sent(bench["n1"])[1:] == [(["b"], 2, 2)]


def test_nothing_is_sent_past_a_number_that_may_be_missing() -> None:
    """S9: the cluster takes no number before those below it; the low mark fills the hole."""
    bench = session_bench()
    bench.client.write("a", timeout=5.0)
    bench.turn()
    bench.client.write("b", timeout=0.5).addErrback(lambda _: None)
    bench.turn(0.7)
    late = Outcome(bench.client.write("c", timeout=5.0))
    bench.turn(0.5)
    assert len(bench["n1"].boxes()) == 2
    box(bench["n1"], 0).answer("A")
    bench.turn()
    assert sent(bench["n1"])[2:] == [(["c"], 3, 3)]
    box(bench["n1"]).answer("C")
    assert late.value == "C"


def test_nothing_is_sent_again_past_a_number_that_may_be_missing() -> None:
    """S9: a leader would let it wait for nothing, and refuse it."""
    bench = session_bench()
    for command, timeout in (("a", 8.0), ("b", 1.0), ("c", 8.0)):
        bench.client.write(command, timeout).addErrback(lambda _: None)
        bench.turn()
    nobody_leads(bench)
    for connection in list(bench["n1"].connections):
        connection.break_off()
    bench.turn(1.5)
    move(bench, "n2")
    bench.turn(0.5)
    assert sent(bench["n2"]) == [(["a"], 1, 1)]
    box(bench["n2"]).answer("A")
    bench.turn()
    assert sent(bench["n2"])[1:] == [(["c"], 3, 3)]


def test_what_is_cancelled_before_it_has_a_number_never_gets_one() -> None:
    bench = session_bench()
    writes = [Outcome(bench.client.write(each)) for each in "abc"]
    writes[1].call.cancel()
    assert isinstance(writes[1].error, errors.NotAppended)
    bench.turn()
    assert sent(bench["n1"]) == [(["a", "c"], 1, 1)]


def test_what_is_cancelled_with_a_number_is_unknown_and_leaves_no_hole() -> None:
    """S9: a cancelled number counts as answered."""
    bench = session_bench()
    writes = [Outcome(bench.client.write(each)) for each in "abc"]
    bench.turn()
    writes[1].call.cancel()
    assert isinstance(writes[1].error, errors.OutcomeUnknown)
    box(bench["n1"]).refuse(errors.Overloaded())
    bench.turn(1.0)
    assert sent(bench["n1"]) == [(["a", "b", "c"], 1, 1)] * 2
    for write in (writes[0], writes[2]):
        write.call.cancel()
    box(bench["n1"]).refuse(errors.Overloaded())
    last = Outcome(bench.client.write("d"))
    bench.turn(1.0)
    # At the front nobody waits for them: the low mark passes them.
    assert sent(bench["n1"])[2:] == [(["d"], 4, 4)]
    box(bench["n1"]).answer("D")
    assert last.value == "D"


def test_what_is_cancelled_after_it_was_split_off_is_found() -> None:
    bench = session_bench()
    bench["n1"].results = 10
    writes = [Outcome(bench.client.write(number)) for number in range(25)]
    bench.turn()
    writes[22].call.cancel()
    writes[12].call.cancel()
    writes[2].call.cancel()
    kinds = [type(writes[each].error) for each in (22, 12, 2)]
    assert kinds == [errors.NotAppended, errors.NotAppended, errors.OutcomeUnknown]
    box(bench["n1"]).answer(*range(10))
    bench.turn()
    assert sent(bench["n1"])[1][0] == [10, 11, 13, 14, 15, 16, 17, 18, 19, 20]


# -- The end of a session -------------------------------------------------------------------------


def test_a_command_that_finds_its_session_gone_at_its_first_try_goes_into_a_new_one() -> None:
    """S2: there it was definitely not executed."""
    bench = session_bench()
    writes = []
    for each in "abc":
        writes.append(Outcome(bench.client.write(each)))
        bench.turn()
    gone = errors.SessionExpired()
    for asked in list(bench["n1"].asked):
        asked.answer(gone)
    bench.turn()
    assert sent(bench["n1"])[3:] == [(["a"], 1, 1), (["b"], 2, 1), (["c"], 3, 1)]
    assert len(bench["n1"].sessions) == 2
    assert {asked.call.id for asked in bench["n1"].asked[3:] if asked.call} == {
        bench["n1"].sessions[1].id
    }
    for asked in bench["n1"].asked[3:]:
        asked.answer(*asked.items)
    assert [each.value for each in writes] == ["a", "b", "c"]


def test_a_command_that_finds_its_session_gone_at_a_retry_is_unknown() -> None:
    """S2, sc-Q3: an earlier copy may have been applied before the session ended."""
    bench = session_bench()
    first = Outcome(bench.client.write("a"))
    bench.turn()
    second = Outcome(bench.client.write("b"))
    box(bench["n1"], 0).refuse(errors.OutcomeUnknown())
    bench.turn(1.0)
    box(bench["n1"], 1).answer(errors.SessionExpired())
    bench.turn()
    box(bench["n1"], 2).answer(errors.SessionExpired())
    bench.turn()
    assert isinstance(first.error, errors.OutcomeUnknown)
    assert sent(bench["n1"])[3:] == [(["b"], 1, 1)]
    box(bench["n1"]).answer("B")
    assert second.value == "B"


def test_part_of_a_box_may_find_its_session_gone() -> None:
    bench = session_bench()
    writes = [Outcome(bench.client.write(each)) for each in "abc"]
    bench.turn()
    gone = errors.SessionExpired()
    box(bench["n1"]).answer("A", gone, gone)
    bench.turn()
    assert sent(bench["n1"])[1:] == [(["b", "c"], 1, 1)]
    box(bench["n1"]).answer("B", "C")
    assert [each.value for each in writes] == ["A", "B", "C"]


def test_the_part_of_a_box_that_is_in_doubt_is_unknown_when_its_session_is_gone() -> None:
    """S2."""
    bench = session_bench()
    writes = [Outcome(bench.client.write(each)) for each in "ab"]
    bench.turn()
    box(bench["n1"]).answer("A", errors.OutcomeUnknown())
    bench.turn(1.0)
    assert sent(bench["n1"])[1:] == [(["b"], 2, 2)]
    box(bench["n1"]).answer(errors.SessionExpired())
    bench.turn()
    assert writes[0].value == "A"
    assert isinstance(writes[1].error, errors.OutcomeUnknown)


def test_a_result_is_told_where_all_that_came_back_beside_it_is_cancelled() -> None:
    bench = session_bench()
    writes = [Outcome(bench.client.write(each)) for each in "abc"]
    bench.turn()
    writes[2].call.cancel()
    box(bench["n1"]).answer("A", "B", errors.Superseded())
    assert [each.value for each in writes] == ["A", "B", None]
    bench.client.write("d")
    bench.turn(1.0)
    assert sent(bench["n1"])[1:] == [(["d"], 4, 4)]


# -- Keeping and closing --------------------------------------------------------------------------


def test_an_idle_session_is_kept_at_a_third_of_its_timeout() -> None:
    """S3."""
    bench = session_bench()
    bench.client.write("a")
    bench.turn()
    box(bench["n1"]).answer("A")
    id = bench["n1"].sessions[0].id
    for _ in range(11):
        bench.clock.advance(110)
    assert bench["n1"].named == [("KeepSessions", [id])]
    for _ in range(11):
        bench.clock.advance(110)
    assert bench["n1"].named == [("KeepSessions", [id])] * 2


def test_a_session_that_is_used_is_not_kept() -> None:
    bench = session_bench()
    for _ in range(40):
        bench.client.write("a")
        bench.turn()
        box(bench["n1"]).answer("A")
        bench.clock.advance(110)
    assert bench["n1"].named == []


def test_an_idle_client_whose_session_is_gone_opens_another_with_its_next_write() -> None:
    bench = session_bench()
    bench.client.write("a")
    bench.turn()
    box(bench["n1"]).answer("A")
    bench["n1"].keeps = False
    for _ in range(11):
        bench.clock.advance(110)
    assert bench.client.session is None
    assert len(bench["n1"].sessions) == 1
    bench.client.write("b")
    bench.turn()
    assert sent(bench["n1"])[1:] == [(["b"], 1, 1)]
    assert len(bench["n1"].sessions) == 2


def test_what_is_told_late_of_an_older_session_does_not_end_the_present_one() -> None:
    bench = session_bench()
    bench.client.write("a")
    bench.turn()
    box(bench["n1"]).answer("A")
    (connection,) = bench["n1"].connections
    kept: Deferred[Any] = Deferred()
    call, connection.call = connection.call, lambda *_, **__: kept  # type: ignore[method-assign]
    for _ in range(11):
        bench.clock.advance(110)
    connection.call = call  # type: ignore[method-assign]
    bench.client.write("b")
    bench.turn()
    box(bench["n1"]).answer(errors.SessionExpired())
    bench.turn()
    box(bench["n1"]).answer("B")
    kept.callback({"present": pack_plain([False])})
    bench.turn()
    bench.client.write("c")
    bench.turn()
    assert sent(bench["n1"])[2:] == [(["b"], 1, 1), (["c"], 2, 2)]
    assert len(bench["n1"].sessions) == 2


@pytest.mark.parametrize("keep", [False, True])
def test_close_ends_the_session_unless_it_is_to_be_kept(keep: bool) -> None:
    bench = session_bench()
    bench.client.write("a")
    bench.turn()
    box(bench["n1"]).answer("A")
    closed = Outcome(bench.client.close(keep_session=keep))
    assert closed.is_there
    ended = [("CloseSessions", [bench["n1"].sessions[0].id])]
    assert bench["n1"].named == ([] if keep else ended)
    assert bench.clock.getDelayedCalls() == []
    assert Outcome(bench.client.close()).is_there


def test_close_gives_every_write_its_outcome() -> None:
    bench = session_bench()
    under_way = Outcome(bench.client.write("a"))
    bench.turn()
    doubtful = Outcome(bench.client.write("b"))
    bench.turn()
    box(bench["n1"], 1).refuse(errors.OutcomeUnknown())
    waiting = Outcome(bench.client.write("c"))
    bench.client.close()
    assert isinstance(under_way.error, errors.OutcomeUnknown)
    assert isinstance(doubtful.error, errors.OutcomeUnknown)
    assert isinstance(waiting.error, errors.NotAppended)
    assert bench.clock.getDelayedCalls() == []


# -- Going on after a restart ---------------------------------------------------------------------


def test_a_saved_session_gives_a_repeated_command_its_number() -> None:
    bench = session_bench()
    opened = Outcome(bench.client.open_session())
    bench.turn()
    assert opened.value == bench.client.session
    bench.client.write("a")
    bench.turn()
    box(bench["n1"]).answer("A")
    saved = bench.client.session
    assert saved is not None
    assert saved.next_sequence == 2
    bench.client.write("b")
    assert bench.client.session is None
    bench.turn()
    again = session_bench(session=saved)
    write = Outcome(again.client.write("b"))
    again.turn()
    asked = box(again["n1"])
    assert again["n1"].sessions == []
    assert asked.call is not None
    assert (asked.call.id, asked.call.sequence, asked.call.low_mark) == (saved.id, 2, 2)
    asked.answer("B")
    assert write.value == "B"


def test_a_repeated_command_that_finds_its_session_gone_is_unknown() -> None:
    """S2: the application's earlier life may have had it applied."""
    bench = session_bench(session=SavedSession(b"s" * 16, 7))
    writes = [Outcome(bench.client.write(each)) for each in "ab"]
    bench.turn()
    # This one waits, and may have been sent by the earlier life as well.
    writes.append(Outcome(bench.client.write("c")))
    # What is issued once the end is known was not.
    writes[0].call.addCallback(lambda _: bench.client.write("d") and None)
    gone = errors.SessionExpired()
    box(bench["n1"]).answer(gone, gone)
    bench.turn()
    assert all(isinstance(each.error, errors.OutcomeUnknown) for each in writes)
    assert sent(bench["n1"])[1:] == [(["d"], 1, 1)]


def test_a_session_that_was_gone_on_with_never_makes_a_first_try_definite() -> None:
    """S2: which numbers the earlier life has used, nobody knows."""
    bench = session_bench(session=SavedSession(b"s" * 16, 7))
    first = Outcome(bench.client.write("a"))
    bench.turn()
    box(bench["n1"]).answer("A")
    assert first.value == "A"
    second = Outcome(bench.client.write("b"))
    bench.turn()
    box(bench["n1"]).answer(errors.SessionExpired())
    bench.turn()
    assert isinstance(second.error, errors.OutcomeUnknown)


def test_a_repeated_command_that_is_not_sent_in_time_is_unknown() -> None:
    bench = session_bench(session=SavedSession(b"s" * 16, 7))
    nobody_leads(bench)
    first = Outcome(bench.client.write("a"))
    bench.turn(3.1)
    assert first.error.appended
    move(bench, "n1")
    second = Outcome(bench.client.write("b"))
    bench.turn(0.5)
    assert sent(bench["n1"]) == [(["b"], 8, 8)]
    box(bench["n1"]).answer("B")
    assert second.value == "B"
    nobody_leads(bench)
    bench["n1"].stop()
    third = Outcome(bench.client.write("c"))
    bench.turn(3.1)
    # What follows once all is answered was never sent by anybody else.
    assert not third.error.appended


@pytest.mark.parametrize("end", ["expire", "cancel"])
def test_what_is_repeated_and_given_up_keeps_its_number(end: str) -> None:
    """S7: the next command got the number, and with it the result that its predecessor had.

    It was never carried out then, and its caller was told that it was.
    """
    bench = session_bench(session=SavedSession(b"s" * 16, 7))
    nobody_leads(bench)
    first = Outcome(bench.client.write("a", 1.0))
    bench.turn()
    second = Outcome(bench.client.write("b", 8.0))
    bench.turn()
    if end == "cancel":
        first.call.cancel()
    else:
        bench.turn(1.5)
    assert not isinstance(first.error, errors.NotApplied)
    assert not second.is_there
    move(bench, "n1")
    bench.turn(0.5)
    assert sent(bench["n1"]) == [(["b"], 8, 8)]
    box(bench["n1"]).answer("B")
    assert second.value == "B"


def test_what_is_repeated_and_cancelled_leaves_the_numbers_behind_it_as_they_were() -> None:
    bench = session_bench(session=SavedSession(b"s" * 16, 7))
    nobody_leads(bench)
    writes = [Outcome(bench.client.write(each)) for each in "abc"]
    bench.turn()
    writes[1].call.cancel()
    move(bench, "n1")
    bench.turn(0.5)
    assert sent(bench["n1"]) == [(["a", "b", "c"], 7, 7)]
    box(bench["n1"]).answer("A", "B", "C")
    assert (writes[0].value, writes[2].value) == ("A", "C")
    assert isinstance(writes[1].error, errors.OutcomeUnknown)


def test_what_is_repeated_and_never_sent_is_unknown_when_the_client_is_closed() -> None:
    """S7: it was called definitely not applied, though an earlier life may have sent it."""
    bench = session_bench(session=SavedSession(b"s" * 16, 7))
    nobody_leads(bench)
    write = Outcome(bench.client.write("a"))
    bench.turn()
    bench.client.close()
    assert isinstance(write.error, errors.OutcomeUnknown)
    assert bench.clock.getDelayedCalls() == []


def test_a_resumed_session_that_ends_before_anything_is_repeated_is_not_replaced() -> None:
    """S2: a keep-alive found it gone, and what was repeated then went into a new session.

    There it was carried out for the second time.
    """
    bench = session_bench(session=SavedSession(b"s" * 16, 7, timeout_seconds=9.0))
    bench["n1"].keeps = False
    bench.turn(5.0)
    assert bench["n1"].named[0] == ("KeepSessions", [b"s" * 16])
    write = Outcome(bench.client.write("a"))
    bench.turn()
    assert sent(bench["n1"]) == [(["a"], 7, 7)]
    box(bench["n1"]).answer(errors.SessionExpired())
    bench.turn()
    assert isinstance(write.error, errors.OutcomeUnknown)
    # From here on nothing is a repetition.
    bench.client.write("b")
    bench.turn()
    assert sent(bench["n1"])[1:] == [(["b"], 1, 1)]


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"id": b"short", "next_sequence": 1}, "id"),
        ({"id": b"s" * 16, "next_sequence": 0}, "next_sequence"),
        ({"id": b"s" * 16, "next_sequence": 1, "results": 0}, "results"),
        ({"id": b"s" * 16, "next_sequence": 1, "timeout_seconds": 0.0}, "timeout_seconds"),
    ],
)
def test_what_is_no_saved_session_is_refused_by_name(fields: Any, word: str) -> None:
    with pytest.raises(errors.BadConfiguration, match=word):
        SavedSession(**fields)


def test_a_session_goes_with_sessions_only() -> None:
    with pytest.raises(errors.BadConfiguration, match="sessions=True"):
        RaftClient("127.0.0.1:1", session=SavedSession(b"s" * 16, 1), sessions=False)
    bench = Bench(sessions=False)
    assert isinstance(Outcome(bench.client.open_session()).error, errors.BadConfiguration)
    assert bench.client.session is None


def test_opening_a_session_takes_its_time_at_most() -> None:
    bench = session_bench()
    bench["n1"].opens_late = True
    opened = Outcome(bench.client.open_session(timeout=0.5))
    bench.turn(0.6)
    assert isinstance(opened.error, errors.Timeout)


# -- What an error means --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.SessionExpired(), Meaning.ENDED),
        (errors.StaleSequence(), Meaning.FINAL),
        (errors.ResultDropped(), Meaning.FINAL),
        (errors.CommandError("no"), Meaning.FINAL),
        (errors.CommandFailed("E"), Meaning.FINAL),
        (errors.NotLeader(), Meaning.AGAIN),
        (errors.Superseded(), Meaning.AGAIN),
        (errors.NodeStopped(), Meaning.AGAIN),
        (errors.Timeout(False), Meaning.AGAIN),
        (errors.Timeout(True), Meaning.DOUBT),
        (errors.OutcomeUnknown(), Meaning.DOUBT),
        (errors.StorageFailed(), Meaning.DOUBT),
        (errors.RaftError(), Meaning.DOUBT),
        (ValueError(), Meaning.DOUBT),
    ],
)
def test_what_an_error_says_of_the_copy_that_was_sent(error: Exception, expected: Meaning) -> None:
    assert meaning(error) is expected


# -- Indexes ---------------------------------------------------------------------------------------


def test_write_indexed_tells_an_index_that_covers_the_write() -> None:
    """R10."""
    bench = session_bench()
    plain, indexed = Outcome(bench.client.write("a")), Outcome(bench.client.write_indexed("b"))
    refused = Outcome(bench.client.write_indexed("c"))
    bench.turn()
    first, second = bench["n1"].asked
    assert (first.wants_index, second.wants_index) == (False, True)
    first.answer("A")
    second.answer("B", errors.CommandError("no"), index=17)
    assert plain.value == "A"
    assert (indexed.value.value, indexed.value.index) == ("B", 17)
    assert refused.error.reason == "no"


def test_a_write_of_which_no_index_is_told_is_unknown() -> None:
    bench = session_bench()
    write = Outcome(bench.client.write_indexed("a"))
    bench.turn()
    box(bench["n1"]).answer("A")
    assert isinstance(write.error, errors.OutcomeUnknown)


def test_read_indexed_tells_the_state_it_is_of() -> None:
    bench = session_bench()
    read = Outcome(bench.client.read_indexed("q", min_index=3))
    bench.turn()
    (asked,) = bench["n1"].asked
    assert asked.terms.min_index == 3
    asked.answer("Q", index=9)
    assert (read.value.value, read.value.index) == ("Q", 9)


def test_a_monotonic_client_asks_for_all_that_it_has_seen() -> None:
    """R10: monotonic reads and read-your-writes, on any server."""
    bench = session_bench(monotonic=True)
    bench.client.write("a")
    bench.turn()
    box(bench["n1"]).answer("A", index=20)
    bench.client.read("q", consistency="local")
    bench.turn()
    asked = bench["n1"].asked[-1]
    assert (asked.terms.consistency, asked.terms.min_index) == ("local", 20)
    asked.answer("Q", index=25)
    bench.client.read("q", min_index=30)
    bench.client.read("q")
    bench.turn()
    assert [each.terms.min_index for each in bench["n1"].asked[-2:]] == [30, 25]


def test_clients_with_one_state_of_chance_open_different_sessions() -> None:
    """sc-P15, sc-Q12, S1: a process may be forked, or its computer copied while it runs."""
    opened = []
    for _ in range(2):
        random.seed(1)
        bench = session_bench()
        bench.client.write("a")
        bench.turn()
        (session,) = bench["n1"].sessions
        opened.append(session.id)
    # Of the same number, as they come from clusters that were copied as well.
    assert opened[0][:8] == opened[1][:8]
    assert opened[0] != opened[1]
