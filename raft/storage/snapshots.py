r"""Snapshot files: written whole or not at all, verified as they are read [RULES N1].

A snapshot is `snapshot-<index>-<term>.snap`. It is written under a temporary name, synced,
renamed, and the directory is synced; only a mark in the log makes it count. Layout,
little-endian:

    magic        8 bytes  b"RAFTSNP\n"
    version      u32      of the format
    checksum     u32      CRC-32 of magic, version and all that follows in the header
    incarnation  u64      of the data directory
    length       u32      of meta, in bytes
    meta         MessagePack: array of index, term, configuration (as in its log entry),
                 configuration index, time (microseconds), machine, machine version
    chunks       each: length u32 (not 0), CRC-32 u32 of the chunk chained to the one before,
                 the first to the header's checksum; then the bytes
    footer       0 u32, the last chunk's CRC-32 u32, count of chunks u64, bytes in chunks u64,
                 CRC-32 u32 of the footer so far

The chain makes every checksum one over all bytes before it.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import struct
from collections.abc import Callable, Iterator
from threading import Lock
from zlib import crc32

import msgspec
from attrs import define, field
from zope.interface import implementer

from raft.codec import UNREADABLE
from raft.errors import BadConfiguration, InvariantViolated, RaftError, StorageDamaged, StorageFull
from raft.interfaces import ISnapshotWriter, SnapshotMeta
from raft.storage.files import NO_DESCRIPTOR, Files, failure, read_all, sync, write_all
from raft.storage.records import BadRecord, decode_configuration, encode_configuration

FORMAT_VERSION = 1
MAGIC = b"RAFTSNP\n"
HEADER = struct.Struct("<8sIIQI")
CHUNK = struct.Struct("<II")
FOOTER = struct.Struct("<IIQQ")
_END_BYTES = FOOTER.size + 4 + 1
"""A footer with its checksum, and one more: a file that goes on is damaged."""
MOST_CHUNK_BYTES = 1 << 20
MOST_META_BYTES = 1 << 24
_NAME = re.compile(r"snapshot-(\d{20})-(\d{20})\.snap")
_TEMPORARY = re.compile(r"snapshot-.*\.tmp")
REMEDY = (
    "the server falls back to the snapshot before it if the log reaches that far; otherwise "
    "remove this server and add it again with an empty directory"
)


class _MetaForm(msgspec.Struct, array_like=True, frozen=True):
    index: int
    term: int
    configuration: bytes
    configuration_index: int
    time_us: int
    machine: str
    machine_version: int


_meta_decoder = msgspec.msgpack.Decoder(_MetaForm)


def encode_meta(meta: SnapshotMeta) -> bytes:
    """Return the bytes of `meta`, as they stand in a snapshot's header."""
    configuration = encode_configuration(meta.configuration)
    return msgspec.msgpack.encode(
        _MetaForm(
            meta.index,
            meta.term,
            configuration,
            meta.configuration_index,
            meta.time_us,
            meta.machine,
            meta.machine_version,
        )
    )


def decode_meta(content: bytes) -> SnapshotMeta:
    """Return the meta in `content`; raise `BadRecord` where it is none."""
    try:
        form = _meta_decoder.decode(content)
    except UNREADABLE as error:
        raise BadRecord(0, f"no snapshot meta: {error}") from error
    return SnapshotMeta(
        form.index,
        form.term,
        decode_configuration(form.configuration),
        form.configuration_index,
        form.time_us,
        form.machine,
        form.machine_version,
    )


def name(index: int, term: int) -> str:
    """Return the file name of the snapshot up to `index`, of `term`."""
    return f"snapshot-{index:020}-{term:020}.snap"


def encode_header(meta: SnapshotMeta, incarnation: int) -> tuple[bytes, int]:
    """Return a snapshot file's header and its checksum."""
    form = encode_meta(meta)
    versioned = MAGIC + FORMAT_VERSION.to_bytes(4, "little")
    rest = struct.pack("<QI", incarnation, len(form)) + form
    checksum = crc32(rest, crc32(versioned))
    return versioned + checksum.to_bytes(4, "little") + rest, checksum


