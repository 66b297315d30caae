"""Snapshots to peers whose next entry is compacted away [RULES N5].

A transfer goes by a window of bytes that the receiver acknowledges. Where nothing moves for
a while (a chunk was lost, the connection broke) it goes on from where the receiver stands;
so it does when the receiver stands before what it had acknowledged, because it restarted.
How long a while is goes by how fast the receiver was, so that a slow one is not drowned in
what it has already. A rate may bound all transfers together; time spent waiting for it is
nobody's delay. Who failed waits before the next try.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec
from attrs import Factory, define, evolve, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from raft.core import events as ev
from raft.core import messages as ms
from raft.core import outputs as out
from raft.errors import NotFound, StorageDamaged
from raft.interfaces import SnapshotMeta
from raft.node.allowance import Allowance
from raft.node.snapshot_receiving import Origin
from raft.transport.wire import SnapshotChunk

if TYPE_CHECKING:
    from raft.node.shell import Shell

_log = Logger()

PIECE_BYTES = 256 * 1024
WINDOW_BYTES = 4 << 20
PIECES_A_SECOND = 10
"""Where a rate is set, at least so many pieces leave in a second."""
STALL_SECONDS = 1.0
"""Without progress for so long, sending goes back to where the receiver stands."""
LONGEST_STALL_SECONDS = 10.0
GIVE_UP_SECONDS = 30.0
"""Without any progress for so long a transfer has failed, however long it took until then."""
MOST_FALLS = 3
"""A receiver that restarts, or finds that what it has is not one snapshot, so often is let rest."""
FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 10.0
WAIT_SECONDS = 0.005


@define(eq=False)
class Transfer:
    """A snapshot that is being sent: the one up to `index`, to `peer`, in `term`."""

    peer: str
    index: int
    term: int
    sequence: int
    """Of its messages, echoed by the answers: those to an earlier transfer do not count."""
    moved_at: float
    """When the receiver came further for the last time."""
    acknowledged_bytes: int = 0
    stall_seconds: float = STALL_SECONDS
    fell_back: bool = False
    """The receiver has lost what it had acknowledged."""
    falls: int = 0
    installed: bool = False
    running: Deferred[None] | None = None

    def moved(self, now: float) -> None:
        """The receiver came further: what it took for that is what it may take again."""
        gap = now - self.moved_at
        self.moved_at = now
        self.stall_seconds = min(max(STALL_SECONDS, 2 * gap), LONGEST_STALL_SECONDS)

    def check_hope(self, now: float) -> None:
        """Raise `NotFound` where sending once more would be as vain as before."""
        if self.installed:
            return
        if now - self.moved_at > GIVE_UP_SECONDS:
            raise NotFound("the receiver came no further for too long")
        if self.falls > MOST_FALLS:
            raise NotFound("the receiver lost what it had again and again")

    def stalled(self) -> None:
        """The receiver came no further for a while: it may only be slow."""
        self.stall_seconds = min(2 * self.stall_seconds, LONGEST_STALL_SECONDS)


@define(eq=False)
class Reading:
    """The chunks of a snapshot file, read one by one in another thread: a disk may take its time.

    The file is closed when no thread reads it.
    """

    _chunks: Iterator[bytes]
    _in_thread: Callable[..., Deferred[object]]
    hash: hashlib._Hash = field(factory=hashlib.sha256, repr=False)
    """Of all that was read: what the receiver must have in the end, whenever it began."""
    _is_reading: bool = False
    _is_closed: bool = False

    def next(self) -> Deferred[Any]:
        """Fire with the next chunk, or None at the end; cancelling only forgets the caller."""
        told: Deferred[Any] = Deferred()
        self._is_reading = True
        self._in_thread(self._read_next).addBoth(self._read).addBoth(told.callback)
        return told

    def _read_next(self) -> bytes | None:
        found = next(self._chunks, None)
        if found is not None:
            self.hash.update(found)
        return found

    def _read(self, result: object) -> object:
        self._is_reading = False
        if self._is_closed:
            self.close()
        return result

    def close(self) -> None:
        """Read no more."""
        self._is_closed = True
        close = getattr(self._chunks, "close", None)
        if close is not None and not self._is_reading:
            close()


@define(eq=False)
class SendingSnapshots:
    """All snapshots that one leader sends, one to a peer."""

    shell: Shell
    in_thread: Callable[..., Deferred[object]]
    allowance: Allowance
    sent_bytes: int = 0
    """Machine bytes that left, those that were sent again included."""
    _transfers: dict[str, Transfer] = Factory(dict)
    _failures: dict[str, int] = Factory(dict)
    """How many transfers to a peer have failed since one was installed."""

    @property
    def is_busy(self) -> bool:
        """Whether a snapshot is being sent to anybody."""
        return bool(self._transfers)

    @property
    def indexes(self) -> list[int]:
        """Up to where the snapshots reach that are being sent."""
        return [transfer.index for transfer in self._transfers.values()]

    def begin(self, start: out.StartSnapshot) -> None:
        """Send the newest snapshot to a peer whose next entry is compacted away."""
        if start.peer in self._transfers:
            return
        server = self.shell.server
        transfer = Transfer(
            start.peer,
            server.snapshot_index,
            server.current_term,
            start.sequence,
            self.shell.clock(),
        )
        self._transfers[start.peer] = transfer
        transfer.running = Deferred.fromCoroutine(self._send(transfer))
        transfer.running.addErrback(self._failed, start.peer)
        transfer.running.addBoth(lambda _: self._ended(transfer))

    def _failed(self, failure: Failure, peer: str) -> None:
        if failure.check(CancelledError):
            return
        self._failures[peer] = self._failures.get(peer, 0) + 1
        _log.warn("A snapshot for {peer} failed: {reason}", peer=peer, reason=failure.value)
        if failure.check(StorageDamaged):
            # Nobody can have this one any more; the next attempt gets another.
            self.shell.snapshots.take_anew()

    def _backoff_seconds(self, peer: str) -> float:
        failures = self._failures.get(peer, 0)
        if not failures:
            return 0.0
        return min(FIRST_BACKOFF_SECONDS * 2.0 ** min(failures - 1, 16), LONGEST_BACKOFF_SECONDS)

    def _ended(self, transfer: Transfer) -> None:
        if transfer.installed:
            self._failures.pop(transfer.peer, None)
        self._transfers.pop(transfer.peer, None)
        if self.shell.running:
            ended = ev.SnapshotSent(transfer.peer, transfer.index, transfer.installed)
            self.shell.post(ended)

    async def _send(self, transfer: Transfer) -> None:
        clock = self.shell.clock
        if wait_seconds := self._backoff_seconds(transfer.peer):
            await self._wait(wait_seconds)
            transfer.moved_at = clock()
            # Newer ones may have taken the place of the one that was the newest before.
            transfer.index = self.shell.server.snapshot_index
        while not transfer.installed:
            transfer.fell_back = False
            await self._send_from_there(transfer)
            idle_since = clock()
            while not (transfer.installed or transfer.fell_back):
                if clock() - max(idle_since, transfer.moved_at) >= transfer.stall_seconds:
                    transfer.stalled()
                    break
                await self._wait(WAIT_SECONDS)
            transfer.check_hope(clock())

    async def _send_from_there(self, transfer: Transfer) -> None:
        """Send from where the receiver stands; return when all is sent or nothing moves."""
        try:
            meta, chunks = self.shell.storage.open_snapshot(transfer.index)
        except KeyError:
            reason = f"the snapshot up to {transfer.index} was removed behind a newer one"
            raise NotFound(reason) from None
        reading = Reading(chunks, self.in_thread)
        try:
            await self._send_chunks(transfer, meta, reading)
        finally:
            reading.close()

    async def _send_chunks(self, transfer: Transfer, meta: SnapshotMeta, reading: Reading) -> None:
        network = self.shell.network
        origin = msgspec.msgpack.encode(Origin(meta.time_us, meta.machine, meta.machine_version))
        message = _message(transfer, meta)
        offset = 0
        while (found := await reading.next()) is not None:
            for piece in self._pieces(found):
                offset += len(piece)
                # It may have had more than was known when this began, from before a restart here.
                if offset <= transfer.acknowledged_bytes:
                    continue
                if delay := self.allowance.claim(len(piece)):
                    await self._wait(delay)
                if not await self._has_window(transfer, offset):
                    return
                chunk = SnapshotChunk.of(offset - len(piece), piece, -1, origin)
                if not network.send(transfer.peer, message, b"", chunk):
                    return
                self.sent_bytes += len(piece)
                await self._wait(0)
        last = SnapshotChunk.of(offset, b"", offset, origin, reading.hash.digest())
        network.send(transfer.peer, evolve(message, done=True), b"", last)

    async def _has_window(self, transfer: Transfer, end: int) -> bool:
        """Wait until the piece that ends at byte `end` may leave; False where nothing moves."""
        clock = self.shell.clock
        since = clock()
        while not transfer.fell_back and end - transfer.acknowledged_bytes > WINDOW_BYTES:
            if clock() - max(since, transfer.moved_at) > transfer.stall_seconds:
                return False
            await self._wait(WAIT_SECONDS)
        return not (transfer.fell_back or transfer.installed)

    def _pieces(self, chunk: bytes) -> Iterator[bytes]:
        rate = self.allowance.bytes_per_second or PIECE_BYTES * PIECES_A_SECOND
        most_bytes = max(1, min(rate // PIECES_A_SECOND, PIECE_BYTES))
        for start in range(0, len(chunk), most_bytes):
            yield chunk[start : start + most_bytes]

    def _wait(self, seconds: float) -> Deferred[None]:
        return deferLater(self.shell.reactor, seconds, lambda: None)

    def acknowledged(self, peer: str, result: ms.InstallSnapshotResult) -> None:
        """Note how far a receiver has come."""
        transfer = self._transfers.get(peer)
        if transfer is None or result.term != transfer.term:
            return
        if result.done and result.match_index >= transfer.index:
            transfer.installed = True
        if result.sequence != transfer.sequence:
            return
        if result.offset_bytes > transfer.acknowledged_bytes:
            transfer.moved(self.shell.clock())
        elif result.offset_bytes < transfer.acknowledged_bytes:
            transfer.fell_back = True
            transfer.falls += 1
        transfer.acknowledged_bytes = result.offset_bytes

    def role_changed(self, change: out.RoleChanged) -> None:
        """End what this server sends as a leader it is no more, or of an earlier term."""
        for transfer in list(self._transfers.values()):
            leads = change.role is out.Role.LEADER and change.term == transfer.term
            if not leads and transfer.running is not None:
                transfer.running.cancel()

    def stop(self) -> None:
        """End all."""
        for transfer in list(self._transfers.values()):
            if transfer.running is not None:
                transfer.running.cancel()


def _message(transfer: Transfer, meta: SnapshotMeta) -> ms.InstallSnapshot:
    return ms.InstallSnapshot(
        transfer.term,
        meta.index,
        meta.term,
        meta.configuration,
        meta.configuration_index,
        transfer.sequence,
    )
