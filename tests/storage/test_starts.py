"""The files of starts: their form, and that each start is in them before anyone is told."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from raft.errors import BadConfiguration, StorageDamaged, StorageFailed, StorageFull
from raft.lives import KEPT, Lives
from raft.storage.directory import DataDirectory
from raft.storage.files import RealFiles
from raft.storage.imagined import ImaginedDisk
from raft.storage.starts import (
    LIVES_NAME,
    PEER_LIVES_NAME,
    begin_life,
    decode_lives,
    decode_peers,
    encode_lives,
    encode_peers,
    read_peers,
    write_peers,
)

GOLDEN = b"""{
  "format_version": 1,
  "count": 17,
  "names": [
    "0123abcd",
    "ef456789"
  ],
  "checksum": "%s"
}
"""

PEERS = {"a": ("0123456789abcdef", Lives(3, ("0123abcd",))), "ä": ("i", Lives(1, ("ef456789",)))}
GOLDEN_PEERS = """{
  "format_version": 1,
  "servers": {
    "a": {
      "incarnation": "0123456789abcdef",
      "count": 3,
      "name": "0123abcd"
    },
    "ä": {
      "incarnation": "i",
      "count": 1,
      "name": "ef456789"
    }
  },
  "checksum": "%s"
}
"""
GOLDEN_PEERS_CHECKSUM = "e2d333ce"


def failing(name: str, number: int) -> Callable[[str, int], None]:
    """Let each call of that name fail."""

    def fault(call: str, _: int) -> None:
        if call == name:
            raise OSError(number, os.strerror(number))

    return fault


def test_the_form_never_changes() -> None:
    lives = Lives(17, ("0123abcd", "ef456789"))
    golden = GOLDEN % b"06ebf3c3"
    assert encode_lives(lives) == golden
    assert decode_lives(golden, "lives") == lives


def test_each_start_goes_on_from_the_one_before(tmp_path: Path) -> None:
    """M9: durable before the server speaks, so that nobody has seen a start that is forgotten."""
    directory = DataDirectory.open(str(tmp_path / "data"), "a")
    seen = [directory.begin_life() for _ in range(KEPT + 2)]
    directory.release()
    assert [lives.count for lives in seen] == list(range(1, KEPT + 3))
    assert all(after.go_on_from(before) for before, after in pairwise(seen))
    assert len({lives.names[0] for lives in seen}) == KEPT + 2
    assert decode_lives((tmp_path / "data" / LIVES_NAME).read_bytes(), "") == seen[-1]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"\xff",
        b"[" * 5000,
        GOLDEN % b"00000000",
        encode_lives(Lives(1, ("a", "b"))),
        encode_lives(Lives(0, ())),
        encode_lives(Lives(99, ("a",) * (KEPT + 1))),
    ],
)
def test_what_cannot_be_read_is_damage_with_a_remedy(tmp_path: Path, content: bytes) -> None:
    """M9: to begin anew would let an old copy pass."""
    (tmp_path / LIVES_NAME).write_bytes(content)
    with pytest.raises(StorageDamaged, match="add it again with an empty directory"):
        begin_life(RealFiles(), str(tmp_path))
    assert (tmp_path / LIVES_NAME).read_bytes() == content


def test_a_start_that_cannot_be_noted_is_none(tmp_path: Path) -> None:
    """M9."""

    class Broken(RealFiles):
        def sync_directory(self, path: str) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.raises(StorageFailed, match="noting the start"):
        begin_life(Broken(), str(tmp_path))


def test_the_form_of_what_is_noted_of_others_never_changes() -> None:
    golden = (GOLDEN_PEERS % GOLDEN_PEERS_CHECKSUM).encode()
    assert encode_peers(PEERS) == golden
    assert decode_peers(golden, "") == PEERS
    more = {"a": ("0123456789abcdef", Lives(3, ("0123abcd", "before"))), "ä": PEERS["ä"]}
    assert encode_peers(more) == golden, "the last name alone is asked for"
    assert decode_peers(encode_peers({}), "") == {}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"\xff",
        b"[" * 5000,
        (GOLDEN_PEERS % "00000000").encode(),
        encode_peers({"a": ("i", Lives(0, ("x",)))}),
    ],
)
def test_damage_to_what_is_noted_of_others_is_told_with_a_remedy(
    tmp_path: Path, content: bytes
) -> None:
    """M9: to forget it in silence would let an old copy in."""
    (tmp_path / PEER_LIVES_NAME).write_bytes(content)
    with pytest.raises(StorageDamaged, match="remove this file and start again"):
        read_peers(RealFiles(), str(tmp_path))
    assert (tmp_path / PEER_LIVES_NAME).read_bytes() == content


def test_files_of_a_newer_program_are_not_called_damaged(tmp_path: Path) -> None:
    """The remedy for damage, to begin anew, would be the wrong one for them."""
    for name in (LIVES_NAME, PEER_LIVES_NAME):
        (tmp_path / name).write_bytes(b'{"format_version": 2, "more": []}')
    with pytest.raises(BadConfiguration, match="newer version"):
        begin_life(RealFiles(), str(tmp_path))
    with pytest.raises(BadConfiguration, match="newer version"):
        read_peers(RealFiles(), str(tmp_path))


def test_what_is_noted_of_others_outlives_every_crash() -> None:
    """M9: what was noted is there after a loss of power at any later point, whole or renewed."""
    disk, noted = ImaginedDisk(), [{}]
    done = [0]
    for count in range(1, 4):
        noted.append({"a": ("i", Lives(count, (str(count),))), "b": ("j", Lives(1, ("b",)))})
        write_peers(disk, "/imagined", noted[-1])
        done.append(len(disk.operations))
    for at, files in disk.crash_states():
        after = ImaginedDisk.holding(files)
        found = read_peers(after, "/imagined")
        acknowledged = max(number for number, end in enumerate(done) if end <= at)
        assert found in noted[acknowledged : acknowledged + 2]
        # A file that was being written is in nobody's way.
        write_peers(after, "/imagined", noted[-1])
        assert read_peers(after, "/imagined") == noted[-1]


def test_what_was_read_of_others_is_durable_once_the_start_is_noted() -> None:
    """M9: a name may be visible after a crash and not on the disk; nobody writes it again."""
    disk = ImaginedDisk()
    old, new = ({"a": ("i", Lives(count, (str(count),)))} for count in (1, 2))
    write_peers(disk, "/imagined", old)
    disk.fault = failing("sync_directory", errno.EIO)
    with pytest.raises(StorageFailed):
        write_peers(disk, "/imagined", new)
    disk.fault = None
    assert read_peers(disk, "/imagined") == new
    begin_life(disk, "/imagined")
    for _, files in disk.crash_states(len(disk.operations)):
        assert read_peers(ImaginedDisk.holding(files), "/imagined") == new


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.EIO, StorageFailed), (errno.ENOSPC, StorageFull)]
)
def test_a_disk_that_refuses_is_told_by_its_kind(number: int, kind: type[Exception]) -> None:
    disk = ImaginedDisk()
    disk.fault = failing("pwrite", number)
    with pytest.raises(kind, match="noting the start of another server"):
        write_peers(disk, "/imagined", PEERS)
    assert read_peers(disk, "/imagined") == {}
