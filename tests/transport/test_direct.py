"""Writing at once gives the other side the same bytes as the transport itself would."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor, tcp
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from raft.transport.direct import MOST_BYTES, direct_write


class End(Protocol):
    """One end: keeps what arrives, and tells when the connection is gone."""

    def __init__(self) -> None:
        self.connected_: Deferred[None] = Deferred()
        self.lost: Deferred[None] = Deferred()
        self.received = bytearray()

    def connectionMade(self) -> None:
        self.connected_.callback(None)

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.lost.called:
            self.lost.callback(None)


@pytest.fixture
def ends() -> Any:
    """Return what connects two ends over TCP: (the one that writes, the one that reads)."""
    made: list[Any] = []

    async def connect() -> tuple[End, End]:
        here, there = End(), End()
        port = reactor.listenTCP(0, Factory.forProtocol(lambda: there), interface="127.0.0.1")
        made.extend((port, here, there))
        await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port), here)
        await there.connected_
        return here, there

    connect.made = made  # type: ignore[attr-defined]
    yield connect
    port, *both = made
    pytest_twisted.blockon(port.stopListening())
    for end in both:
        end.transport.abortConnection()
        pytest_twisted.blockon(end.lost)


@pytest_twisted.ensureDeferred
async def test_a_write_has_left_when_it_returns(ends: Any) -> None:
    here, there = await ends()
    there.transport.pauseProducing()
    direct_write(here.transport)(b"at once")
    # Nothing but the socket was asked, and no turn of the reactor was needed.
    assert there.transport.socket.recv(100) == b"at once"


@pytest_twisted.ensureDeferred
async def test_what_the_socket_does_not_take_follows_in_order(
    ends: Any, until: Callable[..., Any]
) -> None:
    here, there = await ends()
    there.transport.pauseProducing()
    write, chance = direct_write(here.transport), random.Random(1)
    pieces = [chance.randbytes(chance.choice((1, 70_000, 130_000))) for _ in range(150)]
    for piece in pieces:
        write(piece)
    assert here.transport.dataBuffer or here.transport._tempDataLen
    there.transport.resumeProducing()
    sent = b"".join(pieces)
    await until(lambda: len(there.received) >= len(sent))
    write(b"end")
    await until(lambda: len(there.received) > len(sent) + 2)
    assert bytes(there.received) == sent + b"end"


@pytest_twisted.ensureDeferred
async def test_more_than_a_socket_takes_goes_to_the_transport_whole(ends: Any) -> None:
    here, _ = await ends()
    given: list[bytes] = []
    here.transport.write = given.append
    direct_write(here.transport)(bytes(MOST_BYTES + 1))
    assert list(map(len, given)) == [MOST_BYTES + 1]


@pytest_twisted.ensureDeferred
async def test_nothing_follows_what_was_written_before_the_end(
    ends: Any, until: Callable[..., Any]
) -> None:
    here, there = await ends()
    write = direct_write(here.transport)
    write(b"first")
    here.transport.loseConnection()
    write(b"second")
    await there.lost
    await here.lost
    write(b"third")
    assert bytes(there.received) in (b"first", b"firstsecond")


@pytest_twisted.ensureDeferred
async def test_a_broken_socket_is_told_of_by_the_reactor(ends: Any) -> None:
    here, _ = await ends()
    here.transport.socket.shutdown(socket.SHUT_RDWR)
    direct_write(here.transport)(b"into the void")
    await here.lost


def test_what_is_no_socket_is_written_to_as_ever() -> None:
    transport = StringTransport()
    direct_write(transport)(b"text")
    assert transport.value() == b"text"


def test_nothing_passes_by_tls() -> None:
    """It would be read by whoever is on the way."""
    given: list[bytes] = []

    class Secured(tcp.Connection):
        connected, disconnecting, TLS = 1, 0, True
        dataBuffer, _tempDataLen = b"", 0

        def __init__(self) -> None:
            self.socket = SimpleNamespace(send=pytest.fail)

        def write(self, data: bytes) -> None:
            given.append(data)

    direct_write(Secured())(b"secret")
    assert given == [b"secret"]
