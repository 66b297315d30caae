"""A TCP proxy whose links fail on demand: one for each door of a node, one link for each direction.

A `Link` governs all bytes that go from one party to another, over whichever connection. Between
servers each connection carries one direction of messages, but the answer to its greeting, and
the news that it was closed, go the other way: a link that is cut holds those back, too. So who
is cut off learns nothing, not even that the other side has died.

What a proxy in user space cannot do: lose or reorder single packets of a connection. A stream that
has lost bytes is never continued; it is broken when the link heals.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Any, Final

from attrs import Factory, define
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Factory as ProtocolFactory
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from raft.transport.boxes import HANDSHAKE_BOX_BYTES, HANDSHAKE_KEYS, BadBox, Box, BoxParser

QUEUE_BYTES: Final = 256 << 10
"""What may wait in a flow that is slowed down before its sender is read no more."""

REMEMBERED_BYTES: Final = 64 << 10
"""How much of the beginning of each stream is kept, to be sent a second time."""

DUPLICATE_SECONDS: Final = 1.0
CONNECT_SECONDS: Final = 5.0

STRANGER: Final = "?"
"""Whoever greets not at all, or wrongly."""


class Mode(Enum):
    """What a link does with bytes."""

    OPEN = "open"
    CUT = "cut"
    """They are taken and thrown away: the sender notices nothing."""
    STALL = "stall"
    """They are not taken: the sender's buffers fill. They arrive late, when it opens again."""
    TRICKLE = "trickle"
    """One byte arrives each second."""
    REFUSE = "refuse"
    """Connections are reset, those that stand and new ones."""


@define(eq=False)
class Link:
    """All bytes from one party to another; `open`, `cut` and the others change how they go."""

    source: str
    target: str
    mode: Mode = Mode.OPEN
    delay_seconds: float = 0.0
    flows: set[Flow] = Factory(set)

    def become(self, mode: Mode, delay_seconds: float = 0.0) -> None:
        """Treat bytes this way from now on; what lost bytes meanwhile is broken."""
        self.mode = mode
        self.delay_seconds = delay_seconds
        for flow in list(self.flows):
            if mode is Mode.REFUSE or (flow.has_lost and mode is not Mode.CUT):
                flow.pair.abort()
            else:
                flow.review()

    def reset(self) -> int:
        """Break all connections whose bytes go this way; return how many."""
        flows = list(self.flows)
        for flow in flows:
            flow.pair.abort()
        return len(flows)

    def garble(self, chance: random.Random) -> int:
        """Put garbage into all streams that were dialled this way; return how many.

        No byte of it is ASCII: whatever it becomes part of is no number, no name and no
        record, so that nobody can take it for a message.
        """
        flows = [flow for flow in self.flows if flow.is_forward and not flow.has_ended]
        for flow in flows:
            flow.write(bytes(chance.randrange(0x80, 0x100) for _ in range(4096)))
        return len(flows)

    def duplicate(self) -> int:
        """Dial again and send what streams began with a second time; return how many."""
        flows = [flow for flow in self.flows if flow.is_forward and flow.remembered]
        for flow in flows:
            flow.pair.proxy.repeat(bytes(flow.remembered))
        return len(flows)


