"""One connection to every other server, and what arrives over theirs.

Each server dials each peer and sends all it has to say, requests and results, over the
connection it dialled; what others say arrives over those they dialled. So a connection
carries one direction, and its fate belongs to its sender.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort

from raft.core.messages import Message
from raft.transport.wire import SnapshotChunk


@frozen
class Identity:
    """Who this server is; `cluster_id` is empty until it belongs to a cluster."""

    cluster_id: str
    server_id: str
    incarnation: str


@frozen
class Greeting:
    """What the other side said of itself in its handshake, before it is believed.

    `role` is `peer` or `client`. `target` is whom it meant to reach, or empty.
    """

    version: int
    cluster_id: str
    server_id: str
    incarnation: str
    role: str = "peer"
    target: str = ""


@frozen
class PeerLimits:
    """Bounds of the traffic between servers; times in seconds, sizes in bytes.

    Attributes:
        message_bytes: the largest records of one AppendEntries, in all its fragments.
        queue_bytes: what may wait for one peer before messages to it are dropped.
        connect_seconds: how long a connect may take.
        handshake_seconds: how long the handshake may take, on either side.
        stall_seconds: a connection that takes no bytes for so long is given up.
        strangers: connections that may wait for their handshake at one time; the
            oldest goes when one more arrives.
        connections: accepted connections in all.
    """

    message_bytes: int = 16 << 20
    queue_bytes: int = 32 << 20
    connect_seconds: float = 5.0
    handshake_seconds: float = 5.0
    stall_seconds: float = 5.0
    strangers: int = 64
    connections: int = 256


class PeerNetwork:
    """All connections of one server with its peers. Everything is called in the reactor's thread.

    Attributes:
        identity: who this server says it is; replace it when the cluster id becomes known.
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
            limits: the bounds.
            chance: draws the jitter of reconnections.
        """
        raise NotImplementedError

    def set_peers(self, addresses: Mapping[str, str]) -> None:
        """Keep connections to exactly these peers, by id; dial again where an address changed.

        Raises:
            BadConfiguration: an address is none; nothing was changed.
        """
        raise NotImplementedError

    def send(
        self, peer: str, message: Message, records: bytes = b"", chunk: SnapshotChunk | None = None
    ) -> bool:
        """Send `message` at the end of this turn, or at `flush`.

        Returns False, and drops it, when `peer` is not connected or too much waits for it.
        """
        raise NotImplementedError

    def flush(self) -> None:
        """Write what was sent in this turn: one `transport.write` for each peer."""
        raise NotImplementedError

    def is_connected(self, peer: str) -> bool:
        """Tell whether the handshake with `peer` is done and messages can be sent."""
        raise NotImplementedError

    def listen(self, address: str) -> Deferred[IListeningPort]:
        """Accept peers on `address`, an endpoint string."""
        raise NotImplementedError

    def stop(self) -> Deferred[None]:
        """Close ports and connections, dial no more; fires when all are closed."""
        raise NotImplementedError
