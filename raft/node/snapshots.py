"""Snapshots on their way: from the machine to disk, to a peer, and from a peer to disk.

Taking one goes on beside `apply`: chunks are made in the reactor's thread, a few
milliseconds at a time, and written in another. Sending goes by a window of bytes that
the receiver acknowledges; a broken connection resumes where the receiver stands.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec
from attrs import Factory, define, evolve
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from raft.core import events as ev
from raft.core import messages as ms
from raft.core import outputs as out
from raft.errors import NotFound, RaftError
from raft.interfaces import ISnapshotWriter, SnapshotMeta
from raft.transport.wire import SnapshotChunk

if TYPE_CHECKING:
    from raft.node.shell import Shell

_log = Logger()

PIECE_BYTES = 256 * 1024
WINDOW_BYTES = 4 << 20
STALL_SECONDS = 1.0
"""Without an acknowledgement for so long, sending goes back to where the receiver stands."""
GIVE_UP_SECONDS = 30.0
WAIT_SECONDS = 0.005


class _Origin(msgspec.Struct, array_like=True, frozen=True):
    """What a snapshot says of itself that the protocol's message does not."""

    time_us: int
    machine: str
    machine_version: int


@define(eq=False)
class _Incoming:
    """A snapshot that is arriving."""

    sender: str
    index: int
    term: int
    writer: ISnapshotWriter
    offset_bytes: int = 0
    finished: bool = False


@define(eq=False)
class _Outgoing:
    """A snapshot that is being sent."""

    index: int
    acknowledged_bytes: int = 0
    heard_at: float = 0.0
    done: bool = False
    installed: bool = False


