"""Whole changes of the members, through losses, crashes and new leaders: transcripts.

Whatever happens, a change ends in its target or where it began, on every server alike, and
any two configurations that follow each other share a voter in all their majorities (I14).
"""

from __future__ import annotations

import random
from itertools import chain, combinations, pairwise, product
from typing import Any

import pytest
from attrs import Factory, define

from raft.core.configuration import Configuration
from raft.core.events import Event, Propose, Read, TransferLeadership
from raft.core.outputs import Configured, Outputs, Role
from raft.core.server import Server
from tests.core.cluster import (
    ENTRY_BYTES,
    HEARTBEAT,
    TIMEOUT,
    Cluster,
    build,
    configuration,
    newcomer,
)
from tests.core.test_membership import change, ready, settle

IDS = "abcde"
PATIENCE = 1.0


def meet(one: Configuration, other: Configuration) -> bool:
    """Tell whether each majority of `one` shares a voter with each majority of `other`."""
    voters = sorted(one.voters | one.outgoing | other.voters | other.outgoing)
    some = chain.from_iterable(combinations(voters, size) for size in range(len(voters) + 1))
    return not any(
        one.majority(each) and other.majority(set(voters).difference(each)) for each in some
    )


def sizes() -> list[tuple[int, int, int]]:
    """Return all (kept, leaving, joining) with at most five servers: all changes but for names."""
    found = product(range(6), repeat=3)
    return [
        (k, gone, new) for k, gone, new in found if k + gone and k + new and k + gone + new <= 5
    ]


@pytest.mark.parametrize(("kept", "leaving", "joining"), sizes())
def test_majorities_of_neighbours_meet(kept: int, leaving: int, joining: int) -> None:
    """M3: of all changes with up to five servers: no step leaves two majorities apart (I14)."""
    before = IDS[: kept + leaving]
    after = IDS[leaving : kept + leaving + joining]
    for id in {before[0], before[-1]}:
        server = ready(id, members=configuration(before))
        change(server, after)
        taken = [configuration(before), server.configuration, *settle(server)]
        assert all(meet(one, other) for one, other in pairwise(taken)), taken
        assert server.configuration == configuration(after)


def test_two_votes_at_once_would_not_meet() -> None:
    """M3: the check above can fail: two steps of one vote are not one of two (4.1)."""
    assert not meet(configuration("abc"), configuration("abcde"))
    assert meet(configuration("abc"), configuration("abcd"))


@define
class Watched(Cluster):
    """A cluster that checks after each step what must hold of all servers together."""

    led: dict[int, str] = Factory(dict)
    committed: dict[int, tuple[int, object]] = Factory(dict)
    checked: dict[str, int] = Factory(dict)

    def step(self, id: str, *events: Event) -> Outputs:
        """Step one server and look at it."""
        server = self[id]
        commit, term = server.commit_index, server.current_term
        outputs = super().step(id, *events)
        if server.role is Role.LEADER:
            assert self.led.setdefault(server.current_term, id) == id
        self._check_configurations(server, outputs, commit if term == server.current_term else 0)
        for index in range(self.checked.get(id, 1) + 1, outputs.commit_index + 1):
            entry = (server.log.term_at(index), self.nodes[id].payloads[index - 1])
            assert self.committed.setdefault(index, entry) == entry
        self.checked[id] = max(1, outputs.commit_index)
        return outputs

    def _check_configurations(self, server: Server, outputs: Outputs, commit: int) -> None:
        appended = outputs.save.append if outputs.save else ()
        for new in appended:
            if isinstance(new, Configured):
                at, before = server.log.configuration_at(new.index - 1)
                assert at <= server.commit_index
                assert server.log.term_at(server.commit_index) == server.current_term
                assert meet(before, new.configuration)

    def crash(self, id: str) -> None:
        """Lose a server's memory; what it knew to be committed it learns again."""
        super().crash(id)
        self.checked.pop(id, None)

    def carry(self, rounds: int) -> None:
        """Save and deliver, that many times, and let the next heartbeat come where all is quiet."""
        for _ in range(rounds):
            for id in self.nodes:
                self.save(id)
            if not self.deliver() and self.leaders:
                self.time_out(self.leader)


