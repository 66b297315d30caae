"""A model node: the real core, with a model disk and a model machine around it.

This is the shell in miniature. It keeps the payloads beside the core, slices them into
messages as they leave, holds back what waits for a ticket, applies what is committed,
and takes and installs snapshots, each as `raft.core.outputs` asks for it.
"""

from __future__ import annotations

import random
from collections import deque
from typing import TYPE_CHECKING

from attrs import Factory, define, field

from raft.core.configuration import Configuration
from raft.core.events import (
    Bootstrap,
    Event,
    Propose,
    Read,
    Received,
    Saved,
    SnapshotSaved,
    Unreachable,
)
from raft.core.messages import (
    AppendEntries,
    InstallSnapshot,
    InstallSnapshotResult,
    Message,
)
from raft.core.outputs import (
    Configured,
    NoOp,
    Outputs,
    Proposed,
    Replicated,
    Role,
    RoleChanged,
    Save,
    Send,
)
from raft.core.server import Server
from raft.testing.cores.clock import Dice, LocalClock
from raft.testing.cores.disk import (
    NO_OP,
    Disk,
    Entry,
    Records,
    StoredSnapshot,
    Write,
    with_entries,
)
from raft.testing.cores.machines import DigestMachine, Machine, SessionMachine
from raft.testing.cores.snapshots import Snapshots
from raft.testing.cores.swarm import Swarm
from raft.testing.cores.timeline import Timeline
from raft.testing.cores.transfers import Transfers

if TYPE_CHECKING:
    from raft.testing.cores.faults import Faults
    from raft.testing.cores.monitors import Monitors
    from raft.testing.cores.network import Network
    from raft.testing.cores.workload import Workload

NO_OP_BYTES = 40
HEALED_SAVE_SECONDS = (0.0005, 0.005)
MAX_IDLE_RINGS = 20


