"""Snapshots as slices: MessagePack arrays, each after its length as a u32, little-endian.

A machine's chunks may arrive with other borders than they were given with. Slices find
their own again, and neither side ever holds more than one of them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from raft.interfaces import Value

SLICE_BYTES: Final = 256 * 1024
"""Behind which size a slice ends."""

SLICE_VALUES: Final = 4000
"""How many values a slice has at most: 2,000 keys with theirs, a fraction of a millisecond."""

_LENGTH = struct.Struct("<I")
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[object]).decode


def packed(values: Iterable[Value]) -> Iterator[bytes]:
    """Yield `values` as slices, each at most about `SLICE_BYTES` and `SLICE_VALUES`.

    All but the last hold an even number of values, so that pairs stay together.
    """
    piece: list[object] = []
    size = 0
    for value in values:
        kind = type(value)
        if kind is str or kind is bytes:
            size += len(value)  # type: ignore[arg-type]
            piece.append(value)
        elif kind is list or kind is dict:
            # Only its bytes say how large it is, so they are made here and kept.
            content = _encode(value)
            size += len(content)
            piece.append(msgspec.Raw(content))
        else:
            piece.append(value)
        if (size >= SLICE_BYTES or len(piece) >= SLICE_VALUES) and not len(piece) & 1:
            yield _slice(piece)
            piece, size = [], 0
    if piece:
        yield _slice(piece)


def _slice(piece: list[object]) -> bytes:
    content = _encode(piece)
    return _LENGTH.pack(len(content)) + content


def unpacked(chunks: Iterable[bytes]) -> Iterator[list[Value]]:
    """Yield the values of each slice; raise ValueError where a slice is cut or damaged."""
    held = bytearray()
    for chunk in chunks:
        held += chunk
        offset = 0
        while len(held) - offset >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(held, offset)
            end = offset + _LENGTH.size + length
            if end > len(held):
                break
            with memoryview(held) as view:
                yield _decode(view[offset + _LENGTH.size : end])  # type: ignore[misc]
            offset = end
        del held[:offset]
    if held:
        raise ValueError(f"the snapshot ends within a slice: {len(held)} bytes are left over")
