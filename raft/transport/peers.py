"""One connection to every other server, and what arrives over theirs.

Each server dials each peer and sends all it has to say, requests and results, over the
connection it dialled; what others say arrives over those they dialled. So a connection
carries one direction, and its fate belongs to its sender.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from attrs import evolve, frozen
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory

from raft.core.messages import Message
from raft.errors import BadConfiguration
from raft.transport.connection import Counters, Sweep, finish_all
from raft.transport.endpoints import parse_dial, server_endpoint
from raft.transport.greeting import Greeting, Identity, objection
from raft.transport.incoming import LARGEST_CHUNK_BYTES, Desk, Incoming
from raft.transport.outgoing import Backoff, Link, Outgoing
from raft.transport.wire import SnapshotChunk, StateDigest

__all__ = ["Greeting", "Identity", "PeerLimits", "PeerNetwork", "SnapshotChunk"]


@frozen
class PeerLimits:
    """Bounds of the traffic between servers; times in seconds, sizes in bytes.

    Attributes:
        message_bytes: the largest records of one AppendEntries, in all its fragments.
        queue_bytes: what may wait for one peer before messages to it are dropped.
        connect_seconds: how long a connect may take, with the resolution of the name.
        handshake_seconds: how long the handshake may take, on either side: as long as a peer
            may be silent that lost power between our greeting and its answer.
        box_seconds: how long one box may take to arrive.
        stall_seconds: a connection that takes no bytes for so long is given up.
        unacknowledged_seconds: one whose bytes the other machine does not acknowledge.
        redial_seconds: the longest wait between two dials.
        strangers: connections that may wait for their handshake at one time; the
            oldest goes when one more arrives.
        connections: accepted connections in all.
    """

    message_bytes: int = 16 << 20
    queue_bytes: int = 32 << 20
    connect_seconds: float = 5.0
    handshake_seconds: float = 2.0
    box_seconds: float = 30.0
    stall_seconds: float = 10.0
    unacknowledged_seconds: float = 2.0
    redial_seconds: float = 1.0
    strangers: int = 64
    connections: int = 256

    @property
    def tick_seconds(self) -> float:
        """How often connections are looked at: a part of the shortest time that one may take."""
        return min(1.0, min(self.handshake_seconds, self.box_seconds, self.stall_seconds) / 4)


class PeerNetwork:
    """All connections of one server with its peers.

    Everything is called in the reactor's thread. `receive`, `contact`, `connected` and
    `disconnected` must not raise.

    Attributes:
        identity: who this server says it is; replace it when the cluster id becomes known.
        counters: what happened so far.
    """

    def __init__(
        self,
        reactor: Any,
        identity: Identity,
        receive: Callable[[str, Message, bytes, SnapshotChunk | None], object],
        connected: Callable[[str], object] = lambda _peer: None,
        disconnected: Callable[[str], object] = lambda _peer: None,
        contact: Callable[[str, int], object] = lambda _sender, _term: None,
        accept: Callable[[Greeting], str | None] = lambda _greeting: None,
        limits: PeerLimits | None = None,
        chance: random.Random | None = None,
        exclusion: Callable[[Greeting], int] = lambda _greeting: 0,
        term: Callable[[], int] = lambda: 0,
        is_member: Callable[[str], bool] = lambda _server: True,
        compare: Callable[[str, StateDigest], object] = lambda _sender, _digest: None,
        committed: Callable[[], bool] = lambda: False,
        outlived: Callable[[Greeting], bool] = lambda _greeting: False,
        told_outlived: Callable[[str], object] = lambda _peer: None,
        member_index: Callable[[], int] = lambda: 0,
    ) -> None:
        """Connect to nobody yet.

        Args:
            reactor: for time, names and sockets.
            identity: who this server is.
            receive: called with (sender's id, message, records, snapshot chunk). The entries
                of an AppendEntries are empty but for their start: whoever receives
                summarises `records`.
            connected: called with a peer's id once messages can be sent to it.
            disconnected: called when they no longer can: what was sent last may be lost.
            contact: called with (sender's id, term) at each fragment of a message that is
                still arriving: it counts as hearing that leader.
            accept: asked about each greeting, of both directions, that is otherwise right;
                a text refuses it.
            exclusion: asked about each greeting that is let in: the index of the committed
                configuration of which that server is no member, or 0. It is told so.
            limits: the bounds.
            chance: draws the jitter of reconnections.
            is_member: asked about a server's id where there is no place for one more
                connection: who is none makes room.
            term: returns the last term that is durable, for greetings; 0 for none.
            compare: called with (sender's id, digest) at each digest of another server.
            committed: tells for greetings whether a leader of this server's cluster has
                committed an entry.
            outlived: asked about each greeting that `accept` refuses: whether its server is told
                that its cluster lives without it.
            told_outlived: called with a peer's id where it says so of this server.
            member_index: tells for greetings the index of the committed configuration that names
                this very directory.
        """
        self.identity = identity
        self.counters = Counters()
        self.limits = limits or PeerLimits()
        self._reactor = reactor
        self._connected = connected
        self._disconnected = disconnected
        self._accept = accept
        self._is_member = is_member
        self._term = term
        self._committed = committed
        self._told_outlived = told_outlived
        self._member_index = member_index
        self._chance = chance or random.Random()
        self._links: dict[str, Link] = {}
        self._dirty: dict[str, Outgoing] = {}
        self._flush_call: Any = None
        self._incoming: dict[Incoming, str] = {}
        """Accepted connections, the oldest first, and the host of each."""
        self._outgoing: dict[Outgoing, None] = {}
        self._ports: list[IListeningPort] = []
        self._stopped = False
        calls = (accept, exclusion, self._greeted, receive, contact)
        size = self.limits.message_bytes
        self._desk = Desk(self._speaking, *calls, size, compare, outlived)
        self._tick_seconds = self.limits.tick_seconds
        self._sweep = Sweep(reactor, self._tick_seconds, self._tick)

    def _speaking(self) -> Identity:
        return evolve(
            self.identity,
            term=self._term(),
            committed=self._committed(),
            member_index=self._member_index(),
        )

    # -- Sending ---------------------------------------------------------------------------

    def set_peers(self, addresses: Mapping[str, str]) -> None:
        """Keep connections to exactly these peers, by id; dial again where an address changed.

        This server's own id is left out.

        Raises:
            BadConfiguration: an address is none; nothing was changed.
        """
        wanted = {
            peer: address for peer, address in addresses.items() if peer != self.identity.server_id
        }
        for address in wanted.values():
            parse_dial(address)
        for peer, link in list(self._links.items()):
            if wanted.get(peer) != link.address:
                self._drop(peer)
        for peer, address in wanted.items():
            if peer not in self._links and not self._stopped:
                self._links[peer] = link = Link(
                    self._reactor,
                    peer,
                    address,
                    self._open_connection,
                    self.limits.connect_seconds,
                    Backoff(self._chance, most_seconds=self.limits.redial_seconds),
                    self.counters.log,
                )
                link.start()

    def _drop(self, peer: str) -> None:
        link = self._links.pop(peer)
        connection = link.ready
        link.stop()
        if link.connection is not None and link.connection.transport is not None:
            link.connection.finish("this peer was dropped, or its address changed")
        if connection is not None:
            self._dirty.pop(peer, None)
            self._disconnected(peer)

    def send(
        self, peer: str, message: Message, records: bytes = b"", chunk: SnapshotChunk | None = None
    ) -> bool:
        """Send `message` at the end of this turn, or at `flush`.

        Returns False, and drops it, when `peer` is not connected or too much waits for it.

        Raises:
            BadConfiguration: `records` or the chunk is larger than any receiver would take.
        """
        link = self._links.get(peer)
        connection = link.ready if link is not None else None
        if len(records) > self.limits.message_bytes:
            raise BadConfiguration(
                f"{len(records)} bytes of records in one message, the limit is "
                f"{self.limits.message_bytes} (message_bytes)"
            )
        if chunk is not None and len(chunk.chunk) > LARGEST_CHUNK_BYTES:
            raise BadConfiguration(
                f"a snapshot chunk of {len(chunk.chunk)} bytes, the limit is {LARGEST_CHUNK_BYTES}"
            )
        if connection is None or not connection.send(message, records, chunk):
            self.counters.dropped += 1
            return False
        self._flush_soon(peer, connection)
        return True

    def send_digest(self, peer: str, digest: StateDigest) -> bool:
        """Send `digest` as `send` would; False where `peer` compares none, or others."""
        link = self._links.get(peer)
        connection = link.ready if link is not None else None
        if connection is None or connection.answer is None:
            return False
        if connection.answer.digests != self.identity.digests:
            return False
        if not connection.send_digest(digest):
            return False
        self._flush_soon(peer, connection)
        return True

    def _flush_soon(self, peer: str, connection: Outgoing) -> None:
        if not self._dirty and self._flush_call is None:
            self._flush_call = self._reactor.callLater(0, self._flush_late)
        self._dirty[peer] = connection

    def flush(self) -> None:
        """Write what was sent in this turn: one `transport.write` for each peer."""
        call, self._flush_call = self._flush_call, None
        if call is not None:
            # It would cost the reactor a turn that finds nothing to be done.
            call.cancel()
        dirty = self._dirty
        if dirty:
            self._dirty = {}
            for connection in dirty.values():
                connection.flush()

    def _flush_late(self) -> None:
        self._flush_call = None
        self.flush()

    def is_connected(self, peer: str) -> bool:
        """Tell whether the handshake with `peer` is done and messages can be sent."""
        link = self._links.get(peer)
        return link is not None and link.ready is not None

    def greeting_of(self, peer: str) -> Greeting | None:
        """Return what `peer` said of itself on the connection that stands; None without one."""
        link = self._links.get(peer)
        connection = link.ready if link is not None else None
        return connection.answer if connection is not None else None

    def redial(self, peer: str) -> None:
        """Dial `peer` anew, to find out who answers at its address by now."""
        link = self._links.get(peer)
        if link is not None and link.ready is not None:
            link.ready.abandon("it is dialled anew: somebody else says that it is this server")

    def _open_connection(self, link: Link) -> Outgoing:
        connection = Outgoing(
            link.peer,
            self._speaking,
            self._accept,
            lambda: self._outgoing_opened(connection),
            lambda: self._outgoing_greeted(link, connection),
            self.counters,
            self.limits.queue_bytes,
            lambda: self._told_outlived(link.peer),
        )
        connection.closed.addCallback(self._outgoing_lost, link, connection)
        return connection

    def _outgoing_opened(self, connection: Outgoing) -> None:
        self._outgoing[connection] = None
        self._sweep.wake()

    def _outgoing_greeted(self, link: Link, connection: Outgoing) -> None:
        if self._links.get(link.peer) is not link:
            return
        connection.give_up_unacknowledged(self.limits.unacknowledged_seconds)
        self.counters.connected += 1
        link.greeted()
        self.counters.log.tell(
            "Connected to server {peer} at {address}",
            link.peer,
            peer=link.peer,
            address=link.address,
        )
        self._connected(link.peer)

    def _outgoing_lost(self, text: str, link: Link, connection: Outgoing) -> str:
        self._outgoing.pop(connection, None)
        if self._dirty.get(link.peer) is connection:
            del self._dirty[link.peer]
        if connection.is_greeted and self._links.get(link.peer) is link:
            self._disconnected(link.peer)
        return text

    # -- Receiving -------------------------------------------------------------------------

    def listen(self, address: str) -> Deferred[IListeningPort]:
        """Accept peers on `address`, an endpoint string.

        Raises:
            BadConfiguration: `address` is none. The Deferred fails where the port is taken.
        """
        factory = _IncomingFactory(self)
        return server_endpoint(self._reactor, address).listen(factory).addCallback(self._listening)

    def _listening(self, port: IListeningPort) -> IListeningPort:
        self._ports.append(port)
        return port

    def admit(self, host: str = "") -> Incoming | None:
        """Return the protocol for one more connection from `host`, or None to close it."""
        self._make_room()
        if self._stopped or len(self._incoming) >= self.limits.connections:
            self.counters.refused += 1
            return None
        connection = Incoming(self._desk, self.counters)
        self._incoming[connection] = host
        self.counters.accepted += 1
        connection.closed.addCallback(self._incoming_lost, connection)
        self._sweep.wake()
        return connection

    def _make_room(self) -> None:
        """Close who has the least right to be here, where there is no place for one more.

        Members must not be kept out: not by silent connections, of which the oldest goes of the
        host that has most of them, and not by servers that are none.
        """
        strangers = [each for each in self._incoming if not each.is_greeted and each.is_open]
        if len(strangers) >= self.limits.strangers:
            ((busiest, _),) = Counter(self._incoming[each] for each in strangers).most_common(1)
            oldest = next(each for each in strangers if self._incoming[each] == busiest)
            self._send_away(oldest, "too many connections without a handshake")
        elif len(self._incoming) >= self.limits.connections:
            for each in self._incoming:
                if each.is_greeted and not self._is_member(each.speaker):
                    self._send_away(each, "too many connections, and it is no member")
                    return

    def _send_away(self, connection: Incoming, reason: str) -> None:
        self.counters.refused += 1
        connection.abandon(reason)
        self._incoming.pop(connection, None)

    def _greeted(self, connection: Incoming) -> None:
        # Bytes of a connection that its sender has given up must not mix with the new one's.
        for other in list(self._incoming):
            if other is not connection and other.speaker == connection.speaker:
                other.finish("the same server has dialled again")
                other._abort()
        # Who dials us is up: a cluster that starts need not sit out its back-offs.
        link = self._links.get(connection.speaker)
        if link is not None:
            link.hurry()

    def _incoming_lost(self, text: str, connection: Incoming) -> str:
        self._incoming.pop(connection, None)
        return text

    def refuse(self, sender: str, reason: str) -> None:
        """Close what `sender` sends over, because what it sent is wrong; it may dial again."""
        for connection in list(self._incoming):
            if connection.speaker == sender:
                self.counters.malformed += 1
                connection.abandon(reason)

    def dismiss(self, is_outsider: Callable[[str], bool], reason: str) -> None:
        """Close what outsiders send over: when they dial again, they are told where they stand."""
        for connection in list(self._incoming):
            if connection.is_greeted and is_outsider(connection.speaker):
                connection.finish(reason)

    def review(self, judge: Callable[[Greeting], str | None]) -> None:
        """Close what stands with servers that would not be let in any more.

        `judge` returns why, or None, as `accept` does. What else a greeting must be, and this
        server's own identity may have made wrong, is asked as well.
        """
        for incoming in list(self._incoming):
            if incoming.greeting is not None and incoming.is_open:
                self._review(incoming, incoming.greeting, "", judge)
        for link in list(self._links.values()):
            if link.ready is not None and link.ready.answer is not None:
                self._review(link.ready, link.ready.answer, link.peer, judge)

    def _review(
        self,
        connection: Incoming | Outgoing,
        greeting: Greeting,
        expected: str,
        judge: Callable[[Greeting], str | None],
    ) -> None:
        reason = objection(self.identity, greeting, "peer", expected) or judge(greeting)
        if reason is not None:
            self.counters.refused += 1
            connection.abandon(reason)

    # -- Time and end ----------------------------------------------------------------------

    def _tick(self) -> bool:
        limits = self.limits
        greet, box, stall = (
            math.ceil(seconds / self._tick_seconds)
            for seconds in (limits.handshake_seconds, limits.box_seconds, limits.stall_seconds)
        )
        for connection in [*self._incoming, *self._outgoing]:
            connection.tick(greet, box, stall)
        return bool(self._incoming or self._outgoing)

    def stop(self) -> Deferred[None]:
        """Close ports and connections, dial no more; fires when all are closed.

        What was sent is still written, for at most a second.
        """
        self._stopped = True
        self.flush()
        for link in self._links.values():
            link.stop()
        self._links.clear()
        self._sweep.stop()
        if self._flush_call is not None:
            self._flush_call.cancel()
            self._flush_call = None
        waits: list[Deferred[Any]] = [maybeDeferred(port.stopListening) for port in self._ports]
        self._ports.clear()
        made = [each for each in [*self._outgoing, *self._incoming] if each.transport is not None]
        waits.append(finish_all(self._reactor, made, "this server stops"))
        return DeferredList(waits).addCallback(lambda _: None)


class _IncomingFactory(Factory):
    noisy = False

    def __init__(self, network: PeerNetwork) -> None:
        self._network = network

    def buildProtocol(self, addr: Any) -> Incoming | None:
        return self._network.admit(getattr(addr, "host", ""))
