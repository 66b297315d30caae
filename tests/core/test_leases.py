"""Reads by lease, and questions asked again (dissertation 6.4.1)."""

from __future__ import annotations

import math
from typing import Any

from raft.core.events import Read, TransferLeadership
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


def test_a_restarted_voter_votes_for_nobody_while_leases_may_last() -> None:
    """R9: it forgot whom it heard; it refuses for its own minimum election timeout (sc-D4)."""
    server = build("a", clock_drift_bound=BOUND)
    assert not answer(hear(server, "b", PreVote(2, 9, 9))).vote_granted
    assert not answer(hear(server, "b", RequestVote(2, 9, 9))).vote_granted
    assert server.current_term == 1
    server.now += TIMEOUT
    assert answer(hear(server, "b", PreVote(2, 9, 9))).vote_granted


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
