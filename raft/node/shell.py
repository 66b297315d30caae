"""One server's turns: what happened in a reactor turn is one step of the core.

    receive, write, read, saved ... -> queued events -> step(events, now) -> Outputs
                                                     -> restore, save, send, answer, apply

Whoever waits for an answer, and every observer, is called when all of that is done.
Everything runs in the reactor's thread; the core is never entered from within itself,
because whatever comes in is queued for the next turn. What fails in here fails the
node: a server that cannot go on in order must not go on at all.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable
from functools import partial
from typing import Any

from attrs import Factory, define, evolve, field
from twisted.logger import Logger

from raft.core import events as ev
from raft.core import messages as ms
from raft.core import outputs as out
from raft.core.configuration import Member
from raft.core.server import Options, Server
from raft.errors import (
    MachineHeld,
    NodeStopped,
    OutcomeUnknown,
    Overloaded,
    RaftError,
)
from raft.interfaces import IStorage, Recovered
from raft.node.alarm import LATE_SECONDS, Alarm
from raft.node.answers import Answers
from raft.node.applying import Applying
from raft.node.bounds import Bounds
from raft.node.currency import Currency
from raft.node.log_age import LogAge
from raft.node.proposing import Proposing
from raft.node.reads import ReadBatch, Reads
from raft.node.records import RecordCache
from raft.node.refusals import refusal
from raft.node.restoring import Restoring
from raft.node.saving import Saving
from raft.node.scribe import Scribe
from raft.node.sending import Network, Sending
from raft.node.sequences import Sequences
from raft.node.snapshot_policy import SnapshotPolicy
from raft.node.snapshots import Snapshots
from raft.node.writes import Batch, Writes
from raft.replica import Replica
from raft.sparing import SparingLog
from raft.storage.records import BadRecord, decode
from raft.transport.wire import SnapshotChunk

_log = Logger()


@define(eq=False)
class Shell:
    """The core of one server with everything around it; `start` once, `stop` once.

    Attributes:
        changed: called with each `out.Change` after the Outputs are carried out.
        turned: called at the end of each turn, to flush answers.
        failed: called once, with what stopped the node.
    """

    reactor: Any
    clock: Callable[[], float]
    storage: IStorage
    replica: Replica
    network: Network
    changed: Callable[[out.Change], None]
    turned: Callable[[], None]
    failed: Callable[[BaseException], None]
    bounds: Bounds = Bounds()
    server: Server = Factory(lambda: Server.recover("", Options(), random.Random(0), 0.0))
    answers: Answers = Factory(Answers)
    writes: Writes = field(init=False)
    reads: Reads = field(init=False)
    currency: Currency = Factory(Currency)
    running: bool = False
    bad_record_count: int = 0
    complaints: SparingLog = Factory(lambda self: SparingLog(_log, self.clock), takes_self=True)
    refused_count: int = 0
    """Commands that were refused before they reached the log."""
    changes: dict[int, list[out.Accepted | out.Rejected]] = Factory(dict)
    """Changes of the configuration that the core has not answered: where its answer goes."""
    transfers: dict[int, list[out.TransferEnded]] = Factory(dict)
    """Transfers of the leadership that somebody waits for: where it is noted that one ended."""
    abandoned: out.ChangeAbandoned | None = None
    """The last change of the configuration that was given up here."""
    _events: list[ev.Event] = Factory(list)
    _number: int = 0
    _turn_call: Any = None
    cache: RecordCache = field(init=False)
    log_age: LogAge = field(init=False)
    restoring: Restoring = field(init=False)
    scribe: Scribe = field(init=False)
    sequences: Sequences = field(init=False)
    snapshots: Snapshots = field(init=False)
    applying: Applying = field(init=False)
    proposing: Proposing = field(init=False)
    saving: Saving = field(init=False)
    _sending: Sending = field(init=False)
    _alarm: Alarm = field(init=False)

    def __attrs_post_init__(self) -> None:
        """Let nothing be on its way."""
        self.writes, self.reads = Writes(self.answers), Reads(self.answers)
        self.sequences = Sequences(self.writes, self._applied_end, self.clock)
        self._sending, self.log_age = Sending(self), LogAge(self)
        self.applying, self.saving, self.proposing = Applying(self), Saving(self), Proposing(self)
        self.restoring = Restoring(self.replica, self.clock)

    # Beginning and end.

    def start(
        self,
        server_id: str,
        options: Options,
        rng: random.Random,
        found: Recovered,
        incarnation: str = "",
    ) -> None:
        """Go on from what storage recovered; the replica holds the snapshot's state already."""
        snapshot = None
        if (meta := found.snapshot) is not None:
            snapshot = (meta.index, meta.term, meta.configuration, meta.configuration_index)
        self.server = Server.recover(
            server_id,
            options,
            rng,
            self.clock(),
            found.hard_state,
            snapshot,
            found.first_index,
            found.prev_term,
            found.runs,
            found.configurations,
            (self.replica.last_applied, self.replica.last_applied_term),
            *(incarnation, found.lost),
        )
        self.cache = RecordCache(self.bounds.cache_bytes, self.storage.read)
        self.cache.restart_after(self.server.log.last_index)
        self.replica.restorations.read = self.cache.slice
        self.applying.end = self.server.apply_end
        time_us = max(found.last_time_us, meta.time_us if meta else 0)
        self.scribe = Scribe(self.clock, partial(secrets.token_bytes, 16), time_us)
        self.scribe.skips.named.update(found.skips)
        self._alarm = Alarm(self.reactor, self.clock, self._ring)
        self.snapshots = Snapshots(self, SnapshotPolicy(self.bounds, found.snapshot_bytes))
        self.running = True
        self.storage.start(self.reactor.callFromThread, self.saving.saved, self.fail)
        self.schedule()

    def stop(self) -> None:
        """Take and answer nothing more; everything pending ends with a stated outcome."""
        if not self.running:
            return
        self.running = False
        self._alarm.cancel()
        if self._turn_call is not None:
            self._turn_call.cancel()
            self._turn_call = None
        self.snapshots.stop()
        self.restoring.drop()
        self.sequences.forget(NodeStopped())
        self.writes.fail_all(NodeStopped(), OutcomeUnknown("the node stopped"))
        self.reads.fail_all(NodeStopped())
        self.answers.give()
        self.turned()

    def fail(self, error: BaseException) -> None:
        """Stop serving because of `error`: better stopped than wrong."""
        if self.running:
            self.stop()
            self.failed(error)

    # What comes in.

    def post(self, event: ev.Event) -> None:
        """Queue an event for the next step."""
        self._events.append(event)
        self.schedule()

    def change(
        self, members: tuple[Member, ...], expected_index: int, force: bool
    ) -> list[out.Accepted | out.Rejected]:
        """Ask the core to make `members` the cluster; return the list that gets its answer."""
        number = self.next_number()
        answered = self.changes[number] = []
        self.post(ev.ChangeConfiguration(number, members, expected_index, force))
        return answered

    def transfer(self, target: str | None) -> int:
        """Ask the core to hand the leadership over; return the number of its entry in `transfers`.

        Who takes the number removes the entry.
        """
        number = self.next_number()
        self.transfers[number] = []
        self.post(ev.TransferLeadership(target, number))
        return number

    def next_number(self) -> int:
        """Return the number of the next request to the core."""
        self._number += 1
        return self._number

    def schedule(self) -> None:
        """Let a step follow at the end of this reactor turn."""
        if self._turn_call is None and self.running:
            self._turn_call = self.reactor.callLater(0, self._turn)

    def write(self, batch: Batch) -> None:
        """Take commands for the next step."""
        if not self.running:
            batch.finish(NodeStopped())
        elif not self._fits(batch.size_bytes):
            self.refused_count += len(batch.payloads)
            batch.finish(Overloaded("commands wait for more bytes than the bound allows"))
        elif batch.place is None:
            self.writes.queue(batch)
            self.schedule()
        elif self.server.role is not out.Role.LEADER:
            # Nobody else knows the order in which a session's commands must come.
            self.refused_count += len(batch.payloads)
            batch.finish(refusal(self.server, out.Refusal.NOT_LEADER))
        else:
            self.sequences.write(batch.place, batch)
            self.schedule()

    def has_room(self, size_bytes: int) -> bool:
        """Tell whether a command of so many bytes may be added to what is queued; count it if so.

        Where nothing is queued one command always fits, however large.
        """
        fits = self._fits(size_bytes)
        if fits:
            self.writes.queued_bytes += size_bytes
        else:
            self.refused_count += 1
        return fits

    def _fits(self, size_bytes: int) -> bool:
        queued = self.writes.queued_bytes
        return not queued or queued + size_bytes <= self.bounds.queued_bytes

    def read(self, batch: ReadBatch) -> None:
        """Take queries for the next step."""
        if not self.running or self.applying.is_wrong:
            batch.finish(NodeStopped())
        elif self.applying.is_held:
            batch.finish(MachineHeld())
        elif self.reads.waiting_bytes > self.bounds.queued_bytes:
            batch.finish(Overloaded("queries wait for more bytes than the bound allows"))
        else:
            self.reads.queue(batch)
            self.schedule()

    def receive(
        self, sender: str, message: ms.Message, records: bytes, chunk: SnapshotChunk | None
    ) -> None:
        """Take a peer's message; the records of an AppendEntries are verified here."""
        if not self.running:
            return
        if isinstance(message, ms.AppendEntries):
            try:
                message = self._summed_up(message, records)
            except BadRecord as error:
                self.bad_record_count += 1
                text = "Dropped a bad AppendEntries of {sender}: {error}"
                self.complaints.warn(text, sender, sender=sender, error=error)
                return
            self.currency.heard(sender, message)
            if message.term >= self.server.current_term:
                told_commit = max(self.applying.told_commit, message.leader_commit)
                self.applying.told_commit = told_commit
        elif isinstance(message, ms.InstallSnapshot) and chunk is not None:
            message = self.snapshots.receiving.receive(sender, message, chunk)
        elif isinstance(message, ms.InstallSnapshotResult):
            self.snapshots.sending.acknowledged(sender, message)
        self.post(ev.Received(sender, message))

    def contact(self, sender: str, term: int) -> None:
        """A fragment of a large message counts as hearing the leader [RULES N5]."""
        if self.running and term >= self.server.current_term:
            heartbeat = ms.AppendEntries(term, 0, 0, ms.Entries(1), 0, 0)
            self.post(ev.Received(sender, heartbeat))

    def _summed_up(self, message: ms.AppendEntries, records: bytes) -> ms.AppendEntries:
        """Return the message with what the core must know of `records`; raise `BadRecord`."""
        if not records or self.storage.full or self.proposing.is_behind:
            # Without room the entries are as good as lost; the leader is heard all the same.
            return evolve(message, entries=ms.Entries(message.prev_log_index + 1))
        return self.scribe.arrived(message, records)

    # The turn.

    def _turn(self, drained: bool = False) -> None:
        self._turn_call = None
        if not self.running:
            return
        now = self.clock()
        if now - self._alarm.deadline > LATE_SECONDS and not drained:
            # The process stalled. What has arrived meanwhile is read first: it may be the
            # leader's heartbeat, or the followers' answers.
            self._turn_call = self.reactor.callLater(0, self._turn, True)
            return
        try:
            self._step(now)
        except RaftError as error:
            self.fail(error)
        except Exception as error:
            _log.failure("The node stops: this is a bug")
            self.fail(error)

    def _step(self, now: float) -> None:
        self.writes.expire(now)
        if gone := self.reads.expire(now):
            self._events.append(ev.CancelReads(gone))
        self._events += self.proposing.events()
        self._ask_reads()
        events, self._events = self._events, []
        outputs = self.server.step(events, now)
        self.currency.judge(self.server, self.replica, now)
        changes = outputs.changes
        if saved := self._carry_out(outputs, waits=True):
            outputs = self.server.step((ev.Saved(saved),), now)
            changes += outputs.changes
            self._carry_out(outputs, waits=False)
        self.scribe.forget_arrivals()
        if self.running:
            deadlines = self.writes.deadlines.next, self.reads.deadlines.next
            self._alarm.set(min(outputs.next_deadline, *deadlines), self.clock())
        # From here on others are called: they may write, cancel, or stop this node.
        self.answers.give(self.writes.is_worth_a_turn)
        for change in changes:
            self.changed(change)
        self.turned()

    def _ask_reads(self) -> None:
        for lease, queued in ((False, self.reads.queued), (True, self.reads.leased)):
            if queued and self.reads.ask(self._number + 1, lease):
                self._number += 1
                self._events.append(ev.Read(self._number, lease))

    def _ring(self) -> None:
        if self._turn_call is None:
            self._turn(True)

    # Carrying out, in the order of the fields of Outputs.

    def _carry_out(self, outputs: out.Outputs, waits: bool) -> int:
        """Do what the step says; return the ticket of its save where that is durable already."""
        if outputs.restore is not None:
            self._restore(outputs.restore, outputs.save)
        if outputs.changes:
            self._keep_time()
        if outputs.save is not None:
            self.saving.save(outputs.save)
        self._sending.carry_out(outputs.send)
        # Who receives what was sent saves it at the same time [D 10.2.1].
        saved = self.saving.hand_over(waits)
        self._answer(outputs)
        for start in outputs.start_snapshots:
            self.snapshots.sending.begin(start)
        for change in outputs.changes:
            self._note(change)
        self.applying.end = outputs.apply_end
        self.apply()
        return saved if self.running else 0

    def _restore(self, restore: out.RestoreSnapshot, save: out.Save | None) -> None:
        self.writes.swallowed(restore.index)
        meta, chunks = self.storage.open_snapshot(restore.index)
        self.restoring.begin(meta, chunks)
        self.snapshots.installed(restore.index)
        self.scribe.log_time_us = max(self.scribe.log_time_us, meta.time_us)
        if not restore.keep_log:
            self.cache.restart_after(restore.index)
            # What stood behind is gone, and others will be applied there.
            self.writes.truncated(restore.index + 1)
            self.scribe.skips.truncated(0)
        self.saving.install(restore, save, partial(self._installed, restore.index))

    def _installed(self, index: int) -> None:
        self.restoring.marked(index)
        self.schedule()

    def mark_snapshot(self, index: int, term: int, keep: int, then: Callable[[], None]) -> None:
        """Mark this server's own snapshot in the log; call `then` once that is durable."""
        self.saving.mark(index, term, True, index - keep + 1, then)

    def _answer(self, outputs: out.Outputs) -> None:
        for accepted in outputs.accepted:
            if accepted.request in self.changes:
                self.changes.pop(accepted.request).append(accepted)
                continue
            self.writes.accepted(accepted.request, accepted.start, accepted.end, accepted.term)
            if not self.server.log.matches(accepted.start, accepted.term):
                # Leadership was lost within the step, and with it the entry's place.
                self.writes.truncated(accepted.start)
        for rejected in outputs.rejected:
            if rejected.request in self.changes:
                self.changes.pop(rejected.request).append(rejected)
                continue
            group = self.writes.proposed.pop(rejected.request, None)
            error = refusal(self.server, rejected.reason)
            if group is not None:
                self.proposing.refuse(group.batches, error)
            else:
                self.reads.fail(rejected.request, error)
        for request in outputs.lost:
            self.reads.fail(request, refusal(self.server, out.Refusal.LOST_LEADERSHIP))
        for confirmed in outputs.confirmed:
            self.reads.confirm(confirmed.request, confirmed.index, confirmed.valid_until)

    def _note(self, change: out.Change) -> None:
        if isinstance(change, out.RoleChanged):
            if change.role is not out.Role.LEADER:
                grace = 4 * self.server.options.election_timeout_seconds
                self.writes.give_up_by(self.clock() + grace)
                self.sequences.forget(refusal(self.server, out.Refusal.NOT_LEADER))
            self.snapshots.role_changed(change)
        elif isinstance(change, out.TransferEnded) and change.request in self.transfers:
            self.transfers[change.request].append(change)
        elif isinstance(change, out.ChangeAbandoned):
            self.abandoned = change
            _log.warn(
                "The change of the members is taken back, because of {peer}: {reason}",
                peer=change.server,
                reason=change.reason,
            )
        elif isinstance(change, out.Quarantined):
            _log.error(
                "{peer} had saved entries up to {match} and has lost them: its disk went back. "
                "It is counted no more; remove it and let it join again with an empty directory.",
                peer=change.peer,
                match=change.match_index,
            )

    def _keep_time(self) -> None:
        """Let cluster time run on this leader's clock, from the last entry before its own."""
        if self.server.role is not out.Role.LEADER:
            self.scribe.stop_leading()
        elif not self.scribe.leads:
            last, time_us = self.cache.end - 1, 0
            try:
                _, records = self.cache.slice(last, last + 1, 1)
                time_us = next(decode(records)).time_us
            except KeyError:
                # The log is empty behind a snapshot, whose time is known.
                pass
            self.scribe.lead_from(time_us)

    # The machine.

    def apply(self) -> None:
        """Apply what is committed and saved, for a few milliseconds; answer who waited."""
        self.applying.turn()

    def age_seconds(self) -> float:
        """Return for how long this state has not been known to be current; may be infinite."""
        return self.currency.age_seconds(self.server, self.replica, self.clock())

    def _applied_end(self, session: bytes) -> int:
        return self.replica.sessions.applied_end(session, self.replica.last_applied)
