"""Members come and go while whole nodes run, through the Deferred API."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from attrs import evolve
from twisted.internet.defer import gatherResults
from twisted.logger import formatEvent, globalLogPublisher

import raft
from raft.client import RaftClient
from raft.core import events as ev
from raft.core import membership
from raft.core import messages as ms
from raft.core import outputs as out
from raft.core.configuration import Member
from raft.core.server import Options
from raft.errors import (
    BadConfiguration,
    ConfigurationAbandoned,
    ConfigurationInProgress,
    NotFound,
    NotLeader,
    OutcomeUnknown,
    Timeout,
)
from raft.node.shell import Shell
from raft.service import RaftService
from tests.node.running import Nodes, outcome, until

IMPATIENT = Options(heartbeat_seconds=0.05, election_timeout_seconds=0.3, join_timeout_seconds=0.8)


@pytest_twisted.async_yield_fixture
async def nodes(tmp_path: Path) -> AsyncIterator[Nodes]:
    made = Nodes(tmp_path)
    yield made
    await made.stop()


def voters(node: RaftService) -> set[str]:
    return set(node.shell.server.configuration.voters)


def index_of(node: RaftService) -> int:
    return node.shell.server.log.configuration_index


def pinned(node: RaftService, id: str) -> str:
    member = node.shell.server.configuration.member(id)
    assert member is not None
    return member.incarnation


async def applied_by(node: RaftService, leader: RaftService) -> None:
    last = leader.replica.last_applied
    await until(lambda: node.replica.last_applied >= last)
    if node.replica.last_applied == leader.replica.last_applied:
        assert node.replica.digest == leader.replica.digest


@pytest_twisted.ensureDeferred
async def test_a_fourth_server_catches_up_and_is_promoted_under_writes(nodes: Nodes) -> None:
    """M5: it is a learner first, and votes once it has caught up."""
    await nodes.found()
    leader = await nodes.leader()
    d = nodes.start("d")
    seen: list[set[str]] = []
    leader.observe(lambda _: seen.append(voters(leader)))
    before = gatherResults([leader.write(["set", "before", n]) for n in range(50)])
    added = leader.add(nodes.member(d))
    during = gatherResults([leader.write(["set", "during", n]) for n in range(50)])
    await gatherResults([added, before, during])
    assert voters(leader) == set("abcd")
    assert set("abc") in seen
    await applied_by(d, leader)
    assert d.identity.cluster_id == leader.identity.cluster_id
    assert d.shell.server.is_voter


@pytest_twisted.ensureDeferred
async def test_members_given_are_merged_and_replace_makes_them_the_whole(nodes: Nodes) -> None:
    """M3: one voter less in one step, two less through a joint configuration."""
    await nodes.found()
    leader = await nodes.leader()
    await leader.set_configuration([Member(leader.id, client_address="tcp:127.0.0.1:1")])
    assert voters(leader) == set("abc")
    mine = leader.shell.server.configuration.member(leader.id)
    assert mine is not None
    assert mine.client_address == "tcp:127.0.0.1:1"
    assert mine.peer_address == nodes.member(leader).peer_address
    begun = index_of(leader)
    await leader.set_configuration([nodes.member(leader)], replace=True)
    assert voters(leader) == {leader.id}
    steps = [each for index, each in leader.shell.server.log.configurations if index > begun]
    assert [each.is_joint for each in steps] == [True, False]
    await leader.write(["set", "alone", 1])


@pytest_twisted.ensureDeferred
async def test_a_dead_server_is_replaced_by_a_new_one(nodes: Nodes) -> None:
    await nodes.found()
    leader = await nodes.leader()
    dead = nodes.others(leader)[0]
    await dead.stopService()
    await leader.write(["set", "k", 1])
    d = nodes.start("d")
    await leader.replace(dead.id, nodes.member(d))
    assert voters(leader) == set("abcd") - {dead.id}
    await applied_by(d, leader)
    assert await leader.read(["get", "k"]) == 1


@pytest_twisted.ensureDeferred
async def test_what_an_id_called_itself_before_it_joined_is_not_pinned(nodes: Nodes) -> None:
    """M7: a wiped server went on dialling until it was removed, and joins with a new directory."""
    started = await nodes.found()
    for node in started:
        node.members.heard["d"] = "its directory before"
    leader, d = await nodes.leader(), nodes.start("d")
    # Nobody can be pinned who is not there: the address is not yet the right one.
    await leader.add_learner(Member("d", "", "tcp:127.0.0.1:1"))
    await leader.write(["set", "k", 1])
    assert pinned(leader, "d") == ""
    await leader.set_configuration([evolve(nodes.member(d), voter=False)])
    await until(lambda: pinned(leader, "d"))
    assert pinned(leader, "d") == d.identity.incarnation
    assert d.failure is None


@pytest_twisted.ensureDeferred
async def test_a_wiped_founder_joins_again_under_its_id_entry_by_entry(nodes: Nodes) -> None:
    """M7, M9: the log that it gets begins with itself as the only voter, by another incarnation.

    It stopped there, and would have stopped there after each restart.
    """
    slow = Options(0.05, 0.3, max_append_entries=1, max_inflight_messages=1)
    (first,) = await nodes.found("a", options=slow)
    await first.add(nodes.member(nodes.start("b", options=slow)))
    await first.add(nodes.member(nodes.start("c", options=slow)))
    await first.transfer_leadership("b")
    leader = await nodes.leader("bc")
    await first.stopService()
    await leader.remove("a")
    again = nodes.start("a", directory="another", options=slow)
    await leader.add(nodes.member(again))
    assert again.failure is None
    await applied_by(again, leader)
    assert pinned(again, "a") == again.identity.incarnation != first.identity.incarnation
    assert again.shell.server.is_voter
    assert again.shell.server.configuration.voters == set("abc")


@pytest_twisted.ensureDeferred
async def test_a_learner_never_votes_until_it_is_promoted(nodes: Nodes) -> None:
    await nodes.found()
    leader = await nodes.leader()
    d = nodes.start("d")
    await leader.add_learner(nodes.member(d))
    assert voters(leader) == set("abc")
    await leader.write(["set", "k", 1])
    await applied_by(d, leader)
    await leader.promote("d")
    assert voters(leader) == set("abcd")
    error = await outcome(leader.add_learner(nodes.member(d)))
    assert isinstance(error, BadConfiguration)


@pytest_twisted.ensureDeferred
async def test_a_change_that_meets_an_election_of_its_leader_is_asked_again(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M2: between the look and the step the leader was elected anew, and has no own entry yet.

    The caller was told that another change was under way, and there was none.
    """
    await nodes.found()
    leader = await nodes.leader()
    d = nodes.start("d")
    change, asked = Shell.change, []

    def too_early(shell: Shell, *wanted: Any) -> list[out.Accepted | out.Rejected]:
        asked.append(wanted)
        if len(asked) == 1:
            return [out.Rejected(0, out.Refusal.CHANGE_IN_PROGRESS)]
        return change(shell, *wanted)

    monkeypatch.setattr(Shell, "change", too_early)
    await leader.add_learner(nodes.member(d))
    assert len(asked) > 1


