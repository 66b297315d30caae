"""A server whose log was damaged: it votes by what it had, and fetches it anew [RULES D1]."""

from __future__ import annotations

import math
import random

import pytest
from attrs import evolve

from raft.core.events import Saved
from raft.core.messages import (
    AppendEntries,
    AppendEntriesResult,
    InstallSnapshot,
    PreVote,
    RequestVote,
    TimeoutNow,
)
from raft.core.outputs import LogRepaired, Quarantined
from raft.core.progress import Pace
from raft.core.server import Server
from tests.core.cluster import (
    HEARTBEAT,
    Cluster,
    answer,
    append,
    build,
    configuration,
    elapse,
    hear,
    only,
    save,
    step,
)
from tests.core.test_replication import no, pace, propose, replicating, yes

SEEDS = 30
STEPS = 120


def repairing(**keywords: object) -> Server:
    """Return a server that had entries up to 6, of term 3, and has two of them left."""
    return build("a", [1, 1], term=3, lost=(3, 6), **keywords)


@pytest.mark.parametrize(
    ("index", "term", "granted"),
    [(2, 1, False), (5, 3, False), (9, 2, False), (6, 3, True), (7, 3, True), (4, 4, True)],
)
def test_a_vote_goes_by_the_last_entry_that_the_log_had(
    index: int, term: int, granted: bool
) -> None:
    """D1: whoever could not have had its vote before cannot have it now."""
    assert answer(hear(repairing(), "b", PreVote(5, index, term))).vote_granted is granted
    assert answer(hear(repairing(), "b", RequestVote(5, index, term))).vote_granted is granted


def test_it_stands_for_no_election() -> None:
    """D1: others may be no further than it is, and elect it over what it lost."""
    server = repairing()
    assert server.is_repairing
    assert server.election_deadline == math.inf
    elapse(server, 10.0)
    assert server.current_term == 3
    hear(server, "b", append((2, 1), term=3))
    hear(server, "b", TimeoutNow(3))
    assert server.current_term == 3


def test_it_acknowledges_what_it_has_and_no_more() -> None:
    """D1: an acknowledgement says what is saved, as ever (L1)."""
    server = repairing()
    assert answer(hear(server, "b", append((2, 1), term=3))).match_index == 2
    refusal = answer(hear(server, "b", append((5, 3), [3], term=3, sequence=2)))
    assert refusal == AppendEntriesResult(
        3, False, 5, 2, 2, 2, 1, server.options.election_timeout_seconds, repairing=True
    )


def test_it_is_whole_once_its_log_is_saved_as_far_as_it_was() -> None:
    """D1: not when the entries arrive, and not at the same index of an earlier term."""
    server = repairing()
    hear(server, "b", append((2, 1), [2, 2, 2, 2, 2], term=3))
    assert save(server).changes == ()
    assert server.is_repairing
    outputs = hear(server, "b", append((2, 1), [2, 2, 3, 3], term=3, sequence=2))
    assert server.is_repairing
    assert LogRepaired(6) not in outputs.changes
    outputs = save(server)
    assert outputs.changes == (LogRepaired(6),)
    assert server.election_deadline < math.inf
    assert not answer(hear(server, "b", append((8, 3), term=3, sequence=3))).repairing


def test_what_is_not_yet_saved_makes_nothing_whole() -> None:
    """D1: the debt was forgotten for good with the save of an earlier entry."""
    server = repairing()
    hear(server, "b", append((2, 1), [3], term=3))
    first = server.last_ticket
    hear(server, "b", append((3, 3), [3, 3, 3], term=3, sequence=2))
    assert step(server, Saved(first)).changes == ()
    assert server.is_repairing
    assert save(server).changes == (LogRepaired(6),)


@pytest.mark.parametrize(("index", "term"), [(1, 4), (9, 3)])
def test_a_snapshot_that_is_not_yet_marked_makes_nothing_whole(index: int, term: int) -> None:
    """D1: an earlier save is done while the snapshot's mark is on its way."""
    server = repairing()
    hear(server, "b", append((2, 1), [3], term=3))
    first = server.last_ticket
    hear(server, "b", InstallSnapshot(4, index, term, configuration(), 1, 2, done=True))
    assert step(server, Saved(first)).changes == ()
    assert server.is_repairing
    assert save(server).changes == (LogRepaired(index),)


def test_an_entry_of_a_later_term_makes_it_whole_too() -> None:
    """D1: its leader had all that was committed in earlier terms."""
    server = repairing()
    hear(server, "b", append((2, 1), [4], term=4))
    assert save(server).changes == (LogRepaired(3),)


def test_who_is_as_far_already_is_whole_at_once() -> None:
    """D1: nothing is owed any more."""
    server = build("a", [1, 3, 3], term=3, lost=(3, 3))
    assert not server.is_repairing
    assert server.election_deadline < math.inf


def test_a_leader_begins_anew_with_a_follower_that_says_so() -> None:
    """D1: a log that is repaired is no disk that went back unknown; nothing of it counts."""
    server = replicating()
    (beat,) = only(elapse(server, HEARTBEAT), AppendEntries, "b")
    refusal = no(server, beat.prev_log_index, 1, (1, 1), beat.sequence)
    outputs = hear(server, "b", evolve(refusal, repairing=True))
    assert not any(isinstance(change, Quarantined) for change in outputs.changes)
    assert (server.match_index("b"), pace(server)) == (0, Pace.PROBE)
    # What was sent before may have been answered by the log as it was.
    hear(server, "b", yes(server, 2, sequence=beat.sequence))
    assert server.match_index("b") == 0
    (beat,) = only(elapse(server, HEARTBEAT), AppendEntries, "b")
    assert beat.prev_log_index == 1
    hear(server, "b", yes(server, 1, sequence=beat.sequence))
    propose(server)
    save(server)
    assert server.commit_index == 2
    hear(server, "b", yes(server, 3))
    assert server.commit_index == 3


