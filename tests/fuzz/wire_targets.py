"""What arrives over connections, in memory."""

from __future__ import annotations

from typing import Any

import msgspec
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from raft.codec import Codec, is_deeper
from raft.core import messages as m
from raft.core.configuration import Configuration, Member
from raft.errors import BadCommand, CommandTooLarge, NotFound, NotLeader, RaftError
from raft.interfaces import IClientService, IRescueService, ReadTerms, Stated
from raft.numbering import OpenedSession, SessionCall
from raft.transport import commands, wire
from raft.transport.arguments import describe_error, pack_commands, pack_results, pack_sessions
from raft.transport.boxes import BadBox, Box, BoxParser, encode_box
from raft.transport.calls import ClientConnection
from raft.transport.connection import Counters
from raft.transport.greeting import Identity, encode_answer, encode_greeting
from raft.transport.incoming import Desk, Incoming
from raft.transport.questions import ClientLimits, ClientServer
from raft.transport.turns import ReadingTurns
from tests.fuzz.oracle import SEPARATOR, Source, as_input, check, fields, no_failure_logged

IDENTITY = Identity("cluster", "a", "i-a")
WORDS = (
    SEPARATOR, b"_command", b"_ask", b"_answer", b"_error", b"_error_code", b"True", b"False",
    b"term", b"sequence", b"index", b"records", b"records.1", b"fragment_bytes", b"offset_bytes",
    b"nan", b"1e400", b"-1", b"9223372036854775807", b"18446744073709551616", b"\xd9\x02\xff\xff",
    b"9" * 400, b"\xc3\x28", b"\x91" * 300, b"\xdf\xff\xff\xff\xff", b"NOT_LEADER", b"{\"a\":",
)  # fmt: skip


def boxes_of(octets: bytes) -> list[Box]:
    found: list[Box] = []
    BoxParser(1 << 26, 2048).feed(octets, found.append)
    return found


# -- The parser ----------------------------------------------------------------------------

BOX_LIMIT = 600
KEY_LIMIT = 8


def _parsed(chunks: list[bytes]) -> tuple[list[Box], bool]:
    """Feed the chunks; return what came, and whether the stream was refused."""
    found: list[Box] = []
    parser = BoxParser(BOX_LIMIT, KEY_LIMIT)
    for chunk in chunks:
        try:
            parser.feed(chunk, found.append)
        except BadBox:
            return found, True
        held = len(parser._pending) + sum(map(len, (*parser._fields, *parser._fields.values())))
        check(held <= BOX_LIMIT, f"{held} bytes of an unfinished box are kept")
    return found, False


def boxes(octets: bytes) -> object:
    """Whatever the chunking, the same boxes; each written again is read as itself."""
    source = Source(octets)
    step, rest = 1 + source.byte() % 64, source.rest()
    whole = _parsed([rest])
    pieces = _parsed([rest[at : at + step] for at in range(0, len(rest), step)])
    check(whole == pieces, "another chunking gave other boxes")
    for box in whole[0]:
        written = encode_box(box.items())
        check(len(written) <= BOX_LIMIT and len(box) <= KEY_LIMIT, "a box past the bounds")
        check(boxes_of(written) == [box], "a box is not what is written for it")
    return whole


def box_seeds() -> list[bytes]:
    return [
        b"\x03" + encode_box([(b"key", b"value"), (b"other", b"")]),
        b"\x20" + encode_box([(b"a", b"x" * 300)]) + encode_box([(b"b", b"1")]),
        b"\x00" + b"\0\1k\xff\xff",
    ]


# -- Messages between servers --------------------------------------------------------------


def messages(octets: bytes) -> object:
    """A message that is taken is written again as one that means the same."""
    source = Source(octets)
    before = bytes(source.byte() % 8)
    box = dict(fields(source.rest()))
    if box.get(b"_command") == b"AppendFragment":
        try:
            return wire.decode_fragment(box)
        except wire.BadMessage:
            return None
    if box.get(b"_command") == b"StateDigest":
        try:
            digest = wire.decode_digest(box)
        except wire.BadMessage:
            return None
        (again,) = boxes_of(wire.encode_digest(digest))
        check(wire.decode_digest(again) == digest, f"{digest} comes back as another")
        return digest
    try:
        parsed = wire.decode(box, before)
    except wire.BadMessage:
        return None
    message, records, chunk = parsed
    (again,) = boxes_of(wire.encode(message, records, chunk))
    check(wire.decode(again) == parsed, f"{parsed} comes back as {wire.decode(again)}")
    return parsed


