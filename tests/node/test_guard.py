"""The guard in simulated clusters: who is judged, by whom, and what is told of it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from attrs import evolve
from twisted.logger import LogLevel, globalLogPublisher

from raft.core.configuration import Configuration, Member
from raft.digest import BLOCK_ENTRIES
from raft.errors import Diverged, NodeStopped, OutcomeUnknown
from raft.node.guard import (
    FAREWELL_SECONDS,
    MOST_COMPARED,
    NARROWING_SECONDS,
    PERIOD_ENTRIES,
    PERIOD_SECONDS,
    Accused,
    Dispute,
    Guard,
)
from raft.transport.greeting import Greeting
from raft.transport.wire import StateDigest
from tests.node.world import Journal, Node, Wire, World, leader_of, others


class Odd(Journal):
    """Answers `["add", "odd"]` otherwise than others do, as often as it is to."""

    odd_answers = 0

    def apply(self, command: Any, context: Any) -> Any:
        found = super().apply(command, context)
        if self.odd_answers and command == ["add", "odd"]:
            self.odd_answers -= 1
            return "something else"
        return found


@pytest.fixture
def told() -> Iterator[list[str]]:
    """All that is logged as critical."""
    lines: list[str] = []

    def take(event: Any) -> None:
        if event.get("log_level") is LogLevel.critical:
            lines.append(event["log_format"].format(**event))

    globalLogPublisher.addObserver(take)
    yield lines
    globalLogPublisher.removeObserver(take)


def guard_of(node: Node) -> Guard:
    assert node.guard is not None
    return node.guard


def odd_cluster(count: int = 3, **settings: Any) -> tuple[World, Wire[Node], Node, list[Node]]:
    """Return a world, its wire, the leader and the followers, all with odd machines."""
    world, wire = World(), Wire[Node](World())
    wire.world = world
    ids = "abcde"[:count]
    for id in ids:
        Node(wire, id, ids, machine=Odd(), **settings)
    leader = leader_of(wire)
    return world, wire, leader, others(wire, leader)


def write(node: Node, count: int, word: object = 0) -> None:
    for _ in range(count):
        node.write(["add", word], 5.0)
    node.world.run(0.1)


def diverge(world: World, leader: Node, *odd: Node, before: int = 30, after: int = 30) -> int:
    """Let machines answer one command otherwise; return its index."""
    write(leader, before)
    for node in odd:
        node.machine.odd_answers = 1
    asked = leader.write(["add", "odd"])
    world.run(2.0, lambda: asked.fired)
    world.run(0.05)
    index = leader.applied
    write(leader, after)
    assert b"odd" in leader.shell.cache.slice(index, index + 1, 1)[1]
    return index


def judged(node: Node) -> Diverged | None:
    return next((each for each in node.failures if isinstance(each, Diverged)), None)


# Who is judged.


@pytest.mark.parametrize("count", [3, 4, 5])
def test_one_that_differs_is_set_aside_with_the_first_entry(count: int) -> None:
    """sc-SM3, sc-SM4: whichever it is, the leader too."""
    for at in range(count):
        world, wire, leader, followers = odd_cluster(count)
        wrong = [leader, *followers][at]
        index = diverge(world, leader, wrong)
        assert world.run(3.0, lambda wrong=wrong: judged(wrong)) is None or judged(wrong)
        found = judged(wrong)
        assert found is not None
        assert (found.index, found.is_exact) == (index, True)
        healthy = others(wire, wrong)
        world.run(1.0)
        assert [judged(node) for node in healthy] == [None] * (count - 1)
        assert [guard_of(node).diverged for node in healthy] == [{wrong.id: index}] * (count - 1)
        new = leader_of(wire, [node.id for node in healthy])
        write(new, 3, "after")
        assert new.machine.applied[-1] == ["add", "after"]


def test_a_minority_of_two_is_set_aside() -> None:
    """sc-SM4: though both differ in the same way."""
    world, _, leader, followers = odd_cluster(5)
    index = diverge(world, leader, *followers[:2])
    world.run(3.0, lambda: all(map(judged, followers[:2])))
    for node in followers[:2]:
        found = judged(node)
        assert found is not None
        assert (found.index, found.is_exact) == (index, True)
    assert not any(map(judged, [leader, *followers[2:]]))
    write(leader, 1)


def test_the_answer_of_the_majority_is_right_whoever_leads() -> None:
    """sc-SM3: a leader that answers as it should is wrong where most do otherwise."""
    world, _, leader, followers = odd_cluster(3)
    index = diverge(world, leader, *followers)
    world.run(3.0, lambda: judged(leader))
    found = judged(leader)
    assert found is not None
    assert found.index == index
    assert not any(map(judged, followers))


def test_without_a_majority_nobody_is_judged_and_it_is_said_once(told: list[str]) -> None:
    """sc-SM3: two against two."""
    world, _, leader, followers = odd_cluster(4)
    index = diverge(world, leader, *followers[:2])
    world.run(3 * PERIOD_SECONDS)
    write(leader, 5)
    world.run(3 * PERIOD_SECONDS)
    for node in (leader, *followers):
        assert judged(node) is None
        dispute = guard_of(node).dispute
        assert dispute is not None
        assert dispute.index >= index
        assert sorted(map(len, dispute.sides)) == [2, 2]
    assert len(told) == 4
    write(leader, 1, "still")
    assert leader.machine.applied[-1] == ["add", "still"]


def test_answers_that_are_on_their_way_are_awaited(told: list[str]) -> None:
    """A server whose digest comes first and differs is no dispute, while others may answer."""
    world, wire, leader, followers = odd_cluster(3)
    wire.delay = lambda: 0.05
    diverge(world, leader, followers[0])
    world.run(3.0, lambda: judged(followers[0]))
    assert judged(followers[0])
    assert not any("No side" in line for line in told)


def test_who_is_set_aside_is_out_of_every_later_judgement(told: list[str]) -> None:
    """sc-SM3: what it asked while it looked for the entry is no dispute, and the next one is."""
    world, _, leader, followers = odd_cluster(3)
    wrong, healthy = followers
    diverge(world, leader, wrong)
    world.run(3.0, lambda: judged(wrong))
    world.run(3 * PERIOD_SECONDS)
    assert not any("No side" in line for line in told)
    index = diverge(world, leader, healthy)
    world.run(3 * PERIOD_SECONDS)
    dispute = guard_of(leader).dispute
    assert dispute is not None
    assert dispute.index >= index
    assert set(dispute.sides) == {(leader.id,), (healthy.id,)}
    assert not judged(healthy)
    assert not judged(leader)


# The first entry that differs.


@pytest.mark.parametrize("seed", range(6))
def test_the_first_entry_is_found_wherever_it_is(seed: int) -> None:
    """sc-SM3: also across snapshots, losses, restarts of others, and the ends of blocks."""
    chance = random.Random(seed)
    bounds = {"snapshot_entries": chance.choice([0, 40, 300]), "trailing_entries": 20}
    world, wire, leader, followers = odd_cluster(3, **bounds)
    wrong, healthy = followers
    before = chance.choice([1, 10, BLOCK_ENTRIES - 9, 700])
    write(leader, before)
    if chance.random() < 0.5:
        healthy = healthy.restarted(machine=Odd(), **bounds)
        world.run(1.0)
    lost = chance.choice([0.0, 0.0, 0.3])
    wire.drop = lambda *_: chance.random() < lost
    world.run(2 * PERIOD_SECONDS)
    wrong.machine.odd_answers = 1
    asked = leader.write(["add", "odd"], 9.0)
    world.run(9.0, lambda: asked.fired)
    assert isinstance(asked.value, list)
    for _ in range(chance.choice([0, 5, 600])):
        leader.write(["add", 1], 9.0)
    world.run(9.0, lambda: judged(wrong))
    found = judged(wrong)
    assert found is not None
    assert (found.index, found.is_exact) == (asked.value[0], True)
    assert not judged(healthy)


def test_who_gets_no_answers_stops_all_the_same(told: list[str]) -> None:
    """sc-SM4: half a second, and the first entry is only known to be no later."""
    world, wire, leader, followers = odd_cluster(3)
    index = diverge(world, leader, followers[0], after=0)
    wrong = followers[0]
    carry = wire.carry
    silent = [False]

    def hushed(sender: str, receiver: str, message: Any, *beside: Any) -> bool:
        if silent[0] and isinstance(message, StateDigest) and wrong.id in (sender, receiver):
            return True
        return carry(sender, receiver, message, *beside)

    wire.carry = hushed  # type: ignore[method-assign]
    world.run(3.0, lambda: guard_of(wrong).narrowing)
    silent[0] = True
    began = world.seconds()
    world.run(3.0, lambda: judged(wrong))
    found = judged(wrong)
    assert found is not None
    assert not found.is_exact
    assert found.index >= index
    assert world.seconds() - began <= NARROWING_SECONDS + 0.1
    world.run(0.1)
    assert guard_of(leader).diverged[wrong.id] >= index
    assert any("at or before" in line for line in told)


def test_whoever_of_the_majority_answers_is_believed_where_one_is_gone() -> None:
    world, wire, leader, followers = odd_cluster(3)
    wrong = followers[0]
    index = diverge(world, leader, wrong, after=0)
    world.run(3.0, lambda: guard_of(wrong).narrowing)
    narrowing = guard_of(wrong).narrowing
    assert narrowing is not None
    wire.cut |= {(wrong.id, narrowing.judgement.majority[0])}
    world.run(1.0, lambda: judged(wrong))
    found = judged(wrong)
    assert found is not None
    assert (found.index, found.is_exact) == (index, True)


def test_who_can_reach_nobody_stops_at_once() -> None:
    world, _, leader, followers = odd_cluster(3)
    wrong = followers[0]
    diverge(world, leader, wrong, after=20)
    guard = guard_of(wrong)
    guard.network.send_digest = lambda *_: False  # type: ignore[method-assign]
    index = wrong.applied
    for node in (leader, followers[1]):
        guard.heard(node.id, StateDigest(index, 7, 0))
    found = judged(wrong)
    assert found is not None
    assert (found.index, found.is_exact) == (index, False)


def test_what_is_older_than_all_that_is_known_is_told_as_not_exact() -> None:
    """Digests of the last entries alone are kept; the first difference may be before them."""
    world, _, leader, followers = odd_cluster(3)
    wrong = followers[0]
    guards = {node: node.guard for node in (leader, *followers)}
    for node in guards:
        # Compared only once the entry is forgotten.
        node.guard = None
    index = diverge(world, leader, wrong)
    digest = wrong.replica.rolling
    digest.resume(digest.index, digest.records_crc, digest.value)
    write(leader, 20)
    for node, guard in guards.items():
        node.guard = guard
    world.run(3.0, lambda: judged(wrong))
    found = judged(wrong)
    assert found is not None
    assert not found.is_exact
    assert found.index > index


def test_answers_count_that_come_when_the_digest_is_known_no_more() -> None:
    """sc-SM4: a leader that applied much while others answered compared nothing, and led on."""
    world, _, leader, followers = odd_cluster(3)
    write(leader, 20)
    world.run(2 * PERIOD_SECONDS)
    guard, digest = guard_of(leader), leader.replica.rolling
    index = guard.agreed_index
    write(leader, 5)
    digest.resume(digest.index, digest.records_crc, digest.value)
    assert digest.at(index) is None
    guard._reports[index] = {leader.id: guard._reports[index][leader.id]}
    for node in followers:
        guard.heard(node.id, StateDigest(index, 7))
    world.run(NARROWING_SECONDS)
    found = judged(leader)
    assert found is not None
    assert found.index <= index


# When it is compared.


def sent_digests(node: Node) -> list[StateDigest]:
    told: list[StateDigest] = []
    send = node.port.send_digest

    def watched(peer: str, digest: StateDigest) -> bool:
        told.append(digest)
        return send(peer, digest)

    node.port.send_digest = watched  # type: ignore[method-assign]
    return told


def test_a_leader_asks_once_a_second_while_there_is_something_new() -> None:
    world, _, leader, followers = odd_cluster(3)
    world.run(2 * PERIOD_SECONDS)
    told, answers = sent_digests(leader), sent_digests(followers[0])
    world.run(10 * PERIOD_SECONDS)
    assert not told
    for _ in range(100):
        write(leader, 1)
    # 100 writes took 10 s.
    asked = {digest.index for digest in told if digest.asks}
    assert 8 <= len(asked) <= 12
    assert all(digest.asks for digest in told)
    assert {digest.index for digest in answers} == asked
    assert not any(digest.asks for digest in answers)
    assert guard_of(followers[1]).agreed_index == max(asked)


def test_it_is_compared_more_often_where_much_is_applied() -> None:
    """The entries since the last comparison are all known still when one differs."""
    world, _, leader, _ = odd_cluster(3)
    world.run(2 * PERIOD_SECONDS)
    told = sent_digests(leader)
    for _ in range(2):
        for _ in range(PERIOD_ENTRIES):
            leader.write(["add", 1], 5.0)
        world.run(0.3)
    assert len({digest.index for digest in told}) >= 2


def test_snapshots_are_points_at_which_all_compare() -> None:
    world, _, leader, followers = odd_cluster(3)
    write(leader, 20)
    world.run(2 * PERIOD_SECONDS)
    told = sent_digests(followers[0])
    followers[0].shell.snapshots.take()
    world.run(0.2)
    index = followers[0].shell.server.snapshot_index
    assert {digest.index for digest in told if digest.asks} == {index}
    assert guard_of(leader).agreed_index >= index


def test_who_has_not_applied_the_entry_answers_once_it_has() -> None:
    _, _, leader, followers = odd_cluster(3)
    slow = followers[0]
    guard = guard_of(slow)
    applied = slow.applied
    for ahead in range(1, MOST_COMPARED + 5):
        guard.heard(leader.id, StateDigest(applied + ahead, 7, 0, True))
    assert guard._waiting == list(range(applied + 5, applied + MOST_COMPARED + 5))
    told = sent_digests(slow)
    write(leader, MOST_COMPARED + 5)
    assert {digest.index for digest in told} >= set(range(applied + 5, applied + MOST_COMPARED + 5))
    assert not guard._waiting
    assert len(guard._reports) <= MOST_COMPARED
    assert judged(slow) is None


# Whose digest counts.


def test_digests_of_strangers_and_of_other_origins_are_not_compared(told: list[str]) -> None:
    world, _, leader, followers = odd_cluster(3)
    write(leader, 20)
    guard, index = guard_of(leader), leader.applied
    sent = sent_digests(leader)
    guard.heard("stranger", StateDigest(index, 7, 0, True))
    assert not sent
    for node in followers:
        # As if these had been restored from a snapshot of an older release.
        guard.heard(node.id, StateDigest(index, 7, 3))
    world.run(2 * PERIOD_SECONDS)
    assert judged(leader) is None
    assert guard.dispute is None
    assert not told


def test_what_an_earlier_incarnation_said_does_not_count() -> None:
    """M7: who joined again is another server."""
    world, _, leader, followers = odd_cluster(3)
    write(leader, 20)
    world.run(2 * PERIOD_SECONDS)
    guard, index = guard_of(leader), leader.applied
    for node in followers:
        guard._note(node.id, index, 0, 7)
    server = leader.shell.server
    for member in server.configuration.members:
        guard._reports[index][member.id] = ("older", *guard._reports[index][member.id][1:])
    own = leader.replica.rolling.at(index)
    assert own is not None
    guard._note(leader.id, index, 0, own)
    guard._judge(index)
    assert guard.narrowing is None
    assert not guard.accused


def greeting(id: str, incarnation: str = "1") -> Greeting:
    return Greeting(1, "c", id, incarnation)


def test_who_has_diverged_is_not_let_in_but_who_takes_its_place_is() -> None:
    """sc-SM4: it has a moment to say what it knows."""
    world, _, leader, followers = odd_cluster(3)
    wrong = followers[0]
    diverge(world, leader, wrong)
    world.run(3.0, lambda: judged(wrong) and wrong.id in guard_of(leader).diverged)
    assert guard_of(leader).objection(greeting(wrong.id)) is None
    world.run(FAREWELL_SECONDS + 0.1)
    assert "diverged" in str(guard_of(leader).objection(greeting(wrong.id)))
    assert guard_of(leader).objection(greeting(wrong.id, "2")) is None
    assert guard_of(leader).objection(greeting(followers[1].id)) is None


def test_a_majority_of_both_halves_judges_while_the_voters_change() -> None:
    """M3: neither the old nor the new voters alone can tell who is right."""
    world, _, leader, followers = odd_cluster(3)
    write(leader, 20)
    world.run(2 * PERIOD_SECONDS)
    guard, index = guard_of(leader), leader.applied
    configuration = leader.shell.server.configuration
    joint = evolve(configuration, outgoing=frozenset({"x", "y", leader.id}))
    assert isinstance(joint, Configuration)
    own = leader.replica.rolling.at(index)
    sides = guard._sides(index, 0)
    assert sides == {own: sorted([leader.id, *(node.id for node in followers)])}
    assert configuration.majority(sides[own or 0])
    assert not joint.majority(sides[own or 0])


def test_a_server_alone_judges_nobody_and_asks_nobody() -> None:
    world, wire = World(), Wire[Node](World())
    wire.world = world
    Node(wire, "a", "a", machine=Odd())
    leader = leader_of(wire)
    told = sent_digests(leader)
    write(leader, 20)
    world.run(3 * PERIOD_SECONDS)
    assert not told
    assert judged(leader) is None
    assert guard_of(leader).agreed_index == leader.applied


def test_a_learner_has_no_voice() -> None:
    """sc-SM4: it is judged by voters; what it says makes no majority."""
    world, wire, leader, followers = odd_cluster(3)
    learner = Node(wire, "z", machine=Odd())
    members = (*leader.shell.server.configuration.members, Member("z", "1", voter=False))
    leader.shell.change(members, leader.shell.server.log.configuration_index, False)
    world.run(3.0, lambda: learner.applied == leader.applied > 2)
    index = diverge(world, leader, learner, followers[0])
    world.run(3.0, lambda: judged(learner) and judged(followers[0]))
    for node in (learner, followers[0]):
        found = judged(node)
        assert found is not None
        assert found.index == index
    assert judged(leader) is None
    assert judged(followers[1]) is None


# States that were copied.

SHORT_LOG = {"snapshot_entries": 40, "trailing_entries": 5, "trailing_bytes": 0}


def copying(wrong_leads: bool) -> tuple[World, Wire[Node], Node, Node, Node]:
    """Let a follower that was away take a snapshot of a leader whose state is in dispute."""
    world, wire, leader, followers = odd_cluster(3, **SHORT_LOG)
    other, away = followers
    wire.isolate(away.id)
    diverge(world, leader, leader if wrong_leads else other, after=200)
    world.run(3 * PERIOD_SECONDS)
    assert guard_of(leader).dispute
    wire.heal()
    world.run(3.0, lambda: away.applied >= leader.applied)
    assert away.shell.snapshots.installed_index
    return world, wire, leader, other, away


@pytest.mark.parametrize("wrong_leads", [True, False])
def test_who_took_a_snapshot_is_no_second_voice_of_who_sent_it(
    wrong_leads: bool, told: list[str]
) -> None:
    """sc-SM3: a leader's snapshot made a majority of its own digest, and the right one stopped."""
    world, _, leader, other, away = copying(wrong_leads)
    write(leader, 10)
    world.run(4 * PERIOD_SECONDS)
    for node in (leader, other, away):
        assert judged(node) is None
        assert guard_of(node).diverged == {}
        dispute = guard_of(node).dispute
        assert dispute is not None
        copied = tuple(sorted((leader.id, away.id)))
        assert sorted(dispute.sides) == sorted([copied, (other.id,)])
    assert any(f"not counted is who copied its state: {away.id})" in line for line in told)


