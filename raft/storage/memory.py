"""The in-memory twin of the write-ahead log, for tests and simulations.

It keeps the same contract, asks no disk and starts no thread. Saves complete at once, or
only when `complete` says so; `crash` returns what a machine would find after losing power:
the completed saves, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from attrs import define, field
from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from raft.core.configuration import Configuration
from raft.core.messages import Run
from raft.core.outputs import HardState
from raft.errors import InvariantViolated, RaftError
from raft.interfaces import ISnapshotWriter, IStorage, Recovered, SnapshotMeta
from raft.storage.records import (
    HEADER,
    HEADER_BYTES,
    RUN_BYTES,
    Kind,
    decode_configuration,
    note_skip,
)
from raft.storage.writer import MarkSave, Save


@define
class _Durable:
    """What is on the imagined disk."""

    hard_state: HardState = HardState()
    first: int = 1
    prev_term: int = 0
    records: list[bytes] = field(factory=list)
    """One for each entry, from `first` on."""
    snapshots: dict[int, tuple[SnapshotMeta, tuple[bytes, ...]]] = field(factory=dict)
    mark: int = 0
    previous: int = 0

    @property
    def end(self) -> int:
        return self.first + len(self.records)

    def copy(self) -> _Durable:
        return _Durable(
            self.hard_state,
            self.first,
            self.prev_term,
            list(self.records),
            dict(self.snapshots),
            self.mark,
            self.previous,
        )

    def save(self, save: Save) -> None:
        _, hard_state, truncate_from, start, end, records = save
        if hard_state is not None:
            self.hard_state = hard_state
        if truncate_from is not None:
            if not self.first <= truncate_from <= self.end:
                raise InvariantViolated(
                    f"truncation from {truncate_from}, but the log is [{self.first}, {self.end})"
                )
            del self.records[truncate_from - self.first :]
        if start == end:
            return
        if start != self.end:
            raise InvariantViolated(f"entry {start} saved where {self.end} must follow")
        self.records += _split(records)

    def set_mark(self, save: MarkSave) -> None:
        if save.index < self.mark:
            return
        if not save.keep_log:
            self.records.clear()
            self.first, self.prev_term = save.index + 1, save.term
            self.previous = self.mark = save.index
        else:
            if save.index >= self.end:
                raise InvariantViolated(
                    f"the mark of snapshot {save.index} keeps a log that ends at {self.end}"
                )
            if save.index > self.mark:
                self.previous, self.mark = self.mark, save.index
            self._drop_below(min(save.keep_from, self.previous + 1))
        for index in [index for index in self.snapshots if index < self.previous]:
            del self.snapshots[index]

    def _drop_below(self, bound: int) -> None:
        count = min(bound, self.end) - self.first
        if count > 0:
            self.prev_term = _header(self.records[count - 1])[3]
            del self.records[:count]
            self.first += count


@implementer(ISnapshotWriter)
@define(eq=False)
class MemorySnapshotWriter:
    """A snapshot that is being written to memory."""

    _snapshots: dict[int, tuple[SnapshotMeta, tuple[bytes, ...]]]
    _meta: SnapshotMeta
    _chunks: list[bytes] = field(factory=list)
    _open: bool = True

    def write(self, chunk: bytes) -> None:
        """Add machine bytes."""
        if not self._open:
            raise InvariantViolated("the snapshot was committed or aborted before")
        if chunk:
            self._chunks.append(bytes(chunk))

    def commit(self) -> None:
        """Keep it."""
        self.write(b"")
        self._open = False
        self._snapshots[self._meta.index] = (self._meta, tuple(self._chunks))

    def abort(self) -> None:
        """Forget it."""
        self._open = False


@implementer(IStorage)
@define(eq=False)
class MemoryStorage:
    """Storage that forgets everything with its process, but keeps the contract.

    With `automatic` off, saves wait until `complete` is called, and `queued` tells of each.
    """

    automatic: bool = True
    full: bool = False
    sync_count: int = 0
    queued: Callable[[], object] | None = None
    _durable: _Durable = field(factory=_Durable)
    _waiting: list[Save | MarkSave] = field(factory=list)
    _call_from_thread: Callable[..., object] | None = None
    _saved: Callable[[int], None] | None = None
    _failed: Callable[[BaseException], None] | None = None
    _recovered: bool = False
    _ended: bool = False

    @property
    def waiting(self) -> int:
        """How many saves are not yet complete."""
        return len(self._waiting)

    def recover(self) -> Recovered:
        """Return what is there."""
        if self._recovered:
            raise InvariantViolated("storage was recovered before")
        self._recovered = True
        durable = self._durable
        snapshots = durable.snapshots
        for index in [index for index in snapshots if index > durable.mark]:
            del snapshots[index]
        snapshot, chunks = snapshots[durable.mark] if durable.mark else (None, ())
        runs, configurations, skips, time_us = _summary(durable)
        return Recovered(
            durable.hard_state,
            snapshot,
            durable.first,
            durable.prev_term,
            runs,
            configurations,
            max(time_us, snapshot.time_us if snapshot else 0),
            sum(map(len, chunks)),
            skips,
        )

    def start(
        self,
        call_from_thread: Callable[..., object],
        saved: Callable[[int], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        """Begin to complete saves; those queued before complete now if `automatic`."""
        if not self._recovered or self._call_from_thread is not None:
            raise InvariantViolated("storage must be recovered once, then started once")
        self._call_from_thread, self._saved, self._failed = call_from_thread, saved, failed
        if self.automatic:
            self.complete()

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
        """Queue one save."""
        self._put((ticket, hard_state, truncate_from, start, end, records))
        return False

    def mark_snapshot(
        self, ticket: int, index: int, term: int, keep_log: bool, keep_from: int
    ) -> None:
        """Queue the mark of a snapshot; raises InvariantViolated where it is not there."""
        if not self._ended and index not in self._durable.snapshots:
            raise InvariantViolated(f"no snapshot up to {index} was committed")
        self._put(MarkSave(ticket, index, term, keep_log, keep_from))

    def complete(self, count: int | None = None) -> None:
        """Complete the `count` oldest saves (all of them by default), as one sync does."""
        if self._call_from_thread is None or self._ended:
            return
        done = self._waiting[:count]
        if not done:
            return
        del self._waiting[:count]
        ticket = 0
        try:
            for save in done:
                if isinstance(save, MarkSave):
                    self._durable.set_mark(save)
                    ticket = save.ticket
                else:
                    self._durable.save(save)
                    ticket = save[0]
        except RaftError as error:
            self.fail(error)
            return
        self.sync_count += 1
        self._call_from_thread(self._on_saved, ticket)

    def fail(self, error: BaseException) -> None:
        """Poison the store, as the first failed write or sync does [RULES D3]."""
        self._waiting.clear()
        if self._call_from_thread is not None:
            self._call_from_thread(self._on_failed, error)

    def crash(self) -> MemoryStorage:
        """Return storage that holds what was complete; this one answers nobody any more."""
        self._ended = True
        return MemoryStorage(self.automatic, self.full, durable=self._durable.copy())

    def read(self, start: int, end: int, limit_bytes: int) -> tuple[int, bytes]:
        """Return (end, records) of saved entries from `start`; KeyError where it is not there."""
        durable = self._durable
        end = min(end, durable.end)
        for save in self._waiting:
            if isinstance(save, MarkSave):
                end = end if save.keep_log else 0
            elif save[2] is not None:
                end = min(end, save[2])
        if not durable.first <= start < end:
            raise KeyError(start)
        pieces: list[bytes] = []
        size_bytes = 0
        for record in durable.records[start - durable.first : end - durable.first]:
            size_bytes += len(record)
            if pieces and size_bytes > limit_bytes:
                break
            pieces.append(record)
        return start + len(pieces), b"".join(pieces)

    def create_snapshot(self, meta: SnapshotMeta) -> ISnapshotWriter:
        """Begin a snapshot."""
        return MemorySnapshotWriter(self._durable.snapshots, meta)

    def open_snapshot(self, index: int) -> tuple[SnapshotMeta, Iterator[bytes]]:
        """Return the snapshot up to `index`; raises KeyError."""
        meta, chunks = self._durable.snapshots[index]
        return meta, iter(chunks)

    def stop(self) -> Deferred[None]:
        """Finish what is queued; from now on nothing is called back."""
        if not self._ended:
            started = self._call_from_thread is not None
            self._call_from_thread = (lambda *_: None) if started else None
            self.complete()
            self._ended = True
        return succeed(None)

    def _put(self, save: Save | MarkSave) -> None:
        if self._ended:
            return
        self._waiting.append(save)
        if self.automatic:
            self.complete()
        elif self.queued is not None:
            self.queued()

    def _on_saved(self, ticket: int) -> None:
        if not self._ended and self._saved is not None:
            self._saved(ticket)

    def _on_failed(self, error: BaseException) -> None:
        if not self._ended and self._failed is not None:
            self._ended = True
            self._failed(error)


def _header(record: bytes) -> tuple[int, int, int, int, int, int]:
    checksum, length, index, term, time_us, kind = HEADER.unpack_from(record)
    return checksum, length, index, term, time_us, kind


def _split(records: bytes) -> Iterator[bytes]:
    offset = 0
    while offset < len(records):
        stop = offset + HEADER_BYTES + int.from_bytes(records[offset + 4 : offset + 8], "little")
        yield records[offset:stop]
        offset = stop


def _summary(
    durable: _Durable,
) -> tuple[tuple[Run, ...], tuple[tuple[int, Configuration], ...], dict[int, int], int]:
    runs: list[Run] = []
    configurations: list[tuple[int, Configuration]] = []
    skips: dict[int, int] = {}
    run_term = run_bytes = time_us = 0
    for record in durable.records:
        _, _, index, term, time_us, kind = _header(record)
        if run_bytes and (term != run_term or run_bytes >= RUN_BYTES):
            runs.append(Run(index, run_term, run_bytes))
            run_bytes = 0
        run_term = term
        run_bytes += len(record)
        if kind == Kind.CONFIGURATION:
            configurations.append((index, decode_configuration(record[HEADER_BYTES:])))
        elif kind == Kind.SKIP:
            note_skip(skips, index, record[HEADER_BYTES:])
    if run_bytes:
        runs.append(Run(durable.end, run_term, run_bytes))
    return tuple(runs), tuple(configurations), skips, time_us
