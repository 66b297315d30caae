"""What the log says to skip, at whole nodes: known ahead, in every order of events."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from raft.core.messages import AppendEntries, AppendEntriesResult, Entries
from raft.core.outputs import Proposed, Replicated
from raft.core.server import Options
from raft.errors import NotLeader, StateMachineFailed
from raft.node.scribe import Scribe
from raft.node.skipping import Skipping
from raft.node.writes import Batch
from raft.skips import SKIPS_LIMIT
from raft.storage.memory import MemoryStorage
from raft.storage.records import Kind, decode, encode, encode_skip
from tests.node.world import Node, Outcome, Wire, World, cluster, leader_of, others


def skip(node: Node, index: int) -> None:
    """Let `node` append an entry that skips `index`, as its operator would."""
    node.shell.write(Batch([encode_skip(index)], node.clock() + 9.0, lambda _: None, Kind.SKIP))


def poisoned() -> tuple[World, Wire[Node], dict[str, Node], int]:
    """Return a cluster at whose last entry all machines wait, with its index."""
    world, wire, nodes = cluster(3)
    leader = leader_of(wire)
    told = leader.write(["add", 1])
    world.run(
        0.5, lambda: told.fired and all(node.applied == leader.applied for node in _all(wire))
    )
    poison = leader.applied + 1
    leader.write(["add", "poison"])
    leader.write(["add", 2])
    world.advance(0)
    for node in _all(wire):
        node.shell.applying.is_held = True
    world.run(0.5, lambda: all(node.shell.server.commit_index == poison + 1 for node in _all(wire)))
    return world, wire, nodes, poison


def _all(wire: Wire[Node]) -> list[Node]:
    return list(wire.nodes.values())


def journals(wire: Wire[Node]) -> list[Any]:
    return [node.machine.applied for node in _all(wire)]


def test_all_servers_go_past_what_a_committed_entry_skips() -> None:
    """sc-P14: each after its restart; the digests agree [I20]."""
    world, wire, _, poison = poisoned()
    skip(leader_of(wire), poison)
    at = poison + 2
    world.run(0.5, lambda: all(node.shell.server.commit_index == at for node in _all(wire)))
    for node in _all(wire):
        node.restarted()
    leader = leader_of(wire)
    world.run(1.0, lambda: all(node.applied == leader.applied > at for node in _all(wire)))
    assert journals(wire) == [[["add", 1], ["add", 2]]] * 3
    assert len({node.replica.digest for node in _all(wire)}) == 1
    assert all(node.replica.skips.done == {poison} for node in _all(wire))


def test_who_was_away_learns_of_it_before_it_comes_to_the_entry() -> None:
    """sc-P14: what names the entry arrives with it, or before its commit is known."""
    world, wire, _, poison = poisoned()
    away = others(wire, leader_of(wire))[0]
    wire.isolate(away.id)
    skip(leader_of(wire), poison)
    world.run(1.0, lambda: leader_of(wire).shell.server.commit_index == poison + 2)
    for node in _all(wire):
        node.restarted()
    wire.heal()
    leader = leader_of(wire)
    world.run(2.0, lambda: all(node.applied == leader.applied > poison for node in _all(wire)))
    assert journals(wire) == [[["add", 1], ["add", 2]]] * 3
    assert not any(node.failures for node in _all(wire))


def test_who_catches_up_by_single_entries_lets_the_rest_of_the_log_come_first() -> None:
    """sc-P14: a server that stands still meanwhile and is never restarted learns of it too."""
    small = Options(max_append_entries=1, max_inflight_messages=1)
    world, wire, _ = cluster(3, options=small)
    leader = leader_of(wire)
    away = others(wire, leader)[0]
    away.replica.stops_on_error = True
    world.run(0.5, lambda: away.applied == leader.applied)
    wire.isolate(away.id)
    poison = leader.applied + 1
    for command in ("poison", 2):
        leader.write(["add", command])
    world.advance(0)
    for node in _all(wire):
        node.shell.applying.is_held = node is not away
    world.run(0.5, lambda: leader.shell.server.commit_index == poison + 1)
    skip(leader, poison)
    world.run(0.5, lambda: leader.shell.server.commit_index == poison + 2)
    wire.heal()
    leader = leader_of(wire)
    world.run(2.0, lambda: away.failures or away.applied >= poison + 2)
    assert not away.failures
    assert away.machine.applied == [["add", 2]]


@pytest.mark.parametrize("bounds", [{}, {"unapplied_bytes": 500}])
def test_who_has_no_room_for_the_rest_of_the_log_applies_what_it_has(bounds: Any) -> None:
    """sc-P14: it waited for entries that it did not take, for ever."""
    small = Options(max_append_entries=1, max_inflight_messages=1)
    world, wire, _ = cluster(3, options=small, **bounds)
    leader = leader_of(wire)
    away = others(wire, leader)[0]
    away.replica.stops_on_error = True
    world.run(0.5, lambda: away.applied == leader.applied)
    wire.isolate(away.id)
    for _ in range(30):
        leader.write(["add", "x" * 50])
        world.run(0.05)
    wire.heal()
    log = away.shell.server.log
    if not bounds:
        world.run(1.0, lambda: log.last_index > 10)
        away.storage.full = True
    world.run(1.0, lambda: away.applied == (log.last_index if not bounds else leader.applied))


def test_what_an_uncommitted_entry_skips_is_neither_executed_nor_passed_by() -> None:
    """The entry may still be replaced: what it names waits for its fate [L3]."""
    world, wire, _, poison = poisoned()
    alone = leader_of(wire)
    wire.isolate(alone.id)
    skip(alone, poison)
    world.run(0.05)
    for node in _all(wire):
        node.shell.applying.is_held = False
        node.shell.schedule()
    rest = others(wire, alone)
    other = leader_of(wire, [node.id for node in rest])
    world.run(1.0, lambda: other.applied > poison + 1)
    # It knows that the entry is committed, and has one that skips it, which is not.
    assert alone.shell.server.commit_index > poison
    assert alone.applied == poison - 1
    wire.heal()
    world.run(2.0, lambda: alone.applied == other.applied)
    assert journals(wire) == [[["add", 1], ["add", "poison"], ["add", 2]]] * 3
    assert alone.shell.scribe.skips.named == {}
    assert not any(node.failures for node in _all(wire))


def test_who_executed_it_before_stops_alone_and_is_well_after_a_restart() -> None:
    """SM2: where others had not; its own log names the entry when it starts again."""
    world, wire, _, poison = poisoned()
    leader = leader_of(wire)
    hasty = others(wire, leader)[0]
    hasty.shell.applying.is_held = False
    hasty.shell.schedule()
    world.run(0.5, lambda: hasty.applied > poison)
    skip(leader, poison)
    world.run(0.5, lambda: hasty.failures)
    assert isinstance(hasty.failures[0], StateMachineFailed)
    assert f"entry {poison} was applied here" in str(hasty.failures[0])
    for node in [*_all(wire), hasty]:
        node.restarted()
    leader = leader_of(wire)
    world.run(1.0, lambda: all(node.applied == leader.applied > poison for node in _all(wire)))
    assert journals(wire) == [[["add", 1], ["add", 2]]] * 3


def test_skips_of_entries_that_a_snapshot_covers_are_forgotten() -> None:
    world, wire, _, poison = poisoned()
    leader = leader_of(wire)
    skip(leader, poison)
    world.run(0.5, lambda: leader.shell.server.commit_index == poison + 2)
    node = leader.restarted()
    leader_of(wire)
    world.run(1.0, lambda: node.applied > poison + 2)
    assert isinstance(node.storage, MemoryStorage)
    again = node.restarted()
    assert again.shell.scribe.skips.named == {poison + 2: poison}
    leader_of(wire)
    world.run(1.0, lambda: again.applied > poison + 2)
    again.write(["add", 3])
    world.run(0.5, lambda: again.shell.scribe.skips.named == {})


def test_an_entry_that_was_cut_off_within_its_step_skips_nothing() -> None:
    """sc-P14: its place may be another entry's, and then another command's would be passed by."""
    scribe = Scribe(lambda: 0.0, bytes)
    payloads = [encode_skip(3), encode_skip(4)]
    records = scribe.records_of(Proposed(7, 8, 1, 1), payloads, Kind.SKIP)
    assert [record.index for record in decode(records)] == [7]
    assert scribe.skips.named == {7: 3}


# What a leader asks itself before it appends the entry.


class Door:
    """What `Skipping` asks of a service, of a simulated node."""

    def __init__(self, node: Node) -> None:
        self.shell, self.replica, self.clock = node.shell, node.replica, node.clock

    def checked_seconds(self, seconds: float | None) -> float:
        return seconds or 0.0


def asked(node: Node, index: int) -> Outcome:
    door: Any = Door(node)
    told = Outcome(Deferred.fromCoroutine(Skipping(door).skip(index, 1.0)))
    node.world.advance(0)
    return told


def test_a_leader_skips_nothing_that_its_machine_has_applied_or_that_is_no_poison() -> None:
    """sc-P14: each refusal spares servers that would stop."""
    world, wire, _, poison = poisoned()
    leader, follower = leader_of(wire), others(wire, leader_of(wire))[0]
    for index, told in (
        (poison - 1, "is in the state that this server started with"),
        (poison + 100, "is not committed"),
        (0, "give the number of an entry"),
    ):
        assert told in str(asked(leader, index).value)
    assert isinstance(asked(follower, poison).value, NotLeader)
    leader.shell.applying.is_held = False
    assert "--hold" in str(asked(leader, poison).value)
    leader.shell.applying.is_held = True
    leader.shell.scribe.skips.named.update((9999 + at, 5000 + at) for at in range(SKIPS_LIMIT))
    assert "which is the limit" in str(asked(leader, poison).value)
    leader.shell.scribe.skips.named.clear()
    first = asked(leader, poison)
    # Till it is committed it may still be replaced: who asks again is not told that it is done.
    assert "is not committed yet" in str(asked(leader, poison).value)
    world.run(0.5, lambda: first.fired)
    assert first.value == asked(leader, poison).value == poison + 2


def test_a_leader_that_does_not_know_what_is_committed_skips_nothing() -> None:
    """R1: before an entry of its own term is, it may know too little of its own log."""
    world, wire, _, poison = poisoned()
    old = leader_of(wire)
    rest = others(wire, old)
    wire.isolate(old.id)
    carry = wire.carry

    def without_acknowledgements(sender: str, receiver: str, message: Any, *beside: Any) -> bool:
        if isinstance(message, AppendEntriesResult):
            return True
        return carry(sender, receiver, message, *beside)

    wire.carry = without_acknowledgements  # type: ignore[method-assign]
    world.run(3.0, lambda: any(node.leads for node in rest))
    new = next(node for node in rest if node.leads)
    assert "does not know yet what is committed" in str(asked(new, poison).value)


def test_skips_of_a_log_that_a_snapshot_replaced_are_forgotten() -> None:
    """sc-P14: what it named would be passed by here alone, for other entries stand there."""
    bounds = {"trailing_entries": 0, "trailing_bytes": 0}
    world, wire, _ = cluster(3, **bounds)
    alone = leader_of(wire)
    world.run(0.5, lambda: all(node.applied == alone.applied for node in _all(wire)))
    wire.isolate(alone.id)
    for number in range(15):
        alone.write(["add", number])
    skip(alone, alone.applied + 15)
    world.run(0.05)
    at = alone.applied + 16
    assert alone.shell.scribe.skips.named == {at: at - 1}
    rest = others(wire, alone)
    leader = leader_of(wire, [node.id for node in rest])
    for _ in range(5):
        leader.write(["add", "other"])
    world.run(0.5)
    leader.shell.snapshots.take()
    world.run(0.5, lambda: leader.shell.server.log.first_index > alone.applied + 1)
    for _ in range(30):
        leader.write(["add", "another"])
    world.run(0.5)
    assert leader.shell.server.snapshot_index < at - 1 < at < leader.applied
    wire.heal()
    world.run(2.0, lambda: alone.applied == leader_of(wire).applied)
    assert alone.shell.snapshots.installed_index
    assert journals(wire)[0] == journals(wire)[1] == journals(wire)[2]
    assert len({node.replica.digest for node in _all(wire)}) == 1


def test_skips_that_arrived_and_were_cut_off_within_the_step_are_not_noted() -> None:
    """sc-P14: two leaders' messages may come in one turn."""
    scribe = Scribe(lambda: 0.0, bytes)
    arrived = b"".join(
        encode(index, 1, 0, Kind.SKIP, encode_skip(named)) for index, named in ((7, 3), (8, 4))
    )
    scribe.arrived(AppendEntries(1, 6, 1, Entries(7), 0, 0), arrived)
    assert scribe.records_of(Replicated(7, 8, 1), []) == arrived[: len(arrived) // 2]
    assert scribe.skips.named == {7: 3}
