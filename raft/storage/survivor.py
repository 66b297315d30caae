r"""A survivor that is made the sole member of its cluster, finished whatever happens in between.

After a majority is lost for good, `raft.storage.survey` decides what the one that is left shall
be. What then changes in its data directory is two things, log and identity, and a crash may come
between them. So both are first written to one file, under its name whole or not at all: from
that moment on the directory is that of the new cluster, and whoever opens it next finishes what
is left to be done. Each step may be taken twice.

The file `survivor.pending`, little-endian:

    magic        8 bytes  b"RAFTSRV\n"
    version      u32      1
    checksum     u32      CRC-32 of magic, version and all that follows
    incarnation  u64      of the data directory
    term         u64      the new current term
    start        u64      the index of the first record
    identity     u32      length of the identity file's new content, which comes next
    records      the records that go to the end of the log, in one frame
"""

from __future__ import annotations

import contextlib
import os
import struct
from typing import Final
from zlib import crc32

from attrs import frozen

from raft.core.outputs import HardState
from raft.errors import BadConfiguration, InvariantViolated, StorageDamaged
from raft.storage.files import Files, read_all, replace_file
from raft.storage.records import decode
from raft.storage.recovery import Recovery
from raft.storage.writer import LogWriter

PENDING_NAME: Final = "survivor.pending"
IDENTITY_NAME: Final = "identity"
SEGMENT_SIZE_BYTES: Final = 16 << 20
MOST_BYTES: Final = 1 << 24
FORMAT_VERSION: Final = 1
MAGIC: Final = b"RAFTSRV\n"
_HEAD: Final = struct.Struct("<8sII")
_BODY: Final = struct.Struct("<QQQI")


@frozen
class Pending:
    """What is to be done: the identity file's content, and the records from `start` on."""

    incarnation: int
    term: int
    start: int
    identity: bytes
    records: bytes


def encode_pending(pending: Pending) -> bytes:
    """Return the file's bytes."""
    body = _BODY.pack(pending.incarnation, pending.term, pending.start, len(pending.identity))
    body += pending.identity + pending.records
    versioned = MAGIC + FORMAT_VERSION.to_bytes(4, "little")
    return versioned + crc32(body, crc32(versioned)).to_bytes(4, "little") + body


def decode_pending(content: bytes, path: str) -> Pending:
    """Return what a file's bytes say.

    Raises:
        BadConfiguration: a newer release wrote it.
        StorageDamaged: anything else.
    """
    if len(content) < _HEAD.size + _BODY.size or content[:8] != MAGIC:
        raise _damaged(path)
    _, version, checksum = _HEAD.unpack_from(content)
    if version > FORMAT_VERSION:
        raise BadConfiguration(
            f"{path} has format {version}, this program knows up to {FORMAT_VERSION}: use the "
            "newer version that wrote it"
        )
    body = content[_HEAD.size :]
    if crc32(body, crc32(content[:12])) != checksum:
        raise _damaged(path)
    incarnation, term, start, length = _BODY.unpack_from(body)
    identity_end = _BODY.size + length
    return Pending(incarnation, term, start, body[_BODY.size : identity_end], body[identity_end:])


def _damaged(path: str) -> StorageDamaged:
    return StorageDamaged(path, 0, "it is damaged; restore the directory, or recover another one")


def begin(files: Files, directory: str, pending: Pending) -> None:
    """Make the directory that of the new cluster, for good; `finish` does the rest. Blocks."""
    replace_file(files, directory, PENDING_NAME, encode_pending(pending))


def is_pending(files: Files, directory: str) -> bool:
    """Tell whether something is left to be done."""
    return PENDING_NAME in files.names(directory)


def finish(files: Files, directory: str) -> bool:
    """Do what is left to be done, if anything; tell whether there was. Blocks.

    The caller holds the directory's lock.

    Raises:
        StorageDamaged: the file or the log is damaged.
        OSError: the disk refused; call it again once it does not.
    """
    path = os.path.join(directory, PENDING_NAME)
    with contextlib.suppress(FileNotFoundError):
        files.unlink(path + ".tmp")
    try:
        fd = files.open(path)
    except FileNotFoundError:
        return False
    try:
        content = read_all(files, fd, MOST_BYTES, 0)
    finally:
        files.close(fd)
    # The name may be visible and not yet on disk: what is done from here on must come later.
    files.sync_directory(directory)
    pending = decode_pending(content, path)
    writer = Recovery(files, directory, SEGMENT_SIZE_BYTES, pending.incarnation).run()
    try:
        _append(writer, pending)
    finally:
        writer.close()
    replace_file(files, directory, IDENTITY_NAME, pending.identity)
    files.unlink(path)
    files.sync_directory(directory)
    return True


def _append(writer: LogWriter, pending: Pending) -> None:
    """Append the records, unless they are there: all of them are one frame."""
    end = pending.start + sum(1 for _ in decode(pending.records))
    next_index = writer.ledger.next_index
    if next_index == pending.start:
        hard_state = HardState(pending.term)
        writer.write([(1, hard_state, None, pending.start, end, pending.records)])
        writer.seal()
    elif next_index != end or writer.ledger.hard_state.current_term != pending.term:
        raise InvariantViolated(
            f"{writer.directory}: the log ends at {next_index}, and entries {pending.start} to "
            f"{end - 1} are to be appended"
        )
