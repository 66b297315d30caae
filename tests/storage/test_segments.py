"""Segment files: prepared ahead of need, made larger, opened and closed."""

from __future__ import annotations

import os

import pytest

from raft.storage import segments
from raft.storage.files import RealFiles
from raft.storage.imagined import ImaginedDisk
from raft.storage.segments import Segment

NAME = segments.name(3)
SIZE_BYTES = 4096
ODD_BYTES = len(segments.ZEROS) + 4096 + 7
"""More than is written in one step, and not a whole number of steps."""


def prepared(disk, size_bytes=SIZE_BYTES, number=3):
    """Prepare a segment to its end."""
    steps = segments.prepare(disk, "/imagined", number, size_bytes, 9)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value


def fails_at(place):
    """Return a fault that lets the call of that number fail, and no other."""

    def fault(name, number):
        if number == place:
            raise OSError(28, os.strerror(28))

    return fault


def test_a_name_tells_the_number_and_nothing_else_passes_for_one():
    assert segments.number_of(NAME) == 3
    assert segments.number_of("log-3.wal") is None
    assert segments.number_of(f"{NAME}.tmp") is None


@pytest.mark.parametrize("size_bytes", [SIZE_BYTES, ODD_BYTES])
def test_under_its_own_name_a_segment_is_whole_whenever_power_is_lost(size_bytes):
    """D4, sc-F13: zeros to its end, a good header, and only then a name that is on the disk."""
    disk = ImaginedDisk()
    made = prepared(disk, size_bytes)
    used = segments.HEADER.size
    for _, files in disk.crash_states():
        if NAME in files:
            header = files[NAME][:used]
            assert segments.decode_header(header, NAME, 3, 9, len(files[NAME])) == made.id
            assert files[NAME][used:] == bytes(size_bytes - used)
    assert all(NAME in files for _, files in disk.crash_states(len(disk.operations)))
    assert (made.size_bytes, made.fd is None) == (size_bytes, False)


def test_a_step_writes_no_more_than_a_mebibyte():
    """Saves wait for one step, not for a whole segment."""
    disk = ImaginedDisk()
    steps = segments.prepare(disk, "/imagined", 3, ODD_BYTES, 9)
    next(steps)
    next(steps)
    assert disk.operations[-1].kind == "sync"
    assert sum(len(each.content) for each in disk.operations) == len(segments.ZEROS)


def test_what_was_left_half_made_is_in_nobody_s_way():
    disk = ImaginedDisk.holding({segments.TEMPORARY_NAME: b"half"})
    prepared(disk)
    assert list(disk.contents()) == [NAME]


def test_a_preparation_that_fails_leaves_nothing_behind():
    """D4: no file, no descriptor; room that was found is given back."""
    for place in range(2, 9):
        disk = ImaginedDisk()
        disk.fault = fails_at(place)
        with pytest.raises(OSError, match="No space"):
            prepared(disk)
        assert not disk._open
        assert segments.TEMPORARY_NAME not in disk.contents()
    disk = ImaginedDisk()
    abandoned = segments.prepare(disk, "/imagined", 3, SIZE_BYTES, 9)
    next(abandoned)
    abandoned.close()
    assert (disk.contents(), disk._open) == ({}, {})


def test_room_is_claimed_before_anything_is_written():
    """D4: a full disk is met before anything depends on the space."""
    disk = ImaginedDisk(room_bytes=SIZE_BYTES + 10)
    segment = prepared(disk)
    before = disk.contents()
    with pytest.raises(OSError, match="No space"):
        segments.extend(disk, segment, 2 * SIZE_BYTES)
    with pytest.raises(OSError, match="No space"):
        prepared(disk, number=4)
    assert disk.contents() == before
    assert segment.size_bytes == SIZE_BYTES
    segments.extend(disk, segment, SIZE_BYTES + 10)
    assert disk.room_bytes == 0


@pytest.mark.parametrize("size_bytes", [SIZE_BYTES + 1, SIZE_BYTES + ODD_BYTES])
def test_a_segment_that_is_made_larger_has_its_size_on_the_disk(size_bytes):
    """sc-F13: nothing that is acknowledged waits for a file's new size to be synced."""
    disk = ImaginedDisk()
    segment = prepared(disk)
    segments.close_fd(disk, segment)
    before = disk.contents()[NAME]
    segments.extend(disk, segment, size_bytes)
    assert segment.size_bytes == size_bytes
    for _, files in disk.crash_states(len(disk.operations)):
        assert files[NAME] == before + bytes(size_bytes - SIZE_BYTES)


def test_a_segment_that_is_large_enough_is_left_alone():
    disk = ImaginedDisk()
    segment = prepared(disk)
    done = len(disk.operations)
    for size_bytes in (SIZE_BYTES, 100):
        segments.extend(disk, segment, size_bytes)
    assert (len(disk.operations), segment.size_bytes) == (done, SIZE_BYTES)


def test_a_file_has_the_size_that_its_header_says(tmp_path):
    """A real file system may give more than was asked for, or less."""
    steps = segments.prepare(RealFiles(), str(tmp_path), 3, SIZE_BYTES, 9)
    for _ in steps:
        pass
    assert os.path.getsize(tmp_path / NAME) == SIZE_BYTES
    made = Segment(3, 0, str(tmp_path / NAME), None, SIZE_BYTES)
    segments.extend(RealFiles(), made, 3 * SIZE_BYTES)
    segments.close_fd(RealFiles(), made)
    assert os.path.getsize(tmp_path / NAME) == 3 * SIZE_BYTES


def test_an_id_is_never_zero(monkeypatch):
    """Zeros are what a segment holds where nothing was written."""
    monkeypatch.setattr("raft.storage.segments.secrets.randbits", lambda bits: 0)
    assert prepared(ImaginedDisk()).id != 0


def test_a_file_is_opened_once_and_closed_once():
    disk = ImaginedDisk()
    segment = prepared(disk)
    for _ in range(2):
        segments.close_fd(disk, segment)
        assert (segment.fd, disk._open) == (None, {})
    fd = segments.open_fd(disk, segment)
    assert segments.open_fd(disk, segment) == fd
    assert len(disk._open) == 1
