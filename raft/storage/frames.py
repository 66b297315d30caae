r"""Frames: what is written and synced at once, and therefore what tears at once [RULES D1].

A frame wraps whole records. Layout, little-endian:

    magic      4 bytes  b"\xf5RFr"
    checksum   u32      CRC-32 of all that follows in the frame, header and body
    previous   u32      the checksum of the frame before, 0 for the very first
    length     u32      of the body, in bytes
    segment    u64      the random id of the segment: a stranger's frame does not pass
    sequence   u64      one more than the frame before, through all segments; the first is 1
    body       length bytes of whole records

Frame n is written only after the sync of frame n-1 returned. A valid frame n therefore
proves that n-1 was durable, and what follows the last valid frame is either a torn frame that
was never acknowledged (nothing valid comes after it) or damage (something does).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple
from zlib import crc32

MAGIC = b"\xf5RFr"
HEADER = struct.Struct("<4sIIIQQ")
HEADER_BYTES = HEADER.size
_COVERED = struct.Struct("<IIQQ")


class Frame(NamedTuple):
    """A valid frame found in a segment; offsets are in the segment's bytes."""

    sequence: int
    previous: int
    checksum: int
    body: int
    end: int


def encode_header(
    segment: int, sequence: int, previous: int, body: Sequence[bytes]
) -> tuple[bytes, int]:
    """Return the header of a frame around the pieces of `body`, and its checksum."""
    covered = _COVERED.pack(previous, sum(map(len, body)), segment, sequence)
    checksum = crc32(covered)
    for piece in body:
        checksum = crc32(piece, checksum)
    return MAGIC + checksum.to_bytes(4, "little") + covered, checksum


def find(content: memoryview, offset: int, segment: int) -> Frame | None:
    """Return the valid frame of `segment` that starts at `offset`, or None."""
    if len(content) - offset < HEADER_BYTES:
        return None
    magic, checksum, previous, length, owner, sequence = HEADER.unpack_from(content, offset)
    body = offset + HEADER_BYTES
    end = body + length
    if magic != MAGIC or owner != segment or end > len(content):
        return None
    if crc32(content[offset + 8 : end]) != checksum:
        return None
    return Frame(sequence, previous, checksum, body, end)


def successor(content: bytes, offset: int, segment: int, sequence: int) -> int | None:
    """Return where a valid frame numbered `sequence` or above starts, after `offset`; or None.

    Its presence proves that the bytes at `offset`, which are no valid frame, once were one
    that had been synced. A payload cannot forge one: it would have to guess the segment's id.
    """
    view = memoryview(content)
    while (offset := content.find(MAGIC, offset + 1)) != -1:
        found = find(view, offset, segment)
        if found is not None and found.sequence >= sequence:
            return offset
    return None
