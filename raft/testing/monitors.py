"""Watchers that know more than any server may: they see every log, disk and message.

Each looks at one promise of the protocol, named as in `docs/internals` (I1, I2, ...),
after every step, in constant time: what holds for all entries is carried forward from
entry to entry. `Monitors.check_all` walks whole logs, now and then and at the end, so
that a flaw of the incremental checks would be seen too.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, NoReturn, Protocol

from attrs import Factory, define, field, fields, frozen

from raft.core import reads
from raft.core.configuration import Configuration
from raft.core.events import Event, Received
from raft.core.messages import (
    AppendEntries,
    AppendEntriesResult,
    InstallSnapshot,
    InstallSnapshotResult,
    Message,
    RequestVote,
    RequestVoteResult,
)
from raft.core.outputs import ChangeAbandoned, Outputs, Quarantined, RestoreSnapshot, Role
from raft.core.roles import Leader
from raft.testing.disk import NO_OP, Entry, StoredSnapshot, Write
from raft.testing.members import is_quorum, latest_configuration, quorums_meet, votes

if TYPE_CHECKING:
    from raft.testing.model_node import ModelNode

FULL_CHECK_STEPS = 1000
TRANSCRIPT_STEPS = 400


class Hash(Protocol):
    """The part of a hashlib object that is used here."""

    def update(self, chunk: bytes, /) -> None:
        """Take in more bytes."""

    def hexdigest(self) -> str:
        """Return the digest so far."""


@frozen
class Step:
    """One step of one node, for the transcript; `outputs` is None where the core raised."""

    moment: float
    node: str
    events: tuple[Event, ...]
    outputs: Outputs | None = None

    def __str__(self) -> str:
        """Return a line for the step and one for each event and each telling output."""
        lines = [f"{self.moment:.4f} {self.node}"]
        lines += [f"    < {event}" for event in self.events]
        if self.outputs is None:
            return "\n".join([*lines, "    > raised"])
        told = {name: getattr(self.outputs, name) for name in OUTPUT_NAMES}
        lines += [f"    > {name}: {value}" for name, value in told.items() if value]
        return "\n".join(lines)


OUTPUT_NAMES = tuple(attribute.name for attribute in fields(Outputs))


class Violation(Exception):
    """A promise of the protocol was broken; `rule` names it."""

    def __init__(self, rule: str, reason: str) -> None:
        """Name the rule (I1, L2, ...) and say what was seen."""
        self.rule = rule
        self.reason = reason
        super().__init__(f"{rule}: {reason}")


@define(eq=False)
class Monitors:
    """The ghost state: what was ever voted, elected, created and committed."""

    nodes: dict[str, ModelNode] = Factory(dict)
    events: int = 0
    steps: int = 0
    truncations: int = 0
    installed: int = 0
    digest: int = 0
    """Of every step's time, place and result: equal for equal runs [I23]."""
    votes: dict[tuple[str, int], str] = Factory(dict)
    """(voter, term) to the candidate of its durable vote."""
    leaders: dict[int, str] = Factory(dict)
    created: dict[tuple[int, int], tuple[int, Entry]] = Factory(dict)
    """(index, term) to (the term of the entry before, the entry)."""
    committed: list[Entry] = Factory(lambda: [(0, NO_OP, 0)])
    """The committed entry at each index; index 0 is the log's beginning."""
    commit_terms: list[int] = Factory(lambda: [0])
    """In which term each of them was first seen committed."""
    configurations: list[tuple[int, Configuration]] = Factory(list)
    """The committed configurations, with their indexes."""
    abandoned: int = 0
    leased: int = 0
    digests: list[int] = Factory(lambda: [0])
    """The machine's digest at each index that was ever applied."""
    sha: Hash | None = None
    """Where given, takes in every Outputs in full."""
    _end: int = 1
    _steps: deque[tuple[float, str, list[Event], Outputs | None]] = field(
        init=False, factory=lambda: deque(maxlen=TRANSCRIPT_STEPS)
    )

    @property
    def transcript(self) -> tuple[Step, ...]:
        """The last steps of all nodes."""
        return tuple(Step(at, node, tuple(events), out) for at, node, events, out in self._steps)

    def violated(self, rule: str, reason: str) -> NoReturn:
        """Stop the run: `rule` is broken."""
        raise Violation(rule, reason)

    # A step

    def stepping(self, node: ModelNode, events: list[Event]) -> None:
        """Note that a core is about to be handed `events`."""
        self._steps.append((node.timeline.now, node.id, events, None))
        self._end = node.records.end

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
        for event in events:
            if type(event) is Received:
                verified = max(verified, self._received(node, event.sender, event.message))
        if commit != node.commit_index:
            self._commit(node, commit, -1 if led else verified)
        self._ordered(node, outputs, commit)
        for change in outputs.changes:
            if type(change) is Quarantined:
                self.violated("L5", f"{node.id} quarantines {change.peer}, which lost nothing")
            self.abandoned += type(change) is ChangeAbandoned
        for confirmed in outputs.confirmed:
            if confirmed.valid_until == math.inf:
                continue
            self.leased += 1
            if max(self.leaders) > term:
                self.violated("R9", f"{node.id} reads by lease in {term}: {self.leaders}")
        node.role, node.term, node.commit_index = role, term, commit
        last = server.log.last_index
        self.digest = hash((self.digest, now, term, commit, last, outputs.apply_end))
        if self.sha is not None:
            self.sha.update(repr((now, node.id, outputs)).encode())

    def settled(self) -> None:
        """Now and then, once a step is carried out, look at everything."""
        if self.steps % FULL_CHECK_STEPS == 0:
            self.check_all()

    def _elected(self, node: ModelNode, term: int) -> None:
        other = self.leaders.setdefault(term, node.id)
        if other != node.id:
            self.violated("I1", f"{other} and {node.id} both lead term {term}")
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
        index, configuration = latest_configuration(node, self.configurations)
        if not votes(configuration, node.id):
            _, before = latest_configuration(node, self.configurations, index)
            if index <= node.server.commit_index or not votes(before, node.id):
                self.violated("I15", f"{node.id} campaigns and is no voter of {configuration}")

    def _chosen(self, node: ModelNode, term: int) -> None:
        """I15: who leads has the votes of a quorum of voters; its own counts if it is one."""
        self._campaigns(node)
        _, configuration = latest_configuration(node, self.configurations)
        voters = [id for id in self.nodes if self.votes.get((id, term)) == node.id]
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
            self._matched(node, sender, message.term)
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

    def _matched(self, leader: ModelNode, peer: str, term: int) -> None:
        """I10: a match index stands for entries that are durable there, and the same."""
        index = leader.server.match_index(peer)
        follower = self.nodes[peer]
        known = follower.disk.hard_state.current_term
        if follower.up:
            known = max(known, follower.server.current_term)
        # A later leader may have replaced what this one will never commit.
        if not index or known > term:
            return
        own = leader.records.term_at(index)
        if own is None and index > leader.commit_index:
            self.violated("I10", f"{leader.id} matches {peer} to {index}, beyond its own log")
        if follower.disk.last_index < index or (
            own is not None and not follower.disk.holds(index, own)
        ):
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
        holders = [other.id for other in self.nodes.values() if other.disk.holds(commit, term)]
        # A step may commit, and append the next configuration then.
        ends = (node.records.end, self._end)
        known = [latest_configuration(node, self.configurations, end)[1] for end in ends]
        if not any(is_quorum(each, holders) for each in known):
            self.violated("I8", f"{node.id} commits {commit}, {holders} hold it of {known[0]}")

    def _ordered(self, node: ModelNode, outputs: Outputs, commit: int) -> None:
        """I12: applied <= committed and saved; the log as the core and the shell know it."""
        log = node.server.log
        if log.last_index != node.records.end - 1:
            self.violated(
                "I12", f"{node.id} believes in {log.last_index}, holds {node.records.end - 1}"
            )
        last_applied = outputs.apply_end - 1
        if last_applied > node.applied:
            if last_applied > commit:
                self.violated("I12", f"{node.id} applies {last_applied} of {commit} committed")
            term = node.records.term_at(last_applied)
            if last_applied > node.restored_index and (
                term is None or not node.disk.holds(last_applied, term)
            ):
                self.violated("I12", f"{node.id} applies {last_applied} before it is saved")

    # Logs

    def appended(self, node: ModelNode, start: int, entries: list[Entry], fresh: bool) -> None:
        """Check entries on their way into a log [I5].

        By induction: where (index, term) names one entry and one term before it, two
        logs that hold it are equal up to it.
        """
        records = node.records
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
        _, before = latest_configuration(node, self.configurations, index)
        if not quorums_meet(before, configuration):
            self.violated("I14", f"{node.id} goes from {before} to {configuration} at {index}")

    def compared(self, node: ModelNode, index: int, expected_index: int) -> None:
        """M4: a change that names the configuration before it follows that one."""
        before, _ = latest_configuration(node, self.configurations, index)
        if before != expected_index:
            self.violated("M4", f"{node.id} changes {before} at {index}, asked {expected_index}")

    def synced(self, node: ModelNode, write: Write) -> None:
        """Note what became durable: a vote is given once in a term, for ever [I2]."""
        state = write.hard_state
        if state is None or state.voted_for is None:
            return
        first = self.votes.setdefault((node.id, state.current_term), state.voted_for)
        if first != state.voted_for:
            self.violated(
                "I2",
                f"{node.id} voted for {first} and {state.voted_for} in term {state.current_term}",
            )

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
        if self.digests[index] != snapshot.digest:
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
        elif not isinstance(message, AppendEntries | InstallSnapshot):
            return
        if node.disk.hard_state.current_term < message.term:
            self.violated("I2", f"{node.id} shows {message}, its disk {node.disk.hard_state}")

    def _voted(self, node: ModelNode, candidate: str, term: int) -> None:
        key = (node.id, term)
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

    # The machine

    def applied(self, node: ModelNode, index: int, entry: Entry, digest: int) -> None:
        """I7: everyone applies the committed entry, in order, to the same state."""
        if index >= len(self.committed) or self.committed[index] is not entry:
            self.violated("I7", f"{node.id} applies {entry} at {index}, which is not committed")
        if index == len(self.digests):
            self.digests.append(digest)
        elif index > len(self.digests) or self.digests[index] != digest:
            self.violated("I20", f"{node.id} has another state at {index}")

    # Everything at once

    def check_all(self) -> None:
        """Walk all logs: the core's view of them, and log matching, entry by entry [I5]."""
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
            _, latest = latest_configuration(node, self.configurations)
            if node.server.configuration != latest:
                self.violated("I14", f"{node.id} goes by another configuration than {latest}")
            key = (records.end - 1, log.last_term)
            other = seen.setdefault(key, node)
            first = max(records.first, other.records.first)
            if other is not node and records.between(first, records.end) != other.records.between(
                first, records.end
            ):
                self.violated("I5", f"{node.id} and {other.id} differ below {key}")
