r"""Segments: the files of the log. How they are named, begun and prepared ahead of need.

A segment file `log-<number>.wal` is made under a temporary name, filled with zeros, given its
header, synced and only then renamed: under its own name it is always whole. Writing a
frame therefore never changes a file's size, which makes its sync cheaper. The header stands
in a block of its own of 512 bytes; little-endian:

    magic        8 bytes  b"RAFTLOG\n"
    version      u32      of the format
    checksum     u32      CRC-32 of magic, version and all that follows in the header
    id           u64      random; repeated in each of its frames
    number       u64      as in the name; consecutive
    incarnation  u64      of the data directory
    size         u64      in bytes, at least: a shorter file has lost its end

These 48 bytes keep their place in all versions, so that an old program can name a new one.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import struct
from collections.abc import Generator
from zlib import crc32

from attrs import define, field

from raft.errors import BadConfiguration, StorageDamaged
from raft.storage.files import Files, sync, write_all

FORMAT_VERSION = 1
MAGIC = b"RAFTLOG\n"
HEADER = struct.Struct("<8sIIQQQQ")
HEADER_BLOCK_BYTES = 512
TEMPORARY_NAME = "log-next.tmp"
ZEROS = bytes(1 << 20)
_NAME = re.compile(r"log-(\d{20})\.wal")


@define(eq=False)
class Segment:
    """One segment file.

    `fd` is None while the file is closed: only the one being written, the one prepared
    and those that were last read are open. `start` is the index of the first entry that
    this segment or a later one may hold: the live entries of those before all lie below.
    """

    number: int
    id: int
    path: str
    fd: int | None
    size_bytes: int
    start: int = field(default=1)


def name(number: int) -> str:
    """Return the file name of segment `number`."""
    return f"log-{number:020}.wal"


def number_of(filename: str) -> int | None:
    """Return the segment number in a file name, or None where it is no segment."""
    matched = _NAME.fullmatch(filename)
    return int(matched[1]) if matched else None


def encode_header(segment_id: int, number: int, incarnation: int, size_bytes: int) -> bytes:
    """Return the header block's used part."""
    ids = struct.pack("<QQQQ", segment_id, number, incarnation, size_bytes)
    versioned = MAGIC + FORMAT_VERSION.to_bytes(4, "little")
    return versioned + crc32(ids, crc32(versioned)).to_bytes(4, "little") + ids


def decode_header(content: bytes, path: str, number: int, incarnation: int, size_bytes: int) -> int:
    """Verify a segment's header, and its file's size, and return the segment's id.

    Raises:
        StorageDamaged: it is no header, or that of another segment or another data directory.
        BadConfiguration: it was written by a newer version of this library.
    """
    remedy = "restore the file, or remove this server and add it again with an empty directory"
    if len(content) < HEADER.size:
        raise StorageDamaged(path, 0, f"the segment is cut short within its header; {remedy}")
    magic, version, checksum, segment_id, found_number, owner, least = HEADER.unpack_from(content)
    if magic != MAGIC or crc32(content[16 : HEADER.size], crc32(content[:12])) != checksum:
        raise StorageDamaged(path, 0, f"the segment's header is damaged; {remedy}")
    if version > FORMAT_VERSION:
        raise BadConfiguration(
            f"{path} has log format {version}, this program knows up to {FORMAT_VERSION}: "
            "start it with the newer version that wrote it"
        )
    if found_number != number:
        raise StorageDamaged(
            path, 0, f"the file's name says segment {number}, its header {found_number}; {remedy}"
        )
    if incarnation and owner and owner != incarnation:
        raise StorageDamaged(
            path, 0, f"the segment belongs to another data directory ({owner:016x}); {remedy}"
        )
    if size_bytes < least:
        raise StorageDamaged(
            path, size_bytes, f"the segment is cut short: it had {least} bytes; {remedy}"
        )
    return int(segment_id)


def prepare(
    files: Files, directory: str, number: int, size_bytes: int, incarnation: int
) -> Generator[None, None, Segment]:
    """Make segment `number`, a step at a time; the generator's value is the open segment.

    Each step costs about as much as writing one MiB. Disk full is met in here, before
    anything depends on the space [RULES D4]. If a step fails what was made is removed.
    """
    temporary = os.path.join(directory, TEMPORARY_NAME)
    path = os.path.join(directory, name(number))
    with contextlib.suppress(FileNotFoundError):
        files.unlink(temporary)
    fd = files.open(temporary, create=True)
    try:
        files.allocate(fd, 0, size_bytes)
        for offset in range(0, size_bytes, len(ZEROS)):
            yield
            zeros = ZEROS[: size_bytes - offset]
            write_all(files, fd, [zeros], offset)
            sync(files, fd)
        segment_id = secrets.randbits(64) or 1
        header = encode_header(segment_id, number, incarnation, size_bytes)
        write_all(files, fd, [header], 0)
        sync(files, fd)
        files.rename(temporary, path)
        files.sync_directory(directory)
    except BaseException:
        files.close(fd)
        with contextlib.suppress(OSError):
            files.unlink(temporary)
        raise
    return Segment(number, segment_id, path, fd, size_bytes)


def extend(files: Files, segment: Segment, size_bytes: int) -> None:
    """Make an unused segment large enough for one frame that is larger than any segment."""
    grow = size_bytes - segment.size_bytes
    if grow > 0:
        fd = open_fd(files, segment)
        files.allocate(fd, segment.size_bytes, grow)
        for offset in range(segment.size_bytes, size_bytes, len(ZEROS)):
            write_all(files, fd, [ZEROS[: size_bytes - offset]], offset)
        sync(files, fd)
        segment.size_bytes = size_bytes


def open_fd(files: Files, segment: Segment) -> int:
    """Return the segment's descriptor, opening the file if it is closed."""
    if segment.fd is None:
        segment.fd = files.open(segment.path)
    return segment.fd


def close_fd(files: Files, segment: Segment) -> None:
    """Close the segment's file if it is open."""
    if segment.fd is not None:
        fd, segment.fd = segment.fd, None
        files.close(fd)
