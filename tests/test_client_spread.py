"""Reads over all members, on a Clock: turns, failures, and members that come and go."""

from __future__ import annotations

from typing import Any

import pytest

from raft import errors
from raft.transport import commands
from raft.transport.arguments import pack_plain
from tests.client_bench import Asked, Bench, Node, Outcome


def spread_bench(known: tuple[str, ...] = ("n1",), **settings: Any) -> Bench:
    """Three members of which n1 leads; each tells of all."""
    bench = Bench(known, spread_reads=True, **settings)
    members = [
        {"id": node.name, "client_address": node.address, "voter": True}
        for node in bench.nodes.values()
    ]
    for node in bench.nodes.values():
        node.says = ("n1", bench["n1"].address)
        status = {"id": node.name, "members": members}
        node.answers[commands.Status] = lambda status=status: {"status": pack_plain(status)}
    return bench


def ready(**settings: Any) -> Bench:
    """The same, with connections to all of them."""
    bench = spread_bench(**settings)
    first = Outcome(bench.client.read("first"))
    bench.turn()
    for asked in reads(bench):
        asked.answer("there")
    assert first.value == "there"
    for node in bench.nodes.values():
        assert len(node.connections) == 1
        node.asked.clear()
    return bench


def reads(bench: Bench) -> list[Asked]:
    return [asked for node in bench.nodes.values() for asked in open_at(node)]


def open_at(node: Node) -> list[Asked]:
    return [each for each in node.asked if each.kind == "read" and not each.answered.called]


def test_each_member_answers_the_reads_of_a_turn_in_turn() -> None:
    """R8: a linearizable read is asked of a follower by name."""
    bench = ready()
    for number in range(6):
        bench.client.read([number])
        bench.client.read([number])
        bench.turn()
    assert sorted(len(node.boxes("read")) for node in bench.nodes.values()) == [2, 2, 2]
    for asked in reads(bench):
        assert len(asked.items) == 2
        assert asked.terms.consistency == "linearizable"


def test_writes_and_lease_reads_go_to_the_leader() -> None:
    """R9: only a leader has a lease."""
    bench = ready()
    for _ in range(3):
        bench.client.write("w")
        bench.client.read("q", consistency="lease")
        bench.turn()
    assert len(bench["n1"].boxes("write")) == len(bench["n1"].boxes("read")) == 3
    assert bench["n2"].asked == bench["n3"].asked == []


def test_what_a_read_asks_of_its_state_is_asked_of_any_member() -> None:
    """R10."""
    bench = ready()
    read = Outcome(bench.client.read_indexed("q", consistency="bounded", max_age=2.0, min_index=5))
    bench.turn()
    (asked,) = reads(bench)
    assert (asked.terms.consistency, asked.terms.min_index) == ("bounded", 5)
    asked.answer("Q", index=8)
    assert read.value.index == 8


def test_reads_go_elsewhere_where_a_member_is_gone() -> None:
    bench = ready()
    bench["n2"].stop()
    results = [Outcome(bench.client.read(number)) for number in range(3)]
    for number in range(3):
        results.append(Outcome(bench.client.read(number)))
        bench.turn()
    for asked in reads(bench):
        asked.answer(*asked.items)
    assert all(each.error is None and each.is_there for each in results)
    assert bench["n2"].boxes("read") == []


def test_what_was_asked_of_a_member_that_is_lost_is_asked_elsewhere() -> None:
    bench = ready()
    results = []
    for number in range(3):
        results.append(Outcome(bench.client.read(number)))
        bench.turn()
    bench["n3"].stop()
    bench.turn()
    for asked in reads(bench):
        asked.answer(*asked.items)
    assert [each.value for each in results] == [0, 1, 2]


def test_a_member_that_comes_back_is_asked_again() -> None:
    bench = ready()
    bench["n2"].stop()
    for number in range(20):
        read = Outcome(bench.client.read(number))
        bench.turn(0.5)
        bench["n2"].is_up = number > 2
        for asked in reads(bench):
            asked.answer("there")
        assert read.value == "there"
    assert len(bench["n2"].connections) == 1
    assert bench["n2"].boxes("read")


@pytest.mark.parametrize(
    "error", [errors.NotLeader(), errors.ElectionInProgress(), errors.StorageFailed()]
)
def test_a_member_that_cannot_answer_is_left_alone_for_a_moment(error: errors.RaftError) -> None:
    bench = ready()
    read = Outcome(bench.client.read("a"))
    bench.turn()
    (first,) = reads(bench)
    first.refuse(error)
    bench.turn()
    (second,) = reads(bench)
    second.answer("A")
    assert read.value == "A"


