"""Links that fail in one direction, in part, or again and again; the nodes are all well."""

from __future__ import annotations

import random
from collections.abc import Iterable
from itertools import combinations, permutations

import pytest

from raft.core.outputs import Role
from raft.errors import NotApplied, RaftError, Timeout
from tests.node.world import Node, Wire, World, cluster, leader_of, others

T = 0.3
"""The base election timeout of these nodes, in seconds."""
BOUND = 12 * T
"""How long it may take until a leader serves, where one can."""


def terms(wire: Wire) -> list[int]:
    return [node.shell.server.current_term for node in wire.nodes.values()]


def serves(world: World, node: Node) -> None:
    """Expect a fresh write and a fresh read at `node` to be answered."""
    told = node.write(["add", "fresh"])
    world.run(4 * T, lambda: told.fired)
    assert told.value[1] == "fresh"
    asked = node.read([])
    world.run(4 * T, lambda: asked.fired)
    assert asked.value > 0


def agree(world: World, wire: Wire) -> None:
    """Heal all links, and expect all machines to become equal."""
    wire.heal()
    serves(world, leader_of(wire, seconds=BOUND))
    last = max(node.applied for node in wire.nodes.values())
    world.run(BOUND, lambda: all(node.applied >= last for node in wire.nodes.values()))
    journals = [node.machine.applied for node in wire.nodes.values()]
    assert all(journal == journals[0] for journal in journals)
    assert not any(node.failures for node in wire.nodes.values())


def sees_only(wire: Wire, centre: str) -> None:
    """Leave no links but those of `centre`."""
    wire.sever(pair for pair in combinations(sorted(wire.nodes), 2) if centre not in pair)


def test_followers_that_lose_each_other_disturb_nobody() -> None:
    """E5, E7, sc-E4: both hear the leader; neither moves a term, in any number of timeouts."""
    world, wire, _ = cluster(3)
    leader = leader_of(wire)
    before = terms(wire)
    one, two = others(wire, leader)
    wire.sever([(one.id, two.id)])
    world.run(60 * T)
    assert terms(wire) == before
    assert leader.leads
    serves(world, leader)


def test_the_one_that_sees_all_is_elected_where_the_leader_does_not() -> None:
    """E7, sc-E5: heartbeats that some still hear must not keep a leader without its quorum."""
    world, wire, _ = cluster(5)
    old = leader_of(wire)
    centre = others(wire, old)[0]
    serves(world, old)
    world.run(1.0)
    sees_only(wire, centre.id)
    serves(world, leader_of(wire, [centre.id], BOUND))
    assert not old.leads
    agree(world, wire)


def test_nobody_leads_where_only_a_stale_log_sees_a_quorum() -> None:
    """E2, sc-E6: no leader is better than one that lacks what was acknowledged."""
    world, wire, _ = cluster(5)
    leader = leader_of(wire)
    stale = others(wire, leader)[0]
    wire.isolate(stale.id)
    told = leader.write(["add", "acknowledged"])
    world.run(1.0, lambda: told.fired)
    assert told.value[1] == "acknowledged"
    world.run(4 * T)
    # The leader never reaches it, or would bring it what it lacks.
    wire.heal()
    sees_only(wire, stale.id)
    wire.sever([(leader.id, stale.id)])
    world.run(4 * T)
    for _ in range(30):
        world.run(T)
        assert not any(node.leads for node in wire.nodes.values())
    # Whoever asks hears at once that nothing was done, or in time.
    asked = [node.write(["add", "nobody leads"], 1.0) for node in wire.nodes.values()]
    world.run(1.5, lambda: all(each.fired for each in asked))
    for each in asked:
        assert isinstance(each.value, NotApplied | Timeout)
        assert not (isinstance(each.value, Timeout) and each.value.appended)
    agree(world, wire)
    assert ["add", "acknowledged"] in stale.machine.applied
    assert ["add", "nobody leads"] not in stale.machine.applied


@pytest.mark.parametrize("hears", ["nobody", "a follower"])
def test_who_does_not_hear_the_leader_and_is_heard_moves_no_term(hears: str) -> None:
    """E5, sc-E2: it asks again and again, and whoever hears the leader refuses."""
    world, wire, _ = cluster(3)
    leader = leader_of(wire)
    deaf = others(wire, leader)[0]
    before = max(terms(wire))
    silent = others(wire, deaf) if hears == "nobody" else [leader]
    wire.cut = {(other.id, deaf.id) for other in silent}
    world.run(40 * T)
    assert deaf.shell.server.role is Role.PRE_CANDIDATE
    assert max(terms(wire)) == before
    serves(world, leader)
    agree(world, wire)


