"""Versions of a machine in the replica: one entry switches, and who cannot go along stops."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import attrs
import pytest
from zope.interface import implementer
from zope.interface.verify import verifyObject

from raft.codec import PLAIN
from raft.errors import BadConfiguration, InvariantViolated, NotFound, StateMachineFailed
from raft.interfaces import (
    Context,
    IOnDiskStateMachine,
    IStateMachine,
    IVersionedStateMachine,
    SnapshotMeta,
    Value,
)
from raft.machines.kv import KeyValueStore
from raft.machines.sqlite import SQLiteDatabase
from raft.replica import Replica
from raft.storage.records import (
    HIGHEST_VERSION,
    BadRecord,
    Kind,
    decode_version,
    encode,
    encode_commands,
    encode_version,
    summarise,
)

GOLDEN_VERSION = "f37c401e02000000030000000000000002000000000000000400000000000000079105"


@implementer(IVersionedStateMachine)
class Adder:
    """Adds; from version 2 on twice as much, from version 3 on it begins again at 1000."""

    machine_name = "adder"
    oldest_version = 1
    version = 3
    active_version = 1

    def __init__(self) -> None:
        self.total = 0
        self.switches: list[tuple[int, int, int]] = []
        self.restored_as = 0

    def apply(self, command: Value, context: Context) -> Value:
        assert isinstance(command, int)
        self.total += command * (2 if self.active_version >= 2 else 1)
        return self.total

    def query(self, query: Value) -> Value:
        return self.active_version

    def snapshot(self) -> Iterable[bytes]:
        return [b"%d as %d" % (self.total, self.active_version)]

    def restore(self, chunks: Iterator[bytes]) -> None:
        total, _, version = b"".join(chunks).split()
        assert int(version) == self.active_version
        self.total, self.restored_as = int(total), self.active_version

    def switch(self, version: int) -> None:
        self.switches.append((self.active_version, version, self.total))
        if version >= 3:
            self.total = 1000


class First(Adder):
    version = 1


class Second(Adder):
    version = 2


class Late(Adder):
    """A release that has dropped the first behaviour."""

    oldest_version = 2


@implementer(IOnDiskStateMachine)
class Durable(Adder):
    """An adder on an imagined disk."""

    def __init__(self, disk: dict[bytes, bytes]) -> None:
        super().__init__()
        self.disk = disk

    def open(self) -> Iterable[tuple[bytes, bytes]]:
        notes = dict(self.disk)
        self.total = int(notes.pop(b"total", b"0"))
        return list(notes.items())

    def begin(self) -> None:
        pass

    def commit(self, last_applied: int, notes: Mapping[bytes, bytes | None]) -> None:
        for key, value in notes.items():
            assert value is not None
            self.disk[key] = value
        self.disk[b"total"] = b"%d" % self.total

    def restore(self, chunks: Iterator[bytes]) -> None:
        super().restore(chunks)
        self.disk.clear()

    def close(self) -> None:
        pass


def commands(start: int, *values: Value) -> bytes:
    return encode_commands(start, 1, 0, [PLAIN.encode(value) for value in values])


def version(index: int, number: int) -> bytes:
    return encode(index, 1, 0, Kind.VERSION, encode_version(number))


def applied(machine: object, records: bytes) -> Replica:
    replica = Replica(machine)
    replica.open()
    assert replica.apply(records, deadline=float("inf")).offset == len(records)
    return replica


def copied(replica: Replica) -> tuple[SnapshotMeta, list[bytes]]:
    meta, chunks = replica.snapshot()
    return meta, list(chunks)


# What is applied.


def test_the_behaviour_changes_with_the_next_command_and_not_before() -> None:
    """sc-SM7: the same commands, the same results, whatever a server's code can besides."""
    records = commands(1, 5, 5) + version(3, 2) + commands(4, 5)
    replica = Replica(Adder())
    found = replica.apply(records, 0, 1, 5, deadline=float("inf"))
    assert [PLAIN.decode(result) for _, result in found.results] == [5, 10, None, 20]
    assert replica.versions.active == 2
    older = applied(Second(), records)
    assert older.machine.total == 20
    assert older.digest == replica.digest


