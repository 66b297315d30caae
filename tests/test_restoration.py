"""N8 at the replica: a backup in the log replaces the state at its end, whole, or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import msgspec
import pytest
from zope.interface import implementer

from raft.backup import BackupMeta, encode_meta
from raft.codec import PLAIN
from raft.core.configuration import Configuration
from raft.errors import BadBackup, InvariantViolated, RestoreInProgress, StateMachineFailed
from raft.interfaces import IOnDiskStateMachine
from raft.machines.kv import KeyValueStore
from raft.replica import Replica
from raft.restoration import End, GiveUp, Piece, encode_step
from raft.storage.records import (
    Kind,
    RecoveryNote,
    encode,
    encode_configuration,
    encode_recovery,
    encode_registration,
    session_id,
    session_payloads,
)

ID = b"sixteen bytes id"
OTHER = b"another sixteen."


def kv_backup(**values: int) -> tuple[bytes, bytes]:
    """Return meta and content of a backup of a store with these keys."""
    replica = Replica(KeyValueStore())
    for index, (key, value) in enumerate(values.items(), 1):
        replica.apply(encode(index, 1, 9_000_000, Kind.COMMAND, PLAIN.encode(["set", key, value])))
    meta, chunks = replica.snapshot()
    said = BackupMeta("other", meta.index, 1, meta.time_us, "kv", 1, "a", 5)
    return encode_meta(said), b"".join(chunks)


class Log:
    """A log of which some replicas apply everything."""

    def __init__(self, *machines: object) -> None:
        self.records: list[bytes] = []
        self.replicas = [Replica(machine) for machine in machines or (KeyValueStore(),)]
        for replica in self.replicas:
            replica.restorations.read = self.read

    def read(self, start: int, end: int, limit_bytes: int) -> tuple[int, bytes]:
        if start > len(self.records):
            raise KeyError(start)
        return start + 1, self.records[start - 1]

    def add(self, kind: int, payload: bytes, time_us: int = 1_000_000) -> tuple[str, object]:
        """Append an entry; return code and facts, or "" and result, the same on all."""
        index = len(self.records) + 1
        self.records.append(encode(index, 3, time_us, kind, payload))
        outcomes = [
            replica.apply(self.records[-1], 0, index, index + 1).results[0]
            for replica in self.replicas
        ]
        assert len(set(outcomes)) == 1
        assert len({replica.digest for replica in self.replicas}) == 1
        code, encoded = outcomes[0]
        return code, msgspec.msgpack.decode(encoded)

    def command(self, *command: object) -> tuple[str, object]:
        return self.add(Kind.COMMAND, PLAIN.encode(list(command)))

    def step(self, step: Piece | End | GiveUp) -> tuple[str, object]:
        return self.add(Kind.RESTORE, encode_step(step))

    def get(self, key: str) -> object:
        answers = {replica.query(PLAIN.encode(["get", key])) for replica in self.replicas}
        assert len(answers) == 1
        return PLAIN.decode(answers.pop()[1])


def end_of(meta: bytes, content: bytes, id: bytes = ID) -> End:
    return End(id, len(content), hashlib.sha256(meta + content).digest(), meta)


def test_the_entries_stand_still() -> None:
    assert encode_step(Piece(ID, 7, b"abc")).hex() == (
        "9400c4107369787465656e20627974657320696407c403616263"
    )
    assert encode_step(GiveUp(ID)).hex() == "9202c4107369787465656e206279746573206964"
    assert encode_step(End(ID, 3, b"d" * 32, b"m")).hex() == (
        "9501c4107369787465656e20627974657320696403c420" + "64" * 32 + "c4016d"
    )


def test_the_end_replaces_the_state_whatever_stands_between_the_pieces() -> None:
    log = Log(KeyValueStore(), KeyValueStore())
    log.command("set", "old", 1)
    meta, content = kv_backup(k=1, other=2)
    assert log.step(Piece(ID, 0, content[:50])) == ("", None)
    log.command("set", "between", 1)
    log.add(Kind.RESTORE, b"\xc1")
    assert log.step(Piece(ID, 50, content[50:])) == ("", None)
    assert (log.get("old"), log.get("k")) == (1, None)
    assert log.step(end_of(meta, content)) == ("", 6)
    assert (log.get("old"), log.get("between"), log.get("k")) == (None, None, 1)
    log.command("set", "later", 5)
    assert log.get("later") == 5
    assert log.replicas[0].last_applied == 7


def test_a_snapshot_that_is_installed_ends_the_restoration_before_it() -> None:
    """N8: whose end it swallowed; else no snapshot could be taken till the next term."""
    log, source = Log(), Log()
    meta, content = kv_backup(k=1)
    for each in (log, source):
        each.step(Piece(ID, 0, content))
    source.step(end_of(meta, content))
    log.replicas[0].restore(*source.replicas[0].snapshot())
    assert log.replicas[0].restorations.current is None
    log.replicas[0].snapshot()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda log, meta, content: log.add(Kind.NO_OP, b"a new term"),
        lambda log, meta, content: log.step(GiveUp(ID)),
        lambda log, meta, content: log.step(Piece(OTHER, 0, content)),
        lambda log, meta, content: log.step(end_of(meta, content[:-1])),
    ],
    ids=["new term", "given up", "another begins", "ended before"],
)
def test_a_restoration_that_was_ended_restores_nothing(spoil: object) -> None:
    log = Log()
    log.command("set", "old", 1)
    meta, content = kv_backup(k=1)
    log.step(Piece(ID, 0, content))
    spoil(log, meta, content)  # type: ignore[operator]
    assert log.step(end_of(meta, content))[0] == "RESTORE_ABANDONED"
    assert (log.get("old"), log.get("k")) == (1, None)
    log.step(GiveUp(OTHER))
    log.replicas[0].snapshot()


def test_pieces_must_follow_each_other_and_make_the_backup() -> None:
    log = Log()
    log.command("set", "old", 1)
    meta, content = kv_backup(k=1)
    assert log.step(Piece(ID, 10, content[10:]))[0] == "RESTORE_ABANDONED"
    log.step(Piece(ID, 0, content[:10]))
    assert log.step(Piece(ID, 11, content[11:]))[0] == "RESTORE_ABANDONED"
    assert log.step(Piece(OTHER, 10, content[10:]))[0] == "RESTORE_ABANDONED"
    log.step(Piece(ID, 10, content[10:-1] + b"!"))
    assert log.step(end_of(meta, content))[0] == "BAD_BACKUP"
    log.step(Piece(ID, 0, content))
    assert log.step(End(ID, len(content), b"d" * 32, meta))[0] == "BAD_BACKUP"
    assert log.get("old") == 1
    # Nothing of what failed stands in the way of the next one.
    log.step(Piece(ID, 0, content))
    assert log.step(end_of(meta, content))[0] == ""
    assert (log.get("old"), log.get("k")) == (None, 1)


def test_no_snapshot_is_of_a_moment_between_first_piece_and_end() -> None:
    """Whoever had it could not apply the end: its log begins behind the pieces."""
    log = Log()
    meta, content = kv_backup(k=1)
    log.step(Piece(ID, 0, content))
    with pytest.raises(RestoreInProgress):
        log.replicas[0].snapshot()
    log.step(end_of(meta, content))
    found, chunks = log.replicas[0].snapshot()
    again = Replica(KeyValueStore())
    again.restore(found, chunks)
    assert again.query(PLAIN.encode(["get", "k"])) == ("", b"\x01")
    log.records[0] = b""
    log.step(Piece(ID, 0, content))
    log.read = lambda *_: (_ for _ in ()).throw(KeyError(1))  # type: ignore[method-assign,assignment]
    log.replicas[0].restorations.read = log.read
    with pytest.raises(InvariantViolated, match="is gone"):
        log.step(end_of(meta, content))


def test_sessions_end_and_time_never_falls_behind_the_backups() -> None:
    log = Log()
    session = session_id(1, b"8 bytes.")
    log.add(Kind.REGISTER, encode_registration(b"8 bytes."))

    def once(sequence: int) -> str:
        (payload,) = session_payloads(session, sequence, 0, [PLAIN.encode(["set", "s", 1])])
        return log.add(Kind.SESSION_COMMAND, payload)[0]

    assert once(0) == ""
    meta, content = kv_backup(k=1)
    log.step(Piece(ID, 0, content))
    log.step(end_of(meta, content))
    assert log.replicas[0].last_time_us == 9_000_000
    assert once(0) == once(1) == "SESSION_EXPIRED"


def test_a_recovery_is_known_for_good_and_no_backup_brings_another() -> None:
    note = RecoveryNote("c+1", "c", 5, "raft recover x", encode_configuration(Configuration()))
    log = Log()
    log.command("set", "k", 1)
    assert log.replicas[0].recovery is None
    log.add(Kind.RECOVERY, encode_recovery(note))
    assert log.replicas[0].recovery == note
    again = Replica(KeyValueStore())
    again.restore(*log.replicas[0].snapshot())
    assert again.recovery == note
    meta, content = kv_backup(k=1)
    log.step(Piece(ID, 0, content))
    assert log.step(end_of(meta, content))[0] == ""
    assert log.replicas[0].recovery == note
    with pytest.raises(InvariantViolated):
        log.add(Kind.RECOVERY, b"nothing")
    disk: dict[bytes, bytes] = {}
    durable = Log(Durable(disk))
    durable.replicas[0].open()
    durable.add(Kind.RECOVERY, encode_recovery(note))
    durable.step(Piece(ID, 0, content))
    later = Replica(Durable(disk))
    later.open()
    assert later.recovery == note
    assert later.restorations.current == durable.replicas[0].restorations.current is not None


class Choosy(KeyValueStore):
    """A store that finds out late what it does not want."""

    error: type[BaseException] = KeyError

    def restoring(self, chunks: Iterator[bytes]) -> Iterator[None]:
        yield from super().restoring(chunks)
        if self.query(["get", "unwanted"]):
            raise self.error("late")


def test_a_backup_that_the_machine_refuses_changes_nothing_on_any_server() -> None:
    """Otherwise every server would stop at the entry, and after each restart once more."""
    log = Log(Choosy(), Choosy())
    log.command("set", "old", 1)
    log.add(Kind.REGISTER, encode_registration(b"8 bytes."))
    sessions = len(log.replicas[0].sessions)
    meta, content = kv_backup(k=1, unwanted=1)
    log.step(Piece(ID, 0, content))
    code, facts = log.step(end_of(meta, content))
    assert code == "BAD_BACKUP"
    assert "KeyError" in str(facts)
    assert (log.get("old"), log.get("k")) == (1, None)
    assert len(log.replicas[0].sessions) == sessions == 1
    assert log.replicas[0].last_time_us == 1_000_000
    log.command("set", "later", 5)
    assert (log.get("old"), log.get("later")) == (1, 5)
    log.replicas[0].snapshot()
    # What is local to one computer is no result.
    for replica in log.replicas:
        replica.machine.error = MemoryError  # type: ignore[attr-defined]
    log.step(Piece(ID, 0, content))
    with pytest.raises(StateMachineFailed, match="MemoryError"):
        log.step(end_of(meta, content))


def test_what_the_machine_cannot_take_is_known_before() -> None:
    replica = Replica(KeyValueStore())
    replica.check_backup(BackupMeta("c", 1, 1, 1, "kv", 1))
    for name, version in (("stack", 1), ("", 1), ("kv", 2)):
        with pytest.raises(BadBackup, match="this"):
            replica.check_backup(BackupMeta("c", 1, 1, 1, name, version))
    log = Log()
    meta = encode_meta(BackupMeta("c", 1, 1, 1, "stack", 1))
    log.step(Piece(ID, 0, b"bytes"))
    with pytest.raises(StateMachineFailed, match="machine 'stack'"):
        log.step(end_of(meta, b"bytes"))


@implementer(IOnDiskStateMachine)
class Durable:
    """Lists what it applied; what is committed survives in `disk`."""

    machine_name = "durable"
    machine_version = 1

    def __init__(self, disk: dict[bytes, bytes]) -> None:
        self.disk = disk
        self.batches: list[list[object]] = []

    def open(self) -> list[tuple[bytes, bytes]]:
        self.seen = PLAIN.decode_result(self.disk.get(b"state", b"\x90"))
        return [(key[1:], value) for key, value in self.disk.items() if key[:1] == b"n"]

    def begin(self) -> None:
        self.batches.append([])

    def apply(self, command: object, context: object) -> None:
        self.batches[-1].append(command)
        self.seen.append(command)  # type: ignore[union-attr]

    def query(self, query: object) -> object:
        return self.seen

    def commit(self, last_applied: int, notes: Mapping[bytes, bytes | None]) -> None:
        self.disk[b"state"] = PLAIN.encode_result(self.seen)
        for key, value in notes.items():
            self.disk[b"n" + key] = value or b""

    def snapshot(self) -> list[bytes]:
        return [PLAIN.encode_result(self.seen)]

    def restore(self, chunks: Iterator[bytes]) -> None:
        self.batches[-1].append("restored")
        self.seen = PLAIN.decode_result(b"".join(chunks))
        for key in [key for key in self.disk if key[:1] == b"n"]:
            del self.disk[key]

    def close(self) -> None:
        pass


def test_a_machine_on_a_disk_takes_it_in_a_batch_of_its_own_and_resumes_in_between() -> None:
    """S5: wherever the process ends, what is found afterwards goes on to the same end."""
    disk: dict[bytes, bytes] = {}
    log = Log(Durable(disk))
    log.replicas[0].open()
    log.command("old")
    _, chunks = log.replicas[0].snapshot()
    content = b"".join(chunks)
    meta = encode_meta(BackupMeta("c", 1, 1, 1, "durable", 1))
    log.step(Piece(ID, 0, content[:20]))
    log.step(Piece(ID, 20, content[20:]))
    log.command("replaced")
    again = Log(Durable(disk))
    again.records = log.records[:]
    again.replicas[0].open()
    assert again.replicas[0].last_applied == 4
    assert again.step(end_of(meta, content)) == ("", 5)
    assert PLAIN.decode_result(disk[b"state"]) == [["old"]]
    assert again.replicas[0].restorations.current is None
    several = Log(Durable({}))
    (replica,) = several.replicas
    replica.open()
    several.records = log.records[:4]
    last = encode(5, 3, 1, Kind.RESTORE, encode_step(end_of(meta, content)))
    behind = encode(6, 3, 1, Kind.COMMAND, PLAIN.encode("behind"))
    several.records += [last, behind]
    joined, offset = b"".join(several.records), 0
    while offset < len(joined):
        offset = replica.apply(joined, offset).offset
    machine = replica.machine
    assert isinstance(machine, Durable)
    assert machine.batches == [[["old"]], [], [], [["replaced"]], ["restored"], ["behind"]]
    assert machine.seen == [["old"], "behind"]