def test_a_leader_that_is_not_answered_gives_way() -> None:
    """E7, sc-E3: it reaches all and hears nobody: nothing commits, and another one leads."""
    world, wire, _ = cluster(3)
    leader = leader_of(wire)
    wire.cut = {(other.id, leader.id) for other in others(wire, leader)}
    told = leader.write(["add", "unheard"])
    committed = leader.shell.server.commit_index
    world.run(2 * T, lambda: not leader.leads)
    assert leader.shell.server.commit_index == committed
    serves(world, leader_of(wire, [each.id for each in others(wire, leader)], BOUND))
    world.run(3.0, lambda: told.fired)
    assert isinstance(told.value, RaftError)
    agree(world, wire)


@pytest.mark.parametrize("size", [3, 5])
def test_one_direction_of_one_link_stops_nobody(size: int) -> None:
    """E5, E7, sc-N2: each of them in turn; there is a leader, and it serves."""
    world, wire, _ = cluster(size)
    for link in permutations(sorted(wire.nodes), 2):
        leader_of(wire, seconds=BOUND)
        wire.cut = {link}
        world.run(3 * T)
        serves(world, leader_of(wire, seconds=BOUND))
        wire.heal()
    agree(world, wire)


def ring(ids: list[str]) -> Iterable[tuple[str, str]]:
    count = len(ids)
    return (
        (ids[i], ids[j]) for i, j in combinations(range(count), 2) if j - i not in (1, count - 1)
    )


def star(ids: list[str]) -> Iterable[tuple[str, str]]:
    return combinations(ids[1:], 2)


def bridge(ids: list[str]) -> Iterable[tuple[str, str]]:
    return ((ids[i], ids[j]) for i, j in combinations(range(1, len(ids)), 2) if (j - i) % 2)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shape", [ring, star, bridge], ids=lambda shape: shape.__name__)
def test_who_sees_a_majority_can_lead_in_any_shape(shape: object, seed: int) -> None:
    """E5, E7, sc-N3: a ring, a star and two halves with a bridge, of five, one after another."""
    world, wire, _ = cluster(5)
    leader_of(wire)
    world.run(1.0)
    ids = sorted(wire.nodes)
    random.Random(seed).shuffle(ids)
    wire.sever(shape(ids))  # type: ignore[operator]
    world.run(4 * T)
    serves(world, leader_of(wire, seconds=BOUND))
    agree(world, wire)


@pytest.mark.parametrize(
    ("victim", "broken_seconds"), [("leader", T / 2), ("follower", T / 2), ("follower", 3 * T)]
)
def test_a_link_that_flaps_moves_few_terms(victim: str, broken_seconds: float) -> None:
    """E5, sc-E23, sc-N4: a follower's moves none, a leader's one at most each time it breaks."""
    world, wire, _ = cluster(3)
    leader_of(wire)
    before, flaps, written = max(terms(wire)), 40, 0
    for _ in range(flaps):
        leader = leader_of(wire, seconds=BOUND)
        wire.isolate((leader if victim == "leader" else others(wire, leader)[0]).id)
        world.run(broken_seconds)
        wire.heal()
        told = leader.write(["add", "between"])
        world.run(T / 2)
        written += told.fired and isinstance(told.value, list)
    assert max(terms(wire)) - before <= (flaps if victim == "leader" else 0)
    assert written > flaps / 2
    agree(world, wire)


def test_a_leader_stays_while_answers_come_within_the_timeout() -> None:
    """E9, sc-N5: messages that take up to 0.4 T there and back again."""
    world, wire, _ = cluster(3)
    leader = leader_of(wire)
    before, chance = terms(wire), random.Random(5)
    wire.delay = lambda: chance.uniform(0.0, 0.4 * T)
    world.run(60 * T)
    assert terms(wire) == before
    serves(world, leader)


def test_messages_that_take_two_timeouts_break_no_promise() -> None:
    """E1, sc-N5: there may be no leader for long; what is acknowledged is kept all the same."""
    world, wire, _ = cluster(3)
    leader_of(wire)
    chance = random.Random(6)
    wire.delay = lambda: chance.uniform(0.0, 2 * T)
    told = []
    for number in range(100):
        told += [node.write(["add", number], 5.0) for node in wire.nodes.values() if node.leads]
        world.run(T)
    wire.delay = lambda: 0.001
    world.run(4 * T)
    agree(world, wire)
    applied = next(iter(wire.nodes.values())).machine.applied
    kept = [each.value[1] for each in told if each.fired and isinstance(each.value, list)]
    assert [number for number in kept if ["add", number] not in applied] == []
