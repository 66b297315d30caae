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

Kinds from 128 on are local to one server's log and never travel. The kinds from 3 to 6 are
those of sessions; docs/reference/sessions.md tells what they mean. Kind 7 raises the version of
the machine; docs/howto/upgrade.md tells when. Kind 8 carries a backup that is being restored;
`raft.restoration` tells how. Kind 9
says that a survivor goes on alone; docs/howto/rescue.md tells when. Kind 10 says that an entry
before it is not executed; docs/howto/skip.md tells when.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Annotated
from zlib import crc32

import msgspec
from attrs import frozen

from raft.codec import UNREADABLE
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
    REGISTER = 3
    SESSION_COMMAND = 4
    KEEP_ALIVE = 5
    CLOSE_SESSION = 6
    VERSION = 7
    RESTORE = 8
    RECOVERY = 9
    SKIP = 10
    HARD_STATE = 128
    TRUNCATE = 129
    SNAPSHOT = 130
    SEGMENT = 131


LOCAL_KINDS = 128
"""Kinds from here on never travel."""

_TRAVELLING = frozenset(kind.value for kind in Kind if kind < LOCAL_KINDS)

SESSION_HEADER = struct.Struct("<Q8sQQ")
"""Of a SESSION_COMMAND: session's index, its nonce, sequence number, low mark; the command follows.

The low mark is the lowest sequence number to which the client has no answer yet.
"""
SESSION_HEADER_BYTES = SESSION_HEADER.size
NONCE_BYTES = 8
SESSION_ID_BYTES = 16
HIGHEST_VERSION = (1 << 31) - 1
"""Of a machine, in a VERSION."""
SESSION_IDS_LIMIT = 1000
"""How many sessions one KEEP_ALIVE or CLOSE_SESSION may name."""


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


def encode_commands(
    start: int, term: int, time_us: int, payloads: Sequence[bytes], kind: int = 1
) -> bytes:
    """Return the records of consecutive commands, end to end, all of one `kind`.

    For SESSION_COMMAND each payload begins with its `SESSION_HEADER`, as `session_payloads`
    makes them. The hot path of a leader: one pass, nothing per entry but what the record needs.
    """
    pieces = []
    index = start
    for payload in payloads:
        body = BODY.pack(len(payload), index, term, time_us, kind) + payload
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


