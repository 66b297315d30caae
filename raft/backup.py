r"""Backup files: a cluster's state at one index, with a checksum over all of it.

A backup is written under a temporary name, synced, renamed, and its directory is synced: under
its own name it is whole. Layout, little-endian (docs/reference/backup.md):

    magic     8 bytes  b"RAFTBAK\n"
    version   u32      of the format
    checksum  u32      CRC-32 of magic, version and all that follows in the header
    length    u32      of meta, in bytes
    meta      MessagePack map: see `BackupMeta`
    chunks    each: length u32 (not 0), CRC-32 u32 of the chunk chained to the one before, the
              first to the header's checksum; then the bytes
    footer    0 u32, the last chunk's CRC-32 u32, count of chunks u64, bytes in chunks u64,
              SHA-256 of meta and of all bytes in chunks (32 bytes), CRC-32 u32 of the footer so far

The bytes in the chunks are a snapshot's content (docs/reference/snapshot-content.md). Everything
here blocks.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
import struct
from collections.abc import Iterator
from typing import Annotated, BinaryIO, Final
from zlib import crc32

import msgspec
from attrs import define, field, frozen

from raft.errors import BadBackup, BadConfiguration

FORMAT_VERSION: Final = 1
MAGIC: Final = b"RAFTBAK\n"
HEADER: Final = struct.Struct("<8sIII")
CHUNK: Final = struct.Struct("<II")
FOOTER: Final = struct.Struct("<IIQQ32s")
MOST_META_BYTES: Final = 65536
MOST_CHUNK_BYTES: Final = 1 << 20

_Number = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class BackupMeta(msgspec.Struct, frozen=True):
    """What a backup says of itself.

    Attributes:
        cluster_id: of the cluster that it was taken from; empty where there was none.
        index: the last entry that the state has applied.
        term: of that entry.
        time_us: the cluster's time as of that entry, in microseconds.
        machine: the state machine's name; empty for a machine without one.
        machine_version: the state machine's version.
        server_id: of the node that gave it.
        taken_at: by that node's wall clock, in seconds since 1970.
    """

    cluster_id: str
    index: _Number
    term: _Number
    time_us: _Number
    machine: str
    machine_version: _Number
    server_id: str = ""
    taken_at: _Number = 0


_decode_meta = msgspec.msgpack.Decoder(BackupMeta).decode


def encode_meta(meta: BackupMeta) -> bytes:
    """Return the bytes of `meta`, as they stand in a backup's header."""
    return msgspec.msgpack.encode(meta)


def decode_meta(content: bytes) -> BackupMeta:
    """Return the meta in `content`.

    Raises:
        BadBackup: it is none.
    """
    try:
        return _decode_meta(content)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
        raise BadBackup(f"what it says of itself cannot be read: {error}") from error


@frozen
class Backup:
    """A backup file that was read to its end and found whole.

    Attributes:
        path: of the file.
        meta: what it says of itself.
        size_bytes: of the content.
        digest: SHA-256 of meta and content.
    """

    path: str
    meta: BackupMeta
    size_bytes: int
    digest: bytes


@define(eq=False)
class BackupWriter:
    """One backup file that is being written; `open`, any number of `write`, then `commit`.

    Attributes:
        path: the name that it gets in the end.
        size_bytes: of the content so far.
        digest: SHA-256 of meta and content, once committed.
    """

    path: str
    _temporary: str
    _file: BinaryIO
    _checksum: int
    _hash: hashlib._Hash = field(repr=False)
    size_bytes: int = 0
    digest: bytes = b""
    _count: int = 0

    @classmethod
    def open(cls, path: str, meta_bytes: bytes) -> BackupWriter:
        """Begin a file beside `path`, readable by its owner alone.

        Raises:
            BadConfiguration: there is a file of that name already.
            OSError: it cannot be made.
        """
        path = os.path.abspath(path)
        _refuse_existing(path)
        temporary = f"{path}.{secrets.token_hex(4)}.partial"
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        versioned = MAGIC + FORMAT_VERSION.to_bytes(4, "little")
        rest = len(meta_bytes).to_bytes(4, "little") + meta_bytes
        checksum = crc32(rest, crc32(versioned))
        writer = cls(path, temporary, os.fdopen(fd, "wb"), checksum, hashlib.sha256(meta_bytes))
        try:
            writer._file.write(versioned + checksum.to_bytes(4, "little") + rest)
        except BaseException:
            writer.abort()
            raise
        return writer

    def write(self, content: bytes) -> None:
        """Add content."""
        for start in range(0, len(content), MOST_CHUNK_BYTES):
            piece = content[start : start + MOST_CHUNK_BYTES]
            self._checksum = crc32(piece, self._checksum)
            with _naming(self.path):
                self._file.write(CHUNK.pack(len(piece), self._checksum))
                self._file.write(piece)
            self._hash.update(piece)
            self._count += 1
            self.size_bytes += len(piece)

    def commit(self) -> None:
        """Make the file durable under its name: sync, rename, sync the directory.

        Raises:
            BadConfiguration: there is a file of that name by now.
            OSError: it cannot be written.
        """
        self.digest = self._hash.digest()
        footer = FOOTER.pack(0, self._checksum, self._count, self.size_bytes, self.digest)
        with _naming(self.path):
            self._file.write(footer + crc32(footer).to_bytes(4, "little"))
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            _refuse_existing(self.path)
            os.rename(self._temporary, self.path)
            directory = os.open(os.path.dirname(self.path), os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)

    def abort(self) -> None:
        """Remove what was written; nothing where it was committed."""
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OSError):
            os.unlink(self._temporary)


