"""Entries that are not executed, at the replica: the same on every server, whenever it learns."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from raft.backup import BackupMeta
from raft.codec import PLAIN
from raft.errors import BadCommand, CommandFailed, StateMachineFailed, from_wire
from raft.interfaces import Context, Value
from raft.machines.kv import KeyValueStore
from raft.machines.sqlite import SQLiteDatabase
from raft.replica import Replica, Result
from raft.storage.records import (
    BadRecord,
    Kind,
    decode_skip,
    encode,
    encode_registration,
    encode_skip,
    session_id,
    session_payloads,
    summarise,
)

NONCE = b"a client"
SESSION = session_id(1, NONCE)


def error_of(outcome: Result) -> BaseException:
    code, facts = outcome
    return from_wire(code, msgspec.msgpack.decode(facts))


def command(index: int, *words: object) -> bytes:
    return encode(index, 1, 1_000_000 * index, Kind.COMMAND, PLAIN.encode(list(words)))


def in_session(index: int, sequence: int, *words: object) -> bytes:
    (payload,) = session_payloads(SESSION, sequence, 0, [PLAIN.encode(list(words))])
    return encode(index, 1, 1_000_000 * index, Kind.SESSION_COMMAND, payload)


OPENED = encode(1, 1, 0, Kind.REGISTER, encode_registration(NONCE))
LOG = [
    OPENED,
    command(2, "set", "a", 1),
    in_session(3, 1, "set", "b", 1),
    command(4, "set", "c", 1),
    encode(5, 2, 5_000_000, Kind.NO_OP, b"seed"),
    encode(6, 2, 6_000_000, Kind.SKIP, encode_skip(3)),
    in_session(7, 1, "set", "b", 2),
    command(8, "set", "d", 1),
]
WHOLE = b"".join(LOG)


def apply(replica: Replica, records: bytes) -> list[Result]:
    first = replica.last_applied + 1
    applied = replica.apply(records, 0, first, first + 100, float("inf"))
    assert applied.offset == len(records)
    return applied.results


def get(replica: Replica, key: str) -> object:
    return PLAIN.decode(replica.query(PLAIN.encode(["get", key]))[1])


def test_the_entry_stands_still() -> None:
    """The golden bytes of kind 10."""
    assert (Kind.SKIP, encode_skip(7).hex(), encode_skip(1 << 40).hex()) == (
        10,
        "9107",
        "91cf0000010000000000",
    )
    assert decode_skip(encode_skip(7)) == 7
    for bad in (b"", b"\xc1", b"\x91\x00", b"\x91\xff", b"\x91\xcf" + b"\xff" * 8):
        with pytest.raises(BadRecord):
            decode_skip(bad)


def test_what_arrives_tells_what_it_skips_and_nonsense_tells_nothing() -> None:
    records = (
        command(5, "set", "a", 1)
        + encode(6, 1, 0, Kind.SKIP, encode_skip(5))
        + encode(7, 1, 0, Kind.SKIP, b"nonsense")
        + encode(8, 1, 0, Kind.SKIP, encode_skip(8))
        + encode(9, 1, 0, Kind.NO_OP, encode_skip(5))
    )
    skips: dict[int, int] = {}
    entries = summarise(records, skips=skips)
    assert (entries.end, skips) == (10, {6: 5})
    assert summarise(records) == entries


@pytest.mark.parametrize("at_once", [True, False])
def test_a_skipped_command_is_a_refusal_and_changes_nothing(at_once: bool) -> None:
    """sc-P14: its entry is used up, and what stands behind it is applied."""
    replica = Replica(KeyValueStore())
    replica.skips.expect(3)
    results: list[Result] = []
    for records in [WHOLE] if at_once else LOG:
        results += apply(replica, records)
    error = error_of(results[2])
    assert isinstance(error, CommandFailed)
    assert error.exception == "Skipped"
    assert results[5] == ("", b"\xc0")
    assert [get(replica, key) for key in "abcd"] == [1, None, 1, 1]
    assert (replica.last_applied, replica.skips.done, replica.skips.expected) == (8, {3}, set())
    # S6: the number is used up; the copy that came later has the same answer.
    assert results[6] == results[2]


def test_a_command_without_a_session_is_skipped_alike() -> None:
    replica = Replica(KeyValueStore())
    replica.skips.expect(4)
    apply(replica, b"".join(LOG[:3]))
    (result,) = apply(replica, LOG[3])
    assert isinstance(error_of(result), CommandFailed)
    assert (get(replica, "b"), get(replica, "c")) == (1, None)
    assert replica.last_time_us == 4_000_000


def test_several_entries_are_skipped_in_any_order_of_being_named() -> None:
    replica = Replica(KeyValueStore())
    for index in (4, 2):
        replica.skips.expect(index)
    apply(replica, b"".join(LOG[:5]))
    assert replica.skips.done == {2, 4}
    assert [get(replica, key) for key in "abc"] == [None, 1, None]


def test_slices_and_batches_skip_alike() -> None:
    """I20: however the records come, the digest is the same."""
    whole, single = Replica(KeyValueStore()), Replica(KeyValueStore())
    for replica in (whole, single):
        replica.skips.expect(3)
    apply(whole, WHOLE)
    for record in LOG:
        apply(single, record)
    assert whole.digest == single.digest


def test_who_executed_what_the_log_skips_stops() -> None:
    """SM2: its state is another one than the others'; better stopped than wrong."""
    replica = Replica(KeyValueStore())
    apply(replica, b"".join(LOG[:5]))
    with pytest.raises(StateMachineFailed, match="entry 3 was applied here, and entry 6 says"):
        apply(replica, LOG[5])
    with pytest.raises(StateMachineFailed):
        apply(replica, LOG[6])


