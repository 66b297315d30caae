"""A server of a small world while it is changed: the shell around the core, in miniature.

What one server promises by itself is checked as it happens: I2, I3, I4, I11 as far as the disk
goes, I12, I13, I14 and I15. What takes more than one is in `raft.testing.small.rules`.
"""

from __future__ import annotations

from typing import NoReturn

from attrs import Factory, define, evolve

from raft.core.configuration import Configuration
from raft.core.events import Event, Received, Saved, SnapshotSaved
from raft.core.messages import (
    AppendEntries,
    AppendEntriesResult,
    Entries,
    InstallSnapshot,
    InstallSnapshotResult,
    Message,
    RequestVote,
    RequestVoteResult,
)
from raft.core.outputs import (
    Configured,
    NoOp,
    Outputs,
    Proposed,
    Replicated,
    Role,
    Save,
)
from raft.core.server import Options, Server
from raft.errors import RaftError
from raft.testing.cores.disk import NO_OP, configurations_among, summed_up
from raft.testing.cores.ghost import Violation
from raft.testing.cores.members import quorums_meet, votes
from raft.testing.small.normal import copied, normalise
from raft.testing.small.situations import (
    ENTRY_BYTES,
    Disk,
    Letter,
    Log,
    Situation,
    Write,
    latest_of,
    recovered,
    shown_log,
)


