"""Files that are read and never changed: for looking at a data directory that is somebody's."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from attrs import define

from raft.storage.files import Files


@define(eq=False)
class ReadOnlyFiles:
    """`Files` over others: what would change something is left undone, and said to be done.

    Recovery writes the last frame once more and removes leftovers, neither of which changes what
    it finds. To make a file is an error: nobody may go on from what was only looked at.
    """

    _files: Files

    def open(self, path: str, create: bool = False) -> int:
        """Open what is there."""
        if create:
            raise OSError(errno.EROFS, "opened for reading only", path)
        return self._files.open(path)

    def close(self, fd: int) -> None:
        """See `Files.close`."""
        self._files.close(fd)

    def size(self, fd: int) -> int:
        """See `Files.size`."""
        return self._files.size(fd)

    def pread(self, fd: int, size_bytes: int, offset: int) -> bytes:
        """See `Files.pread`."""
        return self._files.pread(fd, size_bytes, offset)

    def pwrite(self, fd: int, buffers: Sequence[bytes], offset: int) -> int:
        """Write nothing."""
        return sum(map(len, buffers))

    def allocate(self, fd: int, offset: int, size_bytes: int) -> None:
        """Claim nothing."""

    def fdatasync(self, fd: int) -> None:
        """Sync nothing."""

    def rename(self, old: str, new: str) -> None:
        """Rename nothing."""

    def unlink(self, path: str) -> None:
        """Remove nothing."""

    def sync_directory(self, path: str) -> None:
        """Sync nothing."""

    def names(self, path: str) -> list[str]:
        """See `Files.names`."""
        return self._files.names(path)
