"""Every message survives the wire, and nothing else comes out of it."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.protocols import amp

from raft.core import messages as m
from raft.core.configuration import Configuration, Member
from raft.transport import commands, wire
from raft.transport.arguments import BadValue
from raft.transport.boxes import Box, BoxParser, encode_box

numbers = st.integers(0, (1 << 63) - 1)
names = st.text(max_size=12)
members = st.builds(Member, names, names, names, names, st.booleans())
configurations = st.builds(
    Configuration, st.lists(members, max_size=3), st.frozensets(names, max_size=3)
)
appends = st.builds(
    lambda term, index, previous, commit, sequence: m.AppendEntries(
        term, index, previous, m.Entries(index + 1), commit, sequence
    ),
    numbers,
    numbers,
    numbers,
    numbers,
    numbers,
)
flags = st.booleans()
plain = st.one_of(
    st.builds(m.PreVote, numbers, numbers, numbers),
    st.builds(m.PreVoteResult, numbers, flags),
    st.builds(m.RequestVote, numbers, numbers, numbers, flags),
    st.builds(m.RequestVoteResult, numbers, flags),
    st.builds(
        m.AppendEntriesResult,
        *(numbers, flags, numbers, numbers, numbers, numbers, numbers),
        st.floats(0, 3600),
    ),
    st.builds(m.InstallSnapshotResult, numbers, numbers, numbers, flags, numbers),
    st.builds(m.TimeoutNow, numbers),
    st.builds(m.ReadIndex, numbers, numbers),
    st.builds(m.ReadIndexResult, numbers, numbers, st.none() | numbers),
)
snapshots = st.builds(
    lambda term, ends, last_term, configuration, sequence, done: m.InstallSnapshot(
        term, max(ends), last_term, configuration, min(ends), sequence, done
    ),
    numbers,
    st.tuples(numbers, numbers),
    numbers,
    configurations,
    numbers,
    flags,
)
pieces = st.builds(
    wire.SnapshotChunk.of,
    *(numbers, st.binary(max_size=200), st.just(-1) | numbers, st.binary()),
    st.just(b"") | st.binary(min_size=32, max_size=32),
)


def parse(data: bytes) -> Box:
    found: list[Box] = []
    BoxParser().feed(data, found.append)
    (box,) = found
    return box


@given(plain)
def test_every_message_round_trips(message: m.Message) -> None:
    assert wire.decode(parse(wire.encode(message))) == (message, b"", None)


@given(appends, st.binary(max_size=200))
def test_append_entries_round_trips_with_its_records(
    message: m.AppendEntries, records: bytes
) -> None:
    assert wire.decode(parse(wire.encode(message, records))) == (message, records, None)


@given(snapshots, pieces)
def test_install_snapshot_round_trips_with_its_chunk(
    message: m.InstallSnapshot, chunk: wire.SnapshotChunk
) -> None:
    assert wire.decode(parse(wire.encode(message, b"", chunk))) == (message, b"", chunk)


def test_records_over_64_kib_travel_in_one_box() -> None:
    """A1: a value ends at 65,535 bytes, the records of one message do not."""
    message = m.AppendEntries(1, 2, 3, m.Entries(3), 4, 5)
    records = bytes(range(256)) * 3000
    assert wire.decode(parse(wire.encode(message, records)))[1] == records


@given(st.one_of(plain, appends, snapshots), pieces, st.binary(max_size=80))
def test_the_declared_commands_read_what_the_fast_path_writes(
    message: m.Message, chunk: wire.SnapshotChunk, records: bytes
) -> None:
    """The contract is `commands`; the fast path must be true to it, in both directions."""
    is_snapshot = isinstance(message, m.InstallSnapshot)
    box = parse(wire.encode(message, records, chunk if is_snapshot else None))
    declared = getattr(commands, type(message).__name__)
    arguments = declared.parseArguments(amp.AmpBox(box), None)
    assert declared.commandName == box[b"_command"]
    given_names = {name.decode() for name, _ in declared.arguments}
    assert given_names <= set(arguments)
    for name, value in arguments.items():
        if value is not None and hasattr(message, name) and name != "configuration":
            assert getattr(message, name) == value
    present = {name: value for name, value in arguments.items() if value is not None}
    again = declared.makeArguments(present, None)
    again[b"_command"] = declared.commandName
    assert wire.decode(dict(again)) == wire.decode(box)


@pytest.mark.parametrize(
    "digest",
    [
        wire.StateDigest(1),
        wire.StateDigest((1 << 63) - 1, (1 << 64) - 1, 7, True),
        wire.StateDigest(3, 0, 0, False, True),
        wire.StateDigest(4, 1, copied=True),
    ],
)
def test_digests_come_back_and_are_read_by_the_declared_command(digest: wire.StateDigest) -> None:
    box = parse(wire.encode_digest(digest))
    assert wire.decode_digest(box) == digest
    arguments = commands.StateDigest.parseArguments(amp.AmpBox(box), None)
    assert arguments["index"] == digest.index
    assert (arguments["digest"] is None) == (digest.value is None)
    assert (bool(arguments["asks"]), arguments["origin"] or 0) == (digest.asks, digest.origin)
    present = {name: value for name, value in arguments.items() if value is not None}
    assert wire.decode_digest(dict(commands.StateDigest.makeArguments(present, None))) == digest


@pytest.mark.parametrize(
    "changes",
    [
        {b"index": b"-1"},
        {b"index": b"9" * 30},
        {b"digest": b"1234567"},
        {b"digest": b"123456789"},
        {b"origin": b"x"},
        {b"asks": b"yes"},
        {b"diverged": b""},
        {b"copied": b"1"},
    ],
)
def test_what_is_no_digest_closes_the_connection(changes: dict[bytes, bytes]) -> None:
    with pytest.raises(wire.BadMessage, match=next(iter(changes)).decode()):
        wire.decode_digest({b"index": b"5", b"digest": b"12345678", **changes})
    with pytest.raises(wire.BadMessage, match="lacks"):
        wire.decode_digest({b"digest": b"12345678"})


def test_there_is_a_command_for_each_message_and_no_other() -> None:
    declared = {command.__name__ for command in commands.MESSAGES}
    union = {kind.__name__ for kind in m.Message.__args__}  # type: ignore[attr-defined]
    assert declared - union == {"AppendFragment", "StateDigest"}
    assert union <= declared


GOOD = {
    b"_command": b"AppendEntries",
    b"term": b"1",
    b"prev_log_index": b"2",
    b"prev_log_term": b"1",
    b"leader_commit": b"2",
    b"sequence": b"9",
    b"records": b"",
}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"term", b"-1"),
        (b"term", b""),
        (b"term", b" 1"),
        (b"term", b"1_0"),
        (b"term", b"+1"),
        (b"term", b"1.0"),
        (b"term", b"\xb2"),
        (b"term", str(1 << 63).encode()),
        (b"term", b"9" * 5000),
        (b"sequence", None),
        (b"records", None),
        (b"fragment_bytes", b"7"),
    ],
)
def test_append_entries_with_a_wrong_value_is_refused_by_name(
    key: bytes, value: bytes | None
) -> None:
    """sc-N11: a valid box with wrong types never becomes a message."""
    box = {**GOOD, key: value} if value is not None else {k: v for k, v in GOOD.items() if k != key}
    wire.decode(GOOD)
    with pytest.raises(wire.BadMessage, match=key.decode().split("_")[0]):
        wire.decode(box)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", [b"nan", b"inf", b"-1", b"1e99", b"x", b"1" * 50])
def test_a_promise_is_a_time_that_can_be(text: bytes) -> None:
    """SECURITY 41: negative, huge and NaN numbers are refused."""
    box = parse(wire.encode(m.AppendEntriesResult(1, True, 2, 3, 4, promise_seconds=0.3)))
    with pytest.raises(wire.BadMessage, match="promise_seconds"):
        wire.decode({**box, b"promise_seconds": text})


def test_a_chunk_that_does_not_match_its_checksum_is_refused() -> None:
    """sc-S6."""
    message = m.InstallSnapshot(1, 2, 1, Configuration(), 0, 1)
    chunk = evolve(wire.SnapshotChunk.of(0, b"abc"), chunk=b"abd")
    with pytest.raises(wire.BadMessage, match="checksum"):
        wire.decode(parse(wire.encode(message, b"", chunk)))


def test_a_snapshot_whose_members_are_behind_its_end_is_refused() -> None:
    """[M1, N1]: a snapshot's members are those of its last entry, or of one before."""
    for index, is_right in ((4, True), (5, True), (6, False)):
        message = m.InstallSnapshot(3, 5, 2, Configuration(), index, 1)
        box = parse(wire.encode(message, b"", wire.SnapshotChunk.of(0, b"", 0)))
        if is_right:
            assert wire.decode(box)[0] == message
        else:
            with pytest.raises(wire.BadMessage, match=r"up to 5 has members of 6"):
                wire.decode(box)