def summarise(
    records: bytes, arrival: int = 0, start: int = 0, skips: dict[int, int] | None = None
) -> Entries:
    """Verify `records` and return what the protocol must know of them.

    They must be consecutive entries of kinds that travel, in terms that never fall.
    `start` is returned as the start where there are none. Where there is `skips`, the entries
    that skip others are added to it: by their index, which one they name.
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
            elif kind not in _TRAVELLING:
                raise BadRecord(offset, f"kind {kind} does not travel")
            elif kind == 10 and skips is not None:
                note_skip(skips, index, records[offset + HEADER_BYTES : stop])
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


def session_id(index: int, nonce: bytes) -> bytes:
    """Return the 16 bytes that name a session [RULES S1]: as in `SESSION_HEADER`.

    The index alone would name another client's session in a cluster that was restored.
    """
    return index.to_bytes(8, "little") + nonce


# A session's id is the first two fields of SESSION_HEADER.
_pack_session = struct.Struct("<16sQQ").pack


def session_payloads(
    session: bytes, first_sequence: int, low_mark: int, commands: Sequence[bytes]
) -> list[bytes]:
    """Return the payloads of a session's `commands`, with consecutive sequence numbers.

    `session` is a `session_id`.
    """
    return [
        _pack_session(session, sequence, low_mark) + command
        for sequence, command in enumerate(commands, start=first_sequence)
    ]


class SessionLimits(msgspec.Struct, array_like=True, frozen=True):
    """What all sessions of a cluster are bounded by; the same on every server.

    Attributes:
        timeout_us: cluster time in microseconds that a session lives without an entry of its own.
        sessions: how many there may be; the one unused for longest makes room.
        results: how many results each session keeps.
        results_bytes: how many bytes of results each session keeps.
    """

    timeout_us: Annotated[int, msgspec.Meta(ge=1, le=1 << 62)] = 3_600_000_000
    sessions: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)] = 10_000
    results: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)] = 1000
    results_bytes: Annotated[int, msgspec.Meta(ge=0, le=1 << 40)] = 1 << 20


class Registration(msgspec.Struct, array_like=True, frozen=True):
    """The payload of a REGISTER: the client's random `nonce`, and what the leader limits.

    `limits` hold for all sessions from this entry on; None leaves those in force.
    """

    nonce: Annotated[bytes, msgspec.Meta(min_length=NONCE_BYTES, max_length=NONCE_BYTES)]
    limits: SessionLimits | None = None


_SessionId = Annotated[
    bytes, msgspec.Meta(min_length=SESSION_ID_BYTES, max_length=SESSION_ID_BYTES)
]
_registration_decoder = msgspec.msgpack.Decoder(Registration)
_sessions_decoder: msgspec.msgpack.Decoder[list[bytes]] = msgspec.msgpack.Decoder(
    Annotated[list[_SessionId], msgspec.Meta(max_length=SESSION_IDS_LIMIT)]
)
_version_decoder: msgspec.msgpack.Decoder[tuple[int]] = msgspec.msgpack.Decoder(
    tuple[Annotated[int, msgspec.Meta(ge=1, le=HIGHEST_VERSION)]]
)


_skip_decoder: msgspec.msgpack.Decoder[tuple[int]] = msgspec.msgpack.Decoder(
    tuple[Annotated[int, msgspec.Meta(ge=1, le=(1 << 63) - 1)]]
)


def encode_registration(nonce: bytes, limits: SessionLimits | None = None) -> bytes:
    """Return the payload of a REGISTER; `nonce` is 8 bytes that nobody else would draw."""
    return msgspec.msgpack.encode((nonce,) if limits is None else (nonce, limits))


def decode_registration(payload: bytes) -> Registration:
    """Return what a REGISTER says; raise `BadRecord` where it says nothing."""
    try:
        return _registration_decoder.decode(payload)
    except UNREADABLE as error:
        raise BadRecord(0, f"no registration: {error}") from error


def encode_sessions(sessions: Sequence[bytes]) -> bytes:
    """Return the payload of a KEEP_ALIVE or CLOSE_SESSION: an array of `session_id`s."""
    return msgspec.msgpack.encode(list(sessions))


def decode_sessions(payload: bytes) -> list[bytes]:
    """Return the sessions named, at most `SESSION_IDS_LIMIT`; raise `BadRecord` otherwise."""
    try:
        return _sessions_decoder.decode(payload)
    except UNREADABLE as error:
        raise BadRecord(0, f"no sessions: {error}") from error


def encode_version(version: int) -> bytes:
    """Return the payload of a VERSION: a MessagePack array of the one number."""
    return msgspec.msgpack.encode([version])


def decode_version(payload: bytes) -> int:
    """Return the machine's version, from 1 on; raise `BadRecord` where there is none."""
    try:
        return _version_decoder.decode(payload)[0]
    except UNREADABLE as error:
        raise BadRecord(0, f"no version: {error}") from error


def encode_skip(index: int) -> bytes:
    """Return the payload of a SKIP: a MessagePack array of the one index."""
    return msgspec.msgpack.encode([index])


def decode_skip(payload: bytes) -> int:
    """Return the index of the entry that is not executed; raise `BadRecord` where there is none."""
    try:
        return _skip_decoder.decode(payload)[0]
    except UNREADABLE as error:
        raise BadRecord(0, f"no index: {error}") from error


def note_skip(skips: dict[int, int], index: int, payload: bytes) -> None:
    """Note in `skips` which entry the SKIP at `index` names; nothing where it means nothing."""
    with contextlib.suppress(BadRecord):
        # What it names must stand before it. Where it comes to be applied it is refused, as on
        # every server; till then it is an entry like others.
        if (named := decode_skip(payload)) < index:
            skips[index] = named


class RecoveryNote(msgspec.Struct, array_like=True, frozen=True):
    """The payload of a RECOVERY: a survivor goes on alone, as another cluster.

    Attributes:
        cluster_id: from here on.
        previous_cluster_id: until then.
        recovered_at: by the wall clock of that computer, in seconds since 1970.
        command: what the operator typed.
        previous_members: the configuration until then, encoded.
    """

    cluster_id: str
    previous_cluster_id: str
    recovered_at: int
    command: str
    previous_members: bytes

    @property
    def previous_configuration(self) -> Configuration:
        """The members until then."""
        return decode_configuration(self.previous_members)


_recovery_decoder = msgspec.msgpack.Decoder(RecoveryNote)


def encode_recovery(note: RecoveryNote) -> bytes:
    """Return the payload of a RECOVERY."""
    return msgspec.msgpack.encode(note)


def decode_recovery(payload: bytes) -> RecoveryNote:
    """Return what a RECOVERY says; raise `BadRecord` where it says nothing."""
    try:
        note = _recovery_decoder.decode(payload)
    except UNREADABLE as error:
        raise BadRecord(0, f"no recovery: {error}") from error
    decode_configuration(note.previous_members)
    return note


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
    except UNREADABLE as error:
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