def _message_boxes() -> list[Box]:
    written = [
        wire.encode(m.AppendEntries(3, 7, 2, m.Entries(8), 5, 1), b"records"),
        wire.encode_append(m.AppendEntries(3, 7, 2, m.Entries(8), 5, 1), b"records", 3),
        wire.encode_fragment(m.AppendEntries(3, 7, 2, m.Entries(8), 5, 1), 0, b"piece"),
        wire.encode(m.AppendEntriesResult(3, False, 7, 1, 9, 5, 2, 0.3)),
        wire.encode(
            m.InstallSnapshot(3, 7, 2, Configuration((Member("a", "i", "h:1", "h:2"),)), 1, 4),
            b"",
            wire.SnapshotChunk.of(0, b"chunk", 5, b"meta"),
        ),
        wire.encode(m.InstallSnapshotResult(3, 7, 2, True, 9)),
        wire.encode(m.PreVote(3, 7, 2)),
        wire.encode(m.PreVoteResult(3, True)),
        wire.encode(m.RequestVote(3, 7, 2, True)),
        wire.encode(m.RequestVoteResult(3, False)),
        wire.encode(m.TimeoutNow(3)),
        wire.encode(m.ReadIndex(3, 7)),
        wire.encode(m.ReadIndexResult(3, 7, 9)),
        wire.encode(m.ReadIndexResult(3, 7, None)),
        wire.encode_digest(wire.StateDigest(7, 5, 3, asks=True, diverged=True, copied=True)),
    ]
    return [box for each in written for box in boxes_of(each)]


def message_seeds() -> list[bytes]:
    found = []
    for box in _message_boxes():
        fragment = b"\x03" if b"fragment_bytes" in box else b"\0"
        found.append(fragment + as_input(box))
    return found


# -- A connection of a peer ----------------------------------------------------------------

BETWEEN = b"\xfd\n"
"""Between the boxes of an input."""
HELLO = encode_greeting(Identity("cluster", "b", "i-b"), "peer", "a", b"1")


def peers(octets: bytes) -> object:
    """A connection takes messages of who has greeted, or ends; what it gathers is bounded."""
    source = Source(octets)
    choice = source.byte()
    received: list[Any] = []
    incoming = Incoming(
        Desk(
            identity=lambda: IDENTITY,
            judge=lambda greeting: "not now" if greeting.incarnation == "refused" else None,
            exclusion=lambda greeting: 0,
            greeted=lambda incoming: None,
            receive=lambda *parts: received.append(parts),
            contact=lambda sender, term: received.append((sender, term)),
            message_bytes=4096,
            compare=lambda sender, digest: received.append((sender, digest)),
        ),
        Counters(),
    )
    transport = StringTransport()
    incoming.makeConnection(transport)
    stream = b"".join(encode_box(fields(box)) for box in source.rest().split(BETWEEN))
    if choice & 1:
        incoming.dataReceived(HELLO)
    if choice & 2:
        stream = source.rest()
    step = 1 + (choice >> 2) * 16
    for at in range(0, len(stream), step):
        if not transport.disconnecting and not transport.disconnected:
            incoming.dataReceived(stream[at : at + step])
        check(incoming.is_greeted or not received, "something was believed before the greeting")
        kept = incoming._assembly.size_bytes
        check(kept <= 4096, f"{kept} bytes of fragments are kept")
    for sender, *_ in received:
        check(sender == incoming.speaker, "a message of nobody")
    for box in boxes_of(transport.value()):
        check(b"_answer" in box or b"_error" in box, "an answer that is none")
    return received


