"""Networks and listeners on loopback, closed when the test ends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_twisted
from attrs import evolve
from twisted.internet.task import deferLater

from raft.core.messages import Message
from raft.transport.peers import Identity, PeerLimits, PeerNetwork, SnapshotChunk

LIMITS = PeerLimits(redial_seconds=0.1)


@pytest.fixture
def until() -> Callable[[Callable[[], object]], Any]:
    """Wait for a condition; the test's own deadline bounds it."""
    return _until


async def _until(condition: Callable[[], object]) -> None:
    """Wait for `condition`; the test's own deadline bounds it."""
    from twisted.internet import reactor

    while not condition():
        await deferLater(reactor, 0.002)


class Node:
    """One server's network and all that happened to it."""

    def __init__(self, server_id: str, limits: PeerLimits = LIMITS, **changes: Any) -> None:
        from twisted.internet import reactor

        self.received: list[tuple[str, Message, bytes, SnapshotChunk | None]] = []
        self.contacts: list[tuple[str, int]] = []
        self.events: list[tuple[str, str]] = []
        self.compared: list[object] = []
        self.objection: str | None = None
        self.order: list[object] = []
        self.network = PeerNetwork(
            reactor,
            evolve(Identity("cluster", server_id, f"i-{server_id}"), **changes),
            self._receive,
            lambda peer: self.events.append(("connected", peer)),
            lambda peer: self.events.append(("disconnected", peer)),
            self._contact,
            lambda greeting: self.objection,
            limits,
            compare=lambda *told: self.compared.append(told),
        )
        self.id = server_id
        self.address = ""
        self.port: Any = None

    def _receive(
        self, sender: str, message: Message, records: bytes, chunk: SnapshotChunk | None
    ) -> None:
        self.received.append((sender, message, records, chunk))
        self.order.append(message)

    def _contact(self, sender: str, term: int) -> None:
        self.contacts.append((sender, term))
        self.order.append("contact")

    async def listen(self, port: int = 0) -> Node:
        self.port = await self.network.listen(f"tcp:{port}:interface=127.0.0.1")
        self.address = f"127.0.0.1:{self.port.getHost().port}"
        return self

    async def reach(self, other: Node) -> None:
        self.network.set_peers({other.id: other.address})
        await _until(lambda: self.network.is_connected(other.id))


@pytest_twisted.async_yield_fixture
async def nodes() -> AsyncIterator[Callable[..., Any]]:
    """Make listening nodes by name."""
    made: list[Node] = []

    async def make(server_id: str, limits: PeerLimits = LIMITS, **changes: Any) -> Node:
        made.append(Node(server_id, limits, **changes))
        return await made[-1].listen()

    yield make
    for node in made:
        await node.network.stop()