def test_new_code_behaves_as_old_until_the_log_says_otherwise() -> None:
    records = commands(1, 5, 5)
    assert applied(First(), records).machine.total == applied(Adder(), records).machine.total == 10


def test_the_machine_is_told_once_with_the_state_as_it_was() -> None:
    machine = Adder()
    applied(machine, commands(1, 1) + version(2, 2) + version(3, 2) + version(4, 3) + version(5, 1))
    assert machine.switches == [(1, 2, 1), (2, 3, 1)]
    assert (machine.total, machine.active_version) == (1000, 3)


@pytest.mark.parametrize("machine", [First(), KeyValueStore()], ids=["version 1", "no versions"])
def test_who_cannot_the_version_stops_at_its_entry_and_names_both(machine: object) -> None:
    """Better stopped than diverged: and again after each restart."""
    replica = Replica(machine)
    with pytest.raises(StateMachineFailed, match="version 2 of the machine, this node can 1: upg"):
        replica.apply(version(1, 2) + commands(2, 5), deadline=float("inf"))
    assert replica.last_applied == 0
    with pytest.raises(StateMachineFailed):
        replica.apply(commands(1, 5))


def test_a_command_of_a_version_that_was_dropped_stops_the_node() -> None:
    machine = Late()
    replica = Replica(machine)
    with pytest.raises(StateMachineFailed, match=r"version 1 of the machine, this node can 2 to 3"):
        replica.apply(commands(1, 5))
    assert machine.total == 0


def test_a_log_that_begins_with_a_switch_needs_no_older_version() -> None:
    assert applied(Late(), version(1, 2) + commands(2, 5)).machine.total == 10


def test_a_machine_of_no_version_yet_gives_no_snapshot() -> None:
    """N7: it could not have taken that in again, so that the node would not have started."""
    log = encode(1, 1, 0, Kind.NO_OP, b"seed") + version(2, 2)
    replica = Replica(Late())
    replica.apply(log, want_end=0, deadline=0.0)
    assert replica.last_applied == 1
    with pytest.raises(NotFound, match="not of a version yet"):
        replica.snapshot()
    replica.apply(log[len(encode(1, 1, 0, Kind.NO_OP, b"seed")) :])
    again = Replica(Late())
    meta, chunks = copied(replica)
    again.restore(meta, iter(chunks))
    assert again.versions.active == 2


def test_a_machine_that_cannot_switch_stops_the_node() -> None:
    class Bad(Adder):
        def switch(self, version: int) -> None:
            raise KeyError("secret")

    replica = Replica(Bad())
    with pytest.raises(StateMachineFailed, match="switch to version 2 at entry 1: KeyError") as it:
        replica.apply(version(1, 2))
    assert "secret" not in str(it.value)


def test_an_entry_without_a_version_stops_the_node() -> None:
    for payload in (b"", b"\x91\x00", b"\x05", b"\x92\x05\x05", b"\x91\xa15"):
        with pytest.raises(InvariantViolated, match="no version"):
            Replica(Adder()).apply(encode(1, 1, 0, Kind.VERSION, payload))


@pytest.mark.parametrize("seed", range(40))
def test_servers_with_any_code_agree_or_have_stopped(seed: int) -> None:
    """sc-U1: upgraded, downgraded, restarted and sent snapshots at any moment."""
    chance = random.Random(seed)
    log = random_log(chance)
    whole = [(0, 0)]  # of a server that can everything: total and version, by index
    reference = Replica(Adder())
    for record in log:
        reference.apply(record)
        whole.append((reference.machine.total, reference.versions.active))
    servers = [Replica(First()), Replica(Second()), Replica(Adder())]
    for _ in range(60):
        at = chance.randrange(3)
        if chance.random() < 0.25:
            servers[at] = restarted(servers[at], chance.choice(servers), chance)
        replica = servers[at]
        end = min(len(log), replica.last_applied + chance.randrange(6))
        try:
            replica.apply(b"".join(log[replica.last_applied : end]), deadline=float("inf"))
        except StateMachineFailed:
            following = whole[min(replica.last_applied + 1, len(log))][1]
            assert following > replica.versions.newest
        state = replica.machine.total, replica.versions.active
        assert replica.last_applied == 0 or state == whole[replica.last_applied]
        assert replica.machine.active_version == replica.versions.active


