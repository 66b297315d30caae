"""One server as the monitors see it: its core's steps, its log, and what its storage promised.

The monitors are those of the simulator of cores, written for its model nodes. A `View` is what
they ask of one. It keeps a second log, of the same bytes, beside the real one: what the shell
hands to storage, and what storage has reported as saved. A start from a real disk is held against
that: all that was saved must be there, and nothing that was never written [I11].
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, NoReturn

from attrs import Factory, define

from raft.core import outputs as out
from raft.core.configuration import Configuration
from raft.core.events import Event
from raft.interfaces import Recovered
from raft.node.reads import ReadBatch
from raft.storage.records import HEADER, HEADER_BYTES, Kind, decode_configuration
from raft.testing.cores.disk import Disk, Entry, Records, SessionRecord, StoredSnapshot, Write

if TYPE_CHECKING:
    from raft.testing.cores.timeline import Timeline
    from raft.testing.whole.verdict import WatchingMonitors

READ_BYTES: Final = 1 << 20
_LENGTH: Final = struct.Struct("<I")


@define(eq=False)
class Interned:
    """Equal records of all logs are one entry: the monitors compare by identity."""

    entries: dict[bytes, Entry] = Factory(dict)

    def of(self, records: bytes) -> list[Entry]:
        """Return the entries of consecutive records."""
        return [self._entry(record) for record in split(records)]

    def _entry(self, record: bytes) -> Entry:
        found = self.entries.get(record)
        if found is None:
            _, _, _, term, time_us, kind = HEADER.unpack_from(record)
            payload: Configuration | SessionRecord = SessionRecord(record, time_us)
            if kind == Kind.CONFIGURATION:
                payload = decode_configuration(record[HEADER_BYTES:])
            found = self.entries[record] = (term, payload, len(record))
        return found


def split(records: bytes) -> Iterator[bytes]:
    """Yield each of consecutive records."""
    offset = 0
    while offset < len(records):
        (length,) = _LENGTH.unpack_from(records, offset + 4)
        stop = offset + HEADER_BYTES + length
        yield records[offset:stop]
        offset = stop


class Clock:
    """A process's time, as the monitors ask for it."""

    def __init__(self, view: View) -> None:
        self._view = view

    def now(self) -> float:
        """Return it."""
        return float(self._view.process.seconds())


