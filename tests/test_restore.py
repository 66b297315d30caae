"""N8: a backup comes back into a cluster, new or running, on all servers alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred, gatherResults

from raft.backup import BackupWriter, encode_meta
from raft.cli import main
from raft.client import RaftClient
from raft.errors import (
    BadBackup,
    BadCommand,
    NotLeader,
    RestoreAbandoned,
    RestoreInProgress,
    SessionExpired,
    StorageFull,
    Timeout,
    WouldReplace,
)
from raft.machines.sqlite import SQLiteDatabase
from raft.machines.stack import Stack
from raft.node import rescue, restorations
from raft.node.restorations import Restorations
from raft.numbering import Numbering
from raft.service import RaftService
from tests.node.running import Nodes, outcome, until
from tests.test_backup import client_of, written

PIECE = 500
"""How small pieces are cut here."""


@pytest.fixture
def nodes(tmp_path: Path) -> Any:
    return Nodes(tmp_path)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rescue, "PIECE_BYTES", PIECE)
    monkeypatch.setattr("raft.client.rescue.RESTORE_PIECE_BYTES", PIECE)


async def backed_up(nodes: Nodes, path: Path) -> RaftService:
    """Fill a cluster of three, save it to `path`, write on; return the leader."""
    await nodes.found()
    leader = await nodes.leader()
    for number in range(50):
        await leader.write(["set", f"k{number}", "v" * 40])
    await leader.backup(str(path))
    await leader.write(["set", "later", 1])
    return leader


def an_hour_older(path: Path, other: Path) -> None:
    """Write the backup at `path` to `other` as one whose cluster is an hour older."""
    with rescue.BackupReader.open(str(path)) as reader:
        meta = msgspec.structs.replace(reader.meta, time_us=3_600_000_000)
        writer = BackupWriter.open(str(other), encode_meta(meta))
        for chunk in reader.chunks():
            writer.write(chunk)
    writer.commit()


async def alike(*all: RaftService) -> None:
    """Wait until all have applied the same, and compare what they have."""
    last = max(node.replica.last_applied for node in all)
    await until(lambda: {node.replica.last_applied for node in all} == {last})
    assert len({node.replica.digest for node in all}) == 1
    contents = [b"".join(node.replica.machine.snapshot()) for node in all]
    assert len(set(contents)) == 1


@ensureDeferred
async def test_a_backup_takes_the_place_of_the_state_on_all_servers(
    nodes: Nodes, tmp_path: Path
) -> None:
    path = tmp_path / "x"
    leader = await backed_up(nodes, path)
    client = client_of(nodes.others(leader)[0])
    refused = await outcome(client.restore(str(path)))
    assert isinstance(refused, WouldReplace)
    index = await client.restore(str(path), replace=True)
    assert index <= leader.replica.last_applied
    assert await client.read(["get", "later"]) is None
    assert await client.read(["get", "k49"]) == "v" * 40
    await client.write(["set", "behind", 2])
    await client.close()
    await alike(*nodes.all.values())
    entry = leader.entry(index)
    assert entry["kind"] == "restore"
    await nodes.stop()


@ensureDeferred
async def test_a_new_cluster_takes_it_as_it_is_and_keeps_it_over_a_restart(
    nodes: Nodes, tmp_path: Path
) -> None:
    path = tmp_path / "x"
    await backed_up(nodes, tmp_path / "first")
    await nodes.stop()
    an_hour_older(tmp_path / "first", path)
    new = Nodes(tmp_path / "new")
    new.path.mkdir()
    await new.found()
    leader = await new.leader()
    follower = new.others(leader)[0]
    assert isinstance(await outcome(follower.restore(str(path))), NotLeader)
    index = await leader.restore(str(path))
    assert isinstance(await outcome(leader.restore(str(path))), WouldReplace)
    assert await leader.read(["get", "k7"]) == "v" * 40
    await leader.write(["set", "behind", 2])
    # The machine never sees an earlier time than it has seen, and time goes on from there.
    times = [leader.entry(at)["time"] for at in (index - 1, index, index + 1)]
    assert times[0] <= times[1] < 3600 < times[2]  # type: ignore[operator]
    await alike(*new.all.values())
    fixed = new.fixed(follower)
    await follower.stopService()
    again = new.start(follower.id, **fixed)
    await until(lambda: again.replica.last_applied >= leader.replica.last_applied)
    await alike(*new.all.values())
    assert await leader.take_snapshot() > index
    await new.stop()


@ensureDeferred
async def test_writes_before_the_last_entry_are_gone_and_those_behind_it_stay(
    nodes: Nodes, tmp_path: Path
) -> None:
    """N8, under load: each write is on one side of it, for all servers alike."""
    path = tmp_path / "x"
    leader = await backed_up(nodes, path)
    written_at: dict[str, int] = {}
    goes_on = True

    async def load(name: str) -> None:
        number = 0
        while goes_on:
            number += 1
            key = f"{name}{number}"
            written_at[key] = (await leader.write_indexed(["set", key, number])).index

    loads = [Deferred.fromCoroutine(load(name)) for name in "xyz"]
    await until(lambda: len(written_at) > 30)
    client = client_of(leader)
    index = await client.restore(str(path), replace=True)
    await until(lambda: max(written_at.values()) > index + 20)
    goes_on = False
    await gatherResults(loads)
    keys = list(written_at)
    for key in keys:
        assert (await client.read(["get", key]) is not None) == (written_at[key] > index), key
    await client.close()
    await alike(*nodes.all.values())
    await nodes.stop()


@ensureDeferred
async def test_a_new_leader_ends_it_and_the_client_begins_anew(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    leader = await backed_up(nodes, path)
    take = Restorations.piece
    moved = False

    async def moving(self: Restorations, id: bytes, offset: int, *rest: Any) -> None:
        nonlocal moved
        if offset > 2 * PIECE and not moved:
            moved = True
            await self.node.transfer_leadership()
        await take(self, id, offset, *rest)

    monkeypatch.setattr(Restorations, "piece", moving)
    client = client_of(leader)
    await client.restore(str(path), replace=True)
    assert await client.read(["get", "later"]) is None
    await client.close()
    assert (await nodes.leader()) is not leader
    await alike(*nodes.all.values())
    # Who restores from within the process is told so, and begins anew where the leader is.
    moved = False
    leader = await nodes.leader()
    await leader.write(["set", "later", 1])
    error = await outcome(leader.restore(str(path), replace=True))
    assert isinstance(error, (RestoreAbandoned, NotLeader)), error
    assert await (await nodes.leader()).read(["get", "later"]) == 1
    await nodes.stop()


@ensureDeferred
async def test_a_client_that_dies_midway_holds_up_snapshots_for_a_while_only(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (node,) = await nodes.found("a")
    path = tmp_path / "x"
    await node.write(["set", "k", "v"])
    meta_bytes = b""
    await node.backup(str(path))
    with rescue.BackupReader.open(str(path)) as reader:
        meta_bytes = reader.meta_bytes
    own = node.restorations
    own.begin(b"1" * 16, meta_bytes, True)
    await own.piece(b"1" * 16, 0, b"some", 3.0)
    with pytest.raises(RestoreInProgress):
        own.begin(b"2" * 16, meta_bytes, True)
    assert isinstance(await outcome(node.take_snapshot()), RestoreInProgress)
    with pytest.raises(RestoreAbandoned):
        await own.piece(b"2" * 16, 0, b"some", 3.0)
    for id, piece in ((b"1", b"x"), (b"1" * 16, b""), (b"1" * 16, b"x" * (1 << 19))):
        with pytest.raises((BadCommand, RestoreAbandoned)):
            await own.piece(id, 4, piece, 3.0)
    monkeypatch.setattr(restorations, "IDLE_SECONDS", 0.01)
    await own.piece(b"1" * 16, 4, b"more", 3.0)
    await until(lambda: node.replica.restorations.current is None)
    assert await node.take_snapshot() == node.replica.last_applied
    with pytest.raises(RestoreAbandoned):
        await own.end(b"1" * 16, 8, b"d" * 32, 3.0)
    assert await node.read(["get", "k"]) == "v"
    await nodes.stop()


@ensureDeferred
async def test_a_restoration_is_given_up_once_the_log_takes_that(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """N8: refused once (an overload), it was under way for ever: no snapshots."""
    (node,) = await nodes.found("a")
    await node.write(["set", "k", "v"])
    await node.backup(str(tmp_path / "x"))
    with rescue.BackupReader.open(str(tmp_path / "x")) as reader:
        meta_bytes = reader.meta_bytes
    own, refused = node.restorations, node.shell.refused_count
    own.begin(b"1" * 16, meta_bytes, True)
    monkeypatch.setattr(restorations, "IDLE_SECONDS", 0.01)
    await own.piece(b"1" * 16, 0, b"some", 3.0)
    monkeypatch.setattr(type(node.shell.proposing), "is_behind", True)
    await until(lambda: node.shell.refused_count > refused + 1)
    assert node.replica.restorations.current is not None
    with pytest.raises(RestoreInProgress):
        own.begin(b"2" * 16, meta_bytes, True)
    monkeypatch.setattr(type(node.shell.proposing), "is_behind", False)
    await until(lambda: node.replica.restorations.current is None)
    assert await node.take_snapshot() == node.replica.last_applied
    own.begin(b"2" * 16, meta_bytes, True)
    await nodes.stop()


@ensureDeferred
async def test_pieces_are_taken_one_at_a_time_and_in_one_term(nodes: Nodes, tmp_path: Path) -> None:
    """N8: what cannot count is not even appended: each piece costs every log its bytes."""
    (node,) = await nodes.found("a")
    await node.write(["set", "k", "v"])
    await node.backup(str(tmp_path / "x"))
    with rescue.BackupReader.open(str(tmp_path / "x")) as reader:
        meta_bytes = reader.meta_bytes
    own, log = node.restorations, node.shell.server.log
    own.begin(b"1" * 16, meta_bytes, True)
    last = log.last_index
    both = [Deferred.fromCoroutine(own.piece(b"1" * 16, at, b"some", 3.0)) for at in (0, 4)]
    first, second = [await outcome(each) for each in both]
    assert first is None
    assert isinstance(second, RestoreInProgress)
    assert log.last_index == last + 1
    # It has led before, and has not seen that its restoration ended with that term.
    assert own._current is not None
    own._current.term -= 1
    error = await outcome(own.piece(b"1" * 16, 4, b"more", 3.0))
    assert isinstance(error, RestoreAbandoned)
    assert log.last_index == last + 1
    await nodes.stop()


@ensureDeferred
async def test_a_restoration_that_has_filled_the_disk_is_given_up_on_the_full_disk(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D4, N8: while it was under way no snapshot made room, and without room it did not end."""
    (node,) = await nodes.found("a")
    await node.write(["set", "k", "v"])
    await node.backup(str(tmp_path / "x"))
    with rescue.BackupReader.open(str(tmp_path / "x")) as reader:
        meta_bytes = reader.meta_bytes
    own = node.restorations
    own.begin(b"1" * 16, meta_bytes, True)
    await own.piece(b"1" * 16, 0, b"some", 3.0)
    monkeypatch.setattr(type(node.storage), "full", True)
    assert isinstance(await outcome(own.piece(b"1" * 16, 4, b"more", 3.0)), StorageFull)
    last = node.shell.server.log.last_index
    own.give_up()
    await until(lambda: node.replica.restorations.current is None)
    assert node.shell.server.log.last_index == last + 1
    assert isinstance(await outcome(node.write(["set", "k", 1])), StorageFull)
    await nodes.stop()


