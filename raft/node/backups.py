"""Backups that are being taken from this node: a snapshot of its own, read out piece by piece.

A snapshot file is what a backup is made of: it is consistent, it is on the disk, and it stays
readable while newer ones take its place. Pieces are read in another thread and asked for one after
the other, so that one piece for each backup is all that is ever in memory.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from attrs import Factory, define
from twisted.internet.defer import Deferred

from raft.backup import BackupMeta, BackupWriter, decode_meta, encode_meta
from raft.errors import NotFound, Overloaded, RaftError, StorageDamaged
from raft.interfaces import ReadTerms, SnapshotMeta
from raft.node.answers import Outcome
from raft.node.reads import ReadBatch

if TYPE_CHECKING:
    from raft.service import RaftService

PIECE_BYTES: Final = 256 * 1024
MOST_BACKUPS: Final = 4
"""How many backups may be read out of a node at the same time."""
IDLE_SECONDS: Final = 60.0
"""A backup of which nobody asks for the next piece for so long is given up."""
MOST_TRIES: Final = 5

_LINEARIZABLE: Final = ReadTerms("linearizable")


@define(eq=False)
class Source:
    """One backup that is being read out."""

    chunks: Iterator[bytes]
    timer: Any
    number: int = 0
    """Of the next piece; the one before may be asked for once more."""
    last: bytes = b""
    held: bytes = b""
    is_busy: bool = False
    is_dropped: bool = False

    def next_piece(self) -> bytes:
        """Return the next piece, or nothing at the end. Blocks."""
        pieces, size = [self.held], len(self.held)
        while size < PIECE_BYTES and (chunk := next(self.chunks, None)) is not None:
            pieces.append(chunk)
            size += len(chunk)
        joined = b"".join(pieces)
        self.held = joined[PIECE_BYTES:]
        return joined[:PIECE_BYTES]

    def close(self) -> None:
        """Close the snapshot's file, unless a thread reads it; then it is closed afterwards."""
        self.is_dropped = True
        if self.timer is not None and self.timer.active():
            self.timer.cancel()
        self.timer = None
        if not self.is_busy:
            close = getattr(self.chunks, "close", None)
            if close is not None:
                close()


@define(eq=False)
class Backups:
    """Gives backups of one node's state, to its clients and to this process."""

    node: RaftService
    _open: dict[str, Source] = Factory(dict)
    _beginning: int = 0

    async def begin(self, timeout_seconds: float) -> tuple[str, bytes]:
        """Begin a backup of the state at this moment or later; return its name and its meta.

        Raises:
            RaftError: there is no leader, no quorum, or the snapshot could not be taken.
        """
        node = self.node
        deadline = node.clock() + node.checked_seconds(timeout_seconds)
        if len(self._open) + self._beginning >= MOST_BACKUPS:
            raise Overloaded(f"{MOST_BACKUPS} backups are being taken already")
        self._beginning += 1
        try:
            wanted = await self._confirmed_index(deadline)
            meta, chunks = await self._snapshot(wanted)
        finally:
            self._beginning -= 1
        name = secrets.token_hex(8)
        self._open[name] = source = Source(chunks, None)
        self._wait(name, source)
        return name, encode_meta(self._meta(meta))

    def _meta(self, meta: SnapshotMeta) -> BackupMeta:
        return BackupMeta(
            self.node.identity.cluster_id,
            meta.index,
            meta.term,
            meta.time_us,
            meta.machine,
            meta.machine_version,
            self.node.id,
            int(time.time()),
        )

    def _confirmed_index(self, deadline: float) -> Deferred[int]:
        """Fire with an index that is applied here and holds all that was answered before."""
        confirmed: Deferred[int] = Deferred(lambda _: batch.finish([]))

        def answer(result: list[Outcome] | RaftError) -> None:
            if confirmed.called:
                return
            if isinstance(result, RaftError):
                confirmed.errback(result)
            else:
                confirmed.callback(batch.index)

        batch = ReadBatch([], deadline, answer, _LINEARIZABLE)
        self.node.shell.read(batch)
        return confirmed

    async def _snapshot(self, wanted: int) -> tuple[SnapshotMeta, Iterator[bytes]]:
        """Open a snapshot of the state at `wanted` or later."""
        node = self.node
        for _ in range(MOST_TRIES):
            # The one that is being taken already may be of a moment before.
            index = await node.take_snapshot()
            if index >= wanted:
                with suppress(KeyError):
                    return node.storage.open_snapshot(index)
        raise NotFound(f"no snapshot up to entry {wanted} or later could be kept; try again")

    async def piece(self, name: str, number: int) -> bytes:
        """Return piece `number` of a backup, counted from 0; nothing after the last one.

        Pieces are asked for in order. The last one that was given may be asked for again: its
        answer may have been lost with a connection.

        Raises:
            NotFound: there is no such backup (any more), or the piece is out of order.
            RaftError: the snapshot cannot be read.
        """
        source = self._open.get(name)
        if source is None or source.is_busy or not source.number - 1 <= number <= source.number:
            raise NotFound(f"piece {number} of the backup {name!r}: it was given up; begin anew")
        if number == source.number:
            source.is_busy = True
            try:
                source.last = await self._read(source)
            except BaseException:
                self._drop(name)
                raise
            source.number += 1
        if not source.is_dropped:
            self._wait(name, source)
        return source.last

    async def _read(self, source: Source) -> bytes:
        try:
            piece: Any = await self.node.shell.snapshots.threads.call(source.next_piece)
            return bytes(piece)
        except StorageDamaged:
            # Whoever tries again gets another one.
            self.node.shell.snapshots.take_anew()
            raise
        finally:
            source.is_busy = False
            if source.is_dropped:
                source.close()

    def _wait(self, name: str, source: Source) -> None:
        if source.timer is not None and source.timer.active():
            source.timer.cancel()
        source.timer = self.node.reactor.callLater(IDLE_SECONDS, self._drop, name)

    def _drop(self, name: str) -> None:
        source = self._open.pop(name, None)
        if source is not None:
            source.close()

    def end(self, name: str) -> None:
        """Forget a backup: it is complete, or nobody wants it any more."""
        self._drop(name)

    def close(self) -> None:
        """Give up all of them."""
        for name in list(self._open):
            self._drop(name)

    async def save(self, path: str, timeout_seconds: float) -> BackupMeta:
        """Write a backup of this node to the file `path`; return what it says of itself."""
        name, meta_bytes = await self.begin(timeout_seconds)
        call = self.node.shell.snapshots.threads.call
        writer: Any = None
        try:
            writer = await call(BackupWriter.open, path, meta_bytes)
            number = 0
            while piece := await self.piece(name, number):
                await call(writer.write, piece)
                number += 1
            await call(writer.commit)
        except BaseException:
            if writer is not None:
                await call(writer.abort)
            raise
        finally:
            self.end(name)
        return decode_meta(meta_bytes)