@pytest_twisted.ensureDeferred
async def test_a_leader_removes_itself_and_hands_over(nodes: Nodes) -> None:
    """M6: after commit, and the others have a leader at once."""
    await nodes.found()
    leader = await nodes.leader()
    await leader.remove(leader.id)
    rest = {node.id for node in nodes.others(leader)}
    assert voters(leader) == rest
    other = await nodes.leader(rest)
    await other.write(["set", "k", 1])
    await until(lambda: leader.leader() != leader.id)


@pytest_twisted.ensureDeferred
async def test_a_removed_follower_says_so_and_stands_for_no_election(nodes: Nodes) -> None:
    """M6: the leader speaks with it until it knows."""
    await nodes.found()
    leader = await nodes.leader()
    gone = nodes.others(leader)[0]
    assert gone.status()["removed"] is False
    heard: list[str] = []

    def observe(event: Any) -> None:
        heard.append(formatEvent(event))

    globalLogPublisher.addObserver(observe)
    try:
        await leader.remove(gone.id)
        await until(lambda: gone.status()["removed"])
        await until(lambda: any(f"{gone.id} was removed" in line for line in heard))
    finally:
        globalLogPublisher.removeObserver(observe)
    assert len([line for line in heard if "was removed" in line]) == 1
    await until(lambda: not leader.network.is_connected(gone.id))
    server = gone.shell.server
    term, quiet_until = server.current_term, gone.clock() + 0.8
    await until(lambda: gone.clock() > quiet_until)
    assert (server.role, server.current_term) == (out.Role.FOLLOWER, term)
    assert leader.status()["removed"] is False


