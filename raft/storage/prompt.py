"""Saves that are written by who asks for them: a disk that is quick is not worth a thread.

To hand a save to the writer thread and to hear of its end costs two changes of threads, each of
them as long as a quick disk's sync. Where nothing else is under way, nothing is gained by it. A
disk that was slow once is left to the thread for a while, so that nobody waits for it.
"""

from __future__ import annotations

from typing import Final

from attrs import define

from raft.storage.thread import WriterThread
from raft.storage.writer import Save

MOST_BYTES: Final = 16 << 10
"""Larger saves are the thread's: they come with others, which arrive while it writes."""
QUICK_SECONDS: Final = 0.002
"""What a sync may take."""
PATIENT_SECONDS: Final = 1.0
"""For how long the thread writes everything after a sync that took longer."""


@define(eq=False)
class PromptWriter:
    """Writes in the calling thread, in place of `thread`, while that one has nothing to write.

    The caller sees to it that all saves before are durable. No segment is begun here, so the thread
    has nothing to tidy afterwards.
    """

    thread: WriterThread
    _slow_until: float = 0.0

    def write(self, save: Save) -> bool:
        """Make `save` durable, or return False: then it is to be queued.

        What fails poisons the store, as it does in the thread [RULES D3].
        """
        thread, writer = self.thread, self.thread.writer
        size_bytes = len(save[5])
        began = thread.seconds()
        if size_bytes > MOST_BYTES or began < self._slow_until or not thread.may_be_passed_by:
            return False
        if not thread.working.acquire(blocking=False):
            return False
        try:
            if not writer.has_room(size_bytes):
                return False
            writer.write((save,))
        except Exception as error:
            thread.queue.put(error)
            return False
        finally:
            thread.working.release()
        if (now := thread.seconds()) - began > QUICK_SECONDS:
            self._slow_until = now + PATIENT_SECONDS
        return True
