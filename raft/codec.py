"""Plain values to bytes and back: MessagePack, behind this one module.

Commands, queries and results are plain values (None, bool, int within 64 bits, float,
str, bytes, list, dict with any of these). A tuple is accepted and arrives as a list, as
a list inside a dict's key arrives as a tuple. MessagePack's own timestamp is the one
extension that is read, as a `datetime`; all others are refused. Decoding makes values
only: no byte can name a class or run code.

An application that would rather see its own types registers them once, in its own
`Codec`; nothing else in the library looks inside.

Limits are checked where bytes enter the system (`Codec.check`, `decode`, `encode`),
before anything is decoded. What has passed and stands in the log is decoded without
being checked again: nesting could otherwise exhaust the stack on one server and not
on another, and one check at the gateway keeps it out of all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

import msgspec

from raft.errors import BadCommand, CommandTooLarge
from raft.interfaces import Value

COMMAND_LIMIT_BYTES: Final = 4 * 1024 * 1024
"""How long an encoded command or query may be, unless configured otherwise."""

DEPTH_LIMIT: Final = 32
"""How many lists and dicts may stand inside each other, unless configured otherwise."""

ENCODE_ERRORS: Final = (
    TypeError,
    ValueError,
    OverflowError,
    RecursionError,
    NotImplementedError,
)
"""What encoding raises for a value that cannot be encoded."""

DECODE_ERRORS: Final = (msgspec.MsgspecError, TypeError, ValueError, NotImplementedError)
"""What decoding raises for bytes that are no plain value, but for RecursionError."""

UNREADABLE: Final = (*DECODE_ERRORS, OverflowError, RecursionError)
"""All that msgspec raises for bytes that are not what is asked for.

Besides its own errors it lets these through: text that is not UTF-8 (ValueError), keys that cannot
be keys (TypeError), timestamps out of range, and too much nesting, also where it only passes over
what a later release has added.
"""

EncodeHook = Callable[[Any], Any]
DecodeHook = Callable[[type, Any], Any]

# Every byte that can begin a list or a dict. A value nests at most as deep as its bytes
# hold such bytes, wherever they stand: counting them is one pass in C and settles nearly
# every command without looking at its structure.
_CONTAINERS = bytes([*range(0x80, 0xA0), *range(0xDC, 0xE0)])


class Codec:
    """Translates commands, queries and results; one for a whole cluster and its clients.

    Without arguments it carries plain values. `command_type` and `result_type` are types
    that msgspec understands (a Struct, a tagged union of them, a dataclass, ...): commands
    and queries, or results, are then checked against them and arrive as them.
    `encode_hook(value)` turns a value that MessagePack does not know into one that it
    does, `decode_hook(type, value)` back into `type`, as msgspec's `enc_hook` and
    `dec_hook` do; both raise NotImplementedError for what they do not know. All servers
    must use the same types: bytes in the log outlive releases, so only ever add
    optional fields.

    Attributes:
        limit_bytes: the longest encoded command or query.
        depth_limit: the deepest nesting of lists and dicts in a command or query.
        decode_trusted: `decode` without checks, for bytes from the log; raises one of
            `DECODE_ERRORS`.
        encode_result: encodes a result without a limit; raises one of `ENCODE_ERRORS`.
        encode_canonical: the same, with the keys of dicts in one order.
    """

    __slots__ = (
        *("_decode_result", "decode_trusted", "depth_limit", "encode_canonical", "encode_result"),
        "limit_bytes",
    )

    def __init__(
        self,
        command_type: object = None,
        result_type: object = None,
        *,
        encode_hook: EncodeHook | None = None,
        decode_hook: DecodeHook | None = None,
        limit_bytes: int = COMMAND_LIMIT_BYTES,
        depth_limit: int = DEPTH_LIMIT,
    ) -> None:
        """Take the application's types and hooks, if any, and the limits."""
        self.limit_bytes = limit_bytes
        self.depth_limit = depth_limit
        self.encode_result: Callable[[object], bytes] = msgspec.msgpack.Encoder(
            enc_hook=encode_hook
        ).encode
        self.encode_canonical: Callable[[object], bytes] = msgspec.msgpack.Encoder(
            enc_hook=encode_hook, order="deterministic"
        ).encode
        self.decode_trusted = _decoder(command_type, decode_hook)
        self._decode_result = _decoder(result_type, decode_hook)

    def encode(self, value: object) -> bytes:
        """Return the bytes of a command or query.

        A plain value that is too large is refused before it is encoded; one of an application's
        own types is measured by its bytes.

        Raises:
            BadCommand: it is no plain value, or too deeply nested.
            CommandTooLarge: its bytes exceed `limit_bytes`.
        """
        size = 0
        # By hand for what nearly every command is: a list of a few texts and numbers.
        for each in value if type(value) is list else (value,):
            kind = type(each)
            if kind is str or kind is bytes:
                size += len(each)  # type: ignore[arg-type]
            elif kind in _HOLDERS:
                size = least_bytes(value, self.limit_bytes, self.depth_limit)
                break
        if size > self.limit_bytes:
            raise CommandTooLarge(size, self.limit_bytes)
        try:
            payload = self.encode_result(value)
        except ENCODE_ERRORS as error:
            raise BadCommand(_reason("cannot be encoded", error)) from error
        self.check(payload)
        return payload

    def check(self, payload: bytes) -> None:
        """Refuse a command or query that is too large or too deeply nested to be decoded.

        The gateway for bytes from outside, before they are appended. Does not decode.

        Raises:
            BadCommand: lists and dicts nest deeper than `depth_limit`.
            CommandTooLarge: there are more than `limit_bytes`.
        """
        size = len(payload)
        # A value nests no deeper than it has bytes.
        if size <= self.depth_limit:
            return
        if size > self.limit_bytes:
            raise CommandTooLarge(size, self.limit_bytes)
        if size - len(payload.translate(None, _CONTAINERS)) > self.depth_limit and is_deeper(
            payload, self.depth_limit
        ):
            raise BadCommand(f"lists and dicts nest deeper than {self.depth_limit}")

    def decode(self, payload: bytes) -> Value:
        """Return the command or query in `payload`, all limits checked first.

        Raises:
            BadCommand: the bytes are no whole value of the right type.
            CommandTooLarge: there are more than `limit_bytes`.
        """
        self.check(payload)
        try:
            return self.decode_trusted(payload)
        except (*DECODE_ERRORS, RecursionError) as error:
            raise BadCommand(_reason("cannot be decoded", error)) from error

    def decode_result(self, payload: bytes) -> Value:
        """Return the result in `payload`; raise `BadCommand` where there is none."""
        try:
            return self._decode_result(payload)
        except (*DECODE_ERRORS, RecursionError) as error:
            raise BadCommand(_reason("the result cannot be decoded", error)) from error


