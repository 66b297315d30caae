"""A stock `twisted.protocols.amp.AMP` talks to a node, in every role.

The commands are declared here again, as `docs/reference/wire.md` says, and nothing of the
library's own codec is used on the stock side.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec
import pytest
import pytest_twisted
from twisted.internet import endpoints, protocol
from twisted.protocols import amp
from zope.interface import implementer

from raft import errors
from raft.core import messages as m
from raft.core.configuration import Configuration, Member
from raft.interfaces import IClientService
from raft.transport.arguments import pack_results
from raft.transport.clients import ClientListener
from raft.transport.dialling import dial
from raft.transport.peers import Identity, PeerNetwork, SnapshotChunk

encode, decode = msgspec.msgpack.encode, msgspec.msgpack.decode


class Numbered(amp.Argument):  # type: ignore[misc]
    """Bytes over the keys `name`, `name.1`, `name.2` and so on, 65,000 in each."""

    def fromBox(self, name: bytes, strings: Any, objects: Any, proto: object) -> None:
        value, number = strings.get(name), 1
        while value is not None and name + b".%d" % number in strings:
            value += strings[name + b".%d" % number]
            number += 1
        objects[name.decode()] = value

    def toBox(self, name: bytes, strings: Any, objects: Any, proto: object) -> None:
        value = objects[name.decode()]
        for number in range(max(1, -(-len(value) // 65000))):
            key = name if number == 0 else name + b".%d" % number
            strings[key] = value[number * 65000 : (number + 1) * 65000]


class NotLeading(Exception):
    """NOT_LEADER."""


class Hello(amp.Command):
    arguments: ClassVar = [
        (b"version", amp.Integer()),
        (b"cluster_id", amp.Unicode()),
        (b"server_id", amp.Unicode()),
        (b"incarnation", amp.Unicode()),
        (b"role", amp.Unicode()),
        (b"target", amp.Unicode(optional=True)),
    ]
    response: ClassVar = [
        (b"version", amp.Integer()),
        (b"cluster_id", amp.Unicode()),
        (b"server_id", amp.Unicode()),
        (b"incarnation", amp.Unicode()),
    ]
    errors: ClassVar = {errors.PeerRefused: b"PEER_REFUSED"}


class Write(amp.Command):
    arguments: ClassVar = [(b"commands", Numbered()), (b"timeout_ms", amp.Integer(optional=True))]
    response: ClassVar = [(b"results", Numbered())]
    errors: ClassVar = {NotLeading: b"NOT_LEADER"}


class Read(amp.Command):
    arguments: ClassVar = [(b"queries", Numbered()), (b"consistency", amp.Unicode(optional=True))]
    response: ClassVar = [(b"results", Numbered())]


class Status(amp.Command):
    response: ClassVar = [(b"status", Numbered())]


class AppendEntries(amp.Command):
    requiresAnswer = False
    arguments: ClassVar = [
        (b"term", amp.Integer()),
        (b"prev_log_index", amp.Integer()),
        (b"prev_log_term", amp.Integer()),
        (b"leader_commit", amp.Integer()),
        (b"sequence", amp.Integer()),
        (b"records", Numbered()),
        (b"fragment_bytes", amp.Integer(optional=True)),
    ]


class AppendFragment(amp.Command):
    requiresAnswer = False
    arguments: ClassVar = [
        (b"term", amp.Integer()),
        (b"sequence", amp.Integer()),
        (b"offset_bytes", amp.Integer()),
        (b"piece", Numbered()),
    ]


class AppendEntriesResult(amp.Command):
    requiresAnswer = False
    arguments: ClassVar = [
        (b"term", amp.Integer()),
        (b"success", amp.Boolean()),
        (b"match_index", amp.Integer()),
        (b"sequence", amp.Integer()),
        (b"last_log_index", amp.Integer()),
        (b"hint_index", amp.Integer(optional=True)),
        (b"hint_term", amp.Integer(optional=True)),
        (b"promise_seconds", amp.Float(optional=True)),
        (b"repairing", amp.Boolean(optional=True)),
    ]


class InstallSnapshot(amp.Command):
    requiresAnswer = False
    arguments: ClassVar = [
        (b"term", amp.Integer()),
        (b"last_included_index", amp.Integer()),
        (b"last_included_term", amp.Integer()),
        (b"configuration", Numbered()),
        (b"configuration_index", amp.Integer()),
        (b"sequence", amp.Integer()),
        (b"done", amp.Boolean()),
        (b"offset_bytes", amp.Integer()),
        (b"chunk", Numbered()),
        (b"checksum", amp.Integer()),
        (b"total_bytes", amp.Integer(optional=True)),
        (b"meta", Numbered(optional=True)),
    ]


class TimeoutNow(amp.Command):
    requiresAnswer = False
    arguments: ClassVar = [(b"term", amp.Integer())]


class StockServer(amp.AMP):  # type: ignore[misc]
    """A whole server of the protocol, as far as these tests go."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Any, ...]] = []
        self.error: Exception | None = None

    @Hello.responder
    def hello(self, **names: Any) -> dict[str, Any]:
        self.seen.append(("Hello", names))
        return {"version": 1, "cluster_id": "cluster", "server_id": "b", "incarnation": "i-b"}

    @Write.responder
    def write(self, commands: bytes, timeout_ms: int) -> dict[str, Any]:
        if self.error is not None:
            raise self.error
        return {"results": encode([("", decode(command)) for command in decode(commands)])}

    @AppendEntries.responder
    def append(self, **values: Any) -> dict[str, Any]:
        self.seen.append(("AppendEntries", values))
        return {}

    @AppendFragment.responder
    def fragment(self, **values: Any) -> dict[str, Any]:
        self.seen.append(("AppendFragment", values))
        return {}

    @InstallSnapshot.responder
    def snapshot(self, **values: Any) -> dict[str, Any]:
        self.seen.append(("InstallSnapshot", values))
        return {}


