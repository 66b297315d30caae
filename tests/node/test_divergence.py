"""Whole nodes whose machines diverge: who is named, who stops, who goes on."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from attrs import evolve
from twisted.logger import LogLevel, globalLogPublisher

from raft.errors import Diverged, NodeFailed, NotApplied, StorageDamaged, StorageFull
from raft.interfaces import Context, Value
from raft.machines.kv import KeyValueStore
from raft.machines.sqlite import SQLiteDatabase
from raft.node.guard import Judgement
from raft.service import RaftService
from raft.storage.directory import DataDirectory
from raft.transport.commands import Status
from raft.transport.dialling import dial
from raft.transport.greeting import Greeting
from raft.transport.wire import StateDigest
from tests.node.running import Nodes, outcome, until


class Wrong(KeyValueStore):
    """Answers `["cas", "odd", ...]` otherwise than the store does, once it is to."""

    is_wrong = False

    def apply(self, command: Value, context: Context) -> Value:
        found = super().apply(command, context)
        if self.is_wrong and isinstance(command, list) and command[1] == "odd":
            return 7
        return found


@pytest.fixture
def events() -> Iterator[list[Any]]:
    found: list[Any] = []
    globalLogPublisher.addObserver(found.append)
    yield found
    globalLogPublisher.removeObserver(found.append)


@pytest_twisted.async_yield_fixture
async def nodes(tmp_path: Path) -> AsyncIterator[Nodes]:
    found = Nodes(tmp_path)
    yield found
    await found.stop()


async def founded(nodes: Nodes, ids: str = "abc", **changes: Any) -> list[RaftService]:
    started = [nodes.start(id, Wrong(), **changes) for id in ids]
    await started[0].set_configuration([nodes.member(node) for node in started], 8.0)
    await nodes.leader()
    return started


def machine_of(node: RaftService) -> Wrong:
    machine = node.replica.machine
    assert isinstance(machine, Wrong)
    return machine


async def some_writes(nodes: Nodes, count: int = 20) -> RaftService:
    leader = await nodes.leader()
    for number in range(count):
        await leader.write(["set", f"k{number}", number])
    return leader


async def compared(nodes: Nodes, among: list[RaftService]) -> None:
    leader = await nodes.leader(node.id for node in among)
    applied = leader.replica.last_applied
    await until(lambda: all(node.guard.agreed_index >= applied for node in among))


def critical(events: list[Any]) -> list[str]:
    return [
        event["log_format"].format(**event)
        for event in events
        if event.get("log_level") is LogLevel.critical
    ]


@pytest_twisted.ensureDeferred
async def test_servers_that_are_alike_agree_and_nobody_is_named(
    nodes: Nodes, events: list[Any]
) -> None:
    """sc-SM3: also across snapshots, a restart and a change of the leader."""
    await founded(nodes)
    leader = await some_writes(nodes, 300)
    await compared(nodes, list(nodes.all.values()))
    follower = nodes.others(leader)[0]
    for node in (leader, follower):
        await node.take_snapshot()
    await some_writes(nodes)
    fixed = nodes.fixed(follower)
    await follower.stopService()
    again = nodes.start(follower.id, Wrong(), **fixed)
    await handed_over(leader)
    await some_writes(nodes)
    await compared(nodes, list(nodes.all.values()))
    assert again.status()["compared_index"] == again.guard.agreed_index > 300
    assert not any(node.guard.accused or node.guard.dispute for node in nodes.all.values())
    assert not critical(events)


async def handed_over(leader: RaftService) -> None:
    """Let another lead: on a busy machine the target may not take over at the first word."""
    for _ in range(20):
        if isinstance(await outcome(leader.transfer_leadership()), str):
            return
        if leader.leader() not in (leader.id, None):
            return
    raise AssertionError(f"{leader.id} leads on")


async def diverging(nodes: Nodes, node: RaftService, others: int = 40) -> int:
    """Let the machine of `node` answer one command otherwise; return the command's index."""
    machine_of(node).is_wrong = True
    leader = await nodes.leader()
    odd = (await leader.write_indexed(["cas", "odd", None, 1])).index
    if node is not leader:
        await until(lambda: node.replica.last_applied >= odd or not node.serves)
    machine_of(node).is_wrong = False
    for number in range(others):
        await outcome(leader.write(["set", f"more{number}", number]))
    return odd


