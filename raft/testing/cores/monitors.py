"""Watchers that know more than any server may: they see every log, disk and message.

Each looks at one promise of the protocol, named as in `docs/internals` (I1, I2, ...),
after every step, in constant time: what holds for all entries is carried forward from
entry to entry. `Monitors.check_all` walks whole logs, now and then and at the end, so
that a flaw of the incremental checks would be seen too.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from attrs import define

from raft.core import reads
from raft.core.configuration import Configuration
from raft.core.events import CancelReads, Event, Propose, Read, Received
from raft.core.messages import (
    AppendEntries,
    AppendEntriesResult,
    InstallSnapshotResult,
    Message,
)
from raft.core.outputs import ChangeAbandoned, Outputs, Quarantined, Role
from raft.core.roles import Leader
from raft.testing.cores.log_monitors import LogMonitors
from raft.testing.cores.members import is_quorum, votes

if TYPE_CHECKING:
    from raft.testing.cores.model_node import ModelNode

FULL_CHECK_STEPS = 1000
ASKING = frozenset({Propose, Read})
_SETS = re.compile(r"(?<=frozenset\(\{)[^}]*")


def _in_order(members: re.Match[str]) -> str:
    """Return the members of a set as it was shown: their order there means nothing."""
    return ", ".join(sorted(members[0].split(", ")))


@define(eq=False)
class Monitors(LogMonitors):
    """All watchers: called by each node before and after its steps."""

    def stepping(self, node: ModelNode, events: list[Event]) -> None:
        """Note that a core is about to be handed `events`."""
        self._steps.append((node.timeline.now, node.id, events, None))
        records = node.records
        self._end = records.first + len(records.entries)

    def stepped(self, node: ModelNode, events: list[Event], outputs: Outputs) -> None:
        """Check what a step did; its saves are queued, nothing else is carried out."""
        now = node.timeline.now
        self._steps[-1] = (now, node.id, events, outputs)
        self.steps += 1
        self.events += len(events) or 1
        if outputs.save is not None and outputs.save.truncate_from is not None:
            self.truncations += 1
        server = node.server
        term, role, commit = server.current_term, server.role, outputs.commit_index
        if term < node.term:
            self.violated("I3", f"{node.id} went from term {node.term} back to {term}")
        led = node.role is Role.LEADER
        if role is Role.LEADER:
            if not led or term != node.term:
                self._elected(node, term)
            elif led and outputs.save is not None and outputs.save.truncate_from is not None:
                self.violated("I4", f"{node.id} truncated its own log while it leads {term}")
        elif role is not Role.FOLLOWER and role is not node.role:
            self._campaigns(node)
        verified = node.verified[1] if node.verified[0] == node.term else 0
        asks = bool(node.open_reads)
        for event in events:
            if type(event) is Received:
                verified = max(verified, self._received(node, event.sender, event.message))
            else:
                asks = asks or type(event) in ASKING
        if asks:
            self._answered(node, events, outputs, role is not node.role or term != node.term)
        if commit != node.commit_index:
            self._commit(node, commit, -1 if led else verified)
        self._ordered(node, outputs, commit)
        for change in outputs.changes:
            if type(change) is Quarantined and self._should_be_well(node, change.peer):
                self.violated("L5", f"{node.id} quarantines {change.peer}, which lost nothing")
            self.abandoned += type(change) is ChangeAbandoned
        if outputs.confirmed:
            self.leased += sum(each.valid_until != math.inf for each in outputs.confirmed)
        if role is Role.LEADER and self.newest_term > term:
            self._replaced(node, term)
        node.role, node.term, node.commit_index = role, term, commit
        last = server.log.last_index
        self.digest = hash((self.digest, now, term, commit, last, outputs.apply_end))
        if self.sha is not None:
            told = _SETS.sub(_in_order, repr((now, node.id, outputs)))
            self.sha.update(told.encode())

    def _answered(
        self, node: ModelNode, events: list[Event], outputs: Outputs, is_over: bool
    ) -> None:
        """I22: the core answers a write in its step, a read before its role or term ends [R6]."""
        answered = {each.request for each in outputs.accepted}
        answered.update(each.request for each in outputs.rejected)
        reads = node.open_reads
        fresh: set[int] = set()
        for event in events:
            if type(event) is Propose and event.request not in answered:
                self.violated("I22", f"{node.id} neither takes nor refuses {event}")
            elif type(event) is Read:
                fresh.add(event.request)
            elif type(event) is CancelReads:
                reads.difference_update(event.requests)
                fresh.difference_update(event.requests)
        answered.update(outputs.lost, (each.request for each in outputs.confirmed))
        reads -= answered
        if is_over and reads:
            self.violated("I22", f"{node.id} leaves reads {sorted(reads)} without an answer")
        reads |= fresh - answered

    def _should_be_well(self, leader: ModelNode, peer: str) -> bool:
        """Tell whether a member lost nothing.

        Who is on its way out may have been wiped; so may one that another leader has removed.
        """
        member, node = leader.server.configuration.member(peer), self.nodes[peer]
        return member is not None and not node.is_lost and not leader.refuses(node)

    def settled(self) -> None:
        """Now and then, once a step is carried out, look at everything."""
        if self.steps % FULL_CHECK_STEPS == 0:
            self.check_all()

    def _elected(self, node: ModelNode, term: int) -> None:
        other = self.leaders.setdefault(term, node.id)
        if other != node.id:
            self.violated("I1", f"{other} and {node.id} both lead term {term}")
        self.newest_term = max(self.newest_term, term)
        self._chosen(node, term)
        self._unleased(node, term)
        # Entries committed in this term or later came after this election, even where
        # its last vote arrived late.
        index = len(self.committed) - 1
        while self.commit_terms[index] >= term:
            index -= 1
        if index and not self._holds(node, index, self.committed[index][0]):
            self.violated("I6", f"{node.id} leads term {term} without committed entry {index}")

    def _campaigns(self, node: ModelNode) -> None:
        """I15: only voters ask for votes, and who does not know its removal committed [D 4.2.2]."""
        index, configuration = self.latest_configuration(node)
        if not votes(configuration, node.id):
            _, before = self.latest_configuration(node, index)
            if index <= node.server.commit_index or not votes(before, node.id):
                self.violated("I15", f"{node.id} campaigns and is no voter of {configuration}")

    def _chosen(self, node: ModelNode, term: int) -> None:
        """I15: who leads has the votes of a quorum of voters; its own counts if it is one."""
        self._campaigns(node)
        _, configuration = self.latest_configuration(node)
        # A vote stays one, also if the voter lost its directory since.
        voters = [
            other.id
            for other in self.nodes.values()
            if any(
                self.votes.get((f"{other.id}/{life}", term)) == node.id
                for life in range(1, other.lives + 1)
            )
        ]
        if not is_quorum(configuration, voters):
            self.violated("I15", f"{node.id} leads term {term} by {voters} of {configuration}")

    def _unleased(self, node: ModelNode, term: int) -> None:
        """R9: while a leader has a lease, no other is elected."""
        for other in self.nodes.values():
            if other is node or not other.up or not isinstance(other.server.state, Leader):
                continue
            until = reads.lease_end(other.server, other.server.state)
            if other.clock.now() < until:
                self.violated("R9", f"{node.id} leads {term}, {other.id} has a lease to {until}")

    def _replaced(self, node: ModelNode, term: int) -> None:
        """R9: who leads while a newer leader was elected has no lease, and gets none."""
        leader = node.server.state
        if isinstance(leader, Leader) and node.clock.now() < reads.lease_end(node.server, leader):
            self.violated("R9", f"{node.id} of {term} has a lease, {self.newest_term} was elected")

    def _holds(self, node: ModelNode, index: int, term: int) -> bool:
        held = node.records.term_at(index)
        return held == term or (held is None and index <= node.commit_index)

    def _received(self, node: ModelNode, sender: str, message: Message) -> int:
        """Check what a step made of a message; return how far it verified the log [I13]."""
        server = node.server
        if isinstance(message, AppendEntries):
            return self._verify(node, message) if message.term >= node.term else 0
        if (
            isinstance(message, AppendEntriesResult | InstallSnapshotResult)
            and server.role is Role.LEADER
            and message.term == server.current_term
        ):
            self._matched(node, sender, message)
        return 0

    def _verify(self, node: ModelNode, message: AppendEntries) -> int:
        """I13's ghost: the log matches the leader's up to an entry of equal index and term."""
        entries = message.entries
        index = entries.end - 1
        last_term = entries.runs[-1].term if entries.runs else message.prev_log_term
        if not self._holds(node, index, last_term):
            return 0
        if (message.term, index) > node.verified:
            node.verified = (message.term, index)
        return index

    def _is_excused(self, leader: ModelNode, follower: ModelNode, index: int) -> bool:
        """Tell whether a follower that lost its directory may lack what it once had.

        It may where it is no member any more, or shut out; and where no message asks for `index`
        because it is committed and a snapshot is on its way.
        """
        if not follower.lost_disks:
            return False
        is_member = leader.server.configuration.member(follower.id) is not None
        compacted = follower.is_lost and index < leader.records.first
        return not is_member or leader.refuses(follower) or compacted

    def lost(self, node: ModelNode) -> None:
        """Note which answers to the present leaders can only be of the directory just lost.

        Nothing reaches the server before it begins anew, so whoever is empty answers none of
        the messages that were sent until now; such answers may wait at the leader already.
        """
        for leader in self.nodes.values():
            if leader.up and isinstance(leader.server.state, Leader):
                key = (leader.incarnation, leader.server.current_term, node.id)
                self.sequences_at_loss[key] = leader.server.state.sequence

    def _matched(
        self, leader: ModelNode, peer: str, answer: AppendEntriesResult | InstallSnapshotResult
    ) -> None:
        """I10: a match index stands for entries that are durable there, and the same."""
        term, index = answer.term, leader.server.match_index(peer)
        follower = self.nodes[peer]
        disk = follower.disk
        if answer.sequence <= self.sequences_at_loss.get((leader.incarnation, term, peer), -1):
            # What an answer says is true of the disk that was there when it was sent.
            disk = follower.lost_disks[-1]
        known = disk.hard_state.current_term
        if follower.up:
            known = max(known, follower.server.current_term)
        # A later leader may have replaced what this one will never commit.
        if not index or known > term or self._is_excused(leader, follower, index):
            return
        own = leader.records.term_at(index)
        if own is None and index > leader.commit_index:
            self.violated("I10", f"{leader.id} matches {peer} to {index}, beyond its own log")
        if disk.last_index < index or (own is not None and not disk.holds(index, own)):
            self.violated("I10", f"{leader.id} matches {peer} to {index}, not durable there")

    def _commit(self, node: ModelNode, commit: int, verified: int) -> None:
        """Check an advance of the commit index; `verified` is -1 where the node led before."""
        known, term = node.commit_index, node.server.current_term
        if commit < known:
            self.violated("I12", f"{node.id} moved its commit index from {known} to {commit}")
        if commit > node.records.end - 1:
            self.violated("I12", f"{node.id} commits {commit} beyond its log's end")
        if node.server.role is Role.LEADER:
            self._counted(node, commit, term)
        elif 0 <= verified < commit and node.restored_index < commit:
            self.violated("I13", f"{node.id} commits {commit}, verified to {verified}")
        records, committed = node.records, self.committed
        for index in range(max(known + 1, records.first), commit + 1):
            entry = records[index]
            if index < len(committed):
                if committed[index] is not entry:
                    self.violated(
                        "I7",
                        f"{node.id} commits {entry} at {index}, committed is {committed[index]}",
                    )
            elif index > len(committed):
                self.violated("I7", f"{node.id} commits {index} before {len(committed)}")
            else:
                committed.append(entry)
                self.commit_terms.append(term)
                if isinstance(entry[1], Configuration):
                    self.configurations.append((index, entry[1]))

    def _counted(self, node: ModelNode, commit: int, term: int) -> None:
        """I8: a leader commits an entry of its own term that a quorum holds durably."""
        held = node.records.term_at(commit)
        if held != term:
            self.violated("I8", f"{node.id} commits {commit} of term {held} in term {term}")
        # So does an acknowledgement: what was lost since is lost, and that server shut out.
        holders = [
            other.id
            for other in self.nodes.values()
            if any(disk.holds(commit, term) for disk in (other.disk, *other.lost_disks))
        ]
        # A step may commit, and append the next configuration then.
        ends = (node.records.end, self._end)
        known = [self.latest_configuration(node, end)[1] for end in ends]
        if not any(is_quorum(each, holders) for each in known):
            self.violated("I8", f"{node.id} commits {commit}, {holders} hold it of {known[0]}")

    def _ordered(self, node: ModelNode, outputs: Outputs, commit: int) -> None:
        """I12: applied <= committed and saved; the log as the core and the shell know it."""
        log, records = node.server.log, node.records
        last_index = records.first + len(records.entries) - 1
        if log.last_index != last_index:
            self.violated("I12", f"{node.id} believes in {log.last_index}, holds {last_index}")
        last_applied = outputs.apply_end - 1
        if last_applied > node.applied:
            if last_applied > commit:
                self.violated("I12", f"{node.id} applies {last_applied} of {commit} committed")
            term = node.records.term_at(last_applied)
            if last_applied > node.restored_index and (
                term is None or not node.disk.holds(last_applied, term)
            ):
                self.violated("I12", f"{node.id} applies {last_applied} before it is saved")
