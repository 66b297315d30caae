"""The records of recent entries: what is on its way to disk, to peers and to the machine.

Records are kept as they came, one piece of bytes for each save, so that nothing is
copied where a piece is used whole. Pieces leave, oldest first, when their bytes exceed the
bound and they are applied and saved; what is asked for later is read back from storage.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Callable

from attrs import Factory, define

from raft.storage.records import HEADER_BYTES

_length_at = struct.Struct("<4xI").unpack_from


def offset_of(records: bytes, start: int, index: int) -> int:
    """Return the byte at which entry `index` begins in `records`, which begin with `start`."""
    offset = 0
    for _ in range(index - start):
        offset += HEADER_BYTES + int(_length_at(records, offset)[0])
    return offset


@define
class RecordCache:
    """Consecutive pieces of records; `read` of storage stands behind it.

    Invariant: `_starts[i]` is the first index of `_pieces[i]`, and the next piece begins
    where it ends; the last one ends at `end`.
    """

    limit_bytes: int
    read: Callable[[int, int, int], tuple[int, bytes]]
    """`IStorage.read`."""
    end: int = 1
    size_bytes: int = 0
    _starts: list[int] = Factory(list)
    _pieces: list[bytes] = Factory(list)

    def append(self, start: int, end: int, records: bytes) -> None:
        """Add the records of entries [start, end); what stood from `start` on is replaced."""
        self.truncate(start)
        self._starts.append(start)
        self._pieces.append(records)
        self.size_bytes += len(records)
        self.end = end

    def truncate(self, start: int) -> None:
        """Drop the entries from `start` on."""
        while self._starts and self._starts[-1] >= start:
            self._starts.pop()
            self.size_bytes -= len(self._pieces.pop())
        if self._starts and self.end > start:
            piece = self._pieces[-1]
            kept = piece[: offset_of(piece, self._starts[-1], start)]
            self.size_bytes -= len(piece) - len(kept)
            self._pieces[-1] = kept
        self.end = min(self.end, start) if self._starts else start

    def restart_after(self, index: int) -> None:
        """Drop everything: the next entry is `index` + 1."""
        self._starts.clear()
        self._pieces.clear()
        self.size_bytes, self.end = 0, index + 1

    def evict(self, below: int) -> None:
        """Keep to the bound, dropping only pieces that end at or below index `below`."""
        drop = 0
        while self.size_bytes > self.limit_bytes and drop + 1 < len(self._starts):
            if self._starts[drop + 1] > below:
                break
            self.size_bytes -= len(self._pieces[drop])
            drop += 1
        if drop:
            del self._starts[:drop], self._pieces[:drop]

    def slice(self, start: int, end: int, limit_bytes: int) -> tuple[int, bytes]:
        """Return (end, records) of the entries from `start` on, at most up to `end`.

        At least one entry, and no more than `limit_bytes` beyond the first piece. Raises
        KeyError where an entry is neither here nor saved.
        """
        if not self._starts or start < self._starts[0]:
            first = self._starts[0] if self._starts else end
            return self.read(start, min(end, first), limit_bytes)
        if start >= self.end:
            raise KeyError(start)
        at = bisect_right(self._starts, start) - 1
        taken: list[bytes] = []
        size, reached = 0, start
        while reached < end and at < len(self._starts):
            piece_end = self._end_of(at)
            piece = self._cut(at, reached, min(end, piece_end))
            if taken and size + len(piece) > limit_bytes:
                break
            taken.append(piece)
            size += len(piece)
            reached, at = min(end, piece_end), at + 1
        return reached, taken[0] if len(taken) == 1 else b"".join(taken)

    def _end_of(self, at: int) -> int:
        return self._starts[at + 1] if at + 1 < len(self._starts) else self.end

    def _cut(self, at: int, start: int, end: int) -> bytes:
        piece, piece_start = self._pieces[at], self._starts[at]
        if start == piece_start and end == self._end_of(at):
            return piece
        first = offset_of(piece, piece_start, start)
        if end == self._end_of(at):
            return piece[first:]
        return piece[first : offset_of(piece, piece_start, end)]