def test_who_copied_its_state_is_remembered_across_its_restart() -> None:
    """sc-SM3: it forgets that it was given its state; the others do not."""
    world, _, leader, other, away = copying(wrong_leads=True)
    write(leader, 10)
    world.run(4 * PERIOD_SECONDS)
    away.restarted(machine=Odd(), **SHORT_LOG)
    world.run(4 * PERIOD_SECONDS)
    assert judged(leader) is None
    assert judged(other) is None


def test_a_copied_state_counts_once_all_voters_have_had_the_same_digest() -> None:
    """sc-SM4: from there on it differs, or does not, by itself."""
    world, wire, leader, followers = odd_cluster(3, **SHORT_LOG)
    wrong, away = followers
    wire.isolate(away.id)
    write(leader, 200)
    wire.heal()
    world.run(3.0, lambda: away.applied >= leader.applied)
    assert away.shell.snapshots.installed_index
    world.run(3 * PERIOD_SECONDS)
    index = diverge(world, leader, wrong)
    world.run(3.0, lambda: judged(wrong))
    found = judged(wrong)
    assert found is not None
    assert found.index == index
    assert judged(leader) is None
    assert judged(away) is None


def test_a_majority_bears_out_a_copied_state_while_others_are_away() -> None:
    """sc-SM4: one voter that stays away must not keep the others from judging."""
    world, wire, leader, followers = odd_cluster(5, **SHORT_LOG)
    gone, away, wrong, _ = followers
    wire.isolate(away.id, gone.id)
    write(leader, 200)
    wire.heal()
    wire.isolate(gone.id)
    world.run(3.0, lambda: away.applied >= leader.applied)
    assert away.shell.snapshots.installed_index
    world.run(3 * PERIOD_SECONDS)
    index = diverge(world, leader, wrong)
    world.run(3.0, lambda: judged(wrong))
    found = judged(wrong)
    assert found is not None
    assert found.index == index


