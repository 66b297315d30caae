"""Records: the one form in which an entry exists, from the leader's log to every disk.

A record is encoded once, by the leader. The same bytes go into its log, over the wire
and into the followers' logs, and the same checksum is verified at every stop. Layout,
little-endian:

    checksum  u32   CRC-32 of all that follows in the record
    length    u32   of the payload, in bytes
    index     u64
    term      u64
    time      u64   cluster time, in microseconds
    kind      u8    see `Kind`
    payload   length bytes

Kinds from 128 on are local to one server's log and never travel.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from enum import IntEnum
from zlib import crc32

import msgspec
from attrs import frozen

from raft.core.configuration import Configuration, Member
from raft.core.messages import Entries, Run

CHECKSUM = struct.Struct("<I")
BODY = struct.Struct("<IQQQB")
HEADER = struct.Struct("<IIQQQB")
HEADER_BYTES = HEADER.size
RUN_BYTES = 65536
"""Where `summarise` ends a run: how finely a leader can cut what it sends."""


class Kind(IntEnum):
    """What a record's payload is."""

    NO_OP = 0
    COMMAND = 1
    CONFIGURATION = 2
    HARD_STATE = 128
    TRUNCATE = 129
    SNAPSHOT = 130
    SEGMENT = 131


class BadRecord(ValueError):
    """Bytes that are no whole, undamaged record; carries the offset of the bad one."""

    def __init__(self, offset: int, reason: str) -> None:
        """Say where in the bytes given, and why."""
        self.offset = offset
        super().__init__(f"{reason} at byte {offset}")


@frozen
class Record:
    """One decoded record."""

    index: int
    term: int
    time_us: int
    kind: int
    payload: bytes


def encode(index: int, term: int, time_us: int, kind: int, payload: bytes) -> bytes:
    """Return the record of one entry."""
    body = BODY.pack(len(payload), index, term, time_us, kind) + payload
    return CHECKSUM.pack(crc32(body)) + body


def encode_commands(start: int, term: int, time_us: int, payloads: Sequence[bytes]) -> bytes:
    """Return the records of consecutive commands, end to end.

    The hot path of a leader: one pass, nothing per entry but what the record needs.
    """
    pieces = []
    index = start
    for payload in payloads:
        body = BODY.pack(len(payload), index, term, time_us, 1) + payload
        pieces.append(CHECKSUM.pack(crc32(body)))
        pieces.append(body)
        index += 1
    return b"".join(pieces)


def decode(records: bytes) -> Iterator[Record]:
    """Yield the records, checksums verified; raise `BadRecord` at the first bad one."""
    offset, end = 0, len(records)
    while offset < end:
        stop = _verified_end(records, offset, end)
        _, _, index, term, time_us, kind = HEADER.unpack_from(records, offset)
        yield Record(index, term, time_us, kind, records[offset + HEADER_BYTES : stop])
        offset = stop


def _verified_end(records: bytes, offset: int, end: int) -> int:
    if end - offset < HEADER_BYTES:
        raise BadRecord(offset, "truncated header")
    checksum, length = struct.unpack_from("<II", records, offset)
    stop = offset + HEADER_BYTES + int(length)
    if stop > end:
        raise BadRecord(offset, f"length {length} goes past the end")
    if crc32(records[offset + 4 : stop]) != checksum:
        raise BadRecord(offset, "wrong checksum")
    return stop


def summarise(records: bytes, arrival: int = 0, start: int = 0) -> Entries:
    """Verify `records` and return what the protocol must know of them.

    They must be consecutive entries of kinds that travel, in terms that never fall.
    `start` is returned as the start where there are none.
    """
    offset, end = 0, len(records)
    runs: list[Run] = []
    configurations: list[tuple[int, Configuration]] = []
    expected = run_term = run_bytes = 0
    while offset < end:
        stop = _verified_end(records, offset, end)
        _, _, index, term, _, kind = HEADER.unpack_from(records, offset)
        if not expected:
            start, run_term = index, term
        elif index != expected:
            raise BadRecord(offset, f"index {index} where {expected} must follow")
        if kind != 1:
            if kind == 2:
                configurations.append(
                    (index, decode_configuration(records[offset + HEADER_BYTES : stop]))
                )
            elif kind != 0:
                raise BadRecord(offset, f"kind {kind} does not travel")
        if term != run_term or run_bytes >= RUN_BYTES:
            if term < run_term:
                raise BadRecord(offset, f"term {term} after {run_term}")
            runs.append(Run(index, run_term, run_bytes))
            run_term, run_bytes = term, 0
        run_bytes += stop - offset
        expected = index + 1
        offset = stop
    if expected:
        runs.append(Run(expected, run_term, run_bytes))
    return Entries(start, tuple(runs), tuple(configurations), arrival)


class _MemberForm(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=False):
    id: str
    incarnation: str
    peer_address: str
    client_address: str
    voter: bool


class _ConfigurationForm(msgspec.Struct, array_like=True, frozen=True):
    members: list[_MemberForm]
    outgoing: list[str]
    target: list[_MemberForm] = []


_configuration_decoder = msgspec.msgpack.Decoder(_ConfigurationForm)


def encode_configuration(configuration: Configuration) -> bytes:
    """Return the payload of a configuration entry: MessagePack arrays, members by id.

    `[members, outgoing]`, and the target behind them while a change is under way.
    """
    parts = [
        [_form(member) for member in configuration.members],
        sorted(configuration.outgoing),
    ]
    if configuration.target:
        parts.append([_form(member) for member in configuration.target])
    return msgspec.msgpack.encode(parts)


def decode_configuration(payload: bytes) -> Configuration:
    """Return the configuration in `payload`; raise `BadRecord` where it is none."""
    try:
        form = _configuration_decoder.decode(payload)
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError) as error:
        raise BadRecord(0, f"no configuration: {error}") from error
    return Configuration(
        tuple(map(_member, form.members)),
        frozenset(form.outgoing),
        tuple(map(_member, form.target)),
    )


def _form(member: Member) -> _MemberForm:
    return _MemberForm(
        member.id, member.incarnation, member.peer_address, member.client_address, member.voter
    )


def _member(form: _MemberForm) -> Member:
    return Member(form.id, form.incarnation, form.peer_address, form.client_address, form.voter)
