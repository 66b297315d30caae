"""Networks of servers over real loopback sockets."""

from __future__ import annotations

import random
import socket
from typing import Any

import pytest
import pytest_twisted
from attrs import evolve
from twisted.internet import endpoints, protocol
from twisted.internet.testing import StringTransport

from raft.core import messages as m
from raft.core.configuration import Configuration, Member
from raft.errors import BadConfiguration
from raft.lives import Lives
from raft.transport import wire
from raft.transport.boxes import Box, BoxParser, encode_box
from raft.transport.connection import Counters
from raft.transport.greeting import (
    Greeting,
    Identity,
    encode_answer,
    encode_greeting,
    objection,
    read_greeting,
)
from raft.transport.outgoing import FRAGMENT_BYTES, Backoff, Outgoing
from raft.transport.peers import PeerLimits

IDENTITY = Identity("cluster", "a", "i-a")
GREETING = Greeting(1, "cluster", "b", "i-b")


def append(sequence: int, prev_log_index: int = 7, term: int = 3) -> m.AppendEntries:
    return m.AppendEntries(term, prev_log_index, 2, m.Entries(prev_log_index + 1), 5, sequence)


EVERY_MESSAGE = [
    m.PreVote(4, 10, 3),
    m.PreVoteResult(4, True),
    m.RequestVote(4, 10, 3, True),
    m.RequestVoteResult(4, False),
    append(1),
    m.AppendEntriesResult(4, True, 10, 1, 12, promise_seconds=0.3),
    m.AppendEntriesResult(4, False, 10, 2, 5, 5, 3, 0.3, repairing=True),
    m.InstallSnapshotResult(4, 10, 2, True, 4096),
    m.TimeoutNow(4),
    m.ReadIndex(4, 77),
    m.ReadIndexResult(4, 77, 12),
    m.ReadIndexResult(4, 78, None),
]


# -- Between two networks ------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_every_message_arrives_with_its_sender(nodes: Any, until: Any) -> None:
    a, b = await nodes("a"), await nodes("b")
    await a.reach(b)
    await b.reach(a)
    for message in EVERY_MESSAGE:
        assert a.network.send("b", message)
    snapshot = m.InstallSnapshot(4, 9, 3, Configuration((Member("a"), Member("b"))), 8, 5, True)
    chunk = wire.SnapshotChunk.of(100, b"state", 105, b"meta")
    assert a.network.send("b", snapshot, chunk=chunk)
    assert a.network.send("b", append(2), b"r" * 200_000)
    assert b.network.send("a", m.TimeoutNow(9))
    await until(lambda: len(b.received) == len(EVERY_MESSAGE) + 2 and a.received)
    assert b.received == [
        *[("a", message, b"", None) for message in EVERY_MESSAGE],
        ("a", append(2), b"r" * 200_000, None),
        ("a", snapshot, b"", chunk),
    ]
    assert a.received == [("b", m.TimeoutNow(9), b"", None)]


@pytest_twisted.ensureDeferred
async def test_digests_are_sent_only_to_who_compares_them(nodes: Any, until: Any) -> None:
    """An older server would close the connection: what it does not know is no message to it."""
    a, b, older = await nodes("a", digests=1), await nodes("b", digests=1), await nodes("c")
    a.network.set_peers({"b": b.address, "c": older.address})
    await until(lambda: all(map(a.network.is_connected, "bc")))
    digest = wire.StateDigest(7, 1 << 40, asks=True)
    assert a.network.send_digest("b", digest)
    assert not a.network.send_digest("c", digest)
    assert not a.network.send_digest("nobody", digest)
    await until(lambda: b.compared)
    assert b.compared == [("a", digest)]
    assert not older.compared


