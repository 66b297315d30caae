"""Snapshots to peers whose next entry is compacted away [RULES N5].

A transfer goes by a window of bytes that the receiver acknowledges. Where nothing moves for
a while (a chunk was lost, the connection broke) it goes on from where the receiver stands;
so it does when the receiver stands before what it had acknowledged, because it restarted.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec
from attrs import Factory, define, evolve
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from raft.core import events as ev
from raft.core import messages as ms
from raft.core import outputs as out
from raft.errors import NotFound
from raft.interfaces import SnapshotMeta
from raft.node.snapshot_receiving import Origin
from raft.transport.wire import SnapshotChunk

if TYPE_CHECKING:
    from raft.node.shell import Shell

_log = Logger()

PIECE_BYTES = 256 * 1024
WINDOW_BYTES = 4 << 20
SKIPPED_AT_ONCE = 16
"""How many pieces are read and skipped in one turn."""
STALL_SECONDS = 1.0
"""Without progress for so long, sending goes back to where the receiver stands."""
GIVE_UP_SECONDS = 30.0
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
    fell_back: bool = False
    """The receiver has lost what it had acknowledged."""
    installed: bool = False
    running: Deferred[None] | None = None


@define(eq=False)
class SendingSnapshots:
    """All snapshots that one leader sends, one to a peer."""

    shell: Shell
    _transfers: dict[str, Transfer] = Factory(dict)

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
        if not failure.check(CancelledError):
            _log.warn("A snapshot for {peer} failed: {reason}", peer=peer, reason=failure.value)

    def _ended(self, transfer: Transfer) -> None:
        self._transfers.pop(transfer.peer, None)
        if self.shell.running:
            ended = ev.SnapshotSent(transfer.peer, transfer.index, transfer.installed)
            self.shell.post(ended)

    async def _send(self, transfer: Transfer) -> None:
        clock = self.shell.clock
        while not transfer.installed:
            transfer.fell_back = False
            await self._send_from(transfer, transfer.acknowledged_bytes)
            idle_since = clock()
            while not (transfer.installed or transfer.fell_back):
                if clock() - max(idle_since, transfer.moved_at) >= STALL_SECONDS:
                    break
                await self._wait(WAIT_SECONDS)
            if not transfer.installed and clock() - transfer.moved_at > GIVE_UP_SECONDS:
                raise NotFound("the receiver came no further for too long")

    async def _send_from(self, transfer: Transfer, skip_bytes: int) -> None:
        """Send from byte `skip_bytes` on; return when all is sent or nothing moves."""
        meta, chunks = self.shell.storage.open_snapshot(transfer.index)
        try:
            await self._send_pieces(transfer, meta, _pieces(chunks), skip_bytes)
        finally:
            close = getattr(chunks, "close", None)
            if close is not None:
                close()

    async def _send_pieces(
        self, transfer: Transfer, meta: SnapshotMeta, pieces: Iterator[bytes], skip_bytes: int
    ) -> None:
        network = self.shell.network
        origin = msgspec.msgpack.encode(Origin(meta.time_us, meta.machine, meta.machine_version))
        message = _message(transfer, meta)
        offset = skipped = 0
        for piece in pieces:
            if offset + len(piece) <= skip_bytes:
                offset += len(piece)
                skipped += 1
                if skipped % SKIPPED_AT_ONCE == 0:
                    await self._wait(0)
                continue
            if not await self._has_window(transfer, offset + len(piece)):
                return
            chunk = SnapshotChunk.of(offset, piece, -1, origin)
            if not network.send(transfer.peer, message, b"", chunk):
                return
            offset += len(piece)
            await self._wait(0)
        last = SnapshotChunk.of(offset, b"", offset, origin)
        network.send(transfer.peer, evolve(message, done=True), b"", last)

    async def _has_window(self, transfer: Transfer, end: int) -> bool:
        """Wait until the piece that ends at byte `end` may leave; False where nothing moves."""
        clock = self.shell.clock
        since = clock()
        while not transfer.fell_back and end - transfer.acknowledged_bytes > WINDOW_BYTES:
            if clock() - max(since, transfer.moved_at) > STALL_SECONDS:
                return False
            await self._wait(WAIT_SECONDS)
        return not (transfer.fell_back or transfer.installed)

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
            transfer.moved_at = self.shell.clock()
        elif result.offset_bytes < transfer.acknowledged_bytes:
            transfer.fell_back = True
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


def _pieces(chunks: Iterator[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        for start in range(0, len(chunk), PIECE_BYTES):
            yield chunk[start : start + PIECE_BYTES]