@pytest_twisted.ensureDeferred
async def test_a_server_that_moves_is_followed_by_an_address_in_the_log(nodes: Nodes) -> None:
    """M7: all addresses at once, while the nodes listen at both."""
    every = [nodes.start(id, peer_endpoint="tcp:0", allow_plaintext=True) for id in "abc"]

    for node in every:
        node._found_address(f"tcp:127.0.0.1:{node.peer_port.getHost().port}")  # type: ignore[attr-defined]

    def at(host: str) -> list[Member]:
        ports = [node.peer_port.getHost().port for node in every]
        return [
            Member(node.id, "", f"tcp:{host}:{port}")
            for node, port in zip(every, ports, strict=True)
        ]

    await every[0].set_configuration(at("127.0.0.1"), 8.0)
    leader = await nodes.leader()
    moved = at("127.0.0.2")
    await leader.set_configuration(moved)
    await leader.write(["set", "k", 1])
    for node in every:
        await applied_by(node, leader)
        links = node.network._links.values()
        assert all(link.address.startswith("tcp:127.0.0.2:") for link in links)


@pytest_twisted.ensureDeferred
async def test_the_status_tells_what_each_member_is(nodes: Nodes) -> None:
    await nodes.found()
    leader = await nodes.leader()
    d, e = nodes.start("d"), nodes.start("e")
    await leader.add_learner(nodes.member(d))
    e.network.set_peers({})
    nodes.isolate("e")
    added = leader.add(nodes.member(e))
    added.addErrback(lambda _: None)
    await until(lambda: leader.shell.server.configuration.target)
    status = leader.status()
    rows: Any = status["members"]
    roles = {row["id"]: row["role"] for row in rows}
    assert roles == {**dict.fromkeys("abc", "voter"), "d": "learner", "e": "joining"}
    assert status["joint"] is False
    assert set(status["target"]) == set("abcde")  # type: ignore[call-overload]
    nodes.cut.clear()
    await added
    assert leader.status()["target"] == []


@pytest_twisted.ensureDeferred
async def test_the_same_from_outside(nodes: Nodes) -> None:
    """The client looks at the members, and is refused where they have changed since."""
    await nodes.found()
    leader = await nodes.leader()
    d = nodes.start("d")
    addresses = [nodes.member(node).client_address for node in nodes.others(leader)]
    client = RaftClient(addresses)
    try:
        await client.add_learner(nodes.member(d))
        await client.promote("d")
        assert voters(leader) == set("abcd")
        gone = next(node for node in nodes.others(leader) if node is not d)
        await client.remove(gone.id)
        e = nodes.start("e")
        await client.replace("d", nodes.member(e))
        assert voters(leader) == (set("abc") | {"e"}) - {gone.id}
        seen = index_of(leader)
        error = await outcome(client.set_configuration([Member("e")], expected_index=seen - 1))
        assert isinstance(error, ConfigurationInProgress)
        for asked in (client.remove("z"), client.promote("z"), client.replace("z", Member("y"))):
            assert isinstance(await outcome(asked), NotFound)
        mine = nodes.member(leader)
        there = (leader.id, mine.client_address)
        await raft.set_configuration(there, [mine], 8.0, replace=True)
        assert voters(leader) == {leader.id}
    finally:
        await client.close()


@pytest_twisted.ensureDeferred
async def test_only_the_leader_changes_members(nodes: Nodes) -> None:
    await nodes.found()
    leader = await nodes.leader()
    follower = nodes.others(leader)[0]
    for asked in (follower.remove("a"), follower.set_configuration([nodes.member(follower)])):
        error = await outcome(asked)
        assert isinstance(error, NotLeader)
        assert error.leader == leader.id


