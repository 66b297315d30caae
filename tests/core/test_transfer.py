"""Leadership transfer: the dissertation's 3.10."""

from __future__ import annotations

import pytest

from raft.core.events import PinIncarnations, Propose, Read, TransferLeadership
from raft.core.messages import AppendEntriesResult, RequestVote, TimeoutNow
from raft.core.outputs import Outputs, Refusal, Rejected, Role, Send, TransferEnded
from raft.core.server import Server
from tests.core.cluster import (
    HEARTBEAT,
    TIMEOUT,
    Cluster,
    append,
    build,
    configuration,
    elapse,
    hear,
    leader,
    only,
    save,
    step,
)


def ready(**keywords: object) -> Server:
    """Return a leader of term 2 whose followers have its whole log, [1, 2]."""
    server = leader("a", **keywords)
    for peer in server.peers:
        answer(server, peer, 2)
    return server


def answer(server: Server, peer: str, match: int) -> Outputs:
    sequence = server.state.sequence
    return hear(server, peer, AppendEntriesResult(2, True, match, sequence, match))


def test_a_transfer_tells_a_target_that_has_everything_to_campaign() -> None:
    """M10: TimeoutNow goes to a target that is caught up, once."""
    server = ready()
    outputs = step(server, TransferLeadership("b"))
    assert outputs.send == (Send("b", TimeoutNow(2)),)
    assert outputs.next_deadline <= server.now + TIMEOUT
    assert only(step(server), TimeoutNow) == []


def test_a_transfer_stops_new_proposals_definitely() -> None:
    """M10: proposals are refused meanwhile, definitely not done; reads go on (sc-E20)."""
    server = ready()
    step(server, TransferLeadership("b"))
    outputs = step(server, Propose(3, 1, 100))
    assert outputs.rejected == (Rejected(3, Refusal.TRANSFER_IN_PROGRESS),)
    assert (outputs.save, outputs.accepted) == (None, ())
    assert step(server, Read(4)).rejected == ()


def test_no_configuration_is_appended_during_a_transfer() -> None:
    """M10: an entry that the target lacks could cost it the election."""
    server = ready()
    step(server, TransferLeadership("b"))
    pins = PinIncarnations((("a", "A"),))
    assert step(server, pins).save is None
    elapse(server, TIMEOUT / 2)
    answer(server, "c", 2)
    elapse(server, TIMEOUT / 2 + 0.001)
    assert step(server, pins).save is not None


def test_a_transfer_first_catches_the_target_up() -> None:
    """M10: the target is caught up first (sc-E20)."""
    server = ready()
    step(server, Propose(1, 3, 300))
    assert only(step(server, TransferLeadership("b")), TimeoutNow) == []
    assert only(answer(server, "b", 4), TimeoutNow) == []
    assert only(answer(server, "b", 5), TimeoutNow) == [TimeoutNow(2)]


def test_a_transfer_is_given_up_after_an_election_timeout() -> None:
    """M10: abort after one election timeout and resume (sc-E20)."""
    server = ready()
    step(server, TransferLeadership("b"))
    elapse(server, TIMEOUT / 2)
    answer(server, "c", 2)
    outputs = elapse(server, TIMEOUT / 2 + 0.001)
    assert outputs.changes == (TransferEnded(None),)
    assert step(server, Propose(1, 1, 100)).accepted


def test_the_leader_goes_on_counting_itself_during_a_transfer() -> None:
    """M10: the leader keeps counting itself: what was proposed before still commits."""
    server = ready()
    step(server, Propose(1, 1, 100))
    step(server, TransferLeadership("b"))
    save(server)
    answer(server, "c", 3)
    assert server.commit_index == 3


@pytest.mark.parametrize("target", ["a", "d", "z"])
def test_only_another_voter_can_be_a_target(target: str) -> None:
    """M10: the target must be a voter (sc-E20)."""
    server = ready(members=configuration("abc", learners="d"))
    outputs = step(server, TransferLeadership(target))
    assert outputs.changes == (TransferEnded(Refusal.NOT_A_VOTER),)
    assert step(server, Propose(1, 1, 100)).accepted


def test_without_a_target_the_most_up_to_date_voter_is_chosen() -> None:
    """M10: or to the most up-to-date voter; a learner is none."""
    server = ready(members=configuration("abc", learners="d"))
    step(server, Propose(1, 1, 100))
    answer(server, "d", 3)
    answer(server, "c", 3)
    assert step(server, TransferLeadership()).send == (Send("c", TimeoutNow(2)),)
    alone = leader("a", members=configuration("a"))
    assert step(alone, TransferLeadership()).changes == (TransferEnded(Refusal.NOT_A_VOTER),)


def test_a_second_transfer_is_refused_while_one_is_under_way() -> None:
    """M10: one transfer at a time (sc-E20)."""
    server = ready()
    step(server, TransferLeadership("b"))
    outputs = step(server, TransferLeadership("c"))
    assert outputs.changes == (TransferEnded(Refusal.TRANSFER_IN_PROGRESS),)
    assert server.state.transfer.target == "b"


@pytest.mark.parametrize(("known", "reason"), [(True, "NOT_LEADER"), (False, "NO_LEADER")])
def test_only_a_leader_can_hand_over(known: bool, reason: str) -> None:
    """M10: who does not lead says so."""
    server = build("a")
    if known:
        hear(server, "b", append((1, 1)))
    outputs = step(server, TransferLeadership("b"))
    assert outputs.changes == (TransferEnded(Refusal[reason]),)


