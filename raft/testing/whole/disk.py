"""The disk of a machine: `Files` in memory that lose what was not synced, fill up, fail and rot.

A program sees the page cache; what a loss of power leaves is kept beside it as it changes. A
process that is killed loses nothing: the next one sees what it wrote, synced or not.
"""

from __future__ import annotations

import errno
import itertools
import os
import random
from collections.abc import Callable, Sequence
from typing import Any, Final

from attrs import Factory, define

SECTOR_BYTES: Final = 512
KEPT_SHARES: Final = (0.0, 0.0, 0.1, 0.5, 1.0)
"""How likely an unsynced write survives; drawn anew for each loss of power."""


@define(eq=False)
class File:
    """One file: what is seen, what is durable, and the writes between the two."""

    seen: bytearray = Factory(bytearray)
    durable: bytearray = Factory(bytearray)
    pending: list[tuple[int, bytes]] = Factory(list)

    def write(self, offset: int, content: bytes) -> None:
        """Write to the cache."""
        _put(self.seen, offset, content)
        self.pending.append((offset, content))

    def sync(self) -> None:
        """Bring all of it to the disk."""
        for offset, content in self.pending:
            _put(self.durable, offset, content)
        self.pending.clear()

    def lose(self, chance: random.Random, share: float) -> None:
        """Keep each unsynced write with the probability `share`, whole or some of its sectors."""
        for offset, content in self.pending:
            if chance.random() >= share:
                continue
            if chance.random() < 0.5:
                _put(self.durable, offset, content)
                continue
            for begin, end in _sectors(offset, len(content)):
                if chance.random() < 0.5:
                    _put(self.durable, offset + begin, content[begin:end])
        self.pending.clear()
        self.seen = bytearray(self.durable)


def _put(content: bytearray, offset: int, piece: bytes) -> None:
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(piece)] = piece


def _sectors(offset: int, size_bytes: int) -> list[tuple[int, int]]:
    cuts = [0, *range(SECTOR_BYTES - offset % SECTOR_BYTES, size_bytes, SECTOR_BYTES), size_bytes]
    return list(itertools.pairwise(cuts))


def _error(code: int, name: str = "") -> OSError:
    return OSError(code, os.strerror(code), name)


