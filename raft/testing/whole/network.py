"""A network of hosts with TCP between them: streams that are late, cut in pieces, stuck or reset.

TCP loses nothing and changes no order: what a cut link holds back arrives when it is open again,
unless the connection has ended before. A reset loses the end of what was sent.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from attrs import define, frozen
from twisted.internet import error as net
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

if TYPE_CHECKING:
    from raft.testing.ghost import Hash
    from raft.testing.timeline import Timeline
    from raft.testing.whole.process import DelayedCall, Process

Host = str
LinkName = tuple[Host, Host]
"""(from, to)."""

SYN_SECONDS: Final = 1.0
"""After which time a connect that met silence asks again."""
RETRANSMIT_SECONDS: Final = (0.0, 0.3)
"""How long after a link is open again what was stuck arrives."""
BUFFER_BYTES: Final = 65536
"""Above which a producer is told to wait, as Twisted's own transports do."""


@frozen(kw_only=True)
class Weather:
    """What all links of a world are like.

    Attributes:
        delay_seconds: how long bytes take, at least and at most.
        grid_seconds: arrivals come at multiples of this, many in one turn; 0 for each by itself.
        chunk_bytes: how many bytes arrive at once, at most; 0 for all that were written.
        window_bytes: how much may be under way on one stream.
    """

    delay_seconds: tuple[float, float] = (0.0005, 0.004)
    grid_seconds: float = 0.0
    chunk_bytes: int = 0
    window_bytes: int = 65536


@define(eq=False)
class Link:
    """One direction between two hosts."""

    chance: random.Random
    is_cut: bool = False
    bytes_per_second: float = 0.0
    """0 for no limit."""
    extra_seconds: float = 0.0


