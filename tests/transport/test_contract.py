"""The contract stands still: the documentation, the declarations and golden bytes agree."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from attrs import evolve
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.protocols import amp

from raft.core import messages as m
from raft.core.configuration import Configuration, Member
from raft.lives import Lives
from raft.numbering import SessionCall
from raft.transport import boxes, commands, incoming, outgoing, wire
from raft.transport.calls import ClientConnection
from raft.transport.clients import ClientLimits
from raft.transport.greeting import Identity, encode_answer, encode_greeting
from raft.transport.peers import PeerLimits

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "reference" / "wire.md"
GOLDEN = HERE / "golden_boxes.txt"
APPEND = m.AppendEntries(3, 7, 2, m.Entries(8), 6, 41)
IDENTITY = Identity("cluster", "a", "i-a", "tcp:10.0.0.1:7000")
VERSIONED = evolve(IDENTITY, versions=(2, 3))
STARTED = evolve(IDENTITY, lives=Lives(17, ("0123abcd", "ef456789")))

SESSION = bytes(range(16))


def asked(ask: Callable[[ClientConnection], object]) -> bytes:
    """Return the box with which a client asks."""
    connection, transport = ClientConnection(Clock()), StringTransport()
    connection.makeConnection(transport)
    ask(connection)
    connection.flush()
    return transport.value()


BOXES = {
    "Write": asked(lambda client: client.write_batch([b"one", b"two"], 1500)),
    "WriteInSession": asked(
        lambda client: client.write_batch([b"one"], 1500, True, SessionCall(SESSION, 700, 698))
    ),
    "OpenSession": asked(lambda client: client.open_session(b"\0nonce\xff\1", 1500)),
    "KeepSessions": asked(lambda client: client.keep_sessions([SESSION, SESSION], 1500)),
    "CloseSessions": asked(lambda client: client.close_sessions([SESSION], 1500)),
    "Skip": asked(lambda client: client.call(commands.Skip, 9.0, index=57, timeout_ms=1500)),
    "Hello": encode_greeting(IDENTITY, "peer", "b", b"1"),
    "HelloAnswer": encode_answer(IDENTITY, b"1"),
    "HelloOfVersions": encode_greeting(VERSIONED, "peer", "b", b"1"),
    "HelloAnswerOfVersions": encode_answer(VERSIONED, b"1"),
    "HelloOfLives": encode_greeting(STARTED, "peer", "b", b"1"),
    "HelloAnswerToRemoved": encode_answer(STARTED, b"1", 23),
    "HelloAnswerOfDigests": encode_answer(evolve(IDENTITY, digests=1), b"1"),
    "PreVote": wire.encode(m.PreVote(4, 10, 3)),
    "PreVoteResult": wire.encode(m.PreVoteResult(4, True)),
    "RequestVote": wire.encode(m.RequestVote(4, 10, 3, True)),
    "RequestVoteResult": wire.encode(m.RequestVoteResult(4, False)),
    "AppendEntries": wire.encode(APPEND, b"records"),
    "AppendFragment": wire.encode_fragment(APPEND, 262144, b"piece"),
    "AppendEntriesLast": wire.encode_append(APPEND, b"rest", 262149),
    "AppendEntriesResult": wire.encode(m.AppendEntriesResult(4, True, 10, 41, 12, 0, 0, 0.3)),
    "AppendEntriesRefusal": wire.encode(m.AppendEntriesResult(4, False, 10, 41, 5, 4, 2)),
    "AppendEntriesRepairing": wire.encode(
        m.AppendEntriesResult(4, False, 10, 41, 5, 4, 2, repairing=True)
    ),
    "InstallSnapshot": wire.encode(
        m.InstallSnapshot(
            4, 9, 3, Configuration((Member("a", "i-a", "p", "c"), Member("b")), {"z"}), 8, 42, True
        ),
        b"",
        wire.SnapshotChunk.of(100, b"chunk", 105, b"meta"),
    ),
    "InstallSnapshotEnd": wire.encode(
        m.InstallSnapshot(4, 9, 3, Configuration((Member("a"),)), 8, 42, True),
        b"",
        wire.SnapshotChunk.of(105, b"", 105, b"meta", bytes(range(32))),
    ),
    "InstallSnapshotResult": wire.encode(m.InstallSnapshotResult(4, 9, 42, True, 105)),
    "StateDigest": wire.encode_digest(wire.StateDigest(300, 0x1122334455667788, 7, True)),
    "StateDigestOfDiverged": wire.encode_digest(wire.StateDigest(301, 1 << 63, diverged=True)),
    "StateDigestOfCopied": wire.encode_digest(wire.StateDigest(303, 1, copied=True)),
    "StateDigestUnknown": wire.encode_digest(wire.StateDigest(302)),
    "TimeoutNow": wire.encode(m.TimeoutNow(4)),
    "ReadIndex": wire.encode(m.ReadIndex(4, 77)),
    "ReadIndexResult": wire.encode(m.ReadIndexResult(4, 77, 12)),
    "ReadIndexUnknown": wire.encode(m.ReadIndexResult(4, 78, None)),
}


def golden() -> dict[str, bytes]:
    lines = GOLDEN.read_text(encoding="ascii").splitlines()
    return {name: bytes.fromhex(value) for name, value in (line.split() for line in lines)}


@pytest.mark.parametrize("name", BOXES)
def test_the_bytes_of_version_1_never_change(name: str) -> None:
    """A change here is a change on the wire: it needs a new version and a news fragment."""
    assert commands.PROTOCOL_VERSION == 1
    assert golden()[name] == BOXES[name]


def test_every_message_has_golden_bytes() -> None:
    assert golden().keys() == BOXES.keys()
    assert {command.__name__ for command in commands.MESSAGES} <= BOXES.keys()


def sections() -> dict[str, dict[str, list[tuple[str, str]]]]:
    """Return for each heading of the page its tables: rows of (name, type)."""
    found: dict[str, dict[str, list[tuple[str, str]]]] = {}
    heading = table = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            heading, table = line.lstrip("# "), ""
        elif row := re.match(r"\| (argument|response) \|", line):
            table = row[1]
        elif row := re.match(r"\| `(\w+)` \| ([\w, ]+?) \|", line):
            found.setdefault(heading, {}).setdefault(table, []).append((row[1], row[2]))
    return found


def declared(schema: list[tuple[bytes, amp.Argument]]) -> list[tuple[str, str]]:
    return [
        (name.decode(), type(argument).__name__ + (", optional" if argument.optional else ""))
        for name, argument in schema
    ]


@pytest.mark.parametrize(
    "command", [*commands.QUESTIONS, *commands.MESSAGES], ids=lambda command: command.__name__
)
def test_the_page_tells_every_argument_of_every_command(command: type[amp.Command]) -> None:
    tables = sections().get(command.__name__, {})
    assert tables.get("argument", []) == declared(command.arguments)
    assert tables.get("response", []) == declared(command.response)


def test_the_page_tells_the_bounds_that_hold() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for number in (
        boxes.HANDSHAKE_BOX_BYTES,
        boxes.BOX_BYTES,
        ClientLimits().box_bytes,
        boxes.PIECE_BYTES,
        boxes.VALUE_BYTES,
    ):
        assert f"{number:,} bytes" in text
    assert f"| {boxes.HANDSHAKE_KEYS} | {boxes.BOX_KEYS} | {boxes.BOX_KEYS} |" in text
    assert outgoing.FRAGMENT_BYTES == 256 << 10
    assert outgoing.WHOLE_BYTES == incoming.LARGEST_CHUNK_BYTES == 1 << 20
    assert PeerLimits().message_bytes == 16 << 20
    assert boxes.BOX_BYTES > outgoing.WHOLE_BYTES + 4096
