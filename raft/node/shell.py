"""One server's turns: what happened in a reactor turn is one step of the core.

    receive, write, read, saved ... -> queued events -> step(events, now) -> Outputs
                                                     -> restore, save, send, answer, apply

Everything runs in the reactor's thread; the core is never entered from within itself,
because whatever comes in is queued for the next turn. What fails in here fails the
node: a server that cannot go on in order must not go on at all.
"""

from __future__ import annotations

import math
import random
import secrets
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from attrs import Factory, define, evolve, frozen
from twisted.logger import Logger

from raft.core import events as ev
from raft.core import messages as ms
from raft.core import outputs as out
from raft.core.server import Options, Server
from raft.errors import (
    BadConfiguration,
    ElectionInProgress,
    InvariantViolated,
    NodeStopped,
    NotAppended,
    NotLeader,
    OutcomeUnknown,
    Overloaded,
    RaftError,
    StorageFull,
)
from raft.interfaces import IStorage, Recovered
from raft.node.reads import ReadBatch, Reads
from raft.node.records import RecordCache, offset_of
from raft.node.snapshots import Snapshots
from raft.node.writes import Batch, Writes
from raft.replica import Replica
from raft.storage.records import (
    BadRecord,
    Kind,
    decode,
    encode,
    encode_commands,
    encode_configuration,
    summarise,
)
from raft.transport.wire import SnapshotChunk

_log = Logger()

APPLY_SECONDS = 0.005
"""How long one turn may apply entries: a million of them must not look like a dead leader."""

APPLY_BYTES = 256 * 1024
LATE_SECONDS = 0.05
"""A timer this late means that the process stalled: sockets are read before deadlines count."""


class Network(Protocol):
    """What the shell asks of the transport (`raft.transport.peers.PeerNetwork` has more)."""

    def send(
        self, peer: str, message: ms.Message, records: bytes = b"", chunk: SnapshotChunk | None = None
    ) -> bool:
        """Send, or drop and return False."""

    def flush(self) -> None:
        """Write what was sent in this turn."""

    def is_connected(self, peer: str) -> bool:
        """Tell whether messages to `peer` can be sent."""