@pytest_twisted.ensureDeferred
async def test_messages_of_one_turn_leave_in_one_write(nodes: Any, until: Any) -> None:
    a, b = await nodes("a"), await nodes("b")
    await a.reach(b)
    writes: list[bytes] = []
    (connection,) = a.network._outgoing
    original = connection._write
    connection._write = lambda data: (writes.append(data), original(data))
    for message in EVERY_MESSAGE:
        a.network.send("b", message)
    assert not writes
    a.network.flush()
    assert writes == [b"".join(map(wire.encode, EVERY_MESSAGE))]
    a.network.send("b", m.TimeoutNow(5))
    await until(lambda: len(b.received) == len(EVERY_MESSAGE) + 1)
    assert len(writes) == 2


@pytest_twisted.ensureDeferred
async def test_large_records_arrive_whole_and_each_fragment_is_contact(
    nodes: Any, until: Any
) -> None:
    """A2: a big message must not delay heartbeats: they pass between its fragments."""
    a, b = await nodes("a"), await nodes("b")
    await a.reach(b)
    records = random.Random(1).randbytes(4 << 20)
    assert a.network.send("b", append(1, 7), records)
    # This heartbeat builds on the records under way: alone it would be refused.
    assert a.network.send("b", append(2, 1007))
    assert a.network.send("b", m.ReadIndexResult(3, 5, 6))
    a.network.flush()
    assert a.network.send("b", append(3, 1007), b"next")
    await until(lambda: len(b.received) == 4)
    assert b.received[2:] == [
        ("a", append(1, 7), records, None),
        ("a", append(3, 1007), b"next", None),
    ]
    assert b.received[0] == ("a", append(2, 7), b"", None)
    assert b.contacts == [("a", 3)] * ((4 << 20) // FRAGMENT_BYTES - 1)
    whole = b.order.index(append(1, 7))
    assert b.order.index(m.ReadIndexResult(3, 5, 6)) < whole


@pytest_twisted.ensureDeferred
async def test_it_connects_again_after_the_listener_restarts(nodes: Any, until: Any) -> None:
    """sc-N4: back-off with jitter and a cap; the service hears of both ends."""
    a, b = await nodes("a"), await nodes("b")
    await a.reach(b)
    port = b.port.getHost().port
    await b.network.stop()
    await until(lambda: not a.network.is_connected("b"))
    assert not a.network.send("b", m.TimeoutNow(1))
    assert a.network.counters.dropped == 1
    again = await nodes("b2")
    await again.network.stop()
    again.network._stopped = False
    again.network.identity = b.network.identity
    await again.listen(port)
    await until(lambda: a.network.is_connected("b"))
    assert a.events == [("connected", "b"), ("disconnected", "b"), ("connected", "b")]
    assert a.network.send("b", m.TimeoutNow(2))
    await until(lambda: again.received)


@pytest_twisted.ensureDeferred
async def test_set_peers_adds_drops_and_follows_a_changed_address(nodes: Any, until: Any) -> None:
    """sc-N17, sc-M13: an address is mere data, dialled anew when it changes."""
    a, b, c = await nodes("a"), await nodes("b"), await nodes("c")
    moved = await nodes("b")
    a.network.set_peers({"a": a.address, "b": b.address, "c": c.address})
    await until(lambda: a.network.is_connected("b") and a.network.is_connected("c"))
    assert not a.network.is_connected("a")
    a.network.set_peers({"b": moved.address})
    assert not a.network.is_connected("c")
    await until(lambda: a.network.is_connected("b"))
    assert a.network.send("b", m.TimeoutNow(1))
    await until(lambda: moved.received)
    assert not b.received
    with pytest.raises(BadConfiguration, match="'nonsense' is no usable address"):
        a.network.set_peers({"b": "nonsense"})
    assert a.network.is_connected("b")


@pytest_twisted.ensureDeferred
async def test_a_name_that_does_not_resolve_is_tried_again(nodes: Any, until: Any) -> None:
    """sc-N17: no exception, no busy loop; the next address works."""
    a, b = await nodes("a"), await nodes("b")
    a.network.set_peers({"b": "unix:/nowhere/at/all"})
    (link,) = a.network._links.values()
    await until(lambda: link._backoff.failures >= 2)
    await a.reach(b)


@pytest_twisted.ensureDeferred
async def test_a_peer_that_dials_is_dialled_at_once(nodes: Any, until: Any) -> None:
    """sc-E25: a cluster that starts need not sit out its back-offs."""
    a = await nodes("a", evolve(LIMITS, redial_seconds=3600.0))
    b = await nodes("b")
    a.network.set_peers({"b": "unix:/nowhere/at/all"})
    (link,) = a.network._links.values()
    link._backoff.first_seconds = 3600.0
    await until(lambda: link._backoff.failures)
    link.address = b.address
    b.network.set_peers({"a": a.address})
    await until(lambda: a.network.is_connected("b"))


@pytest_twisted.ensureDeferred
async def test_a_new_connection_of_a_server_ends_its_old_one(nodes: Any, until: Any) -> None:
    """sc-N16: late bytes of an old connection never mix with the new one's."""
    b = await nodes("b")
    first, second = await nodes("a"), await nodes("a")
    await first.reach(b)
    (old,) = b.network._incoming
    await second.reach(b)
    await until(lambda: old.closed.called)
    assert not old.is_open
    first.network.set_peers({})


# -- The handshake -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("greeting", "expected", "why"),
    [
        (GREETING, "", None),
        (evolve(GREETING, cluster_id=""), "", None),
        (evolve(GREETING, target="a"), "", None),
        (GREETING, "b", None),
        (evolve(GREETING, version=2), "", "upgrade this server"),
        (evolve(GREETING, cluster_id="other"), "", "belongs to cluster other, this server to cl"),
        (evolve(GREETING, target="z"), "", "means to reach server z, this is a"),
        (evolve(GREETING, role="client"), "", "for peers, not for clients"),
        (evolve(GREETING, server_id=""), "", "no server id"),
        (evolve(GREETING, server_id="a"), "", "as this server does"),
        (GREETING, "c", "it is server b, not c"),
    ],
)
def test_a_greeting_is_judged_by_what_it_says(
    greeting: Greeting, expected: str, why: str | None
) -> None:
    """sc-N14, sc-N15: cluster, server, role and version, before anything else."""
    reason = objection(IDENTITY, greeting, "peer", expected)
    assert (reason is None) == (why is None)
    assert why is None or why in str(reason)


