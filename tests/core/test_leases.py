"""Reads by lease, and questions asked again (dissertation 6.4.1)."""

from __future__ import annotations

import math
from typing import Any

import pytest

from raft.core.events import Read, Received, TransferLeadership
from raft.core.messages import (
    AppendEntriesResult,
    PreVote,
    ReadIndex,
    ReadIndexResult,
    RequestVote,
    TimeoutNow,
)
from raft.core.outputs import ReadConfirmed
from raft.core.server import Server
from tests.core.cluster import (
    HEARTBEAT,
    TIMEOUT,
    answer,
    append,
    build,
    configuration,
    elapse,
    hear,
    leader,
    only,
    step,
)

BOUND = 1.25


def acknowledged(server: Server, promise: float = TIMEOUT) -> AppendEntriesResult:
    """Return the answer of a follower that has everything."""
    state: Any = server.state
    last = server.log.last_index
    return AppendEntriesResult(
        server.current_term, True, last, state.sequence, last, promise_seconds=promise
    )


def leased(promise: float = TIMEOUT) -> Server:
    """Return a leader whose heartbeat, sent just now, a quorum has answered."""
    server = leader("a", clock_drift_bound=BOUND)
    hear(server, "b", acknowledged(server, promise))
    elapse(server, HEARTBEAT)
    hear(server, "b", acknowledged(server, promise))
    return server


def test_a_lease_counts_from_when_the_answered_round_was_sent() -> None:
    """R9: valid from the send time, for the promised time divided by the drift bound."""
    server = leader("a", clock_drift_bound=BOUND)
    hear(server, "b", acknowledged(server))
    elapse(server, HEARTBEAT)
    sent_at = server.now
    late = server.now + HEARTBEAT / 2
    server.step((), late)
    hear(server, "b", acknowledged(server))
    outputs = step(server, Read(7, lease=True))
    assert outputs.confirmed == (ReadConfirmed(7, 2, sent_at + TIMEOUT / BOUND),)
    assert only(outputs, object) == []


def test_an_expired_lease_asks_a_quorum() -> None:
    """R9: when the lease is over the read takes a round like any other."""
    server = leased()
    server.now += TIMEOUT / BOUND
    outputs = step(server, Read(7, lease=True))
    assert outputs.confirmed == ()
    assert only(outputs, object)


def test_the_shortest_promise_counts() -> None:
    """R9: each voter promises its own minimum; the smallest bounds the lease."""
    server = leased(promise=TIMEOUT / 3)
    outputs = step(server, Read(7, lease=True))
    (confirmed,) = outputs.confirmed
    assert confirmed.valid_until == server.now + TIMEOUT / 3 / BOUND


def test_without_a_drift_bound_there_is_no_lease() -> None:
    """R9: off by default (sc-D4)."""
    server = leader("a")
    hear(server, "b", acknowledged(server))
    elapse(server, HEARTBEAT)
    hear(server, "b", acknowledged(server))
    assert step(server, Read(7, lease=True)).confirmed == ()


def test_a_new_term_begins_without_a_lease() -> None:
    """R9: zero at the start of a term, until its own no-op is committed."""
    server = leader("a", clock_drift_bound=BOUND)
    elapse(server, HEARTBEAT)
    hears_but_has_not_saved = AppendEntriesResult(
        server.current_term, True, 1, server.state.sequence, 2, promise_seconds=TIMEOUT
    )
    hear(server, "b", hears_but_has_not_saved)
    assert step(server, Read(7, lease=True)).confirmed == ()


def test_no_lease_after_a_timeout_now_even_if_it_came_to_nothing() -> None:
    """R9: the TimeoutNow may still arrive (sc-D11)."""
    server = leased()
    outputs = step(server, TransferLeadership("b"))
    assert only(outputs, TimeoutNow)
    for _ in range(12):
        elapse(server, HEARTBEAT)
        hear(server, "b", acknowledged(server))
    assert server.state.transfer is None
    assert step(server, Read(7, lease=True)).confirmed == ()


@pytest.mark.parametrize("begun", [0.0, 64.0])
def test_a_restarted_voter_votes_for_nobody_while_leases_may_last(begun: float) -> None:
    """R9: it forgot whom it heard; it refuses for its own minimum election timeout (sc-D4)."""
    server = build("a", now=begun, clock_drift_bound=BOUND, election_timeout_seconds=0.25)
    assert not answer(hear(server, "b", PreVote(2, 9, 9))).vote_granted
    assert not answer(hear(server, "b", RequestVote(2, 9, 9))).vote_granted
    assert server.current_term == 1
    server.now += 0.25
    assert answer(hear(server, "b", PreVote(2, 9, 9))).vote_granted


def test_a_restarted_voter_keeps_to_that_in_its_own_term_too() -> None:
    """R9: it may have learnt the candidate's term while it still heard the leader before it."""
    server = build("a", term=3, clock_drift_bound=BOUND, election_timeout_seconds=0.25)
    assert not answer(hear(server, "b", RequestVote(3, 9, 9))).vote_granted
    server.now += 0.25
    assert answer(hear(server, "b", RequestVote(3, 9, 9))).vote_granted


