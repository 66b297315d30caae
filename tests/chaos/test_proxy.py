"""The proxy between two parties: each way of treating bytes, and what heals."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from raft.chaos.mesh import CLIENTS, Mesh
from raft.chaos.proxy import STRANGER, Mode
from raft.transport.boxes import encode_box

pytestmark = pytest.mark.integration

HELLO = encode_box([(b"_ask", b"1"), (b"_command", b"Hello"), (b"server_id", b"a")])


class End(Protocol):
    """One end of a connection."""

    transport: Any

    def __init__(self) -> None:
        self.received = b""
        self.is_lost = False

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.is_lost = True


class Node:
    """What listens behind the proxies; keeps what was said on each connection."""

    def __init__(self, reactor: Any) -> None:
        self.ends: list[End] = []
        factory = Factory.forProtocol(self._accept)
        self._listening = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.port = self._listening.getHost().port

    def _accept(self) -> End:
        self.ends.append(End())
        return self.ends[-1]

    async def close(self) -> None:
        for end in self.ends:
            if not end.is_lost:
                end.transport.abortConnection()
        await maybeDeferred(self._listening.stopListening)


class Stand:
    """A node `b` behind its proxies, and whoever dials it."""

    def __init__(self, reactor: Any) -> None:
        self.reactor = reactor
        self.node = Node(reactor)
        self.mesh = Mesh(reactor)
        self.doors = self.mesh.add("b", self.node.port, self.node.port)
        self.dialled: list[End] = []

    async def dial(self, address: str, greeting: bytes = b"") -> End:
        port = int(address.rpartition(":")[2])
        endpoint = TCP4ClientEndpoint(self.reactor, "127.0.0.1", port)
        end: End = await connectProtocol(endpoint, End())
        self.dialled.append(end)
        if greeting:
            end.transport.write(greeting)
        return end

    async def greeted(self) -> tuple[End, End]:
        """Return both ends of a connection that the server `a` has dialled."""
        count = len(self.node.ends)
        near = await self.dial(self.doors.peers, HELLO)
        await self.until(lambda: len(self.node.ends) > count)
        far = self.node.ends[count]
        await self.until(lambda: far.received == HELLO)
        far.received = b""
        return near, far

    async def until(self, holds: Callable[[], object], seconds: float = 5.0) -> None:
        for _ in range(round(seconds / 0.01)):
            if holds():
                return
            await deferLater(self.reactor, 0.01)
        raise AssertionError("it never came")

    async def never(self, holds: Callable[[], object], seconds: float = 0.15) -> None:
        for _ in range(round(seconds / 0.01)):
            await deferLater(self.reactor, 0.01)
            assert not holds()

    async def close(self) -> None:
        for end in self.dialled:
            if not end.is_lost:
                end.transport.abortConnection()
        await self.mesh.close()
        await self.node.close()
        await self.until(lambda: all(end.is_lost for end in [*self.dialled, *self.node.ends]))


def stands(test: Callable[[Stand], Awaitable[None]]) -> Callable[[], Any]:
    """Run a test with a stand of its own, which is closed whatever happens."""

    @pytest_twisted.ensureDeferred
    async def run() -> None:
        from twisted.internet import reactor

        stand = Stand(reactor)
        try:
            await test(stand)
        finally:
            await stand.close()

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run


@stands
async def test_an_open_link_passes_everything_both_ways(stand: Stand) -> None:
    near, far = await stand.greeted()
    near.transport.write(b"x" * 2_000_000)
    far.transport.write(b"y" * 1_000_000)
    await stand.until(lambda: len(far.received) == 2_000_000 and len(near.received) == 1_000_000)
    near.transport.write(b"last")
    near.transport.loseConnection()
    await stand.until(lambda: far.is_lost)
    assert far.received.endswith(b"last")
    await stand.until(lambda: stand.mesh.connection_count() == 0)


@stands
async def test_greetings_tell_who_dials(stand: Stand) -> None:
    await stand.greeted()
    assert ("a", "b") in stand.mesh.links
    await stand.dial(stand.doors.peers, b"\xff" * 300)
    await stand.dial(stand.doors.clients, b"whatever")
    await stand.until(lambda: len(stand.node.ends) == 3)
    assert (STRANGER, "b") in stand.mesh.links
    assert (CLIENTS, "b") in stand.mesh.links


@stands
async def test_a_cut_is_of_one_direction_and_healing_breaks_what_lost_bytes(stand: Stand) -> None:
    near, far = await stand.greeted()
    stand.mesh.link("a", "b").become(Mode.CUT)
    near.transport.write(b"lost")
    far.transport.write(b"heard")
    await stand.until(lambda: near.received == b"heard")
    await stand.never(lambda: far.received or near.is_lost or far.is_lost)
    stand.mesh.heal()
    await stand.until(lambda: near.is_lost and far.is_lost)
    assert not far.received
    near, far = await stand.greeted()
    near.transport.write(b"again")
    await stand.until(lambda: far.received == b"again")


@stands
async def test_what_lost_nothing_survives_a_cut(stand: Stand) -> None:
    near, far = await stand.greeted()
    stand.mesh.link("a", "b").become(Mode.CUT)
    stand.mesh.heal()
    near.transport.write(b"still there")
    await stand.until(lambda: far.received == b"still there")


@stands
async def test_nobody_hears_of_an_end_through_a_cut(stand: Stand) -> None:
    near, far = await stand.greeted()
    stand.mesh.link("b", "a").become(Mode.CUT)
    far.transport.loseConnection()
    await stand.until(lambda: far.is_lost)
    near.transport.write(b"to nobody")
    await stand.never(lambda: near.is_lost)
    stand.mesh.heal()
    await stand.until(lambda: near.is_lost)


@stands
async def test_a_black_hole_accepts_and_delivers_late(stand: Stand) -> None:
    link = stand.mesh.link("a", "b")
    link.become(Mode.STALL)
    near = await stand.dial(stand.doors.peers, HELLO)
    near.transport.write(b"x" * 5_000_000)
    await stand.until(lambda: stand.node.ends)
    await stand.never(lambda: stand.node.ends[0].received)
    assert sum(flow._queued_bytes for flow in link.flows) < 1_000_000
    link.become(Mode.OPEN)
    await stand.until(lambda: len(stand.node.ends[0].received) == 5_000_000 + len(HELLO))


@stands
async def test_a_trickle_is_one_byte_a_second(stand: Stand) -> None:
    near, far = await stand.greeted()
    link = stand.mesh.link("a", "b")
    link.become(Mode.TRICKLE)
    near.transport.write(b"abc")
    await stand.until(lambda: far.received == b"a")
    await stand.until(lambda: far.received == b"ab")
    link.become(Mode.OPEN)
    await stand.until(lambda: far.received == b"abc")


@stands
async def test_delayed_bytes_stay_in_their_order(stand: Stand) -> None:
    near, far = await stand.greeted()
    link = stand.mesh.link("a", "b")
    link.become(Mode.OPEN, 0.2)
    near.transport.write(b"first ")
    await stand.never(lambda: far.received, 0.1)
    link.become(Mode.OPEN)
    near.transport.write(b"second")
    await stand.until(lambda: far.received == b"first second")


@stands
async def test_a_link_that_refuses_resets_old_and_new_connections(stand: Stand) -> None:
    near, far = await stand.greeted()
    stand.mesh.link("a", "b").become(Mode.REFUSE)
    await stand.until(lambda: near.is_lost and far.is_lost)
    again = await stand.dial(stand.doors.peers, HELLO)
    await stand.until(lambda: again.is_lost)
    assert len(stand.node.ends) == 1


@stands
async def test_a_reset_breaks_what_stands_and_nothing_else(stand: Stand) -> None:
    near, far = await stand.greeted()
    assert stand.mesh.link("a", "b").reset() == 1
    await stand.until(lambda: near.is_lost and far.is_lost)
    await stand.greeted()


@stands
async def test_garbage_is_never_ascii(stand: Stand) -> None:
    near, far = await stand.greeted()
    assert stand.mesh.link("a", "b").garble(random.Random(1)) == 1
    await stand.until(lambda: len(far.received) == 4096)
    assert min(far.received) >= 0x80
    assert not near.received


@stands
async def test_a_duplicate_says_the_same_on_another_connection(stand: Stand) -> None:
    near, far = await stand.greeted()
    near.transport.write(b"more")
    await stand.until(lambda: far.received == b"more")
    assert stand.mesh.link("a", "b").duplicate() == 1
    await stand.until(lambda: len(stand.node.ends) == 2)
    await stand.until(lambda: stand.node.ends[1].received == HELLO + b"more")
    stand.node.ends[1].transport.write(b"nobody hears")
    await stand.until(lambda: stand.node.ends[1].is_lost)
    assert not near.received


@stands
async def test_where_nobody_listens_connections_end(stand: Stand) -> None:
    await stand.node.close()
    near = await stand.dial(stand.doors.clients, b"anyone?")
    await stand.until(lambda: near.is_lost)
    await stand.until(lambda: stand.mesh.connection_count() == 0)
