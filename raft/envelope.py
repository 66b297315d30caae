"""What stands around the machine's bytes in a snapshot: a small header with a version.

Layout: 8 bytes `RAFTSNAP`, u16 version, u32 length of the header (little-endian), the
header as a MessagePack map, the sections that it lists, then the machine's own bytes.
Checksums, sizes and file names are the storage's affair.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Final

import msgspec

from raft.errors import StateMachineFailed

CHUNK_BYTES: Final = 1024 * 1024
"""The longest chunk that `wrap` gives."""

_MAGIC = b"RAFTSNAP"
_VERSION = 1
_PREAMBLE = struct.Struct("<8sHI")
_HEADER_LIMIT_BYTES = 65536


class Header(msgspec.Struct):
    """What stands before the machine's bytes.

    `sections` lists (name, size in bytes) of what follows before them. A reader must know
    them all: state that is dropped silently is divergence.
    """

    records_crc: int
    outcomes_crc: int
    seed: bytes = b""
    sections: list[tuple[str, int]] = []


def wrap(header: Header, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the header, then the machine's chunks, cut where they are too long."""
    content = msgspec.msgpack.encode(header)
    yield _PREAMBLE.pack(_MAGIC, _VERSION, len(content)) + content
    try:
        for chunk in chunks:
            if len(chunk) <= CHUNK_BYTES:
                yield chunk
            else:
                for start in range(0, len(chunk), CHUNK_BYTES):
                    yield chunk[start : start + CHUNK_BYTES]
    finally:
        # A machine may hold on to its view until it knows that nobody reads it any more.
        close = getattr(chunks, "close", None)
        if close is not None:
            close()


def unwrap(chunks: Iterator[bytes]) -> tuple[Header, Iterator[bytes]]:
    """Take the header off the chunks, wherever their borders are; raise `StateMachineFailed`."""
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
    except msgspec.MsgspecError as error:
        raise StateMachineFailed(f"the snapshot's header cannot be read: {error}") from error
    if header.sections:
        names = ", ".join(name for name, _ in header.sections)
        raise StateMachineFailed(f"the snapshot holds {names}: a later release wrote it")
    return header, chain((head[size:],), chunks)
