"""Raft's messages as AMP boxes, and back.

One function each way. `AppendEntries` and its result are written and read by hand,
because every write of the cluster passes through them; the others go by their
fields. Numbers are decimal ASCII and booleans `True` and `False`, as AMP's own argument
types write them, so that a stock peer can speak. Everything read here came from
outside: each value is checked for type and range, and what fails is a `BadMessage`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from zlib import crc32

from attrs import frozen

from raft.core.messages import (
    AppendEntries,
    AppendEntriesResult,
    Entries,
    InstallSnapshot,
    InstallSnapshotResult,
    Message,
    PreVote,
    PreVoteResult,
    ReadIndex,
    ReadIndexResult,
    RequestVote,
    RequestVoteResult,
    TimeoutNow,
)
from raft.transport.arguments import NUMBER_END, BadValue, pack_configuration, unpack_configuration
from raft.transport.boxes import Box, close_box, encode_box, gather, pair, spread


class BadMessage(ValueError):
    """A box that is no message of the protocol; the connection must be closed."""


@frozen
class SnapshotChunk:
    """A piece of a snapshot's bytes, beside its `InstallSnapshot`.

    `chunk` begins at `offset_bytes` of the snapshot; `checksum` is its CRC-32 and has been
    verified when it was received. `total_bytes` is -1 while it is not known. `meta` is the
    shell's own description of the snapshot. `digest` is the SHA-256 of all its bytes, with the
    last piece; empty where it is not told.
    """

    offset_bytes: int
    chunk: bytes
    checksum: int
    total_bytes: int = -1
    meta: bytes = b""
    digest: bytes = b""

    @classmethod
    def of(
        cls,
        offset_bytes: int,
        chunk: bytes,
        total_bytes: int = -1,
        meta: bytes = b"",
        digest: bytes = b"",
    ) -> SnapshotChunk:
        """Return the chunk with its checksum."""
        return cls(offset_bytes, chunk, crc32(chunk), total_bytes, meta, digest)


@frozen
class Fragment:
    """A piece of records whose `AppendEntries` is still to come."""

    term: int
    sequence: int
    offset_bytes: int
    piece: bytes


@frozen
class StateDigest:
    """What a server's digest is at one entry, for others to compare with theirs.

    `value` is None where it does not know it (any more), `origin` as in `raft.digest`. `asks` who
    receives it to tell its own there, once it has applied the entry. `diverged` says that this is
    the first entry at which the sender differs from the majority, and that it stops serving.
    `copied` says that the sender's state comes from another server's snapshot, and that neither a
    majority without it nor all voters were seen to have the same digest since.
    """

    index: int
    value: int | None = None
    origin: int = 0
    asks: bool = False
    diverged: bool = False
    copied: bool = False


DIGEST_BYTES: Final = 32
"""Of a SHA-256."""
STATE_DIGEST_BYTES: Final = 8

Parsed = tuple[Message, bytes, SnapshotChunk | None]
_BOOLEANS: Final = {b"True": True, b"False": False}
_TRUE: Final = pair(b"success", b"True")
_FALSE: Final = pair(b"success", b"False")


def encode(message: Message, records: bytes = b"", chunk: SnapshotChunk | None = None) -> bytes:
    """Return the box of `message`, with the records or the chunk that go with it.

    Raises:
        ValueError: a chunk is missing, or there is one that does not belong.
    """
    kind = type(message)
    if kind is AppendEntries:
        return encode_append(message, records)  # type: ignore[arg-type]
    if kind is AppendEntriesResult:
        return _encode_append_result(message)  # type: ignore[arg-type]
    if kind is InstallSnapshot:
        if chunk is None:
            raise ValueError("an InstallSnapshot needs its chunk")
        return _encode_snapshot(message, chunk)  # type: ignore[arg-type]
    return encode_box([(b"_command", kind.__name__.encode()), *_PAIRS[kind](message)])


def encode_append(message: AppendEntries, records: bytes, fragment_bytes: int = 0) -> bytes:
    """Return the box of an AppendEntries whose first `fragment_bytes` were sent before."""
    head = b"%b%b%b%b%b%b" % (
        _APPEND,
        pair(b"term", b"%d" % message.term),
        pair(b"prev_log_index", b"%d" % message.prev_log_index),
        pair(b"prev_log_term", b"%d" % message.prev_log_term),
        pair(b"leader_commit", b"%d" % message.leader_commit),
        pair(b"sequence", b"%d" % message.sequence),
    )
    if fragment_bytes:
        head += pair(b"fragment_bytes", b"%d" % fragment_bytes)
    return close_box(head, b"records", records)


def encode_fragment(message: AppendEntries, offset_bytes: int, piece: bytes) -> bytes:
    """Return the box of one piece of the records of `message`."""
    head = b"%b%b%b%b" % (
        _FRAGMENT,
        pair(b"term", b"%d" % message.term),
        pair(b"sequence", b"%d" % message.sequence),
        pair(b"offset_bytes", b"%d" % offset_bytes),
    )
    return close_box(head, b"piece", piece)


_FRAGMENT: Final = pair(b"_command", b"AppendFragment")
_APPEND: Final = pair(b"_command", b"AppendEntries")
_REPAIRING: Final = pair(b"repairing", b"True")
_APPEND_RESULT: Final = pair(b"_command", b"AppendEntriesResult")


def _encode_append_result(message: AppendEntriesResult) -> bytes:
    box = b"%b%b%b%b%b%b" % (
        _APPEND_RESULT,
        pair(b"term", b"%d" % message.term),
        _TRUE if message.success else _FALSE,
        pair(b"match_index", b"%d" % message.match_index),
        pair(b"sequence", b"%d" % message.sequence),
        pair(b"last_log_index", b"%d" % message.last_log_index),
    )
    # Hints only matter in a refusal: an acknowledgement leaves them out when they are 0.
    if message.hint_index or message.hint_term:
        box += pair(b"hint_index", b"%d" % message.hint_index)
        box += pair(b"hint_term", b"%d" % message.hint_term)
    if message.promise_seconds:
        box += pair(b"promise_seconds", repr(float(message.promise_seconds)).encode())
    if message.repairing:
        box += _REPAIRING
    return box + b"\0\0"


def _encode_snapshot(message: InstallSnapshot, chunk: SnapshotChunk) -> bytes:
    pairs = [
        (b"_command", b"InstallSnapshot"),
        (b"term", b"%d" % message.term),
        (b"last_included_index", b"%d" % message.last_included_index),
        (b"last_included_term", b"%d" % message.last_included_term),
        *spread(b"configuration", pack_configuration(message.configuration)),
        (b"configuration_index", b"%d" % message.configuration_index),
        (b"sequence", b"%d" % message.sequence),
        (b"done", _word(message.done)),
        (b"offset_bytes", b"%d" % chunk.offset_bytes),
        *spread(b"chunk", chunk.chunk),
        (b"checksum", b"%d" % chunk.checksum),
        (b"total_bytes", b"%d" % chunk.total_bytes),
    ]
    if chunk.meta:
        pairs += spread(b"meta", chunk.meta)
    if chunk.digest:
        pairs.append((b"digest", chunk.digest))
    return encode_box(pairs)


def _word(flag: bool) -> bytes:
    return b"True" if flag else b"False"


def _of_fields(*names: str) -> Callable[[object], list[tuple[bytes, bytes]]]:
    """Write these fields, each a number or a boolean, in this order."""
    keys = [(name, name.encode()) for name in names]

    def pairs(message: object) -> list[tuple[bytes, bytes]]:
        written = []
        for name, key in keys:
            value = getattr(message, name)
            if value is not None:
                text = _word(value) if isinstance(value, bool) else b"%d" % value
                written.append((key, text))
        return written

    return pairs


_PAIRS: Final[dict[type, Callable[[object], list[tuple[bytes, bytes]]]]] = {
    PreVote: _of_fields("term", "last_log_index", "last_log_term"),
    PreVoteResult: _of_fields("term", "vote_granted"),
    RequestVote: _of_fields("term", "last_log_index", "last_log_term", "leadership_transfer"),
    RequestVoteResult: _of_fields("term", "vote_granted"),
    InstallSnapshotResult: _of_fields("term", "match_index", "sequence", "done", "offset_bytes"),
    TimeoutNow: _of_fields("term"),
    ReadIndex: _of_fields("term", "request"),
    ReadIndexResult: _of_fields("term", "request", "index"),
}


def decode(box: Box, before: bytes = b"") -> Parsed:
    """Return the message in `box`, with its records or its chunk.

    `before` are the records that came in fragments, where the box asks for some.

    Raises:
        BadMessage: it is none; the text names the key.
    """
    command = box.get(b"_command", b"")
    decoder = _DECODERS.get(command)
    if decoder is None:
        raise BadMessage(f"no message is called {command[:40]!r}")
    try:
        return decoder(box, before)
    except KeyError as error:
        raise BadMessage(f"{command.decode()} lacks {error}") from error
    except BadValue as error:
        raise BadMessage(f"{command.decode()}: {error}") from error


def _number(box: Box, key: bytes) -> int:
    text = box[key]
    # int() alone would take signs, blanks, underscores and any number of digits.
    if text.isdigit() and len(text) < 20:
        value = int(text)
        if value < NUMBER_END:
            return value
    raise BadMessage(f"{key.decode()} is {text[:40]!r}, not a number from 0 to 2**63-1")


def _boolean(box: Box, key: bytes) -> bool:
    flag = _BOOLEANS.get(box[key])
    if flag is None:
        raise BadMessage(f"{key.decode()} is {box[key][:40]!r}, not True or False")
    return flag


def _seconds(box: Box, key: bytes) -> float:
    text = box.get(key)
    if text is None:
        return 0.0
    try:
        value = float(text) if len(text) < 40 else -1.0
    except ValueError:
        value = -1.0
    # A comparison that NaN fails as well.
    if not 0.0 <= value <= 86400.0:
        raise BadMessage(f"{key.decode()} is {text[:40]!r}, not a time of 0 to 86400 seconds")
    return value


def _append(box: Box, before: bytes) -> Parsed:
    index = _number(box, b"prev_log_index")
    records = gather(box, b"records")
    expected = _number(box, b"fragment_bytes") if b"fragment_bytes" in box else 0
    if expected != len(before):
        raise BadMessage(f"fragments of {expected} bytes were promised, {len(before)} came")
    message = AppendEntries(
        _number(box, b"term"),
        index,
        _number(box, b"prev_log_term"),
        Entries(index + 1),
        _number(box, b"leader_commit"),
        _number(box, b"sequence"),
    )
    return message, before + records if before else records, None


def _append_result(box: Box, _before: bytes) -> Parsed:
    hinted = b"hint_index" in box
    message = AppendEntriesResult(
        _number(box, b"term"),
        _boolean(box, b"success"),
        _number(box, b"match_index"),
        _number(box, b"sequence"),
        _number(box, b"last_log_index"),
        _number(box, b"hint_index") if hinted else 0,
        _number(box, b"hint_term") if hinted else 0,
        _seconds(box, b"promise_seconds"),
        b"repairing" in box and _boolean(box, b"repairing"),
    )
    return message, b"", None


def _snapshot(box: Box, _before: bytes) -> Parsed:
    message = InstallSnapshot(
        _number(box, b"term"),
        _number(box, b"last_included_index"),
        _number(box, b"last_included_term"),
        unpack_configuration(gather(box, b"configuration")),
        _number(box, b"configuration_index"),
        _number(box, b"sequence"),
        _boolean(box, b"done"),
    )
    if message.configuration_index > message.last_included_index:
        # Members that its log has not come to yet would count from here on [RULES M1, N1].
        raise BadMessage(
            f"a snapshot up to {message.last_included_index} has members of "
            f"{message.configuration_index}, which is behind it"
        )
    total = box.get(b"total_bytes", b"-1")
    chunk = SnapshotChunk(
        _number(box, b"offset_bytes"),
        gather(box, b"chunk"),
        _number(box, b"checksum"),
        -1 if total == b"-1" else _number(box, b"total_bytes"),
        gather(box, b"meta") if b"meta" in box else b"",
        box.get(b"digest", b""),
    )
    if len(chunk.digest) not in (0, DIGEST_BYTES):
        raise BadMessage(f"digest has {len(chunk.digest)} bytes, not {DIGEST_BYTES}")
    if crc32(chunk.chunk) != chunk.checksum:
        raise BadMessage("the chunk does not match its checksum")
    return message, b"", chunk


def decode_fragment(box: Box) -> Fragment:
    """Return the fragment in an `AppendFragment` box; raise `BadMessage` where it is none."""
    try:
        return Fragment(
            _number(box, b"term"),
            _number(box, b"sequence"),
            _number(box, b"offset_bytes"),
            gather(box, b"piece"),
        )
    except KeyError as error:
        raise BadMessage(f"AppendFragment lacks {error}") from error


def encode_digest(digest: StateDigest) -> bytes:
    """Return the box of a digest; what is not told is left out."""
    pairs = [(b"_command", b"StateDigest"), (b"index", b"%d" % digest.index)]
    if digest.value is not None:
        pairs.append((b"digest", digest.value.to_bytes(STATE_DIGEST_BYTES, "big")))
    if digest.origin:
        pairs.append((b"origin", b"%d" % digest.origin))
    said = (b"asks", digest.asks), (b"diverged", digest.diverged), (b"copied", digest.copied)
    pairs += [(key, b"True") for key, is_so in said if is_so]
    return encode_box(pairs)


def decode_digest(box: Box) -> StateDigest:
    """Return the digest in a `StateDigest` box; raise `BadMessage` where it is none."""
    content = box.get(b"digest")
    if content is not None and len(content) != STATE_DIGEST_BYTES:
        raise BadMessage(f"StateDigest: digest has {len(content)} bytes, not {STATE_DIGEST_BYTES}")
    try:
        return StateDigest(
            _number(box, b"index"),
            None if content is None else int.from_bytes(content, "big"),
            _number(box, b"origin") if b"origin" in box else 0,
            b"asks" in box and _boolean(box, b"asks"),
            b"diverged" in box and _boolean(box, b"diverged"),
            b"copied" in box and _boolean(box, b"copied"),
        )
    except KeyError as error:
        raise BadMessage(f"StateDigest lacks {error}") from error


def _simple(build: Callable[[Box], Message]) -> Callable[[Box, bytes], Parsed]:
    return lambda box, _before: (build(box), b"", None)


_DECODERS: Final[dict[bytes, Callable[[Box, bytes], Parsed]]] = {
    b"AppendEntries": _append,
    b"AppendEntriesResult": _append_result,
    b"InstallSnapshot": _snapshot,
    b"PreVote": _simple(
        lambda box: PreVote(
            _number(box, b"term"), _number(box, b"last_log_index"), _number(box, b"last_log_term")
        )
    ),
    b"PreVoteResult": _simple(
        lambda box: PreVoteResult(_number(box, b"term"), _boolean(box, b"vote_granted"))
    ),
    b"RequestVote": _simple(
        lambda box: RequestVote(
            _number(box, b"term"),
            _number(box, b"last_log_index"),
            _number(box, b"last_log_term"),
            b"leadership_transfer" in box and _boolean(box, b"leadership_transfer"),
        )
    ),
    b"RequestVoteResult": _simple(
        lambda box: RequestVoteResult(_number(box, b"term"), _boolean(box, b"vote_granted"))
    ),
    b"InstallSnapshotResult": _simple(
        lambda box: InstallSnapshotResult(
            _number(box, b"term"),
            _number(box, b"match_index"),
            _number(box, b"sequence"),
            _boolean(box, b"done"),
            _number(box, b"offset_bytes"),
        )
    ),
    b"TimeoutNow": _simple(lambda box: TimeoutNow(_number(box, b"term"))),
    b"ReadIndex": _simple(lambda box: ReadIndex(_number(box, b"term"), _number(box, b"request"))),
    b"ReadIndexResult": _simple(
        lambda box: ReadIndexResult(
            _number(box, b"term"),
            _number(box, b"request"),
            _number(box, b"index") if b"index" in box else None,
        )
    ),
}