@implementer(IPushProducer)
class Flow:
    """One direction of one connection; who speaks is its sender."""

    def __init__(self, pair: Pair, link: Link, is_forward: bool) -> None:
        """Carry nothing yet: `sender` and `receiver`, transports, are set once there are any."""
        self.pair = pair
        self.link = link
        self.is_forward = is_forward
        self.sender: Any = None
        self.receiver: Any = None
        self.has_lost = False
        self.has_ended = False
        self.remembered = bytearray()
        self._queue: deque[tuple[float, bytes]] = deque()
        self._queued_bytes = 0
        self._is_full = False
        self._is_held = False
        self._timer: Any = None
        link.flows.add(self)

    def write(self, octets: bytes) -> None:
        """Take bytes of the sender; none at all are its end."""
        if self.pair.is_over:
            return
        if self.link.mode is Mode.CUT:
            self.has_lost = True
            return
        room = REMEMBERED_BYTES - len(self.remembered)
        if room > 0 and self.is_forward:
            self.remembered += octets[:room]
        due = self.pair.proxy.seconds() + self.link.delay_seconds
        self._queue.append((due, octets))
        self._queued_bytes += len(octets)
        self.review()

    def end(self) -> None:
        """Note that the sender is gone; the receiver hears of it behind all that was sent."""
        if not self.has_ended:
            self.has_ended = True
            self.write(b"")

    def review(self) -> None:
        """Deliver what is due, and read the sender only as long as there is room."""
        self._stop_timer()
        if self.receiver is not None:
            self._deliver()
        stalled = self.link.mode is Mode.STALL or self._queued_bytes > QUEUE_BYTES
        held = stalled or self._is_full or self.receiver is None
        if held is not self._is_held and self.sender is not None and not self.has_ended:
            self._is_held = held
            if held:
                self.sender.pauseProducing()
            else:
                self.sender.resumeProducing()

    def _deliver(self) -> None:
        now = self.pair.proxy.seconds()
        while self._queue and self.link.mode in (Mode.OPEN, Mode.TRICKLE):
            due, octets = self._queue[0]
            if due > now:
                self._timer = self.pair.proxy.call_later(due - now, self._wake)
                return
            self._queue.popleft()
            if not octets:
                # A producer that stays registered would keep the connection open.
                self.receiver.unregisterProducer()
                self.receiver.loseConnection()
                return
            if self.link.mode is Mode.TRICKLE and len(octets) > 1:
                self._queue.appendleft((now + 1.0, octets[1:]))
                octets = octets[:1]
            self._queued_bytes -= len(octets)
            self.receiver.write(octets)

    def _wake(self) -> None:
        self._timer = None
        self.review()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def forget(self) -> None:
        """Drop everything: the connection is gone."""
        self.link.flows.discard(self)
        self._queue.clear()
        self._stop_timer()

    # -- What the receiver's transport calls ---------------------------------------------------

    def pauseProducing(self) -> None:
        """Read no more of the sender: the receiver's buffer is full."""
        self._is_full = True
        self.review()

    def resumeProducing(self) -> None:
        """Go on."""
        self._is_full = False
        self.review()

    def stopProducing(self) -> None:
        """Do nothing: the receiver is gone, and its end says so."""


class Pair(Protocol):
    """A connection that was accepted, and the one that was dialled for it."""

    transport: Any

    def __init__(self, proxy: Proxy) -> None:
        """Dial nobody before it is known who dials."""
        self.proxy = proxy
        self.is_over = False
        self._parser = BoxParser(HANDSHAKE_BOX_BYTES, HANDSHAKE_KEYS)
        self._early = bytearray()
        self._near_is_gone = False
        self._far_is_gone = False
        self._far: Any = None
        self._forward: Flow | None = None
        self._backward: Flow | None = None

    def connectionMade(self) -> None:
        """Begin; where clients come in, nothing need be heard first."""
        self.proxy.pairs.add(self)
        if self.proxy.source:
            self._begin(self.proxy.source)

    def dataReceived(self, data: bytes) -> None:
        """Pass bytes on; the first ones say who it is."""
        if self._forward is not None:
            self._forward.write(data)
            return
        self._early += data
        try:
            self._parser.feed(data, self._greeted)
        except BadBox:
            self._begin(STRANGER)

    def _greeted(self, box: Box) -> None:
        self._parser.stop()
        self._begin(box.get(b"server_id", STRANGER.encode()).decode("utf-8", "replace"))

    def _begin(self, source: str) -> None:
        proxy = self.proxy
        there, back = proxy.link(source, proxy.target), proxy.link(proxy.target, source)
        if Mode.REFUSE in (there.mode, back.mode):
            self.abort()
            return
        self._forward, self._backward = Flow(self, there, True), Flow(self, back, False)
        self._forward.sender = self._backward.receiver = self.transport
        self.transport.registerProducer(self._backward, True)
        if self._early:
            self._forward.write(bytes(self._early))
        proxy.dial(_Far(self))

    def reached(self, far: Any) -> None:
        """Join both sides: the node has accepted."""
        self._far = far
        if self.is_over or self._forward is None or self._backward is None:
            far.abortConnection()
            return
        self._backward.sender = self._forward.receiver = far
        far.registerProducer(self._forward, True)
        self._forward.review()
        self._backward.review()

    def heard(self, octets: bytes) -> None:
        """Pass on what the node says."""
        if self._backward is not None:
            self._backward.write(octets)

    def far_lost(self) -> None:
        """Tell who dialled, as soon as that may be told, that the node has closed, or is not."""
        self._far_is_gone = True
        if self._backward is not None:
            self._backward.end()
        self._finish_if_alone()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell the node, as soon as that may be told, that who dialled is gone."""
        self._near_is_gone = True
        if self._forward is not None:
            self._forward.end()
        self._finish_if_alone()

    def _finish_if_alone(self) -> None:
        if self._near_is_gone and (self._forward is None or self._far_is_gone):
            self._finish()

    def abort(self) -> None:
        """Break both sides at once."""
        self._finish()
        for transport in (self.transport, self._far):
            if transport is not None:
                transport.abortConnection()

    def _finish(self) -> None:
        self.is_over = True
        self.proxy.pairs.discard(self)
        for flow in (self._forward, self._backward):
            if flow is not None:
                flow.forget()


class _Far(Protocol):
    """The side that was dialled."""

    transport: Any

    def __init__(self, pair: Pair) -> None:
        self.pair = pair

    def connectionMade(self) -> None:
        """Join it to the accepted side."""
        self.pair.reached(self.transport)

    def dataReceived(self, data: bytes) -> None:
        """Pass bytes on."""
        self.pair.heard(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Pass the end on."""
        self.pair.far_lost()


