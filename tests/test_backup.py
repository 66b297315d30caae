"""Backups: what is in the file, and what is refused; from the leader and from followers."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred, gatherResults, succeed

from raft import backup as room
from raft.backup import BackupMeta, BackupReader, BackupWriter, decode_meta, encode_meta, verify
from raft.cli import main
from raft.client import RaftClient
from raft.envelope import unwrap
from raft.errors import (
    BadBackup,
    BadCommand,
    BadConfiguration,
    NotFound,
    Overloaded,
    StorageDamaged,
    Timeout,
)
from raft.machines.kv import KeyValueStore
from raft.node import backups
from raft.node.backups import Backups
from raft.node.ports import address_of
from raft.service import RaftService
from tests.node.running import Nodes, outcome, until

META = BackupMeta("demo-1", 5, 2, 7_000_000, "kv", 1, "a", 1_700_000_000)
GOLDEN = bytes.fromhex(
    "5241465442414b0a010000005e229c5b6300000088aa636c75737465725f6964a664656d6f2d31a5696e6465"
    "7805a47465726d02a774696d655f7573ce006acfc0a76d616368696e65a26b76af6d616368696e655f766572"
    "73696f6e01a97365727665725f6964a161a874616b656e5f6174ce6553f10005000000433d2fb26669727374"
    "060000008a80e9587365636f6e64000000008a80e95802000000000000000b0000000000000045bdf9615722"
    "f757bcf94b154810f254d0232277653fef719ecf3ad1824beedd0d5ebbcb"
)


def written(path: Path, *pieces: bytes) -> Path:
    writer = BackupWriter.open(str(path), encode_meta(META))
    for piece in pieces:
        writer.write(piece)
    writer.commit()
    return path


def test_the_format_stands_still(tmp_path: Path) -> None:
    path = written(tmp_path / "x", b"first", b"second")
    assert path.read_bytes() == GOLDEN


def test_what_is_written_is_read(tmp_path: Path) -> None:
    large = random.Random(1).randbytes(room.MOST_CHUNK_BYTES + 5)
    path = written(tmp_path / "x", b"first", b"", large)
    with BackupReader.open(str(path)) as reader:
        assert reader.meta == META
        assert b"".join(reader.chunks()) == b"first" + large
    found = verify(str(path))
    assert (found.meta, found.size_bytes) == (META, 5 + len(large))
    assert [each.name for each in tmp_path.iterdir()] == ["x"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_any_changed_byte_and_any_missing_end_is_found(tmp_path: Path) -> None:
    whole = written(tmp_path / "x", b"first", b"second" * 20).read_bytes()
    other = tmp_path / "y"
    for position in range(len(whole)):
        for changed in (
            whole[:position] + bytes([whole[position] ^ 0x40]) + whole[position + 1 :],
            whole[:position],
        ):
            other.write_bytes(changed)
            with pytest.raises(BadBackup, match="y"):
                verify(str(other))
    other.write_bytes(whole + b"\0")
    with pytest.raises(BadBackup, match="something follows"):
        verify(str(other))


def test_a_later_format_is_refused_by_name(tmp_path: Path) -> None:
    path = written(tmp_path / "x")
    content = bytearray(path.read_bytes())
    content[8] = 2
    path.write_bytes(content)
    with pytest.raises(BadBackup, match="format 2"):
        verify(str(path))
    with pytest.raises(BadBackup, match="cannot be read"):
        decode_meta(b"\x81\xa5index\xc0")


def test_no_file_is_written_over_and_none_is_left_half(tmp_path: Path) -> None:
    path = written(tmp_path / "x")
    with pytest.raises(BadConfiguration, match="exists already"):
        BackupWriter.open(str(path), b"")
    writer = BackupWriter.open(str(tmp_path / "y"), encode_meta(META))
    writer.write(b"some")
    writer.abort()
    writer.abort()
    assert [each.name for each in tmp_path.iterdir()] == ["x"]


def test_a_name_that_was_taken_meanwhile_is_not_written_over(tmp_path: Path) -> None:
    """Of two backups to one name, the second replaced the first in silence."""
    writer = BackupWriter.open(str(tmp_path / "x"), encode_meta(META))
    whole = written(tmp_path / "x", b"first").read_bytes()
    with pytest.raises(BadConfiguration, match="exists already"):
        writer.commit()
    writer.abort()
    assert (tmp_path / "x").read_bytes() == whole
    assert [each.name for each in tmp_path.iterdir()] == ["x"]


def test_a_disk_that_takes_no_more_is_told_with_the_name_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    writer = BackupWriter.open(str(tmp_path / "x"), encode_meta(META))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*/x'"):
        writer.commit()
    writer.abort()
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    """Nobody wrote to the pipe: the command hung, and could not be interrupted."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(BadBackup, match="is no regular file"):
            verify(str(path))


