"""Connections to nodes: dialled when needed, shared by address, closed when idle or silent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.python.failure import Failure

from raft.errors import BadConfiguration, NotAppended, Timeout
from raft.transport.calls import ClientConnection
from raft.transport.commands import Question
from raft.transport.endpoints import parse_dial, require_private

CLOSE_SECONDS: Final = 1.0
"""How long closing waits for what is still to be written."""

Dial = Callable[[str, float], Deferred[ClientConnection]]
"""Connects to an address within so many seconds."""


class Link:
    """A connection with what the client knows of it.

    Attributes:
        busy: how many questions have no answer yet.
        silence_seconds: an expired question closes a connection that has been silent for so
            long: it may be half open, or its node may be stuck.
    """

    __slots__ = ("_waiting_since", "address", "busy", "connection", "released", "silence_seconds")

    def __init__(
        self,
        address: str,
        connection: ClientConnection,
        silence_seconds: float,
        released: Callable[[Link], None],
    ) -> None:
        """Wrap `connection` to `address`; `released` is called when it becomes idle."""
        self.address = address
        self.connection = connection
        self.busy = 0
        self.silence_seconds = silence_seconds
        self.released = released
        self._waiting_since = 0.0

    @property
    def usable(self) -> bool:
        """Whether questions can be asked."""
        return bool(self.connection.connected)

    @property
    def server(self) -> str:
        """The id of the node at the other end, or empty if it has not said."""
        greeting = self.connection.greeting
        return greeting.server_id if greeting else ""

    def asked(self, now: float) -> None:
        """Count a question."""
        if not self.busy:
            self._waiting_since = now
        self.busy += 1

    def answered(self, now: float) -> None:
        """Count the answer to a batch."""
        self._count(now)
        if not self.busy:
            self.released(self)

    def failed(self, failure: Failure, now: float) -> None:
        """Count a batch that failed: by an error that the node sent, or without an answer."""
        self.answered(self._heard(failure, now))

    def _count(self, now: float) -> None:
        self._waiting_since = now
        self.busy -= 1

    def _heard(self, failure: Failure, now: float) -> float:
        # A time-out that the node sent looks like the connection's own: neither is a sign of life.
        return self._waiting_since if failure.check(CancelledError, Timeout) else now

    def silent_seconds(self, now: float) -> float:
        """Return since when an answer is owed without a sign of life."""
        return now - self._waiting_since

    def expired(self, now: float) -> None:
        """Close a connection on which a question expired after a long silence."""
        silent_seconds = self.silent_seconds(now)
        if silent_seconds >= self.silence_seconds:
            self.give_up(f"no answer for {silent_seconds:.1f} s")

    def give_up(self, reason: str) -> None:
        """Close it at once."""
        if self.usable:
            # Closing in good order would wait for bytes to leave that nobody takes.
            self.connection.abandon(reason)

    def call(
        self, now: Callable[[], float], command: type[Question], timeout: float, **arguments: Any
    ) -> Deferred[dict[str, Any]]:
        """Ask a question that is no batch."""
        self.asked(now())

        def failed(failure: Failure) -> Failure:
            self._count(self._heard(failure, now()))
            if failure.check(Timeout):
                self.expired(now())
                # Where nothing else is asked, a node that cannot answer this is not worth keeping.
                if not self.busy:
                    self.give_up("no answer to a question")
            return failure

        def answered(answer: dict[str, Any]) -> dict[str, Any]:
            self._count(now())
            return answer

        question = self.connection.call(command, timeout_seconds=timeout, **arguments)
        return question.addCallbacks(answered, failed)


class Links:
    """All connections of one client, by address.

    Only `kept`, the one to the leader, and those `held` for reads stay open without a question.
    """

    def __init__(
        self,
        reactor: Any,
        dial: Dial,
        allow_plaintext: bool,
        silence_seconds: float,
        lost: Callable[[Link], None],
    ) -> None:
        """Dial through `dial`; `lost` is told of each connection that is gone."""
        self.kept: Link | None = None
        self.held: set[Link] = set()
        self._reactor = reactor
        self._dial = dial
        self._allow_plaintext = allow_plaintext
        self._silence_seconds = silence_seconds
        self._lost = lost
        self._links: dict[str, Link] = {}
        self._open: dict[Link, Deferred[None]] = {}

    async def reach(self, address: str, timeout_seconds: float) -> Link:
        """Return a usable link to `address`, an endpoint string.

        Raises:
            NotAppended: it cannot be reached in time.
            PeerRefused: the node belongs to another cluster.
            BadConfiguration: it is no address, or plaintext is not allowed to it.
        """
        key = self.canonical(address)
        link = self._links.get(key)
        if link is not None and link.usable:
            return link
        require_private(address, self._allow_plaintext)
        connection = await self._dial(address, timeout_seconds)
        if not connection.connected:
            raise NotAppended(f"{address} closed the connection at once")
        link = Link(address, connection, self._silence_seconds, self._idle)
        self._links[key] = link
        gone: Deferred[None] = Deferred()
        self._open[link] = gone
        connection.lost.addBoth(self._forget, key, link)
        return link

    def canonical(self, address: str) -> str:
        """Return the one way to write `address`."""
        return parse_dial(address).text

    def is_same(self, address: str, other: str) -> bool:
        """Tell whether two texts are the same address; what is no address is like no other."""
        try:
            return self.canonical(address) == self.canonical(other)
        except BadConfiguration:
            return False

    def prune(self) -> None:
        """Close every connection that is idle, but for those that are kept."""
        for link in [link for link in self._open if not link.busy]:
            self._idle(link)

    def close(self) -> Deferred[None]:
        """Close all connections; fires when they are gone."""
        waiting = DeferredList(list(self._open.values()))

        def abandon() -> None:
            for link in list(self._open):
                link.connection.abandon("it does not take what is sent to it")

        timer = self._reactor.callLater(CLOSE_SECONDS, abandon)

        def closed(_: object) -> None:
            if timer.active():
                timer.cancel()

        for link in list(self._open):
            link.connection.close()
        return waiting.addCallback(closed)

    def _idle(self, link: Link) -> None:
        # The kept one is by far the most frequent.
        if link is not self.kept and link not in self.held and link in self._open:
            link.connection.close()

    def _forget(self, _: object, key: str, link: Link) -> None:
        if self._links.get(key) is link:
            del self._links[key]
        if self.kept is link:
            self.kept = None
        self.held.discard(link)
        gone = self._open.pop(link, None)
        self._lost(link)
        if gone is not None:
            gone.callback(None)