def test_a_server_without_a_cluster_may_be_greeted() -> None:
    assert objection(evolve(IDENTITY, cluster_id=""), GREETING, "peer") is None


@pytest.mark.parametrize(
    ("change", "objector"),
    [({"cluster_id": "other"}, ""), ({"server_id": "z"}, ""), ({}, "a"), ({}, "b")],
)
@pytest_twisted.ensureDeferred
async def test_a_server_that_does_not_belong_is_refused_and_counted(
    nodes: Any, until: Any, change: dict[str, str], objector: str
) -> None:
    """sc-N14: wrong cluster or server id, or wrong incarnation for `accept`: closed at hello.

    sc-M10.
    """
    a, b = await nodes("a"), await nodes("b")
    b.network.identity = evolve(b.network.identity, **change)
    if objector:
        {"a": a, "b": b}[objector].objection = "its incarnation is another one"
    a.network.set_peers({"b": b.address})
    await until(lambda: a.network.counters.refused)
    assert not a.network.is_connected("b")
    assert not a.network.send("b", m.TimeoutNow(1))
    assert a.events == b.events == []
    assert not b.received


@pytest_twisted.ensureDeferred
async def test_what_stands_is_closed_once_it_would_not_be_let_in_any_more(
    nodes: Any, until: Any
) -> None:
    """M7: in both directions: who belonged to no cluster yet has come to belong to another one."""
    a, b = await nodes("a", cluster_id=""), await nodes("b")
    await a.reach(b)
    await b.reach(a)
    a.network.review(lambda _: None)
    b.network.review(lambda greeting: "not you" if greeting.server_id == "c" else None)
    assert a.network.is_connected("b")
    assert not a.network.counters.refused + b.network.counters.refused
    a.network.identity = evolve(a.network.identity, cluster_id="another")
    a.network.review(lambda _: None)
    assert a.network.counters.refused == 2
    await until(lambda: not b.network.is_connected("a"))
    await until(lambda: ("disconnected", "b") in a.events)
    assert not a.network.is_connected("b")


