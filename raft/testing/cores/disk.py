"""A model disk: ordered saves that become durable later, and a crash that keeps a prefix.

It promises what the real storage promises: one writer, saves durable in the order of
their tickets, a whole save or nothing of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from attrs import Factory, define, field, frozen

from raft.core.configuration import Configuration
from raft.core.messages import AppendEntries, Entries, Run
from raft.core.outputs import HardState

NO_OP = 0
"""The payload of a leader's first entry; clients' payloads are positive."""


@frozen(eq=False)
class SessionRecord:
    """The payload of a session's entry: its whole record, as it would stand on a disk."""

    record: bytes
    time_us: int
    operation: int = 0
    """The number of the command that is to be executed once; 0 where there is none."""


Payload = int | Configuration | SessionRecord
Entry = tuple[int, Payload, int]
"""(term, payload, size in bytes). The same object stands in every log that holds it."""


@frozen
class StoredSnapshot:
    """A snapshot: its last entry, the configuration as of it, and the machine's state."""

    index: int
    term: int
    configuration: Configuration
    configuration_index: int
    digest: int
    time_us: int = 0
    chunks: tuple[bytes, ...] = ()
    """The content, where a replica gave it."""

    @property
    def mark(self) -> tuple[int, int, Configuration, int]:
        """What the core must know of it to recover."""
        return self.index, self.term, self.configuration, self.configuration_index


@define(eq=False)
class Records:
    """Entries from index `first` on, behind an entry of `prev_term`."""

    first: int = 1
    prev_term: int = 0
    entries: list[Entry] = Factory(list)

    @property
    def end(self) -> int:
        """The index after the last entry."""
        return self.first + len(self.entries)

    def term_at(self, index: int) -> int | None:
        """Return the term of entry `index`, or None where it is not held."""
        at = index - self.first
        if 0 <= at < len(self.entries):
            return self.entries[at][0]
        return self.prev_term if at == -1 else None

    def __getitem__(self, index: int) -> Entry:
        """Return entry `index`, which must be held."""
        if index < self.first:
            raise IndexError(index)
        return self.entries[index - self.first]

    def between(self, start: int, end: int) -> list[Entry] | None:
        """Return the entries [start, end), or None where some are not held."""
        if start < self.first or end > self.end:
            return None
        return self.entries[start - self.first : end - self.first]

    def slice(self, entries: Entries) -> list[Entry] | None:
        """Return the entries of that range, or None where the log has other ones by now."""
        found = self.between(entries.start, entries.end)
        if found is None:
            return None
        begin = entries.start
        for run in entries.runs:
            # Terms never fall along a log: equal ends mean an equal run.
            first, last = found[begin - entries.start], found[run.end - 1 - entries.start]
            if not first[0] == last[0] == run.term:
                return None
            begin = run.end
        return found

    def truncate(self, start: int) -> None:
        """Remove the entries from `start` on."""
        del self.entries[max(0, start - self.first) :]

    def compact(self, index: int) -> None:
        """Remove the entries up to `index`, which must be held."""
        if index >= self.first:
            self.prev_term = self[index][0]
            del self.entries[: index + 1 - self.first]
            self.first = index + 1

    def restart_after(self, index: int, term: int) -> None:
        """Forget everything; the next entry follows the snapshot's last one."""
        self.entries.clear()
        self.first, self.prev_term = index + 1, term

    def copy(self) -> Records:
        """Return a copy that changes on its own."""
        return Records(self.first, self.prev_term, list(self.entries))

    def runs(self) -> tuple[Run, ...]:
        """Return the entries as the core's log wants to know them."""
        return summed_up(self.first, self.entries)

    def configurations(self) -> tuple[tuple[int, Configuration], ...]:
        """Return (index, configuration) of each entry that is one."""
        return configurations_among(self.first, self.entries)


def summed_up(start: int, entries: Iterable[Entry]) -> tuple[Run, ...]:
    """Return the runs of the entries from `start` on, one for each term."""
    runs: list[Run] = []
    term, size_bytes, index = 0, 0, start
    for entry in entries:
        if entry[0] != term:
            if index > start:
                runs.append(Run(index, term, size_bytes))
            term, size_bytes = entry[0], 0
        size_bytes += entry[2]
        index += 1
    if index > start:
        runs.append(Run(index, term, size_bytes))
    return tuple(runs)


