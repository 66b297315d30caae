"""Leader election: the paper's 5.2 and 5.4.1, the dissertation's 4.2.3, 6.2 and 9.6."""

from __future__ import annotations

import math
import random

import pytest

from raft.core.events import Bootstrap, Propose, Read, Received, Saved
from raft.core.messages import (
    AppendEntriesResult,
    InstallSnapshot,
    InstallSnapshotResult,
    PreVote,
    PreVoteResult,
    ReadIndex,
    ReadIndexResult,
    RequestVote,
    RequestVoteResult,
    TimeoutNow,
)
from raft.core.outputs import (
    HardState,
    NoOp,
    Outputs,
    Refusal,
    Rejected,
    Role,
    RoleChanged,
    Save,
    Send,
)
from raft.errors import InvariantViolated
from tests.core.cluster import (
    TIMEOUT,
    Cluster,
    answer,
    append,
    build,
    campaign,
    configuration,
    elapse,
    elect,
    hear,
    leader,
    only,
    save,
    step,
    time_out,
)

SEVEN = 7


def granted(outputs: Outputs) -> bool:
    return bool(answer(outputs).vote_granted)


# E1: term and vote are durable before anything that shows them.


def test_a_vote_leaves_only_once_it_is_saved() -> None:
    """E1: (term, voted_for) is durable before any reply that shows it (sc-E11)."""
    server = build("a", term=1)
    deadline = server.election_deadline
    outputs = hear(server, "b", RequestVote(2, 1, 1))
    assert outputs == Outputs(
        save=Save(1, HardState(2, "b")),
        send=(Send("b", RequestVoteResult(2, vote_granted=True), after=1),),
        changes=(RoleChanged(Role.FOLLOWER, 2, None),),
        next_deadline=server.election_deadline,
    )
    assert server.election_deadline != deadline


def test_a_vote_in_a_term_that_is_saved_already_is_saved_before_it_leaves() -> None:
    """E1: a term may be learnt first, and voted in later."""
    server = build("a", term=2)
    outputs = hear(server, "b", RequestVote(2, 1, 1))
    assert outputs.save == Save(1, HardState(2, "b"))
    assert outputs.send == (Send("b", RequestVoteResult(2, vote_granted=True), after=1),)


def test_a_candidate_asks_only_once_its_own_vote_is_saved() -> None:
    """E1: a request that shows a term and a vote waits for them."""
    server = build("a", pre_vote=False)
    outputs = time_out(server)
    assert outputs == Outputs(
        save=Save(1, HardState(2, "a")),
        send=(
            Send("b", RequestVote(2, 1, 1), after=1),
            Send("c", RequestVote(2, 1, 1), after=1),
        ),
        changes=(RoleChanged(Role.CANDIDATE, 2, None),),
        next_deadline=server.election_deadline,
    )


def test_a_candidate_counts_its_own_vote_only_once_it_is_saved() -> None:
    """E1: the candidate's own vote is a vote like any other."""
    server = build("a", pre_vote=False)
    time_out(server)
    hear(server, "b", RequestVoteResult(2, vote_granted=True))
    assert server.role is Role.CANDIDATE
    save(server)
    assert server.role is Role.LEADER


def test_no_majority_elects_a_candidate_whose_term_is_not_saved() -> None:
    """E1: a leader that forgets its term would not know whose entries those were."""
    server = build("a", members=configuration("abcde"), pre_vote=False)
    time_out(server)
    for voter in "bcd":
        hear(server, voter, RequestVoteResult(2, vote_granted=True))
    assert server.role is Role.CANDIDATE
    save(server)
    assert server.role is Role.LEADER


def test_an_earlier_save_does_not_count_the_candidates_vote() -> None:
    """E1: the save of entries that came before the vote says nothing of the vote."""
    server = build("a", pre_vote=False)
    hear(server, "b", append((1, 1), [1]))
    time_out(server)
    hear(server, "b", RequestVoteResult(2, vote_granted=True))
    step(server, Saved(1))
    assert server.role is Role.CANDIDATE
    step(server, Saved(2))
    assert server.role is Role.LEADER