def test_a_dispute_ends_with_the_removal_of_one_side() -> None:
    """sc-SM4: status named a server that was a member no more, while another one was down."""
    world, wire, leader, followers = odd_cluster(3)
    wrong, away = followers
    wire.isolate(away.id)
    diverge(world, leader, wrong)
    world.run(3 * PERIOD_SECONDS)
    assert guard_of(leader).dispute
    members = leader.shell.server.configuration.members
    left = tuple(each for each in members if each.id != wrong.id)
    leader.shell.change(left, leader.shell.server.log.configuration_index, True)
    world.run(0.2)
    assert wrong.id not in leader.shell.server.configuration.ids
    assert guard_of(leader).dispute is None


def test_an_older_entry_at_which_all_agree_ends_no_dispute() -> None:
    """sc-SM3: who compared an earlier entry made the same dispute be told again."""
    world, _, leader, followers = odd_cluster(4)
    write(leader, 20)
    world.run(2 * PERIOD_SECONDS)
    agreed = guard_of(leader).agreed_index
    diverge(world, leader, *followers[:2])
    world.run(3 * PERIOD_SECONDS)
    dispute = guard_of(leader).dispute
    assert dispute is not None
    guard_of(leader).ask(agreed)
    world.run(0.1)
    assert guard_of(leader).dispute == dispute


