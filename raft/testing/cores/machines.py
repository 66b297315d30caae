"""What a model node applies entries to: a digest, or the real replica with its sessions.

In worlds without sessions a number is machine enough, and cheap. In the others the entries
become the records that they would be on a disk, and `raft.replica` applies them to a machine
that counts: were a command executed twice, its count and its result would tell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

import msgspec
from attrs import define, field
from zope.interface import implementer

from raft.core.configuration import Configuration
from raft.errors import CommandError
from raft.interfaces import Context, IStateMachine, SnapshotMeta, Value
from raft.replica import Replica
from raft.storage.records import Kind, encode, encode_configuration
from raft.testing.cores.disk import NO_OP, Entry, SessionRecord, StoredSnapshot

if TYPE_CHECKING:
    from raft.testing.cores.model_node import ModelNode

DIGEST_MASK = (1 << 61) - 1
_MULTIPLIER = 1000003

Chunks = tuple[bytes, ...]


class Machine(Protocol):
    """The state that a node's log makes."""

    digest: int

    def begin(self, snapshot: StoredSnapshot | None) -> None:
        """Start from a snapshot, or from nothing; what was there before is gone."""

    def apply(self, start: int, entries: list[Entry]) -> None:
        """Apply the entries from `start` on, and tell the monitors and the clients."""

    def view(self) -> Callable[[], Chunks]:
        """Return what gives the content of a snapshot of this moment, later."""

    @property
    def applied_time_us(self) -> int:
        """The cluster's time as of the last entry applied."""

    def cluster_time_us(self, term: int) -> int:
        """Return the cluster's time for an entry that this node appends as leader of `term`."""


@define(eq=False)
class DigestMachine:
    """A digest of all applied payloads, in order."""

    node: ModelNode
    digest: int = 0

    def begin(self, snapshot: StoredSnapshot | None) -> None:
        """Start from the snapshot's digest."""
        self.digest = snapshot.digest if snapshot else 0

    def apply(self, start: int, entries: list[Entry]) -> None:
        """Mix each payload into the digest."""
        node, digest = self.node, self.digest
        monitors, workload = node.monitors, node.workload
        for index, entry in enumerate(entries, start):
            payload = entry[1]
            if type(payload) is int:
                digest = (digest * _MULTIPLIER + payload) & DIGEST_MASK
            monitors.applied(node, index, entry)
            monitors.reached(node, index, digest)
            workload.applied(node, index, entry)
        self.digest = digest

    def view(self) -> Callable[[], Chunks]:
        """Return nothing: the digest is all."""
        return tuple

    @property
    def applied_time_us(self) -> int:
        """0: nothing here depends on time."""
        return 0

    def cluster_time_us(self, term: int) -> int:
        """Return 0: nothing here depends on time."""
        return 0


@implementer(IStateMachine)
@define(eq=False)
class CountingMachine:
    """Counts what it executes, and answers with the count.

    A command is an operation's number; those below 0 are refused, after they were counted.
    """

    executed: Callable[[int, int], object]
    """Told (operation, index) of each command of a session."""
    count: int = 0
    digest: int = 0

    def apply(self, command: Value, context: Context) -> Value:
        """Count, and answer [operation, count] or refuse with the count."""
        if isinstance(command, int):
            self.digest = (self.digest * _MULTIPLIER + command) & DIGEST_MASK
            return None
        if not isinstance(command, list) or not isinstance(command[0], int):
            raise TypeError(command)
        operation = command[0]
        self.count += 1
        self.digest = (self.digest * _MULTIPLIER + operation) & DIGEST_MASK
        self.executed(abs(operation), context.index)
        if operation < 0:
            raise CommandError("refused", str(self.count))
        return [operation, self.count]

    def query(self, query: Value) -> Value:
        """Return the count."""
        return self.count

    def snapshot(self) -> Iterator[bytes]:
        """Return the state of this moment."""
        return iter((msgspec.msgpack.encode((self.count, self.digest)),))

    def restore(self, chunks: Iterable[bytes]) -> None:
        """Take over a snapshot's state."""
        content = b"".join(chunks)
        self.count, self.digest = msgspec.msgpack.decode(content, type=tuple[int, int])