@ensureDeferred
async def test_a_backup_that_is_refused_at_its_end_does_not_move_the_time(
    nodes: Nodes, tmp_path: Path
) -> None:
    """S3: of a cluster that is older, it ended every session, and yet changed nothing else."""
    (node,) = await nodes.found("a")
    await node.write(["set", "k", "v"])
    await node.backup(str(tmp_path / "first"))
    an_hour_older(tmp_path / "first", tmp_path / "x")
    with rescue.BackupReader.open(str(tmp_path / "x")) as reader:
        meta_bytes, content = reader.meta_bytes, b"".join(reader.chunks())
    numbering = Numbering(await node.open_session())
    id = b"1" * 16
    node.restorations.begin(id, meta_bytes, True)
    await node.restorations.piece(id, 0, content, 3.0)
    refused = await outcome(node.restorations.end(id, len(content), b"another".ljust(32), 3.0))
    assert isinstance(refused, BadBackup)
    await node.write(["set", "k", 2], session=numbering.next())
    assert node.replica.last_time_us < 3_600_000_000
    await nodes.stop()


@ensureDeferred
async def test_a_leader_after_a_backup_goes_on_from_its_time_whoever_restored_it(
    nodes: Nodes, tmp_path: Path
) -> None:
    """S3: the last entry is of the time before; who led next began there, and time stood still."""
    await nodes.found()
    leader = await nodes.leader()
    await leader.write(["set", "k", "v"])
    await leader.backup(str(tmp_path / "first"))
    an_hour_older(tmp_path / "first", tmp_path / "x")
    index = await leader.restore(str(tmp_path / "x"), replace=True)
    for node in nodes.all.values():
        await until(lambda node=node: node.replica.last_applied >= index)
    await leader.transfer_leadership()
    after = await nodes.leader()
    assert after is not leader
    written = await after.write_indexed(["set", "k", 2])
    assert after.entry(written.index)["time"] > 3600  # type: ignore[operator]
    await nodes.stop()