@implementer(ISnapshotWriter)
@define(eq=False)
class SnapshotWriter:
    """One snapshot file that is being written; belongs to one thread."""

    _snapshots: SnapshotFiles
    _meta: SnapshotMeta
    _path: str
    _fd: int
    _offset: int
    _checksum: int
    _count: int = 0
    _size_bytes: int = 0
    _open: bool = True

    def write(self, chunk: bytes) -> None:
        """Add machine bytes; raises StorageFull or StorageFailed, and the file is gone then."""
        for start in range(0, len(chunk), MOST_CHUNK_BYTES):
            piece = chunk[start : start + MOST_CHUNK_BYTES]
            self._checksum = crc32(piece, self._checksum)
            self._put([CHUNK.pack(len(piece), self._checksum), piece])
            self._count += 1
            self._size_bytes += len(piece)

    def commit(self) -> None:
        """Make the file durable under its name: sync, rename, sync the directory."""
        footer = FOOTER.pack(0, self._checksum, self._count, self._size_bytes)
        self._put([footer, crc32(footer).to_bytes(4, "little")])
        snapshots, meta = self._snapshots, self._meta
        try:
            sync(snapshots.files, self._fd)
            self._open = False
            snapshots.files.close(self._fd)
            final = name(meta.index, meta.term)
            snapshots.files.rename(self._path, os.path.join(snapshots.directory, final))
            snapshots.files.sync_directory(snapshots.directory)
        except OSError as error:
            # A file that was closed and not renamed would take its room until the next start.
            with contextlib.suppress(OSError):
                snapshots.files.unlink(self._path)
            raise self._failed(error) from error
        snapshots.add(meta.index, final)

    def abort(self) -> None:
        """Remove what was written; nothing where it was committed or aborted before."""
        if self._open:
            self._open = False
            with contextlib.suppress(OSError):
                self._snapshots.files.close(self._fd)
            with contextlib.suppress(OSError):
                self._snapshots.files.unlink(self._path)

    def _put(self, buffers: list[bytes]) -> None:
        if not self._open:
            raise InvariantViolated(f"{self._path} was committed or aborted before")
        try:
            self._offset += write_all(self._snapshots.files, self._fd, buffers, self._offset)
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> RaftError:
        self.abort()
        return self._snapshots.failed(self._path, error)


