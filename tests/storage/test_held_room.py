"""A full disk: what must be noted all the same finds room that was held back."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from raft.errors import StorageFull
from raft.lives import Lives
from raft.storage.files import RealFiles
from raft.storage.held_room import ROOM_NAME
from raft.storage.starts import begin_life, read_peers, write_peers

BLOCKS = 4
"""What the room that is held back takes of a disk, in blocks; every other file takes one."""


class SmallDisk(RealFiles):
    """A disk with `free` blocks."""

    def __init__(self, free: int) -> None:
        self.free = free

    def open(self, path: str, create: bool = False) -> int:
        if create:
            self._take(1)
        return super().open(path, create)

    def allocate(self, fd: int, offset: int, size_bytes: int) -> None:
        self._take(BLOCKS - 1)

    def unlink(self, path: str) -> None:
        super().unlink(path)
        self.free += BLOCKS if path.endswith(ROOM_NAME) else 1

    def rename(self, old: str, new: str) -> None:
        self.free += Path(new).exists()
        super().rename(old, new)

    def _take(self, count: int) -> None:
        if self.free < count:
            self.free = 0
            raise OSError(errno.ENOSPC, "No space left on device")
        self.free -= count


def test_a_server_starts_on_a_full_disk_again_and_again(tmp_path: Path) -> None:
    """D4, D8: it served reads and voted as long as it ran, and could not be started again."""
    disk = SmallDisk(20)
    begin_life(disk, str(tmp_path))
    disk.free = 0
    for count in range(2, 6):
        assert begin_life(disk, str(tmp_path)).count == count


def test_the_starts_of_others_are_noted_on_a_full_disk(tmp_path: Path) -> None:
    """D4, M9: who restarts beside a server with a full disk is let in."""
    disk = SmallDisk(20)
    begin_life(disk, str(tmp_path))
    write_peers(disk, str(tmp_path), {"b": ("00bb", Lives(1, ("b" * 8,)))})
    disk.free = 0
    for count in range(2, 6):
        seen = {"b": ("00bb", Lives(count, (f"{count:08}",)))}
        write_peers(disk, str(tmp_path), seen)
        assert read_peers(disk, str(tmp_path)) == seen


def test_room_that_is_used_up_is_held_back_again_once_there_is_some(tmp_path: Path) -> None:
    disk = SmallDisk(20)
    begin_life(disk, str(tmp_path))
    (tmp_path / ROOM_NAME).unlink()
    disk.free = 0
    with pytest.raises(StorageFull, match="no room while noting the start"):
        begin_life(disk, str(tmp_path))
    assert not (tmp_path / ROOM_NAME).exists()
    disk.free = 20
    assert begin_life(disk, str(tmp_path)).count == 2
    assert (tmp_path / ROOM_NAME).exists()
    assert disk.free == 20 - BLOCKS


def test_a_want_of_file_descriptors_is_no_want_of_room(tmp_path: Path) -> None:
    """P8: what is held back on the disk would help nobody."""
    begin_life(RealFiles(), str(tmp_path))

    class NoDescriptors(SmallDisk):
        def open(self, path: str, create: bool = False) -> int:
            if create:
                raise OSError(errno.EMFILE, "Too many open files")
            return super().open(path, create)

    with pytest.raises(StorageFull, match="no file descriptor"):
        begin_life(NoDescriptors(20), str(tmp_path))
    assert (tmp_path / ROOM_NAME).exists()