@ensureDeferred
async def test_sessions_end_with_the_state_that_they_were_of(nodes: Nodes, tmp_path: Path) -> None:
    (node,) = await nodes.found("a")
    await node.write(["set", "k", "v"])
    await node.backup(str(tmp_path / "x"))
    numbering = Numbering(await node.open_session())
    await node.write(["set", "s", 1], session=numbering.next())
    assert len(node.replica.sessions) == 1
    await node.restore(str(tmp_path / "x"), replace=True)
    assert len(node.replica.sessions) == 0
    error = await outcome(node.write(["set", "s", 2], session=numbering.next()))
    assert isinstance(error, SessionExpired)
    await nodes.stop()


@ensureDeferred
async def test_what_does_not_fit_is_refused_before_anything_is_appended(
    nodes: Nodes, tmp_path: Path
) -> None:
    path = tmp_path / "x"
    leader = await backed_up(nodes, path)
    await nodes.stop()
    other = Nodes(tmp_path / "other")
    other.path.mkdir()
    node = other.start("a", Stack())
    await node.set_configuration([other.member(node)])
    await until(lambda: node.members._unpinned is False and node.replica.last_applied == 3)
    last = node.shell.server.log.last_index
    client = client_of(node)
    for error in (
        await outcome(node.restore(str(path))),
        await outcome(client.restore(str(path))),
    ):
        assert isinstance(error, BadBackup)
        assert "of the machine 'kv', this cluster runs 'stack'" in str(error)
    path.write_bytes(path.read_bytes()[:-3])
    assert isinstance(await outcome(client.restore(str(path))), BadBackup)
    assert isinstance(await outcome(client.restore(str(tmp_path / "none"))), FileNotFoundError)
    assert isinstance(await outcome(client.restore(str(path), 0)), BadCommand)
    assert node.shell.server.log.last_index == last
    await client.close()
    await other.stop()
    closed = RaftClient("tcp:127.0.0.1:1")
    whole = written(tmp_path / "whole", b"content")
    assert isinstance(await outcome(closed.restore(str(whole), 0.2)), Timeout)
    await closed.close()
    assert leader.failure is None


