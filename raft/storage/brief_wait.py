"""A moment's wait for a save: who asks for it hears of its end in the same turn, if that is soon.

The writer thread reports a save through the reactor: a pipe is written, the reactor wakes, reads
it, and takes another turn. On a quick disk that takes as long as the save itself. Where nothing
else is under way, who asked can as well wait; a disk that hangs holds it up for `MOST_SECONDS`,
and is waited for again only when `QUICK_SAVES` in a row were quick.

    WAITING -- the writer is done --> DONE   who waits reports the save, in its turn
       |
       +------ time has run out ---> LEFT    the writer reports it, through the reactor

Both go under a lock, so a save is reported exactly once, whoever comes first.
"""

from __future__ import annotations

from enum import Enum, auto
from threading import Lock
from typing import Final

from attrs import define, field

MOST_SECONDS: Final = 0.002
"""How long a save is waited for: an election timeout is a hundred times as long."""
QUICK_SECONDS: Final = 0.001
"""What the writer may need for a save that counts as quick."""
QUICK_SAVES: Final = 50
"""So many in a row must have been quick since a wait was in vain, or a save slow."""


class Wait(Enum):
    """How a wait stands."""

    WAITING = auto()
    DONE = auto()
    LEFT = auto()


def _silent_bell() -> Lock:
    bell = Lock()
    bell.acquire()
    return bell


@define(eq=False)
class BriefWait:
    """The wait of one thread, the reactor's, for another one, the writer.

    `begin`, hand the save over, `end`: that is the reactor's thread. The writer calls `is_taken`
    when it is done. Invariant: the bell is free only between DONE and the return of `end`.

    Attributes:
        most_seconds: how long a save is waited for.
        quick_saves: how many saves in a row must be quick before there is another wait.
    """

    most_seconds: float = MOST_SECONDS
    quick_saves: int = QUICK_SAVES
    _state: Wait = Wait.LEFT
    _ticket: int = 0
    _owed_saves: int = 0
    """How many quick saves it takes until there is another wait."""
    _lock: Lock = field(factory=Lock)
    _bell: Lock = field(factory=_silent_bell)

    def begin(self, ticket: int) -> bool:
        """Prepare to wait for `ticket`, the only save under way; False where there is no wait.

        Call it before the writer can know of the save, and `end` when it does.
        """
        if self._owed_saves:
            return False
        self._ticket, self._state = ticket, Wait.WAITING
        return True

    def end(self) -> bool:
        """Wait; return whether the save is durable, and then nobody else will say so."""
        if not self.pause(self.most_seconds):
            with self._lock:
                if self._state is Wait.WAITING:
                    self._state = Wait.LEFT
                    self._owed_saves = self.quick_saves
                    return False
            # The writer came between the end of the pause and the lock.
            self._bell.acquire()
        self._state = Wait.LEFT
        return True

    def pause(self, seconds: float) -> bool:
        """Let the writer write, for so long at most; return whether the bell has rung."""
        return self._bell.acquire(timeout=seconds)

    def is_taken(self, ticket: int, took_seconds: float) -> bool:
        """Tell the writer, which is done with `ticket`, whether somebody waits and reports it."""
        with self._lock:
            if took_seconds > QUICK_SECONDS:
                self._owed_saves = self.quick_saves
            elif self._owed_saves:
                self._owed_saves -= 1
            if self._state is not Wait.WAITING or ticket != self._ticket:
                return False
            self._state = Wait.DONE
            self._bell.release()
        return True
