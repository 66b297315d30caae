r"""The records that are local to one server's log: hard state, truncation, snapshot, segment.

They have the layout of all records (see `raft.storage.records`) with kinds from 128 on:

    HARD_STATE  term: current_term; payload: b"" for no vote, else b"\x01" and the id voted for
    TRUNCATE    index: the first entry removed; term: of the entry before it
    SNAPSHOT    index, term: the snapshot's; payload: how u8, keep_from u64, previous u64
    SEGMENT     index: the next entry's; term: of the entry before it; first in every segment

They stand at the head of their frame, before its entries.
"""

from __future__ import annotations

import struct
from enum import IntEnum

from attrs import frozen

from raft.core.outputs import HardState
from raft.storage.records import BadRecord, Kind, Record, encode

_SNAPSHOT = struct.Struct("<BQQ")


class How(IntEnum):
    """What a snapshot mark does to the log beside it."""

    KEEP_LOG = 0
    DISCARD_LOG = 1
    REPEATED = 2


@frozen
class Mark:
    """The log's word that the snapshot up to `index` is committed and on disk.

    Entries from `keep_from` on are wanted; so are those after `previous`, the index of the
    snapshot before this one, in case this one is found damaged [RULES N7].
    """

    index: int
    term: int
    keep_from: int
    previous: int

    @property
    def bound(self) -> int:
        """Entries below this index may go."""
        return min(self.keep_from, self.previous + 1)


def encode_hard_state(hard_state: HardState) -> bytes:
    """Return the record of `hard_state`."""
    vote = hard_state.voted_for
    payload = b"" if vote is None else b"\x01" + vote.encode()
    return encode(0, hard_state.current_term, 0, Kind.HARD_STATE, payload)


def decode_hard_state(record: Record) -> HardState:
    """Return the hard state in `record`; raise `BadRecord` where it is none."""
    if not record.payload:
        return HardState(record.term)
    if record.payload[:1] != b"\x01":
        raise BadRecord(0, f"vote of the unknown form {record.payload[0]}")
    try:
        return HardState(record.term, record.payload[1:].decode())
    except UnicodeDecodeError as error:
        raise BadRecord(0, "vote for an id that is not UTF-8") from error


def encode_truncate(start: int, term: int) -> bytes:
    """Return the record that removes the entries from `start` on; `term` is that before."""
    return encode(start, term, 0, Kind.TRUNCATE, b"")


def encode_segment(next_index: int, term: int) -> bytes:
    """Return the record that begins a segment."""
    return encode(next_index, term, 0, Kind.SEGMENT, b"")


def encode_mark(mark: Mark, how: How) -> bytes:
    """Return the record of `mark`."""
    payload = _SNAPSHOT.pack(how, mark.keep_from, mark.previous)
    return encode(mark.index, mark.term, 0, Kind.SNAPSHOT, payload)


def decode_mark(record: Record) -> tuple[Mark, How]:
    """Return the mark in `record` and what it does to the log."""
    try:
        how, keep_from, previous = _SNAPSHOT.unpack(record.payload)
        return Mark(record.index, record.term, keep_from, previous), How(how)
    except (struct.error, ValueError) as error:
        raise BadRecord(0, f"no snapshot mark: {error}") from error
