"""Recovery: from the files that a crash left behind to the log, or to a refusal.

The rule [RULES D1]: what follows the last valid frame is dropped only if it can have been
nothing but one frame whose sync had not returned, for then nobody was told of it. If anything
valid follows, the bytes in between had been synced once and are damaged: the server must not
start, because it may have acknowledged them. The only file that is changed is the newest
segment: its last frame is written once more, since the page cache may show bytes that a failed
sync never brought to the disk. Recovery may itself be cut short at any point and begin again.
"""

from __future__ import annotations

import contextlib
import os
from array import array
from itertools import pairwise
from struct import Struct
from zlib import crc32

from attrs import define, field

from raft.core.configuration import Configuration
from raft.core.messages import Run
from raft.errors import InvariantViolated, StorageDamaged
from raft.storage import frames, segments
from raft.storage.files import Files, read_all, sync, write_all
from raft.storage.frames import Frame
from raft.storage.ledger import Ledger
from raft.storage.marks import How, decode_hard_state, decode_mark
from raft.storage.records import (
    HEADER_BYTES,
    RUN_BYTES,
    BadRecord,
    Kind,
    Record,
    decode,
    decode_configuration,
    note_skip,
)
from raft.storage.segments import HEADER_BLOCK_BYTES, Segment
from raft.storage.writer import LogWriter

_HEADER = Struct("<IIQQQB")
REMEDY = (
    "an acknowledged part of the log may be lost: restore the data directory, or remove this "
    "server from the cluster and add it again with an empty directory"
)


@define(eq=False)
class Entries:
    """What must be known of each entry while the log is replayed; freed afterwards."""

    terms: array[int] = field(factory=lambda: array("Q"))
    sizes: array[int] = field(factory=lambda: array("I"))
    times: array[int] = field(factory=lambda: array("Q"))
    configurations: list[tuple[int, Configuration]] = field(factory=list)
    skips: dict[int, int] = field(factory=dict)

    def keep(self, count: int, end: int) -> None:
        """Keep the first `count` entries, which end before index `end`."""
        for column in (self.terms, self.sizes, self.times):
            del column[count:]
        while self.configurations and self.configurations[-1][0] >= end:
            self.configurations.pop()
        if self.skips:
            self.skips = {at: named for at, named in self.skips.items() if at < end}

    def runs(self, first: int) -> tuple[Run, ...]:
        """Return the runs of terms, cut at `RUN_BYTES` like those that arrive by wire."""
        runs: list[Run] = []
        term = size_bytes = 0
        index = first
        for index, (entry_term, entry_bytes) in enumerate(
            zip(self.terms, self.sizes, strict=True), first
        ):
            if size_bytes and (entry_term != term or size_bytes >= RUN_BYTES):
                runs.append(Run(index, term, size_bytes))
                size_bytes = 0
            term = entry_term
            size_bytes += entry_bytes
        if size_bytes:
            runs.append(Run(index + 1, term, size_bytes))
        return tuple(runs)