def test_what_a_follower_has_acknowledged_since_the_damage_counts_on() -> None:
    """D1: a refusal of what it never had is no further loss."""
    server = replicating()
    elapse(server, HEARTBEAT)
    hear(server, "b", evolve(no(server, 2, 1, (1, 1)), repairing=True))
    hear(server, "b", yes(server, 1, 2))
    propose(server)
    hear(server, "b", evolve(no(server, 3, 2, (2, 2)), repairing=True))
    assert server.match_index("b") == 1


@pytest.mark.parametrize("kept", [0, 1])
def test_the_first_answer_to_a_leader_that_began_anew_counts(kept: int) -> None:
    """D1: what it sends from that moment on was answered by the log as it is."""
    server = replicating()
    elapse(server, HEARTBEAT)
    refusal = evolve(no(server, 2, kept, (kept, kept)), repairing=True)
    (probe,) = only(hear(server, "b", refusal), AppendEntries, "b")
    assert probe.prev_log_index == kept
    hear(server, "b", yes(server, 2, sequence=probe.sequence))
    assert server.match_index("b") == 2


def test_a_cluster_of_which_most_are_damaged_elects_only_who_has_all() -> None:
    """D1: two of three lost the entry; the third one has it, and is elected by them (sc-F28)."""
    cluster = written()
    cluster.damage("b", 1)
    cluster.damage("c", 2)
    cluster.run(3.0)
    assert cluster.leaders == ["a"]
    assert [node.applied for node in cluster.nodes.values()] == [cluster.nodes["a"].applied] * 3
    assert not any(node.server.is_repairing for node in cluster.nodes.values())


def test_a_cluster_in_which_nobody_has_all_elects_nobody() -> None:
    """D1: better no leader than one without what was acknowledged (sc-F28)."""
    cluster = written()
    for id in "abc":
        cluster.damage(id, 1)
    cluster.run(3.0)
    assert cluster.leaders == []


def written() -> Cluster:
    """Return a cluster of three in which "a" leads and four commands are everywhere."""
    cluster = Cluster.of(a=build("a"), b=build("b", seed=2), c=build("c", seed=3))
    cluster.time_out("a")
    cluster.settle()
    cluster.propose("a", 1, 4)
    cluster.settle()
    return cluster


@pytest.mark.parametrize("members", ["abc", "abcde"])
def test_no_damage_elects_a_leader_without_what_is_committed(members: str) -> None:
    """D1: crashes, lost messages and damage to any number of logs, at random."""
    repaired = 0
    for seed in range(SEEDS):
        repaired += wander(seed, members)
    assert repaired > SEEDS


def wander(seed: int, members: str) -> int:
    """Do whatever may happen to a cluster; return how many logs were damaged and repaired."""
    chance = random.Random(seed)
    known = configuration(members)
    cluster = Cluster.of(
        **{id: build(id, members=known, seed=chance.randrange(99)) for id in members}
    )
    committed: list[object] = []
    led: dict[int, str] = {}
    repaired = 0
    for number in range(STEPS):
        id = chance.choice(members)
        match chance.choice("tppddddddsssssxrlmbb"):
            case "t" if cluster[id].may_campaign:
                cluster.time_out(id)
            case "p" if cluster.leaders:
                cluster.propose(cluster.leader, number + 1, chance.randint(1, 2))
            case "d":
                cluster.deliver(lambda packet, id=id: packet.receiver == id)  # type: ignore[misc]
            case "s":
                cluster.save(id)
            case "x":
                cluster.crash(id)
            case "l":
                cluster.drop(lambda _: chance.random() < 0.3)
            case "r":
                cluster.now += HEARTBEAT
                cluster.settle()
            case "m" if chance.random() < 0.5:
                terms = cluster.nodes[id].disk.terms
                cluster.damage(id, chance.randint(0, len(terms)))
                repaired += cluster[id].is_repairing
            case "b" if cluster.leaders:
                repaired += strike(cluster, chance)
            case _:
                pass
        judge(cluster, committed, led)
    return repaired


def strike(cluster: Cluster, chance: random.Random) -> int:
    """Damage one of the few that hold a new entry, and let those vote that lack it."""
    first = cluster.leader
    others = [id for id in cluster.nodes if id != first]
    chance.shuffle(others)
    holders = others[: len(others) // 2]
    rest = others[len(holders) :]
    cluster.drop()
    for id in rest:
        cluster.isolate(id)
    cluster.propose(first, 10_000 + len(cluster.nodes[first].payloads))
    cluster.settle()
    cluster.heal()
    damaged = chance.choice(holders)
    cluster.damage(damaged, chance.randint(1, len(cluster.nodes[damaged].disk.terms)))
    found = cluster[damaged].is_repairing
    for id in [first, *(set(holders) - {damaged})]:
        cluster.isolate(id)
    for _ in range(3):
        id = chance.choice([damaged, *rest])
        if cluster[id].may_campaign:
            cluster.time_out(id)
            cluster.settle()
    cluster.heal()
    return found


def judge(cluster: Cluster, committed: list[object], led: dict[int, str]) -> None:
    """Leader completeness and state-machine safety, after each step."""
    for node in cluster.nodes.values():
        count = min(len(node.applied), len(committed))
        assert node.applied[:count] == committed[:count], "two servers applied different entries"
        committed += node.applied[len(committed) :]
    for id in cluster.leaders:
        term = cluster[id].current_term
        if term not in led:
            held = cluster.nodes[id].payloads
            assert held[: len(committed)] == committed, f"{id} leads term {term} without them"
        assert led.setdefault(term, id) == id, "two leaders in one term"