@define(eq=False)
class SessionMachine:
    """The real replica and its sessions, around a machine that counts."""

    node: ModelNode
    digest: int = 0
    counting: CountingMachine = field(init=False)
    replica: Replica = field(init=False)
    _led: tuple[int, int, float] = (0, 0, 0.0)
    """(term, cluster time in microseconds, local seconds) when this node first appended in it."""

    def begin(self, snapshot: StoredSnapshot | None) -> None:
        """Make a new replica, and restore the snapshot into it."""
        node = self.node
        self.counting = CountingMachine(node.monitors.once.executed)
        self.replica = Replica(self.counting, clock=node.clock.now)
        self._led = (0, 0, 0.0)
        if snapshot is not None:
            meta = SnapshotMeta(
                snapshot.index,
                snapshot.term,
                snapshot.configuration,
                snapshot.configuration_index,
                snapshot.time_us,
            )
            self.replica.restore(meta, snapshot.chunks)
        self.digest = self._digest() if snapshot else 0

    def _digest(self) -> int:
        """Return a digest of the machine, the outcomes, and all that the sessions hold."""
        sessions = tuple(
            (each.id, each.touched_us, each.low_mark, each.kept_from, each.size_bytes)
            + tuple(sorted(each.results.items()))
            for each in self.replica.sessions
        )
        return hash((self.counting.count, self.counting.digest, self.replica.digest, sessions))

    def apply(self, start: int, entries: list[Entry]) -> None:
        """Apply the records in one slice."""
        node, replica, end = self.node, self.replica, start + len(entries)
        monitors = node.monitors
        # Before anything is executed: what is not committed must not be.
        for index, entry in enumerate(entries, start):
            monitors.applied(node, index, entry)
        records = b"".join([record_of(index, entry) for index, entry in enumerate(entries, start)])
        results = replica.apply(records, 0, start, end, math.inf).results
        if replica.last_applied != end - 1:
            monitors.violated("I7", f"{node.id} applied {replica.last_applied} of {end - 1}")
        self.digest = self._digest()
        monitors.reached(node, end - 1, self.digest)
        for index, entry in enumerate(entries, start):
            if type(entry[1]) is SessionRecord:
                outcome = results[index - start]
                monitors.once.applied(node.id, index, entry[1].operation, outcome)
                node.workload.clients.applied(node, index, entry, outcome)
            else:
                node.workload.applied(node, index, entry)

    def view(self) -> Callable[[], Chunks]:
        """Take the replica's view; its slices are made later, while entries are applied."""
        _, chunks = self.replica.snapshot()
        return lambda: tuple(chunk for chunk in chunks if chunk)

    @property
    def applied_time_us(self) -> int:
        """The replica's."""
        return self.replica.last_time_us

    def cluster_time_us(self, term: int) -> int:
        """Return the last time in the log at the begin of this leader's term, and its own since."""
        if self._led[0] != term:
            times = [
                entry[1].time_us
                for entry in self.node.records.entries
                if type(entry[1]) is SessionRecord
            ]
            newest = max([self.replica.last_time_us, *times])
            self._led = (term, newest, self.node.clock.now())
        _, base_us, since = self._led
        return base_us + int((self.node.clock.now() - since) * 1_000_000)


def record_of(index: int, entry: Entry) -> bytes:
    """Return the bytes of an entry as they would stand in a log."""
    payload = entry[1]
    return payload.record if type(payload) is SessionRecord else _plain_record(index, entry)


@lru_cache(maxsize=512)
def _plain_record(index: int, entry: Entry) -> bytes:
    term, payload, _ = entry
    if isinstance(payload, Configuration):
        return encode(index, term, 0, Kind.CONFIGURATION, encode_configuration(payload))
    if payload == NO_OP:
        return encode(index, term, 0, Kind.NO_OP, b"")
    return encode(index, term, 0, Kind.COMMAND, msgspec.msgpack.encode(payload))
