"""What was written in a turn becomes proposals to the core, as far as there is room for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import define

from raft.core import events as ev
from raft.errors import MachineHeld, NotAppended, Overloaded, RaftError, StorageFull
from raft.node.writes import Batch, groups_of
from raft.storage.records import Kind

if TYPE_CHECKING:
    from raft.node.shell import Shell


@define(eq=False)
class Proposing:
    """Takes the batches that are queued, and refuses those that cannot be appended now."""

    shell: Shell

    def events(self) -> list[ev.Event]:
        """Return the proposals of this turn; what they propose stands in `Writes.proposed`."""
        shell = self.shell
        queued = shell.sequences.in_order(shell.writes.take_queued())
        if queued and shell.applying.is_held:
            queued = self._only(Kind.SKIP, queued, MachineHeld())
        elif queued and shell.replica.versions.is_behind:
            oldest = shell.replica.versions.oldest
            first = f"all members must first be connected, and can version {oldest}"
            queued = self._only(Kind.VERSION, queued, NotAppended(first))
        if not queued:
            return []
        if shell.storage.full:
            self.refuse([batch for batch in queued if not batch.frees_log], StorageFull())
            queued = [batch for batch in queued if batch.frees_log]
        elif self.is_behind:
            self.refuse(queued, Overloaded("the machine is behind the log"))
            return []
        events: list[ev.Event] = []
        for group in groups_of(queued):
            number = shell.next_number()
            shell.writes.proposed[number] = group
            events.append(ev.Propose(number, group.count, group.size_bytes))
        return events

    @property
    def is_behind(self) -> bool:
        """Whether more waits for the machine than may: nothing is taken in that would wait too."""
        shell = self.shell
        if shell.applying.is_held:
            # What is not applied stays on the disk.
            return False
        log = shell.server.log
        waiting = log.size_bytes(shell.replica.last_applied + 1, log.last_index + 1)
        return waiting > shell.bounds.unapplied_bytes

    def _only(self, kind: Kind, queued: list[Batch], error: RaftError) -> list[Batch]:
        """Return what is of `kind`; refuse all else with `error`."""
        self.refuse([batch for batch in queued if batch.kind != kind], error)
        return [batch for batch in queued if batch.kind == kind]

    def refuse(self, batches: list[Batch], error: RaftError) -> None:
        """Answer `batches` with `error`, and count their commands."""
        for batch in batches:
            self.shell.refused_count += len(batch.payloads)
            self.shell.answers.put(batch, error)