def test_an_entry_that_skips_none_before_it_is_refused_everywhere_alike() -> None:
    replica = Replica(KeyValueStore())
    nonsense = [
        encode(1, 1, 0, Kind.SKIP, b"\xc1"),
        encode(2, 1, 0, Kind.SKIP, encode_skip(2)),
        encode(3, 1, 0, Kind.SKIP, encode_skip(9)),
    ]
    results = apply(replica, b"".join(nonsense))
    assert [type(error_of(each)) for each in results] == [BadCommand] * 3
    assert replica.last_applied == 3


def test_skipping_twice_is_skipping_once() -> None:
    replica = Replica(KeyValueStore())
    replica.skips.expect(3)
    apply(replica, b"".join(LOG[:6]))
    again = encode(7, 2, 0, Kind.SKIP, encode_skip(3))
    assert apply(replica, again) == [("", b"\xc0")]


def test_what_is_no_command_is_never_skipped() -> None:
    """Whoever asked for it: the entry counts, and the one that names it is satisfied."""
    replica = Replica(KeyValueStore())
    replica.skips.expect(5)
    apply(replica, b"".join(LOG[:5]))
    assert replica._context.seed == b"seed"
    assert apply(replica, encode(6, 2, 0, Kind.SKIP, encode_skip(5))) == [("", b"\xc0")]


def test_a_snapshot_between_the_two_knows_what_was_skipped() -> None:
    """N1, N7: whoever restores it goes past the entry behind it."""
    replica = Replica(KeyValueStore())
    replica.skips.expect(3)
    apply(replica, b"".join(LOG[:4]))
    meta, chunks = replica.snapshot()
    restored = Replica(KeyValueStore())
    restored.skips.expect(2)
    restored.restore(meta, chunks)
    assert (restored.skips.done, restored.skips.expected) == ({3}, set())
    for each in (replica, restored):
        apply(each, b"".join(LOG[4:]))
    assert restored.digest == replica.digest
    assert b"".join(restored.snapshot()[1]) == b"".join(replica.snapshot()[1])


def test_a_snapshot_that_executed_it_is_found_out_behind_it() -> None:
    replica, restored = Replica(KeyValueStore()), Replica(KeyValueStore())
    apply(replica, b"".join(LOG[:4]))
    restored.restore(*replica.snapshot())
    with pytest.raises(StateMachineFailed, match="entry 3 was applied here"):
        apply(restored, b"".join(LOG[4:]))