@frozen
class Bounds:
    """What may queue up inside one node, in bytes, and when it takes snapshots.

    Attributes:
        queued_bytes: commands that wait for their turn.
        cache_bytes: records kept in memory once they are applied and saved.
        unapplied_bytes: committed records the machine has not taken yet.
        snapshot_entries: a snapshot is taken after so many entries; 0 for never.
        trailing_entries: entries a snapshot leaves in the log for those nearly there.
    """

    queued_bytes: int = 64 << 20
    cache_bytes: int = 64 << 20
    unapplied_bytes: int = 256 << 20
    snapshot_entries: int = 100_000
    trailing_entries: int = 10_000


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
    writes: Writes = Factory(Writes)
    reads: Reads = Factory(Reads)
    running: bool = False
    save_count: int = 0
    entry_count: int = 0
    bad_record_count: int = 0
    _events: list[ev.Event] = Factory(list)
    _arrivals: dict[int, tuple[int, int, bytes]] = Factory(dict)
    """Number -> (start, end, records) of entries that arrived in this turn."""
    _number: int = 0
    _held: deque[out.Send] = Factory(deque)
    _saves: deque[tuple[int, int, Callable[[], None] | None]] = Factory(deque)
    """(storage's ticket, the core's ticket or 0, what to call), in order."""
    _storage_ticket: int = 0
    _saved_ticket: int = 0
    _apply_end: int = 1
    _turn_call: Any = None
    _wake_call: Any = None
    _wake_at: float = math.inf
    _deadline: float = math.inf
    _time_base: tuple[int, float] = (0, 0.0)
    """(cluster time in microseconds, monotonic seconds) when this server began to lead."""
    _log_time_us: int = 0
    cache: RecordCache = Factory(lambda: RecordCache(0, lambda *_: (0, b"")))
    snapshots: Snapshots = None  # type: ignore[assignment]  # Set by `start`.

    # Beginning and end.

    def start(self, server_id: str, options: Options, rng: random.Random, found: Recovered) -> None:
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
        )
        self.cache = RecordCache(self.bounds.cache_bytes, self.storage.read)
        self.cache.restart_after(self.server.log.last_index)
        self._apply_end = self.server.apply_end
        self._log_time_us = max(found.last_time_us, meta.time_us if meta else 0)
        self.snapshots = Snapshots(self, self.bounds.snapshot_entries, rng)
        self.running = True
        self.storage.start(self.reactor.callFromThread, self._storage_saved, self.fail)
        self.schedule()

    def stop(self) -> None:
        """Take and answer nothing more; everything pending ends with a stated outcome."""
        if not self.running:
            return
        self.running = False
        for call in (self._turn_call, self._wake_call):
            if call is not None and call.active():
                call.cancel()
        self.snapshots.stop()
        self.writes.fail_all(NodeStopped(), OutcomeUnknown("the node stopped"))
        self.reads.fail_all(NodeStopped())
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

    def schedule(self) -> None:
        """Let a step follow at the end of this reactor turn."""
        if self._turn_call is None and self.running:
            self._turn_call = self.reactor.callLater(0, self._turn)

    def write(self, batch: Batch) -> None:
        """Take commands for the next step."""
        if not self.running:
            batch.finish(NodeStopped())
        elif self.writes.queued_bytes > self.bounds.queued_bytes:
            batch.finish(Overloaded("commands wait for more bytes than the bound allows"))
        else:
            self.writes.queue(batch)
            self.schedule()

    def read(self, batch: ReadBatch) -> None:
        """Take queries for the next step."""
        if not self.running:
            batch.finish(NodeStopped())
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
                _log.warn("Dropped a bad AppendEntries of {sender}: {error}", sender=sender, error=error)
                return
        elif isinstance(message, ms.InstallSnapshot) and chunk is not None:
            received = self.snapshots.receive(sender, message, chunk)
            if received is None:
                return
            message = received
        elif isinstance(message, ms.InstallSnapshotResult):
            self.snapshots.acknowledged(sender, message)
        self.post(ev.Received(sender, message))

    def contact(self, sender: str, term: int) -> None:
        """A fragment of a large message counts as hearing the leader [RULES N5]."""
        if self.running and term >= self.server.current_term:
            heartbeat = ms.AppendEntries(term, 0, 0, ms.Entries(1), 0, 0)
            self.post(ev.Received(sender, heartbeat))

    def _summed_up(self, message: ms.AppendEntries, records: bytes) -> ms.AppendEntries:
        """Return the message with what the core must know of `records`; raise `BadRecord`."""
        start = message.prev_log_index + 1
        if not records or self.storage.full or self._behind():
            # Without room the entries are as good as lost; the leader is heard all the same.
            return evolve(message, entries=ms.Entries(start))
        self._number += 1
        entries = summarise(records, self._number, start)
        if entries.start != start or entries.runs[-1].term > message.term:
            raise BadRecord(0, f"entries from {entries.start} where {start} must follow")
        self._arrivals[self._number] = (start, entries.end, records)
        return evolve(message, entries=entries)

    def _behind(self) -> bool:
        log = self.server.log
        waiting = log.size_bytes(self.replica.last_applied + 1, log.last_index + 1)
        return waiting > self.bounds.unapplied_bytes

    def _storage_saved(self, ticket: int) -> None:
        if not self.running:
            return
        core_ticket = 0
        while self._saves and self._saves[0][0] <= ticket:
            _, asked, then = self._saves.popleft()
            core_ticket = asked or core_ticket
            if then is not None:
                then()
        if core_ticket:
            self.post(ev.Saved(core_ticket))

    # The turn.

    def _turn(self) -> None:
        self._turn_call = None
        if not self.running:
            return
        now = self.clock()
        try:
            self._step(now)
        except Exception as error:
            _log.failure("The node stops")
            self.fail(error)

    def _step(self, now: float) -> None:
        self.writes.expire(now)
        if gone := self.reads.expire(now):
            self._events.append(ev.CancelReads(gone))
        self._propose()
        if request := self.reads.ask():
            self._events.append(ev.Read(request))
        events, self._events = self._events, []
        outputs = self.server.step(events, now)
        self._carry_out(outputs)
        self._arrivals.clear()
        self._arm(outputs.next_deadline, now)

    def _propose(self) -> None:
        queued = self.writes.take_queued()
        if not queued:
            return
        refusal: RaftError | None = None
        if self.storage.full:
            refusal = StorageFull()
        elif self._behind():
            refusal = Overloaded("the machine is behind the log")
        for batch in queued:
            if refusal is not None:
                batch.finish(refusal)
                continue
            self._number += 1
            self.writes.proposed[self._number] = batch
            self._events.append(ev.Propose(self._number, len(batch.payloads), batch.size_bytes))

    def _arm(self, core_deadline: float, now: float) -> None:
        """Keep one timer; one that would fire too early is left alone and looks again."""
        deadline = core_deadline
        for waiting in (self.writes.next_deadline, self.reads.next_deadline):
            if waiting is not None and waiting < deadline:
                deadline = waiting
        self._deadline = deadline
        if deadline >= self._wake_at and self._wake_call is not None:
            return
        if self._wake_call is not None:
            self._wake_call.cancel()
            self._wake_call = None
        if deadline < math.inf:
            self._wake_at = deadline
            self._wake_call = self.reactor.callLater(max(0.0, deadline - now), self._wake, False)

    def _wake(self, drained: bool) -> None:
        self._wake_call = None
        now = self.clock()
        late = now - self._wake_at
        self._wake_at = math.inf
        if now < self._deadline:
            self._arm(self._deadline, now)
        elif late > LATE_SECONDS and not drained:
            # The process stalled. What has arrived meanwhile is read first: it may be
            # the leader's heartbeat.
            self._wake_at = now
            self._wake_call = self.reactor.callLater(0, self._wake, True)
        elif self._turn_call is None:
            self._turn()

    # Carrying out, in the order of the fields of Outputs.

    def _carry_out(self, outputs: out.Outputs) -> None:
        if outputs.restore is not None:
            self._restore(outputs.restore)
        if outputs.save is not None:
            self._save(outputs.save)
        while self._held and self._held[0].after <= self.server.saved_ticket:
            self._send(self._held.popleft())
        for send in outputs.send:
            if send.after:
                self._held.append(send)
            else:
                self._send(send)
        self.network.flush()
        self._answer(outputs)
        for start in outputs.start_snapshots:
            self.snapshots.send(start)
        for change in outputs.changes:
            self._note(change)
        self._apply_end = outputs.apply_end
        self.apply()
        for change in outputs.changes:
            self.changed(change)
        self.turned()

    def _restore(self, restore: out.RestoreSnapshot) -> None:
        self.writes.swallowed(restore.index)
        meta, chunks = self.storage.open_snapshot(restore.index)
        self.replica.restore(meta, chunks)
        self._log_time_us = max(self._log_time_us, meta.time_us)
        if not restore.keep_log:
            self.cache.restart_after(restore.index)
        self._queue_mark(restore.index, restore.term, restore.keep_log, restore.index + 1, None)

    def mark_snapshot(self, index: int, term: int, keep: int, then: Callable[[], None]) -> None:
        """Mark this server's own snapshot in the log; call `then` once that is durable."""
        self._queue_mark(index, term, True, index - keep + 1, then)

    def _queue_mark(
        self, index: int, term: int, keep_log: bool, keep_from: int, then: Callable[[], None] | None
    ) -> None:
        self._storage_ticket += 1
        self._saves.append((self._storage_ticket, 0, then))
        self.storage.mark_snapshot(self._storage_ticket, index, term, keep_log, keep_from)

    def _save(self, save: out.Save) -> None:
        if save.truncate_from is not None:
            self.cache.truncate(save.truncate_from)
            self.writes.truncated(save.truncate_from)
        start = end = 0
        records = b""
        if save.append:
            first = save.append[0]
            start = first.index if isinstance(first, out.NoOp | out.Configured) else first.start
            pieces = [self._records_of(entry) for entry in save.append]
            records = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            last = save.append[-1]
            end = last.index + 1 if isinstance(last, out.NoOp | out.Configured) else last.end
            self.cache.append(start, end, records)
            self.entry_count += end - start
        self.save_count += 1
        self._storage_ticket += 1
        self._saves.append((self._storage_ticket, save.ticket, None))
        self.storage.save(
            self._storage_ticket, save.hard_state, save.truncate_from, start, end, records
        )

    def _records_of(self, entry: out.Append) -> bytes:
        """Encode an entry of this leader, or take what arrived: the one encoding there is."""
        if isinstance(entry, out.Replicated):
            first, end, records = self._arrivals[entry.arrival]
            begin = offset_of(records, first, entry.start) if entry.start > first else 0
            stop = offset_of(records, first, entry.end) if entry.end < end else len(records)
            return records[begin:stop]
        time_us = self._now_us()
        if isinstance(entry, out.Proposed):
            payloads = self.writes.proposed[entry.request].payloads
            return encode_commands(
                entry.start, entry.term, time_us, payloads[: entry.end - entry.start]
            )
        if isinstance(entry, out.NoOp):
            return encode(entry.index, entry.term, time_us, Kind.NO_OP, secrets.token_bytes(16))
        payload = encode_configuration(entry.configuration)
        return encode(entry.index, entry.term, time_us, Kind.CONFIGURATION, payload)

    def _now_us(self) -> int:
        """Return the cluster's time: it goes on from the log's, by this leader's clock.

        Who does not lead lets it stand: the first entry must be the same on all founders.
        """
        if self.server.role is not out.Role.LEADER:
            return self._log_time_us
        base_us, since = self._time_base
        now_us = base_us + int((self.clock() - since) * 1_000_000)
        self._log_time_us = max(self._log_time_us, now_us)
        return self._log_time_us

    def _send(self, send: out.Send) -> None:
        message, records = send.message, b""
        if not self.network.is_connected(send.receiver):
            return
        if isinstance(message, ms.AppendEntries) and message.entries.runs:
            if self.server.role is not out.Role.LEADER or message.term != self.server.current_term:
                return
            found = self._slice(message.entries)
            if found is None:
                return
            records = found
        elif isinstance(message, ms.InstallSnapshotResult):
            offset_bytes = self.snapshots.received_bytes(send.receiver)
            message = evolve(message, offset_bytes=offset_bytes)
        self.network.send(send.receiver, message, records)

    def _slice(self, entries: ms.Entries) -> bytes | None:
        pieces: list[bytes] = []
        reached = entries.start
        try:
            while reached < entries.end:
                reached, piece = self.cache.slice(reached, entries.end, 1 << 30)
                pieces.append(piece)
        except KeyError:
            return None
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _answer(self, outputs: out.Outputs) -> None:
        for accepted in outputs.accepted:
            self.writes.accepted(accepted.request, accepted.start, accepted.end, accepted.term)
            if not self.server.log.matches(accepted.start, accepted.term):
                # Leadership was lost within the step, and with it the entry's place.
                self.writes.truncated(accepted.start)
        for rejected in outputs.rejected:
            batch = self.writes.proposed.pop(rejected.request, None)
            error = self.refusal(rejected.reason)
            if batch is not None:
                batch.finish(error)
            else:
                self.reads.fail(rejected.request, error)
        for request in outputs.lost:
            self.reads.fail(request, self.refusal(out.Refusal.LOST_LEADERSHIP))
        for confirmed in outputs.confirmed:
            self.reads.confirm(confirmed.request, confirmed.index)

    def refusal(self, reason: out.Refusal) -> RaftError:
        """Return the error that callers get for the core's `reason`."""
        match reason:
            case out.Refusal.NOT_LEADER | out.Refusal.NO_LEADER | out.Refusal.LOST_LEADERSHIP:
                leader = self.server.leader_id
                if leader is None or leader == self.server.id:
                    return ElectionInProgress()
                member = self.server.configuration.member(leader)
                return NotLeader(leader, member.client_address if member else None)
            case out.Refusal.OVERLOADED:
                return Overloaded("entries wait to be committed for more bytes than allowed")
            case out.Refusal.TRANSFER_IN_PROGRESS:
                return NotAppended("the leadership is being transferred")
            case out.Refusal.NOT_A_VOTER:
                return BadConfiguration("the target is no voter of this cluster")
            case out.Refusal.NOT_EMPTY:
                return BadConfiguration("this node has a log already; it belongs to a cluster")

    def _note(self, change: out.Change) -> None:
        if isinstance(change, out.RoleChanged):
            now = self.clock()
            if change.role is out.Role.LEADER:
                self._time_base = (self._last_log_time_us(), now)
            elif self.writes.appended:
                grace = 4 * self.server.options.election_timeout_seconds
                self.writes.give_up_by(now + grace)
            self.snapshots.role_changed(change)
        elif isinstance(change, out.Quarantined):
            _log.error(
                "{peer} had saved entries up to {match} and has lost them: its disk went back. "
                "It is counted no more; remove it and let it join again with an empty directory.",
                peer=change.peer,
                match=change.match_index,
            )

    def _last_log_time_us(self) -> int:
        """Return the time of the last entry of the log, or a later one seen."""
        last = self.server.log.last_index
        try:
            _, records = self.cache.slice(last, last + 1, 1)
        except KeyError:
            return self._log_time_us
        return max(self._log_time_us, next(decode(records)).time_us)

    # The machine.

    def apply(self) -> None:
        """Apply what is committed and saved, for a few milliseconds; answer who waited."""
        replica, end = self.replica, self._apply_end
        deadline = self.clock() + APPLY_SECONDS
        while replica.last_applied + 1 < end:
            reached, records = self.cache.slice(replica.last_applied + 1, end, APPLY_BYTES)
            want_from, want_end = self.writes.wanted
            applied = replica.apply(records, 0, want_from, want_end, deadline)
            if applied.results:
                self.writes.applied(applied.first_result, applied.results)
            if replica.last_applied + 1 < reached or self.clock() >= deadline:
                break
        last_applied = replica.last_applied
        if self.writes.replaced:
            self.writes.settle_replaced(last_applied + 1, self._term_at)
        for batch in self.reads.ready(last_applied):
            batch.finish([replica.query(query) for query in batch.queries])
        saved = self.server.log.saved_index
        self.cache.evict(min(last_applied, saved) + 1)
        self.snapshots.consider(last_applied)
        if last_applied + 1 < end:
            self.schedule()

    def _term_at(self, index: int) -> int:
        try:
            return self.server.log.term_at(index)
        except KeyError as error:
            raise InvariantViolated(f"entry {index} was compacted before it was applied") from error