class Raw(protocol.Protocol):
    """A socket that says what the test says."""

    def __init__(self) -> None:
        self.heard = b""
        self.lost = False

    def dataReceived(self, data: bytes) -> None:
        self.heard += data

    def connectionLost(self, reason: object = None) -> None:
        self.lost = True


async def connect_raw(node: Any) -> Raw:
    from twisted.internet import reactor

    port = node.port.getHost().port
    endpoint = endpoints.TCP4ClientEndpoint(reactor, "127.0.0.1", port)
    return await endpoints.connectProtocol(endpoint, Raw())


def hello(server_id: str = "x") -> bytes:
    return encode_greeting(evolve(IDENTITY, server_id=server_id), "peer", "b", b"1")


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
        encode_box([(b"_command", b"TimeoutNow"), (b"term", b"5")]),
        encode_box([(b"_command", b"Hello"), (b"_ask", b"1")]),
        encode_box([(b"%d" % number, b"") for number in range(65)]),
        encode_box([(b"_command", b"Hello"), (b"filler", b"x" * 5000)]),
        encode_greeting(Identity("cluster", "x\nforged", "i"), "peer", "b", b"1"),
        encode_greeting(Identity("cluster", "x" * 256, "i"), "peer", "b", b"1"),
        encode_greeting(IDENTITY, "peer", "b", b"1").replace(
            b"cluster\0", b"\xff\xff\xff\xff\xff\xff\xff\0"
        ),
        encode_greeting(evolve(IDENTITY, versions=(3, 2)), "peer", "b", b"1"),
        encode_greeting(evolve(IDENTITY, versions=(0, 2)), "peer", "b", b"1"),
        encode_greeting(evolve(IDENTITY, versions=(-1, 2)), "peer", "b", b"1"),
        encode_greeting(evolve(IDENTITY, lives=Lives(1, ("a", "b"))), "peer", "b", b"1"),
        encode_greeting(evolve(IDENTITY, lives=Lives(99, ("a",) * 17)), "peer", "b", b"1"),
        encode_greeting(evolve(IDENTITY, lives=Lives(-1, ("a",))), "peer", "b", b"1"),
        encode_greeting(evolve(IDENTITY, lives=Lives(2, ("a\nb",))), "peer", "b", b"1"),
        b"\0\0",
        hello() + b"\xff\xff",
        hello() + encode_box([(b"_command", b"Nonsense")]),
        hello() + encode_box([(b"_command", b"TimeoutNow")]),
        hello() + encode_box([(b"_command", b"TimeoutNow"), (b"term", b"-5")]),
        hello() + encode_box([(b"_command", b"TimeoutNow"), (b"term", b"5"), (b"_ask", b"1")]),
        hello() + encode_box([(b"%d" % number, b"") for number in range(300)]),
        hello() + wire.encode_fragment(append(1), 10, b"out of order"),
        hello()
        + wire.encode_fragment(append(1), 0, b"x")
        + wire.encode_fragment(append(2), 1, b"y"),
        hello() + wire.encode_append(append(1), b"rest", 10),
        hello() + wire.encode_fragment(append(1), 0, b"x") + wire.encode_append(append(2), b"", 1),
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_is_malformed_closes_its_connection_and_no_other(
    nodes: Any, until: Any, data: bytes
) -> None:
    """sc-N11: never a message, never an exception; other peers are unaffected."""
    a, b = await nodes("a"), await nodes("b")
    await a.reach(b)
    raw = await connect_raw(b)
    raw.transport.write(data)
    await until(lambda: raw.lost)
    assert b.network.counters.malformed == 1
    assert b.received == []
    a.network.send("b", m.TimeoutNow(1))
    await until(lambda: b.received)