@define(eq=False)
class BackupReader:
    """A backup file that is being read: `meta` at once, then the content, verified as it is read.

    Use it in a `with` block.
    """

    path: str
    meta: BackupMeta
    meta_bytes: bytes
    size_bytes: int = 0
    digest: bytes = b""
    _file: BinaryIO = field(kw_only=True)
    _checksum: int = field(kw_only=True)

    @classmethod
    def open(cls, path: str) -> BackupReader:
        """Open the file and read what it says of itself.

        Raises:
            BadBackup: it is no backup, damaged, or of a later format; names file and offset.
            OSError: it cannot be read.
        """
        file = _open_regular(path)
        try:
            head = file.read(HEADER.size)
            if len(head) < HEADER.size or head[:8] != MAGIC:
                raise BadBackup(f"{path} is no backup: it does not begin as one")
            _, version, checksum, length = HEADER.unpack(head)
            if version > FORMAT_VERSION:
                raise BadBackup(
                    f"{path} has backup format {version}, this program knows up to "
                    f"{FORMAT_VERSION}: use the newer version that wrote it"
                )
            meta_bytes = file.read(min(length, MOST_META_BYTES))
            if crc32(meta_bytes, crc32(head[16:], crc32(head[:12]))) != checksum:
                raise _damaged(path, 0, "its header is damaged")
            meta = decode_meta(meta_bytes)
            return cls(path, meta, meta_bytes, file=file, checksum=checksum)
        except BaseException:
            file.close()
            raise

    def __enter__(self) -> BackupReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def chunks(self) -> Iterator[bytes]:
        """Yield the content; `size_bytes` and `digest` are known after the last chunk.

        Raises:
            BadBackup: what comes next is damaged; names file and offset.
        """
        file, checksum, count = self._file, self._checksum, 0
        digest = hashlib.sha256(self.meta_bytes)
        while True:
            offset = file.tell()
            head = file.read(CHUNK.size)
            if len(head) < CHUNK.size:
                raise _damaged(self.path, offset, "it is cut short")
            length, expected = CHUNK.unpack(head)
            if not length:
                break
            piece = file.read(min(length, MOST_CHUNK_BYTES))
            checksum = crc32(piece, checksum)
            if checksum != expected or len(piece) != length:
                raise _damaged(self.path, offset, "the chunk here is damaged or cut short")
            digest.update(piece)
            count += 1
            self.size_bytes += length
            yield piece
        self.digest = digest.digest()
        footer = FOOTER.pack(0, checksum, count, self.size_bytes, self.digest)
        whole = footer + crc32(footer).to_bytes(4, "little")
        if head + file.read(len(whole)) != whole:
            raise _damaged(self.path, offset, "its end is damaged, or something follows it")


def pieces(reader: BackupReader, size_bytes: int) -> Iterator[bytes]:
    """Yield the content in pieces of at most `size_bytes`; raise as `BackupReader.chunks`."""
    for chunk in reader.chunks():
        for start in range(0, len(chunk), size_bytes):
            yield chunk[start : start + size_bytes]


def verify(path: str) -> Backup:
    """Read a whole backup file and return what it is.

    Raises:
        BadBackup: it is no backup, or damaged; names file and offset.
        OSError: it cannot be read.
    """
    with BackupReader.open(path) as reader:
        for _ in reader.chunks():
            pass
        return Backup(path, reader.meta, reader.size_bytes, reader.digest)


def _refuse_existing(path: str) -> None:
    if os.path.lexists(path):
        raise BadConfiguration(f"{path} exists already: name another file, or remove that one")


@contextlib.contextmanager
def _naming(path: str) -> Iterator[None]:
    """Let an error of the disk say which file could not be written."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error


def _open_regular(path: str) -> BinaryIO:
    """Open a file for reading: what is none may never end, or give what it holds only once."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise BadBackup(f"{path} is no regular file: copy the backup to one first")
    return os.fdopen(fd, "rb")


def _damaged(path: str, offset: int, what: str) -> BadBackup:
    return BadBackup(f"{path}, offset {offset}: {what}; take another backup, or use an older one")