@pytest.mark.parametrize(
    "message",
    [
        RequestVote(SEVEN, 1, 1),
        RequestVoteResult(SEVEN, vote_granted=False),
        append((1, 1), term=SEVEN),
        AppendEntriesResult(SEVEN, False, 1, 1, 1),
        InstallSnapshot(SEVEN, 1, 1, configuration(), 1, 1),
        InstallSnapshotResult(SEVEN, 1, 1),
        ReadIndex(SEVEN, 1),
        ReadIndexResult(SEVEN, 1, None),
        PreVoteResult(SEVEN, vote_granted=False),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_newer_term_in_any_message_is_written_and_clears_vote_and_leader(message: object) -> None:
    """E1: a term learnt from any message is written, and clears voted_for and the leader."""
    server = build("a", [1, 1, 2], term=2, voted_for="a")
    hear(server, "c", append((3, 2), term=2))
    elapse(server, TIMEOUT + 0.001)
    assert server.leader_id == "c"
    outputs = hear(server, "b", message)
    assert outputs.save is not None
    assert outputs.save.hard_state is not None
    assert outputs.save.hard_state.current_term == SEVEN
    assert server.voted_for in (None, "b")
    assert server.leader_id in (None, "b")
    assert all(send.after == outputs.save.ticket for send in outputs.send)


def test_a_term_is_saved_with_or_before_its_first_entry() -> None:
    """E1: an entry of term t may be durable only after term t: they share one save."""
    server = build("a")
    outputs = hear(server, "b", append((1, 1), [4], term=4))
    assert outputs.save is not None
    assert outputs.save.hard_state == HardState(4, None)
    assert len(outputs.save.append) == 1


def test_a_recovered_log_above_the_recovered_term_is_refused() -> None:
    """E1: a log that ends above the saved term cannot have been written by this rule."""
    with pytest.raises(InvariantViolated, match="above term 2"):
        build("a", [1, 3], term=2)


def test_the_vote_of_a_term_survives_a_restart() -> None:
    """E1: one durable vote per server and term, across restarts (sc-E11)."""
    cluster = Cluster.of(a=build("a"), b=build("b", seed=2), c=build("c", seed=3))
    cluster.step("a", Received("b", RequestVote(2, 1, 1)))
    cluster.save("a")
    cluster.crash("a")
    assert cluster["a"].voted_for == "b"
    assert granted(cluster.step("a", Received("b", RequestVote(2, 1, 1))))
    assert not granted(cluster.step("a", Received("c", RequestVote(2, 5, 1))))


def test_a_vote_that_was_not_saved_was_never_shown() -> None:
    """E1: a server that crashes before its vote is saved has told nobody of it."""
    cluster = Cluster.of(a=build("a"), b=build("b", seed=2), c=build("c", seed=3))
    cluster.step("a", Received("b", RequestVote(2, 1, 1)))
    assert cluster.network == []
    cluster.crash("a")
    assert (cluster["a"].current_term, cluster["a"].voted_for) == (1, None)


# E2: the up-to-date check.


@pytest.mark.parametrize(
    ("last_index", "last_term", "up_to_date"),
    [(3, 2, True), (4, 2, True), (2, 2, False), (1, 3, True), (9, 1, False)],
)
def test_logs_are_compared_by_the_pair_of_last_term_and_last_index(
    last_index: int, last_term: int, up_to_date: bool
) -> None:
    """E2: a candidate is up to date iff (lastTerm, lastIndex) >= ours, as a pair (sc-E13)."""
    server = build("a", [1, 1, 2])
    assert granted(hear(server, "b", RequestVote(3, last_index, last_term))) is up_to_date
    server = build("a", [1, 1, 2])
    assert granted(hear(server, "b", PreVote(3, last_index, last_term))) is up_to_date


# E3: votes are sets.


def test_the_same_vote_twice_is_one_vote() -> None:
    """E3: votes are a set of ids, never a number (sc-E12)."""
    server = build("a", members=configuration("abcde"), pre_vote=False)
    campaign(server)
    yes = RequestVoteResult(2, vote_granted=True)
    hear(server, "b", yes, yes)
    hear(server, "b", yes)
    assert server.role is Role.CANDIDATE
    hear(server, "c", yes)
    assert server.role is Role.LEADER


def test_votes_of_another_term_do_not_count() -> None:
    """E3: only grants of the current term count; each campaign begins with none."""
    server = build("a", pre_vote=False)
    campaign(server)
    campaign(server)
    assert server.current_term == 3
    hear(server, "b", RequestVoteResult(2, vote_granted=True))
    assert server.role is Role.CANDIDATE
    hear(server, "c", RequestVoteResult(3, vote_granted=False))
    assert server.role is Role.CANDIDATE


def test_pre_votes_are_not_votes() -> None:
    """E3: only grants of the phase count: no leader from pre-votes (sc-E10)."""
    server = build("a", members=configuration("abcde"))
    campaign(server)
    assert server.role is Role.CANDIDATE
    for peer in "bcde":
        hear(server, peer, PreVoteResult(server.current_term, True), PreVoteResult(3, True))
    assert server.role is Role.CANDIDATE


def test_a_vote_is_no_pre_vote() -> None:
    """E3: a pre-candidate counts no grants of RequestVote."""
    server = build("a")
    time_out(server)
    outputs = hear(server, "b", RequestVoteResult(1, vote_granted=True))
    assert (server.role, server.current_term, outputs.send) == (Role.PRE_CANDIDATE, 1, ())


def test_votes_of_learners_and_strangers_do_not_count() -> None:
    """E3: a majority is one of voters."""
    server = build("a", members=configuration("abc", learners="d"), pre_vote=False)
    campaign(server)
    for stranger in "dz":
        hear(server, stranger, RequestVoteResult(2, vote_granted=True))
    assert server.role is Role.CANDIDATE


def test_pre_votes_of_another_term_do_not_count() -> None:
    """E3: only grants of the term that was asked for count."""
    server = build("a", term=4)
    time_out(server)
    for late in (3, 4, 6):
        hear(server, "b", PreVoteResult(late, vote_granted=True))
    assert server.role is Role.PRE_CANDIDATE
    hear(server, "b", PreVoteResult(5, vote_granted=True))
    assert server.role is Role.CANDIDATE


def test_half_of_an_even_cluster_is_no_majority() -> None:
    """E3: two of four are no quorum (sc-E14)."""
    server = build("a", members=configuration("abcd"), pre_vote=False)
    campaign(server)
    hear(server, "b", RequestVoteResult(2, vote_granted=True))
    assert server.role is Role.CANDIDATE
    hear(server, "c", RequestVoteResult(2, vote_granted=True))
    assert server.role is Role.LEADER


def test_a_joint_configuration_elects_by_both_halves() -> None:
    """E3: while joint, a majority of both halves is needed (4.3)."""
    server = build("a", members=configuration("abc", outgoing="ade"), pre_vote=False)
    campaign(server)
    hear(server, "b", RequestVoteResult(2, vote_granted=True))
    assert server.role is Role.CANDIDATE
    hear(server, "d", RequestVoteResult(2, vote_granted=True))
    assert server.role is Role.LEADER


@pytest.mark.parametrize("pre_vote", [True, False])
def test_a_single_voter_elects_itself_without_messages(pre_vote: bool) -> None:
    """E3: a single voter elects itself, once its vote is saved (sc-E21)."""
    server = build("a", members=configuration("a"), pre_vote=pre_vote)
    outputs = time_out(server)
    assert (server.role, outputs.send) == (Role.CANDIDATE, ())
    outputs = save(server)
    assert outputs.save == Save(2, append=(NoOp(2, 2),))
    save(server)
    assert (server.role, server.commit_index) == (Role.LEADER, 2)


def test_a_single_voter_with_a_snapshot_only_leads_again() -> None:
    """E3: a single voter restarts from its snapshot alone (sc-E21)."""
    alone = configuration("a")
    server = build("a", [], snapshot=(9, 3, alone, 4), first_index=10, prev_term=3, term=3)
    elect(server)
    save(server)
    assert (server.role, server.commit_index, server.apply_end) == (Role.LEADER, 10, 11)


# E4: everyone answers everything.


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize(
    ("message", "refusal"),
    [
        (PreVote(1, 9, 1), PreVoteResult(5, vote_granted=False)),
        (RequestVote(1, 9, 1), RequestVoteResult(5, vote_granted=False)),
        (ReadIndex(1, 8), ReadIndexResult(5, 8, None)),
        (append((1, 1), term=1), AppendEntriesResult(5, False, 1, 0, 2, 1, 1, TIMEOUT)),
        (
            InstallSnapshot(1, 1, 1, configuration(), 1, 44),
            InstallSnapshotResult(5, 0, sequence=0),
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_role_answers_a_lower_term_with_its_own(
    role: Role, message: object, refusal: object
) -> None:
    """E4: every role answers every RPC, of lower terms too: refused, with its own term."""
    server = build("a", [1, 3], term=4 if role in (Role.CANDIDATE, Role.LEADER) else 5)
    if role is Role.PRE_CANDIDATE:
        time_out(server)
    elif role is Role.CANDIDATE:
        campaign(server)
    elif role is Role.LEADER:
        elect(server)
    else:
        hear(server, "c", append((2, 3), term=5))
    assert (server.role, server.current_term) == (role, 5)
    save(server)
    outputs = hear(server, "b", message)
    if isinstance(message, RequestVote | PreVote | ReadIndex):
        assert answer(outputs) == refusal
    else:
        result = answer(outputs)
        assert (result.term, result.sequence) == (5, 0)
    assert (server.role, server.current_term, outputs.save) == (role, 5, None)


def test_a_free_vote_is_not_given_to_a_lower_term() -> None:
    """E4: a candidate of a lower term is refused by who could vote in its own."""
    server = build("a", term=5)
    outputs = hear(server, "b", RequestVote(4, 9, 4))
    assert (answer(outputs), outputs.save) == (RequestVoteResult(5, vote_granted=False), None)
    assert server.voted_for is None


def test_a_late_message_of_a_lower_term_changes_nothing() -> None:
    """E4: a refused message of a lower term is not adopted: no leader, no timer, no log."""
    server = build("a", [1, 3], term=5)
    deadline = server.election_deadline
    hear(server, "b", append((1, 1), [2], term=4, commit=2))
    assert (server.log.last_term, server.commit_index, server.leader_id) == (3, 0, None)
    assert server.election_deadline == deadline


# E5: pre-vote.


def test_a_pre_candidate_asks_at_the_next_term_and_changes_nothing() -> None:
    """E5: a pre-vote asks at term+1 and writes nothing; the own leader is forgotten."""
    server = build("a", [1, 2])
    hear(server, "b", append((2, 2), term=2))
    outputs = time_out(server)
    assert outputs == Outputs(
        send=(Send("b", PreVote(3, 2, 2)), Send("c", PreVote(3, 2, 2))),
        apply_end=1,
        changes=(RoleChanged(Role.PRE_CANDIDATE, 2, None),),
        next_deadline=server.election_deadline,
    )


def test_a_pre_vote_changes_nothing_at_the_voter() -> None:
    """E5: the receiver sets no vote, no term, no timer, no last contact (sc-E9)."""
    server = build("a", voted_for="c")
    deadline = server.election_deadline
    outputs = hear(server, "b", PreVote(9, 5, 1))
    assert outputs == Outputs(
        send=(Send("b", PreVoteResult(9, vote_granted=True)),), next_deadline=deadline
    )
    assert (server.current_term, server.voted_for) == (1, "c")


def test_a_refusal_of_a_pre_vote_carries_the_voters_own_term() -> None:
    """E5: a grant carries the requested term, a refusal the voter's own (sc-E8)."""
    server = build("a", [1, 2], term=6)
    assert answer(hear(server, "b", PreVote(3, 9, 2))) == PreVoteResult(6, vote_granted=False)
    assert answer(hear(server, "b", PreVote(7, 9, 1))) == PreVoteResult(6, vote_granted=False)
    assert answer(hear(server, "b", PreVote(6, 2, 2))) == PreVoteResult(6, vote_granted=True)


def test_a_refused_pre_candidate_of_a_lower_term_adopts_the_higher() -> None:
    """E5: else a stale log of a high term and a good log of a low one wait for ever (sc-E8)."""
    good = build("a", [1, 2, 2], term=2, members=configuration("ab"))
    stale = build("b", [1], term=8, seed=2, members=configuration("ab"))
    cluster = Cluster.of(a=good, b=stale)
    for _ in range(6):
        if cluster.leaders:
            break
        cluster.time_out("b")
        cluster.settle()
        cluster.time_out("a")
        cluster.settle()
    assert cluster.leaders == ["a"]


@pytest.mark.parametrize("begun", [0.0, 64.0])
def test_who_hears_a_leader_grants_no_pre_vote(begun: float) -> None:
    """E5: granted only if no leader was heard within election_timeout_min (sc-E2)."""
    server = build("a", [1, 2], now=begun, election_timeout_seconds=0.25)
    hear(server, "b", append((2, 2), term=2))
    elapse(server, 0.1875)
    assert not granted(hear(server, "c", PreVote(3, 2, 2)))
    elapse(server, 0.0625)
    assert granted(hear(server, "c", PreVote(3, 2, 2)))


def test_a_leader_counts_itself_as_heard_while_its_quorum_answers() -> None:
    """E5: a leader counts itself as heard as long as its quorum answers."""
    server = leader("a", check_quorum=True)
    elapse(server, TIMEOUT - 0.01)
    assert not granted(hear(server, "c", PreVote(3, 9, 2)))
    fresh = elapse(server, 0.009)
    assert server.role is Role.LEADER
    assert not only(fresh, PreVoteResult)


def test_a_leader_counts_itself_as_heard_for_no_longer_than_that() -> None:
    """E5: where it would step down in this turn, it stands in nobody's way."""
    server = leader("a", election_timeout_seconds=0.25)
    beat = AppendEntriesResult(2, True, 2, server.state.sequence, 2)
    server.step([Received("b", beat)], 8.0)
    for moment, expected in [(8.1875, False), (8.25, True)]:
        outputs = server.step([Received("c", PreVote(3, 9, 2))], moment)
        assert [each.vote_granted for each in only(outputs, PreVoteResult)] == [expected]
    assert server.role is Role.FOLLOWER


def test_a_known_leader_that_asks_has_restarted() -> None:
    """E5: a server whose known leader is the asker has not heard a leader."""
    server = build("a", [1, 2])
    hear(server, "b", append((2, 2), term=2))
    assert granted(hear(server, "b", PreVote(3, 2, 2)))
    assert not granted(hear(server, "c", PreVote(3, 2, 2)))


def test_a_candidate_answers_a_pre_vote_like_anyone() -> None:
    """E5: a candidate answers; by E2 the longer log gets its grant."""
    server = build("a", [1, 2], pre_vote=False)
    campaign(server)
    assert granted(hear(server, "b", PreVote(3, 3, 2)))
    assert not granted(hear(server, "b", PreVote(3, 1, 2)))


def test_a_pre_vote_that_succeeds_begins_an_election() -> None:
    """E5: a majority of grants, the own one among them, begins the real election."""
    server = build("a", members=configuration("abcde"))
    time_out(server)
    hear(server, "b", PreVoteResult(2, True), PreVoteResult(2, True))
    assert server.role is Role.PRE_CANDIDATE
    hear(server, "c", PreVoteResult(1, vote_granted=False))
    assert server.role is Role.PRE_CANDIDATE
    hear(server, "d", PreVoteResult(2, vote_granted=True))
    assert (server.role, server.current_term) == (Role.CANDIDATE, 2)


def test_a_server_that_was_cut_off_comes_back_without_an_election() -> None:
    """E5: an isolated server does not raise its term, and disturbs nobody (sc-E1)."""
    cluster = Cluster.of(a=build("a"), b=build("b", seed=2), c=build("c", seed=3))
    cluster.run(4 * TIMEOUT)
    (elected,) = cluster.leaders
    away = next(id for id in "abc" if id != elected)
    cluster.isolate(away)
    cluster.run(20 * TIMEOUT)
    assert cluster[away].role is Role.PRE_CANDIDATE
    cluster.heal()
    cluster.run(4 * TIMEOUT)
    assert (cluster.leaders, cluster[elected].current_term) == ([elected], 2)
    assert cluster[away].leader_id == elected


def test_servers_with_and_without_pre_vote_elect_a_leader_together() -> None:
    """E5: options may differ between servers (sc-E24, sc-U5)."""
    cluster = Cluster.of(
        a=build("a", pre_vote=False), b=build("b", seed=2), c=build("c", seed=3, pre_vote=False)
    )
    cluster.run(12 * TIMEOUT)
    (elected,) = cluster.leaders
    assert {cluster[id].leader_id for id in "abc"} == {elected}


# E6: stickiness.


def test_who_votes_asks_for_no_votes() -> None:
    """E6: a grant resets the timer, and ends the voter's own attempt."""
    server = build("a", term=2)
    time_out(server)
    assert granted(hear(server, "b", RequestVote(2, 1, 1)))
    assert server.role is Role.FOLLOWER


def test_a_vote_request_is_refused_while_a_leader_is_heard() -> None:
    """E6: a RequestVote is a disruption while a leader was heard: no term adopted (4.2.3)."""
    server = build("a", [1, 2])
    hear(server, "b", append((2, 2), term=2))
    elapse(server, TIMEOUT - 0.001)
    outputs = hear(server, "c", RequestVote(9, 5, 5))
    assert (outputs.save, answer(outputs)) == (None, RequestVoteResult(2, vote_granted=False))
    elapse(server, 0.001)
    assert granted(hear(server, "c", RequestVote(9, 5, 5)))


def test_a_leader_with_its_quorum_refuses_a_vote_request() -> None:
    """E6: a removed server of a higher term does not disturb the leader (sc-E17)."""
    server = leader("a")
    assert answer(hear(server, "z", RequestVote(9, 9, 9))).term == 2
    assert server.role is Role.LEADER


def test_the_transfer_flag_passes_stickiness() -> None:
    """E6: unless it carries the transfer flag: the leader itself wishes it."""
    server = build("a", [1, 2])
    hear(server, "b", append((2, 2), term=2))
    assert granted(hear(server, "c", RequestVote(3, 2, 2, leadership_transfer=True)))


def test_only_a_granted_vote_or_the_leader_resets_the_timer() -> None:
    """E6: a refused vote, a pre-vote or an adopted term do not reset the election timer."""
    server = build("a", [1, 2])
    deadline = server.election_deadline
    elapse(server, 0.01)
    hear(server, "b", RequestVote(5, 1, 1), PreVote(6, 9, 9), append((2, 2), term=1))
    assert (server.election_deadline, server.current_term) == (deadline, 5)
    hear(server, "b", RequestVote(6, 2, 2))
    assert server.election_deadline != deadline
    deadline = server.election_deadline
    hear(server, "c", append((2, 2), term=6))
    assert server.election_deadline != deadline


# E7: check-quorum.


def test_a_leader_without_its_quorum_steps_down() -> None:
    """E7: without replies from a quorum for election_timeout the leader steps down (sc-E3)."""
    server = leader("a", members=configuration("abcde"))
    elapse(server, 0.1)
    result = AppendEntriesResult(2, False, 1, 1, 1)
    hear(server, "b", result)
    hear(server, "b", result)
    elapse(server, TIMEOUT - 0.11)
    assert server.role is Role.LEADER
    elapse(server, 0.07)
    assert (server.role, server.leader_id, server.current_term) == (Role.FOLLOWER, None, 2)
    assert server.now < server.election_deadline < float("inf")


def test_what_a_quarantined_follower_said_is_no_contact() -> None:
    """E7: it is in no quorum, from the moment on at which its disk went back."""
    server = leader("a")
    for peer in "bc":
        hear(server, peer, AppendEntriesResult(2, True, 2, server.state.sequence, 2))
    elapse(server, TIMEOUT / 2)
    hear(server, "b", AppendEntriesResult(2, False, 2, server.state.sequence, 1, 1, 1))
    elapse(server, TIMEOUT / 2 + 0.01)
    assert server.role is Role.FOLLOWER


@pytest.mark.parametrize("quorum", [True, False])
def test_who_steps_down_sends_no_heartbeat_any_more(quorum: bool) -> None:
    """E7: neither without its quorum nor without its disk."""
    server = leader("a", disk_timeout_seconds=1.0, check_quorum=quorum)
    step(server, Propose(1, 1, 100))
    outputs = elapse(server, TIMEOUT * 2 if quorum else 1.5)
    assert (server.role, outputs.send) == (Role.FOLLOWER, ())


def test_refusals_count_as_contact() -> None:
    """E7: replies of its term count, refusals of the log included."""
    server = leader("a", [1, 1, 1])
    elapse(server, 0.1)
    hear(server, "b", AppendEntriesResult(2, False, 3, 1, 1, 1, 1))
    elapse(server, TIMEOUT - 0.01)
    assert server.role is Role.LEADER
    elapse(server, 0.07)
    assert server.role is Role.FOLLOWER


def test_a_leader_in_touch_with_one_of_five_frees_it() -> None:
    """E7: a leader that lost its quorum does not hold back those it still reaches (sc-E7)."""
    ids = "abcde"
    cluster = Cluster.of(
        **{id: build(id, seed=i, members=configuration(ids)) for i, id in enumerate(ids)}
    )
    cluster.run(4 * TIMEOUT)
    (old,) = cluster.leaders
    held, *others = [id for id in ids if id != old]
    for other in others:
        cluster.cut.add(frozenset({old, other}))
    cluster.run(12 * TIMEOUT)
    (new,) = cluster.leaders
    assert new != old
    assert cluster[held].leader_id == new


@pytest.mark.parametrize("reading", [False, True])
def test_a_leader_whose_disk_hangs_steps_down(reading: bool) -> None:
    """E7: a leader that cannot save steps down, however many reads keep it busy (sc-E18).

    sc-F10.
    """
    server = leader("a", disk_timeout_seconds=1.0)
    hear(server, "b", AppendEntriesResult(2, True, 2, server.state.sequence, 2))
    step(server, Propose(1, 1, 100))
    for beat in range(60):
        if server.role is not Role.LEADER:
            break
        elapse(server, 0.02)
        if server.role is Role.LEADER:
            if reading:
                step(server, Read(beat))
            for peer in "bc":
                sequence = server.state.sequence
                hear(server, peer, AppendEntriesResult(2, True, 3, sequence, 3))
    assert server.role is Role.FOLLOWER
    assert server.commit_index == 3
    assert server.apply_end == 3


def test_a_save_that_is_told_twice_does_not_hide_a_disk_that_hangs() -> None:
    """E7: it is the next save that has been waiting (sc-E18)."""
    server = leader("a", disk_timeout_seconds=1.0, check_quorum=False)
    step(server, Propose(1, 1, 100))
    step(server, Propose(2, 1, 100))
    done = server.last_ticket - 1
    step(server, Saved(done))
    begun = server.now
    for half in (0.5, 1.0):
        assert server.role is Role.LEADER
        server.step([Saved(done)], begun + half)
    assert server.role is Role.FOLLOWER


# E8: voters and learners.


def test_a_learner_votes_but_never_campaigns() -> None:
    """E8: a learner that is asked votes: it may be a voter without knowing (4.1; sc-E16)."""
    server = build("a", members=configuration("bc", learners="a"))
    assert server.election_deadline == float("inf")
    outputs = server.step((), 1e9)
    assert (outputs, server.role) == (
        Outputs(next_deadline=float("inf")),
        Role.FOLLOWER,
    )
    assert granted(hear(server, "z", RequestVote(2, 1, 1)))


def test_who_may_not_campaign_forgets_a_leader_that_is_silent() -> None:
    """E8: it would send clients to a leader of long ago, as nothing else makes it forget."""
    server = build("a", [1, 2], members=configuration("bc", learners="a"))
    outputs = hear(server, "b", append((2, 2), term=2))
    assert outputs.next_deadline == server.now + TIMEOUT
    elapse(server, TIMEOUT * 0.9)
    assert server.leader_id == "b"
    hear(server, "b", append((2, 2), term=2))
    elapse(server, TIMEOUT * 0.9)
    assert server.leader_id == "b"
    outputs = elapse(server, TIMEOUT * 0.2)
    assert outputs.changes == (RoleChanged(Role.FOLLOWER, 2, None),)
    assert (outputs.send, outputs.next_deadline) == ((), math.inf)
    assert server.leader_id is None


def test_a_learner_does_not_campaign_on_timeout_now() -> None:
    """E8: a non-voter never campaigns, also not on TimeoutNow."""
    server = build("a", members=configuration("bc", learners="a"))
    hear(server, "b", append((1, 1), term=2))
    hear(server, "b", TimeoutNow(2))
    assert (server.role, server.current_term) == (Role.FOLLOWER, 2)


def test_a_learner_that_is_promoted_gets_a_timer() -> None:
    """E8: a configuration counts from its append: the new voter may campaign (M1)."""
    server = build("a", members=configuration("bc", learners="a"))
    promoted = configuration("abc")
    hear(server, "b", append((1, 1), [2], term=2, configurations=((2, promoted),)))
    time_out(server)
    assert server.role is Role.PRE_CANDIDATE


def test_a_voter_that_is_removed_campaigns_no_more() -> None:
    """E8: once the configuration that removed it is known to be committed, it never campaigns."""
    server = build("a")
    removal = ((2, configuration("bc")),)
    hear(server, "b", append((1, 1), [2], term=2, commit=2, configurations=removal))
    server.step((), server.now + 10)
    assert (server.role, server.election_deadline) == (Role.FOLLOWER, float("inf"))


def test_a_removed_voter_is_needed_until_its_removal_is_committed() -> None:
    """E8: its log may be the longest, and nobody else electable: it stands, uncounted (4.2.2)."""
    server = build("a", members=configuration("ab"))
    hear(server, "b", append((1, 1), [2], term=2, configurations=((2, configuration("b")),)))
    save(server)
    time_out(server)
    assert server.role is Role.PRE_CANDIDATE
    hear(server, "b", PreVoteResult(3, vote_granted=True))
    save(server)
    assert server.role is Role.CANDIDATE
    hear(server, "b", RequestVoteResult(3, vote_granted=True))
    assert (server.role, server.is_voter) == (Role.LEADER, False)


def test_who_never_voted_campaigns_for_nobody() -> None:
    """E8: a learner whose removal is not committed stays what it was."""
    server = build("d", members=configuration(learners="d"))
    hear(server, "b", append((1, 1), [2], term=2, configurations=((2, configuration()),)))
    server.step((), server.now + 10)
    assert server.role is Role.FOLLOWER


def test_a_stranger_is_answered() -> None:
    """E8: votes are answered by the caller's configuration, not by our own (4.1)."""
    server = build("a", members=configuration("abc"))
    assert granted(hear(server, "z", RequestVote(2, 1, 1)))


# E9: timers.


def test_timeouts_are_drawn_anew_for_each_attempt() -> None:
    """E9: each attempt draws from [T, 2T) anew (sc-E15)."""
    server = build("a")
    drawn = []
    for _ in range(50):
        hear(server, "b", append((1, 1)))
        drawn.append(server.election_deadline - server.now)
    assert len({round(each, 6) for each in drawn}) > 40
    assert TIMEOUT <= min(drawn) < 1.1 * TIMEOUT
    assert 1.9 * TIMEOUT < max(drawn) < 2 * TIMEOUT


def test_who_wins_begins_with_short_timeouts_again() -> None:
    """E9: a leader that steps down does not wait for what failed before it won."""
    server = build("a", pre_vote=False)
    for _ in range(4):
        time_out(server)
    elect(server)
    server.rng = Half()
    elapse(server, 2 * TIMEOUT)
    assert server.role is Role.FOLLOWER
    assert server.election_deadline - server.now == pytest.approx(1.5 * TIMEOUT)


class Half(random.Random):
    """Chance that always falls in the middle."""

    def random(self) -> float:
        return 0.5


def test_timeouts_lengthen_after_failures_up_to_twice() -> None:
    """E9: they lengthen after consecutive failures, up to twice, until the first contact."""
    server = build("a", pre_vote=False)
    server.rng = Half()
    drawn = []
    for _ in range(20):
        time_out(server)
        drawn.append((server.election_deadline - server.now) / (1.5 * TIMEOUT))
    assert drawn == pytest.approx([1.0, 1.25, 1.5, 1.75, *[2.0] * 16])
    hear(server, "b", append((1, 1), term=server.current_term))
    assert TIMEOUT <= server.election_deadline - server.now < 2 * TIMEOUT


# One leader in a term.


def test_one_vote_in_each_term() -> None:
    """E3: first come, first served; the same candidate is answered the same again (5.2)."""
    server = build("a")
    assert granted(hear(server, "b", RequestVote(2, 1, 1)))
    assert not granted(hear(server, "c", RequestVote(2, 9, 1)))
    assert granted(hear(server, "b", RequestVote(2, 1, 1)))


def test_a_second_vote_in_a_term_stops_the_server() -> None:
    """E1: whatever led there, it is better stopped than counted twice (5.2)."""
    server = build("a")
    hear(server, "b", RequestVote(2, 1, 1))
    server.vote_for("b")
    with pytest.raises(InvariantViolated, match="second vote in term 2: c after b"):
        server.vote_for("c")


def test_a_candidate_follows_the_leader_of_its_term() -> None:
    """E3: a candidate that hears the leader of its own term follows it (5.2)."""
    server = build("a", pre_vote=False)
    campaign(server)
    hear(server, "b", append((1, 1), [2], term=2))
    assert (server.role, server.leader_id, server.voted_for) == (Role.FOLLOWER, "b", "a")


def test_two_leaders_of_one_term_stop_the_server() -> None:
    """E3: a second leader of a term is a broken promise: better stopped than wrong."""
    server = build("a")
    hear(server, "b", append((1, 1), term=2))
    with pytest.raises(InvariantViolated, match="c leads term 2"):
        hear(server, "c", append((1, 1), term=2))
    for other in ("b", "a"):
        with pytest.raises(InvariantViolated, match=f"{other} leads term 2"):
            hear(leader("a"), other, append((1, 1), term=2))


def test_a_leader_of_a_term_grants_no_vote_in_it() -> None:
    """E3: whoever knows the term's leader grants no vote in that term."""
    server = build("a")
    hear(server, "b", append((1, 1), term=2))
    elapse(server, TIMEOUT)
    assert not granted(hear(server, "c", RequestVote(2, 9, 9)))


def test_bootstrap_is_entry_one_of_term_one() -> None:
    """E1: a bootstrap writes the same term and entry on every first server; twice is refused.

    sc-K2.
    """
    server = build("a", [], members=configuration(""), term=0)
    server.log.configurations = server.log.configurations[:1]
    outputs = step(server, Bootstrap(configuration()))
    assert outputs.save is not None
    assert outputs.save.hard_state == HardState(1, None)
    assert (server.log.last_index, server.log.last_term) == (1, 1)
    assert time_out(server).next_deadline < math.inf
    learnt_a_term = build("a", [], members=configuration(""), term=2)
    for begun in (server, learnt_a_term):
        outputs = step(begun, Bootstrap(configuration()))
        assert outputs.rejected == (Rejected(0, Refusal.NOT_EMPTY),)
        assert outputs.save is None


def test_a_save_that_was_never_asked_stops_the_server() -> None:
    """E1: a ticket from nowhere means that somebody else's save was taken for ours."""
    server = build("a")
    with pytest.raises(InvariantViolated, match="save 1 is done"):
        step(server, Saved(1))


def test_a_term_is_never_adopted_twice_nor_left_for_an_older() -> None:
    """E1: a vote would be forgotten: better stopped than given twice."""
    server = build("a", term=3, voted_for="b")
    for term in (2, 3):
        with pytest.raises(InvariantViolated, match=f"term {term} adopted after 3"):
            server.adopt_term(term)
    assert (server.current_term, server.voted_for) == (3, "b")


def test_a_save_that_is_told_late_takes_nothing_back() -> None:
    """E1: what waits for a later save has left already, and may leave again."""
    server = build("a")
    hear(server, "b", append((1, 1), [1]))
    hear(server, "b", append((2, 1), [1], sequence=2))
    step(server, Saved(2))
    assert step(server, Saved(1)).send == ()
    assert server.saved_ticket == 2


def test_what_is_unknown_is_an_error() -> None:
    """E4: an event or a message of no kind is never skipped."""
    server = build("a")
    with pytest.raises(AssertionError):
        step(server, object())  # type: ignore[arg-type]
    with pytest.raises(AssertionError):
        hear(server, "b", RoleChanged(Role.LEADER, 1, "b"))  # type: ignore[arg-type]


def test_a_cluster_elects_one_leader_after_all_crashed() -> None:
    """E1: all servers crash at once and restart: what they voted still binds them (sc-E22)."""
    cluster = Cluster.of(a=build("a"), b=build("b", seed=2), c=build("c", seed=3))
    cluster.time_out("a")
    cluster.settle()
    cluster.propose("a", 1)
    cluster.settle()
    for id in "abc":
        cluster.crash(id)
    cluster.time_out("b")
    cluster.settle()
    assert cluster.leaders == ["b"]
    assert (1, 0) in cluster.nodes["b"].applied
