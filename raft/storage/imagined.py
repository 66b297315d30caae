"""An imagined disk: `Files` in memory, for crash tests and simulations.

It tells what a program sees (the page cache) from what would survive a loss of power, keeps
the list of all that was done to it, and can let any single call fail. `crash_states` lists
what a disk may hold after power was lost at some point: each write that was not synced may
be there or not, whole or in part; each change of a directory likewise.

After a failed sync the program still sees what it wrote, but no later sync brings it to the
disk: the pages pass for clean. It has one directory: paths differ in their last component only.
"""

from __future__ import annotations

import errno
import itertools
import os
import random
from collections.abc import Callable, Iterator, Sequence

from attrs import define, field, frozen

SECTOR_BYTES = 512
ALL_SUBSETS_UP_TO = 5
RANDOM_SUBSETS = 40
MOST_PREFIXES = 8
MOST_TORN = 3
RANDOM_TEARS = 3


@frozen
class Operation:
    """One thing that was done: `file` numbers the file, not its name."""

    kind: str
    file: int = 0
    offset: int = 0
    content: bytes = b""
    name: str = ""
    new_name: str = ""


@define
class _State:
    """Names and contents; files by number."""

    names: dict[str, int] = field(factory=dict)
    contents: dict[int, bytes] = field(factory=dict)

    def apply(self, operation: Operation) -> None:
        if operation.kind == "create":
            self.names[operation.name] = operation.file
            self.contents.setdefault(operation.file, b"")
        elif operation.kind == "rename":
            # A file system logs which file gets the name, whatever had the old name on disk.
            self.names.pop(operation.name, None)
            self.names[operation.new_name] = operation.file
        elif operation.kind == "unlink":
            self.names.pop(operation.name, None)
        elif operation.kind == "write":
            self.write(operation.file, operation.offset, operation.content)

    def write(self, number: int, offset: int, content: bytes) -> None:
        before = self.contents.get(number, b"")
        padded = before.ljust(offset, b"\x00")
        self.contents[number] = padded[:offset] + content + before[offset + len(content) :]

    def copy(self) -> _State:
        return _State(dict(self.names), dict(self.contents))


def _error(code: int, name: str = "") -> OSError:
    return OSError(code, os.strerror(code), name)


@define(eq=False)
class ImaginedDisk:
    """`Files` in memory.

    `fault` is asked before each call with its name and number (from 1); it may raise OSError, or
    return how many bytes a pwrite shall write. `room_bytes` is what `allocate` may claim.
    """

    fault: Callable[[str, int], int | None] | None = None
    room_bytes: int | None = None
    calls: int = 0
    operations: list[Operation] = field(factory=list)
    _seen: _State = field(factory=_State)
    _contents: dict[int, bytearray] = field(factory=dict)
    _open: dict[int, int] = field(factory=dict)
    _next: int = 1
    _base: _State = field(factory=_State)

    @classmethod
    def holding(cls, files: dict[str, bytes]) -> ImaginedDisk:
        """Return a disk on which these files are safe."""
        disk = cls()
        for name, content in files.items():
            disk._seen.names[name] = disk._next
            disk._contents[disk._next] = bytearray(content)
            disk._base.names[name] = disk._next
            disk._base.contents[disk._next] = content
            disk._next += 1
        return disk

    def contents(self) -> dict[str, bytes]:
        """Return all files as a program sees them."""
        return {
            name: bytes(self._contents[number]) for name, number in sorted(self._seen.names.items())
        }

    def open(self, path: str, create: bool = False) -> int:
        """See `Files.open`."""
        self._ask("open")
        name = os.path.basename(path)
        if create:
            if name in self._seen.names:
                raise _error(errno.EEXIST, path)
            self._contents[self._next] = bytearray()
            self._record(Operation("create", self._next, name=name))
            self._next += 1
        elif name not in self._seen.names:
            raise _error(errno.ENOENT, path)
        fd = 1000 + len(self._open)
        while fd in self._open:
            fd += 1
        self._open[fd] = self._seen.names[name]
        return fd

    def close(self, fd: int) -> None:
        """See `Files.close`."""
        if self._open.pop(fd, None) is None:
            raise _error(errno.EBADF)

    def size(self, fd: int) -> int:
        """See `Files.size`."""
        return len(self._content(fd))

    def pread(self, fd: int, size_bytes: int, offset: int) -> bytes:
        """See `Files.pread`."""
        self._ask("pread")
        return bytes(self._content(fd)[offset : offset + size_bytes])

    def pwrite(self, fd: int, buffers: Sequence[bytes], offset: int) -> int:
        """See `Files.pwrite`."""
        limit = self._ask("pwrite")
        written = b"".join(buffers)[:limit]
        content = self._content(fd)
        if len(content) < offset:
            content.extend(bytes(offset - len(content)))
        content[offset : offset + len(written)] = written
        self._record(Operation("write", self._open[fd], offset, written))
        return len(written)

    def allocate(self, fd: int, offset: int, size_bytes: int) -> None:
        """See `Files.allocate`."""
        self._ask("allocate")
        self._content(fd)
        if self.room_bytes is not None:
            if size_bytes > self.room_bytes:
                raise _error(errno.ENOSPC)
            self.room_bytes -= size_bytes

    def fdatasync(self, fd: int) -> None:
        """See `Files.fdatasync`."""
        self._content(fd)
        try:
            self._ask("fdatasync")
        except InterruptedError:
            raise
        except OSError:
            self._record(Operation("forget", self._open[fd]))
            raise
        self._record(Operation("sync", self._open[fd]))

    def rename(self, old: str, new: str) -> None:
        """See `Files.rename`."""
        self._ask("rename")
        name, new_name = os.path.basename(old), os.path.basename(new)
        if name not in self._seen.names:
            raise _error(errno.ENOENT, old)
        number = self._seen.names[name]
        self._record(Operation("rename", number, name=name, new_name=new_name))

    def unlink(self, path: str) -> None:
        """See `Files.unlink`."""
        self._ask("unlink")
        if os.path.basename(path) not in self._seen.names:
            raise _error(errno.ENOENT, path)
        self._record(Operation("unlink", name=os.path.basename(path)))

    def sync_directory(self, path: str) -> None:
        """See `Files.sync_directory`."""
        self._ask("sync_directory")
        self._record(Operation("sync_directory"))

    def names(self, path: str) -> list[str]:
        """See `Files.names`."""
        self._ask("names")
        return sorted(self._seen.names)

    def crash_states(
        self, start: int = 0, chance: random.Random | None = None, tears: int = RANDOM_TEARS
    ) -> Iterator[tuple[int, dict[str, bytes]]]:
        """Yield (count of operations done, files) for every crash after operation `start`.

        Files are named and whole as after a restart. The same files may come up again. Each write
        that may be torn is torn at random in `tears` ways of each kind, besides the regular ones.
        """
        chance = chance or random.Random(0)
        durable = self._base.copy()
        writes: list[Operation] = []
        renames: list[Operation] = []
        for done in range(len(self.operations) + 1):
            if done:
                writes, renames = _settle(durable, writes, renames, self.operations[done - 1])
            if done >= start:
                for state in _outcomes(durable, writes, renames, chance, tears):
                    yield (
                        done,
                        {
                            name: state.contents.get(number, b"")
                            for name, number in sorted(state.names.items())
                        },
                    )

    def _ask(self, call: str) -> int | None:
        self.calls += 1
        return self.fault(call, self.calls) if self.fault is not None else None

    def _content(self, fd: int) -> bytearray:
        number = self._open.get(fd)
        if number is None:
            raise _error(errno.EBADF)
        return self._contents[number]

    def _record(self, operation: Operation) -> None:
        self.operations.append(operation)
        if operation.kind in ("create", "rename", "unlink"):
            self._seen.apply(operation)


