"""The writing end of the log: which frames are written, and which are refused or left out."""

from __future__ import annotations

import errno
import os

import pytest

from raft.core.outputs import HardState
from raft.errors import InvariantViolated, StorageFailed
from raft.storage import frames
from raft.storage.files import failure
from raft.storage.imagined import ImaginedDisk
from raft.storage.marks import Mark
from raft.storage.records import HEADER_BYTES, encode
from raft.storage.recovery import Recovery
from raft.storage.segments import HEADER_BLOCK_BYTES, TEMPORARY_NAME, name
from raft.storage.writer import MOST_FRAME_BYTES, MarkSave

SEGMENT_BYTES = 4096
DIRECTORY = "/imagined"


def opened(disk, segment_bytes=SEGMENT_BYTES):
    return Recovery(disk, DIRECTORY, segment_bytes, 0).run()


def record(index, size, term=1):
    """Return a record of `size` bytes in all."""
    return encode(index, term, 0, 1, bytes([index % 256]) * (size - HEADER_BYTES))


def entries(*sizes, start=1, term=1):
    """Return a save for each record, of these sizes."""
    return [
        (0, None, None, index, index + 1, record(index, size, term))
        for index, size in enumerate(sizes, start)
    ]


def frames_written(writer, saves):
    """Write the saves, and return how many frames that took."""
    before = writer.sync_count
    writer.write(saves)
    return writer.sync_count - before


def found(writer):
    """Return the ledger that recovery reads back from what is on the disk."""
    return opened(ImaginedDisk.holding(writer.files.contents()), writer.segment_size_bytes).ledger


@pytest.fixture
def writer():
    made = opened(ImaginedDisk())
    made.write([(0, HardState(1), None, 0, 0, b"")])
    return made


def test_what_was_queued_is_one_frame_as_far_as_it_fits():
    """D1: one sync for as many saves as fit into a quarter of a segment."""
    quarter = 1 << 14
    writer = opened(ImaginedDisk(), 4 * quarter)
    writer.write([(0, HardState(1), None, 0, 0, b"")])
    vote = (0, HardState(2, "b"), None, 0, 0, b"")
    assert frames_written(writer, [vote, *entries(quarter + 1)]) == 1
    assert frames_written(writer, entries(quarter - 100, 100, start=2)) == 1
    assert frames_written(writer, entries(quarter - 100, 101, start=4)) == 2
    assert found(writer).next_index == 6


def test_what_is_too_large_for_others_beside_it_is_a_frame_of_its_own():
    """Those before and after it are not written with it; what fills no frame goes along."""
    quarter = 1 << 14
    writer = opened(ImaginedDisk(), 4 * quarter)
    writer.write([(0, HardState(1), None, 0, 0, b"")])
    assert frames_written(writer, entries(100, quarter + 1, 100)) == 3
    assert found(writer).next_index == 4


def test_a_frame_of_many_saves_is_bounded_however_large_the_segment():
    """What tears at once, and what a reader skips, is a mebibyte at most."""
    writer = opened(ImaginedDisk(), 8 * MOST_FRAME_BYTES)
    writer.write([(0, HardState(1), None, 0, 0, b"")])
    half = MOST_FRAME_BYTES // 2
    assert frames_written(writer, entries(half, half)) == 1
    assert frames_written(writer, entries(half, half + 1, start=3)) == 2


def test_a_truncation_heads_its_frame(writer):
    """D2: entries of one frame are consecutive, whatever was queued before it."""
    saves = [
        *entries(50, 50, 50),
        (0, HardState(2, "b"), 2, 2, 3, record(2, 50, 2)),
        (0, None, None, 3, 4, record(3, 50, 2)),
        (0, HardState(3), None, 0, 0, b""),
    ]
    assert frames_written(writer, saves) == 2
    assert found(writer).hard_state == HardState(3)
    vote = (0, HardState(3, "c"), None, 0, 0, b"")
    assert frames_written(writer, [vote, (0, None, 4, 4, 5, record(4, 50, 2))]) == 1
    assert writer.reader.read(1, 4, 1 << 20)[1] == (
        record(1, 50) + record(2, 50, 2) + record(3, 50, 2)
    )


def test_a_truncation_at_the_end_of_what_is_queued_removes_nothing(writer):
    """A save may say from where its entries stand, though nothing stands there yet."""
    assert frames_written(writer, [(0, None, 1, 1, 2, record(1, 50))]) == 1
    assert frames_written(writer, [(0, None, 2, 0, 0, b"")]) == 0
    assert frames_written(writer, [(0, None, 2, 2, 3, record(2, 50))]) == 1
    assert found(writer).next_index == 3


def test_what_is_known_already_is_not_written_again(writer):
    assert frames_written(writer, [(0, HardState(1), None, 0, 0, b"")]) == 0
    assert frames_written(writer, []) == 0
    saves = [(0, HardState(1), None, 0, 0, b""), *entries(50)]
    assert frames_written(writer, saves) == 1