@define(eq=False)
class View:
    """What the monitors know of one server; the attributes are those of a model node."""

    id: str
    timeline: Timeline
    monitors: WatchingMonitors
    interned: Interned
    disk: Disk = Factory(Disk)
    """What storage has reported as saved, and what it was asked to save since."""
    records: Records = Factory(Records)
    up: bool = False
    is_damaged: bool = False
    """Whether a bit of its disk has rotted: it may fall back to an older snapshot."""
    lives: int = 1
    is_lost: bool = False
    lost_disks: list[Disk] = Factory(list)
    may_repair: bool = False
    """Whether a damaged log is to be repaired by the others."""
    owed: tuple[int, int] = (0, 0)
    """(term, index) of the last entry that a damaged log had, until it is as far again."""
    marked: dict[int, StoredSnapshot] = Factory(dict)
    server: Any = None
    process: Any = None
    replica: Any = None
    role: out.Role = out.Role.FOLLOWER
    term: int = 0
    commit_index: int = 0
    applied: int = 0
    restored_index: int = 0
    verified: tuple[int, int] = (0, 0)
    open_reads: set[int] = Factory(set)
    clock: Clock = Factory(Clock, takes_self=True)
    _pending: tuple[list[Event], out.Outputs] | None = None

    @property
    def incarnation(self) -> str:
        """The name of the directory."""
        return f"{self.id}/{self.lives}"

    def refuses(self, other: View) -> bool:
        """Tell whether this server knows `other` by a directory that it has lost."""
        member = self.server.configuration.member(other.id)
        known = member.incarnation if member is not None else ""
        return other.is_lost or known not in ("", other.server.incarnation)

    @property
    def is_repairing(self) -> bool:
        """Whether its log is shorter than what it has acknowledged, and known to be."""
        return self.owed > _last(self.disk)

    # Life.

    def recovered(self, found: Recovered, storage: Any) -> None:
        """Hold what a start has found against what was saved before; go on from there."""
        entries = self._read_all(found, storage)
        self.disk = self._one_of_the_past(found, entries)
        self.records = Records(found.first_index, found.prev_term, entries)
        snapshot = found.snapshot
        index = snapshot.index if snapshot else 0
        self.commit_index = self.applied = self.restored_index = index
        self.role, self.term = out.Role.FOLLOWER, found.hard_state.current_term
        self.verified, self._pending = (0, 0), None

    def _read_all(self, found: Recovered, storage: Any) -> list[Entry]:
        end = found.runs[-1].end if found.runs else found.first_index
        entries: list[Entry] = []
        while found.first_index + len(entries) < end:
            _, records = storage.read(found.first_index + len(entries), end, READ_BYTES)
            entries += self.interned.of(records)
        return entries

    def _one_of_the_past(self, found: Recovered, entries: list[Entry]) -> Disk:
        """Return what was saved, and as many of the writes after it as are there."""
        disk, queue = self.disk, list(self.disk.queue)
        disk.queue.clear()
        left = queue.copy()
        while not self._is_same(disk, found, entries):
            if self._is_rest(disk, found, entries):
                disk = self._without_damage(found, entries)
                break
            if not left:
                self._violated_past(found, entries, len(queue))
            disk.queue.append(left.pop(0))
            self.monitors.synced(self, disk.sync())  # type: ignore[arg-type]
        disk.saved_ticket = 0
        return disk

    def _is_rest(self, disk: Disk, found: Recovered, entries: list[Entry]) -> bool:
        """Tell whether this is what a repair leaves: term and vote, and a log of its past.

        Entries that were replaced since may be there again, if that is what was damaged.
        """
        if not (self.may_repair and self.is_damaged) or disk.hard_state != found.hard_state:
            return False
        if found.snapshot is not None and found.snapshot.index not in self.marked:
            return False
        end = found.first_index + len(entries)
        last = entries[-1][0] if entries else found.prev_term
        created = self.monitors.created
        return (last, end - 1) < _last(disk) and all(
            created[index, entry[0]][1] is entry
            for index, entry in enumerate(entries, found.first_index)
        )

    def _without_damage(self, found: Recovered, entries: list[Entry]) -> Disk:
        """Note what was lost, and what is left."""
        self.lost_disks.append(self.disk)
        self.owed = max(self.owed, _last(self.disk))
        snapshot = self.marked[found.snapshot.index] if found.snapshot is not None else None
        records = Records(found.first_index, found.prev_term, list(entries))
        return Disk(found.hard_state, snapshot, snapshot, records)

    def _violated_past(self, found: Recovered, entries: list[Entry], written: int) -> NoReturn:
        disk = self.disk
        end = found.first_index + len(entries)
        self.monitors.violated(
            "I11",
            f"{self.id} starts with {found.hard_state} and entries from {found.first_index} to "
            f"{end - 1}, snapshot {found.snapshot}; saved and written is {disk.hard_state}, "
            f"entries to {disk.records.end - 1}, and {written} writes may be missing",
        )

    def _is_same(self, disk: Disk, found: Recovered, entries: list[Entry]) -> bool:
        first, end = found.first_index, found.first_index + len(entries)
        records = disk.records
        if disk.hard_state != found.hard_state or max(records.end, first) != end:
            return False
        marked = disk.snapshot.index if disk.snapshot else 0
        index = found.snapshot.index if found.snapshot else 0
        if index != marked and not (self.is_damaged and index < marked):
            return False
        start = max(first, records.first)
        return records.between(start, end) == entries[start - first :]

    def began(self, server: Any, replica: Any, process: Any) -> None:
        """A life has begun."""
        self.server, self.replica, self.process, self.up = server, replica, process, True
        if self.is_repairing and server.lost < self.owed:
            self.monitors.violated(
                "I11", f"{self.id} had {self.owed}, and believes that it had {server.lost}"
            )
        self.monitors.restarted(self)  # type: ignore[arg-type]

    def ended(self) -> None:
        """A life is over."""
        self.up, self._pending = False, None
        self.open_reads.clear()
        self.role = out.Role.FOLLOWER

    # A step.

    def stepping(self, events: list[Event]) -> None:
        """The core is about to be handed `events`."""
        self.monitors.stepping(self, events)  # type: ignore[arg-type]

    def stepped(self, events: list[Event], outputs: out.Outputs) -> None:
        """The core has answered: it is judged once its log is changed, before anything leaves."""
        self._pending = (events, outputs)
        if outputs.save is None and outputs.restore is None:
            self._judge()

    def _judge(self) -> None:
        if self._pending is not None:
            (events, outputs), self._pending = self._pending, None
            self.monitors.stepped(self, events, outputs)  # type: ignore[arg-type]

    def prepared(self, save: tuple[Any, ...]) -> None:
        """The shell has made the records of a step's save; what it says of them leaves after this.

        The process may die before storage has them: others may have them then, and it has not.
        """
        _, _, truncate_from, start, end, written = save
        if truncate_from is not None:
            self.records.truncate(truncate_from)
        entries = self.interned.of(written)
        if self._pending is not None and self._pending[1].save is not None:
            self._append(self._pending[1].save, start, entries)
        if len(entries) != end - start:
            self.monitors.violated("I12", f"{self.id} saves {len(entries)} from {start} to {end}")
        self._judge()

    def saving(self, save: tuple[Any, ...]) -> None:
        """The shell hands storage one save."""
        ticket, hard_state, truncate_from, start, _, written = save
        entries = tuple(self.interned.of(written))
        write = Write(ticket, None, True, hard_state, truncate_from, start, entries)
        self.disk.queue.append(write)

    def _append(self, save: out.Save, start: int, entries: list[Entry]) -> None:
        for append in save.append:
            if isinstance(append, out.NoOp | out.Configured):
                first, end = append.index, append.index + 1
            else:
                first, end = append.start, append.end
            new = entries[first - start : end - start]
            fresh = not isinstance(append, out.Replicated)
            self.monitors.appended(self, first, new, fresh=fresh)
            self.records.entries.extend(new)

    def marking(self, ticket: int, index: int, term: int, keep_log: bool, meta: Any) -> None:
        """The shell hands storage the mark of a snapshot: its own, or one that it restores."""
        digest = self.monitors.digests.get(index, 0)
        snapshot = StoredSnapshot(
            index, term, meta.configuration, meta.configuration_index, digest, meta.time_us
        )
        self.marked[index] = snapshot
        restore = self._pending[1].restore if self._pending is not None else None
        if restore is not None:
            self.monitors.restored(self, snapshot, restore)  # type: ignore[arg-type]
            if not keep_log:
                self.records.restart_after(index, term)
            self.applied = self.restored_index = index
        self.disk.queue.append(Write(ticket, snapshot, keep_log))
        if self._pending is not None and self._pending[1].save is None:
            self._judge()

    def saved(self, ticket: int) -> None:
        """Storage reports what is durable."""
        queue = self.disk.queue
        while queue and queue[0].ticket <= ticket:
            self.monitors.synced(self, self.disk.sync())  # type: ignore[arg-type]
        if not self.is_repairing:
            # What is cut off from here on was not what it had promised before.
            self.owed = (0, 0)

    def left(self, receiver: str, message: Any) -> None:
        """A message was sent."""
        self.monitors.left(self, receiver, message)  # type: ignore[arg-type]

    def turned(self, is_restoring: bool) -> None:
        """A turn is over: look at what was applied, and at what was dropped from the log."""
        monitors, records, applied = self.monitors, self.records, self.replica.last_applied
        first_index = self.server.log.first_index
        if not is_restoring and applied > self.applied:
            for index in range(max(self.applied + 1, records.first), applied + 1):
                monitors.applied(self, index, records[index])  # type: ignore[arg-type]
            self.applied = applied
        if not is_restoring and applied:
            monitors.reached(self, applied, self.replica.digest)  # type: ignore[arg-type]
        if first_index > records.first:
            monitors.compacted(self, first_index - 1)  # type: ignore[arg-type]
            records.compact(first_index - 1)
        monitors.settled()