def test_the_target_skips_the_pre_vote_and_sets_the_flag() -> None:
    """M10: the target campaigns at once, at the next term, with the transfer flag."""
    server = build("b", [1, 2])
    hear(server, "a", append((2, 2), term=2))
    outputs = hear(server, "a", TimeoutNow(2))
    assert (server.role, server.current_term) == (Role.CANDIDATE, 3)
    assert outputs.send == (
        Send("a", RequestVote(3, 2, 2, leadership_transfer=True), after=1),
        Send("c", RequestVote(3, 2, 2, leadership_transfer=True), after=1),
    )


def test_timeout_now_is_bound_to_its_term_and_sender() -> None:
    """M10: a late TimeoutNow, or one of another than the leader, begins nothing."""
    server = build("b", [1, 2])
    hear(server, "a", append((2, 2), term=2))
    hear(server, "a", TimeoutNow(1))
    hear(server, "c", TimeoutNow(2))
    assert (server.role, server.current_term) == (Role.FOLLOWER, 2)
    hear(server, "a", TimeoutNow(2), TimeoutNow(2))
    assert server.current_term == 3


def test_a_leader_takes_no_timeout_now() -> None:
    """M10: whoever leads the term does not campaign against itself."""
    server = ready()
    hear(server, "b", TimeoutNow(2))
    assert (server.role, server.current_term) == (Role.LEADER, 2)


def test_a_whole_transfer_moves_the_leadership_within_one_term() -> None:
    """M10: transcript: the target leads, everybody follows, nothing was lost."""
    cluster = Cluster.of(a=build("a"), b=build("b", seed=2), c=build("c", seed=3))
    cluster.time_out("a")
    cluster.settle()
    cluster.propose("a", 1)
    cluster.step("a", TransferLeadership("c"))
    cluster.settle()
    cluster.beat("c")
    assert (cluster.leaders, cluster["c"].current_term) == (["c"], 3)
    assert {cluster[id].leader_id for id in "abc"} == {"c"}
    assert (1, 0) in cluster.nodes["c"].applied


@pytest.mark.parametrize("lost", ["TimeoutNow", "RequestVote", "RequestVoteResult"])
def test_a_transfer_that_dies_does_not_stop_the_cluster(lost: str) -> None:
    """M10: whatever is lost on the way, a leader takes writes again (sc-E20)."""
    cluster = Cluster.of(a=build("a"), b=build("b", seed=2), c=build("c", seed=3))
    cluster.time_out("a")
    cluster.settle()
    cluster.step("a", TransferLeadership("c"))
    for _ in range(6):
        cluster.drop(lambda packet: type(packet.message).__name__ == lost)
        for id in "abc":
            cluster.save(id)
        cluster.drop(lambda packet: type(packet.message).__name__ == lost)
        cluster.deliver()
    cluster.run(12 * TIMEOUT)
    (new,) = cluster.leaders
    cluster.propose(new, 5)
    cluster.run(TIMEOUT)
    for id in "abc":
        assert (5, 0) in cluster.nodes[id].applied


def test_a_transfer_to_a_target_that_is_down_ends() -> None:
    """M10: a target that died costs an election timeout (sc-E20)."""
    cluster = Cluster.of(a=build("a"), b=build("b", seed=2), c=build("c", seed=3))
    cluster.time_out("a")
    cluster.settle()
    cluster.isolate("c")
    cluster.propose("a", 1)
    cluster.step("a", TransferLeadership("c"))
    cluster.run(2 * TIMEOUT)
    assert cluster.leaders == ["a"]
    assert cluster.propose("a", 2).accepted


def test_a_target_that_lost_its_entries_is_given_up_at_once() -> None:
    """M10: it could not win, and nobody sends it what it lacks (L5)."""
    server = ready()
    step(server, TransferLeadership("b"))
    elapse(server, HEARTBEAT)
    lost = AppendEntriesResult(2, False, 2, server.state.sequence, 0)
    outputs = hear(server, "b", lost)
    assert TransferEnded(None) in outputs.changes
    assert step(server, Propose(1, 1, 100)).accepted


def test_a_leader_that_is_deposed_ends_its_transfer() -> None:
    """M10: a transfer does not outlive the leadership."""
    server = ready()
    step(server, TransferLeadership("b"))
    outputs = hear(server, "b", RequestVote(3, 2, 2, leadership_transfer=True))
    assert TransferEnded(None) in outputs.changes
    assert server.role is Role.FOLLOWER


def test_each_transfer_tells_its_own_end() -> None:
    """M10: one that is refused ends nobody else's; one that is given up says so to who asked."""
    server = ready()
    step(server, TransferLeadership("b", 7))
    refused = step(server, TransferLeadership("c", 8))
    assert refused.changes == (TransferEnded(Refusal.TRANSFER_IN_PROGRESS, 8),)
    elapse(server, TIMEOUT / 2)
    for peer in server.peers:
        answer(server, peer, 2)
    assert elapse(server, TIMEOUT / 2).changes == (TransferEnded(None, 7),)
    assert step(server, TransferLeadership("z", 9)).changes == (
        TransferEnded(Refusal.NOT_A_VOTER, 9),
    )
    hear(server, "b", append((2, 2), term=3))
    assert step(server, TransferLeadership("b", 10)).changes == (
        TransferEnded(Refusal.NOT_LEADER, 10),
    )
