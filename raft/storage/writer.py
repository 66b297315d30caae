"""The writing end of the log: saves become frames, frames become durable, segments come and go.

A `LogWriter` is synchronous and belongs to one thread at a time: to whoever recovers, then
to the writer thread of `raft.storage.wal`. Readers in other threads meet it at `lock`, which
guards the ledger and is held for moments, never during a write or a sync.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from threading import Lock

from attrs import define, field, frozen

from raft.core.outputs import HardState
from raft.errors import InvariantViolated, StorageFailed
from raft.storage import frames, segments
from raft.storage.files import FULL, NO_DESCRIPTOR, NO_ROOM, Files, failure, sync, write_all
from raft.storage.ledger import Ledger
from raft.storage.marks import (
    How,
    Mark,
    encode_hard_state,
    encode_mark,
    encode_segment,
    encode_truncate,
)
from raft.storage.reading import Reader
from raft.storage.segments import HEADER_BLOCK_BYTES, Segment

MOST_FRAME_BYTES = 1 << 20

Save = tuple[int, HardState | None, int | None, int, int, bytes]
"""(ticket, hard state, truncate from, start, end, records): `IStorage.save`'s arguments."""


@frozen
class MarkSave:
    """`IStorage.mark_snapshot`'s arguments."""

    ticket: int
    index: int
    term: int
    keep_log: bool
    keep_from: int


@define(eq=False)
class _Batch:
    """What the next frame will hold: hard state, truncation, entries, in this order."""

    start: int
    end: int
    hard_state: HardState | None = None
    truncate_from: int | None = None
    records: list[bytes] = field(factory=list)
    size_bytes: int = 0


