"""AMP boxes, parsed in one pass and within bounds, and written back.

A box is a run of pairs, each a key and a value with two bytes of big-endian length
before it, ended by a key of length zero. `twisted.protocols.amp` parses one string at
a time through a state machine and bounds nothing; this room does the same in one loop
over the bytes that arrived, which is the hot path of every connection. Its slow twin
is stock AMP itself: tests hold both to the same boxes, whatever the chunking.

What a hostile peer can cost is bounded: an unfinished box holds at most `limit_bytes`
and `limit_keys`, finished pairs of it are never scanned again, and the bytes of an
unfinished pair are only gathered until the pair is whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

Box = dict[bytes, bytes]
"""One parsed box: values by key. Of a repeated key the last value counts, as in AMP."""

KEY_BYTES = 255
"""The longest key of AMP."""
VALUE_BYTES = 65535
"""The longest value of AMP."""
PIECE_BYTES = 65000
"""Where a large value is cut into numbered keys."""
HANDSHAKE_BOX_BYTES = 4096
"""The largest box before the handshake is done."""
HANDSHAKE_KEYS = 64
"""The greatest number of keys in a box before the handshake is done."""
BOX_BYTES = (1 << 20) + 8192
"""The largest box between servers afterwards: 1 MiB of payload and some slack."""
BOX_KEYS = 256
"""The greatest number of keys in a box afterwards."""


class BadBox(ValueError):
    """The bytes are no AMP box, or one past the bounds; the connection must be closed."""


class BoxParser:
    """Cut a stream of bytes into boxes.

    Attributes:
        limit_bytes: the largest box accepted, with all its lengths and its end.
        limit_keys: the greatest number of keys in one box.

        finished: how many boxes were delivered so far.

    Both limits may be changed at any time, also from within `received`; they hold from
    the next box on.
    """

    __slots__ = (
        "_base",
        "_fields",
        "_needed",
        "_pending",
        "_stopped",
        "finished",
        "limit_bytes",
        "limit_keys",
    )

    def __init__(self, limit_bytes: int = BOX_BYTES, limit_keys: int = BOX_KEYS) -> None:
        """Start with an empty stream."""
        self.limit_bytes = limit_bytes
        self.limit_keys = limit_keys
        # Bytes of the unfinished pair, and how many there must be before looking again.
        self._pending = bytearray()
        self._needed = 0
        # Finished pairs of the unfinished box, and how many bytes they took.
        self._fields: Box = {}
        self._base = 0
        self._stopped = False
        self.finished = 0

    @property
    def unfinished(self) -> bool:
        """Whether part of a box has arrived and its end has not."""
        return bool(self._pending or self._fields)

    def stop(self) -> None:
        """Deliver nothing more, not even what has already arrived."""
        self._stopped = True

    def feed(self, octets: bytes, received: Callable[[Box], object]) -> None:
        """Parse `octets` after all that came before; call `received` with each whole box.

        Raises:
            BadBox: the stream is malformed or past its bounds. Boxes before that point
                were delivered; the parser is stopped.
        """
        pending = self._pending
        if pending:
            pending += octets
            if len(pending) < self._needed:
                return
            octets = bytes(pending)
            pending.clear()
        position, end = 0, len(octets)
        start = -self._base
        fields = self._fields
        while end - position >= 2:
            key_length = (octets[position] << 8) | octets[position + 1]
            if key_length == 0:
                position += 2
                if position - start > self.limit_bytes or len(fields) > self.limit_keys:
                    self._check(position - start, len(fields))
                box, fields = fields, {}
                start = position
                if not self._stopped:
                    self.finished += 1
                    received(box)
                if self._stopped:
                    return
                continue
            value_at = stop = position + key_length + 4
            if value_at <= end:
                stop += (octets[value_at - 2] << 8) | octets[value_at - 1]
            if stop > end or key_length > KEY_BYTES:
                self._check(stop - start, len(fields), key_length)
                self._needed = stop - position
                break
            fields[octets[position + 2 : value_at - 2]] = octets[value_at:stop]
            position = stop
        else:
            self._needed = 2
        self._check(position - start, len(fields))
        self._base = position - start
        self._fields = fields
        if position < end:
            pending += octets[position:]

    def _check(self, size_bytes: int, keys: int, key_length: int = 0) -> None:
        """Raise `BadBox` where a box of at least this size is past the bounds."""
        if key_length > KEY_BYTES:
            reason = f"a key of {key_length} bytes, the limit is {KEY_BYTES}"
        elif size_bytes > self.limit_bytes or keys > self.limit_keys:
            reason = (
                f"a box of {size_bytes} bytes or more with {keys} keys or more, the limits are "
                f"{self.limit_bytes} bytes and {self.limit_keys} keys"
            )
        else:
            return
        self._stopped = True
        raise BadBox(reason)


def pair(key: bytes, value: bytes) -> bytes:
    """Return one pair as it stands in a box; `value` is at most 65,535 bytes."""
    return b"%c%c%b%c%c%b" % (0, len(key), key, len(value) >> 8, len(value) & 255, value)


def encode_box(pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the box of `pairs`, in their order.

    Raises:
        ValueError: a key is empty or longer than 255 bytes, or a value is longer than
            65,535: use `spread` for those.
    """
    pieces = []
    for key, value in pairs:
        if not 0 < len(key) <= KEY_BYTES:
            raise ValueError(f"the key {key[:20]!r} has {len(key)} bytes, 1 to 255 are allowed")
        if len(value) > VALUE_BYTES:
            raise ValueError(f"the value of {key!r} has {len(value)} bytes, 65535 are allowed")
        pieces.append(pair(key, value))
    pieces.append(b"\0\0")
    return b"".join(pieces)


def spread(key: bytes, value: bytes) -> list[tuple[bytes, bytes]]:
    """Return the pairs that carry `value`: `key`, then `key.1`, `key.2` and so on.

    Each but the last holds 65,000 bytes. An empty value is one pair.
    """
    if len(value) <= PIECE_BYTES:
        return [(key, value)]
    return [
        (key if offset == 0 else b"%b.%d" % (key, offset // PIECE_BYTES),
         value[offset : offset + PIECE_BYTES])
        for offset in range(0, len(value), PIECE_BYTES)
    ]  # fmt: skip


def close_box(head: bytes, key: bytes, value: bytes) -> bytes:
    """Return the box of the encoded pairs in `head` and of `value`, spread under `key`.

    Large values are copied once, by one join: each copy of a megabyte costs more than all
    the rest of a box.
    """
    if len(value) <= PIECE_BYTES:
        return b"%b%b\0\0" % (head, pair(key, value))
    pieces: list[bytes | memoryview] = [head]
    view = memoryview(value)
    for offset in range(0, len(value), PIECE_BYTES):
        name = key if offset == 0 else b"%b.%d" % (key, offset // PIECE_BYTES)
        piece = view[offset : offset + PIECE_BYTES]
        size = len(piece)
        pieces += (b"%c%c%b%c%c" % (0, len(name), name, size >> 8, size & 255), piece)
    pieces.append(b"\0\0")
    return b"".join(pieces)


def gather(fields: Box, key: bytes) -> bytes:
    """Return the value that `spread` laid over `fields`.

    Raises:
        KeyError: `key` itself is not there.
    """
    first = fields[key]
    number = 1
    more = fields.get(b"%b.1" % key)
    if more is None:
        return first
    pieces = [first]
    while more is not None:
        pieces.append(more)
        number += 1
        more = fields.get(b"%b.%d" % (key, number))
    return b"".join(pieces)
