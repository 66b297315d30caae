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

    @property
    def may_be_passed_by(self) -> bool:
        """Whether the disk takes no time, at this moment: then nobody waits for it."""
        return self.turn_seconds() == 0.0

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
        return writer

    return WriteAheadLog(
        directory, disk, segment_size_bytes, incarnation, RingingQueue(), make_writer
    )
