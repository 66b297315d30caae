"""One connection that carries boxes: reading within bounds, writing once a turn.

What `peers`, `clients` and `calls` have in common. Time limits are counted in ticks of
a sweep that the owner runs, not by the clock: a clock that jumps cannot close anything.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from attrs import define, field
from twisted.internet import interfaces
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from raft.sparing import SparingLog
from raft.transport.boxes import BadBox, Box, BoxParser
from raft.transport.direct import Write, direct_write
from raft.transport.wire import BadMessage

_log = Logger()

WRITE_BYTES = 1 << 20
"""How much is handed to a transport at a time while more is waiting."""


@define(eq=False)
class Counters:
    """What happened on the connections of one network or listener, since its start.

    Attributes:
        accepted: connections that were let in.
        connected: handshakes that were done with those dialled.
        refused: connections beyond what there may be, and greetings that did not fit.
        malformed: connections closed for bytes that were no message.
        stalled: connections closed because nothing moved for too long.
        dropped: messages that were not sent.
        log: where their connections complain: whoever connects must not fill a disk with it.
    """

    accepted: int = 0
    connected: int = 0
    refused: int = 0
    malformed: int = 0
    stalled: int = 0
    dropped: int = 0
    log: SparingLog = field(factory=lambda: SparingLog(_log))


@implementer(interfaces.IPushProducer)
class BoxConnection(Protocol):
    """A connection that parses boxes and writes queued bytes when the transport takes them.

    Subclasses say what a box means in `box_received`. As the transport's producer it knows
    whether the other side still reads: `is_paused`, and the queue grows instead of the
    transport's buffer.

    Attributes:
        is_open: from the connect until the connection is lost or given up.
        is_greeted: whether the handshake is done.
        is_paused: whether the transport takes no more for the moment.
        queued_bytes: what waits to be written.
        written_bytes: what was handed to the transport from the queue, in all.
        closed: fires with a text once the connection is lost.
    """

    transport: Any
    _write: Write
    speaker = ""
    """The member at the other end, by its id, where that is known."""

    def __init__(self, parser: BoxParser, counters: Counters) -> None:
        """Wait for a transport."""
        self.parser = parser
        self.counters = counters
        self.is_open = False
        self.is_greeted = False
        self.is_paused = False
        self.queued_bytes = 0
        self.written_bytes = 0
        self.closed: Deferred[str] = Deferred()
        self._queue: deque[bytes] = deque()
        self._ending = ""
        self._ticks_silent = self._ticks_unfinished = self._ticks_paused = 0
        self._finished_at_tick = 0

    # -- What subclasses give --------------------------------------------------------------

    def box_received(self, box: Box) -> None:
        """Take one box; raise `BadMessage` to close the connection as malformed."""
        raise NotImplementedError

    def drained(self) -> None:
        """The transport takes bytes again and the queue is empty: write more, if there is."""

    # -- Reading ---------------------------------------------------------------------------

    def connectionMade(self) -> None:
        """Set the socket up; write what has been posted."""
        self.is_open = True
        self._write = direct_write(self.transport)
        if interfaces.ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
            self.transport.setTcpKeepAlive(True)
        self.transport.registerProducer(self, True)

    def give_up_unacknowledged(self, seconds: float) -> None:
        """Let the kernel close a TCP connection whose bytes nobody acknowledges for so long.

        It is what finds a peer that lost its power: nothing else would tell before the
        retransmissions end, many minutes later. Does nothing where there is no such option.
        """
        handle = getattr(self.transport, "getHandle", None)
        option = getattr(socket, "TCP_USER_TIMEOUT", None)
        if option is None or handle is None:
            return
        try:
            handle().setsockopt(socket.IPPROTO_TCP, option, int(seconds * 1000))
        except (OSError, AttributeError):
            # A Unix socket, or TLS over something else: the stall limit remains.
            return

    def dataReceived(self, data: bytes) -> None:
        """Parse, and close what does not parse."""
        try:
            self.parser.feed(data, self.box_received)
        except (BadBox, BadMessage) as error:
            self.counters.malformed += 1
            self.abandon(f"malformed: {error}")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell who waits for it."""
        self.is_open = False
        self.parser.stop()
        self._queue.clear()
        self.queued_bytes = 0
        self.closed.callback(self._ending or reason.getErrorMessage())

    # -- Writing ---------------------------------------------------------------------------

    def post(self, box_bytes: bytes) -> None:
        """Queue `box_bytes` for the next `flush`."""
        self._queue.append(box_bytes)
        self.queued_bytes += len(box_bytes)

    def flush(self) -> None:
        """Write the queue, as far as the transport takes it: all of a turn in one write."""
        queue = self._queue
        while queue and not self.is_paused and self.is_open:
            if self.queued_bytes <= WRITE_BYTES:
                data = b"".join(queue) if len(queue) > 1 else queue[0]
                queue.clear()
            else:
                data = self._portion()
            self.queued_bytes -= len(data)
            self.written_bytes += len(data)
            self._write(data)

    def _portion(self) -> bytes:
        pieces: list[bytes] = []
        size_bytes = 0
        while self._queue and size_bytes < WRITE_BYTES:
            size_bytes += len(self._queue[0])
            pieces.append(self._queue.popleft())
        return b"".join(pieces)

    def pauseProducing(self) -> None:
        """The transport's buffer is full: the other side reads slowly, or not at all."""
        self.is_paused = True

    def resumeProducing(self) -> None:
        """The transport's buffer is empty again."""
        self.is_paused = False
        self._ticks_paused = 0
        self.flush()
        if not self.is_paused and self.is_open:
            self.drained()

    def stopProducing(self) -> None:
        """The connection is gone; `connectionLost` follows."""
        self.is_paused = True

    # -- Ending ----------------------------------------------------------------------------

    def abandon(self, reason: str) -> None:
        """Close at once, for `reason`, with one line in the log."""
        if not self._ending:
            self._ending = reason
            self.counters.log.warn(
                "Closed the connection with {peer}: {reason}",
                self.speaker,
                peer=self.peer_text(),
                reason=reason,
            )
        self._abort()

    def _abort(self) -> None:
        self.is_open = False
        self.parser.stop()
        if self.transport is not None:
            self.transport.abortConnection()

    def finish(self, reason: str) -> None:
        """Write what is queued, then close; the log hears of it only as debug."""
        self._ending = self._ending or reason
        self.flush()
        self.parser.stop()
        if self.transport is None or not self.is_open:
            return
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def peer_text(self) -> str:
        """Return the other side's address, for the log."""
        address: Any = self.transport.getPeer() if self.transport is not None else None
        host = getattr(address, "host", None)
        return f"{host}:{address.port}" if host is not None else str(address)

    # -- Time ------------------------------------------------------------------------------

    def tick(self, greet_ticks: int, box_ticks: int, stall_ticks: int) -> None:
        """Count one tick of the sweep; give up where one of the three limits is passed.

        Args:
            greet_ticks: how many a connection may last without its handshake.
            box_ticks: how many an unfinished box may last.
            stall_ticks: how many the other side may read nothing while bytes wait for it.
        """
        if not self.is_open:
            return
        self._ticks_silent += 1
        parser = self.parser
        unfinished = parser.unfinished and parser.finished == self._finished_at_tick
        self._finished_at_tick = parser.finished
        self._ticks_unfinished = self._ticks_unfinished + 1 if unfinished else 0
        self._ticks_paused = self._ticks_paused + 1 if self.is_paused else 0
        if not self.is_greeted and self._ticks_silent > greet_ticks:
            self._stalled("the handshake took too long")
        elif self._ticks_unfinished > box_ticks:
            self._stalled("a message took too long to arrive")
        elif self._ticks_paused > stall_ticks:
            self._stalled("it does not read what is sent to it")

    def _stalled(self, reason: str) -> None:
        self.counters.stalled += 1
        self.abandon(reason)