class Network:
    """All hosts, ports and connections of a world."""

    def __init__(self, timeline: Timeline, weather: Weather, seed: object, sha: Hash) -> None:
        """Let no host be down and no link be cut; `sha` takes in all that arrives."""
        self.sha = sha
        self.timeline, self.weather, self.seed = timeline, weather, seed
        self.links: dict[LinkName, Link] = {}
        self.ports: dict[tuple[Host, int], ListeningPort] = {}
        self.down: set[Host] = set()
        self.streams: dict[Stream, None] = {}
        self.segments = 0
        """How many pieces have arrived."""

    def link(self, source: Host, target: Host) -> Link:
        """Return what is between two hosts, in one direction."""
        found = self.links.get((source, target))
        if found is None:
            chance = random.Random(f"{self.seed}/link/{source}/{target}")
            found = self.links[source, target] = Link(chance)
        return found

    def moment(self, link: Link, size_bytes: int = 0) -> float:
        """Return when something that leaves now is there."""
        delay = link.chance.uniform(*self.weather.delay_seconds) + link.extra_seconds
        if link.bytes_per_second:
            delay += size_bytes / link.bytes_per_second
        moment = self.timeline.now + delay
        grid = self.weather.grid_seconds
        return -(-moment // grid) * grid if grid else moment

    # Hosts.

    def cut(self, source: Host, target: Host) -> None:
        """Let nothing pass in this direction, and nobody know."""
        self.link(source, target).is_cut = True

    def open(self, source: Host, target: Host) -> None:
        """Let everything pass again."""
        self.link(source, target).is_cut = False
        self._move(lambda stream: stream.link_name in ((source, target), (target, source)))

    def process_died(self, process: Process) -> None:
        """Close what a process had open: the other sides learn it."""
        self._close_ports(process)
        for socket in list(process.sockets):
            socket.vanish()
            socket.output.reset()

    def host_died(self, process: Process) -> None:
        """Forget what a process had open: nobody learns it before something is sent there."""
        self._close_ports(process)
        self.down.add(process.host)
        for socket in list(process.sockets):
            socket.vanish()

    def host_started(self, host: Host) -> None:
        """Let a machine answer again: it knows none of its connections."""
        self.down.discard(host)
        self._move(lambda stream: host in stream.link_name)

    def _close_ports(self, process: Process) -> None:
        for place, port in list(self.ports.items()):
            if port.process is process:
                del self.ports[place]

    def _move(self, is_meant: Callable[[Stream], bool]) -> None:
        for stream in list(self.streams):
            if is_meant(stream):
                stream.retransmit()

    def reset_between(self, one: Host, other: Host) -> int:
        """Reset all connections between two hosts; return how many there were."""
        meant = [each for each in self.streams if each.link_name == (one, other)]
        for stream in meant:
            stream.break_off()
        return len(meant)

    # Ports and connects.

    def listen(self, process: Process, host: Host, port: int, factory: Any) -> ListeningPort:
        """Accept connections; raise `CannotListenError` where somebody does already."""
        process.check()
        place = (host or process.host, port)
        if place in self.ports:
            raise net.CannotListenError(host, port, OSError("address in use"))
        self.ports[place] = listening = ListeningPort(self, process, *place, factory)
        factory.doStart()
        return listening

    def connect(
        self, process: Process, host: Host, port: int, factory: Any, timeout_seconds: float
    ) -> Connector:
        """Begin to connect."""
        process.check()
        connector = Connector(self, process, host, port, factory, timeout_seconds)
        connector.begin()
        return connector


class ListeningPort:
    """Accepts connections; an `IListeningPort`."""

    def __init__(
        self, network: Network, process: Process, host: Host, port: int, factory: Any
    ) -> None:
        self.network, self.process, self.factory = network, process, factory
        self.host, self.port = host, port

    def getHost(self) -> IPv4Address:
        """Return where it listens."""
        return IPv4Address("TCP", self.host, self.port)

    def stopListening(self) -> Deferred[None]:
        """Accept no more."""
        if self.network.ports.get((self.host, self.port)) is self:
            del self.network.ports[self.host, self.port]
            self.factory.doStop()
        return succeed(None)

    def accept(self, socket: Socket) -> None:
        """Make the protocol of one more connection, or close it."""
        protocol = self.factory.buildProtocol(socket.getPeer())
        if protocol is None:
            socket.abortConnection()
            return
        socket.begin(protocol)


class Connector:
    """One connect under way; an `IConnector`."""

    def __init__(
        self,
        network: Network,
        process: Process,
        host: Host,
        port: int,
        factory: Any,
        timeout_seconds: float,
    ) -> None:
        self.network, self.process, self.factory = network, process, factory
        self.host, self.port, self.timeout_seconds = host, port, timeout_seconds
        self.socket: Socket | None = None
        self._is_over = False
        self._timer: DelayedCall | None = None

    def getDestination(self) -> IPv4Address:
        """Return where it leads."""
        return IPv4Address("TCP", self.host, self.port)

    def stopConnecting(self) -> None:
        """Give up."""
        if self._is_over:
            raise net.UserError
        self._fail(net.UserError())

    def disconnect(self) -> None:
        """Give up, or close."""
        if self.socket is not None:
            self.socket.loseConnection()
        elif not self._is_over:
            self.stopConnecting()

    def begin(self) -> None:
        """Ask for the first time."""
        self.factory.doStart()
        self.factory.startedConnecting(self)
        self._timer = self.process.callLater(self.timeout_seconds, self._fail, net.TimeoutError())
        self._ask()

    def _ask(self) -> None:
        """Send a SYN, and another one where this one meets silence."""
        if self._is_over or not self.process.is_alive:
            return
        network = self.network
        there = network.link(self.process.host, self.host)
        back = network.link(self.host, self.process.host)
        timeline = network.timeline
        if there.is_cut or back.is_cut or self.host in network.down:
            timeline.after(SYN_SECONDS, self._ask)
            return
        timeline.at(network.moment(there) + network.moment(back) - timeline.now, self._answered)

    def _answered(self) -> None:
        if self._is_over or not self.process.is_alive:
            return
        if self.process.is_paused:
            self.network.timeline.after(SYN_SECONDS / 10, self._answered)
            return
        port = self.network.ports.get((self.host, self.port))
        if port is None:
            self.process.enter(self._fail, net.ConnectionRefusedError())
            return
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()
        self.process.enter(self._connected, port)

    def _connected(self, port: ListeningPort) -> None:
        mine, theirs = join(self.network, self.process, port)
        self.socket = mine
        protocol = self.factory.buildProtocol(self.getDestination())
        mine.output.put(port.accept, theirs)
        mine.begin(protocol)

    def _fail(self, error: Exception) -> None:
        if self._is_over:
            return
        self._is_over = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self.factory.clientConnectionFailed(self, Failure(error))
        self.factory.doStop()


def join(network: Network, client: Process, port: ListeningPort) -> tuple[Socket, Socket]:
    """Return the two ends of a new connection."""
    mine = Socket(network, client, IPv4Address("TCP", port.host, port.port))
    theirs = Socket(network, port.process, IPv4Address("TCP", client.host, 0))
    mine.output, theirs.output = Stream(network, mine, theirs), Stream(network, theirs, mine)
    for socket in (mine, theirs):
        socket.process.sockets[socket] = None
        network.streams[socket.output] = None
    return mine, theirs


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
        piece = self._moving.pop(0)
        if receiver.is_closed:
            # Nobody is there: who sends something is told so.
            if not isinstance(piece, bytes):
                self.network.streams.pop(self, None)
            elif not self.back.is_cut:
                self._lose_sender(net.ConnectionLost())
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
        self.network.streams.pop(self, None)
        self.network.streams.pop(self.receiver.output, None)
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
