"""Saves on their way to the disk: their tickets, and what is to be done when they are durable.

Everything that must be ordered has a ticket of the storage; some of it has one of the core's too,
and some of it a callable that waits for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from attrs import Factory, define

from raft.core import events as ev
from raft.core import outputs as out

if TYPE_CHECKING:
    from raft.node.shell import Shell


@define(eq=False)
class Saving:
    """Gives the storage what is to be saved, in order.

    Attributes:
        save_count: how many saves of the core were given to the storage.
        entry_count: how many entries.
    """

    shell: Shell
    save_count: int = 0
    entry_count: int = 0
    _waiting: deque[tuple[int, int, Callable[[], None] | None]] = Factory(deque)
    """(storage's ticket, the core's ticket or 0, what to call), in order."""
    _ticket: int = 0
    prepared: partial[bool] | None = None
    """What is to be handed over: `IStorage.save`, with all but `waits`."""

    @property
    def oldest(self) -> int:
        """The storage's ticket of the oldest save under way, or 0."""
        return self._waiting[0][0] if self._waiting else 0

    def saved(self, ticket: int) -> None:
        """All saves up to `ticket` are durable: tell the core, and call who waits."""
        if not self.shell.running:
            return
        core_ticket = 0
        while self._waiting and self._waiting[0][0] <= ticket:
            _, asked, then = self._waiting.popleft()
            core_ticket = asked or core_ticket
            if then is not None:
                then()
        if core_ticket:
            self.shell.post(ev.Saved(core_ticket))

    def mark(
        self, index: int, term: int, keep_log: bool, keep_from: int, then: Callable[[], None]
    ) -> None:
        """Mark a snapshot in the log; call `then` once that is durable."""
        ticket = self._next(0, then)
        self.shell.storage.mark_snapshot(ticket, index, term, keep_log, keep_from)

    def install(
        self, restore: out.RestoreSnapshot, save: out.Save | None, then: Callable[[], None]
    ) -> None:
        """Mark a received snapshot in the log; the term that the step learnt goes before it.

        The log may not know the snapshot's term yet, and nothing of a term may be durable before
        the term is [RULES E1]: such a log is refused at the next start.
        """
        if save is not None and save.hard_state is not None:
            ticket = self._next(0, None)
            self.shell.storage.save(ticket, save.hard_state, None, 0, 0, b"")
        self.mark(restore.index, restore.term, restore.keep_log, restore.index + 1, then)

    def _next(self, core_ticket: int, then: Callable[[], None] | None) -> int:
        self._ticket += 1
        self._waiting.append((self._ticket, core_ticket, then))
        return self._ticket

    def save(self, save: out.Save) -> None:
        """Prepare what the core changed: entries become records, and the cache gets them too."""
        shell = self.shell
        if save.truncate_from is not None:
            shell.cache.truncate(save.truncate_from)
            shell.writes.truncated(save.truncate_from)
            shell.scribe.skips.truncated(save.truncate_from)
        start = end = 0
        records = b""
        if save.append:
            first, last = save.append[0], save.append[-1]
            start = first.index if isinstance(first, out.NoOp | out.Configured) else first.start
            end = last.index + 1 if isinstance(last, out.NoOp | out.Configured) else last.end
            pieces = [self._records_of(entry) for entry in save.append]
            records = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            shell.cache.append(start, end, records)
            self.entry_count += end - start
        self.save_count += 1
        ticket = self._next(save.ticket, None)
        hard_state, truncate_from = save.hard_state, save.truncate_from
        self.prepared = partial(
            shell.storage.save, ticket, hard_state, truncate_from, start, end, records
        )

    def hand_over(self, waits: bool) -> int:
        """Give the storage what was prepared.

        Returns the core's ticket where it is durable already, which may be so only if it `waits`.
        Then nothing was before it, and the step that learns of it follows in the same turn: what
        it acknowledges is saved [RULES L1, L8, E1].
        """
        save, self.prepared = self.prepared, None
        if save is None or not save(waits and len(self._waiting) == 1):
            return 0
        _, core_ticket, _ = self._waiting.pop()
        return core_ticket

    def _records_of(self, entry: out.Append) -> bytes:
        scribe = self.shell.scribe
        if isinstance(entry, out.Proposed):
            group = self.shell.writes.proposed[entry.request]
            return scribe.records_of(entry, group.payloads, group.kind)
        return scribe.records_of(entry, [])
