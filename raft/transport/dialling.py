"""Connecting to a node: dial, greet, and believe only who belongs to the cluster that is meant."""

from __future__ import annotations

from typing import Any

from twisted.internet import defer
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from raft.errors import NotAppended, PeerRefused
from raft.transport import commands
from raft.transport.boxes import encode_box
from raft.transport.calls import ClientConnection
from raft.transport.endpoints import client_endpoint
from raft.transport.greeting import Greeting, read_greeting


def dial(
    reactor: Any, address: str, timeout_seconds: float = 5.0, cluster_id: str = ""
) -> Deferred[ClientConnection]:
    """Connect to a node and greet it; cancelling gives up.

    `address` is an endpoint string or `host:port`. A node of another cluster than `cluster_id`
    (where it is not empty) refuses.

    Raises (as failures):
        PeerRefused: the node belongs to another cluster or speaks another version.
        NotAppended: it cannot be reached within `timeout_seconds`.
        BadConfiguration: `address` is none.
    """
    dialled = Deferred.fromCoroutine(_dial(reactor, address, timeout_seconds, cluster_id))

    def too_late(value: object, _seconds: float) -> object:
        if isinstance(value, Failure) and value.check(defer.CancelledError):
            raise NotAppended(f"{address} did not answer within {timeout_seconds:g} s")
        return value

    return dialled.addTimeout(timeout_seconds, reactor, too_late)  # type: ignore[arg-type]


async def _dial(
    reactor: Any, address: str, timeout_seconds: float, cluster_id: str
) -> ClientConnection:
    connection = ClientConnection(reactor)
    factory = Factory.forProtocol(lambda: connection)
    factory.noisy = False
    endpoint = client_endpoint(reactor, address, timeout_seconds)
    try:
        await endpoint.connect(factory)
    except defer.CancelledError:
        raise
    except Exception as error:
        raise NotAppended(f"{address} cannot be reached: {error}") from error
    try:
        connection.greeting = await greet(connection, cluster_id, timeout_seconds)
    except BaseException:
        connection.close()
        raise
    connection.is_greeted = True
    return connection


async def greet(connection: ClientConnection, cluster_id: str, seconds: float) -> Greeting:
    """Greet the other end; raise `PeerRefused` where it is not the node that is meant."""
    answered = connection.ask(
        encode_box(
            [
                (b"_command", b"Hello"),
                (b"version", b"%d" % commands.PROTOCOL_VERSION),
                (b"cluster_id", cluster_id.encode()),
                (b"server_id", b""),
                (b"incarnation", b""),
                (b"role", b"client"),
            ]
        ),
        read_greeting,
        False,
        seconds,
    )
    connection.flush()
    greeting: Greeting = await answered
    if greeting.version > commands.PROTOCOL_VERSION:
        raise PeerRefused(
            f"the node speaks version {greeting.version} of the protocol and this client only "
            f"{commands.PROTOCOL_VERSION}: upgrade the client"
        )
    if cluster_id and greeting.cluster_id and cluster_id != greeting.cluster_id:
        raise PeerRefused(f"the node belongs to cluster {greeting.cluster_id}, not {cluster_id}")
    return greeting
