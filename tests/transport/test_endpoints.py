"""Addresses are read, checked, and kept off networks where anyone could listen."""

from __future__ import annotations

import pytest
from twisted.internet import endpoints, error
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactor, MemoryReactorClock
from twisted.python.failure import Failure

from raft.errors import BadConfiguration
from raft.transport.endpoints import (
    client_endpoint,
    parse_dial,
    require_private,
    server_endpoint,
)


@pytest.mark.parametrize(
    ("address", "kind", "host", "port"),
    [
        ("127.0.0.1:7001", "tcp", "127.0.0.1", 7001),
        ("node1.example:7001", "tcp", "node1.example", 7001),
        ("[::1]:7001", "tcp", "::1", 7001),
        ("tcp:10.0.0.1:7001", "tcp", "10.0.0.1", 7001),
        ("tcp:host=10.0.0.1:port=7001", "tcp", "10.0.0.1", 7001),
        ("tcp:\\:\\:1:7001", "tcp", "::1", 7001),
        ("tcp6:\\:\\:1:7001", "tcp6", "::1", 7001),
    ],
)
def test_addresses_to_dial(address: str, kind: str, host: str, port: int) -> None:
    parsed = parse_dial(address)
    assert (parsed.kind, parsed.host, parsed.port) == (kind, host, port)
    kinds = {
        "node1.example": endpoints.HostnameEndpoint,
        "::1": endpoints.TCP6ClientEndpoint,
    }
    found = client_endpoint(MemoryReactor(), address)
    assert isinstance(found, kinds.get(host, endpoints.TCP4ClientEndpoint))


def test_a_refused_connection_to_an_address_fails_at_once() -> None:
    """After a leader's crash, clients and peers learn of it without waiting for a timer."""
    reactor = MemoryReactorClock()
    failed: list[Failure] = []
    for address in ("127.0.0.1:7001", "[::1]:7001"):
        connecting = client_endpoint(reactor, address).connect(Factory.forProtocol(Protocol))
        connecting.addErrback(failed.append)
        reactor.tcpClients[-1][2].clientConnectionFailed(
            None, Failure(error.ConnectionRefusedError())
        )
    assert len(failed) == 2
    assert reactor.seconds() == 0


@pytest.mark.parametrize(
    ("address", "interface", "port"),
    [
        ("127.0.0.1:7001", "127.0.0.1", 7001),
        ("localhost:0", "127.0.0.1", 0),
        ("[::1]:7001", "::1", 7001),
        ("tcp:7001", "", 7001),
        ("tcp:7001:interface=10.0.0.1", "10.0.0.1", 7001),
        ("tcp6:port=7001:interface=\\:\\:1", "::1", 7001),
    ],
)
def test_addresses_to_listen_on(address: str, interface: str, port: int) -> None:
    reactor = MemoryReactor()
    server_endpoint(reactor, address).listen(None)
    ((found_port, _, _, found_interface),) = reactor.tcpServers
    assert found_port == port
    assert found_interface.strip("[]") == interface


def test_unix_sockets_are_dialled_and_listened_on() -> None:
    assert parse_dial("unix:/run/raft/a").path == "/run/raft/a"
    assert isinstance(client_endpoint(None, "unix:/run/raft/a"), endpoints.UNIXClientEndpoint)
    reactor = MemoryReactor()
    server_endpoint(reactor, "unix:/run/raft/a").listen(None)
    assert reactor.unixServers[0][0] == "/run/raft/a"


@pytest.mark.parametrize(
    "address",
    ["", "7001", "nonsense", "host:", "host:99999", "tcp:host", "tcp::7", "unix:", "gopher:a:b"],
)
def test_what_is_no_address_is_refused_with_an_example(address: str) -> None:
    with pytest.raises(BadConfiguration, match=r"write for example 127\.0\.0\.1:7001"):
        client_endpoint(MemoryReactor(), address)


@pytest.mark.parametrize(
    "address", ["tcp:x", "tcp:10.0.0.1:7001", "tcp:70000", "nonsense", "gopher:a:b"]
)
def test_what_cannot_be_listened_on_is_refused(address: str) -> None:
    with pytest.raises(BadConfiguration, match="no usable address"):
        server_endpoint(MemoryReactor(), address)


@pytest.mark.parametrize(
    ("address", "listen", "is_private"),
    [
        ("127.0.0.1:1", False, True),
        ("127.8.8.8:1", False, True),
        ("localhost:1", False, True),
        ("[::1]:1", False, True),
        ("unix:/run/a", False, True),
        ("tls:host:1", False, True),
        ("10.0.0.1:1", False, False),
        ("node.example:1", False, False),
        ("127.0.0.1.example:1", False, False),
        ("tcp:1", True, False),
        ("tcp:1:interface=127.0.0.1", True, True),
        ("tcp:1:interface=0.0.0.0", True, False),
        ("unix:/run/a", True, True),
        ("ssl:1:privateKey=k", True, True),
    ],
)
def test_plaintext_for_others_needs_to_be_allowed(
    address: str, listen: bool, is_private: bool
) -> None:
    """SECURITY 33: nothing in the clear leaves the machine by default."""
    require_private(address, allow_plaintext=True, listen=listen)
    if is_private:
        require_private(address, allow_plaintext=False, listen=listen)
    else:
        with pytest.raises(BadConfiguration, match="allow_plaintext = true"):
            require_private(address, allow_plaintext=False, listen=listen)
