"""The write-ahead log: `IStorage` on files, with one writer thread.

The reactor's thread puts tuples on a queue and reads; everything that waits for a disk is
done by the writer thread. Each time round it takes all that is queued, writes it as one
frame, syncs once, and reports the highest ticket: the slower the disk, the larger the
batches [RULES D1]. While it has nothing to write it prepares the next segment and removes
old ones, a small step at a time.

The queue itself has no bound: what is in it has passed the core's bound on uncommitted bytes
(a leader) or the transport's bound on bytes in flight (a follower).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from queue import SimpleQueue

from attrs import define, evolve, field
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from zope.interface import implementer

from raft.core.outputs import HardState
from raft.errors import BadConfiguration, InvariantViolated, StorageDamaged
from raft.interfaces import ISnapshotWriter, IStorage, Recovered, SnapshotMeta
from raft.storage.files import Files, failure
from raft.storage.recovery import REMEDY, Recovery
from raft.storage.reserve import ReservedFiles
from raft.storage.snapshots import SnapshotFiles
from raft.storage.thread import MakeWriter, Queued, WriterThread
from raft.storage.writer import LogWriter, MarkSave

SEGMENT_SIZE_BYTES = 16 << 20
MOST_WAITED_BYTES = 16 << 10
"""Larger saves are not waited for: they come with others, which arrive meanwhile."""

_log = Logger(namespace="raft.storage")


@implementer(IStorage)
@define(eq=False)
class WriteAheadLog:
    """Stable storage of one server in one directory.

    The directory must exist, and be locked by the caller (`DataDirectory` does both).
    `incarnation` is that of the data directory (16 hexadecimal digits): files that carry
    another one are refused. Errors are raised as `raft.errors` of the storage branch.
    `queue` and `make_writer` are what passes and does the writing, where that is not a thread.
    """

    directory: str
    files: Files = field(factory=ReservedFiles)
    segment_size_bytes: int = SEGMENT_SIZE_BYTES
    incarnation: str = ""
    _queue: SimpleQueue[Queued] = field(factory=SimpleQueue)
    _make_writer: MakeWriter = WriterThread
    _writer: LogWriter | None = field(default=None, init=False)
    _snapshots: SnapshotFiles = field(init=False)
    _thread: WriterThread | None = field(default=None, init=False)
    _cuts: list[tuple[int, int]] = field(factory=list, init=False)
    """(ticket, from): truncations that are queued; nothing from there on may be read."""
    _call_from_thread: Callable[..., object] = field(init=False)
    _saved: Callable[[int], None] = field(init=False)
    _failed: Callable[[BaseException], None] = field(init=False)
    _asked: int = field(default=0, init=False)
    _answered: int = field(default=0, init=False)
    """The last ticket that was queued, and the last one that is known to be durable."""
    _waiting: list[Deferred[None]] = field(factory=list, init=False)
    _stopping: bool = field(default=False, init=False)
    _closed: bool = field(default=False, init=False)
    _ended: bool = field(default=False, init=False)
    """Whether nothing may be called back any more: stopped, or poisoned."""

    def __attrs_post_init__(self) -> None:
        """Check what was given, before any file is touched."""
        if not 4096 <= self.segment_size_bytes <= 1 << 30:
            raise BadConfiguration(
                f"segment_size_bytes is {self.segment_size_bytes}: it must be from 4096 to 2**30"
            )
        self._snapshots = SnapshotFiles(self.files, self.directory, self._owner, self._queue.put)

    @property
    def _owner(self) -> int:
        return int(self.incarnation, 16) if self.incarnation else 0

    @property
    def full(self) -> bool:
        """Whether the disk has no room for the next segment [RULES D4]."""
        return self._writer is not None and self._writer.full

    @property
    def sync_count(self) -> int:
        """How many frames were synced."""
        return self._writer.sync_count if self._writer is not None else 0

    def recover(self) -> Recovered:
        """Read what is there; begin a log where there is none. Blocks.

        Raises:
            StorageDamaged: something that may have been acknowledged is damaged or gone.
            StorageFailed, StorageFull: the disk refused.
            BadConfiguration: a newer version of this library wrote it.
        """
        if self._writer is not None:
            raise InvariantViolated("storage was recovered before")
        recovery = Recovery(self.files, self.directory, self.segment_size_bytes, self._owner)
        try:
            writer = recovery.run()
        except OSError as error:
            raise failure(self.directory, error, "recovering the log") from error
        self._writer = writer
        try:
            snapshot = self._recover_snapshot(writer, recovery)
        except BaseException as error:
            writer.close()
            self._writer = None
            if isinstance(error, OSError):
                raise failure(self.directory, error, "recovering a snapshot") from error
            raise
        if recovery.dropped_bytes:
            _log.info(
                "{path}: dropped a torn last frame of up to {size} bytes that was never "
                "acknowledged",
                path=writer.segment.path,
                size=recovery.dropped_bytes,
            )
        ledger, entries = writer.ledger, recovery.entries
        return Recovered(
            ledger.hard_state,
            snapshot,
            ledger.first,
            ledger.prev_term,
            entries.runs(ledger.first),
            tuple(entries.configurations),
            max(entries.times[-1] if entries.times else 0, snapshot.time_us if snapshot else 0),
            self._snapshots.size_bytes(snapshot.index) if snapshot else 0,
            entries.skips,
        )

    def start(
        self,
        call_from_thread: Callable[..., object],
        saved: Callable[[int], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        """Start the writer thread."""
        if self._writer is None or self._thread is not None:
            raise InvariantViolated("storage must be recovered once, then started once")
        self._call_from_thread, self._saved, self._failed = call_from_thread, saved, failed
        self._thread = self._make_writer(
            self._writer,
            self._snapshots,
            self._queue,
            self._report_saved,
            self._report_failed,
            self._report_finished,
        )
        self._thread.start()

    def save(
        self,
        ticket: int,
        hard_state: HardState | None,
        truncate_from: int | None,
        start: int,
        end: int,
        records: bytes,
        waits: bool = False,
    ) -> bool:
        """Queue one save: it costs the reactor a tuple and a put, and a brief wait if it `waits`.

        Only a save before which all others are durable is waited for: the wait is for its ticket.
        """
        if self._ended:
            return False
        save = (ticket, hard_state, truncate_from, start, end, records)
        is_alone = self._asked == self._answered and len(records) <= MOST_WAITED_BYTES
        thread = self._thread if waits and is_alone else None
        is_awaited = thread is not None and thread.wait.begin(ticket)
        self._asked = ticket
        if truncate_from is not None:
            self._cuts.append((ticket, truncate_from))
        self._queue.put(save)
        if thread is None or not is_awaited or not thread.wait.end():
            return False
        self._answered = ticket
        self._cuts.clear()
        return True

    def mark_snapshot(
        self, ticket: int, index: int, term: int, keep_log: bool, keep_from: int
    ) -> None:
        """Queue the mark of a snapshot; raises InvariantViolated where its file is not there."""
        if self._ended:
            return
        if index not in self._snapshots.indexes():
            raise InvariantViolated(f"no snapshot up to {index} was committed")
        if not keep_log:
            self._cuts.append((ticket, 0))
        self._asked = ticket
        self._queue.put(MarkSave(ticket, index, term, keep_log, keep_from))

    def read(self, start: int, end: int, limit_bytes: int) -> tuple[int, bytes]:
        """Return (end, records) of saved entries from `start`; KeyError where it is not there."""
        writer = self._writer
        if writer is None or self._stopping:
            raise KeyError(start)
        for _, cut in self._cuts:
            end = min(end, cut)
        try:
            with writer.lock:
                return writer.reader.read(start, end, limit_bytes)
        except OSError as error:
            raise failure(writer.segment.path, error, "reading the log") from error

    def create_snapshot(self, meta: SnapshotMeta) -> ISnapshotWriter:
        """Begin a snapshot file; a full disk raises StorageFull and harms nothing else."""
        return self._snapshots.create(meta)

    def open_snapshot(self, index: int) -> tuple[SnapshotMeta, Iterator[bytes]]:
        """Open the snapshot up to `index`, verified as it is read; KeyError where it is not."""
        try:
            return self._snapshots.open(index)
        except OSError as error:
            raise failure(self.directory, error, "reading a snapshot") from error

    def stop(self) -> Deferred[None]:
        """Finish what is queued and close all files; from now on nothing is called back."""
        first = not self._stopping
        self._ended = self._stopping = True
        if self._thread is None and self._writer is not None:
            self._writer.close()
        if self._thread is None or self._closed:
            return succeed(None)
        stopped: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(stopped)
        if first:
            self._thread.ending.set()
            self._queue.put(None)
        return stopped

    def _recover_snapshot(self, writer: LogWriter, recovery: Recovery) -> SnapshotMeta | None:
        """Return the newest good snapshot that the log vouches for and goes on from [RULES N7]."""
        self._snapshots.load()
        ledger = writer.ledger
        mark = ledger.mark
        self._snapshots.retain(mark.previous if mark else 0, mark.index if mark else -1)
        refused: StorageDamaged | None = None
        for index in self._snapshots.indexes():
            if index + 1 < ledger.first:
                break
            try:
                meta = self._snapshots.verify(index)
                self._check_against_log(meta, writer, recovery)
            except StorageDamaged as error:
                refused = refused or error
                _log.warn("snapshot refused, looking for the one before: {error}", error=error)
                continue
            if mark is not None:
                # The next snapshot must not count on one that was refused.
                ledger.mark = evolve(mark, index=index, term=meta.term)
            return meta
        if ledger.first == 1 and (mark is None or ledger.next_index > mark.index):
            ledger.mark = None
            return None
        if refused is not None:
            raise refused
        raise StorageDamaged(
            self.directory,
            0,
            f"the log starts at entry {ledger.first} and the snapshot up to "
            f"{mark.index if mark else ledger.first - 1} is missing; {REMEDY}",
        )

    def _check_against_log(self, meta: SnapshotMeta, writer: LogWriter, recovery: Recovery) -> None:
        ledger, path = writer.ledger, self._snapshots.path(meta.index)
        if meta.index == ledger.first - 1:
            term = ledger.prev_term
        elif meta.index < ledger.next_index:
            term = recovery.entries.terms[meta.index - ledger.first]
        else:
            raise StorageDamaged(path, 0, f"the log ends before this snapshot; {REMEDY}")
        if term != meta.term:
            raise StorageDamaged(
                path, 0, f"the snapshot says term {meta.term}, the log term {term}; {REMEDY}"
            )

    def _report_saved(self, ticket: int) -> None:
        self._call_from_thread(self._on_saved, ticket)

    def _report_failed(self, error: BaseException) -> None:
        self._call_from_thread(self._on_failed, error)

    def _report_finished(self) -> None:
        self._call_from_thread(self._on_finished)

    def _on_saved(self, ticket: int) -> None:
        if self._ended:
            return
        self._answered = ticket
        if self._cuts:
            self._cuts = [cut for cut in self._cuts if cut[0] > ticket]
        self._saved(ticket)

    def _on_failed(self, error: BaseException) -> None:
        if self._ended:
            return
        self._ended = True
        _log.error("storage failed, nothing is acknowledged any more: {error}", error=error)
        self._failed(error)

    def _on_finished(self) -> None:
        if self._thread is not None:
            self._thread.join()
        self._closed = True
        waiting, self._waiting = self._waiting, []
        for stopped in waiting:
            stopped.callback(None)