def marked(writer):
    """Discard the log: it goes on behind entry 10 of term 1."""
    writer.write_mark(MarkSave(1, 10, 1, False, 11))
    return writer


@pytest.mark.parametrize(
    "wrong",
    [
        lambda writer: writer.write(entries(50, start=12)),
        lambda writer: writer.write(entries(50, start=10)),
        lambda writer: writer.write([(0, None, 12, 0, 0, b"")]),
        lambda writer: writer.write([(0, None, 10, 0, 0, b"")]),
        lambda writer: writer.write_mark(MarkSave(2, 11, 1, True, 11)),
    ],
    ids=["gap", "twice", "truncated beyond", "truncated before", "marked beyond"],
)
def test_what_cannot_follow_is_refused_before_anything_is_written(writer, wrong):
    """D3: better stopped than wrong: the disk is as it was."""
    before = marked(writer).files.contents()
    with pytest.raises(InvariantViolated):
        wrong(writer)
    assert writer.files.contents() == before


def test_the_log_can_be_emptied_behind_its_snapshot(writer):
    """D2: the first entry there is may go, and the term before it is known."""
    marked(writer).write(entries(50, start=11))
    writer.write([(0, HardState(2), 11, 11, 12, record(11, 50, 2))])
    ledger = found(writer)
    assert (ledger.first, ledger.prev_term, ledger.next_index) == (11, 1, 12)


def test_a_mark_names_the_snapshot_before_it(writer):
    """N7: one that is marked again is not its own predecessor; an older mark is none."""
    writer.write(entries(*[50] * 9))
    writer.write_mark(MarkSave(1, 3, 1, True, 0))
    assert writer.ledger.mark == Mark(3, 1, 1, 0)
    writer.write_mark(MarkSave(2, 6, 1, True, 5))
    assert writer.ledger.mark == Mark(6, 1, 5, 3)
    writer.write_mark(MarkSave(3, 6, 1, True, 6))
    assert writer.ledger.mark == Mark(6, 1, 6, 3)
    count = writer.sync_count
    writer.write_mark(MarkSave(4, 5, 1, True, 6))
    assert (writer.ledger.mark, writer.sync_count) == (Mark(6, 1, 6, 3), count)
    writer.write_mark(MarkSave(5, 9, 1, True, 9))
    assert writer.ledger.mark == found(writer).mark == Mark(9, 1, 9, 6)


def test_a_log_is_sealed_once(writer):
    """D1: one empty frame behind the last one that says something."""
    writer.write(entries(50))
    before = writer.offset
    for _ in range(2):
        writer.seal()
        assert writer.offset == before + frames.HEADER_BYTES
    writer.write(entries(50, start=2))
    writer.seal()
    assert writer.offset == before + 3 * frames.HEADER_BYTES + 50


@pytest.mark.parametrize("room", [0, 31, 32])
def test_a_log_is_sealed_where_there_is_room_and_not_in_a_segment_of_its_own(writer, room):
    size = SEGMENT_BYTES - writer.offset - frames.HEADER_BYTES - room
    writer.write(entries(size))
    assert (writer.segment.number, writer.segment.size_bytes - writer.offset) == (1, room)
    count = writer.sync_count
    writer.seal()
    assert (writer.segment.number, writer.sync_count - count) == (1, int(room == 32))


def test_a_frame_larger_than_a_segment_gets_one_that_is_as_large_and_can_be_sealed(writer):
    """D1: such a frame is proven durable like any other."""
    writer.write(entries(3 * SEGMENT_BYTES))
    assert writer.segment.number == 2
    writer.seal()
    assert writer.sealed
    assert writer.segment.size_bytes == writer.offset == len(writer.files.contents()[name(2)])
    assert writer.reader.read(1, 2, 1)[1] == record(1, 3 * SEGMENT_BYTES)


def test_a_segment_says_again_what_must_outlive_those_before_it(writer):
    """E1, N7: term, vote and mark are read without any older segment."""
    writer.write([(0, HardState(4, "b"), None, 0, 0, b""), *entries(500, 500, term=3)])
    writer.write_mark(MarkSave(1, 10, 3, False, 11))
    writer.roll(0)
    while writer.tidy():
        pass
    assert [segment.number for segment in writer.ledger.segments] == [2]
    assert (writer.ledger.first, writer.ledger.prev_term) == (11, 3)
    ledger = found(writer)
    assert (ledger.hard_state, ledger.mark) == (HardState(4, "b"), Mark(10, 3, 11, 10))
    assert (ledger.first, ledger.prev_term) == (11, 3)


