"""Commitment: the paper's 5.4.2, and who counts."""

from __future__ import annotations

import random
from itertools import permutations

import pytest

from raft.core.events import Propose, Received
from raft.core.messages import AppendEntries, AppendEntriesResult
from raft.core.outputs import Quarantined, Role
from raft.core.server import Server
from tests.core.cluster import (
    Cluster,
    append,
    build,
    campaign,
    configuration,
    elect,
    hear,
    leader,
    only,
    save,
    step,
)


def acknowledge(server: Server, peer: str, match: int) -> None:
    sequence = server.state.sequence
    hear(server, peer, AppendEntriesResult(server.current_term, True, match, sequence, match))


def test_entries_of_an_older_term_are_not_committed_by_counting() -> None:
    """L4: a leader commits by counting only entries of its own term (sc-C1)."""
    server = build("a", [1, 2, 2], term=3, members=configuration("abcde"))
    elect(server)
    save(server)
    for peer in "bcde":
        acknowledge(server, peer, 3)
    assert server.commit_index == 0
    acknowledge(server, "b", 4)
    acknowledge(server, "c", 4)
    assert server.commit_index == 4


def test_figure_8() -> None:
    """L4: Figure 8: an entry of term 2 on a majority may yet be overwritten (sc-C1).

    S1 leads term 2 and writes entry 2 to S2 only; S5 leads term 3 with another entry 2; S1
    leads term 4 and brings the old entry to a majority, then crashes; S5 may win again.
    """
    ids = ["s1", "s2", "s3", "s4", "s5"]
    members = configuration(ids)
    logs = {"s1": [1, 2], "s2": [1, 2], "s3": [1], "s4": [1], "s5": [1, 3]}
    cluster = Cluster.of(
        **{
            id: build(
                id,
                logs[id],
                term=3,
                members=members,
                seed=i,
                max_append_entries=1,
                pre_vote=False,
                check_quorum=False,
            )
            for i, id in enumerate(ids)
        }
    )
    # (c) S1 wins term 4, and entry 2 of term 2 reaches S3; its own entry of term 4 does not.
    cluster.time_out("s1")
    cluster.save("s1")
    for voter in ("s2", "s3"):
        cluster.deliver(lambda packet, voter=voter: packet.receiver == voter)
        cluster.save(voter)
    cluster.deliver(lambda packet: packet.receiver == "s1")
    assert cluster["s1"].role is Role.LEADER
    for _ in range(6):
        cluster.time_out("s1")
        cluster.save("s1")
        cluster.deliver(
            lambda packet: (
                {packet.sender, packet.receiver} <= {"s1", "s2", "s3"}
                and not (isinstance(packet.message, AppendEntries) and _own(packet.message))
            )
        )
        cluster.save("s2")
        cluster.save("s3")
    held = [cluster[id].log.matches(2, 2) for id in ids]
    assert held == [True, True, True, False, False]
    assert cluster["s1"].commit_index == 0
    # (d) S1 crashes; S5 wins with the votes of S3 and S4, and entry 2 of term 2 is gone.
    cluster.drop()
    cluster.isolate("s1")
    for _ in range(3):
        if cluster["s5"].role is Role.LEADER:
            break
        cluster.time_out("s5")
        cluster.settle()
    assert cluster["s5"].role is Role.LEADER
    assert cluster["s3"].log.term_at(2) == 3


def _own(message: AppendEntries) -> bool:
    return any(run.term == message.term for run in message.entries.runs)


def test_a_leader_counts_itself_only_when_it_has_saved() -> None:
    """L8: the leader's own match advances at its save (10.2.1; sc-C4)."""
    server = build("a")
    elect(server)
    acknowledge(server, "b", 2)
    assert (server.match_index("a"), server.commit_index) == (1, 0)
    save(server)
    assert (server.match_index("a"), server.commit_index) == (2, 2)


def test_a_majority_of_the_others_commits_before_the_leaders_disk() -> None:
    """L8: a leader with a slow disk commits by the others, but applies what it has saved."""
    server = build("a")
    elect(server)
    acknowledge(server, "b", 2)
    acknowledge(server, "c", 2)
    assert (server.commit_index, server.apply_end) == (2, 2)
    assert save(server).apply_end == 3


def test_a_single_voter_commits_only_what_it_has_saved() -> None:
    """L8: a cluster of one acknowledges after its own save (sc-C3)."""
    server = build("a", members=configuration("a"))
    campaign(server)
    save(server)
    outputs = step(server, Propose(1, 1, 100))
    assert (outputs.commit_index, outputs.apply_end) == (2, 3)
    outputs = save(server)
    assert (outputs.commit_index, outputs.apply_end) == (3, 4)


@pytest.mark.parametrize("order", list(permutations([(2, "b"), (4, "c"), (3, "d"), (5, "e")])))
def test_a_quorum_is_counted_from_the_matches_in_whatever_order_they_come(
    order: tuple[tuple[int, str], ...],
) -> None:
    """L4: the commit index is what a true quorum holds, whatever the order (sc-C5b)."""
    server = leader("a", members=configuration("abcde"))
    step(server, Propose(1, 3, 300))
    save(server)
    matches = {"a": 5, "b": 0, "c": 0, "d": 0, "e": 0}
    for match, peer in order:
        acknowledge(server, peer, match)
        matches[peer] = match
        agreed = sorted(matches.values())[2]
        assert server.commit_index == (agreed if agreed >= 2 else 0)


def test_late_acknowledgements_do_not_uncommit() -> None:
    """L4: neither late nor repeated answers lower what is committed (sc-C6)."""
    server = leader("a")
    step(server, Propose(1, 3, 300))
    save(server)
    acknowledge(server, "b", 5)
    acknowledge(server, "b", 2)
    acknowledge(server, "b", 5)
    assert server.commit_index == 5


