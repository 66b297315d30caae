"""Feeding the machine: some milliseconds in each turn, and answers for who waited."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from attrs import define

from raft.errors import InvariantViolated

if TYPE_CHECKING:
    from raft.node.shell import Shell

APPLY_SECONDS: Final = 0.005
"""How long one turn may apply entries: a million of them must not look like a dead leader."""

APPLY_BYTES: Final = 256 * 1024
LOOK_AHEAD_BYTES: Final = 4 << 20
"""So much of the log is let arrive before its first command is executed, if it must not be."""
NOTHING_BEGUN: Final = (0, 0, b"", 0)


@define(eq=False)
class Applying:
    """Applies what one server's log has, as far as it is committed and saved.

    Where the machine is held, nothing is applied: the log grows, and what it says can be changed.

    Attributes:
        is_held: whether nothing is applied.
        is_wrong: whether the state is known to be another one than the cluster's: until the node
            stops, nothing is applied, and nobody is answered from it.
        end: entries below this index are committed and saved.
        told_commit: up to where the log is committed, by the word of leaders.
    """

    shell: Shell
    is_held: bool = False
    is_wrong: bool = False
    end: int = 1
    told_commit: int = 0
    _begun: tuple[int, int, bytes, int] = NOTHING_BEGUN
    """(next index, end, records, its offset) of committed records that are partly applied."""

    def turn(self) -> None:
        """Apply what may be applied, for a few milliseconds; answer who waited."""
        if self.is_wrong:
            return
        shell = self.shell
        replica = shell.replica
        deadline = shell.clock() + APPLY_SECONDS
        if not shell.restoring.advance(deadline):
            if not shell.restoring.is_held:
                shell.schedule()
            return
        if self.is_held:
            self._answer_committed()
            return
        end = shell.scribe.skips.heed(replica, self._reach())
        self._apply(end, deadline)
        if not shell.running:
            # The machine itself has stopped the node.
            return
        last_applied = replica.last_applied
        # A backup that was restored may be of a later time; of entries behind it none is earlier.
        if replica.last_time_us > shell.scribe.log_time_us:
            shell.scribe.advance_to(replica.last_time_us)
        if shell.writes.replaced:
            shell.writes.settle_replaced(last_applied + 1, replica.last_applied_term, self._term_at)
        is_working = self._answer_reads(last_applied)
        shell.cache.evict(min(last_applied, shell.server.log.saved_index) + 1)
        shell.snapshots.consider(last_applied)
        released = shell.sequences.early_bytes and shell.sequences.release()
        if last_applied + 1 < end or shell.reads.queued or released or is_working:
            shell.schedule()

    def _reach(self) -> int:
        """Return the end of what may be applied, as far as it is known to be right.

        Where a command may stop every server, the entry that skips it may be on its way: behind it,
        and committed too. Who is catching up lets that come first, as long as there is room for it.
        """
        shell = self.shell
        log, replica = shell.server.log, shell.replica
        if not replica.stops_on_error or self.told_commit <= log.last_index or shell.storage.full:
            return self.end
        following = replica.last_applied + 1
        if following > log.last_index:
            return self.end
        waiting_bytes = log.size_bytes(following, log.last_index + 1)
        # Past the bound of what may wait nothing arrives any more, so this must not wait for it.
        most_bytes = min(LOOK_AHEAD_BYTES, shell.bounds.unapplied_bytes)
        return self.end if waiting_bytes >= most_bytes else following

    def _answer_committed(self) -> None:
        """Answer who wrote what is committed by now, though nobody applies it here."""
        shell = self.shell
        shell.writes.committed(self.end)
        if shell.writes.replaced:
            last_term = self._term_at(self.end - 1)
            shell.writes.settle_replaced(self.end, last_term, self._term_at)
        # The machine is far behind, and would keep all of the log in memory.
        shell.cache.evict(shell.server.log.saved_index + 1)

    def _apply(self, end: int, deadline: float) -> None:
        shell = self.shell
        replica = shell.replica
        while shell.running and replica.last_applied + 1 < end:
            following = replica.last_applied + 1
            begins, reached, records, offset = self._begun
            if begins != following:
                reached, records = shell.cache.slice(following, end, APPLY_BYTES)
                offset = 0
            want_from, want_end = shell.writes.wanted
            applied = replica.apply(records, offset, want_from, want_end, deadline)
            if applied.results:
                shell.writes.applied(applied.first_result, applied.results)
            if replica.last_applied + 1 < reached:
                # Reading them again from the disk in each turn could take all of its time.
                self._begun = (replica.last_applied + 1, reached, records, applied.offset)
                break
            self._begun = NOTHING_BEGUN
            if shell.clock() >= deadline:
                break

    def _answer_reads(self, last_applied: int) -> bool:
        """Answer the reads whose state is there; return whether the machine works for one."""
        shell = self.shell
        is_working = False
        for batch in shell.reads.ready(last_applied, shell.clock, shell.age_seconds):
            results = shell.replica.answers(batch.queries, not is_working)
            if results is None:
                is_working = True
                shell.reads.postpone(batch)
            else:
                shell.answers.put(batch, results)
        return is_working

    def _term_at(self, index: int) -> int:
        try:
            return self.shell.server.log.term_at(index)
        except KeyError as error:
            raise InvariantViolated(f"entry {index} was compacted before it was applied") from error
