"""RaftClient over loopback sockets, against scripted nodes and stock AMP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.protocols import amp
from zope.interface import implementer
from zope.interface.verify import verifyObject

from raft import errors
from raft.client import RaftClient
from raft.codec import PLAIN
from raft.interfaces import IClientService
from raft.machines.kv import KeyValueStore
from raft.numbering import OpenedSession, SessionCall
from raft.transport import commands
from raft.transport.arguments import pack_results, unpack_commands
from raft.transport.clients import ClientListener
from raft.transport.greeting import Identity

pytestmark = pytest.mark.integration


@implementer(IClientService)
class ScriptedNode:
    """One of three nodes that share a store; whoever leads answers."""

    def __init__(self, name: str, cluster: ScriptedCluster) -> None:
        self.name = name
        self.cluster = cluster
        self.address = ""
        self.listener: ClientListener | None = None
        self.cluster_id = "c" * 32
        self.mute = False
        self.loses_answers = False
        self.hangs = False
        self.on_write: Callable[[], None] = lambda: None
        self.write_count = 0
        self.boxes = 0

    async def start(self, port: int = 0) -> None:
        from twisted.internet import reactor

        self.listener = ClientListener(reactor, Identity(self.cluster_id, self.name, "1"), self)
        found: Any = await self.listener.listen(f"tcp:{port}:interface=127.0.0.1")
        self.address = f"tcp:127.0.0.1:{found.getHost().port}"

    async def stop(self) -> None:
        if self.listener is not None:
            await self.listener.stop()
            self.listener = None

    async def restart(self) -> None:
        await self.stop()
        await self.start(int(self.address.rpartition(":")[2]))

    def write_batch(
        self,
        items: list[bytes],
        timeout_seconds: float,
        answer: Any,
        with_index: bool = False,
        session: SessionCall | None = None,
    ) -> None:
        self.boxes += 1
        self.on_write()
        if self.mute:
            return
        self._check_leader()
        self.write_count += len(items)
        if session is None:
            results = [self._apply(item) for item in items]
        else:
            numbers = range(session.sequence, session.sequence + len(items))
            results = [
                self._apply_once(session.id, number, item)
                for number, item in zip(numbers, items, strict=True)
            ]
        if self.loses_answers and self.listener is not None:
            for connection in list(self.listener._connections):
                connection.transport.abortConnection()
        else:
            answer(pack_results(results))

    def _apply_once(self, session: bytes, number: int, item: bytes) -> Any:
        remembered = self.cluster.sessions.get(session)
        if remembered is None:
            return errors.SessionExpired()
        if number not in remembered:
            remembered[number] = self._apply(item)
        return remembered[number]

    def open_session(self, nonce: bytes, timeout_seconds: float) -> object:
        self._check_leader()
        id = len(self.cluster.sessions).to_bytes(8, "little") + nonce
        self.cluster.sessions[id] = {}
        return OpenedSession(id, 3600.0, 1000, 1 << 20)

    def keep_sessions(self, sessions: list[bytes], timeout_seconds: float) -> object:
        return [each in self.cluster.sessions for each in sessions]

    def close_sessions(self, sessions: list[bytes], timeout_seconds: float) -> object:
        if self.hangs:
            return Deferred()
        return [self.cluster.sessions.pop(each, None) is not None for each in sessions]

    def _apply(self, item: bytes) -> Any:
        context: Any = None
        try:
            return PLAIN.encode(self.cluster.store.apply(PLAIN.decode(item), context))
        except errors.CommandError as error:
            return error

    def read_batch(
        self, queries: list[bytes], timeout_seconds: float, terms: Any, answer: Any
    ) -> None:
        if self.mute:
            return
        self._check_leader()
        store = self.cluster.store
        answer(pack_results([PLAIN.encode(store.query(PLAIN.decode(each))) for each in queries]))

    def status(self) -> object:
        return {"id": self.name, "role": "leader" if self.cluster.leader is self else "follower"}

    def leader(self) -> object:
        leader = self.cluster.leader
        return (leader.name, leader.address) if leader else ("", "")

    def set_configuration(
        self,
        members: Any,
        timeout_seconds: float,
        replace: bool = False,
        expected_index: int | None = None,
        force: bool = False,
    ) -> object:
        self._check_leader()
        self.cluster.members = members
        return None

    def get_entry(self, index: int) -> object:
        raise errors.NotFound(f"no entry {index}")

    def transfer_leadership(self, target: str | None, timeout_seconds: float) -> object:
        self.cluster.leader = self.cluster.nodes[target or "n2"]
        return self.cluster.leader.name

    def _check_leader(self) -> None:
        leader = self.cluster.leader
        if leader is None:
            raise errors.ElectionInProgress()
        if leader is not self:
            raise errors.NotLeader(leader.name, leader.address)


class ScriptedCluster:
    """Three scripted nodes; n1 leads."""

    def __init__(self) -> None:
        self.store = KeyValueStore()
        self.nodes = {name: ScriptedNode(name, self) for name in ("n1", "n2", "n3")}
        self.leader: ScriptedNode | None = self.nodes["n1"]
        self.members: Any = ()
        self.sessions: dict[bytes, dict[int, Any]] = {}
        self.clients: list[RaftClient] = []

    def __getitem__(self, name: str) -> ScriptedNode:
        return self.nodes[name]

    def client(self, *names: str, **settings: Any) -> RaftClient:
        endpoints = [self[name].address for name in names or ("n1", "n2", "n3")]
        settings = {"sessions": False, **settings}
        self.clients.append(RaftClient(endpoints, **settings))
        return self.clients[-1]


@pytest_twisted.async_yield_fixture
async def cluster() -> AsyncIterator[ScriptedCluster]:
    made = ScriptedCluster()
    for node in made.nodes.values():
        await node.start()
    yield made
    for client in made.clients:
        await client.close()
    for node in made.nodes.values():
        await node.stop()


def test_a_scripted_node_keeps_the_contract() -> None:
    assert verifyObject(IClientService, ScriptedCluster()["n1"])


async def turns(count: int = 5) -> None:
    from twisted.internet import reactor

    for _ in range(count):
        await deferLater(reactor, 0)


async def test_writes_and_reads_reach_the_leader_through_any_node(cluster: Any) -> None:
    cluster.leader = cluster["n3"]
    client = cluster.client("n2")
    assert await client.write(["set", "k", [1, "two", b"three"]]) is None
    assert await client.read(["get", "k"]) == [1, "two", b"three"]
    assert await client.leader() == ("n3", cluster["n3"].address)
    assert cluster["n3"].write_count == 1
    with pytest.raises(errors.CommandError):
        await client.write(["nonsense"])


async def test_a_client_stays_with_the_cluster_that_it_found_first(cluster: Any) -> None:
    """A write was acknowledged by a node of another cluster at an address of its own.

    A wiped node had founded one by mistake. What `raft recover` makes of a survivor is the same
    cluster: the client goes on with it.
    """
    client = cluster.client("n1")
    await client.write(["set", "k", 1])
    cluster["n1"].cluster_id = "d" * 32
    await cluster["n1"].restart()
    await turns(50)
    with pytest.raises(errors.Timeout, match=r"to cluster d+, and this client found c+") as told:
        await client.write(["set", "k", 2], 0.5)
    assert not told.value.appended
    assert cluster["n1"].write_count == 1
    cluster["n1"].cluster_id = "c" * 32 + "+1"
    await cluster["n1"].restart()
    await turns(50)
    await client.write(["set", "k", 3])
    assert cluster["n1"].write_count == 2


async def test_a_thousand_writes_of_one_turn_take_few_boxes(cluster: Any) -> None:
    client = cluster.client()
    await gatherResults([client.write(["append", "k", number]) for number in range(1000)])
    assert await client.read(["get", "k"]) == list(range(1000))
    assert cluster["n1"].boxes == 1


async def test_a_command_of_megabytes_arrives_whole(cluster: Any) -> None:
    client = cluster.client(timeout_seconds=8.0)
    value = bytes(range(256)) * (15 << 10)
    await client.write(["set", "k", value])
    assert await client.read(["get", "k"]) == value


async def test_writes_follow_the_leadership_in_their_order(cluster: Any) -> None:
    client = cluster.client("n1")
    done = [client.write(["append", "k", 0])]
    for number in range(1, 30):
        done.append(client.write(["append", "k", number]))
        if number % 7 == 0:
            cluster.leader = cluster[f"n{1 + number % 3}"]
        await turns(1)
    await gatherResults(done)
    assert await client.read(["get", "k"]) == list(range(30))


async def test_a_restart_of_every_node_is_survived(cluster: Any) -> None:
    client = cluster.client(timeout_seconds=8.0)
    await client.write(["set", "k", 1])
    for node in cluster.nodes.values():
        await node.restart()
    # The client may not have noticed yet: what it sends on a dead connection stays unknown.
    await turns()
    await client.write(["set", "k", 2])
    assert await client.read(["get", "k"]) == 2


async def test_a_write_waits_for_an_election(cluster: Any) -> None:
    cluster.leader = None
    client = cluster.client()
    write = client.write(["set", "k", 1])
    await turns(20)
    cluster.leader = cluster["n2"]
    await write
    assert cluster.store.query(["get", "k"]) == 1


async def test_a_node_that_closes_before_its_answer_leaves_the_write_unknown(cluster: Any) -> None:
    client = cluster.client()
    await client.write(["set", "k", 1])
    node = cluster["n1"]

    def close() -> None:
        node.mute = True
        for connection in list(node.listener._connections):
            connection.transport.abortConnection()

    node.on_write = close
    with pytest.raises(errors.OutcomeUnknown):
        await client.write(["set", "k", 2])
    assert node.boxes == 2


async def test_answers_that_are_lost_are_asked_for_again_within_a_session(cluster: Any) -> None:
    """S7, sc-Q1: what was applied is answered from memory, and counts once."""
    client = cluster.client(sessions=True)
    assert await client.write(["append", "k", 0]) == 1
    node = cluster["n1"]

    def lose_three() -> None:
        node.loses_answers = node.boxes < 5

    node.on_write = lose_three
    writes = [client.write(["append", "k", number], timeout=9.0) for number in (1, 2)]
    assert await gatherResults(writes) == [2, 3]
    assert node.boxes == 5
    assert cluster.store.query(["get", "k"]) == [0, 1, 2]


async def test_closing_ends_the_session(cluster: Any) -> None:
    client = cluster.client(sessions=True)
    await client.write(["set", "k", 1])
    assert len(cluster.sessions) == 1
    await client.close()
    assert cluster.sessions == {}


async def test_closing_waits_a_second_at_most_for_a_node_that_hangs(cluster: Any) -> None:
    client = cluster.client(sessions=True)
    await client.write(["set", "k", 1])
    cluster["n1"].hangs = True
    await client.close()
    assert len(cluster.sessions) == 1


async def test_a_read_survives_a_node_that_hangs(cluster: Any) -> None:
    client = cluster.client(timeout_seconds=0.3)
    await client.write(["set", "k", 1])
    cluster["n1"].mute = True
    with pytest.raises(errors.Timeout) as caught:
        await client.write(["set", "k", 2])
    assert caught.value.appended
    cluster.leader = cluster["n2"]
    assert await client.read(["get", "k"], timeout=5.0) == 1


async def test_a_listener_that_never_speaks_is_passed_over(cluster: Any) -> None:
    from twisted.internet import endpoints, reactor

    silent = endpoints.serverFromString(reactor, "tcp:0:interface=127.0.0.1")
    held: list[Protocol] = []

    class Silent(Protocol):
        def connectionMade(self) -> None:
            held.append(self)

    factory = Factory.forProtocol(Silent)
    factory.noisy = False
    port: Any = await silent.listen(factory)
    address = f"tcp:127.0.0.1:{port.getHost().port}"
    client = RaftClient(
        [address, cluster["n1"].address], connect_timeout_seconds=0.1, sessions=False
    )
    try:
        await client.write(["set", "k", 1])
    finally:
        await client.close()
        await port.stopListening()
    assert held


async def test_a_node_of_another_cluster_is_refused_by_name(cluster: Any) -> None:
    client = cluster.client(cluster_id="d" * 32, timeout_seconds=0.2)
    with pytest.raises(errors.Timeout) as caught:
        await client.write(["set", "k", 1])
    assert isinstance(caught.value.__cause__, errors.PeerRefused)
    assert cluster["n1"].boxes == 0


async def test_questions_and_orders_reach_who_can_answer(cluster: Any) -> None:
    cluster.leader = cluster["n2"]
    client = cluster.client("n1")
    assert (await client.status(cluster["n3"].address))["id"] == "n3"
    with pytest.raises(errors.NotFound):
        await client.get_entry(3)
    await client.set_configuration([{"id": "n1"}])
    assert [member.id for member in cluster.members] == ["n1"]
    assert await client.transfer_leadership("n3") == "n3"


async def test_close_waits_for_the_connections(cluster: Any) -> None:
    client = cluster.client()
    await client.write(["set", "k", 1])
    cluster["n1"].mute = True
    write = client.write(["set", "k", 2])
    await turns()
    failed: Deferred[Any] = write.addErrback(lambda failure: failure.trap(errors.OutcomeUnknown))
    await client.close()
    assert await failed is errors.OutcomeUnknown


class StockNode(amp.AMP):
    """A node in stock AMP, with the published commands and nothing else."""

    seen: list[bytes]

    def makeConnection(self, transport: Any) -> None:
        super().makeConnection(transport)

    @commands.Hello.responder
    def hello(self, **_: Any) -> dict[str, Any]:
        return {"version": 1, "cluster_id": "", "server_id": "s1", "incarnation": "1"}

    @commands.Leader.responder
    def leader(self) -> dict[str, str]:
        return {"leader": "s1", "address": ""}

    @commands.Write.responder
    def write(self, commands: bytes, timeout_ms: int, **_: object) -> dict[str, bytes]:
        items = unpack_commands(commands)
        self.factory.seen.extend(items)
        if len(self.factory.seen) == 1:
            raise errors.Overloaded("first try")
        return {"results": pack_results(items)}


async def test_a_node_in_stock_amp_is_served_as_well() -> None:
    from twisted.internet import endpoints, reactor

    factory: Any = Factory.forProtocol(StockNode)
    factory.noisy, factory.seen = False, []
    port: Any = await endpoints.serverFromString(reactor, "tcp:0:interface=127.0.0.1").listen(
        factory
    )
    client = RaftClient(f"127.0.0.1:{port.getHost().port}", sessions=False)
    try:
        assert await client.write("echo") == "echo"
    finally:
        await client.close()
        await port.stopListening()
    assert len(factory.seen) == 2