@define(eq=False)
class SmallServer:
    """A situation that is being changed."""

    server: Server
    log: Log
    disk: Disk
    queue: list[Write]
    held: list[tuple[int, Letter]]
    votes: dict[int, str]
    verified: int
    life: int
    arrived: Log = ()
    arrived_start: int = 0
    sent: list[Letter] = Factory(list)
    confirmed: list[tuple[int, int]] = Factory(list)
    accepted: bool = False

    @classmethod
    def of(cls, situation: Situation) -> SmallServer:
        """Begin from `situation`."""
        return cls(
            copied(situation.server),
            situation.log,
            situation.disk,
            list(situation.queue),
            list(situation.held),
            dict(situation.votes),
            situation.verified,
            situation.life,
        )

    def frozen(self, *, timeless: bool) -> Situation:
        """Return the situation, freed of absolute times and tickets."""
        gone = normalise(self.server, timeless=timeless)
        return Situation(
            self.server,
            self.log,
            self.disk,
            tuple(evolve(write, ticket=write.ticket - gone) for write in self.queue),
            tuple((after - gone, letter) for after, letter in self.held),
            tuple(sorted(self.votes.items())),
            self.verified,
            self.life,
        )

    def violated(self, rule: str, reason: str) -> NoReturn:
        """Stop: `rule` is broken."""
        raise Violation(rule, f"{self.server.id} {reason}")

    # Life

    def restart(self, kept: int, options: Options, now: float) -> None:
        """Lose power: the first `kept` of the waiting writes prove durable, the rest is gone."""
        for write in self.queue[:kept]:
            self._durable(write)
        self.queue.clear()
        self.held.clear()
        self.life += 1
        self.verified = 0
        self.log = self.disk.log
        self.server = recovered(self.server.id, self.disk, options, self.life, now)
        state = self.disk.hard_state
        if (self.server.current_term, self.server.voted_for) != (
            state.current_term,
            state.voted_for,
        ):
            self.violated("I3", f"restarts in {self.server.current_term}, not {state}")

    def receive(self, letter: Letter) -> None:
        """Take in a message, with its entries beside it."""
        message = letter.message
        if isinstance(message, AppendEntries):
            start = message.entries.start
            self.arrived, self.arrived_start = letter.entries, start
            entries = Entries(
                start,
                summed_up(start, letter.entries),
                configurations_among(start, letter.entries),
                1,
            )
            message = evolve(message, entries=entries)
        elif isinstance(message, InstallSnapshot):
            self.arrived = letter.entries
        self.step([Received(letter.sender, message)])

    def saved(self) -> None:
        """Let the oldest write be done."""
        write = self.queue.pop(0)
        self._durable(write)
        leaving = [letter for after, letter in self.held if after <= write.ticket]
        self.held = [pair for pair in self.held if pair[0] > write.ticket]
        for letter in leaving:
            self._leave(letter)
        self.step([Saved(write.ticket)])

    def _durable(self, write: Write) -> None:
        self.disk = write.disk
        state = write.disk.hard_state
        if state.voted_for is None:
            return
        first = self.votes.setdefault(state.current_term, state.voted_for)
        if first != state.voted_for:
            self.violated("I2", f"voted for {first} and {state}")

    def compact(self) -> None:
        """Take a snapshot of all that is applied; it is durable at once."""
        applied = self.server.apply_end - 1
        self.disk = evolve(self.disk, snapshot_index=applied)
        self.queue = [
            evolve(write, disk=evolve(write.disk, snapshot_index=applied)) for write in self.queue
        ]
        self.step([SnapshotSaved(applied)])

    # The step

    def step(self, events: list[Event], now: float | None = None) -> None:
        """Hand the core what happened and carry out what it answers."""
        server = self.server
        term, led, commit = server.current_term, server.role is Role.LEADER, server.commit_index
        campaigned = server.role
        try:
            outputs = server.step(events, server.now if now is None else now)
        except (RaftError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise Violation("raised", f"{type(error).__name__}: {error}") from error
        if server.current_term < term:
            self.violated("I3", f"went from term {term} back to {server.current_term}")
        if server.current_term != term:
            self.verified = 0
        before = self.log
        self._restore(outputs)
        if outputs.save is not None:
            self._save(outputs.save)
        if led and server.role is Role.LEADER and server.current_term == term:
            if self.log[: len(before)] != before:
                self.violated("I4", f"changed its own log while it leads {term}")
        elif server.role not in (Role.FOLLOWER, campaigned):
            self._campaigns()
        self._verify(events)
        if outputs.commit_index != commit and not led:
            self._followed(outputs.commit_index)
        self._ordered(outputs, commit)
        self._carry_out(outputs)

    def _carry_out(self, outputs: Outputs) -> None:
        for send in outputs.send:
            letter = self._letter(send.receiver, send.message)
            if send.after > self.server.saved_ticket:
                self.held.append((send.after, letter))
            else:
                self._leave(letter)
        for start in outputs.start_snapshots:
            self.sent.append(self._snapshot(start.peer, start.sequence))
        self.confirmed += [(each.request, each.index) for each in outputs.confirmed]
        self.accepted = self.accepted or bool(outputs.accepted)

    def _letter(self, receiver: str, message: Message) -> Letter:
        entries: Log = ()
        if isinstance(message, AppendEntries):
            entries = self.log[message.entries.start - 1 : message.entries.end - 1]
        return Letter(self.server.id, receiver, message, entries)

    def _snapshot(self, peer: str, sequence: int) -> Letter:
        index = self.disk.snapshot_index
        known = configurations_among(1, self.log[:index])
        at, configuration = known[-1]
        term = self.log[index - 1][0]
        message = InstallSnapshot(
            self.server.current_term, index, term, configuration, at, sequence, done=True
        )
        return Letter(self.server.id, peer, message, self.log[:index])

    def _restore(self, outputs: Outputs) -> None:
        restore = outputs.restore
        if restore is None:
            return
        prefix = self.arrived
        if len(prefix) != restore.index or prefix[-1][0] != restore.term:
            self.violated("I7", f"restores {restore} from {shown_log(prefix)}")
        if restore.keep_log != (self.log[: restore.index] == prefix):
            self.violated("N6", f"keeps the wrong log: {restore}")
        if not restore.keep_log:
            self.log = prefix

    def _save(self, save: Save) -> None:
        if save.truncate_from is not None:
            self.log = self.log[: save.truncate_from - 1]
        for append in save.append:
            match append:
                case Proposed(start, end, term, request):
                    new: Log = tuple((term, request, ENTRY_BYTES) for _ in range(start, end))
                case Replicated(start, end, _):
                    first = self.arrived_start
                    new = self.arrived[start - first : end - first]
                case NoOp(start, term):
                    new = ((term, NO_OP, ENTRY_BYTES),)
                case Configured(start, term, configuration):
                    self._configured(start, term, configuration)
                    new = ((term, configuration, ENTRY_BYTES),)
            if start != len(self.log) + 1:
                self.violated("I12", f"appends {start} after {len(self.log)}")
            self.log += new
        last = self.queue[-1].disk if self.queue else self.disk
        snapshot_index = max(last.snapshot_index, self.server.snapshot_index)
        disk = Disk(save.hard_state or last.hard_state, self.log, snapshot_index)
        self.queue.append(Write(save.ticket, disk))

    # What one server promises by itself

    def _leave(self, letter: Letter) -> None:
        message, disk = letter.message, self.disk
        if isinstance(message, AppendEntriesResult | InstallSnapshotResult):
            done = message.success if isinstance(message, AppendEntriesResult) else message.done
            if done and message.match_index > max(len(disk.log), disk.snapshot_index):
                self.violated(
                    "I11", f"acknowledges {message.match_index}, durable is {shown_log(disk.log)}"
                )
        elif isinstance(message, RequestVoteResult):
            if message.vote_granted:
                self._voted(letter.receiver, message.term)
        elif isinstance(message, RequestVote):
            self._voted(self.server.id, message.term)
        elif not isinstance(message, AppendEntries | InstallSnapshot):
            self.sent.append(letter)
            return
        if disk.hard_state.current_term < message.term:
            self.violated("I2", f"shows {message}, its disk {disk.hard_state}")
        self.sent.append(letter)

    def _voted(self, candidate: str, term: int) -> None:
        if self.disk.hard_state.current_term > term:
            self.votes.setdefault(term, candidate)
        if self.votes.get(term) != candidate:
            self.violated("I2", f"votes for {candidate} in {term}, durable are {self.votes}")

    def _verify(self, events: list[Event]) -> None:
        for event in events:
            message = event.message if isinstance(event, Received) else None
            if isinstance(message, AppendEntries) and message.term == self.server.current_term:
                index = message.entries.end - 1
                runs = message.entries.runs
                term = runs[-1].term if runs else message.prev_log_term
                held = self.log[index - 1][0] if 0 < index <= len(self.log) else 0
                if held == term:
                    self.verified = max(self.verified, index)
            elif isinstance(message, InstallSnapshot):
                self.verified = max(self.verified, message.last_included_index)

    def _followed(self, commit: int) -> None:
        if self.server.role is not Role.LEADER and commit > self.verified:
            self.violated("I13", f"commits {commit}, verified to {self.verified}")

    def _ordered(self, outputs: Outputs, commit: int) -> None:
        server, end = self.server, len(self.log)
        log = server.log
        if log.last_index != end:
            self.violated("I12", f"believes in {log.last_index}, holds {end}")
        if not commit <= outputs.commit_index <= end:
            self.violated("I12", f"moved its commit index from {commit} to {outputs.commit_index}")
        if any(log.term_at(at) != self.log[at - 1][0] for at in range(log.first_index, end + 1)):
            self.violated("I12", f"mistakes the terms of {shown_log(self.log)}")
        if self.log and self.log[-1][0] > server.current_term:
            self.violated("I3", f"is in term {server.current_term}, its log in {self.log[-1][0]}")
        applied = outputs.apply_end - 1
        if applied > outputs.commit_index:
            self.violated("I12", f"applies {applied} of {outputs.commit_index} committed")
        if applied > server.snapshot_index and self.disk.log[:applied] != self.log[:applied]:
            self.violated("I12", f"applies {applied} before it is saved")
        latest = latest_of(self.log)
        if server.configuration != latest:
            self.violated("I14", f"goes by another configuration than {latest}")

    def _configured(self, index: int, term: int, configuration: Configuration) -> None:
        """I14: a new configuration follows a committed one, and a commit of the own term."""
        commit = self.server.commit_index
        if not commit or self.log[commit - 1][0] != term:
            self.violated("I14", f"changes members in {term} before it committed")
        if configurations_among(commit + 1, self.log[commit : index - 1]):
            self.violated("I14", f"has two uncommitted configurations below {index}")
        before = latest_of(self.log)
        if not quorums_meet(before, configuration):
            self.violated("I14", f"goes from {before} to {configuration} at {index}")

    def _campaigns(self) -> None:
        """I15: only voters ask for votes, and who does not know its removal committed."""
        known = configurations_among(1, self.log)
        index, configuration = known[-1] if known else (0, Configuration())
        if not votes(configuration, self.server.id):
            before = known[-2][1] if len(known) > 1 else configuration
            if index <= self.server.commit_index or not votes(before, self.server.id):
                self.violated("I15", f"campaigns and is no voter of {configuration}")