@define(eq=False)
class Snapshots:
    """All snapshot traffic of one server."""

    shell: Shell
    every_entries: int
    rng: random.Random
    taking: Deferred[int] | None = None
    taken_count: int = 0
    last_error: str = ""
    _next_at: int = 0
    _incoming: _Incoming | None = None
    _outgoing: dict[str, tuple[_Outgoing, Deferred[None]]] = Factory(dict)

    # Taking.

    def consider(self, last_applied: int) -> None:
        """Take a snapshot where enough entries were applied since the last [RULES N3]."""
        if not self.every_entries or self.taking is not None:
            return
        since = last_applied - self.shell.server.snapshot_index
        if since < self.every_entries or last_applied < self._next_at:
            return
        # The servers of a cluster should not all be busy with theirs at the same time.
        if not self._next_at:
            self._next_at = last_applied + self.rng.randrange(max(1, self.every_entries // 4))
            return
        self._next_at = 0
        self.take().addErrback(self._failed_to_take)

    def _failed_to_take(self, failure: object) -> None:
        self.last_error = str(getattr(failure, "value", failure))
        self._next_at = self.shell.replica.last_applied + self.every_entries // 10 + 1
        _log.warn("No snapshot was taken: {reason}; the log stays", reason=self.last_error)

    def take(self) -> Deferred[int]:
        """Take a snapshot of what is applied; fires with its index once the log is marked."""
        waiting: Deferred[int] = Deferred()
        if self.taking is not None:
            self.taking.addCallbacks(*_passing_to(waiting))
            return waiting
        taking = self.taking = Deferred.fromCoroutine(self._take())
        taking.addCallbacks(*_passing_to(waiting))
        taking.addBoth(self._taken)
        return waiting

    def _taken(self, result: object) -> object:
        self.taking = None
        return result

    async def _take(self) -> int:
        shell = self.shell
        if shell.replica.last_applied <= shell.server.snapshot_index:
            if not shell.server.snapshot_index:
                raise NotFound("nothing is applied yet")
            return shell.server.snapshot_index
        meta, chunks = shell.replica.snapshot()
        writer = shell.storage.create_snapshot(meta)
        try:
            for chunk in chunks:
                if chunk:
                    await self._in_thread(writer.write, chunk)
                else:
                    await deferLater(shell.reactor, 0)
            await self._in_thread(writer.commit)
        except BaseException:
            close = getattr(chunks, "close", None)
            if close is not None:
                close()
            await self._in_thread(writer.abort)
            raise
        keep = min(shell.bounds.trailing_entries, meta.index)
        marked: Deferred[None] = Deferred()
        shell.mark_snapshot(meta.index, meta.term, keep, lambda: marked.callback(None))
        await marked
        shell.post(ev.SnapshotSaved(meta.index, keep))
        self.taken_count += 1
        return meta.index

    def _in_thread(self, call: object, *arguments: object) -> Deferred[object]:
        reactor = self.shell.reactor
        return deferToThreadPool(reactor, reactor.getThreadPool(), call, *arguments)  # type: ignore[arg-type]

    # Sending.

    def send(self, start: out.StartSnapshot) -> None:
        """Send the newest snapshot to a peer whose next entry is compacted away."""
        if start.peer in self._outgoing:
            return
        shell = self.shell
        outgoing = _Outgoing(shell.server.snapshot_index, heard_at=shell.clock())
        sending = Deferred.fromCoroutine(self._send(start, outgoing))
        self._outgoing[start.peer] = (outgoing, sending)
        sending.addErrback(self._failed_to_send, start.peer)
        sending.addBoth(lambda _: self._sent(start.peer, outgoing))

    def _failed_to_send(self, failure: object, peer: str) -> None:
        reason = getattr(failure, "value", failure)
        if not isinstance(reason, CancelledError):
            _log.warn("A snapshot for {peer} failed: {reason}", peer=peer, reason=reason)

    def _sent(self, peer: str, outgoing: _Outgoing) -> None:
        self._outgoing.pop(peer, None)
        if self.shell.running:
            self.shell.post(ev.SnapshotSent(peer, outgoing.index, outgoing.installed))

    async def _send(self, start: out.StartSnapshot, outgoing: _Outgoing) -> None:
        shell = self.shell
        began = shell.clock()
        term = shell.server.current_term
        while not outgoing.installed:
            await self._send_from(start, outgoing, term, outgoing.acknowledged_bytes)
            while not outgoing.installed and shell.clock() - outgoing.heard_at < STALL_SECONDS:
                await deferLater(shell.reactor, WAIT_SECONDS)
            if shell.clock() - max(began, outgoing.heard_at) > GIVE_UP_SECONDS:
                raise NotFound("the receiver acknowledged nothing for too long")

    async def _send_from(
        self, start: out.StartSnapshot, outgoing: _Outgoing, term: int, skip_bytes: int
    ) -> None:
        """Send from byte `skip_bytes` on; return when all is sent or nothing moves."""
        shell = self.shell
        meta, chunks = shell.storage.open_snapshot(outgoing.index)
        origin = msgspec.msgpack.encode(_Origin(meta.time_us, meta.machine, meta.machine_version))
        message = ms.InstallSnapshot(
            term,
            meta.index,
            meta.term,
            meta.configuration,
            meta.configuration_index,
            start.sequence,
        )
        offset = 0
        outgoing.heard_at = shell.clock()
        for piece in _pieces(chunks):
            if offset + len(piece) <= skip_bytes:
                offset += len(piece)
                continue
            while offset + len(piece) - outgoing.acknowledged_bytes > WINDOW_BYTES:
                if shell.clock() - outgoing.heard_at > STALL_SECONDS:
                    return
                await deferLater(shell.reactor, WAIT_SECONDS)
            chunk = SnapshotChunk.of(offset, piece, -1, origin)
            if not shell.network.send(start.peer, message, b"", chunk):
                return
            offset += len(piece)
            await deferLater(shell.reactor, 0)
        last = SnapshotChunk.of(offset, b"", offset, origin)
        shell.network.send(start.peer, evolve(message, done=True), b"", last)

    def acknowledged(self, peer: str, result: ms.InstallSnapshotResult) -> None:
        """Note how far a receiver has come."""
        if peer not in self._outgoing:
            return
        outgoing = self._outgoing[peer][0]
        if result.offset_bytes > outgoing.acknowledged_bytes:
            outgoing.acknowledged_bytes = result.offset_bytes
            outgoing.heard_at = self.shell.clock()
        if result.done and result.match_index >= outgoing.index:
            outgoing.installed = True

    def role_changed(self, change: out.RoleChanged) -> None:
        """Stop sending when this server does not lead any more."""
        if change.role is not out.Role.LEADER:
            for _, sending in list(self._outgoing.values()):
                sending.cancel()

    # Receiving.

    def receive(
        self, sender: str, message: ms.InstallSnapshot, chunk: SnapshotChunk
    ) -> ms.InstallSnapshot | None:
        """Write a chunk; return what the core should hear of it at once.

        The last chunk is told to the core later, when the snapshot is durable.
        """
        if message.term < self.shell.server.current_term:
            return evolve(message, done=False)
        if message.last_included_index <= self.shell.server.commit_index:
            return evolve(message, done=True)
        try:
            incoming = self._incoming_for(sender, message, chunk)
            if incoming is None or incoming.finished:
                return evolve(message, done=False)
            if chunk.offset_bytes == incoming.offset_bytes and chunk.chunk:
                incoming.writer.write(chunk.chunk)
                incoming.offset_bytes += len(chunk.chunk)
        except (RaftError, msgspec.MsgspecError) as error:
            # The leader goes on trying; this server serves what it has.
            _log.warn("A snapshot of {sender} was dropped: {error}", sender=sender, error=error)
            self._drop_incoming()
            return evolve(message, done=False)
        if message.done and chunk.total_bytes == incoming.offset_bytes:
            incoming.finished = True
            self._in_thread(incoming.writer.commit).addCallbacks(
                lambda _: self._received(incoming, message), self._failed_to_receive
            )
        return evolve(message, done=False)

    def _incoming_for(
        self, sender: str, message: ms.InstallSnapshot, chunk: SnapshotChunk
    ) -> _Incoming | None:
        incoming = self._incoming
        key = (sender, message.last_included_index, message.last_included_term)
        if incoming and (incoming.sender, incoming.index, incoming.term) == key:
            return incoming
        if chunk.offset_bytes:
            return None
        self._drop_incoming()
        origin = msgspec.msgpack.decode(chunk.meta, type=_Origin)
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
        self._incoming = _Incoming(sender, meta.index, meta.term, writer)
        return self._incoming

    def _received(self, incoming: _Incoming, message: ms.InstallSnapshot) -> None:
        if self._incoming is incoming:
            self._incoming = None
        if self.shell.running:
            self.shell.post(ev.Received(incoming.sender, evolve(message, done=True)))

    def _failed_to_receive(self, failure: object) -> None:
        reason = getattr(failure, "value", failure)
        _log.warn("A snapshot could not be stored: {reason}", reason=reason)
        self._drop_incoming()
        if isinstance(reason, RaftError):
            self.shell.fail(reason)

    def received_bytes(self, sender: str) -> int:
        """Return how much of `sender`'s snapshot is here: what its window goes by."""
        incoming = self._incoming
        return incoming.offset_bytes if incoming and incoming.sender == sender else 0

    def _drop_incoming(self) -> None:
        incoming, self._incoming = self._incoming, None
        if incoming is not None and not incoming.finished:
            incoming.writer.abort()

    def stop(self) -> None:
        """Give up what is under way."""
        self._drop_incoming()
        if self.taking is not None:
            self.taking.addErrback(lambda _: 0)
            self.taking.cancel()
        for _, sending in list(self._outgoing.values()):
            sending.cancel()


def _pieces(chunks: Iterator[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        for start in range(0, len(chunk), PIECE_BYTES):
            yield chunk[start : start + PIECE_BYTES]


def _passing_to(waiting: Deferred[int]):  # type: ignore[no-untyped-def]
    def passed(index: int) -> int:
        waiting.callback(index)
        return index

    def failed(failure: object) -> None:
        waiting.errback(failure)  # type: ignore[arg-type]

    return passed, failed