def state_of(path: Path) -> KeyValueStore:
    machine = KeyValueStore()
    with BackupReader.open(str(path)) as reader:
        machine.restore(unwrap(reader.chunks(), frozenset({("sessions", 1)})).rest())
    return machine


@pytest.fixture
def nodes(tmp_path: Path) -> Any:
    return Nodes(tmp_path)


def client_of(*nodes: RaftService) -> RaftClient:
    return RaftClient([address_of(node.client_port) for node in nodes if node.client_port])


@ensureDeferred
async def test_a_backup_from_any_node_holds_all_that_was_answered_before(
    nodes: Nodes, tmp_path: Path
) -> None:
    await nodes.found()
    leader = await nodes.leader()
    for number, node in enumerate([leader, *nodes.others(leader)]):
        await leader.write(["set", "k", number])
        client = client_of(node)
        path = tmp_path / f"backup{number}"
        saved = await client.backup(str(path))
        await client.close()
        assert saved == verify(str(path))
        assert saved.meta.server_id == node.id
        assert saved.meta.cluster_id == leader.identity.cluster_id
        assert state_of(path).query(["get", "k"]) == number
    meta = await leader.backup(str(tmp_path / "own"))
    assert meta.index >= saved.meta.index
    assert state_of(tmp_path / "own").query(["get", "k"]) == 2
    await nodes.stop()


@ensureDeferred
async def test_a_damaged_snapshot_spoils_one_backup_and_not_the_next(
    nodes: Nodes, tmp_path: Path
) -> None:
    """sc-S8: where nobody wrote, each one was made of the same bad file."""
    (node,) = await nodes.found("a")
    await node.write(["set", "k", "v" * 500])
    index = await node.take_snapshot()
    (path,) = Path(node.settings.data_directory).glob("*.snap")
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    assert isinstance(await outcome(node.backup(str(tmp_path / "first"))), StorageDamaged)
    assert not (tmp_path / "first").exists()
    await until(lambda: node.replica.last_applied > index)
    await node.backup(str(tmp_path / "second"))
    assert state_of(tmp_path / "second").query(["get", "k"]) == "v" * 500
    await nodes.stop()


@ensureDeferred
async def test_large_states_travel_in_pieces_and_are_resumed(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backups, "PIECE_BYTES", 1000)
    (node,) = await nodes.found("a")
    for number in range(20):
        await node.write(["set", f"k{number}", "v" * 500])
    client = client_of(node)
    given = Backups.piece
    asked: list[int] = []

    async def losing(self: Backups, name: str, number: int) -> bytes:
        piece = await given(self, name, number)
        asked.append(number)
        if asked.count(number) == 1 and number in (0, 3):
            for connection in list(node.listener._connections):
                connection.abandon("the network failed")
        return piece

    monkeypatch.setattr(Backups, "piece", losing)
    path = tmp_path / "x"
    saved = await client.backup(str(path))
    await client.close()
    assert asked[:2] == [0, 0]
    assert len(set(asked)) == saved.size_bytes // 1000 + 2
    assert state_of(path).query(["get", "k19"]) == "v" * 500
    await nodes.stop()


