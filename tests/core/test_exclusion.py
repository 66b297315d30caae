"""Who was removed while it was away, and is told so when it returns."""

from __future__ import annotations

import math

import pytest

from raft.core.events import Excluded
from raft.core.messages import PreVote
from raft.core.outputs import Role
from tests.core.cluster import (
    TIMEOUT,
    append,
    build,
    configuration,
    elapse,
    hear,
    leader,
    newcomer,
    step,
    time_out,
)


def test_who_is_told_that_it_was_removed_stands_for_no_election() -> None:
    """M6: it lacks a committed entry, so it could win none, and would only disturb (sc-M5)."""
    server = build("a", [1, 1])
    time_out(server)
    assert server.role is Role.PRE_CANDIDATE
    outputs = step(server, Excluded(7))
    assert (server.role, outputs.next_deadline) == (Role.FOLLOWER, math.inf)
    assert elapse(server, 100 * TIMEOUT).send == ()
    assert server.current_term == 1
    hear(server, "b", PreVote(9, 5, 5))
    assert server.excluded_index == 7


@pytest.mark.parametrize("index", [1, 7, 8])
def test_only_a_newer_configuration_than_the_own_can_exclude(index: int) -> None:
    """M6: who lags behind does not know yet that this server has joined."""
    server = build("a", [1] * 8)
    server.log.configurations.append((8, configuration()))
    step(server, Excluded(index))
    assert server.excluded_index == 0
    empty = newcomer("d")
    step(empty, Excluded(index))
    assert empty.excluded_index == 0


def test_who_hears_a_leader_is_told_nothing_by_others() -> None:
    """M6: the leader knows best who is a member, now and when the server comes back."""
    server = build("a", [1, 1])
    step(server, Excluded(7))
    hear(server, "b", append((2, 1), term=2))
    assert server.excluded_index == 0
    step(server, Excluded(7))
    assert server.excluded_index == 0
    assert server.election_deadline < math.inf


def test_a_leader_that_is_told_steps_down_in_its_own_time_and_stands_no_more() -> None:
    """M6: it was paused while it was removed; check-quorum ends it, and it begins no election."""
    server = leader("a")
    step(server, Excluded(7))
    assert server.role is Role.LEADER
    for _ in range(20):
        elapse(server, TIMEOUT / 2)
    assert server.role is Role.FOLLOWER
    term = server.current_term
    elapse(server, 100 * TIMEOUT)
    assert (server.role, server.current_term) == (Role.FOLLOWER, term)


def test_a_server_that_knows_its_removal_and_not_its_commit_is_told_that_too() -> None:
    """M6: else it would ask for votes after each restart, for ever."""
    server = build("a", [1, 1])
    server.log.configurations.append((2, configuration("bc")))
    step(server, Excluded(1))
    assert server.may_campaign
    step(server, Excluded(2))
    assert not server.may_campaign


@pytest.mark.parametrize("ids", ["abc", "bc"])
def test_what_is_said_just_before_a_leader_falls_silent_is_looked_at_again(ids: str) -> None:
    """M6: the leader falls silent because of the removal, and nobody says it a second time."""
    server = build("a", [1, 1])
    if ids == "bc":
        # One that does not vote begins no election, and learns it all the same.
        server.log.configurations.append((2, configuration("bc")))
    hear(server, "b", append((2, 1), term=2))
    step(server, Excluded(7))
    assert server.excluded_index == 0
    elapse(server, 2.1 * TIMEOUT)
    assert (server.excluded_index, server.role) == (7, Role.FOLLOWER)
    # Later words of an older time change nothing; a leader that is heard, everything.
    hear(server, "b", append((2, 1), term=2))
    assert server.excluded_index == 0
    elapse(server, 2.1 * TIMEOUT)
    assert server.excluded_index == 0