def configurations_among(
    start: int, entries: Iterable[Entry]
) -> tuple[tuple[int, Configuration], ...]:
    """Return (index, configuration) of each of the entries from `start` on that is one."""
    return tuple(
        (index, entry[1])
        for index, entry in enumerate(entries, start)
        if type(entry[1]) is Configuration
    )


def with_entries(request: AppendEntries, entries: list[Entry], arrival: int) -> AppendEntries:
    """Return a request as the core hears it: summed up from the entries that came with it."""
    start = request.entries.start
    told = Entries(start, summed_up(start, entries), configurations_among(start, entries), arrival)
    # Spelled out, because this is done for every message of entries.
    return AppendEntries(
        request.term,
        request.prev_log_index,
        request.prev_log_term,
        told,
        request.leader_commit,
        request.sequence,
    )


@frozen
class Write:
    """One thing to be made durable, whole or not at all; ticket 0 when nobody waits for it."""

    ticket: int = 0
    snapshot: StoredSnapshot | None = None
    keep_log: bool = True
    """With a snapshot: the entries after it stay; otherwise the log begins after it."""
    hard_state: HardState | None = None
    truncate_from: int | None = None
    start: int = 0
    entries: tuple[Entry, ...] = ()
    compact: int = 0


@define(eq=False)
class Disk:
    """What is durable, and the writes that are not yet."""

    hard_state: HardState = field(factory=HardState)
    snapshot: StoredSnapshot | None = None
    previous: StoredSnapshot | None = None
    """The snapshot before, for the day when the newest cannot be read; None is the beginning."""
    records: Records = field(factory=Records)
    """From the previous snapshot on, where the log was not begun anew since [RULES N7]."""
    saved_ticket: int = 0
    queue: deque[Write] = Factory(deque)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was ever made durable."""
        return not (self.snapshot or self.records.entries or self.hard_state.current_term)

    @property
    def last_index(self) -> int:
        """The last entry that is durable, in the log or under the snapshot."""
        covered = self.snapshot.index if self.snapshot else 0
        return max(self.records.end - 1, covered)

    def holds(self, index: int, term: int) -> bool:
        """Tell whether entry `index` of `term` is durable, or covered by the snapshot."""
        if self.snapshot and index <= self.snapshot.index:
            return True
        return self.records.term_at(index) == term

    def sync(self) -> Write:
        """Make the oldest queued write durable and return it."""
        write = self.queue.popleft()
        records = self.records
        if write.hard_state is not None:
            self.hard_state = write.hard_state
        if write.snapshot is not None:
            self.previous = self.snapshot if write.keep_log else write.snapshot
            self.snapshot = write.snapshot
            if not write.keep_log:
                records.restart_after(write.snapshot.index, write.snapshot.term)
        if write.truncate_from is not None:
            records.truncate(write.truncate_from)
        if write.entries:
            records.entries.extend(write.entries)
        if write.compact and self.previous:
            records.compact(min(write.compact, self.previous.index))
        if write.ticket:
            self.saved_ticket = write.ticket
        return write

    def configurations(self) -> list[Configuration]:
        """Return all configurations that the log and the snapshots hold."""
        snapshots = [each for each in (self.previous, self.snapshot) if each]
        logged = [configuration for _, configuration in self.records.configurations()]
        return [*(each.configuration for each in snapshots), *logged]

    @property
    def may_fall_back(self) -> bool:
        """Whether the newest snapshot is not the only way to what it covers."""
        return self.snapshot is not self.previous

    def fall_back(self) -> None:
        """The newest snapshot proves damaged: the one before, and the log after it, must do."""
        self.snapshot = self.previous

    def crash(self, kept_count: int) -> list[Write]:
        """Lose power: so many of the queue's first prove durable (returned), the rest is gone."""
        kept = [self.sync() for _ in range(kept_count)]
        self.queue.clear()
        self.saved_ticket = 0
        return kept