def test_what_a_member_cannot_answer_in_time_is_asked_elsewhere() -> None:
    """R10: one that is cut off waited for a newer state to the end, and the read had failed."""
    bench = ready()
    read = Outcome(bench.client.read("a", consistency="bounded", max_age=1.0))
    bench.turn()
    (first,) = reads(bench)
    assert first.timeout_ms <= 1500
    bench.turn(first.timeout_ms / 1000)
    first.refuse(errors.Timeout(False, "the state here stayed older than max_age"))
    bench.turn()
    (second,) = reads(bench)
    second.answer("A")
    assert read.value == "A"


def configured(bench: Bench, index: int, members: str, told_by: str) -> None:
    """Let nodes tell that `members` are so since entry `index`."""
    rows = [{"id": id, "client_address": bench[id].address} for id in members.split()]
    for name in told_by.split():
        status = {"id": name, "members": rows, "configuration_index": index}
        bench[name].answers[commands.Status] = lambda status=status: {"status": pack_plain(status)}


def test_a_member_that_was_removed_is_asked_no_more() -> None:
    """R10: it applies nothing any more, and answered `local` reads for ever, ever older.

    It may be the only one that does not know that it is out.
    """
    bench = ready()
    configured(bench, 5, "n1 n2 n3", told_by="n3")
    configured(bench, 9, "n1 n2", told_by="n1 n2")
    bench.turn(11.0)
    bench.client.read("look", consistency="local")
    bench.turn()
    for asked in reads(bench):
        asked.answer("there")
    bench["n3"].asked.clear()
    for number in range(9):
        read = Outcome(bench.client.read(number, consistency="local"))
        bench.turn()
        for asked in reads(bench):
            asked.answer("there")
        assert read.value == "there"
    assert bench["n3"].asked == []
    assert bench["n3"].connections == []
    assert bench["n2"].boxes("read")


def test_a_status_that_makes_no_sense_takes_nobody_away() -> None:
    bench = ready()
    configured(bench, 7, "n1 n2 n3", told_by="n1")
    bench["n2"].answers[commands.Status] = lambda: {"status": pack_plain({"members": 7})}
    bench["n3"].answers[commands.Status] = lambda: {"status": pack_plain({"members": ["n3"]})}
    bench.turn(11.0)
    for number in range(6):
        bench.client.read(number)
        bench.turn()
        for asked in reads(bench):
            asked.answer("there")
    assert sorted(len(node.boxes("read")) for node in bench.nodes.values()) == [2, 2, 2]


def test_while_nobody_can_answer_members_are_not_asked_in_a_loop() -> None:
    bench = ready()
    read = Outcome(bench.client.read("a"))
    for _ in range(310):
        bench.turn(0.01)
        for asked in reads(bench):
            asked.refuse(errors.ElectionInProgress())
    assert isinstance(read.error, errors.Timeout)
    assert isinstance(read.error.__cause__, errors.ElectionInProgress)
    assert sum(len(node.asked) for node in bench.nodes.values()) < 150


def test_a_member_that_hangs_is_given_up_long_before_the_deadline() -> None:
    bench = ready()
    results = []
    for number in range(3):
        results.append(Outcome(bench.client.read(number, timeout=30.0)))
        bench.turn()
    bench["n2"].is_mute = True
    for asked in open_at(bench["n1"]) + open_at(bench["n3"]):
        asked.answer(*asked.items)
    bench.turn(3.0)
    for asked in open_at(bench["n1"]) + open_at(bench["n3"]):
        asked.answer(*asked.items)
    assert [each.value for each in results] == [0, 1, 2]


def test_the_endpoints_are_asked_where_nobody_knows_the_members() -> None:
    bench = spread_bench(("n1", "n2"))
    for node in bench.nodes.values():
        node.answers[commands.Status] = lambda: {"status": pack_plain({})}
    for _ in range(4):
        bench.client.read("q")
        bench.turn()
    assert [len(node.boxes("read")) for node in bench.nodes.values()] == [2, 2, 0]


def test_without_anybody_to_ask_a_read_times_out_with_the_reason() -> None:
    bench = spread_bench()
    bench["n1"].is_up = False
    read = Outcome(bench.client.read("a"))
    bench.turn(3.1)
    assert isinstance(read.error, errors.Timeout)
    assert isinstance(read.error.__cause__, errors.NotAppended)


def test_close_leaves_nothing_behind() -> None:
    bench = ready(sessions=True)
    read = Outcome(bench.client.read("a"))
    bench.turn()
    waiting = Outcome(bench.client.read("b"))
    assert Outcome(bench.client.close()).is_there
    assert isinstance(read.error, errors.NotAppended)
    assert isinstance(waiting.error, errors.NotAppended)
    assert bench.clock.getDelayedCalls() == []
    assert all(node.connections == [] for node in bench.nodes.values())