def peer_seeds() -> list[bytes]:
    (hello,) = boxes_of(HELLO)
    greeted = [b"\xfd" + as_input(box) for box in _message_boxes()]
    fragments = [
        {b"_command": b"AppendFragment", b"term": b"3", b"sequence": b"1",
         b"offset_bytes": at, b"piece": b"two"}
        for at in (b"0", b"3")
    ]  # fmt: skip
    rest = {
        b"_command": b"AppendEntries", b"term": b"3", b"prev_log_index": b"7",
        b"prev_log_term": b"2", b"leader_commit": b"5", b"sequence": b"1", b"records": b"end",
        b"fragment_bytes": b"6",
    }  # fmt: skip
    return [
        *greeted,
        b"\xfc" + as_input(hello),
        b"\xfc" + BETWEEN.join([as_input(hello), as_input(_message_boxes()[0])]),
        b"\xfd" + BETWEEN.join(map(as_input, [*fragments, rest])),
        b"\xfe" + HELLO,
    ]


# -- Questions of clients ------------------------------------------------------------------


@implementer(IClientService, IRescueService)
class Service:
    """Answers everything at once."""

    def write_batch(
        self,
        commands: list[bytes],
        timeout_seconds: float,
        answer: Any,
        with_index: bool = False,
        session: SessionCall | None = None,
    ) -> None:
        packed = pack_results([b"\xc0" for _ in commands])
        answer(Stated(packed, 17) if with_index else packed)

    def read_batch(
        self, queries: list[bytes], timeout_seconds: float, terms: ReadTerms, answer: Any
    ) -> None:
        if len(queries) > 3:
            raise NotLeader("b", "b:1")
        answer(Stated(pack_results([b"\xc0" for _ in queries]), 12, 0.5))

    def open_session(self, nonce: bytes, timeout_seconds: float) -> object:
        return OpenedSession(bytes(8) + nonce, 3600.0, 1000, 1 << 20)

    def keep_sessions(self, sessions: list[bytes], timeout_seconds: float) -> object:
        return [True for _ in sessions]

    def close_sessions(self, sessions: list[bytes], timeout_seconds: float) -> object:
        return [True for _ in sessions]

    def status(self) -> object:
        return {"role": "leader"}

    def leader(self) -> object:
        return ("a", None)

    def set_configuration(self, *_: object, **__: object) -> object:
        return succeed(None)

    def get_entry(self, index: int) -> object:
        raise NotFound(f"no entry {index}")

    def transfer_leadership(self, target: str | None, timeout_seconds: float) -> object:
        return succeed(target)

    def begin_backup(self, timeout_seconds: float) -> object:
        return succeed(("name", b"meta"))

    def backup_piece(self, name: str, number: int) -> object:
        return succeed(b"piece")

    def end_backup(self, name: str) -> None:
        return None

    def begin_restore(self, id: bytes, meta: bytes, replace: bool) -> None:
        return None

    def restore_piece(self, id: bytes, offset: int, piece: bytes, seconds: float) -> object:
        return succeed(None)

    def end_restore(self, id: bytes, size: int, digest: bytes, seconds: float) -> object:
        return succeed(9)

    def skip(self, index: int, seconds: float) -> object:
        return succeed(9)


def questions(octets: bytes) -> object:
    """Each question has one answer, and none is a failure of the node."""
    source = Source(octets)
    is_raw = source.byte() & 1
    limits = ClientLimits(box_bytes=1 << 16)
    turns = ReadingTurns(Clock())
    server = ClientServer(Service(), lambda: IDENTITY, limits, Counters(), lambda each: None, turns)
    transport = StringTransport()
    server.makeConnection(transport)
    with no_failure_logged():
        if is_raw:
            asked = -1
            server.dataReceived(source.rest())
        else:
            boxes = [fields(box) for box in source.rest().split(BETWEEN)]
            asked = len(boxes)
            server.dataReceived(b"".join(map(encode_box, boxes)))
        server.flush()
    answered = boxes_of(transport.value())
    closed = transport.disconnecting or transport.disconnected
    check(closed or asked in (-1, len(answered)), f"{len(answered)} answers to {asked} questions")
    for box in answered:
        check((b"_answer" in box) != (b"_error" in box), "an answer that is none")
        check(box.get(b"_error_code") != b"ERROR", f"the node failed: {box}")
    server.connectionLost()
    return answered