@implementer(IClientService)
class Echo:
    """Answers what it is asked."""

    def write_batch(self, commands: list[bytes], timeout_seconds: float, answer: Any) -> None:
        if commands == [encode("elsewhere")]:
            answer(errors.NotLeader("c", "10.0.0.3:7001"))
            return
        answer(pack_results(commands))

    def read_batch(
        self, queries: list[bytes], timeout_seconds: float, terms: Any, answer: Any
    ) -> None:
        answer(pack_results([encode(terms.consistency), errors.CommandFailed("KeyError")]))

    def status(self) -> object:
        return {"term": 3}

    def leader(self) -> object:
        return ("", "")

    def set_configuration(
        self,
        members: object,
        timeout_seconds: float,
        replace: bool = False,
        expected_index: int | None = None,
        force: bool = False,
    ) -> object:
        return None

    def get_entry(self, index: int) -> object:
        return {}

    def transfer_leadership(self, target: str | None, timeout_seconds: float) -> object:
        return ""


IDENTITY = Identity("cluster", "a", "i-a")


async def stock_client(port: Any) -> amp.AMP:
    from twisted.internet import reactor

    endpoint = endpoints.TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
    return await endpoints.connectProtocol(endpoint, amp.AMP())


async def stock_server() -> tuple[Any, list[StockServer]]:
    from twisted.internet import reactor

    made: list[StockServer] = []

    class Servers(protocol.Factory):
        noisy = False

        def buildProtocol(self, addr: object) -> StockServer:
            made.append(StockServer())
            made[-1].factory = self
            return made[-1]

    port = await endpoints.TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(Servers())
    return port, made


@pytest_twisted.ensureDeferred
async def test_a_stock_client_writes_and_reads_without_a_greeting(until: Any) -> None:
    from twisted.internet import reactor

    listener = ClientListener(reactor, IDENTITY, Echo())
    port = await listener.listen("tcp:0:interface=127.0.0.1")
    client = await stock_client(port)
    packed = encode([encode(1), encode(b"x" * 200_000)])
    answer = await client.callRemote(Write, commands=packed, timeout_ms=1000)
    assert decode(answer["results"]) == [["", 1], ["", b"x" * 200_000]]
    answer = await client.callRemote(Read, queries=encode([encode(1), encode(2)]))
    assert decode(answer["results"]) == [
        ["", ""],
        ["COMMAND_FAILED", {"exception": "KeyError", "message": "KeyError"}],
    ]
    assert decode((await client.callRemote(Status))["status"]) == {"term": 3}
    with pytest.raises(NotLeading) as caught:
        await client.callRemote(Write, commands=encode([encode("elsewhere")]))
    assert msgspec.json.decode(str(caught.value))["address"] == "10.0.0.3:7001"
    names = {"version": 1, "cluster_id": "cluster", "server_id": "", "incarnation": ""}
    answer = await client.callRemote(Hello, role="client", **names)
    assert answer["server_id"] == "a"
    client.transport.loseConnection()
    await listener.stop()