@ensureDeferred
async def test_a_backup_that_nobody_reads_is_given_up(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    (node,) = await nodes.found("a")
    await node.write(["set", "k", 1])
    with pytest.raises(NotFound):
        await node.backups.piece("none", 0)
    name, _ = await node.backups.begin(3.0)
    assert await node.backups.piece(name, 0)
    with pytest.raises(NotFound, match="begin anew"):
        await node.backups.piece(name, 2)
    assert await node.backups.piece(name, 1) == b""
    monkeypatch.setattr(backups, "IDLE_SECONDS", 0.01)
    assert await node.backups.piece(name, 1) == b""
    await until(lambda: not node.backups._open)
    monkeypatch.setattr(backups, "MOST_BACKUPS", 0)
    assert "0 backups" in str(await outcome(node.backup("x")))
    await nodes.stop()


@ensureDeferred
async def test_a_snapshot_of_a_moment_before_is_no_backup(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """N1: the one that was being taken already may lack what was answered before the call."""
    (node,) = await nodes.found("a")
    await node.write(["set", "k", 1])
    before = await node.take_snapshot()
    await node.write(["set", "k", 2])
    take, asked = node.take_snapshot, []

    def joined() -> Deferred[int]:
        asked.append(1)
        return succeed(before) if len(asked) == 1 else take()

    monkeypatch.setattr(node, "take_snapshot", joined)
    _, meta_bytes = await node.backups.begin(3.0)
    assert decode_meta(meta_bytes).index > before
    assert len(asked) == 2
    await nodes.stop()


@ensureDeferred
async def test_no_more_backups_are_begun_at_once_than_there_may_be(nodes: Nodes) -> None:
    """They were counted only once they had begun, and each holds a file open for a minute."""
    (node,) = await nodes.found("a")
    await node.write(["set", "k", 1])
    begun = [
        Deferred.fromCoroutine(outcome(Deferred.fromCoroutine(node.backups.begin(3.0))))
        for _ in range(backups.MOST_BACKUPS + 2)
    ]
    found = await gatherResults(begun)
    assert len([each for each in found if isinstance(each, Overloaded)]) == 2
    assert len(node.backups._open) == backups.MOST_BACKUPS
    node.backups.close()
    assert isinstance(await node.backups.begin(3.0), tuple)
    await nodes.stop()


@ensureDeferred
async def test_without_a_majority_there_is_no_backup_and_no_file(
    nodes: Nodes, tmp_path: Path
) -> None:
    await nodes.found()
    leader = await nodes.leader()
    nodes.isolate(leader.id)
    path = tmp_path / "x"
    assert isinstance(await outcome(leader.backup(str(path), 0.3)), Exception)
    client = client_of(leader)
    assert isinstance(await outcome(client.backup(str(path), 0.5)), Timeout)
    assert isinstance(await outcome(client.backup(str(path), 0)), BadCommand)
    await client.close()
    assert not [each for each in tmp_path.iterdir() if each.is_file()]
    await nodes.stop()


def test_the_command_verifies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path / "x", b"content")
    assert main.run(("backup", "--verify", str(path))) == 0
    told = capsys.readouterr().out
    assert "is whole: cluster demo-1 up to entry 5 of term 2, kv, version 1, 7 bytes" in told
    assert "2023-11-14 22:13:20 UTC from a" in told
    path.write_bytes(path.read_bytes()[:-1])
    assert main.run(("backup", "--verify", str(path))) == 1
    assert "offset 1" in capsys.readouterr().err
    assert main.run(("backup", "--verify", str(tmp_path / "none"))) == 1


def test_what_a_file_says_of_itself_is_printed_whatever_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A clock far in the future ended the command with a traceback; a name moved the cursor."""
    said = msgspec.structs.replace(META, machine="k\x1b[2Jv\n", taken_at=(1 << 63) - 1)
    writer = BackupWriter.open(str(tmp_path / "x"), encode_meta(said))
    writer.commit()
    assert main.run(("backup", "--verify", str(tmp_path / "x"))) == 0
    told = capsys.readouterr().out
    assert "k?[2Jv?, version 1" in told
    assert "taken 9223372036854775807 seconds after 1970" in told