def _asked(question: type[commands.Question], **arguments: Any) -> Box:
    box = question(**arguments).makeArguments(arguments, None)  # type: ignore[no-untyped-call]
    return {b"_command": question.commandName, b"_ask": b"1", **box}


def question_seeds() -> list[bytes]:
    id, session = bytes(range(16)), bytes(16)
    asked = [
        _asked(commands.Write, commands=pack_commands([b"a", b"b"]), timeout_ms=50),
        _asked(commands.Write, commands=pack_commands([b"a"]), with_index=True),
        _asked(
            commands.Write,
            commands=pack_commands([b"a"]),
            session=session,
            first_sequence=1,
            low_mark=1,
        ),
        _asked(commands.Read, queries=pack_commands([b"a"])),
        _asked(
            commands.Read,
            queries=pack_commands([b"a"]),
            consistency="bounded",
            min_index=4,
            max_age_ms=50,
        ),
        _asked(commands.OpenSession, nonce=bytes(8), timeout_ms=10),
        _asked(commands.KeepSessions, sessions=pack_sessions([session])),
        _asked(commands.CloseSessions, sessions=pack_sessions([session])),
        _asked(commands.Status),
        _asked(commands.Leader),
        _asked(commands.GetEntry, index=4),
        _asked(commands.TransferLeadership, target="b", timeout_ms=4),
        _asked(
            commands.SetConfiguration,
            members=msgspec.msgpack.encode([{"id": "a", "voter": True}]),
            replace=True,
            expected_index=4,
            force=False,
        ),
        _asked(commands.BeginBackup),
        _asked(commands.BackupPiece, name="x", number=1),
        _asked(commands.EndBackup, name="x"),
        _asked(commands.BeginRestore, id=id, meta=b"m", replace=True),
        _asked(commands.RestorePiece, id=id, offset=0, piece=b"p"),
        _asked(commands.EndRestore, id=id, size_bytes=4, digest=bytes(32)),
        _asked(commands.Skip, index=4, timeout_ms=5),
        *boxes_of(encode_greeting(Identity("cluster", "", ""), "client", "", b"1")),
    ]
    return [b"\0" + as_input(box) for box in asked] + [b"\1" + encode_box(asked[0].items())]


# -- Answers of a hostile node -------------------------------------------------------------

_ASKED: list[Any] = [
    lambda client: client.write_batch([b"\1", b"\2"], 1000),
    lambda client: client.write_batch([b"\1", b"\2"], 1000, True, SessionCall(bytes(16), 1, 1)),
    lambda client: client.read_batch([b"\1"], 1000),
    lambda client: client.read_batch([b"\1"], 1000, ReadTerms("local")),
    lambda client: client.open_session(bytes(8), 1000),
    lambda client: client.keep_sessions([bytes(16)], 1000),
    lambda client: client.close_sessions([bytes(16)], 1000),
    lambda client: client.call(commands.Status),
    lambda client: client.call(commands.Leader),
    lambda client: client.call(commands.SetConfiguration, members=b"\x90"),
    lambda client: client.call(commands.GetEntry, index=1),
    lambda client: client.call(commands.TransferLeadership),
    lambda client: client.call(commands.BeginBackup),
    lambda client: client.call(commands.BackupPiece, name="n", number=0),
    lambda client: client.call(commands.EndRestore, id=bytes(16), size_bytes=1, digest=bytes(32)),
    lambda client: client.call(
        commands.Hello, version=1, cluster_id="", server_id="", incarnation="", role="client"
    ),
]