@pytest_twisted.ensureDeferred
async def test_a_follower_that_diverges_is_named_with_the_entry_and_stops(
    nodes: Nodes, events: list[Any]
) -> None:
    """sc-SM4: it serves and votes no more, keeps its data, and everybody says so."""
    await founded(nodes)
    leader = await some_writes(nodes)
    await compared(nodes, list(nodes.all.values()))
    follower, healthy = nodes.others(leader)
    odd = await diverging(nodes, follower)
    await until(lambda: follower.is_set_aside)
    assert isinstance(follower.failure, Diverged)
    assert (follower.failure.index, follower.failure.is_exact) == (odd, True)
    assert isinstance(await outcome(follower.read(["get", "k1"], consistency="local")), NodeFailed)
    await until(lambda: leader.status()["diverged"] == {follower.id: odd})
    await until(lambda: healthy.status()["diverged"] == {follower.id: odd})
    said = critical(events)
    assert any(f"The state of {follower.id} has diverged from entry {odd}" in line for line in said)
    assert any("divergence.md" in line for line in said)
    # Should it not have understood, others let it in no more.
    healthy.guard.accused[follower.id].since -= 10.0
    incarnation = follower.identity.incarnation
    greeting = Greeting(1, healthy.identity.cluster_id, follower.id, incarnation)
    assert "its state has diverged" in str(healthy.members.judge(greeting))
    # It is no part of any majority any more; the others are one.
    await until(lambda: not leader.network.is_connected(follower.id))
    await leader.write(["set", "after", 1])
    assert follower.replica.last_applied < leader.replica.last_applied
    marked = json.loads((nodes.path / follower.id / "diverged").read_text())
    assert (marked["index"], marked["is_exact"]) == (odd, True)
    assert set(marked["majority"]) == {leader.id, healthy.id}


@pytest_twisted.ensureDeferred
async def test_a_leader_that_diverges_leads_no_more(nodes: Nodes) -> None:
    """sc-SM4: the majority goes on without it."""
    await founded(nodes)
    leader = await some_writes(nodes)
    others = nodes.others(leader)
    odd = await diverging(nodes, leader)
    await until(lambda: leader.is_set_aside)
    assert isinstance(leader.failure, Diverged)
    assert leader.failure.index == odd
    new = await nodes.leader(node.id for node in others)
    await new.write(["set", "after", 1])
    assert {node.guard.accused[leader.id].index for node in others} == {odd}


@pytest_twisted.ensureDeferred
async def test_who_has_diverged_tells_its_status_and_stays_set_aside_after_a_restart(
    nodes: Nodes,
) -> None:
    """sc-SM4: a restart with a sound machine does not let it back either."""
    await founded(nodes)
    leader = await some_writes(nodes)
    follower = nodes.others(leader)[0]
    fixed = nodes.fixed(follower)
    odd = await diverging(nodes, follower)
    await until(lambda: follower.is_set_aside)
    for _ in range(2):
        status = follower.status()
        assert (status["id"], status["role"]) == (follower.id, "diverged")
        assert f"from entry {odd} on" in str(status["failure"])
        answers = await asked(follower, lambda client: client.call(Status))
        assert b"diverged" in answers["status"]
        refused = await outcome(asked(follower, lambda client: client.write_batch([b"\xc0"], 500)))
        assert isinstance(refused, NotApplied | NodeFailed)
        await follower.stopService()
        assert await follower.ended is None
        follower = nodes.start(follower.id, Wrong(), **fixed)
        assert follower.is_set_aside
    await leader.write(["set", "after", 1])
    assert not leader.network.is_connected(follower.id)
    assert follower.shell.server.voted_for in (None, leader.id)


async def asked(node: RaftService, ask: Callable[[Any], Any]) -> Any:
    from twisted.internet import reactor

    port = node.client_port.getHost().port  # type: ignore[union-attr]
    client = await dial(reactor, f"tcp:127.0.0.1:{port}", 3.0)
    try:
        return await ask(client)
    finally:
        client.close()


@pytest_twisted.ensureDeferred
async def test_who_has_diverged_comes_back_with_an_empty_directory(nodes: Nodes) -> None:
    """M7, N6: removed and joined again it is another server, and is compared as one."""
    await founded(nodes)
    leader = await some_writes(nodes)
    follower, healthy = nodes.others(leader)
    await diverging(nodes, follower)
    await until(lambda: follower.is_set_aside and follower.id in healthy.guard.accused)
    await follower.stopService()
    del nodes.all[follower.id]
    await leader.set_configuration(
        [nodes.member(node) for node in (leader, healthy)], 8.0, replace=True
    )
    await leader.take_snapshot()
    again = nodes.start(follower.id, Wrong(), directory="anew")
    await leader.set_configuration([nodes.member(again)], 8.0)
    await some_writes(nodes)
    await compared(nodes, [leader, healthy, again])
    assert leader.status()["diverged"] == {}


@pytest_twisted.ensureDeferred
async def test_two_voters_that_differ_are_not_judged(nodes: Nodes, events: list[Any]) -> None:
    """sc-SM3: nobody can tell who is right; both go on, and both say so."""
    one, other = await founded(nodes, "ab")
    leader = await some_writes(nodes)
    odd = await diverging(nodes, nodes.others(leader)[0])
    await until(lambda: one.guard.dispute and other.guard.dispute)
    await leader.write(["set", "after", 1])
    for node in (one, other):
        assert node.serves
        status = node.status()
        assert status["diverged"] == {}
        assert status["disputed"] == [["a"], ["b"]]
        assert int(str(status["disputed_index"])) >= odd
    assert any("No side is a majority" in line for line in critical(events))


