"""Whole nodes go over to another version of their machine: all at one entry, or not at all."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from attrs import evolve
from twisted.internet.defer import Deferred, gatherResults

from raft.client import RaftClient
from raft.core.server import Options
from raft.errors import BadBackup, ConfigurationAbandoned, NotAppended, StateMachineFailed
from raft.node.bounds import Bounds
from raft.service import RaftService
from raft.transport.greeting import Greeting
from tests.node.ledgers import Ledger1, Ledger2, Ledger3, PlainLedger
from tests.node.running import Nodes, outcome, until

OPTIONS = Options(heartbeat_seconds=0.05, election_timeout_seconds=0.3, join_timeout_seconds=20.0)


@pytest_twisted.async_yield_fixture
async def nodes(tmp_path: Path) -> AsyncIterator[Nodes]:
    made = Nodes(tmp_path)
    yield made
    await made.stop()


async def founded(nodes: Nodes, *machines: Any, **changes: Any) -> list[RaftService]:
    """Start a node with each machine, and let them found a cluster."""
    started = [
        nodes.start(id, machine, options=OPTIONS, **changes)
        for id, machine in zip("abcde", machines, strict=False)
    ]
    await started[0].set_configuration([nodes.member(node) for node in started], 8.0)
    await gatherResults([node.when_leader() for node in started])
    return started


async def replaced(nodes: Nodes, node: RaftService, machine: Any, **changes: Any) -> RaftService:
    """Stop a node, and start it with another machine where it was."""
    fixed = nodes.fixed(node)
    await node.stopService()
    del nodes.all[node.id]
    return nodes.start(node.id, machine, options=OPTIONS, **fixed, **changes)


def versions(nodes: Nodes) -> set[int]:
    return {node.replica.versions.active for node in nodes.all.values()}


async def settled(nodes: Nodes) -> None:
    """Wait until all have applied the same."""
    await until(lambda: len({each.replica.last_applied for each in nodes.all.values()}) == 1)


def switches(machine: Any) -> list[int]:
    """Return at which commands the version was another one than at the command before."""
    seen = machine.seen
    return [index for (_, old), (index, new) in pairwise(seen) if old != new]


@pytest_twisted.ensureDeferred
async def test_a_new_cluster_begins_with_the_newest_version_that_all_can(nodes: Nodes) -> None:
    started = await founded(nodes, Ledger2(), Ledger2(), Ledger3())
    await until(lambda: versions(nodes) == {2})
    leader = await nodes.leader()
    assert await leader.write(["add", "x", 3]) == [2, 300]
    found = [leader.entry(index) for index in range(1, leader.replica.last_applied + 1)]
    assert [each["command"] for each in found if each["kind"] == "version"] == [2]
    await settled(nodes)
    assert len({node.replica.digest for node in started}) == 1


@pytest_twisted.ensureDeferred
async def test_a_rolling_upgrade_under_load_switches_at_one_entry(nodes: Nodes) -> None:
    """sc-SM7, sc-U1: v1 and v2 side by side, snapshots in between, and all states equal."""
    bounds = Bounds(snapshot_entries=40, trailing_entries=5, trailing_bytes=0)
    await founded(nodes, PlainLedger(), Ledger1(), Ledger1(), bounds=bounds)
    addresses = [nodes.fixed(node)["client_endpoint"] for node in nodes.all.values()]
    client = RaftClient(
        [each.split(":interface")[0].replace("tcp", "tcp:127.0.0.1") for each in addresses],
        timeout_seconds=8.0,
    )
    results: list[Any] = []
    writing = True

    async def write() -> None:
        while writing:
            results.append(await outcome(client.write(["add", "x", 1])))

    load = [Deferred.fromCoroutine(write()) for _ in range(4)]
    try:
        for id in "abc":
            assert versions(nodes) == {1}
            before = len(results)
            await until(lambda before=before: len(results) > before + 60)
            node = await replaced(nodes, nodes.all[id], Ledger2(), bounds=bounds)
            last = (await nodes.leader()).replica.last_applied
            await until(lambda node=node, last=last: node.replica.last_applied >= last)
        await until(lambda: versions(nodes) == {2})
        before = len(results)
        await until(lambda: len(results) > before + 60)
    finally:
        writing = False
        await gatherResults(load)
        await client.close()
    await settled(nodes)
    machines: list[Any] = [node.replica.machine for node in nodes.all.values()]
    assert {tuple(switches(machine)) for machine in machines} == {tuple(switches(machines[0]))}
    assert len(switches(machines[0])) == 1
    assert len({machine.accounts["x"] for machine in machines}) == 1
    assert [machine.seen for machine in machines[1:]] == [machines[0].seen] * 2
    assert len({node.replica.digest for node in nodes.all.values()}) == 1
    told = [result for result in results if isinstance(result, list)]
    assert [version for version, _ in told] == sorted(version for version, _ in told)
    assert {version for version, _ in told} == {1, 2}


@pytest.mark.parametrize("snapshot", [False, True], ids=["log", "snapshot"])
@pytest_twisted.ensureDeferred
async def test_a_downgraded_node_refuses_and_comes_back_with_the_upgrade(
    nodes: Nodes, snapshot: bool
) -> None:
    """sc-F27, sc-U2: the release before finds the version in its snapshot, or in the log."""
    started = await founded(nodes, Ledger2(), Ledger2(), Ledger2())
    await until(lambda: versions(nodes) == {2})
    leader = await nodes.leader()
    await leader.write(["add", "x", 1])
    await settled(nodes)
    node = next(each for each in started if each is not leader)
    if snapshot:
        await node.take_snapshot()
    fixed = nodes.fixed(node)
    await node.stopService()
    old = RaftService(nodes.settings(node.id, options=OPTIONS, **fixed), Ledger1())
    if snapshot:
        with pytest.raises(StateMachineFailed, match="version 2 of the machine, this node runs 1"):
            old.startService()
    else:
        old.startService()
        error = await old.ended
        assert isinstance(error, StateMachineFailed)
        assert "version 2 of the machine, this node can 1: upgrade it" in str(error)
        assert old.status()["role"] == "stopped"
        await old.stopService()
    await leader.write(["add", "x", 1])
    again = nodes.start(node.id, Ledger2(), options=OPTIONS, **fixed)
    await until(lambda: again.replica.last_applied >= leader.replica.last_applied)
    assert again.replica.machine.query("x") == leader.replica.machine.query("x")


@pytest_twisted.ensureDeferred
async def test_the_switch_waits_for_every_member_and_says_for_whom(nodes: Nodes) -> None:
    """Learners too: one that stops serves no reads."""
    started = await founded(nodes, Ledger2(), Ledger1(), Ledger2())
    learner = nodes.start("d", Ledger2(), options=OPTIONS)
    leader = await nodes.leader()
    await leader.add_learner(evolve(nodes.member(learner), voter=False))
    await until(lambda: leader.network.is_connected("d"))
    status = leader.status()
    if leader is not started[1]:
        assert (status["machine_versions"], status["switch_waits_for"]) == ([1, 2], ["b"])
        rows: Any = status["members"]
        assert [row["machine_versions"] for row in rows] == [[1, 2], [1, 1], [1, 2], [1, 2]]
    await learner.stopService()
    del nodes.all["d"]
    await replaced(nodes, started[1], Ledger2())
    leader = await nodes.leader()
    await until(lambda: leader.status()["switch_waits_for"] == ["d"])
    await leader.write(["add", "x", 1])
    assert versions(nodes) == {1}
    await leader.remove("d")
    await until(lambda: versions(nodes) == {2})
    assert leader.status()["switch_waits_for"] == []


@pytest_twisted.ensureDeferred
async def test_a_server_that_is_too_old_does_not_join_and_the_caller_hears_why(
    nodes: Nodes,
) -> None:
    """M5: it is not waited for until it would have caught up."""
    await founded(nodes, Ledger2(), Ledger2())
    await until(lambda: versions(nodes) == {2})
    leader = await nodes.leader()
    old = nodes.start("d", Ledger1(), options=OPTIONS)
    error = await outcome(leader.set_configuration([nodes.member(old)], 15.0))
    assert isinstance(error, ConfigurationAbandoned)
    assert error.server == "d"
    assert error.reason == "its machine can version 1, the cluster needs 2: upgrade it"
    assert set(leader.shell.server.configuration.ids) == {"a", "b"}
    assert old.replica.last_applied == 0
    upgraded = await replaced(nodes, old, Ledger2())
    await leader.set_configuration([nodes.member(upgraded)], 15.0)
    await until(lambda: upgraded.replica.versions.active == 2)


@pytest_twisted.ensureDeferred
async def test_a_server_that_dropped_the_version_in_force_does_not_join(nodes: Nodes) -> None:
    await founded(nodes, Ledger1())
    leader = await nodes.leader()
    late = nodes.start("d", Ledger3(), options=OPTIONS)
    error = await outcome(leader.set_configuration([nodes.member(late)], 15.0))
    assert isinstance(error, ConfigurationAbandoned)
    assert "its machine can version 2 to 3, the cluster needs 1: start an older" in error.reason


@pytest_twisted.ensureDeferred
async def test_a_voter_that_the_leader_was_wrong_about_stops_and_does_not_diverge(
    nodes: Nodes,
) -> None:
    """Safety rests on the entry alone: as if it had joined after the leader looked."""
    started = await founded(nodes, Ledger2(), Ledger2(), Ledger1())
    if (await nodes.leader()) is started[2]:
        await started[2].transfer_leadership("a")
    leader = await nodes.leader()
    await leader.write(["add", "x", 1])
    fixed = nodes.fixed(started[2])
    leader.switching._append(2)
    error = await started[2].ended
    assert isinstance(error, StateMachineFailed)
    assert "begins version 2 of the machine, this node can 1" in str(error)
    machine: Any = started[2].replica.machine
    assert machine.accounts == {"x": 1}
    assert await leader.write(["add", "x", 1]) == [2, 200]
    del nodes.all["c"]
    again = nodes.start("c", Ledger2(), options=OPTIONS, **fixed)
    await settled(nodes)
    assert again.replica.digest == leader.replica.digest


@pytest_twisted.ensureDeferred
async def test_no_switch_is_appended_while_the_members_change(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M2: till then it is not known who they will be, and so not what all of them can."""
    (leader,) = await founded(nodes, Ledger2())
    await until(lambda: versions(nodes) == {2})
    switching, log = leader.switching, leader.shell.server.log
    assert switching._next() == 2
    index, settled = log.configurations[-1]
    old, coming = frozenset({leader.id}), (*settled.members, nodes.member(leader))
    for change in ({"outgoing": old}, {"target": coming}):
        log.configurations[-1] = (index, evolve(settled, **change))
        assert switching._next() == 0
        log.configurations[-1] = (index, settled)
    monkeypatch.setattr("raft.core.membership.may_change", lambda server: False)
    assert switching._next() == 0