@pytest.mark.parametrize("digest", [b"x", bytes(31), bytes(33)])
def test_a_digest_of_another_length_is_refused(digest: bytes) -> None:
    message = m.InstallSnapshot(1, 2, 1, Configuration(), 0, 1)
    box = parse(wire.encode(message, b"", wire.SnapshotChunk.of(0, b"abc", digest=digest)))
    with pytest.raises(wire.BadMessage, match="digest has"):
        wire.decode(box)


def test_an_unknown_message_is_refused() -> None:
    """sc-U3."""
    with pytest.raises(wire.BadMessage, match="no message is called b'Nonsense'"):
        wire.decode({b"_command": b"Nonsense"})


@given(
    st.sampled_from([command.commandName for command in commands.MESSAGES]),
    st.dictionaries(
        st.sampled_from(
            sorted({name for command in commands.MESSAGES for name, _ in command.arguments})
        ),
        st.one_of(
            st.binary(max_size=30), st.sampled_from([b"True", b"1", b"-1", b"\x90", b"\xc1"])
        ),
    ),
)
def test_no_box_raises_anything_but_bad_message(command: bytes, fields: dict[bytes, bytes]) -> None:
    """SECURITY 17, TESTING 3.8: no exception outside the typed error."""
    box: dict[bytes, Any] = {**fields, b"_command": command}
    encode_box(box.items())
    try:
        if command == b"AppendFragment":
            wire.decode_fragment(box)
        else:
            wire.decode(box)
    except wire.BadMessage:
        return
    except BadValue as error:
        raise AssertionError("a typed error of another room escaped") from error