def test_who_knows_that_it_has_diverged_answers_nothing_from_its_state() -> None:
    """sc-SM4: it answered reads and writes while it looked for the first entry that differs."""
    world, wire, leader, _ = odd_cluster(3)
    carry = wire.carry
    silent = [False]

    def hushed(sender: str, receiver: str, message: Any, *beside: Any) -> bool:
        if silent[0] and isinstance(message, StateDigest):
            return True
        return carry(sender, receiver, message, *beside)

    wire.carry = hushed  # type: ignore[method-assign]
    diverge(world, leader, leader, after=0)
    world.run(3.0, lambda: guard_of(leader).narrowing)
    silent[0] = True
    assert leader.leads
    asked, stale = leader.read(["count"]), leader.read(["count"], min_index=0)
    written = leader.write(["add", 1])
    world.run(NARROWING_SECONDS / 2)
    for outcome in (asked, stale):
        assert isinstance(outcome.value, NodeStopped)
    assert not written.fired
    world.run(NARROWING_SECONDS)
    assert judged(leader)
    assert isinstance(written.value, OutcomeUnknown)


def test_who_is_set_aside_keeps_no_copied_state_from_being_borne_out() -> None:
    """sc-SM4: all others have the same digest; what was told of a later entry waits for that."""
    world, _, leader, followers = odd_cluster(5)
    wrong, one, other, later = followers
    diverge(world, leader, wrong)
    world.run(3.0, lambda: judged(wrong) and guard_of(leader).diverged)
    guard = guard_of(leader)
    guard._copies |= {node.id: ("1", 1) for node in (one, other)}
    guard._copies[later.id] = "1", leader.applied + 1000
    write(leader, 5)
    world.run(2 * PERIOD_SECONDS)
    assert guard._copies.keys() == {later.id}


