"""Snapshot files: whole or not at all, and nothing left open or half written [RULES N1]."""

from __future__ import annotations

import os
import struct
from zlib import crc32

import pytest

from raft.core.configuration import Configuration
from raft.errors import InvariantViolated, StorageDamaged, StorageFailed, StorageFull
from raft.interfaces import SnapshotMeta
from raft.storage import snapshots
from raft.storage.imagined import ImaginedDisk
from raft.storage.snapshots import MOST_CHUNK_BYTES, SnapshotFiles

META = SnapshotMeta(4, 2, Configuration(), 1, 5, "kv", 3)
NAME = snapshots.name(4, 2)
MACHINE = b"machine" * 100


@pytest.fixture
def disk():
    return ImaginedDisk()


def files_on(disk, incarnation=9, poisoned=None):
    poisoned = [] if poisoned is None else poisoned
    made = SnapshotFiles(disk, "/imagined", incarnation, poisoned.append)
    made.load()
    return made


def committed(disk, *chunks, meta=META):
    """Write a snapshot to its end, and return the files it is one of."""
    files = files_on(disk)
    writer = files.create(meta)
    for chunk in chunks:
        writer.write(chunk)
    writer.commit()
    return files


def fails(call, code=5):
    """Return a fault that lets each call of that name fail."""

    def fault(name, number):
        if name == call:
            raise OSError(code, os.strerror(code))

    return fault


def holding(content, incarnation=9):
    """Return files of which one has this content, and the disk they are on."""
    disk = ImaginedDisk.holding({NAME: content})
    return files_on(disk, incarnation), disk


def test_once_it_is_committed_a_snapshot_is_on_the_disk_and_never_half(disk):
    """N1: written, synced, named, and the name synced."""
    committed(disk, MACHINE, b"more")
    for _, left in disk.crash_states():
        if NAME in left:
            files = files_on(ImaginedDisk.holding(left))
            assert files.verify(4) == META
            assert b"".join(files.open(4)[1]) == MACHINE + b"more"
    assert all(NAME in left for _, left in disk.crash_states(len(disk.operations)))
    assert disk._open == {}


