"""The file of starts: its form, and that each start is in it before anyone is told."""

from __future__ import annotations

import errno
import os
from itertools import pairwise
from pathlib import Path

import pytest

from raft.errors import StorageDamaged, StorageFailed
from raft.lives import KEPT, Lives
from raft.storage.directory import DataDirectory
from raft.storage.files import RealFiles
from raft.storage.starts import LIVES_NAME, begin_life, decode_lives, encode_lives

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
