"""The listener for clients: questions in, one answer for each."""

from __future__ import annotations

from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort

from raft.transport.peers import Identity


@frozen
class ClientLimits:
    """Bounds of what clients may cost; times in seconds, sizes in bytes.

    Attributes:
        box_bytes: the largest question.
        in_flight_bytes: questions of one connection without an answer; reading pauses above.
        in_flight: the same as a number of boxes.
        queue_bytes: answers that one connection has not taken; it is closed above.
        first_seconds: how long a connection may take to its first question.
        stall_seconds: how long a box may take to arrive, or an answer to be taken.
        connections: in all; and `connections_of_address` from one address.
        timeout_seconds: where a question names none.
    """

    box_bytes: int = (4 << 20) + (64 << 10)
    in_flight_bytes: int = 16 << 20
    in_flight: int = 4096
    queue_bytes: int = 16 << 20
    first_seconds: float = 5.0
    stall_seconds: float = 30.0
    connections: int = 4096
    connections_of_address: int = 2048
    timeout_seconds: float = 3.0


class ClientListener:
    """Accepts clients and hands their questions to an `IClientService`."""

    def __init__(
        self,
        reactor: Any,
        identity: Identity,
        service: object,
        limits: ClientLimits | None = None,
    ) -> None:
        """Serve `service`, a provider of `IClientService`; `identity` may be replaced."""
        raise NotImplementedError

    def listen(self, address: str) -> Deferred[IListeningPort]:
        """Accept clients on `address`, an endpoint string; may be called several times."""
        raise NotImplementedError

    def flush(self) -> None:
        """Write the answers given in this turn: one `transport.write` for each connection."""
        raise NotImplementedError

    def stop_listening(self) -> Deferred[None]:
        """Accept no more connections; those that are open go on."""
        raise NotImplementedError

    def stop(self) -> Deferred[None]:
        """Close ports and connections, after what was answered is written."""
        raise NotImplementedError
