"""The argument types of the published commands, and what they pack.

Besides AMP's own types there is one: `LargeBytes`, for values that may be longer than
AMP's 65,535 bytes. What is inside such a value is MessagePack of plain values, decoded
by type: nothing here can build an object that was not asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
from twisted.protocols import amp

from raft import errors
from raft.codec import UNREADABLE
from raft.core.configuration import Configuration, Member
from raft.storage.records import (
    BadRecord,
    decode_configuration,
    decode_sessions,
    encode_configuration,
    encode_sessions,
)
from raft.transport.boxes import gather, spread

NUMBER_END: Final = 1 << 63
"""Indexes, terms and sizes on the wire are below this."""

Result = Any
"""What one item of a batch came to: a plain value, or a `RaftError` that was not raised."""


class BadValue(ValueError):
    """Bytes on the wire that do not mean what their place in the message asks for."""


class LargeBytes(amp.Argument):
    """Bytes of any length, spread over numbered keys of the same box.

    The first 65,000 bytes stand under the argument's name, the next under `name.1`, then
    `name.2` and so on, each but the last with exactly 65,000 bytes. A reader joins the keys
    in order up to the first that is missing.
    """

    def __init__(self, optional: bool = False) -> None:
        """Say whether the argument may be left out; it is None then."""
        self.optional = optional

    def fromBox(
        self,
        name: bytes,
        strings: dict[bytes, bytes],
        objects: dict[str, object],
        proto: object,
    ) -> None:
        """Join the pieces found in `strings` into `objects`."""
        identifier = name.replace(b"-", b"_").decode("ascii")
        if self.optional and name not in strings:
            objects[identifier] = None
            return
        objects[identifier] = gather(strings, name)

    def toBox(
        self,
        name: bytes,
        strings: dict[bytes, bytes],
        objects: dict[str, object],
        proto: object,
    ) -> None:
        """Cut the value in `objects` into pieces of `strings`."""
        value = objects.get(name.replace(b"-", b"_").decode("ascii"))
        if value is None and self.optional:
            return
        if not isinstance(value, bytes):
            raise TypeError(f"{name.decode()} must be bytes, got {type(value).__name__}")
        strings.update(spread(name, value))


_commands_decoder = msgspec.msgpack.Decoder(list[bytes])
_commands_encode = msgspec.msgpack.Encoder().encode
_plain_decode = msgspec.msgpack.Decoder().decode


def pack_commands(commands: Sequence[bytes]) -> bytes:
    """Return encoded commands (or queries) as the MessagePack array of a batch."""
    return _commands_encode(commands)


def unpack_commands(packed: bytes) -> list[bytes]:
    """Return the encoded commands of a batch.

    Raises:
        BadValue: it is no MessagePack array of byte strings.
    """
    try:
        return _commands_decoder.decode(packed)
    except UNREADABLE as error:
        raise BadValue(f"no array of byte strings: {error}") from error


def pack_array(items: Sequence[bytes]) -> bytes:
    """Return the MessagePack array whose elements are `items`, already encoded."""
    count = len(items)
    if count < 16:
        return bytes((0x90 | count,)) + b"".join(items)
    if count < 1 << 16:
        return b"\xdc" + count.to_bytes(2, "big") + b"".join(items)
    return b"\xdd" + count.to_bytes(4, "big") + b"".join(items)


def pack_result(encoded: bytes) -> bytes:
    """Return the item of a successful result: `["", value]`, the value already encoded."""
    return b"\x92\xa0" + encoded


def pack_error(error: errors.RaftError) -> bytes:
    """Return the item of a failed command: `[code, facts]`."""
    return _commands_encode((error.code, error.to_wire()))


def pack_results(outcomes: Iterable[bytes | errors.RaftError]) -> bytes:
    """Return the results of a batch: for each an encoded value, or the error it came to."""
    return pack_array(
        [
            b"\x92\xa0" + outcome if isinstance(outcome, bytes) else pack_error(outcome)
            for outcome in outcomes
        ]
    )


_results_decoder = msgspec.msgpack.Decoder(list[tuple[str, Any]])


def unpack_results(packed: bytes) -> list[Result]:
    """Return for each item of a batch its plain value, or its error as an instance.

    Raises:
        BadValue: it is no array of pairs of a code and a value.
    """
    try:
        pairs = _results_decoder.decode(packed)
    except UNREADABLE as error:
        raise BadValue(f"no array of results: {error}") from error
    return [value if not code else _error(code, value) for code, value in pairs]


def _error(code: str, facts: object) -> errors.RaftError:
    if not isinstance(facts, dict):
        facts = {"message": str(facts)}
    return errors.from_wire(code, facts)


def describe_error(error: errors.RaftError) -> bytes:
    """Return the description of an AMP error: a JSON object with the error's facts."""
    facts = error.to_wire()
    described = json.dumps(facts).encode("ascii")
    # Stock AMP closes a connection on a description over 64 KiB: keep far away from it.
    return described if len(described) <= 4096 else json.dumps(_clipped(facts)).encode("ascii")