def answers(octets: bytes) -> object:
    """A client's question ends with a value or a `RaftError`, whatever the node answers."""
    source = Source(octets)
    choice = source.byte()
    clock = Clock()
    client = ClientConnection(clock)
    client.makeConnection(StringTransport())
    outcomes: list[Any] = []
    with no_failure_logged():
        asked: Deferred[Any] = _ASKED[choice % len(_ASKED)](client)
        asked.addBoth(outcomes.append)
        client.flush()
        box = fields(source.rest())
        if choice < 128 and not any(key in (b"_answer", b"_error") for key, _ in box):
            box.insert(0, (b"_answer", b"1"))
        client.dataReceived(encode_box(box))
        client.connectionLost()
    check(len(outcomes) == 1, f"{len(outcomes)} outcomes of one question")
    (outcome,) = outcomes
    if isinstance(outcome, Failure):
        check(isinstance(outcome.value, RaftError), f"it failed with {outcome.value!r}")
        str(outcome.value)
    check(not clock.getDelayedCalls(), "a timer is left")
    return outcome


def answer_seeds() -> list[bytes]:
    given: list[tuple[int, list[Box]]] = [
        (0, [{b"results": pack_results([b"\xc0", NotLeader("b", "b:1")])}]),
        (1, [{b"results": pack_results([b"\xc0", b"\1"]), b"index": b"17"}]),
        (2, [{b"results": pack_results([b"\xa1a"])}]),
        (3, [{b"results": pack_results([b"\xa1a"]), b"index": b"12", b"age_ms": b"43"}]),
        (4, [{b"session": bytes(16), b"timeout_us": b"5", b"results": b"3",
              b"results_bytes": b"4"}]),
        (5, [{b"present": b"\x91\xc3"}]),
        (7, [{b"status": b"\x81\xa1a\1"}]),
        (8, [{b"leader": b"a", b"address": b"a:1"}]),
        (9, [{}]),
        (10, [{b"entry": b"\x80"}]),
        (11, [{b"leader": b"a"}]),
        (12, [{b"name": b"n", b"meta": b"m"}]),
        (13, [{b"piece": b"p"}]),
        (14, [{b"index": b"9"}]),
        (15, boxes_of(encode_answer(IDENTITY, b"1", 4))),
        (128, [{b"_error": b"1", b"_error_code": b"NOT_LEADER",
                b"_error_description": describe_error(NotLeader("b", "b:1"))}]),
        (129, [{b"_error": b"1", b"_error_code": b"TIMEOUT",
                b"_error_description": b'{"appended": true, "message": "x"}'}]),
        (130, [{b"_error": b"1", b"_error_code": b"COMMAND_TOO_LARGE",
                b"_error_description": b'{"size_bytes": 5, "limit_bytes": 4}'}]),
        (131, [{b"_error": b"1", b"_error_code": b"UNHANDLED",
                b"_error_description": b"what"}]),
    ]  # fmt: skip
    return [bytes((number,)) + as_input(box) for number, (box,) in given]


# -- Plain values --------------------------------------------------------------------------

CODEC = Codec(limit_bytes=1 << 16, depth_limit=8)


def depth_of(value: object) -> int:
    """Return how deep lists and dicts in `value` nest."""
    if isinstance(value, dict):
        return 1 + max((depth_of(each) for pair in value.items() for each in pair), default=0)
    if isinstance(value, list | tuple):
        return 1 + max((depth_of(each) for each in value), default=0)
    return 0


def codec(octets: bytes) -> object:
    """What is taken nests within the limit, and is written and read as itself."""
    check(is_deeper(octets, 1 << 62) is False, "nothing is as deep as that")
    try:
        CODEC.decode_result(octets)
    except BadCommand:
        pass
    try:
        value = CODEC.decode(octets)
    except (BadCommand, CommandTooLarge):
        return None
    check(depth_of(value) <= 8, "deeper than the limit")
    written = CODEC.encode_result(value)
    check(CODEC.encode_result(CODEC.decode_trusted(written)) == written, "another value came back")
    return value


def codec_seeds() -> list[bytes]:
    values: list[Any] = [
        None, True, 1, -(1 << 63), (1 << 64) - 1, 1.5, "text", b"bytes", [1, [2, [3]]],
        {"a": {b"b": [None]}}, {1: 2}, ["put", "key", b"x" * 40],
    ]  # fmt: skip
    return [msgspec.msgpack.encode(value) for value in values]
