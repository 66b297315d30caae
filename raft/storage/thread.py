"""The writer thread: drain the queue, write one frame, sync once, report; tidy when idle."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Event, Thread, current_thread

from attrs import define, field
from twisted.logger import Logger

from raft.storage.brief_wait import BriefWait
from raft.storage.snapshots import SnapshotFiles
from raft.storage.writer import LogWriter, MarkSave, Save

_log = Logger(namespace="raft.storage")

MOST_DRAINED = 4096
RETRY_SECONDS = 1.0
"""How long the writer waits before it asks a full disk for room again."""
NEWEST_POSSIBLE = (1 << 64) - 1

Queued = Save | MarkSave | BaseException | None
"""A save, a mark, what poisons the store, or None: the end."""


@define(eq=False)
class WriterThread:
    """Owns `writer` from `start` on. The three callables are called in this thread."""

    writer: LogWriter
    snapshots: SnapshotFiles
    queue: SimpleQueue[Queued]
    saved: Callable[[int], object]
    failed: Callable[[BaseException], object]
    finished: Callable[[], object]
    seconds: Callable[[], float] = time.monotonic
    wait: BriefWait = field(factory=BriefWait)
    """Where the reactor's thread waits for a moment: then a save is reported there."""
    ending: Event = field(factory=Event)
    """Set it before the end is queued: a save that waits for room waits no longer."""
    _thread: Thread | None = None
    _untidy: bool = True
    _is_told_to_end: bool = False
    _retry_at: float = field(default=0.0)
    _told_full: bool = False

    def start(self) -> None:
        """Start the thread; it ends when it takes None from the queue."""
        self.writer.wait_for_room = self._wait_for_room
        self._thread = Thread(target=self._run, name="raft-wal", daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait for the thread's end; `finished` is the last thing that it calls."""
        if self._thread is not None and self._thread is not current_thread():
            self._thread.join()

    def _run(self) -> None:
        try:
            while self._turn():
                pass
            self.writer.seal()
        except BaseException as error:
            # Whatever it was, what is on disk is no longer known: nothing may follow [RULES D3].
            self.failed(self.writer.failed(error))
            # The order to end may have been taken already, with the saves before it.
            while not self._is_told_to_end and self.queue.get() is not None:
                pass
        with contextlib.suppress(OSError):
            self.writer.close()
        self.finished()

    def _wait_for_room(self) -> bool:
        """Let a save wait for room on a full disk; False where the thread is to end [RULES D4].

        A leader refuses commands as soon as it knows; what was under way by then, and what a
        follower is sent, must come to no harm meanwhile.
        """
        self._tell()
        return not self.ending.wait(RETRY_SECONDS)

    def _turn(self) -> bool:
        """Write all that is queued, or take one step of tidying; False at the end."""
        return self._work_on(self._drain())

    def _work_on(self, drained: list[Queued]) -> bool:
        if drained:
            began = self.seconds()
            saves: list[Save] = []
            ticket: int | None = None
            marked = False
            for queued in drained:
                if type(queued) is tuple:
                    saves.append(queued)
                    ticket = queued[0]
                elif isinstance(queued, MarkSave):
                    self.writer.write(saves)
                    saves.clear()
                    self.writer.write_mark(queued)
                    ticket = queued.ticket
                    marked = True
                elif isinstance(queued, BaseException):
                    raise queued
            self.writer.write(saves)
            if ticket is not None and not self.wait.is_taken(ticket, self.seconds() - began):
                self.saved(ticket)
            self._tell()
            if marked and self.writer.ledger.mark is not None:
                self.snapshots.retain(self.writer.ledger.mark.previous, NEWEST_POSSIBLE)
            if drained[-1] is None:
                return False
            self._untidy = self.writer.untidy
        if self._untidy and (self.queue.empty() or self.writer.pressed):
            self._tidy()
        return True

    def _drain(self) -> list[Queued]:
        queue = self.queue
        if self._untidy and queue.empty():
            return []
        try:
            drained = [queue.get(timeout=RETRY_SECONDS if self.writer.full else None)]
        except Empty:
            self._untidy = True
            return []
        while len(drained) < MOST_DRAINED and drained[-1] is not None and not queue.empty():
            drained.append(queue.get_nowait())
        self._is_told_to_end = drained[-1] is None
        return drained

    def _tidy(self) -> None:
        now = self.seconds()
        if self.writer.full and now < self._retry_at and not self.writer.ledger.removable:
            self._untidy = False
            return
        self._untidy = self.writer.tidy()
        if self.writer.full:
            self._retry_at = now + RETRY_SECONDS
        self._tell()

    def _tell(self) -> None:
        """Log once that the disk is full, and once that it is no longer."""
        if self.writer.full == self._told_full:
            return
        self._told_full = self.writer.full
        if not self.writer.full:
            _log.info("{path}: there is room again", path=self.writer.directory)
            return
        _log.warn(
            "{path}: no room for the next segment of {size} bytes ({reason}); new commands are "
            "refused until there is some",
            path=self.writer.directory,
            size=self.writer.segment_size_bytes,
            reason=self.writer.full_because,
        )


MakeWriter = Callable[
    [
        LogWriter,
        SnapshotFiles,
        SimpleQueue[Queued],
        Callable[[int], object],
        Callable[[BaseException], object],
        Callable[[], object],
    ],
    WriterThread,
]
"""Makes what writes: `WriterThread`, or a child of it that is no thread."""