@pytest_twisted.ensureDeferred
async def test_who_joins_while_a_switch_is_not_committed_must_be_able_to_it(nodes: Nodes) -> None:
    """The version that the log is about to switch to counts already; who votes is let in."""
    started = await founded(nodes, Ledger2(), Ledger1())
    if (await nodes.leader()) is started[1]:
        await started[1].transfer_leadership("a")
    leader = await nodes.leader()
    nodes.isolate("b")
    last = leader.shell.server.log.last_index
    leader.switching._append(2)
    await until(lambda: leader.shell.server.log.last_index > last)
    assert leader.replica.versions.active == 1
    old = Greeting(1, leader.identity.cluster_id, "d", "i-d")
    assert "can version 1, the cluster needs 2" in str(leader.members.judge(old))
    assert leader.members.judge(evolve(old, versions=(1, 2))) is None
    voter = evolve(old, server_id="b", incarnation=started[1].identity.incarnation)
    assert leader.members.judge(voter) is None


@pytest_twisted.ensureDeferred
async def test_a_machine_that_dropped_version_1_takes_commands_after_the_switch(
    nodes: Nodes,
) -> None:
    """Before that a command would have no meaning to it, so none reaches the log."""
    started = await founded(nodes, Ledger3(), Ledger3(), Ledger3())
    leader = await nodes.leader()
    results = [await outcome(leader.write(["add", "x", 1]))]
    await until(lambda: versions(nodes) == {3})
    results.append(await leader.write(["add", "x", 1]))
    assert results[-1][0] == 3
    assert isinstance(results[0], NotAppended) or results[0][0] == 3
    assert not any(node.failure for node in started)


