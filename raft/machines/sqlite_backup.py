"""A copy of a SQLite database as it was at one moment, while it goes on changing."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from threading import Event, Thread
from typing import BinaryIO, Final

CHUNK_BYTES: Final = 256 * 1024

WAIT_SECONDS: Final = 0.002
"""How long one step waits for the copy before it gives a pause."""

_PAGES = 256


class Backup:
    """The bytes of the copy, in chunks; empty ones while SQLite makes it, in another thread.

    The moment is that of the construction: the connection holds a read transaction. Close it if
    it is given up; one that nobody holds any more closes itself.
    """

    def __init__(self, source: sqlite3.Connection, path: Path) -> None:
        """Begin to copy `source`, usable in any thread and closed in the end, to `path`."""
        self._path = path
        self._given_up = Event()
        self._errors: list[BaseException] = []
        self._file: BinaryIO | None = None
        source.execute("BEGIN")
        # A transaction's moment is that of its first look.
        source.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        # The thread does not hold this object: that nobody else does must be noticed.
        arguments = (source, path, self._given_up, self._errors)
        self._thread = Thread(target=_copy, args=arguments, name="sqlite-backup", daemon=True)
        self._thread.start()

    def __iter__(self) -> Backup:
        return self

    def __next__(self) -> bytes:
        if self._given_up.is_set():
            raise StopIteration
        if self._file is None:
            self._thread.join(WAIT_SECONDS)
            if self._thread.is_alive():
                return b""
            if self._errors:
                self.close()
                raise OSError(f"SQLite's backup failed: {self._errors[0]}") from self._errors[0]
            self._file = self._path.open("rb")
        chunk = self._file.read(CHUNK_BYTES)
        if not chunk:
            self.close()
            raise StopIteration
        return chunk

    def close(self) -> None:
        """Give up the copy, or let go of it; removes its file."""
        if self._given_up.is_set():
            return
        self._given_up.set()
        self._thread.join()
        if self._file is not None:
            self._file.close()
        for suffix in ("", "-journal", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)

    def __del__(self) -> None:
        self.close()


def _copy(
    source: sqlite3.Connection, path: Path, given_up: Event, errors: list[BaseException]
) -> None:
    def check(*_: int) -> None:
        if given_up.is_set():
            raise InterruptedError("the backup was given up")

    try:
        copy = sqlite3.connect(path, isolation_level=None)
        try:
            # Nobody reads it but its owner, and not after a crash.
            copy.execute("PRAGMA synchronous = OFF")
            source.backup(copy, pages=_PAGES, progress=check)
        finally:
            copy.close()
    except BaseException as error:
        errors.append(error)
    finally:
        source.close()