def test_a_learner_does_not_count() -> None:
    """L4: only voters count (sc-M17)."""
    server = leader("a", members=configuration("abc", learners="de"))
    acknowledge(server, "d", 2)
    acknowledge(server, "e", 2)
    assert server.commit_index == 0
    acknowledge(server, "c", 2)
    assert server.commit_index == 2


def test_a_majority_of_the_union_is_not_one_of_both_halves() -> None:
    """L4: while joint, both halves must hold an entry (4.3; sc-C8)."""
    server = leader("a", members=configuration("abc", outgoing="ade"))
    acknowledge(server, "b", 2)
    acknowledge(server, "c", 2)
    assert server.commit_index == 0
    acknowledge(server, "e", 2)
    assert server.commit_index == 2


def test_a_leader_outside_the_configuration_does_not_count_itself() -> None:
    """M1: a leader that the latest configuration leaves out is not counted (sc-C5)."""
    server = leader("a")
    acknowledge(server, "b", 2)
    server.turn.append.clear()
    server.append_configuration(configuration("bcd"))
    save(server)
    acknowledge(server, "b", 3)
    assert server.commit_index == 2
    acknowledge(server, "c", 3)
    assert server.commit_index == 3


def test_a_smaller_configuration_commits_at_once_what_its_quorum_holds() -> None:
    """M1: a configuration counts from its append: earlier entries are counted anew (sc-C7)."""
    server = leader("a", members=configuration("abcd"))
    acknowledge(server, "b", 2)
    assert server.commit_index == 0
    server.append_configuration(configuration("ab"))
    step(server)
    assert server.commit_index == 2


def test_a_quarantined_follower_does_not_count() -> None:
    """L5: what a server lost is not counted as held."""
    server = leader("a")
    acknowledge(server, "b", 1)
    late = AppendEntriesResult(2, False, 1, server.state.sequence + 1, 0)
    assert hear(server, "b", late).changes == (Quarantined("b", 1, 0),)
    acknowledge(server, "b", 2)
    assert server.commit_index == 0


def test_after_a_restart_nothing_is_committed_but_the_snapshot() -> None:
    """L2: the commit index is learnt anew; it never lies below the snapshot (sc-C6)."""
    members = configuration()
    server = build("a", [2, 2], snapshot=(7, 1, members, 1), first_index=8, prev_term=1)
    assert (server.commit_index, server.apply_end) == (7, 8)
    hear(server, "b", append((9, 2), term=2, commit=3))
    assert (server.commit_index, server.apply_end) == (7, 8)


def test_acknowledged_writes_survive_any_leader_change() -> None:
    """L8: what was committed once is applied by every later leader (5.4.3)."""
    rng = random.Random(7)
    ids = "abcde"
    cluster = Cluster.of(
        **{id: build(id, seed=i, members=configuration(ids)) for i, id in enumerate(ids)}
    )
    acknowledged: list[object] = []
    for request in range(30):
        cluster.heal()
        cluster.run(3.6)
        (now_leading,) = cluster.leaders
        applied = cluster.nodes[now_leading].applied
        assert [each for each in applied if each in acknowledged] == acknowledged
        cluster.propose(now_leading, request)
        if rng.random() < 0.5:
            cluster.save(now_leading)
        for _ in range(rng.randrange(4)):
            some = rng.sample(ids, 3)
            cluster.deliver(lambda packet, some=some: packet.receiver in some)
            for id in some:
                cluster.save(id)
        cluster.step(now_leading)
        if (request, 0) in cluster.nodes[now_leading].applied:
            acknowledged.append((request, 0))
        cluster.isolate(now_leading)
        if rng.random() < 0.5:
            cluster.drop(lambda packet: rng.random() < 0.5)
        if rng.random() < 0.5:
            cluster.crash(now_leading)
    assert len(acknowledged) > 3


def test_a_slow_follower_does_not_hold_the_others() -> None:
    """L4: the quorum of the others commits (sc-R16)."""
    cluster = Cluster.of(a=build("a"), b=build("b", seed=2), c=build("c", seed=3))
    cluster.time_out("a")
    cluster.settle()
    for request in range(5):
        cluster.propose("a", request)
        cluster.save("a")
        cluster.deliver(lambda packet: packet.receiver == "b")
        cluster.save("b")
        cluster.deliver(lambda packet: packet.receiver == "a")
    assert cluster["a"].commit_index == 7
    assert cluster["c"].log.last_index == 2
    cluster.settle()
    assert cluster["c"].log.last_index == 7


def test_an_uncommitted_write_of_a_cut_off_leader_is_never_applied() -> None:
    """L4: a leader that was cut off commits nothing when it wakes up (sc-E19)."""
    cluster = Cluster.of(a=build("a"), b=build("b", seed=2), c=build("c", seed=3))
    cluster.time_out("a")
    cluster.settle()
    cluster.isolate("a")
    cluster.propose("a", 1)
    cluster.save("a")
    asleep = cluster.nodes.pop("a")
    cluster.run(4)
    (new,) = cluster.leaders
    cluster.propose(new, 2)
    cluster.settle()
    cluster.nodes["a"] = asleep
    cluster.heal()
    stale = append((2, 2), [2], term=2, sequence=3)
    cluster.step(new, Received("a", stale))
    cluster.run(4)
    assert (1, 0) not in cluster.nodes["a"].applied
    assert (2, 0) in cluster.nodes["a"].applied
    assert only(cluster.nodes["a"].outputs, AppendEntries) == [] or cluster.leaders == ["a"]