@pytest_twisted.ensureDeferred
async def test_commands_wait_for_a_member_without_which_there_is_no_version(
    nodes: Nodes,
) -> None:
    started = await founded(nodes, Ledger3(), Ledger1())
    if (await nodes.leader()) is started[1]:
        await started[1].transfer_leadership("a")
        await until(lambda: started[0].leader() == "a")
    error = await outcome(started[0].write(["add", "x", 1]))
    assert isinstance(error, NotAppended)
    assert "all members must first be connected, and can version 2" in str(error)


@pytest_twisted.ensureDeferred
async def test_a_backup_of_an_older_version_is_restored_and_switched_again(
    nodes: Nodes, tmp_path: Path
) -> None:
    """N8: state and version come back together, and the log goes on from there."""
    started = await founded(nodes, Ledger1(), Ledger1())
    await (await nodes.leader()).write(["add", "x", 7])
    path = str(tmp_path / "old.backup")
    await started[0].backup(path)
    for node in started:
        await replaced(nodes, node, Ledger2())
        await nodes.leader()
    await until(lambda: versions(nodes) == {2})
    leader = await nodes.leader()
    assert await leader.write(["add", "x", 1]) == [2, 800]
    await leader.restore(path, replace=True)
    await until(lambda: versions(nodes) == {2})
    assert await leader.write(["add", "x", 1]) == [2, 800]
    await settled(nodes)
    machines: list[Any] = [node.replica.machine for node in nodes.all.values()]
    assert [machine.switched for machine in machines] == [[2], [2]]
    assert len({node.replica.digest for node in nodes.all.values()}) == 1


@pytest_twisted.ensureDeferred
async def test_a_backup_that_a_member_could_not_read_is_not_restored(
    nodes: Nodes, tmp_path: Path
) -> None:
    (newer,) = await founded(nodes, Ledger2())
    await until(lambda: versions(nodes) == {2})
    path = str(tmp_path / "new.backup")
    await newer.backup(path)
    await nodes.stop()
    others = Nodes(tmp_path / "others")
    others.path.mkdir()
    try:
        started = await founded(others, Ledger2(), Ledger1())
        if (await others.leader()) is started[1]:
            await started[1].transfer_leadership("a")
        error = await outcome((await others.leader()).restore(path))
        assert isinstance(error, BadBackup)
        assert "version 2 of the machine, b can read 1 to 1" in str(error)
        assert not any(node.failure for node in started)
    finally:
        await others.stop()
