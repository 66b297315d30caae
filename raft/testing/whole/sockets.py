"""Connections: two sockets, and a stream of pieces in each direction.

A stream keeps its order whatever happens. What a cut link or a dead machine stops is sent again
once something may pass; what nobody acknowledges for too long ends the connection, where the
sender asked for that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from twisted.internet import error as net
from twisted.internet.address import IPv4Address
from twisted.python.failure import Failure

if TYPE_CHECKING:
    from raft.testing.whole.network import Network
    from raft.testing.whole.process import Process

RETRANSMIT_SECONDS: Final = (0.0, 0.3)
"""How long after a link is open again what was stuck arrives."""
BUFFER_BYTES: Final = 65536
"""Above which a producer is told to wait, as Twisted's own transports do."""


class Handle:
    """What a transport gives out as its socket: it takes one option."""

    def __init__(self, socket: Socket) -> None:
        self._socket = socket

    def setsockopt(self, level: int, option: int, value: int) -> None:
        """Give the connection up whose bytes nobody acknowledges for `value` milliseconds."""
        self._socket.output.unacknowledged_seconds = value / 1000


class Socket:
    """One end of a connection: an `ITransport` that the process's protocol writes to."""

    output: Stream

    def __init__(self, network: Network, process: Process, peer: IPv4Address) -> None:
        self.network, self.process = network, process
        self.protocol: Any = None
        self.producer: Any = None
        self.is_closed = self.is_closing = False
        self.reads = True
        self._is_held_back = False
        """Whether the producer was told to wait."""
        self._peer = peer
        self._held: list[Callable[[], object] | bytes] = []

    def begin(self, protocol: Any) -> None:
        """Let the protocol begin."""
        self.protocol = protocol
        protocol.makeConnection(self)

    # What arrives.

    def arrive(self, piece: bytes | Callable[[], object]) -> None:
        """Take bytes, or do what comes in their place, once the process reads."""
        self._held.append(piece)
        self.take()

    def take(self) -> None:
        """Hand the protocol what is held."""
        while self._held and self.reads and not (self.is_closed or self.process.is_paused):
            piece = self._held.pop(0)
            if not isinstance(piece, bytes):
                self.process.enter(piece)
            elif self.protocol is not None:
                self._hand(piece)

    def _hand(self, piece: bytes) -> None:
        self.process.enter(self.protocol.dataReceived, piece)
        if not self.is_closed:
            self.output.receiver.output.taken(len(piece))

    # What the protocol asks for.

    def write(self, data: bytes) -> None:
        """Send bytes."""
        self.process.check()
        if not data or self.is_closed or self.is_closing:
            return
        self.process.wrote(False)
        self.process.check()
        self.output.write(data)
        self.process.wrote(True)
        if self.output.waiting_bytes > BUFFER_BYTES and self.producer is not None:
            self._is_held_back = True
            self.producer.pauseProducing()

    def writeSequence(self, iovec: list[bytes]) -> None:
        """Send bytes."""
        self.write(b"".join(iovec))

    def drained(self) -> None:
        """The stream has taken all: whoever was told to wait may go on."""
        if self.producer is not None and self._is_held_back and not self.is_closed:
            self._is_held_back = False
            self.process.enter(self.producer.resumeProducing)

    def loseConnection(self) -> None:
        """Close once all is written."""
        if not (self.is_closed or self.is_closing):
            self.is_closing = True
            self.output.finish()

    def abortConnection(self) -> None:
        """Close at once; what was not sent is lost."""
        if not self.is_closed:
            self.is_closing = True
            self.output.reset()
            self.process.callLater(0, self.end, net.ConnectionAborted())

    def end(self, error: Exception) -> None:
        """Tell the protocol that it is over."""
        if self.is_closed:
            return
        self.vanish()
        self.process.sockets.pop(self, None)
        if self.protocol is not None:
            self.process.enter(self.protocol.connectionLost, Failure(error))

    def vanish(self) -> None:
        """Be no socket any more."""
        self.is_closed = True
        self._held.clear()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Tell `producer` when to wait."""
        self.producer = producer

    def unregisterProducer(self) -> None:
        """Tell nobody."""
        self.producer = None

    def pauseProducing(self) -> None:
        """Read nothing for a while."""
        self.reads = False

    def resumeProducing(self) -> None:
        """Read again."""
        self.reads = True
        self.process.callLater(0, self.take)

    def stopProducing(self) -> None:
        """Close."""
        self.loseConnection()

    def getPeer(self) -> IPv4Address:
        """Return where the other end is."""
        return self._peer

    def getHost(self) -> IPv4Address:
        """Return where this end is."""
        return IPv4Address("TCP", self.process.host, 0)

    def getHandle(self) -> Handle:
        """Return what options are set at."""
        return Handle(self)


class Stream:
    """What one end of a connection has sent to the other, in order."""

    def __init__(self, network: Network, sender: Socket, receiver: Socket) -> None:
        self.network, self.sender, self.receiver = network, sender, receiver
        self.link_name = (sender.process.host, receiver.process.host)
        self.link = network.link(*self.link_name)
        self.back = network.link(receiver.process.host, sender.process.host)
        self.unacknowledged_seconds = 0.0
        self._buffer: list[bytes] = []
        self.waiting_bytes = 0
        self._under_way = 0
        self._unheard = 0
        """Bytes that were taken, and whose acknowledgement is held back."""
        self._moving: list[bytes | Callable[[], object]] = []
        """Under way, or lost under way and to be sent again."""
        self._is_stuck = False
        self._due = 0.0
        self._epoch = 0
        self._is_over = self._has_finished = False
        self._silent_since: float | None = None

    # Sending.

    def write(self, piece: bytes) -> None:
        """Take bytes to send."""
        self._buffer.append(piece)
        self.waiting_bytes += len(piece)
        self._pump()

    def put(self, action: Callable[..., object], *args: object) -> None:
        """Let something happen at the other end, after all that was sent before."""
        self._send(lambda: action(*args))

    def _pump(self) -> None:
        window, most = self.network.weather.window_bytes, self.network.weather.chunk_bytes
        while self._buffer and self._under_way < window and not self._is_over:
            piece = self._buffer.pop(0)
            room = window - self._under_way
            if most:
                room = min(room, self.link.chance.randint(1, most))
            if len(piece) > room:
                self._buffer.insert(0, piece[room:])
                piece = piece[:room]
            self.waiting_bytes -= len(piece)
            self._under_way += len(piece)
            self._send(piece)
        if self._has_finished and not self._buffer and not self._is_over:
            self._is_over = True
            self._send(lambda: self._ended(net.ConnectionDone()))
            self.sender.process.callLater(0, self.sender.end, net.ConnectionDone())

    def _send(self, piece: bytes | Callable[[], object]) -> None:
        size_bytes = len(piece) if isinstance(piece, bytes) else 0
        self._due = max(self._due, self.network.moment(self.link, size_bytes))
        self._moving.append(piece)
        if not self._is_stuck:
            self.network.timeline.at(self._due, self._arrive, self._epoch)

    def _arrive(self, epoch: int) -> None:
        if epoch != self._epoch:
            return
        self.network.segments += 1
        receiver = self.receiver
        if self.link.is_cut or receiver.process.host in self.network.down:
            self._stick()
            return
        if receiver.is_closed and isinstance(self._moving[0], bytes):
            # Nobody is there: who sends something is told so, and sends again until it hears it.
            if self.back.is_cut:
                self._stick()
            else:
                self._lose_sender(net.ConnectionLost())
            return
        piece = self._moving.pop(0)
        if receiver.is_closed:
            self.network.streams.pop(self, None)
            return
        if isinstance(piece, bytes):
            self.network.sha.update(piece)
        receiver.arrive(piece)

    def _stick(self) -> None:
        """Nothing passes: all that is under way waits to be sent again."""
        self._epoch += 1
        self._is_stuck = True
        self._watch_silence()

    def _watch_silence(self) -> None:
        limit = self.unacknowledged_seconds
        if limit and self._silent_since is None and not self.sender.is_closed:
            self._silent_since = self.network.timeline.now
            self.network.timeline.after(limit, self._given_up, self._silent_since)

    def _given_up(self, since: float) -> None:
        if self._silent_since == since:
            self._lose_sender(net.TCPTimedOutError())

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way, and nothing will be."""
        return self.sender.is_closed and not self._moving

    def retransmit(self) -> None:
        """Something may pass again."""
        if self.link.is_cut or self.receiver.process.host in self.network.down:
            return
        if self._unheard and not self.back.is_cut:
            self._silent_since = None
            count, self._unheard = self._unheard, 0
            self.taken(count)
        if self._is_stuck:
            self._is_stuck = False
            self._silent_since = None
            self._due = self.network.timeline.now + self.link.chance.uniform(*RETRANSMIT_SECONDS)
            self._move_all()

    def _move_all(self) -> None:
        self._epoch += 1
        for _ in self._moving:
            self.network.timeline.at(self._due, self._arrive, self._epoch)

    # Acknowledging, ending.

    def taken(self, size_bytes: int) -> None:
        """The other end has taken bytes: as many more may follow, once that is known."""
        if self.back.is_cut:
            self._unheard += size_bytes
            self._watch_silence()
            return
        self._under_way -= size_bytes
        if self.sender.is_closed:
            return
        waited = bool(self._buffer)
        self._pump()
        if waited and not self._buffer:
            self.sender.drained()

    def finish(self) -> None:
        """Close after all that was sent."""
        self._has_finished = True
        self._pump()

    def reset(self) -> None:
        """Close at once: what is under way may still arrive, what waits does not."""
        self._buffer.clear()
        self.waiting_bytes = 0
        if not self._is_over:
            self._is_over = True
            self._send(lambda: self._ended(net.ConnectionLost()))

    def break_off(self) -> None:
        """Lose the end of what is under way, in both directions, and tell both ends."""
        for stream in (self, self.receiver.output):
            keep = stream.link.chance.randint(0, len(stream._moving))
            del stream._moving[keep:]
            stream._buffer.clear()
            stream.waiting_bytes = 0
            stream._is_over = True
            if not stream._is_stuck:
                stream._move_all()
            stream._send(lambda stream=stream: stream._ended(net.ConnectionLost()))  # type: ignore[misc]

    def _ended(self, error: Exception) -> None:
        """The other end learns that this connection is over."""
        # What goes the other way may still be stuck, with the same message.
        self.network.streams.pop(self, None)
        self.receiver.end(error)

    def _lose_sender(self, error: Exception) -> None:
        self._is_over = True
        self._epoch += 1
        self.network.streams.pop(self, None)
        sender = self.sender
        if sender.process.is_paused:
            sender.arrive(lambda: sender.end(error))
        else:
            sender.process.enter(sender.end, error)