def test_without_skipped_entries_a_snapshot_has_the_bytes_it_had() -> None:
    replica = Replica(KeyValueStore())
    apply(replica, command(1, "set", "a", 1))
    content = b"".join(replica.snapshot()[1])
    assert b"skips" not in content
    replica.skips.done.add(1)
    assert b"skips" in b"".join(replica.snapshot()[1])


def test_a_backup_of_another_cluster_brings_none_of_its_skips() -> None:
    """N8: what its log skipped are other entries than those of this log."""
    source = Replica(KeyValueStore())
    source.skips.expect(2)
    apply(source, b"".join(LOG[:4]))
    meta, chunks = source.snapshot()
    said = BackupMeta("other", meta.index, 1, meta.time_us, "kv", 1, "a", 5)
    replica = Replica(KeyValueStore())
    replica.skips.expect(1)
    apply(replica, command(1, "set", "x", 1))
    replica._take_backup(said, chunks)
    assert (get(replica, "x"), get(replica, "b")) == (None, 1)
    assert replica.skips.done == {1}


def test_a_durable_machine_notes_what_was_skipped(tmp_path: Path) -> None:
    """S5: in the transaction of the entries around it; a restart goes past the entry behind it."""

    def started(directory: Path) -> Replica:
        replica = Replica(SQLiteDatabase(directory))
        replica.open()
        return replica

    def sql(index: int, statement: str) -> bytes:
        return command(index, "execute", statement, [])

    log = [
        sql(1, "CREATE TABLE t (x)"),
        sql(2, "INSERT INTO t VALUES (2)"),
        sql(3, "INSERT INTO t VALUES (3)"),
        encode(4, 2, 4_000_000, Kind.SKIP, encode_skip(2)),
        sql(5, "INSERT INTO t VALUES (5)"),
    ]
    replica = started(tmp_path / "one")
    replica.skips.expect(2)
    apply(replica, b"".join(log[:3]))
    meta, chunks = replica.snapshot()
    content = list(chunks)
    replica.close()
    replica = started(tmp_path / "one")
    assert (replica.last_applied, replica.skips.done) == (3, {2})
    other = started(tmp_path / "other")
    other.skips.expect(2)
    apply(other, b"".join(log[:2]))
    # It has noted the same already, and its machine forgets all notes with its state.
    other.restore(meta, content)
    other.close()
    other = started(tmp_path / "other")
    for each in (replica, other):
        apply(each, b"".join(log[3:]))
        answer = each.query(PLAIN.encode(["query", "SELECT x FROM t", []]))
        assert PLAIN.decode(answer[1])["rows"] == [[3], [5]]  # type: ignore[index,call-overload]
        each.close()
    assert replica.digest == other.digest


class StrictDatabase(SQLiteDatabase):
    """A database that stops its node behind every statement that names a poison."""

    stop_on_error = True

    def apply(self, command: Value, context: Context) -> Value:
        result = super().apply(command, context)
        if "poison" in str(command):
            raise ValueError
        return result


def test_what_a_durable_machine_had_begun_to_execute_is_taken_back(tmp_path: Path) -> None:
    """S5, sc-P14: with all of its batch, which the log applies again around what is skipped."""
    log = [
        command(1, "execute", "CREATE TABLE t (x)", []),
        command(2, "execute", "INSERT INTO t VALUES ('before')", []),
        command(3, "execute", "INSERT INTO t VALUES ('poison')", []),
        encode(4, 2, 4_000_000, Kind.SKIP, encode_skip(3)),
        command(5, "execute", "INSERT INTO t VALUES ('after')", []),
    ]
    for _ in range(2):
        replica = Replica(StrictDatabase(tmp_path / "database"))
        replica.open()
        with pytest.raises(StateMachineFailed, match="ValueError at entry 3, a command of"):
            apply(replica, b"".join(log))
        replica.close()
    replica = Replica(StrictDatabase(tmp_path / "database"))
    replica.open()
    replica.skips.expect(3)
    apply(replica, b"".join(log[replica.last_applied :]))
    answer = replica.query(PLAIN.encode(["query", "SELECT x FROM t", []]))
    assert PLAIN.decode(answer[1])["rows"] == [["before"], ["after"]]  # type: ignore[index,call-overload]
    replica.close()