@pytest_twisted.ensureDeferred
async def test_a_client_of_ours_writes_to_a_stock_server() -> None:
    from twisted.internet import reactor

    port, made = await stock_server()
    client = await dial(reactor, f"127.0.0.1:{port.getHost().port}", 5.0, "cluster")
    assert client.greeting is not None
    assert client.greeting.server_id == "b"
    assert await client.write_batch([encode(1), encode("x" * 200_000)], 1000) == [1, "x" * 200_000]
    made[0].error = NotLeading('{"leader": "c", "address": "10.0.0.3:7001"}')
    with pytest.raises(errors.NotLeader) as caught:
        await client.write_batch([encode(1)], 1000)
    assert (caught.value.leader, caught.value.address) == ("c", "10.0.0.3:7001")
    client.close()
    await client.lost
    await port.stopListening()


@pytest_twisted.ensureDeferred
async def test_a_stock_server_sends_messages_to_ours(until: Any) -> None:
    from twisted.internet import reactor

    received: list[tuple[Any, ...]] = []
    network = PeerNetwork(reactor, IDENTITY, lambda *parts: received.append(parts))
    port = await network.listen("tcp:0:interface=127.0.0.1")
    stock = await stock_client(port)
    answer = await stock.callRemote(
        Hello,
        version=1,
        cluster_id="cluster",
        server_id="b",
        incarnation="i-b",
        role="peer",
        target="a",
    )
    assert (answer["server_id"], answer["incarnation"]) == ("a", "i-a")
    head = {"term": 3, "prev_log_index": 7, "prev_log_term": 2, "leader_commit": 6, "sequence": 4}
    stock.callRemote(AppendEntries, records=b"r" * 100_000, **head)
    stock.callRemote(AppendFragment, term=3, sequence=4, offset_bytes=0, piece=b"first ")
    stock.callRemote(AppendEntries, records=b"rest", fragment_bytes=6, **head)
    result = {"term": 3, "success": True, "match_index": 9, "sequence": 4, "last_log_index": 9}
    stock.callRemote(AppendEntriesResult, promise_seconds=0.3, **result)
    stock.callRemote(TimeoutNow, term=3)
    await until(lambda: len(received) == 4)
    message = m.AppendEntries(3, 7, 2, m.Entries(8), 6, 4)
    assert received == [
        ("b", message, b"r" * 100_000, None),
        ("b", message, b"first rest", None),
        ("b", m.AppendEntriesResult(3, True, 9, 4, 9, promise_seconds=0.3), b"", None),
        ("b", m.TimeoutNow(3), b"", None),
    ]
    stock.transport.loseConnection()
    await network.stop()


@pytest_twisted.ensureDeferred
async def test_a_stock_server_takes_messages_of_ours(until: Any) -> None:
    from twisted.internet import reactor

    port, made = await stock_server()
    network = PeerNetwork(reactor, IDENTITY, lambda *parts: None)
    network.set_peers({"b": f"127.0.0.1:{port.getHost().port}"})
    await until(lambda: network.is_connected("b"))
    network.send("b", m.AppendEntries(3, 7, 2, m.Entries(8), 6, 4), b"r" * 100_000)
    configuration = Configuration((Member("a", "i", "p", "c"), Member("b", voter=False)), {"z"})
    snapshot = m.InstallSnapshot(3, 9, 2, configuration, 5, 6, True)
    network.send("b", snapshot, chunk=SnapshotChunk.of(0, b"s" * 70_000, 70_000, b"meta"))
    network.send("b", m.AppendEntries(3, 8, 2, m.Entries(9), 6, 5), bytes(2 << 20))
    await until(lambda: made and "InstallSnapshot" in [kind for kind, _ in made[0].seen])
    # The snapshot's chunk is bulk, and comes after the records that were sent after it.
    (_, greeting), (_, first), *fragments, (_, last), (_, second) = made[0].seen
    assert {kind for kind, _ in fragments} == {"AppendFragment"}
    assert (greeting["server_id"], greeting["target"], greeting["role"]) == ("a", "b", "peer")
    assert first["records"] == b"r" * 100_000
    assert (first["term"], first["sequence"], first["fragment_bytes"]) == (3, 4, None)
    assert (second["chunk"], second["meta"], second["done"]) == (b"s" * 70_000, b"meta", True)
    assert decode(second["configuration"]) == [
        [["a", "i", "p", "c", True], ["b", "", "", "", False]],
        ["z"],
    ]
    assert last["fragment_bytes"] == sum(len(values["piece"]) for _, values in fragments)
    assert last["fragment_bytes"] + len(last["records"]) == 2 << 20
    await network.stop()
    await port.stopListening()
