"""Entries read back from segments: from the right place, and from nowhere else."""

from __future__ import annotations

import struct

import pytest

from raft.core.outputs import HardState
from raft.errors import InvariantViolated, StorageDamaged
from raft.storage import frames
from raft.storage.imagined import ImaginedDisk
from raft.storage.reading import MOST_CURSORS, MOST_OPEN, WINDOW_BYTES
from raft.storage.records import HEADER_BYTES, encode
from raft.storage.recovery import Recovery

SEGMENT_BYTES = 4096
HEAD_BYTES = frames.HEADER_BYTES


def record(index, term=1, size=100):
    return encode(index, term, 0, 1, bytes([index % 256]) * size)


def opened(disk, segment_bytes=SEGMENT_BYTES):
    return Recovery(disk, "/imagined", segment_bytes, 0).run()


def append(writer, start, count, term=1, size=100, hard_state=None, truncate_from=None):
    """Write a frame for each entry."""
    for index in range(start, start + count):
        writer.write([(0, hard_state, truncate_from, index, index + 1, record(index, term, size))])
        hard_state = truncate_from = None


@pytest.fixture
def writer():
    """A log of ten entries of 100 bytes, each in a frame of its own, in one segment."""
    made = opened(ImaginedDisk())
    append(made, 1, 10, hard_state=HardState(1))
    return made


def many_segments(count):
    """A log of which each segment but the first holds one entry; and the indexes of those."""
    writer = opened(ImaginedDisk())
    append(writer, 1, count + 1, size=3500, hard_state=HardState(1))
    return writer, range(2, count + 1)


def place_of(writer, index):
    """Return where the frame of entry `index` is on the disk: its file's bytes and the offset."""
    content = writer.files._contents[writer.files._open[writer.segment.fd]]
    return content, content.index(record(index)) - HEAD_BYTES


def test_a_place_that_is_remembered_is_given_up_when_its_entry_is_replaced(writer):
    """D2: what was truncated is never read, though its bytes are still where they were."""
    append(writer, 5, 2, term=2, hard_state=HardState(2), truncate_from=5)
    assert writer.reader.read(3, 5, 1 << 20) == (5, record(3) + record(4))
    assert writer.reader.read(5, 7, 1 << 20) == (7, record(5, 2) + record(6, 2))
    assert writer.reader.read(3, 5, 1 << 20)[0] == 5
    append(writer, 5, 1, term=3, hard_state=HardState(3), truncate_from=5)
    assert writer.reader.read(5, 6, 1 << 20) == (6, record(5, 3))


def test_a_place_that_is_remembered_is_one_of_its_segment():
    """D2: the same offset in another segment is another place."""
    writer = opened(ImaginedDisk())
    append(writer, 1, 20, hard_state=HardState(1))
    for index in range(1, 20):
        assert writer.reader.read(index, index + 1, 1) == (index + 1, record(index))
    assert writer.segment.number == 1
    append(writer, 21, 8)
    assert writer.segment.number == 2
    append(writer, 12, 12, term=2, hard_state=HardState(2), truncate_from=12)
    assert writer.segment.number == 2
    for index in range(12, 24):
        assert writer.reader.read(index, index + 1, 1) == (index + 1, record(index, 2))


def test_reading_on_goes_on_where_the_last_read_stopped(writer):
    """Whatever frames lie between; a local record on the way is passed over."""
    writer.write([(0, HardState(2, "b"), None, 11, 12, record(11, 2))])
    index, found = 1, []
    while index < 12:
        index, records = writer.reader.read(index, 12, 1)
        found.append(records)
    assert found == [*map(record, range(1, 11)), record(11, 2)]


def test_what_is_larger_than_a_window_is_read_whole():
    """A frame of many entries, an entry of many windows, and those after them."""
    writer = opened(ImaginedDisk(), 1 << 20)
    body = b"".join(record(index, size=1000) for index in range(1, 101))
    writer.write([(0, HardState(1), None, 1, 101, body)])
    append(writer, 101, 1, size=2 * WINDOW_BYTES + 11)
    append(writer, 102, 2)
    whole = body + record(101, size=2 * WINDOW_BYTES + 11) + record(102) + record(103)
    assert writer.reader.read(1, 104, 1 << 20) == (104, whole)
    for index in (50, 101, 103):
        at = whole.index(record(index, size=1)[8:29])
        assert writer.reader.read(index, 104, 1 << 20) == (104, whole[at - 8 :])