@ensureDeferred
async def test_a_machine_on_a_disk_is_restored_with_what_it_keeps_and_comes_back_with_it(
    nodes: Nodes, tmp_path: Path
) -> None:
    """S5: the new state and how far it is are one transaction."""

    def machine() -> SQLiteDatabase:
        return SQLiteDatabase(tmp_path / "sqlite")

    node = nodes.start("a", machine())
    await node.set_configuration([nodes.member(node)])
    await node.when_leader()
    await node.write(["execute", "CREATE TABLE t (x)"])
    await node.write(["execute", "INSERT INTO t VALUES (1)"])
    await node.backup(str(tmp_path / "x"))
    numbering = Numbering(await node.open_session())
    await node.write(["execute", "INSERT INTO t VALUES (2)"], session=numbering.next())
    index = await node.restore(str(tmp_path / "x"), replace=True)
    await node.write(["execute", "INSERT INTO t VALUES (3)"])
    fixed = nodes.fixed(node)
    await node.stopService()
    again = nodes.start("a", machine(), **fixed)
    assert again.replica.last_applied > index
    assert len(again.replica.sessions) == 0
    await again.when_leader()
    found: Any = await again.read(["query", "SELECT x FROM t ORDER BY x"])
    assert found["rows"] == [[1], [3]]
    error = await outcome(again.write(["execute", "DELETE FROM t"], session=numbering.next()))
    assert isinstance(error, SessionExpired)
    await nodes.stop()


def test_the_command_checks_before_it_asks_anybody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path / "x", b"content")
    assert main.run(("restore", "--check", str(path))) == 0
    assert "is whole" in capsys.readouterr().out
    path.write_bytes(path.read_bytes() + b"!")
    assert main.run(("restore", str(path), "--to", "tcp:127.0.0.1:1")) == 1
    assert "something follows it" in capsys.readouterr().err
