"""What stands around the machine's bytes in a snapshot: a header with a version, and sections.

Layout: 8 bytes `RAFTSNAP`, u16 version, u32 length of the header (little-endian), the
header as a MessagePack map, the sections that it lists, then the machine's own bytes. A
section is a run of slices, each after its length as a u32, and ends with a length of 0: how
large it is need not be known when it begins.
Checksums, sizes and file names are the storage's affair.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Final

import msgspec
from attrs import define

from raft.codec import UNREADABLE
from raft.errors import StateMachineFailed

CHUNK_BYTES: Final = 1024 * 1024
"""The longest chunk that `wrap` gives."""

_MAGIC = b"RAFTSNAP"
_VERSION = 1
_PREAMBLE = struct.Struct("<8sHI")
_LENGTH = struct.Struct("<I")
_HEADER_LIMIT_BYTES = 65536


class Header(msgspec.Struct):
    """What stands before the machine's bytes.

    `sections` lists (name, version) of what follows before them. A reader must know
    them all: state that is dropped silently is divergence. `digest` and `digest_origin` go on with
    `raft.digest`; a release that knew no such digest left them out. `outcomes_crc` is what it kept
    in its place, and is 0 beside them.
    """

    records_crc: int
    outcomes_crc: int
    seed: bytes = b""
    digest: int | msgspec.UnsetType = msgspec.UNSET
    digest_origin: int | msgspec.UnsetType = msgspec.UNSET
    sections: list[tuple[str, int]] = []


class GivenUp(Exception):
    """Thrown into the chunks of a snapshot that nobody will finish: see `wrap`."""


def wrap(
    header: Header, chunks: Iterable[bytes], sections: Sequence[Iterable[bytes]] = ()
) -> Iterator[bytes]:
    """Return the header, the slices of `sections`, then the machine's chunks, cut where too long.

    `sections` are those that the header lists, in its order; no slice of them is empty.
    After a `GivenUp` come empty chunks only, while the machine tidies up: where its chunks have
    a method `give_up`, that is called and they are exhausted. Closing does it all at once.
    """
    wrapped = _wrapped(header, chunks, sections)
    # A generator that was never entered would never close what the machine has opened.
    next(wrapped)
    return wrapped


def _wrapped(
    header: Header, chunks: Iterable[bytes], sections: Sequence[Iterable[bytes]]
) -> Iterator[bytes]:
    content = msgspec.msgpack.encode(header)
    try:
        yield b""
        yield _PREAMBLE.pack(_MAGIC, _VERSION, len(content)) + content
        for section in sections:
            for piece in section:
                yield from _cut(_LENGTH.pack(len(piece)) + piece)
            yield _LENGTH.pack(0)
        for chunk in chunks:
            yield from _cut(chunk)
    except GivenUp:
        give_up = getattr(chunks, "give_up", None)
        if give_up is not None:
            give_up()
            for _ in chunks:
                yield b""
    finally:
        # A machine may hold on to its view until it knows that nobody reads it any more.
        for each in (*sections, chunks):
            close = getattr(each, "close", None)
            if close is not None:
                close()


def _cut(chunk: bytes) -> Iterator[bytes]:
    if len(chunk) <= CHUNK_BYTES:
        yield chunk
    else:
        for start in range(0, len(chunk), CHUNK_BYTES):
            yield chunk[start : start + CHUNK_BYTES]


@define
class Content:
    """A snapshot's content that is being read: its sections in order, then the rest."""

    header: Header
    _held: bytes
    _chunks: Iterator[bytes]
    _at: int = 0
    """Where in `_held` what comes next begins."""

    def section(self) -> Iterator[bytes]:
        """Yield the slices of the next section; exhaust it before anything else is read."""
        while length := _LENGTH.unpack(self._take(_LENGTH.size))[0]:
            yield self._take(length)

    def rest(self) -> Iterator[bytes]:
        """Return the machine's bytes; their borders may differ from those given."""
        return chain((self._held[self._at :],), self._chunks)

    def _take(self, size: int) -> bytes:
        if len(self._held) - self._at < size:
            pieces = [self._held[self._at :]]
            held = len(pieces[0])
            while held < size:
                piece = next(self._chunks, None)
                if piece is None:
                    raise StateMachineFailed("the snapshot ends within a section")
                pieces.append(piece)
                held += len(piece)
            self._held, self._at = b"".join(pieces), 0
        taken = self._held[self._at : self._at + size]
        # Cutting off what was taken would copy the rest once for each slice, however small.
        self._at += size
        return taken


def unwrap(chunks: Iterator[bytes], known: frozenset[tuple[str, int]] = frozenset()) -> Content:
    """Take the header off the chunks, wherever their borders are.

    Raises:
        StateMachineFailed: there is none, or it lists a section that is not `known`.
    """
    head = b""
    size = _PREAMBLE.size
    for chunk in chunks:
        head += chunk
        if size == _PREAMBLE.size and len(head) >= size:
            magic, version, length = _PREAMBLE.unpack_from(head)
            if magic != _MAGIC or version != _VERSION or length > _HEADER_LIMIT_BYTES:
                raise StateMachineFailed(
                    f"the snapshot's content is of version {version} ({magic!r}), this release"
                    f" reads version {_VERSION}"
                )
            size += length
        if size > _PREAMBLE.size and len(head) >= size:
            break
    else:
        raise StateMachineFailed("the snapshot ends before its header does")
    try:
        header = msgspec.msgpack.decode(head[_PREAMBLE.size : size], type=Header)
    except UNREADABLE as error:
        raise StateMachineFailed(f"the snapshot's header cannot be read: {error}") from error
    unknown = [section for section in header.sections if section not in known]
    if unknown or len(set(header.sections)) < len(header.sections):
        names = ", ".join(f"{name} {version}" for name, version in header.sections)
        raise StateMachineFailed(f"the snapshot holds {names}: a later release wrote it")
    return Content(header, head[size:], chunks)
