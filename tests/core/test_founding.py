"""M8, M9: a server that holds no more than founding writes, and what others say of it."""

from __future__ import annotations

import math

import pytest

from raft.core.events import Excluded, Founding, Standing
from raft.core.messages import PreVote, RequestVote
from raft.core.outputs import Role
from raft.core.server import Server
from tests.core.cluster import (
    TIMEOUT,
    answer,
    append,
    build,
    elapse,
    hear,
    newcomer,
    step,
    time_out,
)

FOUNDER, ELECTED = (1, 1), (2, 2)
"""Index and term of the last entry of a candidate that has no entry of a leader, and of one that
has."""


def asked(server: Server, last: tuple[int, int], sender: str = "b") -> list[bool]:
    """Return whether `server` grants a pre-vote, and a vote, each in the term after its own."""
    return [
        answer(hear(server, sender, PreVote(server.current_term + 1, *last))).vote_granted,
        answer(hear(server, sender, RequestVote(server.current_term + 1, *last))).vote_granted,
    ]


@pytest.mark.parametrize(
    ("standing", "founders", "votes"),
    [
        (Standing.FREE, "", (True, True)),
        (Standing.LATE, "", (False, True)),
        (Standing.LATE, "b", (True, True)),
        (Standing.OUTLIVED, "b", (False, False)),
    ],
)
def test_whom_a_server_without_a_history_elects(
    standing: Standing, founders: str, votes: tuple[bool, bool]
) -> None:
    """M9: who may have forgotten its vote helps no other that has nothing to lead (sc-M14)."""
    for last, granted in zip((FOUNDER, ELECTED), votes, strict=True):
        server = build("a", [1])
        step(server, Founding(standing, founders=frozenset(founders)))
        assert asked(server, last) == [granted] * 2
        empty = newcomer("d")
        step(empty, Founding(standing, founders=frozenset(founders)))
        assert asked(empty, last) == [granted] * 2


@pytest.mark.parametrize("standing", [Standing.LATE, Standing.OUTLIVED])
def test_whose_cluster_lives_without_it_stands_for_no_election(standing: Standing) -> None:
    """M9: also not where it stands already when it is told."""
    server = build("a", [1])
    time_out(server)
    assert server.role is Role.PRE_CANDIDATE
    outputs = step(server, Founding(standing))
    assert (server.role, outputs.next_deadline) == (Role.FOLLOWER, math.inf)
    assert elapse(server, 100 * TIMEOUT).send == ()
    assert server.current_term == 1


def test_a_founder_waits_for_the_other_first_members() -> None:
    """M9: it neither stands nor votes until they had the time to object."""
    server = build("a", [1])
    outputs = step(server, Founding(wait_seconds=10 * TIMEOUT))
    assert 11 * TIMEOUT <= outputs.next_deadline < 12 * TIMEOUT
    assert asked(server, FOUNDER) == asked(server, ELECTED) == [False, False]
    elapse(server, 10 * TIMEOUT)
    assert server.role is Role.FOLLOWER
    assert asked(server, FOUNDER) == [True, True]
    waiting = build("a", [1])
    step(waiting, Founding(wait_seconds=10 * TIMEOUT))
    step(waiting, Founding())
    assert waiting.election_deadline < 2 * TIMEOUT
    assert asked(waiting, FOUNDER) == [True, True]


def test_who_is_told_of_its_removal_and_has_nothing_has_no_vote() -> None:
    """M9: it was emptied, and forgot what it had voted."""
    server = build("a", [1])
    step(server, Excluded(7))
    assert asked(server, FOUNDER) == asked(server, ELECTED) == [False, False]


@pytest.mark.parametrize("standing", Standing)
def test_nothing_of_that_concerns_a_server_with_a_leaders_entry(standing: Standing) -> None:
    """M9: it has a history, and is the server that it says; also one whose log is repaired."""
    for server in (build("a", [1, 2]), build("a", [1], term=3, lost=(2, 2))):
        step(server, Founding(standing, 100 * TIMEOUT))
        assert asked(server, ELECTED) == [True, True]
    server = build("a", [1, 2])
    deadline = server.election_deadline
    step(server, Founding(standing, 100 * TIMEOUT))
    assert server.election_deadline == deadline
    time_out(server)
    assert server.role is Role.PRE_CANDIDATE
    assert server.now < 2 * TIMEOUT


def test_a_late_first_member_is_like_the_others_once_a_leader_has_sent_it_entries() -> None:
    """M8: it was only late; the leader knows who is a member."""
    server = build("a", [1])
    step(server, Founding(Standing.LATE))
    assert server.election_deadline == math.inf
    hear(server, "b", append((1, 1), [2], term=2))
    assert server.election_deadline < math.inf
    time_out(server)
    assert server.role is Role.PRE_CANDIDATE