class Sweep:
    """Runs `tick` over connections, about `seconds` apart, while there are any."""

    def __init__(self, reactor: Any, seconds: float, tick: Callable[[], bool]) -> None:
        """Call `tick` again and again once `wake` was called, until it returns False."""
        self._reactor = reactor
        self._seconds = seconds
        self._tick = tick
        self._call: Any = None

    def wake(self) -> None:
        """Begin, if it does not run yet."""
        if self._call is None:
            self._call = self._reactor.callLater(self._seconds, self._run)

    def _run(self) -> None:
        self._call = None
        if self._tick():
            self.wake()

    def stop(self) -> None:
        """Run no more."""
        if self._call is not None:
            self._call.cancel()
            self._call = None


def finish_all(
    reactor: Any, connections: Iterable[BoxConnection], reason: str, seconds: float = 1.0
) -> Deferred[None]:
    """Close connections once their queues are written, and at once what takes longer.

    Fires when all of them are lost.
    """
    open_ones = [connection for connection in connections if not connection.closed.called]
    if not open_ones:
        done: Deferred[None] = Deferred()
        done.callback(None)
        return done
    waits: list[Deferred[str]] = []
    for connection in open_ones:
        wait: Deferred[str] = Deferred()
        connection.closed.addCallback(_pass_on, wait)
        waits.append(wait)
        connection.finish(reason)

    def abort() -> None:
        for connection in open_ones:
            if not connection.closed.called:
                connection._abort()

    call = reactor.callLater(seconds, abort)

    def all_closed(_: object) -> None:
        if call.active():
            call.cancel()

    return DeferredList(waits).addCallback(all_closed)


def _pass_on(text: str, wait: Deferred[str]) -> str:
    wait.callback(text)
    return text