@define(eq=False)
class LogWriter:
    """Lays down frames behind the last one of `ledger`'s newest segment."""

    files: Files
    directory: str
    segment_size_bytes: int
    incarnation: int
    ledger: Ledger
    spare: Segment | None = None
    """The segment that is ready for the next roll."""
    offset: int = HEADER_BLOCK_BYTES
    """Where in the newest segment the next frame goes."""
    sequence: int = 0
    """The last frame's number, through all segments."""
    checksum: int = 0
    """The last frame's checksum: the next one is chained to it."""
    sealed: bool = True
    """Whether a later frame proves the last one with content durable."""
    full: bool = False
    full_because: str = ""
    sync_count: int = 0
    wait_for_room: Callable[[], bool] = field(default=lambda: False)
    """Called where a save needs a segment that the disk has no room for: True to try again."""
    lock: Lock = field(factory=Lock)
    reader: Reader = field(init=False)
    _owes_sync: bool = False
    """Whether a segment was unlinked, and there was no descriptor to sync the directory with."""
    _preparing: Generator[None, None, Segment] | None = None

    def __attrs_post_init__(self) -> None:
        """Read from the same ledger."""
        self.reader = Reader(self.files, self.ledger)

    @property
    def segment(self) -> Segment:
        """The segment that is being written."""
        return self.ledger.segments[-1]

    def write(self, saves: Iterable[Save]) -> None:
        """Make the saves durable: one frame for as many as fit [RULES D1, E1].

        Raises OSError where the disk failed: then nothing may be acknowledged any more.
        """
        batch = self._batch()
        most = min(MOST_FRAME_BYTES, self.segment_size_bytes // 4)
        for _, hard_state, truncate_from, start, end, records in saves:
            # A truncation heads its frame, so that entries in a frame are consecutive and
            # the term before it can be looked up among what is durable.
            if (truncate_from is not None and batch.records) or (
                batch.size_bytes and batch.size_bytes + len(records) > most
            ):
                self._flush(batch)
                batch = self._batch()
            if hard_state is not None:
                batch.hard_state = hard_state
            if truncate_from is not None and truncate_from < batch.end:
                batch.truncate_from = truncate_from
                batch.start = batch.end = truncate_from
            elif truncate_from is not None and truncate_from > batch.end:
                raise InvariantViolated(
                    f"truncation from {truncate_from}, but the log ends at {batch.end}"
                )
            if start == end:
                continue
            if start != batch.end:
                raise InvariantViolated(f"entry {start} saved where {batch.end} must follow")
            batch.records.append(records)
            batch.size_bytes += len(records)
            batch.end = end
        self._flush(batch)

    def write_mark(self, save: MarkSave) -> None:
        """Make a snapshot's mark durable, in a frame of its own."""
        before = self.ledger.mark
        if before is not None and save.index < before.index:
            return
        if not save.keep_log:
            mark = Mark(save.index, save.term, save.index + 1, save.index)
        else:
            previous = 0
            if before is not None:
                previous = before.index if before.index < save.index else before.previous
            mark = Mark(save.index, save.term, max(save.keep_from, 1), previous)
        if save.keep_log and save.index >= self.ledger.next_index:
            raise InvariantViolated(
                f"the mark of snapshot {save.index} keeps a log that ends at "
                f"{self.ledger.next_index}"
            )
        how = How.KEEP_LOG if save.keep_log else How.DISCARD_LOG
        self._write_frame([encode_mark(mark, how)])
        with self.lock:
            self.ledger.set_mark(mark, save.keep_log)

    def seal(self) -> None:
        """Write an empty frame: it proves the last one durable to whoever recovers."""
        room = self.segment.size_bytes - self.offset
        if not self.sealed and room >= frames.HEADER_BYTES:
            self._write_frame([])
            self.sealed = True

    def tidy(self) -> bool:
        """Take one small step: remove a segment nobody needs, or prepare the next one.

        Returns whether there is more to be done now. A full disk is no error in here: it sets
        `full`, and a later call tries again [RULES D4].
        """
        removes = self.ledger.removable
        try:
            if removes:
                self._remove_oldest()
            elif self.spare is None:
                self._prepare()
        except OSError as error:
            # Where a sync was tried and failed nothing may be tried again [RULES D3].
            if error.errno not in (NO_DESCRIPTOR if removes else FULL):
                raise
            if error.errno in NO_DESCRIPTOR and self._close_older():
                return True
            self._found_full(error)
            return False
        return self.untidy

    def _found_full(self, error: OSError) -> None:
        self.full = True
        self.full_because = error.strerror or str(error)

    def _close_older(self) -> bool:
        with self.lock:
            return self.reader.close_older()

    @property
    def untidy(self) -> bool:
        """Whether `tidy` has something to do."""
        return self.spare is None or self.ledger.removable

    @property
    def pressed(self) -> bool:
        """Whether tidying cannot wait for an idle moment: half of the segment is used."""
        return self.offset > self.segment.size_bytes // 2 or self.ledger.removable

    def term_at(self, index: int) -> int:
        """Return the term of durable entry `index`, or of the one before the first."""
        with self.lock:
            return self.reader.term_at(index)

    def roll(self, size_bytes: int) -> None:
        """Go on in the spare segment, with room for a body of `size_bytes`."""
        while self.spare is None:
            try:
                self._prepare()
            except OSError as error:
                if error.errno not in NO_ROOM:
                    raise
                self._found_full(error)
                if not self.wait_for_room():
                    raise
        term = self.term_at(self.ledger.next_index - 1)
        opening = [
            encode_segment(self.ledger.next_index, term),
            encode_hard_state(self.ledger.hard_state),
        ]
        if self.ledger.mark is not None:
            opening.append(encode_mark(self.ledger.mark, How.REPEATED))
        needed = HEADER_BLOCK_BYTES + sum(map(len, opening)) + size_bytes
        segments.extend(self.files, self.spare, needed + 2 * frames.HEADER_BYTES)
        with self.lock:
            if self.ledger.segments:
                self.reader.retire(self.segment)
            self.ledger.open_segment(self.spare)
        self.spare = None
        self.offset = HEADER_BLOCK_BYTES
        self._write_frame(opening)

    def close(self) -> None:
        """Close all files; what was being prepared is removed."""
        if self._preparing is not None:
            self._preparing.close()
        with self.lock:
            for segment in self.ledger.segments:
                self.reader.close(segment)
            if self.spare is not None:
                segments.close_fd(self.files, self.spare)

    def failed(self, error: BaseException) -> BaseException:
        """Return what to tell the node when `error` ended the writing."""
        if not isinstance(error, OSError):
            return error
        path = self.ledger.segments[-1].path if self.ledger.segments else self.directory
        told = failure(path, error, "writing the log")
        return told if isinstance(told, StorageFailed) else StorageFailed(*told.args)

    def _batch(self) -> _Batch:
        return _Batch(self.ledger.next_index, self.ledger.next_index)

    def _flush(self, batch: _Batch) -> None:
        body: list[bytes] = []
        hard_state, truncate_from = batch.hard_state, batch.truncate_from
        term = 0
        if hard_state is not None and hard_state != self.ledger.hard_state:
            body.append(encode_hard_state(hard_state))
        if truncate_from is not None:
            if truncate_from < self.ledger.first:
                raise InvariantViolated(
                    f"truncation from {truncate_from}, but the log starts at {self.ledger.first}"
                )
            term = self.term_at(truncate_from - 1)
            body.append(encode_truncate(truncate_from, term))
        body += batch.records
        if not body:
            return
        offset = self._write_frame(body)
        with self.lock:
            if hard_state is not None:
                self.ledger.hard_state = hard_state
            if truncate_from is not None:
                self.ledger.truncate(truncate_from, term)
            if batch.records:
                self.ledger.append(batch.start, batch.end, self.segment, offset, self.offset)

    def _write_frame(self, body: list[bytes]) -> int:
        """Write and sync one frame; return where in the newest segment it stands."""
        size_bytes = frames.HEADER_BYTES + sum(map(len, body))
        if self.offset + size_bytes > self.segment.size_bytes:
            self.roll(size_bytes)
        segment, offset = self.segment, self.offset
        header, checksum = frames.encode_header(segment.id, self.sequence + 1, self.checksum, body)
        fd = segments.open_fd(self.files, segment)
        write_all(self.files, fd, [header, *body], offset)
        sync(self.files, fd)
        self.sync_count += 1
        self.sequence += 1
        self.checksum = checksum
        self.offset = offset + size_bytes
        self.sealed = False
        return offset

    def _prepare(self) -> None:
        if self._preparing is None:
            self._preparing = segments.prepare(
                self.files,
                self.directory,
                self.segment.number + 1 if self.ledger.segments else 1,
                self.segment_size_bytes,
                self.incarnation,
            )
        try:
            next(self._preparing)
        except StopIteration as done:
            self.spare = done.value
            self._preparing = None
            self.full = False
        except OSError:
            self._preparing = None
            raise

    def _remove_oldest(self) -> None:
        if self._owes_sync:
            self._sync_removal()
        oldest, kept = self.ledger.segments[:2]
        term = self.term_at(max(kept.start, self.ledger.first) - 1)
        with self.lock:
            self.ledger.drop_segment(term)
            self.reader.close(oldest)
        # One name at a time, oldest first: a crash must never leave a gap between segments.
        self.files.unlink(oldest.path)
        self._owes_sync = True
        self._sync_removal()

    def _sync_removal(self) -> None:
        self.files.sync_directory(self.directory)
        self._owes_sync = False