@pytest_twisted.ensureDeferred
async def test_a_flood_before_the_handshake_is_cut_at_4_kib(nodes: Any, until: Any) -> None:
    """SECURITY 13: an unterminated box is refused as soon as it announces too much."""
    b = await nodes("b")
    raw = await connect_raw(b)
    raw.transport.write(b"\0\1k\x20\0" + b"x" * 100)
    await until(lambda: raw.lost)
    assert b.network.counters.malformed == 1


LIMITS = PeerLimits()
QUICK = PeerLimits(
    redial_seconds=0.1,
    handshake_seconds=0.1,
    box_seconds=0.1,
    stall_seconds=0.1,
    strangers=3,
)


@pytest_twisted.ensureDeferred
async def test_a_greeting_that_never_comes_closes_the_connection(nodes: Any, until: Any) -> None:
    """SECURITY 11: the handshake has a time limit."""
    b = await nodes("b", QUICK)
    raw = await connect_raw(b)
    await until(lambda: raw.lost)
    assert b.network.counters.stalled == 1


@pytest_twisted.ensureDeferred
async def test_a_message_that_never_ends_closes_the_connection(nodes: Any, until: Any) -> None:
    """SECURITY 15, sc-N9: a box has a time limit, however slowly it comes."""
    b = await nodes("b", QUICK)
    raw = await connect_raw(b)
    raw.transport.write(hello() + b"\0")
    await until(lambda: raw.lost)
    assert b.network.counters.stalled == 1
    assert raw.heard == encode_answer(b.network.identity, b"1")


@pytest_twisted.ensureDeferred
async def test_silent_strangers_do_not_keep_a_member_out(nodes: Any, until: Any) -> None:
    """SECURITY 12, sc-N19: the oldest stranger goes when one more arrives."""
    limits = evolve(QUICK, handshake_seconds=60.0)
    a, b = await nodes("a"), await nodes("b", limits)
    strangers = [await connect_raw(b) for _ in range(5)]
    await a.reach(b)
    await until(lambda: sum(each.lost for each in strangers) >= 2)
    assert strangers[0].lost
    assert sum(not each.is_greeted for each in b.network._incoming) <= 3
    for each in strangers:
        each.transport.abortConnection()


@pytest_twisted.ensureDeferred
async def test_who_fills_the_places_loses_them_first(nodes: Any) -> None:
    """SECURITY 12, sc-N19: one host's silent connections do not push out another's."""
    b = await nodes("b", evolve(QUICK, handshake_seconds=60.0))
    network = b.network

    def dial(host: str) -> Any:
        connection = network.admit(host)
        connection.makeConnection(StringTransport())
        return connection

    member = dial("10.0.0.1")
    crowd = [dial("10.6.6.6") for _ in range(50)]
    assert member.is_open
    assert [each.is_open for each in crowd] == [False] * 48 + [True] * 2
    member.dataReceived(hello("a"))
    assert member.is_greeted
    for each in (member, *crowd):
        each.connectionLost()


@pytest_twisted.ensureDeferred
async def test_servers_that_are_no_members_make_room_for_members(nodes: Any) -> None:
    """SECURITY 12, sc-N19: whoever greets under many names does not keep a member out."""
    b = await nodes("b", evolve(QUICK, connections=4))
    network = b.network
    network._is_member = {"m1", "m2", "m3", "m4", "m5"}.__contains__
    made: dict[str, Any] = {}
    for name in ("x1", "m1", "x2", "m2", "m3", "m4"):
        made[name] = network.admit("10.0.0.1")
        made[name].makeConnection(StringTransport())
        made[name].dataReceived(hello(name))
    assert [name for name, each in made.items() if each.is_open] == ["m1", "m2", "m3", "m4"]
    assert network.admit("10.0.0.1") is None
    assert network.counters.refused == 3
    for each in made.values():
        each.connectionLost()