@pytest.mark.parametrize("bound", [BOUND, 0.0])
def test_a_voter_keeps_its_promise_when_it_learns_a_newer_term(bound: float) -> None:
    """R9: its leader has a lease, whatever late message brings the term of a candidate.

    Only leases need that: without them whoever forgot its leader may vote at once.
    """
    server = build("a", clock_drift_bound=bound, election_timeout_seconds=0.25)
    server.step([Received("b", append((1, 1), term=2))], 8.0)
    server.step([Received("c", AppendEntriesResult(5, False, 1, 0, 1))], 8.125)
    assert (server.current_term, server.leader_id) == (5, None)
    asked = [Received("d", PreVote(6, 9, 9)), Received("d", RequestVote(5, 9, 9))]
    outputs = server.step(asked, 8.1875)
    assert [send.message.vote_granted for send in outputs.send] == [not bound] * 2
    outputs = server.step(asked, 8.25)
    assert [send.message.vote_granted for send in outputs.send] == [True] * 2


def test_a_leader_that_asks_for_votes_has_no_lease_any_more() -> None:
    """R9: it has restarted, and its followers are bound by no promise to it; nobody else is free.

    They have heard it just now, and know it as their leader yet (E5).
    """
    server = build("a", clock_drift_bound=BOUND, election_timeout_seconds=0.25)
    server.step([Received("b", append((1, 1), term=2))], 8.0)
    asked = [Received(peer, PreVote(3, 9, 9)) for peer in "bc"]
    outputs = server.step(asked, 8.125)
    assert [send.message.vote_granted for send in outputs.send] == [True, False]


def test_a_restarted_voter_without_leases_votes_at_once() -> None:
    """R9: only leases need the wait."""
    server = build("a")
    assert answer(hear(server, "b", PreVote(2, 9, 9))).vote_granted


def test_a_follower_asks_again_until_it_is_answered() -> None:
    """R8: a lost question is repeated; the answer to either serves, once."""
    server = build("b")
    hear(server, "a", append((1, 1)))
    (question,) = only(step(server, Read(5)), ReadIndex)
    assert only(elapse(server, TIMEOUT / 2), ReadIndex) == []
    server.election_deadline = math.inf
    (again,) = only(elapse(server, TIMEOUT / 2), ReadIndex)
    assert again == question
    answered = ReadIndexResult(1, question.request, 1)
    assert hear(server, "a", answered).confirmed == (ReadConfirmed(5, 1),)
    assert hear(server, "a", answered).confirmed == ()


def renewed(server: Server, seconds: float = HEARTBEAT) -> float:
    """Let a heartbeat be sent and answered; return when it was sent."""
    elapse(server, seconds)
    hear(server, "b", acknowledged(server))
    return server.now


def lease_of(server: Server) -> float:
    """Return until when a read by lease may be answered; minus infinity when none may."""
    return max(
        (each.valid_until for each in step(server, Read(7, lease=True)).confirmed),
        default=-math.inf,
    )


def test_each_heartbeat_that_is_answered_makes_the_lease_longer() -> None:
    """R9: the newest round that a quorum answered counts."""
    server = leased()
    for _ in range(3):
        assert lease_of(server) == server.now + TIMEOUT / BOUND
        renewed(server)


def test_an_answer_to_an_earlier_message_makes_no_lease_longer() -> None:
    """R9: whoever answers what was sent before a heartbeat may not have heard that one."""
    server = leased()
    sent_at = server.now
    earlier = acknowledged(server)
    elapse(server, HEARTBEAT)
    hear(server, "b", earlier)
    assert lease_of(server) == sent_at + TIMEOUT / BOUND


def test_the_first_message_of_a_heartbeat_already_makes_the_lease_longer() -> None:
    """R9: whichever message of the round a follower answers, it heard the leader by then."""
    server = leased()
    first = server.state.sequence + 1
    elapse(server, HEARTBEAT)
    told = AppendEntriesResult(2, True, 2, first, 2, promise_seconds=TIMEOUT)
    hear(server, "b", told)
    assert lease_of(server) == server.now + TIMEOUT / BOUND


def test_without_check_quorum_there_is_no_lease() -> None:
    """R9: it needs voters that refuse others while they hear the leader (E6)."""
    server = leader("a", clock_drift_bound=BOUND, check_quorum=False)
    hear(server, "b", acknowledged(server))
    renewed(server)
    assert lease_of(server) == -math.inf


def test_who_promises_nothing_supports_no_lease() -> None:
    """R9: only voters that said for how long they refuse others count."""
    server = leased(promise=0.0)
    assert lease_of(server) == -math.inf


def test_a_learners_promise_shortens_no_lease() -> None:
    """R9: the smallest of what the voters promised; a learner votes for nobody."""
    server = leader("a", members=configuration("abc", learners="d"), clock_drift_bound=BOUND)
    hear(server, "b", acknowledged(server))
    elapse(server, HEARTBEAT)
    hear(server, "b", acknowledged(server))
    hear(server, "d", acknowledged(server, TIMEOUT / 9))
    assert lease_of(server) == server.now + TIMEOUT / BOUND


def test_what_is_kept_of_heartbeats_is_bounded() -> None:
    """R9: rounds of reads beat as often as they like; what no answer can use is forgotten."""
    server = leased()
    for _ in range(1000):
        step(server, Read(7))
        renewed(server, HEARTBEAT / 10)
    assert len(server.state.beats) <= 2 * TIMEOUT / (HEARTBEAT / 4) + 2


def test_a_lost_question_is_repeated_once_in_an_election_timeout() -> None:
    """R8: each repetition waits as long as the first one did."""
    server = build("b")
    hear(server, "a", append((1, 1)))
    step(server, Read(5))
    server.election_deadline = math.inf
    asked = [len(only(elapse(server, TIMEOUT / 2), ReadIndex)) for _ in range(6)]
    assert asked == [0, 1, 0, 1, 0, 1]
