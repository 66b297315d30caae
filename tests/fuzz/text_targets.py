"""What people and browsers write: identity and configuration files, histories, HTTP."""

from __future__ import annotations

import io
import re
from typing import Any
from unittest import mock

from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from raft import config as node_config
from raft.errors import BadConfiguration, StorageDamaged
from raft.machines.kv import KeyValueStore
from raft.node.settings import NodeSettings
from raft.ops.http import MOST_BODY_BYTES, OpsDoor
from raft.storage.directory import Identity, decode_identity, encode_identity
from raft.testing.history_file import BadHistory, read_history
from raft.testing.linearizability import MODELS
from tests.fuzz.oracle import Source, check, no_failure_logged

# -- The identity of a data directory ------------------------------------------------------


def identity(octets: bytes) -> object:
    """The identity is what its checksum says, or the directory is refused."""
    try:
        found = decode_identity(octets, "identity.json")
    except (StorageDamaged, BadConfiguration):
        return None
    check(decode_identity(encode_identity(found), "identity.json") == found, "another identity")
    return found


def identity_seeds() -> list[bytes]:
    return [encode_identity(Identity("server-a", "0123456789abcdef", "cluster"))]


# -- Histories of `raft check` -------------------------------------------------------------

HISTORY_WORDS = (
    b'"client"', b'"op"', b'"key"', b'"value"', b'"expected"', b'"output"', b'"ok"', b'"call"',
    b'"return"', b"null", b"true", b"NaN", b"1e999", b"9" * 5000, b"[" * 300, b'{"$bytes":"00"}',
    b'"\\ud800"', b"\xef\xbb\xbf", b"\xff", b"\n",
)  # fmt: skip


def history(octets: bytes) -> object:
    """A file is a history, or `raft check` says in one line why not."""
    source = Source(octets)
    names = sorted(MODELS)
    model = MODELS[names[source.byte() % len(names)]]
    try:
        found = read_history(io.BytesIO(source.rest()), "history", model.steps.keys())
    except BadHistory as error:
        check("\n" not in str(error), f"more than a line: {error!s}")
        return None
    for operation in found:
        check(operation.return_ns is None or operation.return_ns >= operation.call_ns, "backwards")
    return found


def history_seeds() -> list[bytes]:
    lines = [
        b'{"client":"c1","op":"put","key":"a","value":1,"output":null,"ok":true,"call":1,"return":2}',
        b'{"client":"c2","op":"get","key":"a","output":1,"ok":true,"call":3,"return":4}',
        (
            b'{"client":"c1","op":"cas","key":"a","expected":1,"value":{"$bytes":"00ff"},"output":true,'
            b'"ok":true,"call":5,"return":6}'
        ),
        b'{"client":"c1","op":"put","key":"b","value":[1,{"x":null}],"call":7,"return":null}',
    ]
    number = sorted(MODELS).index("kv")
    return [bytes((number,)) + b"\n".join(lines), bytes((number,)) + lines[0]]


# -- node.toml -----------------------------------------------------------------------------

CONFIG_WORDS = (
    b"[node]", b"[listen]", b"[advertise]", b"[[members]]", b"[timings]", b"[limits]", b"id = ",
    b'"tcp:1"', b"inf", b"nan", b"-1", b"9" * 5000, b"{}", b"[[", b"]]", b"a.a.a.a", b"1979-05-27",
)  # fmt: skip


def _no_import(name: str) -> object:
    """Import nothing: the name of a machine is that of a module."""
    if name != "kv":
        raise ValueError(f"{name!r}: no module is imported here")
    return KeyValueStore


def config(octets: bytes) -> object:
    """A text is a configuration, or one line names the file, the place and the remedy."""
    try:
        text = octets.decode()
    except UnicodeDecodeError:
        return None
    with mock.patch.object(node_config, "load_machine", _no_import):
        try:
            return node_config.parse_config(text, "node.toml")
        except BadConfiguration as error:
            check(str(error).startswith("node.toml"), f"no file is named: {error}")
            return None


def config_seeds() -> list[bytes]:
    text = b"""[node]
id = "n1"
cluster = "shop"
data_directory = "n1-data"
machine = "kv"
[listen]
peers = "127.0.0.1:7001"
clients = "127.0.0.1:8001"
http = "127.0.0.1:9001"
[timings]
election_timeout = 0.3
heartbeat = 0.06
[limits]
command_bytes = 4096
[[members]]
id = "n1"
peers = "127.0.0.1:7001"
clients = "127.0.0.1:8001"
"""
    return [text, b"[node]\nid = 'a'\n"]


# -- Requests to the HTTP door -------------------------------------------------------------

HTTP_WORDS = (
    b"GET ", b"HEAD ", b"POST ", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b"Host: localhost\r\n",
    b"Content-Length: ", b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n", b"\r\n",
    b"/status", b"/metrics", b"/health", b"http://[", b"Connection: close\r\n", b"ffffffff\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"Content-Type: multipart/form-data; boundary=\r\n",
    b"Host: [::1%25]:1\r\n", b"Upgrade: h2c\r\n", b"Authorization: Basic =\r\n",
    b"Cookie: a=\xff\r\n",
)  # fmt: skip


class Node:
    """As much of a node as the pages need."""

    id = "n1"
    failure = None
    running = True
    transitions = ()
    settings = NodeSettings(
        "n1", "data", "tcp:7001:interface=127.0.0.1", http_endpoint="tcp:9001:interface=127.0.0.1"
    )

    def leader(self) -> str:
        return "n1"

    def status(self) -> dict[str, Any]:
        return {"id": "n1", "term": 3, "members": []}

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


class _Socket(StringTransport):
    """As a real one, it does not mind to be told twice that nobody produces."""

    def unregisterProducer(self) -> None:
        self.producer = None


STATUS_LINE = re.compile(rb"HTTP/1\.[01] (\d{3}) ")


def http(octets: bytes) -> object:
    """A request is answered or its connection closed, nothing fails, and nothing is kept."""
    source = Source(octets)
    step, rest = 1 + 8 * source.byte(), source.rest()
    clock: Any = Clock()
    node: Any = Node()
    door = OpsDoor(node, clock)
    address = IPv4Address("TCP", "127.0.0.1", 9001)
    protocol: Any = door._door.buildProtocol(address)
    transport = _Socket(address, address)
    with no_failure_logged():
        protocol.makeConnection(transport)
        for at in range(0, len(rest), step):
            if transport.disconnecting or transport.disconnected:
                break
            protocol.dataReceived(rest[at : at + step])
        clock.advance(60)
        protocol.connectionLost(None)
    answered = transport.value()
    if answered:
        found = STATUS_LINE.match(answered)
        check((found and int(found[1]) < 500) or b" 503 " in answered[:20], f"{answered[:80]!r}")
        check(b"Traceback" not in answered, "a traceback")
    check(MOST_BODY_BYTES < 1 << 16, "a body may be large")
    return answered


def http_seeds() -> list[bytes]:
    return [
        b"\xff" + request
        for request in (
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET /status HTTP/1.1\r\nHost: 127.0.0.1:9001\r\nConnection: close\r\n\r\n",
            b"HEAD /health HTTP/1.0\r\nHost: localhost\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello",
            (
                b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
                b"5\r\nhello\r\n0\r\n\r\n"
            ),
            (
                b"GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n"
                b"GET / HTTP/1.1\r\nHost: [::1]\r\n\r\n"
            ),
        )
    ]
