"""Nodes of a `World` served to clients: real listeners and connections, over pipes that break."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure

from raft.codec import PLAIN
from raft.errors import BadCommand, NodeStopped, NotAppended
from raft.node.desk import ClientDesk
from raft.node.forwarding import Forwarder
from raft.node.reads import ReadBatch
from raft.node.sessions import SessionCare, SessionEntries
from raft.storage.records import SessionLimits
from raft.transport import calls, dialling
from raft.transport.clients import ClientListener
from raft.transport.greeting import Identity
from tests.node.world import Node, World


class End:
    """One side's transport: what is written here arrives at `peer`, in order and late."""

    def __init__(self, pipe: Pipe) -> None:
        self.pipe = pipe
        self.peer: End
        self.protocol: Any = None
        self.producer: Any = None
        self.held: list[bytes] = []
        """What has arrived and is not taken: nobody reads, or the pipe is stalled."""
        self.reads = True
        self.due = 0.0

    def write(self, data: bytes) -> None:
        if not self.pipe.is_broken:
            world, chance = self.pipe.world, self.pipe.chance
            self.due = max(self.due, world.seconds() + chance.choice([0.0, 0.001, 0.02]))
            world.callLater(self.due - world.seconds(), self.peer.arrive, data)

    def arrive(self, data: bytes) -> None:
        self.held.append(data)
        self.take()

    def take(self) -> None:
        while self.held and self.reads and not self.pipe.is_stalled:
            # A connection that has ended at the other side may still bring what was under way.
            if self.pipe.is_broken and not self.pipe.has_strays:
                self.held.clear()
                return
            self.protocol.dataReceived(self.held.pop(0))

    def registerProducer(self, producer: Any, _: bool) -> None:
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None

    def pauseProducing(self) -> None:
        self.reads = False

    def resumeProducing(self) -> None:
        self.reads = True
        self.pipe.world.callLater(0, self.take)

    def loseConnection(self) -> None:
        self.pipe.world.callLater(0.03, self.pipe.break_off)

    def abortConnection(self) -> None:
        self.pipe.world.callLater(0, self.pipe.break_off)

    def getPeer(self) -> Any:
        return SimpleNamespace(host="pipe", port=0)


class Pipe:
    """A connection between a client and a node."""

    def __init__(self, world: World, chance: random.Random, client: Any, server: Any) -> None:
        self.world, self.chance = world, chance
        self.is_broken = self.is_stalled = self.has_strays = False
        self.ends = End(self), End(self)
        for end, peer, protocol in zip(
            self.ends, reversed(self.ends), (client, server), strict=True
        ):
            end.peer, end.protocol = peer, protocol
        for end in reversed(self.ends):
            end.protocol.makeConnection(end)

    def stall(self, is_stalled: bool) -> None:
        """Let nothing arrive at either side, or all of it; who writes is told to wait."""
        if self.is_broken or is_stalled == self.is_stalled:
            return
        self.is_stalled = is_stalled
        for end in self.ends:
            if end.producer is not None:
                (end.producer.pauseProducing if is_stalled else end.producer.resumeProducing)()
            end.take()

    def break_off(self, has_strays: bool = False) -> None:
        """Break it; with strays the node learns it later, and gets what was sent till then."""
        if self.is_broken:
            return
        self.is_broken, self.is_stalled, self.has_strays = True, False, has_strays
        client, server = self.ends
        client.held.clear()
        client.reads = False
        client.protocol.connectionLost(Failure(ConnectionLost()))
        self.world.callLater(0.1, server.protocol.connectionLost, Failure(ConnectionLost()))


class Served(SessionCare):
    """What `RaftService` is to the desk, around a node of a `World`."""

    def __init__(
        self, node: Node, network: Network, limits: SessionLimits, does_forward: bool
    ) -> None:
        self.node, self.network = node, network
        self.id, self.clock = node.id, node.clock
        self.shell, self.replica = node.shell, node.replica
        self.settings = SimpleNamespace(session_limits=limits, timeout_seconds=3.0)
        self.does_forward = does_forward
        self.session_entries = SessionEntries(self)  # type: ignore[arg-type]
        self.forwarder = Forwarder(node.world, node.clock)
        self.desk = ClientDesk(self, PLAIN)  # type: ignore[arg-type]
        identity = Identity("c", node.id, "1")
        self.listener = ClientListener(node.world, identity, self.desk)

    @property
    def serves(self) -> bool:
        return self.shell.running

    @property
    def forwards(self) -> bool:
        return self.does_forward and self.leader() not in (None, self.id)

    def leader(self) -> str | None:
        return self.shell.server.leader_id if self.serves else None

    def leader_address(self) -> str | None:
        leader = self.leader()
        return address_of(leader) if leader else None

    def checked_seconds(self, timeout: float | None) -> float:
        if not self.serves:
            raise NodeStopped()
        if timeout is not None and not timeout >= 0:
            raise BadCommand("timeout")
        return self.settings.timeout_seconds if timeout is None else timeout

    def read_batch(self, batch: ReadBatch) -> None:
        self.shell.read(batch)

    def stop(self) -> None:
        self.forwarder.close()
        self.listener.stop()


def address_of(id: str) -> str:
    return f"tcp:127.0.0.1:{7001 + ord(id) - ord('a')}"


class Network:
    """Dials the nodes that are served, and breaks what is connected."""

    def __init__(self, world: World, chance: random.Random) -> None:
        self.world, self.chance = world, chance
        self.served: dict[str, Served] = {}
        self.pipes: list[Pipe] = []

    def serve(self, node: Node, limits: SessionLimits, does_forward: bool) -> None:
        """Let clients in at `node`, in place of an older life of it."""
        if node.id in self.served:
            self.served[node.id].stop()
        self.served[node.id] = Served(node, self, limits, does_forward)

    def dial(self, address: str, timeout_seconds: float = 1.0) -> Deferred[Any]:
        for id, served in self.served.items():
            if address_of(id) == address and served.serves:
                return Deferred.fromCoroutine(self._dial(served, timeout_seconds))
        return fail(NotAppended("nobody listens there"))

    async def _dial(self, served: Served, timeout_seconds: float) -> Any:
        connection, server = calls.ClientConnection(self.world), served.listener.admit("pipe")
        if server is None:
            raise NotAppended("it closed the connection at once")
        self.pipes = [pipe for pipe in self.pipes if not pipe.is_broken]
        self.pipes.append(Pipe(self.world, self.chance, connection, server))
        connection.greeting = await dialling.greet(connection, "", timeout_seconds)
        connection.is_greeted = True
        return connection

    def calm(self) -> None:
        """Let everything arrive again."""
        for pipe in self.pipes:
            pipe.stall(False)
