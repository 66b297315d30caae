"""The rolling digest: what all servers of a cluster must have made of the same entries.

Two servers that have applied the same entry must have the same digest there, or the machine of
one of them has diverged: it looked at a clock, at chance, at the order of a set, or its memory is
bad. The digest covers, in the order of the log, the result of every command or the code of its
error (never an error's text), every session that ended, and, from one multiple of 256 entries to
the next, the bytes of the entries themselves. What it costs is paid once for a
run of entries: a command whose result is None adds nothing to that.

The digest is 64 bits: the CRC-32 of all that was told, and the CRC-32 of the same bytes after each
was put in another's place by a fixed table. The second does not follow from the first, for the
table is not linear; both go on from any index with nothing but themselves in hand, so that they
travel in snapshots and notes. `raft.digest` is no protection from a server that lies.

Of the last entries it can tell what it was at each of them (`at`): that is how the first entry at
which two servers differ is found.

*Told* is a stream of MessagePack values, in turn the index of an entry and what came of it. An
index may come several times, or, where nothing came of an entry, not at all.
"""

from __future__ import annotations

import struct
from collections import deque
from hashlib import sha256
from typing import Any, Final
from zlib import crc32

import msgspec
from attrs import define, field

from raft.codec import ENCODE_ERRORS
from raft.errors import CommandError, CommandFailed, RaftError

FORMAT: Final = 1
"""Servers whose digests are made otherwise cannot be compared; they tell this number."""
BLOCK_ENTRIES: Final = 256
"""At each multiple of it the bytes of the entries themselves go into the digest."""
KEPT_BLOCKS: Final = 64
KEPT_BYTES: Final = 32_768
"""Of a block of which more was told, only its ends are known afterwards."""

SCALARS: Final = frozenset({bool, int, float})
"""Results that are told as they are: nobody can change them any more."""

SHORT_BYTES: Final = 64
"""Strings that are no longer are told as they are, too."""

_ELSEWHERE: Final = bytes(sorted(range(256), key=lambda byte: sha256(bytes((byte,))).digest()))
_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(list).decode
_PAIR: Final = struct.Struct("<II")
_WORD: Final = struct.Struct("<I")

Told = list[Any]


def stream_of(told: Told) -> bytes:
    """Return `told` as MessagePack values one after the other, without a header."""
    try:
        array = _encode(told)
    except ENCODE_ERRORS:
        # A huge integer, or text that is no Unicode: what cannot travel is told by its type's name.
        named = (each if _is_encodable(each) else type(each).__name__.encode() for each in told)
        array = _encode(list(named))
    # The header's length depends on how many there are, and that on where a slice ended.
    return array[1 if len(told) < 16 else 3 if len(told) < 65536 else 5 :]


def _is_encodable(value: object) -> bool:
    try:
        _encode(value)
    except ENCODE_ERRORS:
        return False
    return True


def folded(content: bytes) -> bytes:
    """Return `content` where it is short, else 64 bits of checksums of it."""
    if len(content) <= SHORT_BYTES:
        return content
    return _PAIR.pack(crc32(content), crc32(content.translate(_ELSEWHERE)))


def _advanced(value: int, content: bytes) -> int:
    """Return the digest `value` with `content` added."""
    straight = crc32(content, value >> 32)
    return straight << 32 | crc32(content.translate(_ELSEWHERE), value & 0xFFFFFFFF)


@define(eq=False)
class _Block:
    """What was told behind the entry `after`, where the digest was `value`."""

    after: int
    value: int
    pieces: list[bytes] = field(factory=list)
    count: int = 0
    size_bytes: int = 0
    is_known: bool = True
    """Whether `pieces` is all that was told; false where it was too much to keep."""

    def add(self, piece: bytes, count: int) -> None:
        self.size_bytes += len(piece)
        if self.size_bytes <= KEPT_BYTES:
            self.pieces.append(piece)
            self.count += count
        else:
            self.pieces.clear()
            self.is_known = False

    def value_at(self, index: int) -> int | None:
        """Return the digest at `index`, which is in this block; None where that is not known."""
        if index == self.after:
            return self.value
        if not self.is_known:
            return None
        told = _decode(b"\xdd" + self.count.to_bytes(4, "big") + b"".join(self.pieces))
        until = next((at for at in range(0, len(told), 2) if told[at] > index), len(told))
        return _advanced(self.value, stream_of(told[:until]))


@define(eq=False)
class Digest:
    """The digest of one replica.

    Attributes:
        index: of the last entry that it covers.
        value: the digest there, 64 bits.
        records_crc: the CRC-32 of all entries' records up to there.
        origin: 0 where it covers the log from its first entry on. Otherwise it began behind this
            entry, for the snapshot that was restored then brought none with it: such digests begin
            anew at every election, so that they can be compared from then on.
        told: what was told and is not in the digest yet: in turn an index and what came of it.
    """

    index: int = 0
    value: int = 0
    records_crc: int = 0
    origin: int = 0
    told: Told = field(factory=list)
    _blocks: deque[_Block] = field(factory=lambda: deque([_Block(0, 0)], maxlen=KEPT_BLOCKS))

    def answered(self, index: int, content: bytes) -> None:
        """A command had a result, encoded; a `SCALARS` one may go into `told` as it is instead."""
        self.told += (index, folded(content))

    def refused(self, index: int, error: RaftError) -> None:
        """A command ended with an error."""
        code = error.code
        if isinstance(error, CommandError):
            code += f":{error.reason}"
        elif isinstance(error, CommandFailed):
            code += f":{error.exception}"
        self.told += (index, folded(code.encode(errors="backslashreplace")))

    def reach(self, index: int, records: bytes, start: int, end: int) -> None:
        """The entries up to `index`, whose records are `records[start:end]`, are all told.

        Call it at every multiple of `BLOCK_ENTRIES` that is passed, whatever else it is called at.
        """
        if index == self.index:
            return
        self.records_crc = crc32(memoryview(records)[start:end], self.records_crc)
        self.index = index
        self._settle()
        if index % BLOCK_ENTRIES == 0:
            self.value = _advanced(self.value, _WORD.pack(self.records_crc))
            self._blocks.append(_Block(index, self.value))

    def _settle(self) -> None:
        told = self.told
        if told:
            piece = stream_of(told)
            self.value = _advanced(self.value, piece)
            self._blocks[-1].add(piece, len(told))
            told.clear()

    def begin_term(self, index: int) -> None:
        """Entry `index` begins a leader's term: a digest that is not of the whole log begins anew.

        Nothing is said of the entry itself, which is not reached yet.
        """
        if self.origin:
            self.told.clear()
            self._go_on(index, 0, index)

    def resume(self, index: int, records_crc: int, value: int | None, origin: int = 0) -> None:
        """Go on from entry `index`, as a snapshot or a machine's notes say.

        With the `value` None nothing is known of what was told until there.
        """
        self.told.clear()
        self.index, self.records_crc = index, records_crc
        if value is None:
            self._go_on(index, 0, index)
        else:
            self._go_on(index, value, origin)

    def _go_on(self, index: int, value: int, origin: int) -> None:
        self.value, self.origin = value, origin
        self._blocks.clear()
        self._blocks.append(_Block(index, value))

    def at(self, index: int) -> int | None:
        """Return what the digest was at entry `index`; None where that is not known (any more)."""
        if index >= self.index:
            return self.value if index == self.index else None
        block = next((each for each in reversed(self._blocks) if each.after <= index), None)
        return block.value_at(index) if block is not None else None

    @property
    def oldest(self) -> int:
        """The oldest entry at which the digest may still be known."""
        return self._blocks[0].after
