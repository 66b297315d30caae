"""Watchers of logs, disks, messages and machines; the steps' own are in `monitors`.

What holds for all entries is carried forward from entry to entry, in constant time.
"""

from __future__ import annotations

from bisect import insort
from typing import TYPE_CHECKING

from attrs import Factory, define

from raft.core.configuration import Configuration
from raft.core.messages import (
    AppendEntries,
    AppendEntriesResult,
    InstallSnapshot,
    InstallSnapshotResult,
    Message,
    RequestVote,
    RequestVoteResult,
)
from raft.core.outputs import RestoreSnapshot, Role
from raft.core.roles import Leader
from raft.testing.cores.disk import Entry, StoredSnapshot, Write
from raft.testing.cores.ghost import Ghost
from raft.testing.cores.members import is_quorum, quorums_meet
from raft.testing.cores.once import Once

if TYPE_CHECKING:
    from raft.testing.cores.model_node import ModelNode


@define(eq=False)
class LogMonitors(Ghost):
    """Look at what is written, sent and applied."""

    once: Once = Factory(Once)
    """I16, for worlds with sessions."""

    def appended(self, node: ModelNode, start: int, entries: list[Entry], fresh: bool) -> None:
        """Check entries on their way into a log [I5].

        By induction: where (index, term) names one entry and one term before it, two
        logs that hold it are equal up to it.
        """
        records = node.records
        self.checks += len(entries)
        if start != records.end:
            self.violated("I12", f"{node.id} appends {start} after {records.end - 1}")
        before = records.term_at(start - 1) or 0
        for offset, entry in enumerate(entries):
            key = (start + offset, entry[0])
            known = self.created.get(key)
            if known is None:
                if not fresh:
                    self.violated("I5", f"{node.id} takes in {key}, which nobody created")
                self.created[key] = (before, entry)
                if type(entry[1]) is Configuration and key[0] not in self.configuration_places:
                    insort(self.configuration_places, key[0])
                if isinstance(entry[1], Configuration) and key != (1, 1):
                    self._configured(node, start + offset, entry[0], entry[1])
            elif fresh and known == (before, entry) and key == (1, 1):
                # The same first configuration, given to each: one entry from here on.
                entries[offset] = known[1]
            elif known[1] is not entry or known[0] != before:
                self.violated("I5", f"{node.id} holds {entry} at {key}, known is {known}")
            if entry[0] < before:
                self.violated("I5", f"{node.id} appends {key} after an entry of term {before}")
            before = entry[0]

    def _configured(
        self, node: ModelNode, index: int, term: int, configuration: Configuration
    ) -> None:
        """I14: a new configuration follows a committed one, and a commit of the own term.

        Any quorum of the one before meets any of the new one.
        """
        commit = node.server.commit_index
        if node.records.term_at(commit) != term:
            self.violated("I14", f"{node.id} changes members in {term} before it committed")
        uncommitted = node.records.between(max(commit + 1, node.records.first), index) or []
        if any(isinstance(entry[1], Configuration) for entry in uncommitted):
            self.violated("I14", f"{node.id} has two uncommitted configurations below {index}")
        _, before = self.latest_configuration(node, index)
        if not quorums_meet(before, configuration):
            self.violated("I14", f"{node.id} goes from {before} to {configuration} at {index}")

    def compared(self, node: ModelNode, index: int, expected_index: int) -> None:
        """M4: a change that names the configuration before it follows that one."""
        before, _ = self.latest_configuration(node, index)
        if before != expected_index:
            self.violated("M4", f"{node.id} changes {before} at {index}, asked {expected_index}")

    def synced(self, node: ModelNode, write: Write) -> None:
        """Note what became durable: a vote is given once in a term, for ever [I2]."""
        self.checks += 1
        if write.truncate_from is not None and write.truncate_from < len(self.committed):
            self._kept()
        state = write.hard_state
        if state is None or state.voted_for is None:
            return
        first = self.votes.setdefault((node.incarnation, state.current_term), state.voted_for)
        if first != state.voted_for:
            self.violated(
                "I2",
                f"{node.id} voted for {first} and {state.voted_for} in term {state.current_term}",
            )

    def _kept(self) -> None:
        """I9: a quorum holds the last committed entry durably, and with it all before it.

        Who did not count for the commit may hold the entry for a while, and drop it again. What
        was lost with a directory is lost, and that server shut out: it counts as before.
        """
        index = len(self.committed) - 1
        term = self.committed[index][0]
        if not index:
            return
        nodes = self.nodes.values()
        holders = {
            node.id
            for node in nodes
            if any(disk.holds(index, term) for disk in (node.disk, *node.lost_disks))
        }
        known = self.configurations[-1:]
        if not known or is_quorum(known[0][1], holders):
            return
        # The quorum may have been one of a later configuration, which counts from its append.
        logs = [log for node in nodes for log in (node.records, node.disk.records)]
        later = [pair[1] for log in logs for pair in log.configurations() if pair[0] > known[0][0]]
        if not any(is_quorum(each, holders) for each in later):
            self.violated("I9", f"{sorted(holders)} hold committed entry {index} of {known[0][1]}")

    def restarted(self, node: ModelNode) -> None:
        """Check that a server remembers what is on its disk."""
        server, state = node.server, node.disk.hard_state
        if (server.current_term, server.voted_for) != (state.current_term, state.voted_for):
            self.violated("I3", f"{node.id} restarts in {server.current_term}, not {state}")

    def restored(self, node: ModelNode, snapshot: StoredSnapshot, restore: RestoreSnapshot) -> None:
        """Check that an installed snapshot is one of committed state [I20]."""
        self.installed += 1
        index = restore.index
        if (snapshot.index, snapshot.term) != (index, restore.term):
            self.violated("I7", f"{node.id} restores {restore} from {snapshot}")
        if index <= node.applied:
            self.violated("I12", f"{node.id} goes back from {node.applied} to snapshot {index}")
        if index >= len(self.committed) or self.committed[index][0] != restore.term:
            self.violated("I7", f"{node.id} restores {index}, which is not committed")
        if self.digests.get(index) != snapshot.digest:
            self.violated("I20", f"{node.id} restores another state at {index}")
        if snapshot.configuration != restore.configuration:
            self.violated("I14", f"{node.id} restores {restore} with other members")
        known = [pair for pair in self.configurations if pair[0] <= index]
        if known[-1] != (snapshot.configuration_index, snapshot.configuration):
            self.violated("I14", f"{node.id} restores {snapshot}, committed is {known[-1]}")
        if restore.keep_log != (node.records.term_at(index) == restore.term):
            self.violated("N6", f"{node.id} keeps the wrong log: {restore}")

    def compacted(self, node: ModelNode, index: int) -> None:
        """Check that only what a durable snapshot covers is dropped [N1]."""
        snapshot = node.disk.snapshot
        if index > max(snapshot.index if snapshot else 0, node.restored_index):
            self.violated("N1", f"{node.id} drops its log up to {index} without a snapshot")

    # Messages

    def left(self, node: ModelNode, receiver: str, message: Message) -> None:
        """Check a message as it leaves: what it promises must be on the disk."""
        self.checks += 1
        if isinstance(message, AppendEntriesResult):
            if message.success:
                self._acknowledged(node, message.term, message.match_index)
        elif isinstance(message, InstallSnapshotResult):
            if message.done:
                self._acknowledged(node, message.term, message.match_index)
        elif isinstance(message, RequestVoteResult):
            if message.vote_granted:
                self._voted(node, receiver, message.term)
        elif isinstance(message, RequestVote):
            self._voted(node, node.id, message.term)
        elif isinstance(message, AppendEntries):
            if message.entries.runs:
                self._bounded(node, receiver)
        elif not isinstance(message, InstallSnapshot):
            return
        if node.disk.hard_state.current_term < message.term:
            self.violated("I2", f"{node.id} shows {message}, its disk {node.disk.hard_state}")

    def _voted(self, node: ModelNode, candidate: str, term: int) -> None:
        key = (node.incarnation, term)
        # A later term on the disk makes a second vote in this one as impossible.
        if node.disk.hard_state.current_term > term:
            self.votes.setdefault(key, candidate)
        durable = self.votes.get(key)
        if durable != candidate:
            self.violated("I2", f"{node.id} votes for {candidate} in {term}, durable is {durable}")

    def _acknowledged(self, node: ModelNode, term: int, index: int) -> None:
        """I11: what is acknowledged is durable, and is the leader's entry."""
        if index > node.disk.last_index:
            self.violated(
                "I11", f"{node.id} acknowledges {index}, {node.disk.last_index} is durable"
            )
        leader = self.nodes[self.leaders[term]] if term in self.leaders else None
        if leader is None or leader.role is not Role.LEADER or leader.term != term:
            return
        own = leader.records.term_at(index)
        if own is not None and not node.disk.holds(index, own):
            self.violated(
                "I11", f"{node.id} acknowledges {index}, which differs from {leader.id}'s"
            )

    def _bounded(self, node: ModelNode, receiver: str) -> None:
        """I21: no more messages with entries are unanswered than the window holds [L7]."""
        state, most = node.server.state, node.server.options.max_inflight_messages
        progress = state.progress.get(receiver) if isinstance(state, Leader) else None
        # Its own count of them is what the core decides by, so it is not asked for it.
        if progress is not None and len(progress._inflight) > most:
            self.violated("I21", f"{node.id} has {len(progress._inflight)} of {most} on the way")

    # The machine

    def applied(self, node: ModelNode, index: int, entry: Entry) -> None:
        """I7: everyone applies the committed entry."""
        self.checks += 1
        if index >= len(self.committed) or self.committed[index] is not entry:
            self.violated("I7", f"{node.id} applies {entry} at {index}, which is not committed")

    def reached(self, node: ModelNode, index: int, digest: int) -> None:
        """I20: everyone who applied all up to `index` has the same state."""
        if self.digests.setdefault(index, digest) != digest:
            self.violated("I20", f"{node.id} has another state at {index}")

    # Everything at once

    def check_all(self) -> None:
        """Walk all logs: the core's view of them, and log matching, entry by entry [I5]."""
        self.checks += 1
        self._kept()
        seen: dict[tuple[int, int], ModelNode] = {}
        for node in self.nodes.values():
            if not node.up:
                continue
            records, log = node.records, node.server.log
            if (log.first_index, log.prev_term) != (records.first, records.prev_term):
                self.violated("I12", f"{node.id} starts its log at {log.first_index}")
            for index in range(records.first, records.end):
                if log.term_at(index) != records[index][0]:
                    self.violated("I12", f"{node.id} mistakes the term of entry {index}")
                if index <= node.commit_index and records[index] is not self.committed[index]:
                    self.violated("I7", f"{node.id} holds another committed entry {index}")
            _, latest = self.latest_configuration(node)
            if node.server.configuration != latest:
                self.violated("I14", f"{node.id} goes by another configuration than {latest}")
            key = (records.end - 1, log.last_term)
            other = seen.setdefault(key, node)
            first = max(records.first, other.records.first)
            if other is not node and records.between(first, records.end) != other.records.between(
                first, records.end
            ):
                self.violated("I5", f"{node.id} and {other.id} differ below {key}")
