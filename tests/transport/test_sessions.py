"""Sessions on the wire: a client's box in a session, and the questions about sessions."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import pytest_twisted
from twisted.internet import endpoints
from twisted.internet.defer import Deferred
from twisted.protocols import amp

from raft.errors import BadCommand, NotAppended, OutcomeUnknown
from raft.numbering import OpenedSession, SessionCall
from raft.transport import commands
from tests.transport.test_clients import place  # noqa: F401 -- A fixture.

encode = msgspec.msgpack.encode
SESSION = bytes(range(16))
NONCE = SESSION[8:]


@pytest_twisted.ensureDeferred
async def test_a_box_of_a_session_arrives_with_its_numbers(place: Any) -> None:  # noqa: F811
    here = await place()
    client = await here.dial()
    call = SessionCall(SESSION, 700, 698)
    assert await client.write_batch([encode(1), encode(2)], 1500, session=call) == [1, 2]
    written = await client.write_batch([encode(3)], 1500, True, call)
    assert (written, written.last_index) == ([3], 17)
    assert await client.write_batch([encode(4)], 1500) == [4]
    assert here.service.sessions == [call, call, None]


@pytest_twisted.ensureDeferred
async def test_sessions_are_opened_kept_and_closed(place: Any) -> None:  # noqa: F811
    here = await place()
    client = await here.dial()
    opened = await client.open_session(NONCE, 1500)
    assert opened == OpenedSession(bytes(8) + NONCE, 3600.0, 1000, 1 << 20)
    gone = bytes(16)
    assert await client.keep_sessions([SESSION, gone, SESSION], 200) == [True, False, True]
    assert await client.keep_sessions([], 200) == []
    assert await client.close_sessions([SESSION], 300) == [True]
    assert here.service.asked == [
        (NONCE, 1.5),
        ("keep", [SESSION, gone, SESSION], 0.2),
        ("keep", [], 0.2),
        ("close", [SESSION], 0.3),
    ]


@pytest_twisted.ensureDeferred
async def test_an_answer_about_other_sessions_makes_no_sense(place: Any) -> None:  # noqa: F811
    here = await place()
    client = await here.dial()
    for wrong in ([True], ["yes", "no"], True):
        here.service.keep_sessions = lambda _sessions, _seconds, found=wrong: found
        with pytest.raises(NotAppended):
            await client.keep_sessions([SESSION, SESSION], 1500)
    here.service.open_session = lambda _nonce, _seconds: OpenedSession(b"short", 1.0, 1, 1)
    with pytest.raises(NotAppended):
        await client.open_session(NONCE, 1500)
    assert await client.write_batch([encode(1)], 1500) == [1]


@pytest_twisted.ensureDeferred
async def test_orders_about_sessions_that_may_have_been_sent_are_unknown(
    place: Any,  # noqa: F811
    until: Any,
) -> None:
    """S1: they are entries of the log; a broken connection was told as "nothing was done"."""
    here = await place()
    client = await here.dial()
    held: list[Deferred[Any]] = []

    def hold(_: object, _seconds: float) -> Deferred[Any]:
        held.append(Deferred())
        return held[-1]

    here.service.open_session = here.service.keep_sessions = here.service.close_sessions = hold
    orders = [
        client.open_session(NONCE, 1500),
        client.keep_sessions([SESSION], 1500),
        client.close_sessions([SESSION], 1500),
    ]
    await until(lambda: len(held) == len(orders))
    client.abandon("this test ends it")
    for order in orders:
        with pytest.raises(OutcomeUnknown):
            await order
    for each in held:
        each.errback(NotAppended())


WRITE = {"commands": encode([encode(1)])}


@pytest.mark.parametrize(
    ("question", "arguments"),
    [
        (commands.Write, {**WRITE, "session": SESSION}),
        (commands.Write, {**WRITE, "session": SESSION, "first_sequence": 1}),
        (commands.Write, {**WRITE, "session": SESSION, "low_mark": 1}),
        (commands.Write, {**WRITE, "session": b"short", "first_sequence": 1, "low_mark": 1}),
        (commands.Write, {**WRITE, "session": SESSION, "first_sequence": -1, "low_mark": 1}),
        (commands.Write, {**WRITE, "session": SESSION, "first_sequence": 1, "low_mark": 1 << 63}),
        (commands.OpenSession, {"nonce": b"short"}),
        (commands.KeepSessions, {"sessions": b"\xc1"}),
        (commands.KeepSessions, {"sessions": encode([b"short"])}),
        (commands.KeepSessions, {"sessions": encode([SESSION] * 1001)}),
        (commands.CloseSessions, {"sessions": encode(7)}),
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_names_no_session_is_refused_and_the_connection_lives(
    place: Any,  # noqa: F811
    question: Any,
    arguments: Any,
) -> None:
    from twisted.internet import reactor

    here = await place()
    endpoint = endpoints.TCP4ClientEndpoint(reactor, "127.0.0.1", here.port.getHost().port)
    stock = await endpoints.connectProtocol(endpoint, amp.AMP())
    for _ in range(2):
        with pytest.raises(BadCommand):
            await stock.callRemote(question, **arguments)
    assert not here.service.batches
    assert not here.service.asked
    stock.transport.loseConnection()
