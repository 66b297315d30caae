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


def offset_of(records: bytes, start: int, index: int, offset: int = 0) -> int:
    """Return the byte at which entry `index` begins in `records`.

    Entry `start` begins at byte `offset`.
    """
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
    _known: tuple[int, int, int] = (0, 0, 0)
    """(start of a piece, an index in it, its offset): where the last slice ended. Who applies a
    large piece by slices would otherwise walk over it from its beginning each time."""

    def append(self, start: int, end: int, records: bytes) -> None:
        """Add the records of entries [start, end); what stood from `start` on is replaced."""
        self.truncate(start)
        if start == end:
            return
        self._starts.append(start)
        self._pieces.append(records)
        self.size_bytes += len(records)
        self.end = end

    def truncate(self, start: int) -> None:
        """Drop the entries from `start` on."""
        self._known = (0, 0, 0)
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
        self._known = (0, 0, 0)
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

        At least one entry, and no more than `limit_bytes` unless that one is larger. Raises
        KeyError where an entry is neither here nor saved.
        """
        if not self._starts or start < self._starts[0]:
            first = self._starts[0] if self._starts else end
            return self.read(start, min(end, first), limit_bytes)
        if start >= self.end:
            raise KeyError(start)
        at = bisect_right(self._starts, start) - 1
        taken: list[bytes] = []
        left, reached = limit_bytes, start
        while reached < end and at < len(self._starts):
            stop = min(end, self._end_of(at))
            upto, piece = self._cut(at, reached, stop, left, at_least_one=not taken)
            if piece:
                taken.append(piece)
            left -= len(piece)
            reached, at = upto, at + 1
            if upto < stop:
                break
        return reached, taken[0] if len(taken) == 1 else b"".join(taken)

    def _end_of(self, at: int) -> int:
        return self._starts[at + 1] if at + 1 < len(self._starts) else self.end

    def _cut(
        self, at: int, start: int, stop: int, limit_bytes: int, at_least_one: bool
    ) -> tuple[int, bytes]:
        """Return (end, records) of entries [start, stop) of one piece, as many as fit."""
        piece, piece_start = self._pieces[at], self._starts[at]
        whole = stop == self._end_of(at)
        if whole and start == piece_start and len(piece) <= limit_bytes:
            return stop, piece
        known_piece, known_index, known_offset = self._known
        if known_piece != piece_start or known_index > start:
            known_index, known_offset = piece_start, 0
        first = offset_of(piece, known_index, start, known_offset)
        if whole and len(piece) - first <= limit_bytes:
            return stop, piece[first:]
        index, offset = start, first
        while index < stop:
            following = offset + HEADER_BYTES + int(_length_at(piece, offset)[0])
            if following - first > limit_bytes and not (at_least_one and index == start):
                break
            index, offset = index + 1, following
        self._known = (piece_start, index, offset)
        return index, piece[first:offset]
