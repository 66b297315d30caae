"""The log as the protocol sees it: terms, sizes and configurations, no payloads.

Entries stand in *runs*: consecutive indexes of one term with the bytes of their
records. A log of ten million small entries is some ten thousand runs. What is saved
is known by ticket [RULES D2]: an entry that was truncated and written again is never
confused with its first copy.

Invariants: indexes in [first_index, last_index] have a term; terms never fall; nothing
at or below the commit index is ever truncated (`server.truncate` halts first).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque

from attrs import Factory, define

from raft.core.configuration import Configuration
from raft.core.messages import Entries, Run

RUN_BYTES = 65536
"""Runs of one term are joined up to this size, so that messages can be cut between them."""


@define
class Log:
    """Runs of entries from `first_index` on, behind an entry of `prev_term` (0 for none)."""

    first_index: int = 1
    prev_term: int = 0
    saved_index: int = 0
    _ends: list[int] = Factory(list)
    _terms: list[int] = Factory(list)
    _totals: list[int] = Factory(list)
    """Invariant: `_totals[i]` sums the bytes of all runs ever added, up to run i."""
    _base_bytes: int = 0
    configurations: list[tuple[int, Configuration]] = Factory(lambda: [(0, Configuration())])
    """(index, configuration), oldest first. The first is that of the log's beginning."""
    _unsaved: deque[tuple[int, int]] = Factory(deque)
    """(ticket, last index once it is saved), in order of tickets."""

    @property
    def last_index(self) -> int:
        """The index of the last entry; first_index - 1 when there is none."""
        return self._ends[-1] - 1 if self._ends else self.first_index - 1

    @property
    def last_term(self) -> int:
        """The term of the last entry (or of the one before the log's beginning)."""
        return self._terms[-1] if self._terms else self.prev_term

    @property
    def runs(self) -> tuple[Run, ...]:
        """The runs, oldest first."""
        before = [self._base_bytes, *self._totals]
        return tuple(
            Run(end, term, total - before[i])
            for i, (end, term, total) in enumerate(
                zip(self._ends, self._terms, self._totals, strict=True)
            )
        )

    @property
    def configuration(self) -> Configuration:
        """The latest configuration, committed or not: it counts from its append [RULES M1]."""
        return self.configurations[-1][1]

    @property
    def configuration_index(self) -> int:
        """The index of the latest configuration."""
        return self.configurations[-1][0]

    @property
    def configuration_before(self) -> Configuration:
        """What the latest configuration replaced; the same where it is the only one."""
        return self.configurations[-2:][0][1]

    def configuration_at(self, index: int) -> tuple[int, Configuration]:
        """Return (index, configuration) of the last configuration at or below `index`."""
        at = bisect_right(self.configurations, index, key=lambda pair: pair[0])
        return self.configurations[max(0, at - 1)]

    def term_at(self, index: int) -> int:
        """Return the term of entry `index`; KeyError where the log does not hold it."""
        if index == self.first_index - 1:
            return self.prev_term
        if not self.first_index <= index <= self.last_index:
            raise KeyError(index)
        return self._terms[bisect_right(self._ends, index)]

    def matches(self, index: int, term: int) -> bool:
        """Tell whether entry `index` is there, with that term."""
        return self.first_index - 1 <= index <= self.last_index and self.term_at(index) == term

    def is_up_to_date(self, last_index: int, last_term: int) -> bool:
        """Tell whether a log that ends so is at least as up to date as this one (5.4.1)."""
        return (last_term, last_index) >= (self.last_term, self.last_index)

    def size_bytes(self, start: int, end: int) -> int:
        """Estimate the bytes of entries [start, end): exact at the borders of runs."""
        return self._bytes_below(end) - self._bytes_below(start)

    def _bytes_below(self, index: int) -> int:
        at = bisect_right(self._ends, index)
        below = self._totals[at - 1] if at else self._base_bytes
        run_start = self._ends[at - 1] if at else self.first_index
        if at == len(self._ends):
            return below
        run_bytes, count = self._totals[at] - below, self._ends[at] - run_start
        return below + run_bytes * max(0, index - run_start) // count

    def start_within(self, end: int, size_bytes: int) -> int:
        """Return the start of the longest tail of entries below `end` within `size_bytes`.

        It begins at a border of runs, so it may be shorter by nearly a run.
        """
        at = bisect_left(self._totals, self._bytes_below(end) - size_bytes)
        if self._bytes_below(end) - self._base_bytes <= size_bytes:
            return self.first_index
        return min(self._ends[at], end)

    def append(self, end: int, term: int, size_bytes: int) -> None:
        """Add the entries from the end of the log up to `end`."""
        total = (self._totals[-1] if self._totals else self._base_bytes) + size_bytes
        if self._terms and self._terms[-1] == term and self._run_bytes() + size_bytes <= RUN_BYTES:
            self._ends[-1], self._totals[-1] = end, total
            return
        self._ends.append(end)
        self._terms.append(term)
        self._totals.append(total)

    def _run_bytes(self) -> int:
        return self._totals[-1] - (self._totals[-2] if len(self._totals) > 1 else self._base_bytes)

    def first_difference(self, entries: Entries) -> int:
        """Return the first index of `entries` that is missing here or has another term.

        `entries.end` when all of them are here. What is compacted away is committed and
        so the same.
        """
        index = max(entries.start, self.first_index)
        for run in entries.runs:
            while index < run.end:
                if index > self.last_index or self.term_at(index) != run.term:
                    return index
                index = min(run.end, self._ends[bisect_right(self._ends, index)])
        return entries.end

    def append_received(self, entries: Entries, start: int) -> None:
        """Add those of `entries` from `start` on, with their configurations."""
        begin = entries.start
        for run in entries.runs:
            if run.end > start:
                kept = run.end - max(begin, start)
                self.append(run.end, run.term, run.size_bytes * kept // (run.end - begin))
            begin = run.end
        for index, configuration in entries.configurations:
            if index >= start:
                self.configurations.append((index, configuration))

    def truncate(self, start: int) -> None:
        """Remove the entries from `start` on; a configuration among them is reverted."""
        below = self._bytes_below(start)
        at = bisect_right(self._ends, start)
        if start > (self._ends[at - 1] if at else self.first_index):
            # A run that the entries before it share.
            self._ends[at], self._totals[at] = start, below
            at += 1
        del self._ends[at:], self._terms[at:], self._totals[at:]
        while self.configurations[-1][0] >= start and len(self.configurations) > 1:
            self.configurations.pop()
        self.saved_index = min(self.saved_index, start - 1)
        self._unsaved = deque((ticket, min(last, start - 1)) for ticket, last in self._unsaved)

    def compact(self, index: int) -> None:
        """Forget the entries up to `index`, which a snapshot covers."""
        if index < self.first_index:
            return
        term, below = self.term_at(index), self._bytes_below(index + 1)
        at = bisect_right(self._ends, index + 1)
        del self._ends[:at], self._terms[:at], self._totals[:at]
        self.first_index, self.prev_term, self._base_bytes = index + 1, term, below
        keep = bisect_right(self.configurations, index, key=lambda pair: pair[0]) - 1
        del self.configurations[: max(0, keep)]

    def restart_after(self, index: int, term: int, agreed_index: int) -> None:
        """Forget everything: the log begins after the snapshot's last entry (`index`, `term`).

        Until the snapshot's mark is saved, no more is on disk than was up to `agreed_index`:
        saved entries above it may be others than those the snapshot covers.
        """
        self._ends.clear()
        self._terms.clear()
        self._totals.clear()
        self.first_index, self.prev_term = index + 1, term
        self.saved_index = min(self.saved_index, agreed_index)
        self._unsaved = deque((ticket, min(last, agreed_index)) for ticket, last in self._unsaved)

    def await_save(self, ticket: int) -> None:
        """Note that the log as it stands will be durable once `ticket` is."""
        self._unsaved.append((ticket, self.last_index))

    def saved(self, ticket: int) -> None:
        """Note that saves up to `ticket` are durable."""
        while self._unsaved and self._unsaved[0][0] <= ticket:
            self.saved_index = self._unsaved.popleft()[1]

    def cut(self, start: int, max_bytes: int, max_entries: int) -> Entries:
        """Return the entries from `start` on that fit one message: at least one if any is there.

        Cut between runs; within one where `max_entries` asks for it, or where it alone is
        too large (a proposal of many commands is one run): there by the mean size.
        """
        limit = min(self.last_index + 1, start + max_entries)
        runs: list[Run] = []
        at, begin, size = bisect_right(self._ends, start), start, 0
        while begin < limit:
            end = min(self._ends[at], limit)
            run_bytes = self.size_bytes(begin, end)
            if size + run_bytes > max_bytes:
                if runs:
                    break
                limit = end = begin + max(1, (end - begin) * max_bytes // run_bytes)
                run_bytes = self.size_bytes(begin, end)
            runs.append(Run(end, self._terms[at], run_bytes))
            size += run_bytes
            begin, at = end, at + 1
        found = tuple(pair for pair in self.configurations if start <= pair[0] < begin)
        return Entries(start, tuple(runs), found)

    def last_of_term_at_most(self, index: int, term: int) -> tuple[int, int]:
        """Return (index, term) of the last entry at or below `index` with a term at most `term`.

        The search both sides make when logs differ [RULES L6]: it skips a whole term at a
        time. The log's beginning is the answer where nothing is found: it is committed.
        """
        index = min(index, self.last_index)
        while index >= self.first_index and self.term_at(index) > term:
            at = bisect_right(self._ends, index)
            index = (self._ends[at - 1] if at else self.first_index) - 1
        if index < self.first_index:
            return self.first_index - 1, self.prev_term
        return index, self.term_at(index)