@pytest_twisted.ensureDeferred
async def test_a_change_is_compared_with_the_configuration_it_was_made_from(nodes: Nodes) -> None:
    """M4: what was computed from another configuration is refused."""
    await nodes.found()
    leader = await nodes.leader()
    await until(lambda: all(m.incarnation for m in leader.shell.server.configuration.members))
    seen = index_of(leader)
    others = [nodes.member(node) for node in nodes.all.values()][:2]
    error = await outcome(
        leader.set_configuration(others, replace=True, expected_index=seen - 1 or 99)
    )
    assert isinstance(error, ConfigurationInProgress)
    changed = evolve(nodes.member(leader), client_address="tcp:127.0.0.1:2")
    await leader.set_configuration([changed], expected_index=seen)
    assert index_of(leader) > seen


@pytest_twisted.ensureDeferred
async def test_a_second_change_is_refused_and_the_first_is_taken_back(nodes: Nodes) -> None:
    """M2, M5: a newcomer that is never heard ends the change where it began, with the reason."""
    await nodes.found(options=IMPATIENT)
    leader = await nodes.leader()
    added = leader.add(Member("d", "", "tcp:127.0.0.1:1"))
    await until(lambda: leader.shell.server.configuration.target)
    error = await outcome(leader.remove(leader.id))
    assert isinstance(error, ConfigurationInProgress)
    error = await outcome(added)
    assert isinstance(error, ConfigurationAbandoned)
    assert error.server == "d"
    assert "heard" in error.reason
    assert leader.shell.server.configuration.ids == set("abc")


@pytest_twisted.ensureDeferred
async def test_what_would_leave_no_live_majority_is_refused_unless_forced(nodes: Nodes) -> None:
    await nodes.found()
    leader = await nodes.leader()
    dead, alive = nodes.others(leader)
    await dead.stopService()
    server = leader.shell.server
    since = server.options.election_timeout_seconds + 0.1
    await until(lambda: server.now - server.state.progress[dead.id].heard_at > since)  # type: ignore[union-attr]
    error = await outcome(leader.remove(alive.id))
    assert isinstance(error, BadConfiguration)
    assert voters(leader) == set("abc")
    kept = [Member(leader.id), Member(dead.id)]
    error = await outcome(leader.set_configuration(kept, 0.3, replace=True, force=True))
    assert isinstance(error, Timeout)
    assert error.appended


@pytest_twisted.ensureDeferred
async def test_members_that_make_no_sense_are_refused(nodes: Nodes) -> None:
    await nodes.found()
    leader = await nodes.leader()
    await until(lambda: all(m.incarnation for m in leader.shell.server.configuration.members))
    wrong: list[Any] = [
        leader.set_configuration([Member("d")]),
        leader.set_configuration([Member("d", "", "nowhere")]),
        leader.set_configuration([Member(leader.id, "another")]),
        leader.set_configuration([], replace=True),
        leader.set_configuration([nodes.member(leader)] * 2, replace=True),
        leader.replace(leader.id, nodes.member(leader)),
    ]
    for asked in wrong:
        assert isinstance(await outcome(asked), BadConfiguration)
    for asked in (leader.remove("z"), leader.promote("z"), leader.replace("z", Member("y"))):
        assert isinstance(await outcome(asked), NotFound)
    assert voters(leader) == set("abc")


@pytest_twisted.ensureDeferred
async def test_cancelling_forgets_the_caller_and_a_stop_leaves_the_outcome_open(
    nodes: Nodes,
) -> None:
    await nodes.found(options=IMPATIENT)
    leader = await nodes.leader()
    cancelled = leader.add(Member("d", "", "tcp:127.0.0.1:1"))
    cancelled.addErrback(lambda _: None)
    await until(lambda: leader.shell.server.configuration.target)
    cancelled.cancel()
    await until(lambda: not leader.shell.server.configuration.target)
    added = leader.add(Member("d", "", "tcp:127.0.0.1:1"))
    await until(lambda: leader.shell.server.configuration.target)
    waiting = outcome(added)
    await leader.stopService()
    assert isinstance(await waiting, OutcomeUnknown)