def test_the_next_segment_is_made_ready_in_good_time(writer):
    """Not before the newest one is half full, where saves would have to wait for it."""
    assert (writer.untidy, writer.pressed) == (True, False)
    writer.write(entries(SEGMENT_BYTES // 2 - writer.offset - frames.HEADER_BYTES - 1))
    assert not writer.pressed
    writer.write(entries(100, start=2))
    assert writer.pressed
    assert writer.tidy()
    while writer.tidy():
        pass
    assert writer.spare.number == 2
    assert not writer.untidy
    assert not writer.tidy()


def test_segments_that_may_go_are_pressing(writer):
    """N3: they go while saves keep coming, too."""
    writer.write(entries(900))
    writer.roll(0)
    while writer.tidy():
        pass
    assert (writer.pressed, writer.untidy) == (False, False)
    marked(writer)
    assert (writer.pressed, writer.untidy) == (True, True)


def test_a_segment_that_went_does_not_come_back_and_takes_no_room(writer):
    """N3: its name is off the disk, and nobody holds it open; the term before the rest is known."""
    for index, term in ((1, 1), (2, 2), (3, 3)):
        writer.write([(0, HardState(term), None, index, index + 1, record(index, 1200, term))])
    oldest = writer.ledger.segments[0]
    writer.roll(0)
    writer.write([(0, HardState(4), None, 4, 5, record(4, 50, 4))])
    while writer.tidy():
        pass
    for index in (3, 4):
        writer.write_mark(MarkSave(1, index, index, True, 5))
    assert writer.reader.read(1, 2, 1)[0] == 2
    while writer.tidy():
        pass
    assert (oldest.fd, len(writer.files._open)) == (None, 2)
    assert (writer.ledger.first, writer.ledger.prev_term) == (4, 3)
    for _, files in writer.files.crash_states(len(writer.files.operations)):
        assert name(1) not in files


def test_older_segments_are_closed_before_a_want_of_descriptors_is_a_full_disk(writer):
    """D4, sc-P8: what is kept open for readers is given up first; it makes no room on a disk."""
    writer.write(entries(2000, 2000, 2000))
    older = writer.ledger.segments[0]
    assert writer.reader.read(1, 2, 1)[0] == 2

    def fault(made, number):
        if made == "open":
            raise OSError(code, os.strerror(code))

    writer.files.fault = fault
    code = errno.ENOSPC
    assert not writer.tidy()
    assert (writer.full, older.fd is None) == (True, False)
    writer.full = False
    code = errno.EMFILE
    assert writer.tidy()
    assert (writer.full, older.fd) == (False, None)
    assert not writer.tidy()
    assert writer.full


def test_a_closed_log_has_nothing_open_and_nothing_half_made(writer):
    """Whether it was preparing the next segment, or had done so, or had older ones open."""
    disk = writer.files
    writer.tidy()
    assert TEMPORARY_NAME in disk.contents()
    writer.close()
    writer.close()
    assert disk._open == {}
    assert TEMPORARY_NAME not in disk.contents()
    writer = opened(disk)
    writer.write(entries(2000, 2000, 2000, start=writer.ledger.next_index))
    writer.reader.read(1, 3, 1)
    while writer.tidy():
        pass
    writer.close()
    assert disk._open == {}


def test_how_the_writing_ended_is_told_by_file_and_kind(writer):
    """D3: room that is wanted where the log must write is a failure of the store."""
    broken = StorageFailed("x")
    assert writer.failed(broken) is broken
    for code in (errno.EIO, errno.ENOSPC):
        error = OSError(code, os.strerror(code))
        told = writer.failed(error)
        assert type(told) is StorageFailed
        assert told.args == failure(writer.segment.path, error, "writing the log").args
    writer.ledger.segments.clear()
    assert f"({DIRECTORY}: " in str(writer.failed(OSError(5, "x")))


@pytest.mark.parametrize(
    ("call", "code"), [("allocate", errno.ENOSPC), ("open", errno.EMFILE)], ids=["room", "fd"]
)
def test_a_full_disk_is_told_with_its_reason_and_tried_again(writer, call, code):
    """D4: no failure; what was begun is begun anew."""

    def fault(made, number):
        if made == call:
            raise OSError(code, os.strerror(code))

    writer.files.fault = fault
    assert not writer.tidy()
    assert (writer.full, writer.full_because) == (True, os.strerror(code))
    assert not writer.tidy()
    assert writer.full
    writer.files.fault = None
    while writer.tidy():
        pass
    assert not writer.full
    assert writer.spare is not None


@pytest.mark.parametrize(
    ("call", "code"),
    [("allocate", errno.EIO), ("unlink", errno.ENOSPC), ("sync_directory", errno.EIO)],
)
def test_a_disk_that_is_not_merely_full_ends_the_log_while_it_tidies(writer, call, code):
    """D3: nothing may be tried again where a call failed for any other reason."""
    if call != "allocate":
        marked(writer).roll(0)

    def fault(made, number):
        if made == call:
            raise OSError(code, os.strerror(code))

    writer.files.fault = fault
    with pytest.raises(OSError, match=os.strerror(code)):
        writer.tidy()
    assert not writer.full


def test_a_log_begins_behind_the_header(writer):
    assert writer.segment.number == 1
    assert writer.files.contents()[name(1)][HEADER_BLOCK_BYTES:][:4] == frames.MAGIC
