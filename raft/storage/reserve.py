"""Files that keep a few descriptors back for the log, for when the process has no other left.

At its limit of open files a process can neither begin a segment nor sync a directory, though the
disk is well. Connections are files too, and whoever opens enough of them brings any server there
(sc-P8). What is held back here is given up for the one call that needs it, and taken again as soon
as something is closed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from threading import Lock
from typing import TypeVar

from raft.storage.files import NO_DESCRIPTOR, RealFiles

HELD_BACK = 3
"""For a segment, a directory's sync and a snapshot at the same time."""

R = TypeVar("R")


class ReservedFiles(RealFiles):
    """The operating system's files, with descriptors in reserve."""

    def __init__(self, count: int = HELD_BACK) -> None:
        """Hold `count` descriptors back, or as many as there are."""
        self._count = count
        self._held: list[int] = []
        self._lock = Lock()
        self._refill()

    def __del__(self) -> None:
        """Give the descriptors back."""
        while self._held:
            os.close(self._held.pop())

    def open(self, path: str, create: bool = False) -> int:
        """Open, with a descriptor of the reserve if there is no other."""
        return self._insist(lambda: RealFiles.open(self, path, create))

    def close(self, fd: int) -> None:
        """Close, and fill the reserve."""
        super().close(fd)
        self._refill()

    def sync_directory(self, path: str) -> None:
        """Sync the directory, with a descriptor of the reserve if there is no other."""
        self._insist(lambda: RealFiles.sync_directory(self, path))
        self._refill()

    def _insist(self, call: Callable[[], R]) -> R:
        while True:
            try:
                return call()
            except OSError as error:
                if error.errno not in NO_DESCRIPTOR:
                    raise
                # What is given up may go to a connection that waits to be accepted: give another.
                with self._lock:
                    if not self._held:
                        raise
                    os.close(self._held.pop())

    def _refill(self) -> None:
        if len(self._held) >= self._count:
            return
        with self._lock, contextlib.suppress(OSError):
            while len(self._held) < self._count:
                self._held.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