def start(before: str, after: str, seed: int = 0, **options: Any) -> Watched:
    """Return a cluster that `a` leads, with those who may join beside it, empty."""
    options = {"join_timeout_seconds": PATIENCE, **options}
    members = configuration(before)
    servers = {
        id: build(id, seed=seed + at, members=members, **options)
        if id in before
        else newcomer(id, seed=seed + at, **options)
        for at, id in enumerate(sorted({*before, *after}))
    }
    cluster = Watched.of(**servers)
    while "a" not in cluster.leaders:
        cluster.time_out("a")
        cluster.settle()
    cluster.propose("a", 1, 5)
    cluster.settle()
    return cluster


def end(cluster: Watched, before: str, after: str) -> str:
    """Let all live and time pass; return the voters that everyone agrees on, and can write."""
    cluster.heal()
    cluster.run(PATIENCE + 6 * TIMEOUT)
    leader = cluster[cluster.leader]
    found = leader.configuration
    assert found in (configuration(before), configuration(after)), found
    assert leader.commit_index == leader.log.last_index
    cluster.propose(leader.id, 99)
    cluster.run(TIMEOUT)
    assert cluster.leaders == [leader.id]
    for id in found.ids:
        assert (99, 0) in cluster.nodes[id].applied
        assert cluster[id].configuration == found
    return "".join(sorted(found.voters))


CHANGES = [
    ("abc", "ab"),
    ("abc", "bc"),
    ("abc", "abcd"),
    ("abc", "bcd"),
    ("abc", "ade"),
    ("a", "ab"),
    ("ab", "a"),
    ("ab", "b"),
    ("a", "b"),
    ("abc", "de"),
    ("abc", "c"),
]


@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_a_change_that_nothing_disturbs_reaches_its_target(before: str, after: str) -> None:
    """M3: transcript: within an election timeout or two the members are those asked for."""
    cluster = start(before, after)
    cluster.change("a", after)
    cluster.run(3 * TIMEOUT)
    assert cluster[cluster.leader].configuration == configuration(after)
    assert end(cluster, before, after) == after
    for id in set(before) - set(after):
        assert not cluster[id].is_voter
        assert cluster[id].commit_index >= cluster[id].log.configuration_index


@pytest.mark.parametrize(("before", "after"), [each for each in CHANGES if len(each[0]) > 2])
def test_a_leader_that_dies_at_any_step_is_relieved(before: str, after: str) -> None:
    """M3: whoever is elected finishes the change, or never heard of it (sc-M12, sc-M3)."""
    ends = set()
    for rounds in range(16):
        cluster = start(before, after, rounds)
        cluster.change("a", after)
        cluster.carry(rounds)
        cluster.crash("a")
        cluster.isolate("a")
        cluster.run(PATIENCE / 2 + 6 * TIMEOUT)
        if "a" not in after and not cluster["a"].is_voter:
            assert end(cluster, before, after) == after
        ends.add(end(cluster, before, after))
    assert after in ends


@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_a_power_cut_at_any_step_loses_no_step(before: str, after: str) -> None:
    """M1: all restart from their disks at once, and go on where the log says (sc-M18)."""
    for rounds in range(12):
        cluster = start(before, after, rounds)
        cluster.change("a", after)
        cluster.carry(rounds)
        cluster.drop()
        for id in cluster.nodes:
            cluster.crash(id)
        end(cluster, before, after)


@pytest.mark.parametrize("rounds", range(8))
def test_a_newcomer_that_dies_at_any_step_ends_the_change_or_votes(rounds: int) -> None:
    """M5: transcript: three go on without the newcomer, in either configuration (sc-M8)."""
    cluster = start("abc", "abcd", rounds)
    cluster.change("a", "abcd")
    cluster.carry(rounds)
    cluster.isolate("d")
    cluster.run(PATIENCE + 2 * TIMEOUT)
    leader = cluster[cluster.leader]
    assert leader.configuration in (configuration("abc"), configuration("abcd"))
    cluster.propose(leader.id, 5)
    cluster.settle()
    assert (5, 0) in cluster.nodes[leader.id].applied
    assert end(cluster, "abc", "abcd") == "".join(sorted(leader.configuration.voters))


def test_a_transfer_amid_a_change_costs_nothing() -> None:
    """M10: transcript: the new leader goes on where the old one was."""
    for rounds in range(10):
        cluster = start("abc", "ade", rounds)
        cluster.change("a", "ade")
        cluster.carry(rounds)
        cluster.step("a", TransferLeadership())
        cluster.run(3 * TIMEOUT)
        assert end(cluster, "abc", "ade") == "ade"


