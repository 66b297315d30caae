"""The listener for clients: who may connect, and when their answers are written.

Answers of one turn leave in one write for each connection. `questions` is what happens on
one of them.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory
from twisted.logger import Logger

from raft.interfaces import IClientService
from raft.transport.connection import Counters, Sweep, finish_all
from raft.transport.endpoints import server_endpoint
from raft.transport.greeting import Identity
from raft.transport.questions import ClientLimits, ClientServer
from raft.transport.turns import ReadingTurns

__all__ = ["ClientLimits", "ClientListener"]


class ClientListener:
    """Accepts clients and hands their questions to an `IClientService`.

    Attributes:
        identity: who this server says it is; replace it when the cluster id becomes known.
        counters: what happened so far.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        identity: Identity,
        service: Any,
        limits: ClientLimits | None = None,
    ) -> None:
        """Serve `service`, a provider of `IClientService`."""
        self.identity = identity
        self.counters = Counters()
        self.limits = limits or ClientLimits()
        self.service: Any = IClientService(service)
        self._reactor = reactor
        self._connections: dict[ClientServer, str] = {}
        self._addresses: Counter[str] = Counter()
        self._dirty: dict[ClientServer, None] = {}
        self._flush_call: Any = None
        self._ports: list[IListeningPort] = []
        self._stopped = False
        self._turns = ReadingTurns(reactor)
        self._tick_seconds = min(1.0, self.limits.first_seconds / 4, self.limits.stall_seconds / 4)
        self._sweep = Sweep(reactor, self._tick_seconds, self._tick)

    def listen(self, address: str) -> Deferred[IListeningPort]:
        """Accept clients on `address`, an endpoint string; may be called several times.

        Raises:
            BadConfiguration: `address` is none. The Deferred fails where the port is taken.
        """
        factory = _ClientFactory(self)
        return server_endpoint(self._reactor, address).listen(factory).addCallback(self._listening)

    def _listening(self, port: IListeningPort) -> IListeningPort:
        self._ports.append(port)
        return port

    @property
    def connection_count(self) -> int:
        """How many clients are connected."""
        return len(self._connections)

    def admit(self, host: str) -> ClientServer | None:
        """Return the protocol for one more connection from `host`, or None to close it."""
        limits = self.limits
        if len(self._connections) >= limits.connections:
            self._make_room()
        if (
            self._stopped
            or len(self._connections) >= limits.connections
            or (host and self._addresses[host] >= limits.connections_of_address)
        ):
            self.counters.refused += 1
            return None
        connection = ClientServer(
            *(self.service, lambda: self.identity, limits, self.counters, self._answered),
            turns=self._turns,
        )
        self._connections[connection] = host
        self._addresses[host] += 1
        self.counters.accepted += 1
        connection.closed.addCallback(self._lost, connection)
        self._sweep.wake()
        return connection

    def _make_room(self) -> None:
        # Those that have not said anything yet must not keep others out.
        silent = next((each for each in self._connections if not each.is_greeted), None)
        if silent is not None:
            silent.abandon("too many connections, and this one has asked nothing yet")
            self._forget(silent)

    def _lost(self, text: str, connection: ClientServer) -> str:
        self._dirty.pop(connection, None)
        self._forget(connection)
        return text

    def _forget(self, connection: ClientServer) -> None:
        host = self._connections.pop(connection, None)
        if host is not None:
            self._addresses[host] -= 1
            if not self._addresses[host]:
                del self._addresses[host]

    def _answered(self, connection: ClientServer) -> None:
        if not self._dirty and self._flush_call is None:
            self._flush_call = self._reactor.callLater(0, self._flush_late)
        self._dirty[connection] = None

    def flush(self) -> None:
        """Write the answers given in this turn: one `transport.write` for each connection."""
        self._turns.ended()
        call, self._flush_call = self._flush_call, None
        if call is not None:
            # It would cost the reactor a turn that finds nothing to be done.
            call.cancel()
        dirty = self._dirty
        if dirty:
            self._dirty = {}
            for connection in dirty:
                connection.flush()

    def _flush_late(self) -> None:
        self._flush_call = None
        self.flush()

    def _tick(self) -> bool:
        first, stall = (
            math.ceil(seconds / self._tick_seconds)
            for seconds in (self.limits.first_seconds, self.limits.stall_seconds)
        )
        for connection in list(self._connections):
            connection.tick(first, stall, stall)
        return bool(self._connections)

    def stop_listening(self) -> Deferred[None]:
        """Accept no more connections; those that are open go on."""
        waits = [maybeDeferred(port.stopListening) for port in self._ports]
        self._ports.clear()
        return DeferredList(waits).addCallback(lambda _: None)

    def stop(self) -> Deferred[None]:
        """Close ports and connections, after what was answered is written."""
        self._stopped = True
        self.flush()
        self._sweep.stop()
        self._turns.stop()
        if self._flush_call is not None:
            self._flush_call.cancel()
            self._flush_call = None
        made = [each for each in self._connections if each.transport is not None]
        waits = [self.stop_listening(), finish_all(self._reactor, made, "this server stops")]
        return DeferredList(waits).addCallback(lambda _: None)


class _ClientFactory(Factory):
    noisy = False

    def __init__(self, listener: ClientListener) -> None:
        self._listener = listener

    def buildProtocol(self, addr: Any) -> ClientServer | None:
        return self._listener.admit(getattr(addr, "host", ""))