def random_log(chance: random.Random) -> list[bytes]:
    """Return records: mostly commands, some switches, also to versions that are in force."""
    return [
        version(index, chance.choice([1, 2, 2, 3]))
        if chance.random() < 0.1
        else commands(index, chance.randrange(10))
        for index in range(1, 61)
    ]


def restarted(old: Replica, other: Replica, chance: random.Random) -> Replica:
    """Return a server with any code: from the beginning, or from its own or another's snapshot."""
    code = chance.choice([First, Second, Adder])
    replica = Replica(code())
    source = chance.choice([None, old, other])
    if source is None or not source.last_applied:
        return replica
    try:
        meta, content = copied(source)
        replica.restore(meta, content)
    except StateMachineFailed:
        # The source has stopped, or this code cannot the snapshot's version: it does not start.
        return Replica(Adder())
    return replica


# Snapshots and what is durable.


def test_a_snapshot_is_of_the_version_in_force_and_restores_it() -> None:
    """N1: not of the version that the code can."""
    replica = applied(Adder(), commands(1, 5) + version(2, 2) + commands(3, 5))
    meta, content = copied(replica)
    assert meta.machine_version == 2
    copy = Replica(Second())
    copy.restore(meta, content)
    assert (copy.machine.total, copy.machine.restored_as, copy.versions.active) == (15, 2, 2)
    assert copy.machine.switches == []
    assert copied(copy) == (meta, content)
    copy.apply(commands(4, 5))
    assert copy.machine.total == 25


def test_old_code_reads_what_new_code_wrote_before_the_switch() -> None:
    """sc-U2: during an upgrade any server may need any other's snapshot."""
    meta, content = copied(applied(Adder(), commands(1, 5)))
    assert meta.machine_version == 1
    copy = Replica(First())
    copy.restore(meta, content)
    assert copy.machine.total == 5


def test_a_snapshot_of_a_version_that_the_code_cannot_is_refused_with_both() -> None:
    meta, content = copied(applied(Adder(), version(1, 2) + commands(2, 5)))
    for machine in (First(), attrs.make_class("Adder", [], bases=(First,))()):
        with pytest.raises(StateMachineFailed, match=r"version 2 of the machine, this node runs 1"):
            Replica(machine).restore(meta, content)
    # Also where its first lines say nothing of the version.
    with pytest.raises(StateMachineFailed, match="version 2 of the machine, this node can 1: upg"):
        Replica(First()).restore(attrs.evolve(meta, machine_version=0), content)
    old, content = copied(applied(First(), commands(1, 5)))
    with pytest.raises(StateMachineFailed, match="run a release in between"):
        Replica(Late()).restore(old, content)


def test_a_machine_that_gets_versions_takes_over_what_it_had_without() -> None:
    """Version 1 is what a machine without versions has."""

    @implementer(IStateMachine)
    class Plain:
        machine_name = "adder"
        apply, query, restore = Adder.apply, Adder.query, Adder.restore
        snapshot = Adder.snapshot
        active_version = 1
        total = 0

    meta, content = copied(applied(Plain(), commands(1, 5)))
    replica = Replica(Adder())
    replica.restore(meta, content)
    assert (replica.machine.total, replica.versions.active) == (5, 1)
    # And back, while nothing has switched.
    Replica(Plain()).restore(*copied(replica))


