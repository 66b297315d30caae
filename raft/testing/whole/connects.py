"""Ports that accept connections, and connects that are under way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from twisted.internet import error as net
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from raft.testing.whole.sockets import Socket, Stream

if TYPE_CHECKING:
    from raft.testing.whole.network import Host, Network
    from raft.testing.whole.process import DelayedCall, Process

SYN_SECONDS: Final = 1.0
"""After which time a connect that met silence asks again."""


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
