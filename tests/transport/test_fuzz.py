"""Hostile bytes against whole connections, in memory: no exception, no message, one end."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.testing import StringTransport

from raft.core import messages as m
from raft.core.configuration import Configuration, Member
from raft.sparing import BURST_LINES
from raft.transport import wire
from raft.transport.boxes import Box, BoxParser, encode_box
from raft.transport.connection import Counters
from raft.transport.greeting import Identity, encode_greeting
from raft.transport.incoming import Desk, Incoming

IDENTITY = Identity("cluster", "a", "i-a")
HELLO = encode_greeting(Identity("cluster", "b", "i-b"), "peer", "a", b"1")
VALID = [
    wire.encode(m.AppendEntries(3, 7, 2, m.Entries(8), 5, 1), b"records"),
    wire.encode(m.AppendEntriesResult(3, False, 7, 1, 9, 5, 2, 0.3)),
    wire.encode(
        m.InstallSnapshot(3, 7, 2, Configuration((Member("a"),)), 1, 4),
        b"",
        wire.SnapshotChunk.of(0, b"chunk", 5, b"meta"),
    ),
    wire.encode(m.RequestVote(3, 7, 2)),
    wire.encode(m.ReadIndexResult(3, 7, None)),
    wire.encode_fragment(m.AppendEntries(3, 7, 2, m.Entries(8), 5, 1), 0, b"piece"),
]


def connection(
    received: list[Any], counters: Counters | None = None
) -> tuple[Incoming, StringTransport]:
    desk = Desk(
        identity=lambda: IDENTITY,
        judge=lambda greeting: None,
        exclusion=lambda greeting: 0,
        greeted=lambda incoming: None,
        receive=lambda *parts: received.append(parts),
        contact=lambda sender, term: None,
        message_bytes=1 << 20,
    )
    incoming = Incoming(desk, counters or Counters())
    transport = StringTransport()
    incoming.makeConnection(transport)
    return incoming, transport


def boxes_of(data: bytes) -> Box:
    found: list[Box] = []
    BoxParser().feed(data, found.append)
    return found[0]


mutations = st.builds(
    lambda data, drop, change, value: encode_box(
        [
            (key, value if number == change else old)
            for number, (key, old) in enumerate(boxes_of(data).items())
            if number != drop
        ]
        or [(b"k", b"v")]
    ),
    st.sampled_from(VALID),
    st.integers(0, 14),
    st.integers(0, 14),
    st.one_of(
        st.binary(max_size=30),
        st.sampled_from([b"-1", b"9" * 30, b"nan", b"\x91" * 3000, b"True", b"\xff\xfe", b""]),
    ),
)


@settings(max_examples=150)
@given(st.booleans(), st.lists(mutations | st.binary(max_size=50) | st.sampled_from(VALID)))
def test_an_incoming_connection_survives_anything(greets: bool, parts: list[bytes]) -> None:
    """sc-N11, SECURITY 17: it ends, or delivers messages of the closed union, nothing else."""
    received: list[Any] = []
    incoming, transport = connection(received)
    for part in [HELLO, *parts] if greets else parts:
        if transport.disconnected:
            break
        incoming.dataReceived(part)
    if not greets:
        assert received == []
    for sender, message, records, _chunk in received:
        assert sender == "b"
        assert isinstance(message, m.Message)
        assert isinstance(records, bytes)
    assert incoming.counters.malformed == int(transport.disconnected)


def test_fragments_are_bounded_in_all() -> None:
    """sc-N10: a message that never ends costs no more than the limit."""
    incoming, transport = connection([])
    incoming.dataReceived(HELLO)
    message = m.AppendEntries(3, 7, 2, m.Entries(8), 5, 1)
    for number in range(8):
        incoming.dataReceived(wire.encode_fragment(message, number << 17, bytes(1 << 17)))
    assert not transport.disconnected
    incoming.dataReceived(wire.encode_fragment(message, 1 << 20, b"x"))
    assert transport.disconnected
    assert incoming.counters.malformed == 1


def test_fragments_in_crumbs_cost_no_more_than_their_bytes() -> None:
    """sc-N10: a piece of nothing, again and again, is not kept as one more piece."""
    incoming, transport = connection([])
    incoming.dataReceived(HELLO)
    message = m.AppendEntries(3, 7, 2, m.Entries(8), 5, 1)
    incoming.dataReceived(wire.encode_fragment(message, 0, b"x"))
    crumbs = wire.encode_fragment(message, 1, b"") * 1000
    tracemalloc.start()
    for _ in range(20):
        incoming.dataReceived(crumbs)
    grown_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert not transport.disconnected
    assert grown_bytes < 16384


def test_connections_that_are_malformed_at_any_rate_fill_no_log(logged_texts: list[str]) -> None:
    """sc-O7, SECURITY 38: a stranger's connections share a few lines; a member has its own."""
    counters = Counters()
    for _ in range(200):
        stranger, _ = connection([], counters)
        stranger.dataReceived(b"GET / HTTP/1.1\r\n\r\n")
    for _ in range(200):
        other = encode_greeting(Identity("other", "c", "i-c"), "peer", "a", b"1")
        stranger, _ = connection([], counters)
        stranger.dataReceived(other)
    member, _ = connection([], counters)
    member.dataReceived(HELLO + b"\xff\xff")
    assert counters.malformed == 201
    assert len(logged_texts) == 2 * BURST_LINES + 1
    assert "Closed the connection" in logged_texts[-1]
    assert counters.log.left_out_count == 2 * (200 - BURST_LINES)


@pytest.mark.parametrize("name", ["b\nforged", "b\x1b[31mred", "b\u2028x", "b\x00", "b\u202ex"])
def test_a_name_that_would_forge_log_lines_is_refused(name: str, logged_texts: list[str]) -> None:
    """SECURITY 38: neither newlines nor a terminal's commands get into a log, escaped at most."""
    for key in (b"server_id", b"incarnation", b"cluster_id", b"role", b"address"):
        counters = Counters()
        incoming, transport = connection([], counters)
        box = boxes_of(HELLO)
        incoming.dataReceived(encode_box([*{**box, key: name.encode()}.items()]))
        assert not incoming.is_greeted
        assert transport.disconnected
        assert counters.malformed == 1
    assert all(text.isprintable() for text in logged_texts)
    assert len(logged_texts) == 5


def test_fragments_that_begin_anew_drop_those_before() -> None:
    received: list[Any] = []
    incoming, _ = connection(received)
    older, newer = (m.AppendEntries(3, 7, 2, m.Entries(8), 5, sequence) for sequence in (1, 2))
    incoming.dataReceived(
        HELLO
        + wire.encode_fragment(older, 0, b"never finished")
        + wire.encode_fragment(newer, 0, b"new ")
        + wire.encode_append(newer, b"records", 4)
    )
    assert received == [("b", newer, b"new records", None)]


def test_nothing_of_a_chunk_is_believed_after_its_malformed_box() -> None:
    received: list[Any] = []
    incoming, transport = connection(received)
    bad = encode_box([(b"_command", b"TimeoutNow"), (b"term", b"x")])
    incoming.dataReceived(HELLO + VALID[0] + bad + VALID[3])
    assert len(received) == 1
    assert transport.disconnected
