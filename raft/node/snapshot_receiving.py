"""A snapshot that arrives: written as it comes, told to the core once it is durable."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
from attrs import define, evolve, field
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from raft.codec import UNREADABLE
from raft.core import events as ev
from raft.core import messages as ms
from raft.errors import RaftError, StateMachineFailed
from raft.interfaces import ISnapshotWriter, SnapshotMeta
from raft.transport.wire import SnapshotChunk

if TYPE_CHECKING:
    from raft.node.shell import Shell


class Origin(msgspec.Struct, array_like=True, frozen=True):
    """What a snapshot says of itself that the protocol's message does not."""

    time_us: int
    machine: str
    machine_version: int


_decode_origin = msgspec.msgpack.Decoder(Origin).decode


def read_origin(meta: bytes) -> Origin:
    """Return what a snapshot says of itself; raise `StateMachineFailed` where it says nothing."""
    try:
        return _decode_origin(meta)
    except UNREADABLE as error:
        raise StateMachineFailed(f"the snapshot's meta cannot be read: {error}") from error


@define(eq=False)
class Arrival:
    """A snapshot that is arriving."""

    sender: str
    index: int
    term: int
    writer: ISnapshotWriter
    hash: hashlib._Hash = field(factory=hashlib.sha256, repr=False)
    """Of all that arrived."""
    offset_bytes: int = 0
    finished: bool = False

    def write(self, piece: bytes) -> None:
        """Add what follows."""
        self.writer.write(piece)
        self.hash.update(piece)
        self.offset_bytes += len(piece)

    def check_whole(self, last: SnapshotChunk) -> None:
        """Raise `StateMachineFailed` where what arrived is not what was sent, from end to end.

        Each piece has a checksum; but a leader that was restarted may have another snapshot of
        the same index and term by now, and the two must not be joined.
        """
        if self.offset_bytes > last.total_bytes:
            text = f"{self.offset_bytes} bytes of it arrived, and it has {last.total_bytes}"
            raise StateMachineFailed(text)
        if last.digest and last.digest != self.hash.digest():
            raise StateMachineFailed("its pieces are not of one snapshot: their digest is another")


@define(eq=False)
class Receiving:
    """Takes one snapshot at a time; another one takes its place."""

    shell: Shell
    in_thread: Callable[..., Deferred[object]]
    stored_bytes: int = 0
    """The size of the last one that was stored."""
    _arrival: Arrival | None = None

    def receive(
        self, sender: str, message: ms.InstallSnapshot, chunk: SnapshotChunk
    ) -> ms.InstallSnapshot:
        """Write a chunk; return what the core should hear of it at once.

        The last chunk is told to the core later, when the snapshot is durable.
        """
        server = self.shell.server
        if message.term < server.current_term:
            return evolve(message, done=False)
        if message.last_included_index <= server.commit_index:
            if self._arrival is not None and self._arrival.index <= server.commit_index:
                # The rest came by the log, or by another snapshot.
                self.drop()
            return evolve(message, done=True)
        try:
            self._take_in(sender, message, chunk)
        except RaftError as error:
            # The leader goes on trying; this server serves what it has. A disk that failed
            # stops the node by itself.
            text = "A snapshot of {sender} was dropped: {error}"
            self.shell.complaints.warn(text, sender, sender=sender, error=error)
            self.drop()
        return evolve(message, done=False)

    def _take_in(self, sender: str, message: ms.InstallSnapshot, chunk: SnapshotChunk) -> None:
        arrival = self._arrival_of(sender, message, chunk)
        if arrival is None or arrival.finished:
            return
        # A leader that was restarted may cut its pieces at other places than before.
        known_bytes = arrival.offset_bytes - chunk.offset_bytes
        if 0 <= known_bytes < len(chunk.chunk):
            arrival.write(chunk.chunk[known_bytes:])
        if message.done and 0 <= chunk.total_bytes <= arrival.offset_bytes:
            arrival.check_whole(chunk)
            arrival.finished = True
            self.in_thread(arrival.writer.commit).addCallbacks(
                lambda _: self._stored(arrival, message),
                lambda failure: self._not_stored(arrival, failure),
            )

    def _arrival_of(
        self, sender: str, message: ms.InstallSnapshot, chunk: SnapshotChunk
    ) -> Arrival | None:
        arrival = self._arrival
        key = (sender, message.last_included_index, message.last_included_term)
        if arrival and (arrival.sender, arrival.index, arrival.term) == key:
            return arrival
        if chunk.offset_bytes:
            return None
        self.drop()
        origin = read_origin(chunk.meta)
        meta = SnapshotMeta(
            message.last_included_index,
            message.last_included_term,
            message.configuration,
            message.configuration_index,
            origin.time_us,
            origin.machine,
            origin.machine_version,
        )
        writer = self.shell.storage.create_snapshot(meta)
        self._arrival = Arrival(sender, meta.index, meta.term, writer)
        return self._arrival

    def _stored(self, arrival: Arrival, message: ms.InstallSnapshot) -> None:
        self._forget(arrival)
        self.stored_bytes = arrival.offset_bytes
        if self.shell.running:
            self.shell.post(ev.Received(arrival.sender, evolve(message, done=True)))

    def _not_stored(self, arrival: Arrival, failure: Failure) -> None:
        self._forget(arrival)
        self.shell.complaints.warn(
            "A snapshot of {sender} could not be stored: {reason}",
            arrival.sender,
            sender=arrival.sender,
            reason=failure.value,
        )

    def _forget(self, arrival: Arrival) -> None:
        if self._arrival is arrival:
            self._arrival = None

    def received_bytes(self, sender: str) -> int:
        """Return how much of `sender`'s snapshot is here: what its window goes by."""
        arrival = self._arrival
        return arrival.offset_bytes if arrival and arrival.sender == sender else 0

    def drop_unless_of(self, leader: str) -> None:
        """Give up what another server than `leader` has sent: nobody will send the rest of it."""
        if self._arrival is not None and self._arrival.sender != leader:
            self.drop()

    def drop(self) -> None:
        """Give up what is arriving, but for what is being made durable."""
        arrival, self._arrival = self._arrival, None
        if arrival is not None and not arrival.finished:
            arrival.writer.abort()
