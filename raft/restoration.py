"""Bringing a backup back: it travels through the log, so that all servers take it at one place.

The leader appends the backup as entries of one kind: pieces in order, then an end that names size
and digest of all of them. A replica keeps no piece: at the end it reads them once more from its
log, checks the digest, and only then lets the machine take them. What becomes of each entry is a
function of the log alone, so either every server takes the backup or none does:

- a piece counts where it goes on exactly where the restoration under way has come to; one at
  offset 0 begins a restoration, and ends any other;
- a new term ends a restoration (a leader's no-op), and so does an entry that gives it up;
- an end whose size or digest is not that of the pieces changes nothing.

While a restoration is under way no snapshot is taken, so the log never begins between its first
piece and its end: whoever applies the end has the pieces. Payloads are MessagePack arrays:

    [0, id, offset, piece]         id: 16 bytes that nobody else would draw
    [1, id, size, digest, meta]    SHA-256 of meta and all pieces; meta as in a backup file
    [2, id]                        given up
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Annotated, Final

import msgspec
from attrs import define, field, frozen

from raft.backup import BackupMeta, decode_meta
from raft.errors import (
    BadBackup,
    BadCommand,
    InvariantViolated,
    RestoreAbandoned,
    RestoreInProgress,
)
from raft.outcomes import NOTHING, Outcomes, Result
from raft.storage.records import Kind, decode

PIECE_BYTES: Final = 256 * 1024
"""How much of a backup one entry carries, at most."""
ID_BYTES: Final = 16
READ_BYTES: Final = 1 << 20

ReadEntries = Callable[[int, int, int], tuple[int, bytes]]
"""Reads [start, end) of the log, of so many bytes at most, as `IStorage.read` does."""

_Id = Annotated[bytes, msgspec.Meta(min_length=ID_BYTES, max_length=ID_BYTES)]
_Size = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
_Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
_Piece = Annotated[bytes, msgspec.Meta(min_length=1, max_length=1 << 20)]


class Piece(msgspec.Struct, array_like=True, frozen=True, tag=0):
    """Bytes of the backup's content, from `offset` on."""

    id: _Id
    offset: _Size
    piece: _Piece


class End(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """All pieces were given: what they must be together."""

    id: _Id
    size_bytes: _Size
    digest: _Digest
    meta: bytes


class GiveUp(msgspec.Struct, array_like=True, frozen=True, tag=2):
    """There will be no more pieces."""

    id: _Id


Step = Piece | End | GiveUp

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Step).decode


def encode_step(step: Step) -> bytes:
    """Return the payload of a RESTORE entry."""
    return _encode(step)


def _step(payload: bytes) -> Step | None:
    try:
        step: Step = _decode(payload)
    except msgspec.MsgspecError:
        return None
    return step


@frozen
class Restoration:
    """The restoration under way: its id, the index of its first piece, the bytes so far."""

    id: bytes
    first_index: int
    size_bytes: int


def _no_log(start: int, end: int, _: int) -> tuple[int, bytes]:
    raise InvariantViolated(f"nobody has told the replica where to read entries [{start}, {end})")


@define(eq=False)
class Restorations:
    """What a replica knows of restorations: part of the replicated state.

    Attributes:
        outcomes: encodes refusals, and keeps the digest of them.
        current: the one under way, or None.
        read: reads the log.
    """

    outcomes: Outcomes
    current: Restoration | None = None
    read: ReadEntries = field(default=_no_log)

    def check_none(self) -> None:
        """Raise `RestoreInProgress` where a snapshot would be of a moment within a restoration."""
        if self.current is not None:
            raise RestoreInProgress()

    def apply(
        self, index: int, payload: bytes, take: Callable[[BackupMeta, Iterator[bytes]], None]
    ) -> Result:
        """Apply the RESTORE entry at `index`; return its outcome.

        `take` is given a backup that is whole: what it says of itself, and its content. It raises
        `BadBackup` where the machine refused that, and nothing is changed.
        """
        step = _step(payload)
        if step is None:
            return self.outcomes.refused(BadCommand("the entry restores nothing"), index)
        try:
            if isinstance(step, Piece):
                self._add(index, step)
                return NOTHING
            self._check_current(step.id)
            found, self.current = self.current, None
            if isinstance(step, GiveUp) or found is None:
                return NOTHING
            meta = self._checked(found, index, step)
            take(meta, self._pieces(found, index))
        except (RestoreAbandoned, BadBackup) as error:
            return self.outcomes.refused(error, index)
        return "", _encode(index)

    def _check_current(self, id: bytes) -> None:
        if self.current is None or self.current.id != id:
            raise RestoreAbandoned("a new leader was elected, or another backup is being restored")

    def _add(self, index: int, step: Piece) -> None:
        if not step.offset:
            self.current = Restoration(step.id, index, len(step.piece))
            return
        self._check_current(step.id)
        current = self.current
        if current is None or current.size_bytes != step.offset:
            raise RestoreAbandoned(f"the piece at {step.offset} does not follow the one before")
        size_bytes = step.offset + len(step.piece)
        self.current = Restoration(current.id, current.first_index, size_bytes)

    def _checked(self, found: Restoration, index: int, end: End) -> BackupMeta:
        """Return what the backup says of itself, if the pieces in the log are all of it."""
        digest = hashlib.sha256(end.meta)
        for piece in self._pieces(found, index):
            digest.update(piece)
        if (found.size_bytes, digest.digest()) != (end.size_bytes, end.digest):
            raise BadBackup("its bytes have another size or digest than it should: nothing is done")
        return decode_meta(end.meta)

    def _pieces(self, found: Restoration, end: int) -> Iterator[bytes]:
        """Yield the pieces from the log again; entries of others stand between them."""
        index = found.first_index
        offset = 0
        while index < end:
            try:
                index, records = self.read(index, end, READ_BYTES)
            except KeyError as error:
                raise InvariantViolated(f"entry {index}, of a restoration, is gone") from error
            for record in decode(records):
                step = _step(record.payload) if record.kind == Kind.RESTORE else None
                # What was refused when it was applied does not go on at this offset either.
                if isinstance(step, Piece) and (step.id, step.offset) == (found.id, offset):
                    offset += len(step.piece)
                    yield step.piece
        if offset != found.size_bytes:
            raise InvariantViolated(f"{offset} bytes of a restoration of {found.size_bytes} found")