def _settle(
    durable: _State, writes: list[Operation], renames: list[Operation], operation: Operation
) -> tuple[list[Operation], list[Operation]]:
    """Take one operation into account; return the writes and names still unsettled."""
    if operation.kind == "forget":
        return [write for write in writes if write.file != operation.file], renames
    if operation.kind == "sync":
        for write in writes:
            if write.file == operation.file:
                durable.apply(write)
        return [write for write in writes if write.file != operation.file], renames
    if operation.kind == "sync_directory":
        for rename in renames:
            durable.apply(rename)
        return writes, []
    if operation.kind == "write":
        return [*writes, operation], renames
    return writes, [*renames, operation]


def _outcomes(
    durable: _State,
    writes: list[Operation],
    renames: list[Operation],
    chance: random.Random,
    tears: int,
) -> Iterator[_State]:
    """Yield what the disk may hold when these writes and names were not yet synced."""
    for kept_names in _subsets(renames, chance):
        named = durable.copy()
        for rename in kept_names:
            named.apply(rename)
        for kept in _subsets(writes, chance):
            yield _written(named, kept)
            # Any one of them may be torn: those before it in the list need not be older on disk.
            for at in range(max(0, len(kept) - MOST_TORN), len(kept)):
                for torn in _tears(kept[at], chance, tears):
                    yield _written(named, [*kept[:at], *torn, *kept[at + 1 :]])


def _written(named: _State, writes: Sequence[Operation]) -> _State:
    state = named.copy()
    for write in writes:
        state.apply(write)
    return state


def _subsets(pending: list[Operation], chance: random.Random) -> Iterator[list[Operation]]:
    if len(pending) <= ALL_SUBSETS_UP_TO:
        for size in range(len(pending), -1, -1):
            yield from map(list, itertools.combinations(pending, size))
        return
    for size in range(len(pending) + 1):
        yield pending[:size]
    for one in range(len(pending)):
        yield pending[:one] + pending[one + 1 :]
        yield [pending[one]]
    for _ in range(RANDOM_SUBSETS):
        yield [one for one in pending if chance.random() < 0.5]


def _tears(write: Operation, chance: random.Random, tears: int) -> Iterator[list[Operation]]:
    """Yield parts of a write: prefixes of its sectors, some of them, cuts within one."""
    cuts = _sector_cuts(write)
    sectors = [
        Operation("write", write.file, write.offset + begin, write.content[begin:end])
        for begin, end in itertools.pairwise(cuts)
    ]
    if len(sectors) > 1:
        for count in range(1, min(len(sectors), MOST_PREFIXES)):
            yield sectors[:count]
        yield sectors[1:]
        for _ in range(tears):
            yield [sector for sector in sectors if chance.random() < 0.5]
    if len(write.content) > 1:
        for _ in range(tears):
            middle = chance.randrange(1, len(write.content))
            yield [Operation("write", write.file, write.offset, write.content[:middle])]


def _sector_cuts(write: Operation) -> list[int]:
    first = SECTOR_BYTES - write.offset % SECTOR_BYTES
    inner = range(first, len(write.content), SECTOR_BYTES)
    return [0, *inner, len(write.content)]