def test_large_chunks_are_cut_and_come_back_whole(disk):
    """No reader needs more memory than for one piece."""
    chunk = bytes(range(256)) * (MOST_CHUNK_BYTES // 128) + b"rest"
    files = committed(disk, chunk, b"", b"after")
    pieces = list(files.open(4)[1])
    assert b"".join(pieces) == chunk + b"after"
    assert list(map(len, pieces)) == [MOST_CHUNK_BYTES, MOST_CHUNK_BYTES, 4, 5]
    assert files.size_bytes(4) == len(disk.contents()[NAME])
    assert disk._open == {}


@pytest.mark.parametrize("ends", ["commit", "abort"])
def test_a_snapshot_ends_once(disk, ends):
    """What was its descriptor may be another file's by then."""
    files = files_on(disk)
    writer = files.create(META)
    getattr(writer, ends)()
    before = disk.contents()
    another = disk.open("another", create=True)
    writer.abort()
    assert list(disk._open) == [another]
    with pytest.raises(InvariantViolated):
        writer.write(b"x")
    with pytest.raises(InvariantViolated):
        writer.commit()
    assert disk.contents() == {**before, "another": b""}
    assert files.indexes() == ([4] if ends == "commit" else [])


@pytest.mark.parametrize("code", [5, 28])
@pytest.mark.parametrize("call", ["pwrite", "fdatasync", "rename", "sync_directory"])
def test_a_snapshot_that_fails_leaves_no_descriptor_and_nothing_half_written(disk, call, code):
    """D3, D4: a disk that is merely full is not ill."""
    poisoned = []
    files = files_on(disk, poisoned=poisoned)
    writer = files.create(META)
    disk.fault = fails(call, code)
    kind = StorageFull if code == 28 else StorageFailed
    ends = (lambda: writer.write(MACHINE)) if call == "pwrite" else writer.commit
    with pytest.raises(kind, match="writing a snapshot"):
        ends()
    disk.fault = None
    assert [type(error) for error in poisoned] == ([] if code == 28 else [StorageFailed])
    assert (files.indexes(), disk._open) == ([], {})
    # One that has its name already goes at the next start: no mark is ever made of it.
    assert list(disk.contents()) == ([NAME] if call == "sync_directory" else [])


def test_a_snapshot_that_cannot_be_begun_says_so(disk):
    poisoned = []
    files = files_on(disk, poisoned=poisoned)
    disk.fault = fails("open")
    with pytest.raises(StorageFailed, match="writing a snapshot"):
        files.create(META)
    assert len(poisoned) == 1
    disk.fault = fails("pwrite")
    with pytest.raises(StorageFailed, match="writing a snapshot"):
        files.create(META)
    assert (disk.contents(), disk._open) == ({}, {})


def test_a_reader_that_gives_up_leaves_no_descriptor(disk):
    """Before its first chunk, in the middle, and where there is damage."""
    files = committed(disk, MACHINE, b"more")
    for read in (0, 1):
        _, chunks = files.open(4)
        for _ in range(read):
            assert next(chunks) == MACHINE
        chunks.close()
        assert disk._open == {}
    content = disk.contents()[NAME]
    for wrong in (b"\xff" + content[1:], content[:20], content[:-30], content[:-1] + b"!"):
        damaged, other = holding(wrong)
        with pytest.raises(StorageDamaged):
            damaged.verify(4)
        assert other._open == {}


def test_a_snapshot_is_read_to_its_end_though_it_is_removed_meanwhile(disk):
    files = committed(disk, MACHINE, b"more")
    _, chunks = files.open(4)
    files.retain(0, 3)
    assert files.indexes() == []
    assert list(chunks) == [MACHINE, b"more"]
    with pytest.raises(KeyError):
        files.open(4)


def test_a_snapshot_that_somebody_removed_is_not_there(disk):
    """It may go between the look at the names and the opening of the file."""
    files = committed(disk, MACHINE)
    disk.unlink(f"/imagined/{NAME}")
    with pytest.raises(KeyError):
        files.open(4)
    files.retain(5, 9)
    assert files.indexes() == []


def test_a_snapshot_under_another_s_name_is_refused(disk):
    """sc-F21: a good file in the wrong place."""
    committed(disk, MACHINE)
    content = disk.contents()[NAME]
    for name in (snapshots.name(4, 3), snapshots.name(5, 2)):
        files = files_on(ImaginedDisk.holding({name: content}))
        (index,) = files.indexes()
        with pytest.raises(StorageDamaged, match="name is not its content's"):
            files.verify(index)


def test_what_a_crash_left_half_written_goes_and_others_files_stay():
    left = {f"{NAME}.0123.tmp": b"half", "snapshot-old": b"", "log.tmp": b"", NAME: b"x"}
    disk = ImaginedDisk.holding(left)
    assert files_on(disk).indexes() == [4]
    assert sorted(disk.contents()) == ["log.tmp", NAME, "snapshot-old"]


def header(magic=snapshots.MAGIC, version=1, incarnation=9, meta=None):
    """Return a snapshot's header with a checksum that is right, and the checksum."""
    form = snapshots.encode_meta(META) if meta is None else meta
    versioned = magic + version.to_bytes(4, "little")
    rest = struct.pack("<QI", incarnation, len(form)) + form
    checksum = crc32(rest, crc32(versioned))
    return versioned + checksum.to_bytes(4, "little") + rest, checksum


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (header(magic=b"RAFTLOG\n")[0], "header is damaged"),
        (header(incarnation=8)[0], "another data directory"),
        (header(meta=b"\xc1")[0], "no snapshot meta"),
        (header()[0][:27], "cut short"),
        (header()[0], "cut short"),
    ],
    ids=["another magic", "another owner", "no meta", "cut in its header", "no chunks"],
)
def test_a_good_checksum_alone_makes_no_snapshot(content, reason):
    """sc-F2, sc-F25: each is refused with its reason."""
    files, disk = holding(content)
    with pytest.raises(StorageDamaged, match=reason):
        files.verify(4)
    assert disk._open == {}


@pytest.mark.parametrize(("owner", "incarnation"), [(0, 9), (9, 0), (9, 9)])
def test_a_snapshot_that_nobody_owns_or_whom_nobody_asks_is_taken(owner, incarnation):
    """sc-F25: what a tool reads or made, without the directory's identity."""
    content, checksum = header(incarnation=owner)
    footer = struct.pack("<IIQQ", 0, checksum, 0, 0)
    files, _ = holding(content + footer + crc32(footer).to_bytes(4, "little"), incarnation)
    assert files.verify(4) == META


def test_a_chunk_that_claims_more_than_there_is_is_never_handed_out():
    """N1: even where its checksum is that of what there is."""
    content, checksum = header()
    content += struct.pack("<II", 100, crc32(b"less", checksum)) + b"less"
    files, _ = holding(content)
    _, chunks = files.open(4)
    with pytest.raises(StorageDamaged, match="chunk here is damaged") as refused:
        next(chunks)
    assert refused.value.offset == len(header()[0])


def test_snapshots_outside_of_a_range_go(disk):
    """N7: the ends of the range stay; the newest is named first."""
    for index in (3, 4, 5, 6):
        files = committed(disk, meta=SnapshotMeta(index, 2, Configuration(), 1, 5))
    files.retain(4, 5)
    assert files.indexes() == [5, 4]
    assert sorted(disk.contents()) == [snapshots.name(4, 2), snapshots.name(5, 2)]