@pytest_twisted.ensureDeferred
async def test_a_third_voter_that_comes_back_settles_a_dispute(nodes: Nodes) -> None:
    """sc-SM3: without a majority nobody is judged, with one the wrong one is."""
    await founded(nodes)
    leader = await some_writes(nodes)
    wrong, absent = nodes.others(leader)
    fixed = nodes.fixed(absent)
    await absent.stopService()
    del nodes.all[absent.id]
    odd = await diverging(nodes, wrong)
    await until(lambda: leader.guard.dispute and wrong.guard.dispute)
    nodes.start(absent.id, Wrong(), **fixed)
    await until(lambda: wrong.is_set_aside)
    assert isinstance(wrong.failure, Diverged)
    assert wrong.failure.index == odd
    await until(lambda: leader.guard.dispute is None)
    await leader.write(["set", "after", 1])


@pytest_twisted.ensureDeferred
async def test_a_learner_that_diverges_is_set_aside(nodes: Nodes) -> None:
    """sc-SM4: it serves reads, so it is judged; it has no voice in who is right."""
    (node,) = await founded(nodes, "a")
    learner = nodes.start("b", Wrong())
    await node.set_configuration([evolve(nodes.member(learner), voter=False)], 8.0)
    await some_writes(nodes)
    odd = await diverging(nodes, learner)
    await until(lambda: learner.is_set_aside)
    assert node.serves
    await until(lambda: node.status()["diverged"] == {"b": odd})


@pytest_twisted.ensureDeferred
async def test_who_compares_no_digests_is_not_judged(nodes: Nodes) -> None:
    """An older release in the cluster is sent none: it would close the connection."""
    await founded(nodes)
    leader = await some_writes(nodes)
    older = nodes.others(leader)[0]
    older.network.identity = evolve(older.network.identity, digests=0)
    # What it answers to a greeting is told with the next connection.
    for node in nodes.others(older):
        node.network.redial(older.id)
    await until(lambda: all(node.network.is_connected(older.id) for node in nodes.others(older)))
    sent: list[str] = []
    send = leader.network.send_digest

    def watched(peer: str, digest: StateDigest) -> bool:
        was_sent = send(peer, digest)
        sent.extend([peer] if was_sent else [])
        return was_sent

    leader.network.send_digest = watched  # type: ignore[method-assign]
    await diverging(nodes, older)
    await until(lambda: len(sent) > 2)
    assert older.id not in sent
    assert older.serves
    assert leader.network.is_connected(older.id)
    assert not leader.guard.accused


@pytest_twisted.ensureDeferred
async def test_a_mark_that_cannot_be_read_or_written_is_told(
    nodes: Nodes, events: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """sc-SM4: one that cannot be read ends the start; without one it stops all the same."""
    (node,) = await founded(nodes, "a")
    await node.stopService()
    mark = nodes.path / "a" / "diverged"
    mark.write_bytes(b"?")
    with pytest.raises(StorageDamaged, match="diverged"):
        nodes.start("a", Wrong())
    mark.unlink()
    again = nodes.start("a", Wrong())

    def full(*_: object) -> None:
        raise StorageFull("no room")

    monkeypatch.setattr(DataDirectory, "note_divergence", full)
    again._set_aside(Judgement(5, True, 6, 1, 2, ("b", "c")))
    assert again.is_set_aside
    assert any("cannot be marked" in line for line in critical(events))


@pytest_twisted.ensureDeferred
async def test_databases_are_compared_across_restarts_and_restored_backups(
    nodes: Nodes, events: list[Any], tmp_path: Path
) -> None:
    """S5, N8, sc-SM3: what a durable machine notes goes on; a backup is the same on all."""

    def database(id: str) -> SQLiteDatabase:
        return SQLiteDatabase(tmp_path / f"machine-{id}")

    started = [nodes.start(id, database(id)) for id in "abc"]
    await started[0].set_configuration([nodes.member(node) for node in started], 8.0)
    leader = await nodes.leader()
    await leader.write(["execute", "CREATE TABLE t (id INTEGER PRIMARY KEY, x)"])
    insert = ["execute", "INSERT INTO t (x) VALUES (raft_uuid())"]
    for _ in range(10):
        await leader.write(insert)
    await compared(nodes, list(nodes.all.values()))
    await leader.backup(str(tmp_path / "backup"))
    follower = nodes.others(leader)[0]
    fixed = nodes.fixed(follower)
    await follower.stopService()
    again = nodes.start(follower.id, database(follower.id), **fixed)
    assert again.replica.rolling.origin == 0
    for _ in range(10):
        await leader.write(insert)
    await leader.restore(str(tmp_path / "backup"), replace=True)
    for _ in range(10):
        await leader.write(insert)
    await compared(nodes, list(nodes.all.values()))
    assert len({node.replica.digest for node in nodes.all.values()}) == 1
    assert not critical(events)