def test_few_places_are_remembered_however_many_readers_there_are():
    """I21: those that were used last."""
    writer = opened(ImaginedDisk(), 1 << 20)
    append(writer, 1, 4 * MOST_CURSORS, hard_state=HardState(1))
    for index in range(1, 4 * MOST_CURSORS, 2):
        writer.reader.read(index, index + 1, 1)
    assert list(writer.reader._cursors) == list(
        range(2 * MOST_CURSORS + 2, 4 * MOST_CURSORS + 1, 2)
    )


def test_few_old_segments_are_open_and_those_that_were_used_last():
    """I21: descriptors are bounded, however long the log is."""
    writer, indexes = many_segments(2 * MOST_OPEN)
    by_index = {index: writer.ledger.locate(index)[0].segment for index in indexes}
    for index in indexes:
        # The first one is read again all the time, and stays.
        assert writer.reader.read(2, 3, 1)[0] == 3
        assert writer.reader.read(index, index + 1, 1) == (index + 1, record(index, size=3500))
        assert by_index[2].fd is not None
    still_open = [index for index in indexes if by_index[index].fd is not None]
    assert still_open == [2, *indexes[-MOST_OPEN + 1 :]]
    assert writer.reader.close_older()
    assert not any(segment.fd for segment in by_index.values())
    assert writer.segment.fd is not None
    assert not writer.reader.close_older()


def test_a_segment_that_is_closed_takes_no_place_among_the_open_ones():
    writer, indexes = many_segments(2 * MOST_OPEN)
    segments = [writer.ledger.locate(index)[0].segment for index in indexes]
    writer.reader.close_older()
    for index in indexes[:MOST_OPEN]:
        writer.reader.read(index, index + 1, 1)
    for _ in range(2):
        writer.reader.close(segments[5])
        assert segments[5].fd is None
    writer.reader.read(indexes[MOST_OPEN], indexes[MOST_OPEN] + 1, 1)
    still_open = [segment for segment in segments if segment.fd is not None]
    assert still_open == [*segments[:5], *segments[6 : MOST_OPEN + 1]]


@pytest.mark.parametrize(
    ("what", "offset"),
    [("magic", 0), ("segment's id", 16), ("index", HEAD_BYTES + 8)],
)
def test_bytes_that_changed_since_are_noticed(writer, what, offset):
    """sc-F2: the frame's mark, its owner, the entry's number: told with file and offset."""
    content, frame = place_of(writer, 5)
    content[frame + offset] ^= 0x40
    with pytest.raises(StorageDamaged) as refused:
        writer.reader.read(1, 11, 1 << 20)
    at = frame if offset < HEAD_BYTES else frame + HEAD_BYTES
    assert (refused.value.path, refused.value.offset) == (writer.segment.path, at)


def test_a_file_that_lost_its_end_is_noticed(writer):
    """sc-F2: under a reader: within a frame's header, within a record's, within the payload."""
    content, frame = place_of(writer, 5)
    for end, at in [
        (frame + 31, frame),
        (frame + HEAD_BYTES + 28, frame + HEAD_BYTES),
        (frame + HEAD_BYTES + HEADER_BYTES + 5, frame + HEAD_BYTES),
    ]:
        del content[end:]
        writer.reader._cursors.clear()
        with pytest.raises(StorageDamaged) as refused:
            writer.reader.read(1, 11, 1 << 20)
        assert refused.value.offset == at
        content.extend(bytes(SEGMENT_BYTES - len(content)))
        content[frame:end] = place_of_again(writer, frame, end)


def place_of_again(writer, frame, end):
    """Return what was written from `frame` to `end`."""
    (operation,) = [
        each
        for each in writer.files.operations
        if each.kind == "write" and each.offset == frame and each.content.startswith(frames.MAGIC)
    ]
    return operation.content[: end - frame]


def test_entries_that_no_frame_holds_are_a_broken_ledger(writer):
    """Better stopped than reading on into what was never written."""
    writer.ledger.next_index += 1
    with pytest.raises(InvariantViolated, match="before its entries"):
        writer.reader.read(1, 12, 1 << 20)


def test_a_length_that_grew_on_the_disk_reads_nothing_of_the_next_frame(writer):
    content, frame = place_of(writer, 5)
    struct.pack_into("<I", content, frame + HEAD_BYTES + 4, 1 << 30)
    with pytest.raises(StorageDamaged):
        writer.reader.read(5, 7, 1 << 20)