@define(eq=False)
class Disk:
    """All files of one machine, in one directory: paths differ in their last part only.

    Attributes:
        before: called before each operation with its name; it may raise OSError, or whatever
            ends the process.
        capacity_bytes: how much fits; None for everything.
        refused: called once when something does not fit any more.
        dropped: how many writes a loss of power has undone, whole or in part.
    """

    before: Callable[[str], object] = lambda _: None
    capacity_bytes: int | None = None
    refused: Callable[[], object] = lambda: None
    dropped: int = 0
    names_seen: dict[str, File] = Factory(dict)
    _durable_names: dict[str, File] = Factory(dict)
    _pending_names: list[tuple[str, File | None]] = Factory(list)
    """(name, what it names from here on), not yet synced."""
    _open: dict[int, File] = Factory(dict)
    _next_fd: int = 1000

    # Files.

    def open(self, path: str, create: bool = False) -> int:
        """See `Files.open`."""
        self.before("open")
        name = os.path.basename(path)
        file = self.names_seen.get(name)
        if create:
            if file is not None:
                raise _error(errno.EEXIST, path)
            file = File()
            self._name(name, file)
        elif file is None:
            raise _error(errno.ENOENT, path)
        self._next_fd += 1
        self._open[self._next_fd] = file
        return self._next_fd

    def close(self, fd: int) -> None:
        """See `Files.close`."""
        if self._open.pop(fd, None) is None:
            raise _error(errno.EBADF)

    def size(self, fd: int) -> int:
        """See `Files.size`."""
        return len(self._file(fd).seen)

    def pread(self, fd: int, size_bytes: int, offset: int) -> bytes:
        """See `Files.pread`."""
        self.before("pread")
        return bytes(self._file(fd).seen[offset : offset + size_bytes])

    def pwrite(self, fd: int, buffers: Sequence[bytes], offset: int) -> int:
        """See `Files.pwrite`."""
        self.before("pwrite")
        file, content = self._file(fd), b"".join(buffers)
        self._claim(offset + len(content) - len(file.seen))
        file.write(offset, content)
        return len(content)

    def allocate(self, fd: int, offset: int, size_bytes: int) -> None:
        """See `Files.allocate`."""
        self.before("allocate")
        file = self._file(fd)
        grow = offset + size_bytes - len(file.seen)
        self._claim(grow)
        if grow > 0:
            file.write(len(file.seen), bytes(grow))

    def fdatasync(self, fd: int) -> None:
        """See `Files.fdatasync`."""
        file = self._file(fd)
        try:
            self.before("fdatasync")
        except OSError:
            # The pages pass for clean from here on, and never come to the disk.
            file.pending.clear()
            raise
        file.sync()

    def rename(self, old: str, new: str) -> None:
        """See `Files.rename`."""
        self.before("rename")
        file = self.names_seen.get(os.path.basename(old))
        if file is None:
            raise _error(errno.ENOENT, old)
        self._name(os.path.basename(old), None)
        self._name(os.path.basename(new), file)

    def unlink(self, path: str) -> None:
        """See `Files.unlink`."""
        self.before("unlink")
        name = os.path.basename(path)
        if name not in self.names_seen:
            raise _error(errno.ENOENT, path)
        self._name(name, None)

    def sync_directory(self, path: str) -> None:
        """See `Files.sync_directory`."""
        self.before("sync_directory")
        self._durable_names = dict(self.names_seen)
        self._pending_names.clear()

    def names(self, path: str) -> list[str]:
        """See `Files.names`."""
        self.before("names")
        return sorted(self.names_seen)

    def _file(self, fd: int) -> File:
        file = self._open.get(fd)
        if file is None:
            raise _error(errno.EBADF)
        return file

    def _name(self, name: str, file: File | None) -> None:
        _set(self.names_seen, name, file)
        self._pending_names.append((name, file))

    def _claim(self, size_bytes: int) -> None:
        most = self.capacity_bytes
        if most is not None and size_bytes > 0 and self.used_bytes + size_bytes > most:
            told, self.refused = self.refused, lambda: None
            told()
            raise _error(errno.ENOSPC)

    # What befalls it.

    @property
    def used_bytes(self) -> int:
        """How much all files take."""
        return sum(len(file.seen) for file in self.names_seen.values())

    def process_died(self) -> None:
        """Close all files; the cache stays."""
        self._open.clear()

    def lose_power(self, chance: random.Random) -> None:
        """Lose the cache: of what was not synced anything may be there, in part too."""
        self._open.clear()
        share = chance.choice(KEPT_SHARES)
        self._lose_names(chance)
        for name in sorted({*self.names_seen, *self._durable_names}):
            for file in (self.names_seen.get(name), self._durable_names.get(name)):
                if file is not None and file.pending:
                    self.dropped += len(file.pending)
                    file.lose(chance, share)
                elif file is not None:
                    file.seen = bytearray(file.durable)
        self.names_seen = dict(self._durable_names)

    def _lose_names(self, chance: random.Random) -> None:
        pending = self._pending_names
        if chance.random() < 0.7:
            # A journal keeps the order of names; a cut somewhere in it.
            kept = pending[: chance.randint(0, len(pending))]
        else:
            kept = [each for each in pending if chance.random() < 0.5]
        for name, file in kept:
            _set(self._durable_names, name, file)
        pending.clear()

    def wipe(self) -> None:
        """Be a new disk, with nothing on it."""
        self.names_seen.clear()
        self._durable_names.clear()
        self._pending_names.clear()
        self._open.clear()

    def copied(self) -> Disk:
        """Return a new disk with the same files, as a program reads them."""
        copy = Disk()
        copy._take(self)
        return copy

    def become(self, copy: Disk) -> None:
        """Be as another disk is, which was synced."""
        self.wipe()
        self._take(copy)

    def _take(self, other: Disk) -> None:
        for name, file in other.names_seen.items():
            self.names_seen[name] = File(bytearray(file.seen), bytearray(file.seen))
        self._durable_names = dict(self.names_seen)

    def flip(self, name: str, offset: int, bit: int) -> None:
        """Let one bit rot."""
        file = self.names_seen[name]
        for content in (file.seen, file.durable):
            if offset < len(content):
                content[offset] ^= 1 << bit


class Mount:
    """A disk as one life of a process has it: what the dead leave behind changes nothing.

    Generators that nobody ends are tidied up at any time: what they close and unlink then is
    gone with their process, or another one's by now.
    """

    def __init__(self, disk: Disk, check: Callable[[], object], is_alive: Callable[[], bool]):
        self.disk, self._check, self._is_alive = disk, check, is_alive

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self.disk, name)

        def call(*arguments: Any, **named: Any) -> Any:
            if not self._is_alive():
                if name in ("close", "unlink"):
                    return None
                self._check()
            return operation(*arguments, **named)

        # Found at once the next time.
        setattr(self, name, call)
        return call


def _set(names: dict[str, File], name: str, file: File | None) -> None:
    if file is None:
        names.pop(name, None)
    else:
        names[name] = file