@pytest_twisted.ensureDeferred
async def test_who_was_removed_while_it_was_away_learns_so_when_it_returns(nodes: Nodes) -> None:
    """M6: nobody sends it entries any more; whom it dials tells it (sc-M5)."""
    await nodes.found()
    leader = await nodes.leader()
    away = nodes.others(leader)[0]
    fixed = nodes.fixed(away)
    await away.stopService()
    await leader.remove(away.id)
    again = nodes.start(away.id, **fixed)
    await until(lambda: again.status()["removed"])
    assert not again.shell.server.may_campaign
    term = leader.shell.server.current_term
    await leader.write(["set", "k", 1])
    assert leader.shell.server.current_term == term
    # It comes back in the same directory, and the leader that it hears knows better.
    await leader.add(nodes.member(again))
    await until(lambda: not again.status()["removed"])
    assert again.shell.server.is_voter


@pytest_twisted.ensureDeferred
async def test_a_removed_server_knows_it_after_compaction_and_a_restart(nodes: Nodes) -> None:
    """M6: its own log no longer tells that it was ever a member."""
    await nodes.found()
    leader = await nodes.leader()
    out = nodes.others(leader)[0]
    await leader.remove(out.id)
    await until(lambda: out.status()["removed"])
    await out.take_snapshot()
    fixed = nodes.fixed(out)
    await out.stopService()
    again = nodes.start(out.id, **fixed)
    await until(lambda: again.status()["removed"])


@pytest_twisted.ensureDeferred
async def test_who_could_not_be_told_and_stayed_connected_dials_again(nodes: Nodes) -> None:
    """M6: a process that was paused for long finds its connections closed, and asks anew."""
    await nodes.found(options=IMPATIENT)
    leader = await nodes.leader()
    deaf, other = nodes.others(leader)
    nodes.cut |= {(leader.id, deaf.id), (other.id, deaf.id)}
    await leader.remove(deaf.id)
    # It asks for votes meanwhile, and is not heard; when its time is over, nobody tells it.
    await until(lambda: deaf.id not in leader.shell.server.state.progress)  # type: ignore[union-attr]
    await until(lambda: deaf.status()["removed"])


@pytest_twisted.ensureDeferred
async def test_whom_the_log_would_remove_is_answered_where_it_leads(nodes: Nodes) -> None:
    """M6: a leader's removal of a member was never committed, and that member leads now.

    The follower had no way to answer it any more, and lagged as long as both lived (seed 3000218).
    """
    await nodes.found(options=IMPATIENT)
    leader = await nodes.leader()
    left, other = nodes.others(leader)
    server = leader.shell.server
    await until(lambda: pinned(leader, left.id) and membership.may_change(server))
    nodes.cut |= {(leader.id, left.id), (leader.id, other.id)}
    kept = tuple(m for m in server.configuration.members if m.id != left.id)
    answered = leader.shell.change(kept, server.log.configuration_index, True)
    await until(lambda: answered)
    assert isinstance(answered[0], out.Accepted), answered
    await until(lambda: server.configuration.member(left.id) is None)
    nodes.isolate(leader.id)
    left.shell.post(ev.Received(leader.id, ms.TimeoutNow(server.current_term)))
    await until(lambda: left.shell.server.role is out.Role.LEADER)
    # It leads with a longer log than the other's, which has to say that it cannot follow.
    await left.write(["set", "after", 1])
    await left.transfer_leadership(other.id)
    await other.transfer_leadership(left.id)
    await until(lambda: server.leader_id is None)
    nodes.cut.clear()
    await left.write(["set", "after", 2])
    await applied_by(leader, left)
    assert voters(leader) == set("abc")


@pytest_twisted.ensureDeferred
async def test_who_was_away_follows_a_leader_that_came_under_an_old_id_meanwhile(
    nodes: Nodes,
) -> None:
    """M7: its own log still names the directory that was the member before.

    It refused the only leader there was, for as long as that led (seed 4001037).
    """
    await nodes.found("abcd")
    leader = await nodes.leader()
    away, replaced, _ = nodes.others(leader)
    id, where = replaced.id, nodes.fixed(away)
    await until(lambda: pinned(away, id))
    await away.stopService()
    await leader.remove(id)
    await replaced.stopService()
    joined = nodes.start(id, directory="anew")
    await leader.add(nodes.member(joined))
    await until(lambda: pinned(leader, id) == joined.identity.incarnation)
    await leader.transfer_leadership(id)
    await joined.write(["set", "while away", 1])
    returned = nodes.start(away.id, **where)
    await applied_by(returned, joined)
    assert joined.shell.server.role is out.Role.LEADER
    assert pinned(returned, id) == joined.identity.incarnation
