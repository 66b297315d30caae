"""How long a node reads its clients before it takes its turn.

A reactor reads every socket that has something before it comes to anything else. A thousand
clients that all ask at once are then one turn of a second, in which no heartbeat leaves: the
followers elect another leader because this one is popular [RULES E7]. So reading has a time. What
arrives later in the same turn waits unparsed, and its connection reads no more until it was
its turn; the kernel's buffers, and then the clients, hold the rest.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from raft.transport.boxes import BoxParser
from raft.transport.connection import BoxConnection, Counters

READ_SECONDS: Final = 0.03
"""Half a heartbeat of the default timings, and a tenth of an election timeout."""


class ReadingTurns:
    """Tells connections whether there is time to parse, and calls those that wait, in order."""

    def __init__(self, reactor: Any, seconds: float = READ_SECONDS) -> None:
        """Give each turn so many seconds of the reactor's."""
        self._reactor = reactor
        self._seconds = seconds
        self._end: float | None = None
        self._waiting: deque[PatientConnection] = deque()
        self._call: Any = None

    def has_time(self) -> bool:
        """Tell whether more may be parsed in this turn."""
        if self._end is None:
            self._end = self._reactor.seconds() + self._seconds
            return True
        return bool(self._reactor.seconds() < self._end)

    def wait(self, connection: PatientConnection) -> None:
        """Let `connection` catch up in a later turn, after those that wait already."""
        self._waiting.append(connection)
        if self._call is None:
            self._call = self._reactor.callLater(0, self._next)

    def ended(self) -> None:
        """The node has taken its turn: time begins again with what is read next."""
        self._end = None

    def stop(self) -> None:
        """Call nobody any more."""
        self._waiting.clear()
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _next(self) -> None:
        self._call = None
        self._end = None
        while self._waiting and self.has_time():
            self._waiting.popleft().catch_up()
        if self._waiting:
            self._call = self._reactor.callLater(0, self._next)


class PatientConnection(BoxConnection):
    """A connection that is parsed while there is time for it."""

    def __init__(self, parser: BoxParser, counters: Counters, turns: ReadingTurns) -> None:
        """Wait for a transport."""
        super().__init__(parser, counters)
        self._turns = turns
        self._late: list[bytes] = []

    @property
    def is_late(self) -> bool:
        """Whether something has arrived that is not parsed yet."""
        return bool(self._late)

    def regulate(self) -> None:
        """Read no more while something is late, and again afterwards."""
        raise NotImplementedError

    def dataReceived(self, data: bytes) -> None:
        """Parse while this turn has time for it; keep the rest for one that has."""
        if not self._late and self._turns.has_time():
            super().dataReceived(data)
            return
        if not self._late:
            self._turns.wait(self)
        self._late.append(data)
        self.regulate()

    def catch_up(self) -> None:
        """Parse what came when there was no time."""
        late, self._late = self._late, []
        if self.is_open:
            super().dataReceived(b"".join(late))
            self.regulate()