class _Repeated(Protocol):
    """A connection that says what another said, and listens to nothing."""

    transport: Any

    def __init__(self, octets: bytes, closes: Callable[[Any], object]) -> None:
        self._octets = octets
        self._closes = closes

    def connectionMade(self) -> None:
        """Say it all at once, and hang up a little later."""
        self.transport.write(self._octets)
        self._closes(self.transport)


class Proxy:
    """One door of a node: accepts in its place, and dials it for each connection.

    Attributes:
        target: the node's id.
        source: who dials here, where that is one party for all; empty where greetings tell.
        pairs: the connections that stand.
        port: the port on loopback, once it listens.
    """

    def __init__(
        self,
        reactor: Any,
        target: str,
        address: tuple[str, int],
        link: Callable[[str, str], Link],
        source: str = "",
    ) -> None:
        """Stand before the node `target`, which listens at `address`: a host and a port.

        `link` returns the link from one party to another.
        """
        self.target = target
        self.source = source
        self.link = link
        self.pairs: set[Pair] = set()
        self.port = 0
        self._address = address
        self._reactor = reactor
        self._listening: Any = None

    def listen(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Accept from now on; return the port."""
        factory = ProtocolFactory.forProtocol(lambda: Pair(self))
        factory.noisy = False
        self._listening = self._reactor.listenTCP(port, factory, interface=host)
        self.port = self._listening.getHost().port
        return self.port

    def dial(self, far: _Far) -> None:
        """Connect to the node itself."""
        self._connect(lambda: far).addErrback(lambda _: far.pair.far_lost())

    def repeat(self, octets: bytes) -> None:
        """Connect once more and say `octets`, which somebody else has said before."""

        def close(transport: Any) -> None:
            self.call_later(DUPLICATE_SECONDS, transport.abortConnection)

        # Where nobody listens, there is nobody to confuse.
        self._connect(lambda: _Repeated(octets, close)).addErrback(lambda _: None)

    def _connect(self, protocol: Callable[[], Protocol]) -> Deferred[Any]:
        factory = ProtocolFactory.forProtocol(protocol)
        factory.noisy = False
        endpoint = TCP4ClientEndpoint(self._reactor, *self._address, timeout=CONNECT_SECONDS)
        return endpoint.connect(factory)

    def seconds(self) -> float:
        """Return the time."""
        return float(self._reactor.seconds())

    def call_later(self, seconds: float, call: Callable[[], object]) -> Any:
        """Call later."""
        return self._reactor.callLater(seconds, call)

    def close(self) -> Deferred[Any]:
        """Break all connections and listen no more; fires when that is over."""
        for pair in list(self.pairs):
            pair.abort()
        return maybeDeferred(self._listening.stopListening)
