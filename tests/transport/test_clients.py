"""Clients and the listener that serves them, over real loopback sockets."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_twisted
from attrs import evolve
from twisted.internet import endpoints, protocol
from twisted.internet.defer import CancelledError, Deferred
from zope.interface import implementer
from zope.interface.verify import verifyObject

from raft import errors
from raft.core.configuration import Member
from raft.interfaces import IClientService, ReadTerms, Stated
from raft.numbering import OpenedSession, SessionCall
from raft.transport import calls, commands
from raft.transport.arguments import (
    pack_commands,
    pack_members,
    pack_plain,
    pack_results,
    unpack_plain,
)
from raft.transport.boxes import Box, BoxParser, encode_box
from raft.transport.calls import ClientConnection
from raft.transport.clients import ClientLimits, ClientListener
from raft.transport.dialling import dial
from raft.transport.peers import Identity

encode = msgspec.msgpack.encode


@implementer(IClientService)
class Echo:
    """Answers writes with themselves, at once or when the test says so."""

    def __init__(self) -> None:
        self.batches: list[tuple[list[bytes], float]] = []
        self.sessions: list[SessionCall | None] = []
        self.reads: list[tuple[list[bytes], float, ReadTerms]] = []
        self.age_seconds = 0.0421
        self.held: list[Callable[[Any], None]] | None = None
        self.asked: list[tuple[Any, ...]] = []
        self.raises: Exception | None = None

    def write_batch(
        self,
        commands: list[bytes],
        timeout_seconds: float,
        answer: Any,
        with_index: bool = False,
        session: SessionCall | None = None,
    ) -> None:
        self.batches.append((commands, timeout_seconds))
        self.sessions.append(session)
        if self.raises is not None:
            raise self.raises
        if self.held is not None:
            self.held.append(answer)
            return
        packed = pack_results(commands)
        answer(Stated(packed, 17) if with_index else packed)

    def read_batch(
        self, queries: list[bytes], timeout_seconds: float, terms: ReadTerms, answer: Any
    ) -> None:
        self.reads.append((queries, timeout_seconds, terms))
        if terms.is_local:
            answer(Stated(pack_results(queries), 12, self.age_seconds))
            return
        answer(pack_results([queries[0], *(errors.CommandError("no", "n/a") for _ in queries[1:])]))

    def open_session(self, nonce: bytes, timeout_seconds: float) -> object:
        self.asked.append((nonce, timeout_seconds))
        return OpenedSession(bytes(8) + nonce, 3600.0, 1000, 1 << 20)

    def keep_sessions(self, sessions: list[bytes], timeout_seconds: float) -> object:
        self.asked.append(("keep", sessions, timeout_seconds))
        return [each != bytes(16) for each in sessions]

    def close_sessions(self, sessions: list[bytes], timeout_seconds: float) -> object:
        self.asked.append(("close", sessions, timeout_seconds))
        return [True for _ in sessions]

    def status(self) -> object:
        if self.raises is not None:
            raise self.raises
        return {"role": "leader", "term": 3}

    def leader(self) -> object:
        return ("a", "127.0.0.1:1")

    def set_configuration(
        self,
        members: tuple[Member, ...],
        timeout_seconds: float,
        replace: bool = False,
        expected_index: int | None = None,
        force: bool = False,
    ) -> object:
        self.asked.append((members, timeout_seconds, replace, expected_index, force))
        later: Deferred[None] = Deferred()
        from twisted.internet import reactor

        reactor.callLater(0, later.callback, None)
        return later

    def get_entry(self, index: int) -> object:
        raise errors.NotFound(f"no entry {index}")

    def transfer_leadership(self, target: str | None, timeout_seconds: float) -> object:
        self.asked.append((target, timeout_seconds))
        return "b"


class Place:
    """A listener, its service and the connections dialled to it."""

    def __init__(self, limits: ClientLimits | None) -> None:
        from twisted.internet import reactor

        self.service = Echo()
        identity = Identity("cluster", "a", "i-a")
        self.listener = ClientListener(reactor, identity, self.service, limits)
        self.dialled: list[ClientConnection] = []
        self.port: Any = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port.getHost().port}"

    async def dial(self, cluster_id: str = "") -> ClientConnection:
        from twisted.internet import reactor

        self.dialled.append(await dial(reactor, self.address, 5.0, cluster_id))
        return self.dialled[-1]

    async def connect(self, made: protocol.Protocol) -> Any:
        from twisted.internet import reactor

        endpoint = endpoints.TCP4ClientEndpoint(reactor, "127.0.0.1", self.port.getHost().port)
        return await endpoints.connectProtocol(endpoint, made)


@pytest_twisted.async_yield_fixture
async def place() -> AsyncIterator[Callable[..., Any]]:
    """Make listening places."""
    made: list[Place] = []

    async def make(limits: ClientLimits | None = None) -> Place:
        made.append(Place(limits))
        made[-1].port = await made[-1].listener.listen("tcp:0:interface=127.0.0.1")
        return made[-1]

    yield make
    for each in made:
        for connection in each.dialled:
            connection.close()
        await each.listener.stop()


def test_the_fake_keeps_the_contract() -> None:
    verifyObject(IClientService, Echo())


# -- Batches -------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_batch_is_one_call_and_one_answer_in_order(place: Any) -> None:
    here = await place()
    client = await here.dial("cluster")
    values = [None, 7, "seven", [1, {"a": b"b"}], b"x" * 100_000]
    results = await client.write_batch([encode(value) for value in values], 1500)
    assert results == values
    assert here.service.batches == [([encode(value) for value in values], 1.5)]
    assert client.outstanding == 0
    assert client.greeting.server_id == "a"


@pytest_twisted.ensureDeferred
async def test_errors_of_single_items_come_beside_the_results(place: Any) -> None:
    here = await place()
    client = await here.dial()
    good, bad = await client.read_batch([encode(1), encode(2)], 100)
    assert good == 1
    assert isinstance(bad, errors.CommandError)
    assert (bad.reason, bad.detail) == ("no", "n/a")
    assert here.service.reads == [([encode(1), encode(2)], 0.1, ReadTerms())]


@pytest_twisted.ensureDeferred
async def test_what_a_read_asks_of_its_state_arrives_and_its_state_comes_back(place: Any) -> None:
    """R10: the index and the age of a local read, the index of a write."""
    here = await place()
    client = await here.dial()
    terms = ReadTerms("bounded", 7, 1.5)
    results = await client.read_batch([encode(1)], 100, terms)
    assert (results, results.last_index, results.age_seconds) == ([1], 12, 0.043)
    here.service.age_seconds = math.inf
    results = await client.read_batch([encode(1)], 100, ReadTerms("local"))
    assert (results.last_index, results.age_seconds) == (12, math.inf)
    assert [each[2] for each in here.service.reads] == [terms, ReadTerms("local")]
    written = await client.write_batch([encode(1)], 100, with_index=True)
    assert (written, written.last_index) == ([1], 17)
    assert (await client.write_batch([encode(1)], 100)).last_index == 0


@pytest_twisted.ensureDeferred
async def test_questions_and_answers_of_one_turn_are_one_write_each(place: Any) -> None:
    here = await place()
    client = await here.dial()
    (server,) = here.listener._connections
    writes: dict[str, list[bytes]] = {"client": [], "server": []}
    for name, connection in (("client", client), ("server", server)):
        original = connection._write
        connection._write = lambda data, n=name, o=original: (writes[n].append(data), o(data))
    waits = [client.write_batch([encode(number)], 1000) for number in range(50)]
    assert [await wait for wait in waits] == [[number] for number in range(50)]
    assert len(writes["client"]) == 1
    assert len(writes["server"]) == 1


@pytest_twisted.ensureDeferred
async def test_a_batch_of_one_large_command_spreads_over_keys(place: Any) -> None:
    here = await place()
    client = await here.dial()
    value = b"v" * (4_000_000)
    assert await client.write_batch([encode(value)], 5000) == [value]
    with pytest.raises(errors.CommandTooLarge):
        await client.write_batch([bytes(5 << 20)], 1000)


@pytest_twisted.ensureDeferred
async def test_the_error_of_a_whole_batch_keeps_its_facts(place: Any) -> None:
    here = await place()
    client = await here.dial()
    here.service.raises = errors.NotLeader("c", "10.0.0.3:7001")
    with pytest.raises(errors.NotLeader) as caught:
        await client.write_batch([encode(1)], 1000)
    assert (caught.value.leader, caught.value.address) == ("c", "10.0.0.3:7001")


@pytest_twisted.ensureDeferred
async def test_the_text_of_an_unforeseen_exception_stays_here(
    place: Any, logged_errors: Any
) -> None:
    """{Exception: b"ERROR"} never leaks text."""
    here = await place()
    client = await here.dial()
    here.service.raises = ZeroDivisionError("secret")
    for wait in (client.write_batch([encode(1)], 1000), client.call(commands.Status)):
        with pytest.raises(errors.RaftError) as caught:
            await wait
        assert type(caught.value) is errors.RaftError
        assert "secret" not in str(caught.value)
    assert len(logged_errors.flush(ZeroDivisionError)) == 2


# -- Rare questions ------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_every_question_is_answered_by_its_declaration(place: Any) -> None:
    here = await place()
    client = await here.dial()
    status = await client.call(commands.Status)
    assert unpack_plain(status["status"]) == {"role": "leader", "term": 3}
    assert await client.call(commands.Leader) == {"leader": "a", "address": "127.0.0.1:1"}
    members = (Member("a", "", "p", "c"), Member("b", voter=False))
    packed = pack_members(members)
    assert await client.call(commands.SetConfiguration, members=packed, timeout_ms=900) == {}
    options = {"replace": True, "expected_index": 7, "force": True}
    assert await client.call(commands.SetConfiguration, members=packed, **options) == {}
    assert await client.call(commands.TransferLeadership, target="") == {"leader": "b"}
    assert here.service.asked == [
        (members, 0.9, False, None, False),
        (members, 3.0, True, 7, True),
        (None, 3.0),
    ]
    with pytest.raises(errors.NotFound, match="no entry 12"):
        await client.call(commands.GetEntry, index=12)


@pytest.mark.parametrize(
    ("command", "fields"),
    [
        (b"Write", {}),
        (b"Write", {b"commands": b"\xc1"}),
        (b"Write", {b"commands": pack_plain([1])}),
        (b"Write", {b"commands": pack_commands([b"x"]), b"timeout_ms": b"-1"}),
        (b"Write", {b"commands": pack_commands([b"x"]), b"timeout_ms": b"9" * 9}),
        (b"Read", {b"queries": b"\x91" * 2000}),
        (b"Read", {b"queries": b"\x90", b"consistency": b"sloppy"}),
        (b"Read", {b"queries": b"\x90", b"consistency": b"bounded"}),
        (b"Read", {b"queries": b"\x90", b"min_index": b"-1"}),
        (b"Read", {b"queries": b"\x90", b"min_index": b"9" * 19}),
        (b"Read", {b"queries": b"\x90", b"consistency": b"bounded", b"max_age_ms": b"1.5"}),
        (b"GetEntry", {}),
        (b"GetEntry", {b"index": b"x"}),
        (b"SetConfiguration", {b"members": pack_plain([{"voter": True}])}),
        (b"TransferLeadership", {b"target": b"\xff"}),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_question_with_wrong_arguments_is_answered_bad_command(
    place: Any, until: Any, command: bytes, fields: dict[bytes, bytes]
) -> None:
    """sc-N11: the connection stays usable, the service hears nothing."""
    here = await place()
    raw = await here.connect(Raw())
    raw.transport.write(encode_box([(b"_ask", b"1"), (b"_command", command), *fields.items()]))
    await until(lambda: raw.boxes)
    assert raw.boxes[0][b"_error"] == b"1"
    assert raw.boxes[0][b"_error_code"] == b"BAD_COMMAND"
    assert here.service.batches == here.service.reads == here.service.asked == []
    raw.transport.loseConnection()


class Raw(protocol.Protocol):
    """A socket that collects boxes."""

    def __init__(self) -> None:
        self.boxes: list[Box] = []
        self.lost = False
        self.parser = BoxParser(1 << 24)

    def dataReceived(self, data: bytes) -> None:
        self.parser.feed(data, self.boxes.append)

    def connectionLost(self, reason: object = None) -> None:
        self.lost = True


@pytest_twisted.ensureDeferred
async def test_an_unknown_question_is_answered_as_stock_amp_does(place: Any, until: Any) -> None:
    """sc-U3."""
    here = await place()
    raw = await here.connect(Raw())
    raw.transport.write(encode_box([(b"_ask", b"q"), (b"_command", b"Dance")]))
    await until(lambda: raw.boxes)
    assert raw.boxes[0][b"_error_code"] == b"UNHANDLED"
    assert not raw.lost
    raw.transport.loseConnection()


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\0\0",
        encode_box([(b"_command", b"Status")]),
        encode_box([(b"_answer", b"1")]),
        encode_box([(b"_command", b"Status"), (b"_ask", b"x" * 65)]),
        encode_box([(b"%d" % number, b"") for number in range(300)]),
        encode_box([(b"%d" % number, bytes(65000)) for number in range(70)]),
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_is_no_question_closes_the_connection(
    place: Any, until: Any, data: bytes
) -> None:
    """sc-N10, sc-N11: closed at the bound, counted; other clients are unaffected."""
    here = await place()
    client = await here.dial()
    raw = await here.connect(Raw())
    raw.transport.write(data)
    await until(lambda: raw.lost)
    assert here.listener.counters.malformed == 1
    assert await client.write_batch([encode(1)], 1000) == [1]


# -- Bounds --------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_client_in_front_of_its_answers_is_not_read_from(place: Any, until: Any) -> None:
    """In-flight boxes are bounded: reading pauses and goes on with the answers."""
    here = await place(ClientLimits(in_flight=4))
    client = await here.dial()
    (server,) = here.listener._connections
    here.service.held = []
    waits = []
    for number in range(4):
        waits.append(client.write_batch([encode(number)], 5000))
    await until(lambda: len(here.service.batches) == 4)
    assert not server._is_reading
    waits.append(client.write_batch([encode(4)], 5000))
    client.flush()
    held, here.service.held = here.service.held, None
    held.pop(0)(pack_results([encode(0)]))
    await until(lambda: len(here.service.batches) == 5)
    for number, answer in enumerate(held, 1):
        answer(pack_results([encode(number)]))
        answer(pack_results([encode("a second answer does nothing")]))
    assert [await wait for wait in waits] == [[number] for number in range(5)]
    assert (server._in_flight, server._in_flight_bytes) == (0, 0)


@pytest_twisted.ensureDeferred
async def test_a_client_that_never_reads_is_cut_at_its_queue(place: Any, until: Any) -> None:
    """SECURITY 16, sc-N8: bounded memory for answers nobody takes; others go on."""
    here = await place(ClientLimits(queue_bytes=1 << 20))
    client = await here.dial()
    raw = await here.connect(Raw())
    raw.transport.pauseProducing()
    here.service.held = []
    for number in range(30):
        raw.transport.write(
            encode_box(
                [(b"_ask", b"%d" % number), (b"_command", b"Write"), (b"commands", b"\x91\xc4\1\1")]
            )
        )
    await until(lambda: len(here.service.batches) == 30)
    held, here.service.held = here.service.held, None
    for answer in held:
        answer(pack_results([encode(bytes(1 << 20))]))
        here.listener.flush()
    await until(lambda: here.listener.counters.stalled == 1)
    assert await client.write_batch([encode(1)], 1000) == [1]
    raw.transport.abortConnection()


@pytest_twisted.ensureDeferred
async def test_connections_are_bounded_and_silent_ones_go_first(place: Any, until: Any) -> None:
    """SECURITY 12, sc-N19: a silent connection never keeps a talking one out."""
    here = await place(ClientLimits(connections=2))
    talking = await here.dial()
    silent = await here.connect(Raw())
    other = await here.dial()
    await until(lambda: silent.lost)
    with pytest.raises(errors.NotAppended):
        await here.dial()
    assert here.listener.connection_count == 2
    assert await talking.write_batch([encode(1)], 1000) == [1]
    assert await other.write_batch([encode(2)], 1000) == [2]


@pytest_twisted.ensureDeferred
async def test_connections_of_one_address_are_bounded(place: Any, until: Any) -> None:
    here = await place(ClientLimits(connections_of_address=1))
    await here.dial()
    with pytest.raises(errors.NotAppended):
        await here.dial()
    here.dialled[0].close()
    await until(lambda: not here.listener.connection_count)
    await here.dial()


@pytest.mark.parametrize("data", [b"", b"\0\6_comma"])
@pytest_twisted.ensureDeferred
async def test_a_client_that_asks_nothing_in_time_is_closed(
    place: Any, until: Any, data: bytes
) -> None:
    """SECURITY 11, 15."""
    here = await place(ClientLimits(first_seconds=0.1))
    raw = await here.connect(Raw())
    raw.transport.write(data)
    await until(lambda: raw.lost)
    assert here.listener.counters.stalled == 1


@pytest_twisted.ensureDeferred
async def test_a_unix_socket_serves_as_well(tmp_path: Path) -> None:
    from twisted.internet import reactor

    listener = ClientListener(reactor, Identity("cluster", "a", "i-a"), Echo())
    await listener.listen(f"unix:{tmp_path}/node")
    client = await dial(reactor, f"unix:{tmp_path}/node")
    assert await client.write_batch([encode(1)], 1000) == [1]
    client.close()
    await client.lost
    await listener.stop()


# -- The client's side ---------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_node_of_another_cluster_refuses(place: Any) -> None:
    """sc-N14."""
    here = await place()
    with pytest.raises(errors.PeerRefused, match="cluster"):
        await here.dial("other")
    here.listener.identity = evolve(here.listener.identity, cluster_id="")
    assert (await here.dial("other")).greeting.cluster_id == ""


@pytest_twisted.ensureDeferred
async def test_what_cannot_be_reached_is_not_appended(place: Any) -> None:
    from twisted.internet import reactor

    here = await place()
    address = here.address
    await here.listener.stop()
    with pytest.raises(errors.NotAppended, match="cannot be reached"):
        await dial(reactor, address)


@pytest_twisted.ensureDeferred
async def test_a_node_that_accepts_and_says_nothing_is_given_up(place: Any) -> None:
    from twisted.internet import reactor

    silent = protocol.Factory.forProtocol(protocol.Protocol)
    silent.noisy = False
    port = await endpoints.TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(silent)
    with pytest.raises(errors.NotAppended, match="did not answer"):
        await dial(reactor, f"127.0.0.1:{port.getHost().port}", 0.1)
    await port.stopListening()


@pytest_twisted.ensureDeferred
async def test_a_broken_connection_tells_sent_writes_from_unsent(place: Any, until: Any) -> None:
    """The table of outcomes: unknown once it may have been sent, else definitely not applied."""
    here = await place()
    here.service.held = []
    client = await here.dial()
    sent = client.write_batch([encode(1)], 5000)
    asked = client.call(commands.GetEntry, index=1)
    await until(lambda: here.service.batches)
    with pytest.raises(errors.NotFound):
        await asked
    here.service.raises = None
    (server,) = here.listener._connections
    unsent = client.write_batch([encode(2)], 5000)
    client.abandon("this test ends it")
    with pytest.raises(errors.OutcomeUnknown):
        await sent
    with pytest.raises(errors.NotAppended):
        await unsent
    assert "lost" in await client.lost
    assert not client.connected
    with pytest.raises(errors.NotAppended, match="closed"):
        await client.write_batch([encode(3)], 5000)
    await until(lambda: server.closed.called)
    here.service.held[0](pack_results([encode(1)]))


@pytest_twisted.ensureDeferred
async def test_a_time_out_leaves_nothing_behind(place: Any, monkeypatch: Any) -> None:
    """A3: callRemote has no time limit; these calls have one, and forget."""
    monkeypatch.setattr(calls, "GRACE_SECONDS", 0.01)
    here = await place()
    here.service.held = []
    client = await here.dial()
    with pytest.raises(errors.Timeout) as caught:
        await client.write_batch([encode(1)], 10)
    assert caught.value.appended
    assert client.outstanding == 0
    here.service.held.pop()(pack_results([encode(1)]))
    here.service.held = None
    assert await client.write_batch([encode(2)], 1000) == [2]
    # The deadline may have passed before the question is asked.
    with pytest.raises(errors.Timeout):
        await client.call(commands.Leader, timeout_seconds=-0.1)


@pytest_twisted.ensureDeferred
async def test_what_a_node_does_not_take_in_time_may_still_reach_it(
    place: Any, until: Any, monkeypatch: Any
) -> None:
    """A3: the time-out said "definitely not applied", and the box left when the node read again."""
    monkeypatch.setattr(calls, "GRACE_SECONDS", 0.01)
    here = await place()
    client = await here.dial()
    client.pauseProducing()
    with pytest.raises(errors.Timeout) as caught:
        await client.write_batch([encode(1)], 10)
    client.resumeProducing()
    await until(lambda: here.service.batches)
    assert caught.value.appended


@pytest_twisted.ensureDeferred
async def test_a_cancelled_question_is_forgotten(place: Any) -> None:
    """sc-Q6."""
    here = await place()
    here.service.held = []
    client = await here.dial()
    wait = client.write_batch([encode(1)], 1000)
    wait.cancel()
    with pytest.raises(CancelledError):
        await wait
    assert client.outstanding == 0


@pytest.mark.parametrize("answer", [b"\xc1", pack_plain([1]), pack_plain([]), None])
@pytest_twisted.ensureDeferred
async def test_an_answer_that_makes_no_sense_is_an_unknown_outcome(
    place: Any, until: Any, answer: bytes | None
) -> None:
    here = await place()
    here.service.held = []
    client = await here.dial()
    wait = client.write_batch([encode(1)], 1000)
    await until(lambda: here.service.held)
    if answer is None:
        (server,) = here.listener._connections
        server.post(encode_box([(b"_answer", b"2"), (b"other", b"")]))
        server.flush()
    else:
        here.service.held[0](answer)
    with pytest.raises(errors.OutcomeUnknown, match="makes no sense"):
        await wait
    await client.lost


@pytest_twisted.ensureDeferred
async def test_stop_writes_what_was_answered_and_fires_when_all_is_closed(
    place: Any, until: Any
) -> None:
    here = await place()
    here.service.held = []
    client = await here.dial()
    answered, never = client.write_batch([encode(1)], 5000), client.write_batch([encode(2)], 5000)
    await until(lambda: len(here.service.held) == 2)
    here.service.held[0](pack_results([encode(1)]))
    await here.listener.stop()
    assert await answered == [1]
    with pytest.raises(errors.OutcomeUnknown):
        await never
    assert here.listener.connection_count == 0