_HOLDERS: Final = frozenset({list, tuple, dict, bytearray})


def least_bytes(value: object, limit_bytes: int, depth: int) -> int:
    """Return how many bytes `value` takes at least; past the limit it is not measured further.

    What holds itself, or one thing many times, would be written out each time. Looks `depth` levels
    of lists and dicts deep: what nests deeper is for others to refuse.
    """
    size = 0
    level: list[object] = [value]
    for _ in range(depth + 2):
        inner: list[object] = []
        for each in level:
            kind = type(each)
            if kind is str or kind is bytes or kind is bytearray:
                size += len(each)  # type: ignore[arg-type]
            elif kind is list or kind is tuple or kind is dict:
                size += len(each)  # type: ignore[arg-type]
                if size > limit_bytes:
                    break
                inner.extend(each)  # type: ignore[arg-type]
                if kind is dict:
                    inner += each.values()  # type: ignore[attr-defined]
        if not inner or size > limit_bytes:
            break
        level = inner
    return size


def _decoder(kind: object, hook: DecodeHook | None) -> Callable[[bytes], Value]:
    wanted: Any = Any if kind is None else kind
    decoder = msgspec.msgpack.Decoder(wanted, dec_hook=hook, ext_hook=_refuse_extension)
    return cast("Callable[[bytes], Value]", decoder.decode)


def _refuse_extension(code: int, _: object) -> object:
    raise msgspec.ValidationError(f"extension type {code} is not a plain value")


def _reason(what: str, error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return f"{what}: too deeply nested, or it contains itself"
    return f"{what}: {error}"


# How many bytes follow the first byte of a value that is neither a list nor a dict, where
# the first byte alone says so: short strings, floats, integers, extensions of fixed size.
_FOLLOWING = [0] * 256
_FOLLOWING[0xA0:0xC0] = range(32)
_FOLLOWING[0xCA:0xD9] = [4, 8, 1, 2, 4, 8, 1, 2, 4, 8, 2, 3, 5, 9, 17]

# First byte -> (bytes of the length, bytes between the length and what it counts), for
# bytes, extensions and strings.
_LENGTHS = {
    0xC4: (1, 0),
    0xC5: (2, 0),
    0xC6: (4, 0),
    0xC7: (1, 1),
    0xC8: (2, 1),
    0xC9: (4, 1),
    0xD9: (1, 0),
    0xDA: (2, 0),
    0xDB: (4, 0),
}

# First byte -> (bytes of the count, values for each).
_COUNTED = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}


def is_deeper(payload: bytes, limit: int) -> bool:
    """Tell whether lists and dicts in `payload` nest deeper than `limit`.

    Walks over first bytes only, without recursion, and never past the end: bytes that are
    truncated or malformed are for the decoder to refuse.
    """
    position, size = 0, len(payload)
    # For each list or dict that is open, how many values it still lacks.
    missing: list[int] = []
    while position < size:
        first = payload[position]
        position += 1
        count = -1
        if 0x80 <= first < 0xA0:
            count = (first & 15) * (2 if first < 0x90 else 1)
        elif first in _COUNTED:
            width, each = _COUNTED[first]
            count = int.from_bytes(payload[position : position + width], "big") * each
            position += width
        elif first in _LENGTHS:
            width, gap = _LENGTHS[first]
            length = int.from_bytes(payload[position : position + width], "big")
            position += width + gap + length
        else:
            position += _FOLLOWING[first]
        if count >= 0:
            if len(missing) == limit:
                return True
            missing.append(count)
        elif missing:
            missing[-1] -= 1
        while missing and missing[-1] <= 0:
            missing.pop()
            if missing:
                missing[-1] -= 1
        if not missing:
            return False
    return False


PLAIN: Final = Codec()
"""The codec of plain values with the default limits."""