@pytest_twisted.ensureDeferred
async def test_a_peer_that_never_reads_costs_a_bounded_queue_and_is_given_up(
    nodes: Any, until: Any
) -> None:
    """SECURITY 16, sc-N8: messages are dropped past the bound, then the connection."""
    from twisted.internet import reactor

    class Deaf(protocol.Protocol):
        def dataReceived(self, data: bytes) -> None:
            self.transport.write(encode_answer(Identity("cluster", "b", "i-b"), b"1"))
            self.transport.pauseProducing()

    deaf = endpoints.TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
    made: list[Any] = []

    class Deafs(protocol.Factory):
        noisy = False

        def buildProtocol(self, addr: object) -> Deaf:
            made.append(Deaf())
            return made[-1]

    port = await deaf.listen(Deafs())
    limits = evolve(QUICK, queue_bytes=4 << 20, handshake_seconds=5.0)
    a = await nodes("a", limits)
    a.network.set_peers({"b": f"127.0.0.1:{port.getHost().port}"})
    await until(lambda: a.network.is_connected("b"))
    (connection,) = a.network._outgoing
    sent = 0
    while a.network.send("b", append(sent), bytes(1 << 20)):
        a.network.flush()
        sent += 1
        assert sent < 100
    assert connection.queued_bytes <= 4 << 20
    assert a.network.counters.dropped == 1
    await until(lambda: ("disconnected", "b") in a.events)
    assert a.network.counters.stalled == 1
    a.network.set_peers({})
    for each in made:
        each.transport.abortConnection()
    await port.stopListening()


# -- One connection, without sockets -------------------------------------------------------


class Wide(StringTransport):
    """A transport that takes only one write, then pauses its producer."""

    def write(self, data: bytes) -> None:
        super().write(data)
        if len(data) > 1000:
            self.producer.pauseProducing()


def outgoing(transport: StringTransport, queue_bytes: int = 1 << 30) -> Outgoing:
    connection = Outgoing(
        "b",
        lambda: IDENTITY,
        lambda greeting: None,
        lambda: None,
        lambda: None,
        Counters(),
        queue_bytes,
    )
    connection.makeConnection(transport)
    transport.clear()
    connection.dataReceived(encode_answer(Identity("cluster", "b", "i-b"), b"1"))
    return connection


def written(transport: StringTransport) -> list[Box]:
    found: list[Box] = []
    BoxParser().feed(transport.value(), found.append)
    transport.clear()
    return found


def test_a_heartbeat_waits_for_one_fragment_at_most() -> None:
    """A2, sc-N18: between two fragments all that waits is sent first."""
    transport = Wide()
    connection = outgoing(transport)
    assert connection.send(append(1), bytes(4 << 20), None)
    connection.flush()
    assert [box[b"_command"] for box in written(transport)] == [b"AppendFragment"]
    assert connection.send(append(2), b"", None)
    connection.flush()
    assert written(transport) == []
    connection.resumeProducing()
    assert [box[b"_command"] for box in written(transport)] == [b"AppendEntries", b"AppendFragment"]


def test_a_heartbeat_waits_for_one_chunk_of_a_snapshot_at_most() -> None:
    """sc-N18: a snapshot in flight must not starve heartbeats."""
    transport = Wide()
    connection = outgoing(transport)
    snapshot = m.InstallSnapshot(3, 9, 3, Configuration(), 1, 5)
    for number in range(4):
        chunk = wire.SnapshotChunk.of(number * 200_000, bytes(200_000))
        assert connection.send(snapshot, b"", chunk)
    connection.flush()
    assert [box[b"offset_bytes"] for box in written(transport)] == [b"0"]
    assert connection.send(append(2), b"", None)
    connection.resumeProducing()
    assert [box[b"_command"] for box in written(transport)] == [
        b"AppendEntries",
        b"InstallSnapshot",
    ]
    connection.resumeProducing()
    connection.resumeProducing()
    assert [box[b"offset_bytes"] for box in written(transport)] == [b"400000", b"600000"]