def _last(disk: Disk) -> tuple[int, int]:
    """Return (term, index) of the last entry of a log, or of the snapshot before it."""
    records = disk.records
    return records.term_at(records.end - 1) or 0, records.end - 1


class WatchedSaving:
    """A shell's saves, seen as soon as they are made; all else is the shell's own."""

    def __init__(self, saving: Any, view: View) -> None:
        self._saving, self._view = saving, view

    def __getattr__(self, name: str) -> Any:
        return getattr(self._saving, name)

    def save(self, save: out.Save) -> None:
        """See `Saving`."""
        self._saving.save(save)
        self._view.prepared(self._saving.prepared.args)


class WatchedReads:
    """A shell's reads, whose leases are seen to last; all else is the shell's own."""

    def __init__(self, reads: Any, view: View) -> None:
        object.__setattr__(self, "_reads", reads)
        object.__setattr__(self, "_view", view)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reads, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._reads, name, value)

    def ready(self, *arguments: Any) -> list[ReadBatch]:
        """See `Reads`. R9: what a lease has confirmed is answered before it ends."""
        view: View = self._view
        found: list[ReadBatch] = self._reads.ready(*arguments)
        now = view.process.seconds()
        for batch in found:
            if now >= batch.valid_until:
                late = now - batch.valid_until
                view.monitors.violated(
                    "R9", f"{view.id} answers by a lease that ended {late:.4f} s before"
                )
        return found