@define(eq=False)
class ModelNode:
    """One server of the cluster: up or down, with its disk, which survives."""

    id: str
    swarm: Swarm
    timeline: Timeline
    network: Network
    monitors: Monitors
    workload: Workload
    faults: Faults
    server_class: type[Server]
    disk: Disk = field(factory=Disk)
    rng: random.Random = field(init=False)
    save_seconds: tuple[float, float] = field(init=False)
    clock: LocalClock = field(init=False)
    transfers: Transfers = field(init=False)
    snapshots: Snapshots = field(init=False)

    up: bool = False
    lives: int = 1
    """How many directories this server has had: each is another incarnation."""
    lost_disks: list[Disk] = Factory(list)
    is_lost: bool = False
    """Whether it came back empty under its old incarnation, which makes it useless."""
    epoch: int = 0
    """Grows with every crash: what belongs to an earlier life is ignored."""
    server: Server = field(init=False)
    records: Records = field(factory=Records)
    """The log with its payloads, saved or not."""
    role: Role = Role.FOLLOWER
    term: int = 0
    commit_index: int = 0
    applied: int = 0
    machine: Machine = field(init=False)
    configured: tuple[int, Configuration] = (0, Configuration())
    """The last applied configuration, with its index."""
    restored_index: int = 0
    """The last snapshot installed, or recovered from."""
    verified: tuple[int, int] = (0, 0)
    """(term, index): how far the log is known to match that of the term's leader."""
    waiting_reads: list[tuple[int, int, float]] = Factory(list)
    """(index, request, until when) of the confirmed reads that wait for the machine."""
    open_reads: set[int] = Factory(set)
    """Reads that the core was handed and has not answered."""

    _dice: Dice = field(init=False)
    _spread: float = 1.0
    _idle_rings: int = 0
    _paused: bool = False
    _turn_due: bool = False
    _inbox: list[Event] = Factory(list)
    _held: deque[Send] = Factory(deque)
    _next_arrival: int = 0
    _arrivals: dict[int, tuple[int, list[Entry]]] = Factory(dict)
    _saving: bool = False

    def __attrs_post_init__(self) -> None:
        """Draw this node's own chance and clock."""
        self.rng = random.Random(f"{self.swarm.seed}/{self.id}")
        self.save_seconds = self.swarm.save_seconds
        self._spread = self.swarm.timeout_spread
        skew = self.swarm.clock_skew
        drawn = self.rng.uniform(-1, 1)
        if self.swarm.extreme_clocks:
            drawn = 1.0 if drawn > 0 else -1.0
        rate = 1.0 + skew * drawn
        self.clock = LocalClock(self.timeline, rate, self._ring)
        self.transfers = Transfers(self, self.rng)
        self.snapshots = Snapshots(self)
        self.machine = SessionMachine(self) if self.swarm.session_clients else DigestMachine(self)

    # Life

    def start(self) -> None:
        """Recover from the disk and begin to serve; bootstrap where that is this node's part."""
        disk = self.disk
        if disk.may_fall_back and self._finds_damage():
            disk.fall_back()
        snapshot = disk.snapshot
        self.up = True
        self._paused = self._turn_due = self._saving = False
        self.records = disk.records.copy()
        self.clock.start(self._reading())
        self._dice = self._new_dice()
        self._dice.spread = self._spread
        self.server = self.server_class.recover(
            self.id,
            self.swarm.options,
            self._dice,
            self.clock.now(),
            disk.hard_state,
            snapshot.mark if snapshot else None,
            self.records.first,
            self.records.prev_term,
            self.records.runs(),
            self.records.configurations(),
            incarnation=self.incarnation,
        )
        self.role, self.term = Role.FOLLOWER, disk.hard_state.current_term
        index = snapshot.index if snapshot else 0
        self.applied = self.commit_index = self.restored_index = self.snapshots.newest_index = index
        self.machine.begin(snapshot)
        self.configured = (
            (snapshot.configuration_index, snapshot.configuration)
            if snapshot
            else (0, Configuration())
        )
        self.verified = (0, 0)
        self.monitors.restarted(self)
        bootstraps = self.id == "n1" or (
            self.swarm.bootstrap_all and self.swarm.configuration.is_voter(self.id)
        )
        fresh = disk.is_empty and bootstraps and not self.lost_disks
        self.step([Bootstrap(self.swarm.configuration)] if fresh else [])

    def crash(self) -> None:
        """Lose power: memory is gone, a prefix of the unsaved writes proves durable."""
        self.up = False
        self.epoch += 1
        for write in self.disk.crash(self._kept()):
            self.monitors.synced(self, write)
        self._inbox.clear()
        self._held.clear()
        self._arrivals.clear()
        self.snapshots.clear()
        self.transfers.clear()
        self.clock.stop()
        self.waiting_reads.clear()
        self.open_reads.clear()
        self.role = Role.FOLLOWER
        self.workload.crashed(self.id)

    # What chance decides of a life.

    def _finds_damage(self) -> bool:
        """Tell whether the newest snapshot cannot be read when this server starts."""
        return self.faults.damages_snapshot()

    def _reading(self) -> float:
        """Return what the clock shows when this server starts: seconds."""
        return self.rng.uniform(0.0, 1000.0)

    def _new_dice(self) -> Dice:
        """Return the chance of a life."""
        return Dice(self.rng.random())

    def _kept(self) -> int:
        """Return how many of the unsaved writes prove durable when the power fails."""
        return self.rng.randint(0, len(self.disk.queue))

    def drift(self, rate: float) -> None:
        """Let the clock run at `rate` from now on."""
        self.clock.drift(rate)

    def lose_directory(self, *, new_incarnation: bool) -> None:
        """Have an empty directory from the next start on."""
        self.lost_disks.append(self.disk)
        self.disk = Disk()
        self.lives += new_incarnation
        self.is_lost = not new_incarnation

    @property
    def incarnation(self) -> str:
        """The name of the directory."""
        return f"{self.id}/{self.lives}"

    @property
    def is_paused(self) -> bool:
        """Whether it stands still."""
        return self._paused

    @property
    def is_shut_out(self) -> bool:
        """Whether anybody knows this server by another incarnation than it has."""
        return any(other.refuses(self) for other in self.monitors.nodes.values())

    def refuses(self, other: ModelNode) -> bool:
        """Tell whether this server knows `other` by another incarnation than it has [M7, M9]."""
        member = self.server.configuration.member(other.id)
        return member is not None and member.incarnation not in ("", other.incarnation)

    def heal(self) -> None:
        """Run, with a quick disk and fair dice, from now on."""
        self.save_seconds = HEALED_SAVE_SECONDS
        self._spread = self._dice.spread = 1.0
        if not self.up:
            self.start()
        elif self._paused:
            self._resume(self.epoch)

    def pause(self, seconds: float) -> None:
        """Stand still, as a stopped process does: what arrives waits."""
        self._paused = True
        self.timeline.after(seconds, self._resume, self.epoch)

    def _resume(self, epoch: int) -> None:
        if epoch == self.epoch and self._paused:
            self._paused = False
            self._turn(epoch)

    # What arrives

    def receive(self, sender: str, message: Message, attachment: object) -> None:
        """Take in a message, with its entries or snapshot beside it."""
        if not self.up:
            return
        if self.swarm.wipes:
            other = self.monitors.nodes[sender]
            # They greet each other first: a connection needs both.
            if self.refuses(other) or other.refuses(self):
                return
        if type(message) is AppendEntries and isinstance(attachment, list):
            self._next_arrival = arrival = self._next_arrival + 1
            start = message.entries.start
            self._arrivals[arrival] = (start, attachment)
            message = with_entries(message, attachment, arrival)
        elif type(message) is InstallSnapshot and isinstance(attachment, StoredSnapshot):
            self.snapshots.arrived[attachment.index] = attachment
        self.hand(Received(sender, message))
        if type(message) is InstallSnapshotResult and message.done and self.up:
            self.transfers.end(sender, message.sequence, ok=True)

    def unreachable(self, peer: str) -> None:
        """Hear that the connection to `peer` broke."""
        if self.up:
            self.hand(Unreachable(peer))

    def hand(self, event: Event) -> None:
        """Give the core an event, at once or with others of its turn; a dead one hears none."""
        if not self.up:
            return
        if self.swarm.turn_seconds or self._paused:
            self._inbox.append(event)
            if not (self._turn_due or self._paused):
                self._turn_due = True
                self.timeline.after(self.swarm.turn_seconds, self._turn, self.epoch)
            return
        self.step([event])

    def _turn(self, epoch: int) -> None:
        if epoch != self.epoch or self._paused:
            return
        self._turn_due = False
        events, self._inbox = self._inbox, []
        self.step(events)

    def _ring(self) -> None:
        if self._paused:
            return
        events, self._inbox = self._inbox, []
        self.step(events)
        clock = self.clock
        self._idle_rings = self._idle_rings + 1 if clock.deadline <= clock.now() else 0
        if self._idle_rings > MAX_IDLE_RINGS:
            self.monitors.violated("L1", f"{self.id} asks for the same deadline for ever")

    # The step

    def step(self, events: list[Event]) -> None:
        """Hand the core what happened and carry out what it answers, in order."""
        self.monitors.stepping(self, events)
        outputs = self.server.step(events, self.clock.now())
        if outputs.restore is not None:
            snapshot = self.snapshots.restore(outputs.restore)
            self.save(outputs.save or Save(0), snapshot, outputs.restore.keep_log)
        elif outputs.save is not None:
            self.save(outputs.save, None, True)
        self.monitors.stepped(self, events, outputs)
        if self._arrivals:
            self._arrivals.clear()
        only = self.faults.before_send(self, outputs) if self.faults.armed else None
        if not self.up:
            return
        for send in outputs.send:
            if only is not None and send.receiver != only:
                continue
            if send.after <= self.disk.saved_ticket:
                self._leave(send)
            else:
                self._held.append(send)
        if outputs.accepted or outputs.rejected or outputs.lost or outputs.confirmed:
            self.workload.answered(self, outputs)
        if outputs.apply_end > self.applied + 1:
            self._apply(outputs.apply_end)
        for start in outputs.start_snapshots:
            self.transfers.begin(start)
        for change in outputs.changes:
            if type(change) is RoleChanged:
                self.faults.role_changed(self, change)
        self._after_step(outputs)

    def _after_step(self, outputs: Outputs) -> None:
        if self.waiting_reads:
            self._serve_reads()
        first_index = self.server.log.first_index
        if first_index > self.records.first:
            self.monitors.compacted(self, first_index - 1)
            self.records.compact(first_index - 1)
            self.write(Write(compact=first_index - 1))
        if self.swarm.snapshot_every:
            self.snapshots.take_when_due()
        if self.up:
            self.clock.arm(outputs.next_deadline)
        self.monitors.settled()

    # Saves

    def save(self, save: Save, snapshot: StoredSnapshot | None, keep_log: bool) -> None:
        """Change the log as `save` says, and queue that for the disk."""
        records = self.records
        if save.truncate_from is not None:
            records.truncate(save.truncate_from)
        start = records.end
        entries: list[Entry] = []
        for append in save.append:
            match append:
                case Proposed(begin, end, term, request):
                    new = self.workload.payloads(self, request, begin, end, term)
                case Replicated(begin, end, arrival):
                    first, arrived = self._arrivals[arrival]
                    new = arrived[begin - first : end - first]
                case NoOp(begin, term):
                    new = [(term, NO_OP, NO_OP_BYTES)]
                case Configured(begin, term, configuration):
                    new = [(term, configuration, NO_OP_BYTES)]
            self.monitors.appended(self, begin, new, fresh=type(append) is not Replicated)
            records.entries.extend(new)
            entries.extend(new)
        changed = save.hard_state, save.truncate_from
        self.write(Write(save.ticket, snapshot, keep_log, *changed, start, tuple(entries)))

    def write(self, write: Write) -> None:
        """Queue a write."""
        self.disk.queue.append(write)
        if not self._saving:
            self._saving = True
            self._schedule_sync()

    def _schedule_sync(self) -> None:
        low, high = self.save_seconds
        count = len(self.disk.queue) if self.swarm.group_saves else 1
        delay = low + (high - low) * self.rng.random() if high else 0.0
        self.timeline.after(delay, self._synced, self.epoch, count)

    def _synced(self, epoch: int, count: int) -> None:
        if epoch != self.epoch:
            return
        if not self.save_seconds[1]:
            count = len(self.disk.queue) if self.swarm.group_saves else 1
        self.sync(count)

    def sync(self, count: int) -> None:
        """The first `count` writes of the queue are durable: carry out what waited for them."""
        ticket = 0
        taken: int | None = None
        for _ in range(count):
            write = self.disk.sync()
            self.monitors.synced(self, write)
            ticket = write.ticket or ticket
            if write.snapshot is not None and not write.ticket:
                taken = write.snapshot.index
        if self.disk.queue:
            self._schedule_sync()
        else:
            self._saving = False
        if taken is not None:
            self.snapshots.taking = False
            self.hand(SnapshotSaved(taken, self.swarm.trailing))
        if ticket and self.up:
            self._release(ticket)
            self.hand(Saved(ticket))

    def _release(self, ticket: int) -> None:
        ready = [send for send in self._held if send.after <= ticket]
        self._held = deque(send for send in self._held if send.after > ticket)
        for send in ready:
            self._leave(send)

    # Messages

    def _leave(self, send: Send) -> None:
        message = send.message
        attachment: list[Entry] | None = None
        if type(message) is AppendEntries and message.entries.runs:
            attachment = self.records.slice(message.entries)
            if attachment is None:
                return
        self.monitors.left(self, send.receiver, message)
        self.network.send(self.id, send.receiver, message, attachment)

    # The machine

    def _apply(self, end: int) -> None:
        start = self.applied + 1
        entries = self.records.entries[start - self.records.first : end - self.records.first]
        self.machine.apply(start, entries)
        for index, entry in enumerate(entries, start):
            if type(entry[1]) is Configuration:
                self.configured = (index, entry[1])
        self.applied = end - 1

    def _serve_reads(self) -> None:
        waiting = [read for read in self.waiting_reads if read[0] > self.applied]
        for index, request, valid_until in self.waiting_reads:
            if index > self.applied:
                continue
            # A lease is looked at again immediately before the answer [RULES R9].
            if self.clock.now() < valid_until:
                self.workload.served(request, self.applied)
            else:
                self.workload.expired(request)
        self.waiting_reads = waiting

    # Clients

    def propose(self, request: int, count: int, size_bytes: int) -> None:
        """Ask this node to append."""
        self.hand(Propose(request, count, size_bytes))

    def read(self, request: int, *, lease: bool = False) -> None:
        """Ask this node for a linearizable read."""
        self.hand(Read(request, lease))