def test_a_machine_on_a_disk_comes_back_with_its_version() -> None:
    disk: dict[bytes, bytes] = {}
    records = commands(1, 5) + version(2, 2) + commands(3, 5)
    first = applied(Durable(disk), records)
    again = Replica(Durable(dict(disk)))
    again.open()
    assert (again.versions.active, again.machine.active_version, again.machine.total) == (2, 2, 15)
    assert again.machine.switches == []
    assert again.digest == first.digest
    again.apply(commands(4, 5))
    assert again.machine.total == 25

    class Old(Durable):
        version = 1

    with pytest.raises(StateMachineFailed, match="version 2; this release reads 4 and 1: upgrade"):
        Replica(Old(dict(disk))).open()


def test_a_switch_is_in_the_same_batch_as_what_it_does() -> None:
    """S5: a process that ends in between comes back before both, or after both."""
    disk: dict[bytes, bytes] = {}
    replica = Replica(Durable(disk))
    replica.open()
    replica.apply(commands(1, 5))
    before = dict(disk)
    replica.apply(version(2, 3), deadline=0.0)
    for content, total, active in ((before, 5, 1), (disk, 1000, 3)):
        again = Replica(Durable(dict(content)))
        again.open()
        assert (again.machine.total, again.versions.active) == (total, active)


def test_notes_change_only_once_a_version_was_raised(tmp_path: Path) -> None:
    """What releases before this one wrote is what this one writes, until then."""
    disk: dict[bytes, bytes] = {}
    replica = applied(Durable(disk), commands(1, 5))
    assert disk[b"0"][:2] == b"\x9b\x01"
    replica.apply(version(2, 2))
    assert (disk[b"0"][:2], disk[b"0"][-2:]) == (b"\x9c\x02", b"\x02\x02")
    database = SQLiteDatabase(tmp_path)
    plain = applied(database, commands(1, ["execute", "CREATE TABLE t (x)"]))
    plain.close()
    assert dict(database.open())[b"0"][:2] == b"\x9b\x01"
    database.close()


# Bytes.


def test_the_record_is_as_it_was_written_first() -> None:
    assert encode(3, 2, 4, Kind.VERSION, encode_version(5)).hex() == GOLDEN_VERSION
    assert summarise(bytes.fromhex(GOLDEN_VERSION)).end == 4
    assert decode_version(encode_version(HIGHEST_VERSION)) == HIGHEST_VERSION
    with pytest.raises(BadRecord):
        decode_version(encode_version(HIGHEST_VERSION + 1))


def test_the_section_is_as_it_was_written_first() -> None:
    _, chunks = copied(applied(Adder(), version(1, 2)))
    content = b"".join(chunks)
    section = b"\xa8sections\x91\x92\xa7version\x01"
    assert content.index(section) + len(section) == content.index(b"\x01\x00\x00\x00\x02")
    assert content.endswith(b"\x01\x00\x00\x00\x02" + bytes(4) + b"0 as 2")


# The machine itself.


def test_the_fakes_here_are_state_machines() -> None:
    verifyObject(IVersionedStateMachine, Adder())
    verifyObject(IOnDiskStateMachine, Durable({}))


def test_what_a_machine_lacks_or_says_wrong_is_named() -> None:
    @implementer(IVersionedStateMachine)
    class Half:
        apply, query, snapshot, restore = Adder.apply, Adder.query, Adder.snapshot, Adder.restore

    with pytest.raises(BadConfiguration) as caught:
        Replica(Half())
    assert "lacks the attribute active_version; write active_version = 1" in str(caught.value)
    assert "lacks the method switch(version)" in str(caught.value)
    wrong: list[tuple[str, object]] = [("version", 0), ("version", "2"), ("oldest_version", 4)]
    for name, value in [*wrong, ("version", True), ("version", 1 << 31)]:
        machine = Adder()
        setattr(machine, name, value)
        with pytest.raises(BadConfiguration, match=name):
            Replica(machine)

    class Fixed(Adder):
        active_version = property(lambda self: 1)  # type: ignore[assignment]

    with pytest.raises(BadConfiguration, match="active_version cannot be set"):
        Replica(Fixed())