@define(eq=False)
class Recovery:
    """Replays the segments of a directory into a ledger, then hands it to a writer."""

    files: Files
    directory: str
    segment_size_bytes: int
    incarnation: int
    ledger: Ledger = field(factory=Ledger)
    entries: Entries = field(factory=Entries)
    dropped_bytes: int = 0
    """How far the torn last frame may have reached: 0 when nothing was dropped."""
    _found: list[Segment] = field(factory=list)
    _sequence: int = 0
    _checksum: int = 0
    _offset: int = HEADER_BLOCK_BYTES
    _last: Frame | None = None
    _last_bytes: bytes = b""
    _last_offset: int = 0

    def run(self) -> LogWriter:
        """Return a writer that goes on after the last valid frame.

        Raises StorageDamaged, BadConfiguration (a newer format) or OSError; then all files
        that were opened are closed again.
        """
        try:
            self._remove_leftovers()
            self._find_segments()
            spare = self._replay()
            writer = LogWriter(
                self.files,
                self.directory,
                self.segment_size_bytes,
                self.incarnation,
                self.ledger,
                spare,
                self._offset,
                self._sequence,
                self._checksum,
                self._last is None or self._last.body == self._last.end,
            )
            if self.ledger.segments:
                self._rewrite_last_frame()
            else:
                writer.roll(0)
            return writer
        except BaseException:
            for segment in self._found:
                with contextlib.suppress(OSError):
                    segments.close_fd(self.files, segment)
            raise

    def _remove_leftovers(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.files.unlink(os.path.join(self.directory, segments.TEMPORARY_NAME))
        # Names may be visible that are not yet on disk: what is built on them must be later.
        self.files.sync_directory(self.directory)

    def _find_segments(self) -> None:
        names = self.files.names(self.directory)
        numbers = [n for n in map(segments.number_of, names) if n is not None]
        for before, number in pairwise(numbers):
            if number != before + 1:
                path = os.path.join(self.directory, segments.name(before + 1))
                raise StorageDamaged(path, 0, f"the segment is missing; {REMEDY}")
        for number in numbers:
            path = os.path.join(self.directory, segments.name(number))
            segment = Segment(number, 0, path, None, 0)
            self._found.append(segment)
            fd = segments.open_fd(self.files, segment)
            segment.size_bytes = self.files.size(fd)
            header = read_all(self.files, fd, segments.HEADER.size, 0)
            segment.id = segments.decode_header(
                header, path, number, self.incarnation, segment.size_bytes
            )
            segments.close_fd(self.files, segment)

    def _replay(self) -> Segment | None:
        """Replay all segments; return the newest one if it was prepared but never begun."""
        spare: Segment | None = None
        for segment in self._found:
            fd = segments.open_fd(self.files, segment)
            content = read_all(self.files, fd, segment.size_bytes, 0)
            segments.close_fd(self.files, segment)
            if self._replay_segment(segment, content):
                continue
            self._check_tail(segment, content, HEADER_BLOCK_BYTES)
            if segment is not self._found[-1] or not (self.ledger.segments or segment.number == 1):
                raise StorageDamaged(
                    segment.path,
                    HEADER_BLOCK_BYTES,
                    f"the segment's first frame is damaged; {REMEDY}",
                )
            spare = segment
        # A later segment that goes on without a gap has shown that what follows the last frame
        # of an earlier one was dropped before: only the newest frames need the search.
        if self.ledger.segments:
            self._check_tail(self.ledger.segments[-1], self._last_bytes, self._offset)
        return spare

    def _replay_segment(self, segment: Segment, content: bytes) -> bool:
        """Replay one segment; return False if it holds no frame."""
        view = memoryview(content)
        offset = HEADER_BLOCK_BYTES
        opened = False
        while (frame := frames.find(view, offset, segment.id)) is not None:
            self._check_chain(segment, offset, frame, opened)
            if not opened:
                self.ledger.open_segment(segment)
            self._replay_body(segment, offset, frame, content, not opened)
            opened = True
            self._sequence, self._checksum = frame.sequence, frame.checksum
            self._last = frame
            self._last_bytes, self._last_offset = content, offset
            offset = frame.end
        if opened:
            self._offset = offset
        return opened

    def _check_chain(self, segment: Segment, offset: int, frame: Frame, opened: bool) -> None:
        if not self.ledger.segments:
            return
        if frame.sequence == self._sequence + 1 and frame.previous == self._checksum:
            return
        if opened or frame.sequence <= self._sequence:
            raise StorageDamaged(
                segment.path,
                offset,
                f"frame {frame.sequence} stands where {self._sequence + 1} must follow; {REMEDY}",
            )
        before = self.ledger.segments[-1]
        raise StorageDamaged(
            before.path,
            self._offset,
            f"frame {self._sequence + 1} is damaged, and {segment.path} goes on with frame "
            f"{frame.sequence}; {REMEDY}",
        )

    def _check_tail(self, segment: Segment, content: bytes, offset: int) -> None:
        found = frames.successor(content, offset, segment.id, self._sequence + 1)
        if found is not None:
            raise StorageDamaged(
                segment.path,
                offset,
                f"the frame here is damaged, and a valid one follows at {found}; {REMEDY}",
            )
        torn = content[offset:].rstrip(b"\x00")
        self.dropped_bytes = max(self.dropped_bytes, len(torn))

    def _rewrite_last_frame(self) -> None:
        fd = segments.open_fd(self.files, self.ledger.segments[-1])
        if self._last is not None:
            content = self._last_bytes[self._last_offset : self._last.end]
            write_all(self.files, fd, [content], self._last_offset)
        sync(self.files, fd)
        self._last_bytes = b""

    def _replay_body(
        self, segment: Segment, offset: int, frame: Frame, content: bytes, opens: bool
    ) -> None:
        position = frame.body
        try:
            while position < frame.end and content[position + HEADER_BYTES - 1] >= 128:
                length = int.from_bytes(content[position + 4 : position + 8], "little")
                stop = position + HEADER_BYTES + length
                for record in decode(content[position : min(stop, frame.end)]):
                    self._replay_local(record, opens and position == frame.body)
                position = stop
            if position < frame.end:
                self._replay_entries(segment, offset, frame, content, position)
        except (BadRecord, IndexError, InvariantViolated, UnicodeDecodeError) as error:
            raise StorageDamaged(
                segment.path, offset, f"the frame's content cannot be: {error}; {REMEDY}"
            ) from error

    def _replay_local(self, record: Record, begins: bool) -> None:
        ledger = self.ledger
        if begins != (record.kind == Kind.SEGMENT):
            raise BadRecord(0, f"kind {record.kind} is out of place")
        if record.kind == Kind.SEGMENT:
            self._begin_segment(record)
        elif record.kind == Kind.HARD_STATE:
            ledger.hard_state = decode_hard_state(record)
        elif record.kind == Kind.TRUNCATE:
            ledger.truncate(record.index, record.term)
            self.entries.keep(record.index - ledger.first, record.index)
        elif record.kind == Kind.SNAPSHOT:
            mark, how = decode_mark(record)
            if how is How.REPEATED:
                ledger.mark = mark
                return
            ledger.set_mark(mark, how is How.KEEP_LOG)
            if how is How.DISCARD_LOG:
                self.entries.keep(0, 0)
        else:
            raise BadRecord(0, f"kind {record.kind} is unknown")

    def _begin_segment(self, record: Record) -> None:
        ledger = self.ledger
        term = self.entries.terms[-1] if self.entries.terms else ledger.prev_term
        if len(ledger.segments) == 1:
            ledger.begin_at(record.index, record.term)
            ledger.segments[0].start = record.index
        elif (record.index, record.term) != (ledger.next_index, term):
            raise BadRecord(
                0,
                f"the segment goes on with entry {record.index} after term {record.term}, the "
                f"log before it with entry {ledger.next_index} after term {term}",
            )

    def _replay_entries(
        self, segment: Segment, offset: int, frame: Frame, content: bytes, position: int
    ) -> None:
        """Take the entries from `position` to the frame's end: the hot loop of a restart."""
        start = index = self.ledger.next_index
        end = frame.end
        terms, sizes, times = self.entries.terms, self.entries.sizes, self.entries.times
        last_term = terms[-1] if terms else self.ledger.prev_term
        unpack = _HEADER.unpack_from
        while position < end:
            if end - position < HEADER_BYTES:
                raise BadRecord(position, "truncated header")
            checksum, length, found, term, time_us, kind = unpack(content, position)
            stop = position + HEADER_BYTES + length
            if stop > end or crc32(content[position + 4 : stop]) != checksum:
                raise BadRecord(position, "wrong length or checksum")
            if found != index or term < last_term or kind >= 128:
                raise BadRecord(
                    position, f"entry {found} of term {term} after {index - 1} of {last_term}"
                )
            if kind == 2:
                payload = content[position + HEADER_BYTES : stop]
                self.entries.configurations.append((index, decode_configuration(payload)))
            elif kind == 10:
                note_skip(self.entries.skips, index, content[position + HEADER_BYTES : stop])
            terms.append(term)
            sizes.append(stop - position)
            times.append(time_us)
            last_term = term
            index += 1
            position = stop
        if last_term > self.ledger.hard_state.current_term:
            raise BadRecord(
                position, f"an entry of term {last_term} before that term was saved [RULES E1]"
            )
        self.ledger.append(start, index, segment, offset, end)