class WatchedServer:
    """A core whose steps are seen; all else is the core's own."""

    def __init__(self, server: Any, view: View) -> None:
        object.__setattr__(self, "_server", server)
        object.__setattr__(self, "_view", view)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._server, name, value)

    def step(self, events: list[Event], now: float) -> out.Outputs:
        """See `Server.step`."""
        view: View = self._view
        view.stepping(events)
        outputs: out.Outputs = self._server.step(events, now)
        view.stepped(events, outputs)
        return outputs


class WatchedStorage:
    """An `IStorage` whose saves are seen; all else is the storage's own."""

    def __init__(self, storage: Any, view: View) -> None:
        self._storage, self._view = storage, view

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def recover(self) -> Recovered:
        """See `IStorage`."""
        found: Recovered = self._storage.recover()
        self._view.recovered(found, self._storage)
        return found

    def start(self, call_from_thread: Any, saved: Any, failed: Any) -> None:
        """See `IStorage`."""

        def seen(ticket: int) -> None:
            self._view.saved(ticket)
            saved(ticket)

        self._storage.start(call_from_thread, seen, failed)

    def save(self, *save: Any) -> bool:
        """See `IStorage`."""
        self._view.saving(save[:6])
        done: bool = self._storage.save(*save)
        if done:
            self._view.saved(save[0])
        return done

    def mark_snapshot(
        self, ticket: int, index: int, term: int, keep_log: bool, keep_from: int
    ) -> None:
        """See `IStorage`."""
        meta, chunks = self._storage.open_snapshot(index)
        chunks.close()
        self._view.marking(ticket, index, term, keep_log, meta)
        self._storage.mark_snapshot(ticket, index, term, keep_log, keep_from)
