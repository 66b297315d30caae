"""Looking after a connection that owes an answer: a node that hangs says nothing, for ever."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from raft.client.links import Link
from raft.transport import commands

PROBE_SECONDS: Final = 1.0
"""After so long without a sign of life on a connection that owes an answer, the node is asked."""


class Probes:
    """Asks a small question over a silent connection, and gives it up where that is not answered.

    Then what was sent over it is sent elsewhere, long before the deadlines of the calls.
    """

    def __init__(
        self,
        reactor: Any,
        seconds: Callable[[], float],
        links: Callable[[], Iterable[Link]],
        answer_seconds: float,
    ) -> None:
        """Watch what `links` returns; a node answers within `answer_seconds`, or hangs."""
        self._reactor = reactor
        self._seconds = seconds
        self._links = links
        self._answer_seconds = answer_seconds
        self._asked: set[Link] = set()
        self.timer: Any = None

    def start(self) -> None:
        """Begin to watch; ends by itself when nothing is owed. Call it where `timer` is None."""
        self.timer = self._reactor.callLater(PROBE_SECONDS, self._look)

    def stop(self) -> None:
        """End watching."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def _look(self) -> None:
        self.timer = None
        busy = [link for link in self._links() if link.busy]
        if not busy:
            return
        self.start()
        now = self._seconds()
        for link in busy:
            if link not in self._asked and link.silent_seconds(now) >= PROBE_SECONDS:
                self._asked.add(link)
                asked = link.call(self._seconds, commands.Leader, self._answer_seconds)
                asked.addCallbacks(self._alive, self._dead, (link,), {}, (link,), {})

    def _alive(self, _: object, link: Link) -> None:
        self._asked.discard(link)

    def _dead(self, _: object, link: Link) -> None:
        self._asked.discard(link)
        link.give_up("the node does not answer")
