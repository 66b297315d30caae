"""The narrow door to the file system: every byte that storage writes passes through here.

`Files` is the whole of what storage asks of an operating system. `RealFiles` is the real
one. Tests put a recording one in its place, enumerate what a crash could leave behind,
and let single calls fail.

Calls may be short or interrupted, as the system's are; `write_all` and `read_all` are the
only places that repeat them. A failed sync is never repeated: after one, the system may
have forgotten which pages were dirty [RULES D3].
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Sequence
from typing import Protocol

from raft.errors import StorageFailed, StorageFull

FILE_MODE = 0o600
MOST_BUFFERS = 512
"""Stays below the smallest limit on buffers in one call (IOV_MAX is 1024 on Linux)."""

NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
FULL = (*NO_ROOM, *NO_DESCRIPTOR)
"""There is no room for more, and nothing is wrong with what is there [RULES D4]."""


class Files(Protocol):
    """What storage asks of a file system. All of it may raise OSError.

    Called from the writer thread, from the thread that recovers, and from whichever thread
    writes a snapshot: calls on different files may overlap.
    """

    def open(self, path: str, create: bool = False) -> int:
        """Open for reading and writing; with `create` it must not exist yet. No links."""

    def close(self, fd: int) -> None:
        """Close; unsynced writes stay unsynced."""

    def size(self, fd: int) -> int:
        """Return the size in bytes."""

    def pread(self, fd: int, size_bytes: int, offset: int) -> bytes:
        """Read up to `size_bytes`; b"" at the end of the file."""

    def pwrite(self, fd: int, buffers: Sequence[bytes], offset: int) -> int:
        """Write the buffers end to end at `offset`; return how many bytes were written."""

    def allocate(self, fd: int, offset: int, size_bytes: int) -> None:
        """Claim disk space for that range, or raise ENOSPC."""

    def fdatasync(self, fd: int) -> None:
        """Bring the file's bytes, and its size if it grew, to stable storage."""

    def rename(self, old: str, new: str) -> None:
        """Give `old` the name `new`, atomically, in the place of what had it."""

    def unlink(self, path: str) -> None:
        """Remove a name."""

    def sync_directory(self, path: str) -> None:
        """Bring the directory's names to stable storage."""

    def names(self, path: str) -> list[str]:
        """Return the names in a directory, sorted."""


class RealFiles:
    """The operating system's files: private to their owner, and never through a link."""

    def open(self, path: str, create: bool = False) -> int:
        """Open without following a link; a created file is 0600 whatever the umask."""
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        if not create:
            fd = os.open(path, flags)
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                os.close(fd)
                raise OSError(errno.EINVAL, "not a regular file", path)
            return fd
        fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, FILE_MODE)
        os.fchmod(fd, FILE_MODE)
        return fd

    def close(self, fd: int) -> None:
        """Close the descriptor."""
        os.close(fd)

    def size(self, fd: int) -> int:
        """Return the file's size in bytes."""
        return os.fstat(fd).st_size

    def pread(self, fd: int, size_bytes: int, offset: int) -> bytes:
        """Read once."""
        return os.pread(fd, size_bytes, offset)

    def pwrite(self, fd: int, buffers: Sequence[bytes], offset: int) -> int:
        """Write once."""
        return os.pwritev(fd, buffers, offset)

    def allocate(self, fd: int, offset: int, size_bytes: int) -> None:
        """Claim space; where a file system cannot, writing the zeros will."""
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(fd, offset, size_bytes)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                    raise

    def fdatasync(self, fd: int) -> None:
        """Sync to the medium: on macOS only F_FULLFSYNC does that."""
        if hasattr(fcntl, "F_FULLFSYNC"):
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
        else:
            os.fdatasync(fd)

    def rename(self, old: str, new: str) -> None:
        """Rename atomically."""
        os.rename(old, new)

    def unlink(self, path: str) -> None:
        """Remove the name."""
        os.unlink(path)

    def sync_directory(self, path: str) -> None:
        """Sync the directory."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def names(self, path: str) -> list[str]:
        """List the directory."""
        return sorted(os.listdir(path))


def write_all(files: Files, fd: int, buffers: Sequence[bytes], offset: int) -> int:
    """Write all the buffers at `offset`, however short the single writes; return their size."""
    if len(buffers) > MOST_BUFFERS:
        buffers = [b"".join(buffers)]
    total = sum(map(len, buffers))
    written = 0
    while written < total:
        try:
            count = files.pwrite(fd, buffers, offset + written)
        except InterruptedError:
            continue
        if count <= 0:
            raise OSError(errno.EIO, "the system wrote nothing and gave no reason")
        written += count
        if written < total:
            buffers = [b"".join(buffers)[count:]]
    return total


def read_all(files: Files, fd: int, size_bytes: int, offset: int) -> bytes:
    """Read `size_bytes` from `offset`: less only at the end of the file."""
    pieces: list[bytes] = []
    while size_bytes > 0:
        try:
            piece = files.pread(fd, size_bytes, offset)
        except InterruptedError:
            continue
        if not piece:
            break
        pieces.append(piece)
        size_bytes -= len(piece)
        offset += len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def sync(files: Files, fd: int) -> None:
    """Sync once; an interrupted sync has not failed and goes on."""
    while True:
        try:
            return files.fdatasync(fd)
        except InterruptedError:
            continue


def replace_file(files: Files, directory: str, name: str, content: bytes) -> None:
    """Write `content` under `name`, whole or not at all: sync, rename, sync the directory."""
    path = os.path.join(directory, name)
    temporary = path + ".tmp"
    with contextlib.suppress(FileNotFoundError):
        files.unlink(temporary)
    fd = files.open(temporary, create=True)
    try:
        write_all(files, fd, [content], 0)
        sync(files, fd)
    finally:
        files.close(fd)
    files.rename(temporary, path)
    files.sync_directory(directory)


def failure(path: str, error: OSError, doing: str) -> StorageFailed | StorageFull:
    """Return the error to raise for `error`, with the path, what was being done and the remedy."""
    if error.errno in NO_DESCRIPTOR:
        return StorageFull(
            f"{path}: no file descriptor left while {doing} ({error}); raise the limit of open "
            "files, or close some connections"
        )
    if error.errno in FULL:
        return StorageFull(f"{path}: no room while {doing} ({error}); free some space on that disk")
    return StorageFailed(
        f"{path}: {error} while {doing}; check the disk and its permissions, then start again"
    )