def test_a_dispute_ends_once_one_side_is_judged() -> None:
    world, _, leader, followers = odd_cluster(3)
    wrong = followers[0]
    diverge(world, leader, wrong)
    world.run(3.0, lambda: judged(wrong) and guard_of(leader).diverged)
    guard = guard_of(leader)
    guard.dispute = Dispute(leader.applied + 1000, ((leader.id,), (wrong.id,)))
    world.run(0.2)
    assert guard.dispute is None


def test_who_took_the_place_of_one_that_diverged_has_a_voice() -> None:
    """M7: it is another server, whatever was said of the one before it."""
    world, _, leader, followers = odd_cluster(3)
    for node in (leader, *followers):
        for peer in followers:
            guard_of(node).accused[peer.id] = Accused("older", 1, True, 0.0)
    index = diverge(world, leader, leader)
    world.run(3.0, lambda: judged(leader))
    found = judged(leader)
    assert found is not None
    assert found.index == index


def test_who_is_wrong_too_is_not_asked_for_the_first_entry() -> None:
    """sc-SM4: two that diverged alike would tell each other that an entry was right."""
    world, _, leader, followers = odd_cluster(5)
    wrong, alike = followers[:2]
    guard = guard_of(wrong)
    diverge(world, leader, wrong, alike)
    guard.network.send_digest = lambda *_: True  # type: ignore[method-assign]
    world.run(3.0, lambda: guard.narrowing)
    narrowing = guard.narrowing
    assert narrowing is not None
    asked = narrowing.asked
    value = wrong.replica.rolling.at(asked)
    guard.heard(alike.id, StateDigest(asked, value))
    assert narrowing.asked == asked
    guard.heard(leader.id, StateDigest(asked, value))
    assert narrowing.asked != asked