def test_records_of_an_older_term_make_way_for_a_newer_one() -> None:
    transport = Wide()
    connection = outgoing(transport)
    connection.send(append(1, term=3), bytes(4 << 20), None)
    connection.send(append(1, term=4), b"new", None)
    connection.flush()
    (box,) = written(transport)
    assert (box[b"_command"], box[b"term"]) == (b"AppendEntries", b"4")


def test_the_bound_of_the_queue_counts_what_waits_in_fragments() -> None:
    connection = outgoing(Wide(), queue_bytes=5 << 20)
    assert connection.send(append(1), bytes(4 << 20), None)
    assert not connection.send(append(2), bytes(2 << 20), None)
    assert connection.send(append(3), b"", None)
    # A newer term drops the older one's records, and with them what they took.
    assert connection.send(append(1, term=4), b"", None)
    assert connection.send(append(2, term=4), bytes(4 << 20), None)
    snapshot, chunk = m.InstallSnapshot(4, 9, 3, Configuration(), 1, 5), bytes(900_000)
    assert connection.send(snapshot, b"", wire.SnapshotChunk.of(0, chunk))
    assert not connection.send(snapshot, b"", wire.SnapshotChunk.of(0, chunk))


def test_waits_between_dials_grow_are_jittered_and_capped() -> None:
    """sc-N4."""
    backoff = Backoff(random.Random(1), most_seconds=1.0)
    waits = [backoff.next() for _ in range(30)]
    assert waits[0] <= 0.05
    assert all(0.5 <= wait <= 1.0 for wait in waits[10:])
    assert len(set(waits)) == 30


@pytest_twisted.ensureDeferred
async def test_sockets_get_no_delay_keep_alive_and_a_time_limit(nodes: Any, until: Any) -> None:
    """sc-N7: what the kernel must do about a peer that lost its power."""
    a, b = await nodes("a"), await nodes("b")
    await a.reach(b)
    (connection,) = a.network._outgoing
    assert connection.transport.getTcpNoDelay()
    assert connection.transport.getTcpKeepAlive()
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        handle = connection.transport.getHandle()
        assert handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 2000


@pytest_twisted.ensureDeferred
async def test_records_past_the_limit_are_refused_by_name(nodes: Any, until: Any) -> None:
    a, b = await nodes("a", evolve(QUICK, message_bytes=1000)), await nodes("b")
    await a.reach(b)
    with pytest.raises(BadConfiguration, match="message_bytes"):
        a.network.send("b", append(1), bytes(1001))


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        ("c", "c+1", "this server's cluster c was recovered as c+1 without it"),
        ("c+1", "c", "its cluster c was recovered as c+1 without it"),
        ("c+1", "c+2", "cluster c was recovered as c+1 and as c+2"),
        ("c+1", "d+1", "it belongs to cluster d+1, this server to c+1"),
        ("c+1", "c+1", None),
        ("c+1", "", None),
    ],
)
def test_members_from_before_a_recovery_are_refused_in_both_directions(
    ours: str, theirs: str, said: str | None
) -> None:
    """M7, M9: they had votes and entries that the recovered cluster knows nothing of."""
    greeting = Greeting(1, theirs, "b", "i-b")
    found = objection(evolve(IDENTITY, cluster_id=ours), greeting, "peer")
    assert found is None if said is None else str(found).startswith(said)


def test_an_answer_may_name_any_index_that_a_log_can_have() -> None:
    """M6: who was removed after very many entries is told, too."""
    index = (1 << 63) - 1
    boxes: list[Box] = []
    BoxParser().feed(encode_answer(IDENTITY, b"1", index), boxes.append)
    (box,) = boxes
    assert read_greeting(box).excluded_index == index