@define(eq=False)
class SnapshotFiles:
    """The snapshots of one data directory, by index. May be used from several threads."""

    files: Files
    directory: str
    incarnation: int
    poison: Callable[[BaseException], None]
    """Called when the disk failed (rather than being full): nothing may be trusted to it."""
    _names: dict[int, str] = field(factory=dict)
    _lock: Lock = field(factory=Lock)

    def load(self) -> None:
        """Learn which files there are, and remove what a crash left half written.

        What another crash brings back is removed again: nothing is synced.
        """
        for filename in self.files.names(self.directory):
            matched = _NAME.fullmatch(filename)
            if matched:
                self._names[int(matched[1])] = filename
            elif _TEMPORARY.fullmatch(filename):
                self.files.unlink(os.path.join(self.directory, filename))

    def indexes(self) -> list[int]:
        """Return the indexes of the snapshots there are, newest first."""
        with self._lock:
            return sorted(self._names, reverse=True)

    def add(self, index: int, filename: str) -> None:
        """Know a file that was committed."""
        with self._lock:
            self._names[index] = filename

    def path(self, index: int) -> str:
        """Return the path of a snapshot; KeyError where there is none."""
        return os.path.join(self.directory, self._names[index])

    def size_bytes(self, index: int) -> int:
        """Return the size of a snapshot's file; KeyError where there is none."""
        fd = self.files.open(self.path(index))
        try:
            return self.files.size(fd)
        finally:
            self.files.close(fd)

    def create(self, meta: SnapshotMeta) -> SnapshotWriter:
        """Begin a snapshot file under a temporary name of its own."""
        # Two may be written at once: one of this server's own and one from the leader.
        filename = f"{name(meta.index, meta.term)}.{secrets.token_hex(4)}.tmp"
        path = os.path.join(self.directory, filename)
        header, checksum = encode_header(meta, self.incarnation)
        try:
            fd = self.files.open(path, create=True)
        except OSError as error:
            raise self.failed(path, error) from error
        writer = SnapshotWriter(self, meta, path, fd, 0, checksum)
        writer._put([header])
        return writer

    def open(self, index: int) -> tuple[SnapshotMeta, Iterator[bytes]]:
        """Return the meta of the snapshot up to `index` and its chunks, verified one by one.

        Raises KeyError where there is none. The file stays readable to the end even if it
        is removed meanwhile.
        """
        path = self.path(index)
        try:
            fd = self.files.open(path)
        except FileNotFoundError as error:
            raise KeyError(index) from error
        try:
            meta, offset, checksum = self._read_header(fd, path)
        except BaseException:
            self.files.close(fd)
            raise
        chunks = self._chunks(fd, path, offset, checksum)
        # A generator that was never entered would never close the file.
        next(chunks)
        return meta, chunks

    def verify(self, index: int) -> SnapshotMeta:
        """Read a whole snapshot and return its meta; raise StorageDamaged where it is bad."""
        meta, chunks = self.open(index)
        for _ in chunks:
            pass
        if name(meta.index, meta.term) != self._names[index]:
            raise StorageDamaged(self.path(index), 0, f"the name is not its content's; {REMEDY}")
        return meta

    def retain(self, oldest: int, newest: int) -> None:
        """Remove the snapshots below `oldest` and above `newest`.

        One that a crash brings back is removed again at the next start: where no descriptor is left
        for the sync, the disk is well all the same [RULES D4].
        """
        removed = False
        for index in self.indexes():
            if not oldest <= index <= newest:
                with contextlib.suppress(FileNotFoundError):
                    self.files.unlink(self.path(index))
                with self._lock:
                    del self._names[index]
                removed = True
        if removed:
            try:
                self.files.sync_directory(self.directory)
            except OSError as error:
                if error.errno not in NO_DESCRIPTOR:
                    raise

    def failed(self, path: str, error: OSError) -> RaftError:
        """Return the error to raise; a disk that is not merely full poisons the store."""
        told = failure(path, error, "writing a snapshot")
        if not isinstance(told, StorageFull):
            self.poison(told)
        return told

    def _read_header(self, fd: int, path: str) -> tuple[SnapshotMeta, int, int]:
        content = read_all(self.files, fd, HEADER.size, 0)
        if len(content) < HEADER.size:
            raise StorageDamaged(path, 0, f"the snapshot is cut short; {REMEDY}")
        magic, version, checksum, owner, length = HEADER.unpack(content)
        form = read_all(self.files, fd, min(length, MOST_META_BYTES), HEADER.size)
        if magic != MAGIC or crc32(form, crc32(content[16:], crc32(content[:12]))) != checksum:
            raise StorageDamaged(path, 0, f"the snapshot's header is damaged; {REMEDY}")
        if version > FORMAT_VERSION:
            raise BadConfiguration(
                f"{path} has snapshot format {version}, this program knows up to "
                f"{FORMAT_VERSION}: start it with the newer version that wrote it"
            )
        if self.incarnation and owner and owner != self.incarnation:
            raise StorageDamaged(
                path, 16, f"the snapshot belongs to another data directory ({owner:016x}); {REMEDY}"
            )
        try:
            return decode_meta(form), HEADER.size + length, checksum
        except BadRecord as error:
            raise StorageDamaged(path, HEADER.size, f"{error}; {REMEDY}") from error

    def _chunks(self, fd: int, path: str, offset: int, checksum: int) -> Iterator[bytes]:
        count = size_bytes = 0
        try:
            yield b""
            while True:
                head = read_all(self.files, fd, CHUNK.size, offset)
                if len(head) < CHUNK.size:
                    raise StorageDamaged(path, offset, f"the snapshot is cut short; {REMEDY}")
                length, expected = CHUNK.unpack(head)
                if not length:
                    break
                piece = read_all(self.files, fd, min(length, MOST_CHUNK_BYTES), offset + CHUNK.size)
                checksum = crc32(piece, checksum)
                if checksum != expected or len(piece) != length:
                    raise StorageDamaged(path, offset, f"the chunk here is damaged; {REMEDY}")
                yield piece
                offset += CHUNK.size + length
                count += 1
                size_bytes += length
            footer = FOOTER.pack(0, checksum, count, size_bytes)
            whole = footer + crc32(footer).to_bytes(4, "little")
            if read_all(self.files, fd, _END_BYTES, offset) != whole:
                raise StorageDamaged(path, offset, f"the snapshot's end is damaged; {REMEDY}")
        finally:
            self.files.close(fd)
