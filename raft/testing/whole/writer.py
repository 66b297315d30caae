"""The write-ahead log of a simulated process: its writer is called by the clock, not a thread.

All of the log's own code runs: what it queues, its frames, segments, marks and their order. Only
the loop that waits for the queue is another.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from attrs import define

from raft.storage.brief_wait import BriefWait
from raft.storage.thread import RETRY_SECONDS, Queued, WriterThread
from raft.storage.wal import WriteAheadLog

if TYPE_CHECKING:
    from raft.testing.whole.disk import Disk
    from raft.testing.whole.process import DelayedCall, Process


class RingingQueue(SimpleQueue[Queued]):
    """A queue that rings when something is put into it."""

    ring: Callable[[], object] = staticmethod(lambda: None)

    def put(self, item: Queued, block: bool = True, timeout: float | None = None) -> None:
        """Put, and ring."""
        super().put(item)
        self.ring()


@define(eq=False)
class ClockedWait(BriefWait):
    """Waits without time going by: how the race between writer and waiter falls is drawn."""

    quick_saves: int = 0
    writer: Any = None

    def pause(self, seconds: float) -> bool:
        """Let the writer be done in time, too late, or between the end of the pause and the lock.

        A process whose disk is quick may wait in vain too: its threads take turns as they like.
        """
        writer = self.writer
        drawn = writer.process.chance.random()
        if not writer.works_within(seconds) or drawn < 0.3:
            return False
        writer.work_at_once()
        return drawn < 0.9 and super().pause(0.0)


@define(eq=False)
class ClockedWriter(WriterThread):
    """Does in calls of its process what the thread does in a loop.

    Attributes:
        process: whose it is.
        turn_seconds: draws how long after it is wanted the disk has done a turn's work.
    """

    process: Any = None
    turn_seconds: Callable[[], float] = lambda: 0.0
    _turn_call: DelayedCall | None = None
    _waits_for_room: bool = False
    _is_over: bool = False

    def start(self) -> None:
        """Begin to be called."""
        queue: Any = self.queue
        queue.ring = self._wake
        self._wake()

    def join(self) -> None:
        """Nobody has to be waited for."""

    def _wake(self) -> None:
        call = self._turn_call
        if call is not None and call.active() and not self._waits_for_room:
            return
        if call is not None and call.active():
            call.cancel()
        self._waits_for_room = False
        self._turn_call = self.process.callLater(self.turn_seconds(), self._work)

    def works_within(self, seconds: float) -> bool:
        """Tell whether the disk will have done what is queued by then."""
        call = self._turn_call
        if call is None or not call.active():
            return False
        return bool(call.getTime() <= self.process.seconds() + seconds)

    def work_at_once(self) -> None:
        """Do now what would be done soon, while somebody waits for it."""
        if self._turn_call is not None:
            self._turn_call.cancel()
        self._work()

    def _work(self) -> None:
        self._waits_for_room = False
        if self._is_over or (self.queue.empty() and not self._untidy):
            return
        try:
            goes_on = self._turn()
            if not goes_on:
                self.writer.seal()
        except Exception as error:
            self.failed(self.writer.failed(error))
            goes_on = False
        if not goes_on:
            self._end()
        elif self._untidy or not self.queue.empty():
            self._wake()
        elif self.writer.full:
            # The thread waits as long for something to write, and then asks for room again.
            self._waits_for_room = True
            self._turn_call = self.process.callLater(RETRY_SECONDS, self._ask_for_room)

    def _ask_for_room(self) -> None:
        self._untidy = True
        self._work()

    def _end(self) -> None:
        self._is_over = True
        with contextlib.suppress(OSError):
            self.writer.close()
        self.finished()


def clocked_log(
    process: Process,
    disk: Disk,
    directory: str,
    segment_size_bytes: int,
    incarnation: str,
    turn_seconds: Callable[[], float],
    writer_class: type[ClockedWriter] = ClockedWriter,
) -> WriteAheadLog:
    """Return a log on `disk` that `process` writes, so many seconds after each wish."""

    def make_writer(*arguments: Any) -> ClockedWriter:
        writer = writer_class(*arguments)
        writer.seconds = process.seconds
        writer.process, writer.turn_seconds = process, turn_seconds
        writer.wait = ClockedWait(writer=writer)
        return writer

    return WriteAheadLog(
        directory, disk, segment_size_bytes, incarnation, RingingQueue(), make_writer
    )
