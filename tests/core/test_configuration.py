"""Majorities against their definition by counting, and configurations in the log."""

from __future__ import annotations

import math
from itertools import chain, combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raft.core.configuration import Configuration, Member
from raft.core.events import PinIncarnations, Propose
from raft.core.messages import AppendEntriesResult
from raft.core.outputs import Configured, Role
from tests.core.cluster import append, build, configuration, elect, hear, leader, save, step

IDS = "abcdefg"


def subsets(names: str) -> list[frozenset[str]]:
    every = chain.from_iterable(combinations(names, size) for size in range(len(names) + 1))
    return [frozenset(each) for each in every]


configurations = st.builds(
    configuration,
    st.frozensets(st.sampled_from(IDS)),
    st.just(""),
    st.frozensets(st.sampled_from(IDS)),
)


@given(configurations, st.frozensets(st.sampled_from(IDS)))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_a_majority_is_more_than_half_of_each_half(
    config: Configuration, granted: frozenset[str]
) -> None:
    """E3: a majority of voters, of both halves when joint (sc-C8)."""
    halves = [config.voters] + ([config.outgoing] if config.outgoing else [])
    by_counting = all(2 * sum(voter in granted for voter in half) > len(half) for half in halves)
    assert config.majority(granted) is by_counting


@given(configurations, st.lists(st.integers(0, 5), min_size=len(IDS), max_size=len(IDS)))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_agreed_is_the_greatest_value_that_a_majority_has_reached(
    config: Configuration, values: list[int]
) -> None:
    """L4: agreed is the greatest value that some majority, by its definition, has reached."""
    reached = dict(zip(IDS, values, strict=True))
    possible = [
        value for value in range(6) if config.majority(id for id in IDS if reached[id] >= value)
    ]
    assert config.agreed(reached.__getitem__) == max(possible, default=-math.inf)


@given(configurations)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_two_majorities_always_meet(config: Configuration) -> None:
    """E3: any two majorities of a configuration share a voter: at most one leader a term."""
    if not config.voters:
        return
    quorums = [each for each in subsets(IDS) if config.majority(each)]
    minimal = [each for each in quorums if not any(other < each for other in quorums)]
    assert all(one & other for one in minimal for other in minimal)


@pytest.mark.parametrize(
    ("size", "needed"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (6, 4), (7, 4)]
)
def test_how_many_make_a_majority(size: int, needed: int) -> None:
    """E3: two of four are not a quorum (sc-E14)."""
    config = configuration(IDS[:size])
    assert not config.majority(IDS[: needed - 1])
    assert config.majority(IDS[:needed])


def test_nobody_is_no_majority_of_nobody() -> None:
    """E3: without voters nothing is ever agreed."""
    assert not Configuration().majority(IDS)
    assert Configuration().agreed(lambda _: 1.0) == -math.inf
    joint = configuration("", outgoing="ab")
    assert not joint.majority(IDS)
    assert joint.agreed(lambda _: 1.0) == -math.inf


def test_duplicate_and_unknown_names_do_not_count() -> None:
    """E3: votes are a set, of voters (sc-E12)."""
    config = configuration("abc", learners="d")
    assert not config.majority(["a", "a", "a", "d", "z"])
    assert config.majority(iter(["c", "a"]))


def test_members_are_equal_in_whatever_order_they_are_given() -> None:
    """M1: one configuration is one value, on every server."""
    assert configuration("cab") == configuration("abc")
    assert hash(configuration("cab")) == hash(configuration("abc"))
    assert configuration("ab", learners="c", outgoing="d").ids == frozenset("abcd")


def test_who_votes() -> None:
    """E8: incoming and outgoing voters vote, learners do not."""
    config = configuration("ab", learners="c", outgoing="bd")
    assert [config.is_voter(id) for id in "abcdz"] == [True, True, False, True, False]
    assert config.member("c") == Member("c", voter=False)
    assert config.member("d") is None
    assert (config.is_joint, configuration().is_joint) == (True, False)


# In the log.


def test_a_configuration_counts_from_its_append() -> None:
    """M1: a configuration takes effect when appended, on follower and leader (4.1)."""
    server = build("a")
    wider = configuration("abcde")
    hear(server, "b", append((1, 1), [2], term=2, configurations=((2, wider),)))
    assert (server.configuration, server.commit_index) == (wider, 0)
    assert server.peers == ["b", "c", "d", "e"]


def test_a_leader_replicates_to_a_new_member_at_once() -> None:
    """M1: a leader sends to the members of the latest configuration from its append on."""
    server = leader("a")
    server.append_configuration(configuration("abd"))
    outputs = step(server, Propose(1, 1, 100))
    assert {send.receiver for send in outputs.send} == {"d"}
    assert (sorted(server.state.progress), list(server.state.departing)) == (["b", "c", "d"], ["c"])


def test_a_configuration_that_is_truncated_is_reverted_for_the_timer_too() -> None:
    """M1: the timer follows the vote, gained, reverted and gained again (sc-M3)."""
    server = build("d", members=configuration(learners="d"))
    gained = configuration("abcd")
    hear(server, "b", append((1, 1), [2], term=2, configurations=((2, gained),)))
    assert (server.is_voter, server.election_deadline < math.inf) == (True, True)
    hear(server, "c", append((1, 1), [3], term=3))
    step(server)
    server.step((), server.election_deadline)
    assert (server.is_voter, server.election_deadline) == (False, math.inf)
    hear(server, "c", append((2, 3), [3], term=3, configurations=((3, gained),)))
    assert (server.is_voter, server.election_deadline < math.inf) == (True, True)


def test_a_server_that_starts_empty_waits_for_a_configuration() -> None:
    """M1: without a configuration nobody campaigns; the leader's entry brings it."""
    server = build("a", [], members=Configuration())
    server.log.configurations = server.log.configurations[:1]
    assert not server.is_voter
    hear(server, "b", append((0, 0), [1, 2], term=2, configurations=((1, configuration()),)))
    assert server.is_voter
    assert server.election_deadline < math.inf


def test_incarnations_are_pinned_once_the_own_term_is_committed() -> None:
    """M1: a new configuration follows a committed one, in a term with a commit (M2)."""
    server = build("a")
    elect(server)
    pins = PinIncarnations((("a", "A"), ("b", "B"), ("z", "Z")))
    assert step(server, pins).save is None
    save(server)
    hear(server, "b", AppendEntriesResult(2, True, 2, server.state.sequence, 2))
    outputs = step(server, pins)
    pinned = Configuration((Member("a", "A"), Member("b", "B"), Member("c")))
    assert outputs.save is not None
    assert outputs.save.append == (Configured(3, 2, pinned),)
    assert step(server, PinIncarnations((("c", "C"),))).save is None
    save(server)
    hear(server, "b", AppendEntriesResult(2, True, 3, server.state.sequence, 3))
    assert step(server, pins).save is None
    assert step(server, PinIncarnations((("b", "other"), ("c", "C")))).save is not None
    assert server.configuration.member("b") == Member("b", "B")


def test_only_a_leader_pins() -> None:
    """M1: a follower changes no configuration."""
    server = build("a")
    assert step(server, PinIncarnations((("a", "A"),))).save is None
    assert server.role is Role.FOLLOWER