def test_a_leader_that_removes_itself_is_relieved_at_once() -> None:
    """M6: transcript: without an election timeout, and every reader and writer goes on (sc-M6)."""
    cluster = start("abc", "bc")
    begun = cluster.now
    cluster.change("a", "bc")
    cluster.settle()
    (new,) = cluster.leaders
    assert (new in "bc", cluster.now) == (True, begun)
    cluster.step(new, Read(1), Propose(2, 1, ENTRY_BYTES))
    cluster.settle()
    assert 1 in cluster.nodes[new].confirmed
    cluster.run(10 * TIMEOUT)
    assert cluster.leaders == [new]


def test_a_server_removed_while_it_was_away_disturbs_nobody() -> None:
    """M6: transcript: it knows of no removal, asks for votes, and moves no term (4.2.3)."""
    cluster = start("abcd", "abc")
    cluster.isolate("d")
    cluster.change("a", "abc")
    cluster.run(PATIENCE + TIMEOUT)
    assert "d" not in cluster["a"].state.progress
    term = cluster["a"].current_term
    cluster.heal()
    cluster.run(10 * TIMEOUT)
    assert cluster["d"].is_voter
    assert (cluster.leaders, cluster["a"].current_term) == (["a"], term)


def test_a_server_that_left_may_come_back() -> None:
    """M6: transcript: with its old log, or with an empty one, it catches up like anyone."""
    for empty in (False, True):
        cluster = start("abc", "abc")
        cluster.isolate("c")
        cluster.change("a", "ab")
        cluster.settle()
        if empty:
            cluster.nodes["c"].server = newcomer("c", seed=9)
            cluster.nodes["c"].disk.terms = []
            cluster.nodes["c"].payloads = []
            cluster.checked.pop("c")
        cluster.heal()
        cluster.change("a", "abc")
        cluster.run(3 * TIMEOUT)
        assert end(cluster, "abc", "abc") == "abc"


@pytest.mark.parametrize(
    ("first", "second"), [("abcde", "abc"), ("abcde", "abcdf"), ("abc", "abd")]
)
def test_two_leaders_that_change_at_once(first: str, second: str) -> None:
    """M2: add and remove, two adds, two removes: the second waits for its own entry (sc-M1)."""
    cluster = start("abcd", first + second)
    for id in "bcdef":
        cluster.cut |= {frozenset({"a", id})}
    cluster.change("a", first)
    cluster.save("a")
    cluster.time_out("b")
    while cluster["b"].role is not Role.LEADER:
        cluster.time_out("b")
        cluster.drop(lambda packet: packet.sender == "b" and packet.receiver == "a")
        for _ in range(2):
            cluster.save("b")
            cluster.deliver()
            for id in "cd":
                cluster.save(id)
            cluster.deliver()
    if cluster["b"].commit_index < cluster["b"].state.first_index:
        assert cluster.change("b", second).rejected
    cluster.settle()
    assert cluster.change("b", second).accepted
    cluster.settle()
    cluster.heal()
    cluster.run(PATIENCE)
    assert end(cluster, "abcd", second) == second


def disturb(cluster: Watched, rng: random.Random) -> None:
    """Do one thing that may happen to a cluster."""
    id = rng.choice(list(cluster.nodes))
    match rng.randrange(12):
        case 0:
            cluster.crash(id)
        case 1:
            cluster.isolate(id)
        case 2 | 3:
            cluster.heal()
        case 4 | 5:
            cluster.drop(lambda _: rng.random() < 0.3)
        case 6 if cluster[id].may_campaign:
            cluster.time_out(id)
        case 7 if cluster.leaders:
            cluster.step(cluster.leader, TransferLeadership())
        case 8 if cluster.leaders:
            cluster.propose(cluster.leader, 10)
        case _:
            for id in cluster.nodes:
                if rng.random() < 0.8:
                    cluster.save(id)
            cluster.deliver(lambda _: rng.random() < 0.8)
    cluster.now += rng.choice([0.0, HEARTBEAT / 3, HEARTBEAT])


@pytest.mark.parametrize("seed", range(40))
def test_a_change_ends_in_its_target_or_where_it_began(seed: int) -> None:
    """M3: through losses, crashes and new leaders, from any members to any others."""
    rng = random.Random(seed)
    others = [rng.sample(IDS, rng.randint(1, 5)) for _ in range(2)]
    before = "".join(sorted({"a", *others[0]}))
    after = "".join(sorted(others[1]))
    cluster = start(before, after, seed)
    cluster.change("a", after)
    for _ in range(rng.randint(5, 80)):
        disturb(cluster, rng)
    end(cluster, before, after)