def _clipped(facts: dict[str, errors.Fact]) -> dict[str, errors.Fact]:
    return {name: fact[:200] if isinstance(fact, str) else fact for name, fact in facts.items()}


def error_from_description(code: str, description: str | bytes) -> errors.RaftError:
    """Return the error that an AMP error code and its description stand for."""
    text = description.decode("utf-8", "replace") if isinstance(description, bytes) else description
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError):
        facts = {"message": text}
    return _error(code, facts)


def pack_plain(value: object) -> bytes:
    """Return MessagePack of a plain value, as `Status` and `GetEntry` answer it."""
    return msgspec.msgpack.encode(value)


def unpack_plain(packed: bytes) -> Any:
    """Return the plain value; raise `BadValue` where it is none."""
    try:
        return _plain_decode(packed)
    except UNREADABLE as error:
        raise BadValue(f"no MessagePack: {error}") from error


def pack_sessions(sessions: Sequence[bytes]) -> bytes:
    """Return sessions' ids as `KeepSessions` takes them, and as a log entry names them."""
    return encode_sessions(sessions)


def unpack_sessions(packed: bytes) -> list[bytes]:
    """Return the ids of at most 1,000 sessions; raise `BadValue` where there are none."""
    try:
        return decode_sessions(packed)
    except BadRecord as error:
        raise BadValue(str(error)) from error


_present_decoder = msgspec.msgpack.Decoder(list[bool])


def unpack_present(packed: bytes) -> list[bool]:
    """Return for each session whether it is there; raise `BadValue` where it says nothing."""
    try:
        return _present_decoder.decode(packed)
    except UNREADABLE as error:
        raise BadValue(f"no array of booleans: {error}") from error


class _MemberForm(msgspec.Struct, frozen=True):
    id: str
    peer_address: str = ""
    client_address: str = ""
    voter: bool = True
    incarnation: str = ""


_members_decoder = msgspec.msgpack.Decoder(list[_MemberForm])


def pack_members(members: Iterable[Member]) -> bytes:
    """Return members as `SetConfiguration` takes them: a MessagePack array of maps."""
    return msgspec.msgpack.encode(
        [
            _MemberForm(m.id, m.peer_address, m.client_address, m.voter, m.incarnation)
            for m in members
        ]
    )


def unpack_members(packed: bytes) -> tuple[Member, ...]:
    """Return the members; only `id` is required, unknown keys are ignored.

    Raises:
        BadValue: it is no array of such maps.
    """
    try:
        forms = _members_decoder.decode(packed)
    except UNREADABLE as error:
        raise BadValue(f"no array of members: {error}") from error
    return tuple(
        Member(m.id, m.incarnation, m.peer_address, m.client_address, m.voter) for m in forms
    )


def pack_configuration(configuration: Configuration) -> bytes:
    """Return a configuration as `InstallSnapshot` carries it: as it stands in the log."""
    return encode_configuration(configuration)


def unpack_configuration(packed: bytes) -> Configuration:
    """Return the configuration; raise `BadValue` where it is none."""
    try:
        return decode_configuration(packed)
    except BadRecord as error:
        raise BadValue(str(error)) from error
