"""Reading entries back from segments: from a span's frames to whole records, end to end."""

from __future__ import annotations

import struct

from attrs import define, field

from raft.errors import InvariantViolated, StorageDamaged
from raft.storage import frames
from raft.storage.files import Files, read_all
from raft.storage.ledger import Ledger
from raft.storage.records import HEADER, HEADER_BYTES
from raft.storage.segments import Segment, close_fd, open_fd

WINDOW_BYTES = 65536
MOST_CURSORS = 16
MOST_OPEN = 16
_LENGTH_INDEX = struct.Struct("<IQ")


@define(eq=False)
class Cursor:
    """A place in a segment's frames: the byte after a record, and where its frame ends."""

    segment: Segment
    offset: int
    frame_end: int


@define(eq=False)
class _Window:
    """The bytes of a segment around where one is reading."""

    files: Files
    fd: int
    stop: int
    content: bytes = b""
    start: int = 0

    def need(self, offset: int, size_bytes: int) -> int:
        """Return where in `content` the `size_bytes` from file offset `offset` begin.

        Offsets never fall: what was passed is not asked for again.
        """
        begin = offset - self.start
        if begin + size_bytes > len(self.content):
            wanted = max(size_bytes, min(WINDOW_BYTES, self.stop - offset))
            self.content = read_all(self.files, self.fd, wanted, offset)
            self.start = offset
            begin = 0
        if size_bytes > len(self.content):
            raise EOFError(offset)
        return begin


@define(eq=False)
class Reader:
    """Reads a ledger's entries. Its caller holds the lock that guards the ledger."""

    files: Files
    ledger: Ledger
    _cursors: dict[int, Cursor] = field(factory=dict)
    """Where the reads that ended before these indexes stopped: the next ones start there."""
    _open: list[Segment] = field(factory=list)
    """Older segments whose files are open, the one used last at the end."""

    def retire(self, segment: Segment) -> None:
        """Keep an older segment's file open until enough others were read."""
        self._open.append(segment)
        if len(self._open) > MOST_OPEN:
            close_fd(self.files, self._open.pop(0))

    def close_older(self) -> bool:
        """Close the files of all older segments; tell whether there were any open."""
        was_open = bool(self._open)
        while self._open:
            close_fd(self.files, self._open.pop())
        return was_open

    def close(self, segment: Segment) -> None:
        """Close the segment's file."""
        if segment in self._open:
            self._open.remove(segment)
        close_fd(self.files, segment)

    def read(self, start: int, end: int, limit_bytes: int) -> tuple[int, bytes]:
        """Return (next index, records) from `start`, as `IStorage.read` does.

        Raises KeyError where `start` is not there and StorageDamaged where the bytes are not
        those that were written.
        """
        index = start
        pieces: list[bytes] = []
        size_bytes = 0
        end = min(end, self.ledger.next_index)
        while index < end:
            before = index
            index, size_bytes = self._read_span(index, end, limit_bytes, pieces, size_bytes)
            if index == before or size_bytes >= limit_bytes:
                break
        if not pieces:
            raise KeyError(start)
        return index, b"".join(pieces)

    def term_at(self, index: int) -> int:
        """Return the term of entry `index`, or of the one before the first."""
        if index == self.ledger.first - 1:
            return self.ledger.prev_term
        return int(HEADER.unpack_from(self.read(index, index + 1, 0)[1])[3])

    def _read_span(
        self, index: int, end: int, limit_bytes: int, pieces: list[bytes], size_bytes: int
    ) -> tuple[int, int]:
        located = self.ledger.locate(index)
        if located is None:
            raise KeyError(index)
        span, span_end = located
        end = min(end, span_end)
        window = _Window(self.files, self._fd(span.segment), span.stop)
        cursor = self._cursors.pop(index, None)
        # A place remembered in another span may lie before entries that were truncated since. What
        # replaces an entry stands behind it in the same segment, or in another one.
        if (
            cursor is None
            or cursor.segment is not span.segment
            or not span.offset <= cursor.offset <= span.stop
        ):
            cursor = Cursor(span.segment, span.offset, span.offset)
        try:
            return self._walk(window, cursor, index, end, limit_bytes, pieces, size_bytes)
        except EOFError as error:
            raise self._damaged(span.segment, error.args[0]) from error

    def _fd(self, segment: Segment) -> int:
        was_closed = segment.fd is None
        fd = open_fd(self.files, segment)
        if was_closed:
            self.retire(segment)
        elif segment in self._open:
            self._open.remove(segment)
            self._open.append(segment)
        return fd

    def _walk(
        self,
        window: _Window,
        cursor: Cursor,
        index: int,
        end: int,
        limit_bytes: int,
        pieces: list[bytes],
        size_bytes: int,
    ) -> tuple[int, int]:
        offset, frame_end = cursor.offset, cursor.frame_end
        while index < end:
            if offset >= frame_end:
                offset, frame_end = self._enter_frame(window, cursor.segment, offset)
                continue
            at = window.need(offset, HEADER_BYTES)
            length, found = _LENGTH_INDEX.unpack_from(window.content, at + 4)
            size = HEADER_BYTES + length
            # Local records and entries before the wanted one are passed over unread.
            if window.content[at + HEADER_BYTES - 1] < 128 and found >= index:
                if found != index:
                    raise self._damaged(cursor.segment, offset)
                if pieces and size_bytes + size > limit_bytes:
                    break
                at = window.need(offset, size)
                pieces.append(window.content[at : at + size])
                size_bytes += size
                index += 1
            offset += size
        if len(self._cursors) >= MOST_CURSORS:
            self._cursors.pop(next(iter(self._cursors)))
        self._cursors[index] = Cursor(cursor.segment, offset, frame_end)
        return index, size_bytes

    def _enter_frame(self, window: _Window, segment: Segment, offset: int) -> tuple[int, int]:
        if offset >= window.stop:
            raise InvariantViolated(f"{segment.path}: a span ends at {offset}, before its entries")
        at = window.need(offset, frames.HEADER_BYTES)
        magic, _, _, length, owner, _ = frames.HEADER.unpack_from(window.content, at)
        if magic != frames.MAGIC or owner != segment.id:
            raise self._damaged(segment, offset)
        offset += frames.HEADER_BYTES
        return offset, offset + length

    def _damaged(self, segment: Segment, offset: int) -> StorageDamaged:
        return StorageDamaged(
            segment.path,
            offset,
            "the bytes are not those that were written; check the disk, then remove this "
            "server and add it again with an empty directory",
        )
