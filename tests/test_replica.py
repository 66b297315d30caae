"""Committed entries to the machine: in order, once, in slices, and what failures mean."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

import attrs
import msgspec
import pytest
from twisted.logger import LogEvent, globalLogPublisher
from zope.interface import implementer
from zope.interface.verify import verifyObject

from raft.codec import PLAIN, Codec
from raft.core.configuration import Configuration, Member
from raft.envelope import GivenUp, Header, wrap
from raft.errors import (
    BadCommand,
    BadConfiguration,
    CommandError,
    CommandFailed,
    CommandTooLarge,
    InvariantViolated,
    StateMachineFailed,
    StorageDamaged,
    from_wire,
)
from raft.interfaces import Context, IStateMachine, Value
from raft.machines.kv import KeyValueStore
from raft.replica import Applied, Replica, Result
from raft.storage.records import (
    HEADER,
    Kind,
    encode,
    encode_commands,
    encode_configuration,
)

GOLDEN_CONTENT = (
    "52414654534e415001004800000086ab7265636f7264735f637263cea2809970ac6f7574636f6d65735f"
    "63726300a473656564c400a664696765737400ad6469676573745f6f726967696e00a873656374696f6e"
    "73901100000096a46b76203102a16b01c4016b92c0a176"
)
# As it was written before the header had a digest of the outcomes.
OLDER_CONTENT = (
    "52414654534e415001003100000084ab7265636f7264735f637263cea2809970ac6f7574636f6d65735f"
    "63726300a473656564c400a873656374696f6e73901100000096a46b76203102a16b01c4016b92c0a176"
)
CONFIGURATION = Configuration((Member("a"), Member("b"), Member("c")))


@implementer(IStateMachine)
class Notebook:
    """Writes down every call; a command that is a callable's name is carried out."""

    def __init__(self, **deeds: Callable[[Context], Value]) -> None:
        self.calls: list[tuple[int, int, float, Value]] = []
        self.deeds = deeds
        self.restored: list[bytes] = []

    def apply(self, command: Value, context: Context) -> Value:
        self.calls.append((context.index, context.term, context.time, command))
        if isinstance(command, str) and command in self.deeds:
            return self.deeds[command](context)
        return command

    def query(self, query: Value) -> Value:
        if isinstance(query, str) and query in self.deeds:
            return self.deeds[query](None)  # type: ignore[arg-type]
        return query

    def snapshot(self) -> Iterable[bytes]:
        return [b"machine ", b"bytes"]

    def restore(self, chunks: Iterator[bytes]) -> None:
        self.restored = list(chunks)


def fail(error: BaseException) -> Callable[[Context], Value]:
    def deed(_: Context) -> Value:
        raise error

    return deed


def commands(start: int, *values: Value, term: int = 1, time_us: int = 0) -> bytes:
    return encode_commands(start, term, time_us, [PLAIN.encode(value) for value in values])


def no_op(index: int, term: int = 1, time_us: int = 0) -> bytes:
    return encode(index, term, time_us, Kind.NO_OP, b"")


def apply_all(replica: Replica, records: bytes, **wanted: int) -> list[Result]:
    applied = replica.apply(records, **wanted, deadline=float("inf"))
    assert applied.offset == len(records)
    return applied.results


def error_in(result: Result) -> BaseException:
    code, facts = result
    return from_wire(code, msgspec.msgpack.decode(facts))


def everything(start: int = 1) -> dict[str, int]:
    return {"want_from": start, "want_end": 2**62}


class Watch:
    """A clock that takes a millisecond for each look at it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        self.seconds += 0.001
        return self.seconds


# What the machine sees.


def test_the_records_header_is_read_as_it_is_written() -> None:
    record = encode(3, 2, 5, Kind.COMMAND, b"\xc0")
    assert struct.unpack_from("<4xIQQQB", record) == HEADER.unpack_from(record)[1:]


def test_commands_reach_the_machine_in_order_with_index_term_and_time() -> None:
    """I7: each entry once, in log order."""
    machine = Notebook()
    replica = Replica(machine)
    apply_all(replica, commands(1, "a", "b", term=1, time_us=1_500_000))
    apply_all(replica, commands(3, "c", term=4, time_us=2_000_000))
    assert machine.calls == [(1, 1, 1.5, "a"), (2, 1, 1.5, "b"), (3, 4, 2.0, "c")]
    assert (replica.last_applied, replica.last_applied_term) == (3, 4)


def test_what_is_no_command_advances_and_the_machine_is_not_told() -> None:
    machine = Notebook()
    replica = Replica(machine)
    records = (
        no_op(1)
        + encode(2, 1, 0, Kind.CONFIGURATION, encode_configuration(CONFIGURATION))
        + commands(3, "x")
    )
    results = apply_all(replica, records, **everything())
    assert [call[0] for call in machine.calls] == [3]
    assert results == [("", b"\xc0"), ("", b"\xc0"), ("", PLAIN.encode("x"))]
    assert (replica.configuration, replica.configuration_index) == (CONFIGURATION, 2)
    assert replica.last_applied == 3


@pytest.mark.parametrize("kind", [100, 77, 128, 255])
def test_an_unknown_kind_stops_the_node_and_is_never_skipped(kind: int) -> None:
    """sc-U4: stop before applying."""
    machine = Notebook()
    replica = Replica(machine)
    records = commands(1, "a") + encode(2, 1, 0, kind, b"") + commands(3, "c")
    with pytest.raises(InvariantViolated, match=f"entry 2 is of kind {kind}"):
        replica.apply(records)
    assert [call[3] for call in machine.calls] == ["a"]
    assert replica.last_applied == 1
    with pytest.raises(InvariantViolated):
        replica.apply(commands(2, "b"))
    with pytest.raises(InvariantViolated):
        replica.query(PLAIN.encode("q"))
    with pytest.raises(InvariantViolated):
        replica.snapshot()


@pytest.mark.parametrize("index", [0, 1, 2, 4, 2**63])
def test_only_the_next_entry_is_applied(index: int) -> None:
    """I7: i = applied + 1."""
    machine = Notebook()
    replica = Replica(machine)
    apply_all(replica, commands(1, "a", "b"))
    with pytest.raises(InvariantViolated):
        replica.apply(commands(index, "c"))
    assert len(machine.calls) == 2
    assert replica.last_applied == 2


def test_cut_records_are_not_applied() -> None:
    whole = commands(1, "a", "b" * 50)
    for size in range(len(commands(1, "a")) + 1, len(whole)):
        machine = Notebook()
        replica = Replica(machine)
        with pytest.raises(InvariantViolated):
            replica.apply(whole[:size], deadline=float("inf"))
        assert [call[3] for call in machine.calls] == ["a"]


def test_time_never_runs_backwards() -> None:
    machine = Notebook()
    replica = Replica(machine)
    for index, time_us in enumerate((5, 9, 3, 0, 10), start=1):
        apply_all(replica, commands(index, "x", time_us=time_us))
    assert [call[2] for call in machine.calls] == [5e-6, 9e-6, 9e-6, 9e-6, 1e-5]
    assert replica.last_time_us == 10


def test_chance_is_the_same_on_every_server_and_another_in_each_command_and_cluster() -> None:
    def draws(seed: bytes) -> list[object]:
        drawn: list[object] = []

        def draw(context: Context) -> Value:
            drawn.append((context.random.random(), context.uuid(), context.uuid()))
            return None

        apply_all(Replica(Notebook(draw=draw), seed=seed), commands(1, "draw", "x", "draw"))
        return drawn

    assert draws(b"one") == draws(b"one")
    first, third = draws(b"one")
    assert first != third
    assert draws(b"two")[0] != first
    assert first[1] != first[2]
    assert first[1].version == 4


def test_a_leaders_no_op_brings_the_seed_and_a_snapshot_keeps_it() -> None:
    def drawn(*replicas: Replica) -> list[str]:
        uuids: list[str] = []
        for replica in replicas:
            replica.machine.deeds["draw"] = lambda context: uuids.append(str(context.uuid()))  # type: ignore[attr-defined]
            apply_all(replica, commands(replica.last_applied + 1, "draw", term=9))
        return uuids

    def seeded(seed: bytes) -> Replica:
        replica = Replica(Notebook())
        apply_all(replica, encode(1, 1, 0, Kind.NO_OP, seed) + no_op(2, term=2))
        return replica

    one, same, other = drawn(seeded(b"one"), seeded(b"one"), seeded(b"other"))
    assert one == same != other
    original, copy = seeded(b"one"), Replica(Notebook())
    meta, chunks = original.snapshot()
    copy.restore(meta, chunks)
    assert drawn(original, copy) == [one, one]


def test_the_drawn_numbers_are_part_of_the_contract() -> None:
    """Replicas of different releases must draw alike: these are golden."""
    drawn: list[str] = []

    def draw(context: Context) -> Value:
        drawn.append(str(context.uuid()))
        return None

    apply_all(Replica(Notebook(draw=draw), seed=b"cluster"), commands(1, "draw"))
    assert drawn == ["19e745a5-3149-49ce-8dc9-538917f6b87f"]


# Results.


def test_results_are_encoded_for_wanted_indexes_only() -> None:
    records = commands(1, *range(200))
    for want_from, want_end in ((0, 0), (1, 2**60), (50, 60), (150, 2**60), (0, 3), (200, 201)):
        replica = Replica(Notebook())
        applied = replica.apply(records, 0, want_from, want_end, deadline=float("inf"))
        wanted = range(max(1, want_from), min(want_end, 201))
        assert [PLAIN.decode_result(each) for _, each in applied.results] == [
            index - 1 for index in wanted
        ]
        if wanted:
            assert applied.first_result == wanted[0]
        assert (applied.last_applied, applied.offset) == (200, len(records))


def test_a_result_is_encoded_before_the_next_command_can_change_it() -> None:
    """sc-SM5."""
    box: list[Value] = []

    def grow(_: Context) -> Value:
        box.append(len(box))
        return box

    replica = Replica(Notebook(grow=grow))
    results = apply_all(replica, commands(1, "grow", "grow"), **everything())
    assert [PLAIN.decode_result(each) for _, each in results] == [[0], [0, 1]]


def test_a_refusal_is_a_result() -> None:
    """S6: and it has the reason and the detail of the machine."""
    replica = Replica(Notebook(no=fail(CommandError("full", "no room"))))
    refused, fine = apply_all(replica, commands(1, "no", "yes"), **everything())
    error = error_in(refused)
    assert isinstance(error, CommandError)
    assert (error.reason, error.detail) == ("full", "no room")
    assert fine == ("", PLAIN.encode("yes"))
    assert replica.command_errors == 1


def test_a_reason_that_is_no_text_does_not_harm() -> None:
    replica = Replica(Notebook(no=fail(CommandError(object(), ["x"]))))  # type: ignore[arg-type]
    (refused,) = apply_all(replica, commands(1, "no"), **everything())
    assert isinstance(error_in(refused), CommandError)


@pytest.mark.parametrize("error", [ValueError("canary"), KeyError("canary"), TypeError("canary")])
def test_an_unforeseen_exception_is_a_result_with_its_class_name_only(error: Exception) -> None:
    """sc-SM1: the same on all servers; SECURITY 32: its text reaches neither result nor log."""
    events: list[LogEvent] = []
    globalLogPublisher.addObserver(events.append)
    try:
        replica = Replica(Notebook(bad=fail(error)))
        results = apply_all(replica, commands(1, "bad", "bad"), **everything())
    finally:
        globalLogPublisher.removeObserver(events.append)
    failed = error_in(results[0])
    assert isinstance(failed, CommandFailed)
    assert failed.exception == type(error).__name__
    assert b"canary" not in results[0][1]
    assert [event["log_level"].name for event in events] == ["warn", "debug"]
    assert "canary" not in repr(events)
    assert replica.last_applied == 2


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RecursionError(), OSError(28, "full"), KeyboardInterrupt(), SystemExit(1)],
    ids=lambda error: type(error).__name__,
)
def test_what_concerns_this_computer_alone_stops_this_node(error: BaseException) -> None:
    """sc-SM2, sc-P7: that node stops; it does not skip."""
    replica = Replica(Notebook(bad=fail(error)))
    with pytest.raises(StateMachineFailed) as caught:
        replica.apply(commands(1, "fine", "bad", "never"), deadline=float("inf"))
    assert caught.value.__cause__ is error
    assert replica.last_applied == 1
    with pytest.raises(StateMachineFailed):
        replica.apply(commands(2, "fine"))


def test_a_machine_may_ask_to_stop_at_any_unforeseen_exception() -> None:
    machine = Notebook(bad=fail(ValueError()), no=fail(CommandError("no")))
    machine.stop_on_error = True  # type: ignore[attr-defined]
    replica = Replica(machine)
    apply_all(replica, commands(1, "no"))
    with pytest.raises(StateMachineFailed):
        replica.apply(commands(2, "bad"))


def test_a_machine_may_stop_the_node_itself() -> None:
    failure = StateMachineFailed("the index on disk is damaged")
    with pytest.raises(StateMachineFailed, match="the index on disk"):
        Replica(Notebook(bad=fail(failure))).apply(commands(1, "bad"))


def test_a_command_that_cannot_be_decoded_is_refused_on_every_server_alike() -> None:
    machine = Notebook()
    records = encode(1, 1, 0, Kind.COMMAND, b"\xc1") + commands(2, "x")
    replica = Replica(machine)
    results = apply_all(replica, records, **everything())
    assert isinstance(error_in(results[0]), BadCommand)
    assert [call[0] for call in machine.calls] == [2]
    silent = Replica(Notebook())
    apply_all(silent, records)
    assert silent.digest == replica.digest


def test_a_result_that_cannot_travel_fails_the_command_and_not_the_node() -> None:
    itself: list[Value] = []
    itself.append(itself)
    replica = Replica(
        Notebook(
            thing=lambda _: object(),  # type: ignore[arg-type,return-value]
            huge=lambda _: 2**70,
            itself=lambda _: itself,
        )
    )
    for result in apply_all(replica, commands(1, "thing", "huge", "itself"), **everything()):
        assert isinstance(error_in(result), CommandFailed)
    assert error_in(replica.query(PLAIN.encode("huge"))).__class__ is CommandFailed


# Slices.


def test_a_slice_ends_at_the_deadline_and_says_how_far_it_came() -> None:
    records = commands(1, *range(1_000))
    replica = Replica(Notebook(), clock=Watch(), slice_seconds=0.005)
    offset, ends, results = 0, [], []
    while offset < len(records):
        applied = replica.apply(records, offset, 1, 2_000)
        assert applied.first_result == len(results) + 1
        results += applied.results
        offset = applied.offset
        ends.append(applied.last_applied)
    assert [PLAIN.decode_result(each) for _, each in results] == list(range(1_000))
    # Looks at the clock after 1, 2, 4, 8, 16 entries: five of its milliseconds.
    assert ends[0] == 31
    assert ends[-1] == 1_000


def test_a_slice_is_never_longer_than_sixty_four_entries_without_a_look_at_the_clock() -> None:
    looks: list[int] = []
    machine = Notebook()

    def clock() -> float:
        looks.append(len(machine.calls))
        return 0.0

    Replica(machine, clock=clock).apply(commands(1, *range(1_000)))
    gaps = [after - before for before, after in pairwise(looks)]
    assert max(gaps) == 64


def test_a_slice_applies_at_least_one_entry_however_late_it_is() -> None:
    replica = Replica(Notebook())
    records = commands(1, "a", "b")
    assert replica.apply(records, deadline=-1.0).last_applied == 1


def test_slices_and_batches_leave_the_same_digest() -> None:
    """sc-SM3."""
    values = [["set", f"k{number}", number] for number in range(300)] + [["bad"]]
    whole = Replica(KeyValueStore())
    apply_all(whole, commands(1, *values))
    dice = random.Random(3)
    cut = Replica(KeyValueStore(), clock=Watch(), slice_seconds=0.002)
    position = 0
    while position < len(values):
        size = dice.randrange(1, 40)
        piece = commands(position + 1, *values[position : position + size])
        offset = 0
        while offset < len(piece):
            offset = cut.apply(piece, offset, 1, dice.randrange(400)).offset
        position += size
    assert cut.digest == whole.digest
    other = Replica(KeyValueStore())
    apply_all(other, commands(1, *values[:-1], ["set", "k", 1]))
    assert other.digest != whole.digest


def test_the_digest_tells_two_outcomes_of_one_command_apart() -> None:
    """sc-SM3."""
    digests = set()
    for error in (ValueError(), CommandError("no"), None):
        deed = fail(error) if error else lambda _: None
        replica = Replica(Notebook(maybe=deed))
        apply_all(replica, commands(1, "maybe"))
        digests.add(replica.digest)
    assert len(digests) == 3


def test_no_records_are_applied_at_once() -> None:
    assert Replica(Notebook()).apply(b"") == Applied(0, 0, 1, [])


# Queries.


def test_a_query_answers_from_the_state_and_no_exception_stops_the_node() -> None:
    replica = Replica(
        Notebook(no=fail(CommandError("no")), bad=fail(KeyError("x")), disk=fail(OSError(5, "io")))
    )
    assert replica.query(PLAIN.encode(["q"])) == ("", PLAIN.encode(["q"]))
    assert replica.query(PLAIN.encode(None)) == ("", b"\xc0")
    assert isinstance(error_in(replica.query(PLAIN.encode("no"))), CommandError)
    for name in ("bad", "disk"):
        assert isinstance(error_in(replica.query(PLAIN.encode(name))), CommandFailed)
    apply_all(replica, commands(1, "fine"))


def test_a_query_is_checked_as_a_command_is() -> None:
    replica = Replica(Notebook(), Codec(limit_bytes=50))
    assert isinstance(error_in(replica.query(b"\xc1")), BadCommand)
    assert isinstance(error_in(replica.query(b"\x91" * 45)), BadCommand)
    assert isinstance(error_in(replica.query(b"x" * 51)), CommandTooLarge)


# Snapshots.


def test_a_snapshot_says_all_of_itself_and_restores_it() -> None:
    """N1: last index and term, configuration and its index, time, machine and version."""
    replica = Replica(KeyValueStore())
    records = (
        encode(1, 1, 5, Kind.CONFIGURATION, encode_configuration(CONFIGURATION))
        + commands(2, ["set", "k", b"v"], ["nonsense"], term=2, time_us=9)
        + no_op(4, term=3, time_us=11)
    )
    apply_all(replica, records)
    meta, chunks = replica.snapshot()
    assert (meta.index, meta.term, meta.time_us) == (4, 3, 11)
    assert (meta.configuration, meta.configuration_index) == (CONFIGURATION, 1)
    assert (meta.machine, meta.machine_version) == ("kv", 1)
    content = b"".join(chunks)
    for size in (1, 7, 1 << 20):
        copy = Replica(KeyValueStore())
        copy.restore(meta, [content[at : at + size] for at in range(0, len(content), size)])
        assert copy.snapshot()[0] == meta
        assert copy.digest == replica.digest
        assert copy.query(PLAIN.encode(["get", "k"])) == ("", PLAIN.encode(b"v"))
        for each in (copy, replica):
            assert each.last_applied == 4
        apply_all(copy, commands(5, ["set", "k", 1], term=3, time_us=8))
        assert copy.last_time_us == 11


def test_a_snapshots_content_is_laid_out_as_documented() -> None:
    """A golden snapshot: what one release wrote, all later ones read."""
    replica = Replica(KeyValueStore())
    apply_all(replica, commands(1, ["set", "k", 1], ["set", b"k", [None, "v"]], time_us=7))
    meta, chunks = replica.snapshot()
    content = b"".join(chunks)
    assert content.hex() == GOLDEN_CONTENT
    for golden, origin in ((GOLDEN_CONTENT, 0), (OLDER_CONTENT, 2)):
        copy = Replica(KeyValueStore())
        copy.restore(meta, [bytes.fromhex(golden)])
        assert copy.query(PLAIN.encode(["get", b"k"])) == ("", PLAIN.encode([None, "v"]))
        assert copy.rolling.origin == origin


def test_long_chunks_are_cut_and_pauses_passed_on() -> None:
    class Long(Notebook):
        def snapshot(self) -> Iterable[bytes]:
            return [b"x" * (3 << 20), b"", b"y"]

    _, chunks = Replica(Long()).snapshot()
    sizes = [len(chunk) for chunk in chunks]
    assert sizes[1:] == [1 << 20, 1 << 20, 1 << 20, 0, 1]


def test_a_snapshot_that_is_given_up_is_closed() -> None:
    closed: list[bool] = []

    def content() -> Iterator[bytes]:
        try:
            yield b"x"
            yield b"y"
        finally:
            closed.append(True)

    held = content()

    class Closing(Notebook):
        def snapshot(self) -> Iterator[bytes]:
            return held

    _, chunks = Replica(Closing()).snapshot()
    next(chunks), next(chunks)
    chunks.close()  # type: ignore[attr-defined]
    assert closed == [True]


def test_a_snapshot_that_is_never_begun_is_closed_too() -> None:
    """sc-S13: where no file could be made the machine would wait for its reader for ever."""
    closed: list[bool] = []

    class Content:
        def __iter__(self) -> Iterator[bytes]:
            return iter([b"x"])

        def close(self) -> None:
            closed.append(True)

    class Closing(Notebook):
        def snapshot(self) -> Iterable[bytes]:
            return Content()

    _, chunks = Replica(Closing()).snapshot()
    chunks.close()  # type: ignore[attr-defined]
    _, chunks = Replica(Closing()).snapshot()
    with pytest.raises(StopIteration):
        chunks.throw(GivenUp())  # type: ignore[attr-defined]
    assert closed == [True, True]


def test_a_snapshot_that_fails_leaves_the_node_well() -> None:
    """sc-S13: it serves on and tries again."""

    class Failing(Notebook):
        def snapshot(self) -> Iterator[bytes]:
            yield b"x"
            raise OSError(28, "no room")

    replica = Replica(Failing())
    _, chunks = replica.snapshot()
    with pytest.raises(OSError, match="no room"):
        list(chunks)
    apply_all(replica, commands(1, "on"))


def snapshot_of(machine: Notebook) -> tuple[object, bytes]:
    replica = Replica(machine)
    apply_all(replica, commands(1, "a"))
    meta, chunks = replica.snapshot()
    return meta, b"".join(chunks)


class Versioned(Notebook):
    machine_name = "notebook"
    machine_version = 2


def test_another_machines_or_a_later_snapshot_is_refused_and_stops_the_node() -> None:
    meta, content = snapshot_of(Versioned())
    for change in ({"machine_version": 3}, {"machine": "kv"}):
        replica = Replica(Versioned())
        with pytest.raises(StateMachineFailed, match=r"the snapshot up to \d+ is of"):
            replica.restore(attrs.evolve(meta, **change), [content])  # type: ignore[arg-type]
        with pytest.raises(StateMachineFailed):
            replica.apply(commands(1, "x"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:13],
        lambda content: content[:20],
        lambda content: b"X" + content[1:],
        lambda content: content[:8] + b"\x02\x00" + content[10:],
        lambda content: b"".join(wrap(Header(0, 0, b"x" * 66_000), [])),
        lambda content: content[:14] + b"\xc1" + content[15:],
        lambda content: b"".join(wrap(Header(0, 0, sections=[("future", 1)]), [])),
    ],
    ids=["empty", "cut", "cut header", "magic", "version", "long header", "no map", "sections"],
)
def test_content_that_cannot_be_read_stops_the_node(damage: Callable[[bytes], bytes]) -> None:
    meta, content = snapshot_of(Notebook())
    damaged = damage(content)
    assert damaged != content
    machine = Notebook()
    replica = Replica(machine)
    with pytest.raises(StateMachineFailed):
        replica.restore(meta, [damaged])  # type: ignore[arg-type]
    assert machine.restored == []
    with pytest.raises(StateMachineFailed):
        replica.apply(commands(1, "x"))


def test_an_older_snapshot_is_not_restored_and_changes_nothing() -> None:
    """N6, sc-S13b: the applied index never goes back."""
    meta, content = snapshot_of(Notebook())
    replica = Replica(Notebook())
    apply_all(replica, commands(1, "a", "b"))
    with pytest.raises(InvariantViolated):
        replica.restore(meta, [content])  # type: ignore[arg-type]
    assert replica.last_applied == 2
    apply_all(replica, commands(3, "c"))


def test_what_the_chunks_raise_passes_through_and_stops_the_node() -> None:
    meta, content = snapshot_of(Notebook())

    def chunks() -> Iterator[bytes]:
        yield content[:-1]
        raise StorageDamaged("snap", 3, "restore it")

    replica = Replica(Notebook())
    with pytest.raises(StorageDamaged):
        replica.restore(meta, chunks())  # type: ignore[arg-type]
    with pytest.raises(StateMachineFailed, match="not restored to its end"):
        replica.query(PLAIN.encode("x"))


def test_a_good_restore_follows_a_bad_one() -> None:
    meta, content = snapshot_of(Notebook())
    machine = Notebook()
    replica = Replica(machine)
    with pytest.raises(StateMachineFailed):
        replica.restore(meta, [b"junk" * 10])  # type: ignore[arg-type]
    replica.restore(meta, [content])  # type: ignore[arg-type]
    assert b"".join(machine.restored) == b"machine bytes"
    apply_all(replica, commands(2, "b"))


# The machine itself.


def test_the_fake_here_is_a_state_machine() -> None:
    verifyObject(IStateMachine, Notebook())


def test_an_object_that_is_no_machine_is_named_with_the_remedy() -> None:
    class Plain:
        pass

    with pytest.raises(BadConfiguration, match=r"Plain is no state machine; decorate it with"):
        Replica(Plain())
    with pytest.raises(BadConfiguration, match="Notebook is a class; give an instance"):
        Replica(Notebook)


def test_every_missing_method_is_named() -> None:
    @implementer(IStateMachine)
    class Half:
        def apply(self, command: Value, context: Context) -> Value:
            return None

        def query(self) -> Value:
            return None

    with pytest.raises(BadConfiguration) as caught:
        Replica(Half())
    text = str(caught.value)
    assert "Half lacks the method snapshot()" in text or "; lacks the method snapshot()" in text
    assert "lacks the method restore(chunks)" in text
    assert "unusable query(query)" in text


def test_an_async_method_is_refused_at_the_start_and_not_at_the_first_command() -> None:
    class Patient(Notebook):
        async def apply(self, command: Value, context: Context) -> Value:  # type: ignore[override]
            return command

    with pytest.raises(BadConfiguration, match=r"Patient has an async apply\(command, context\)"):
        Replica(Patient())


def test_a_machine_that_changes_and_keeps_what_it_is_given_changes_nothing_else() -> None:
    """sc-SM5: what a server sends, saves and applies again is bytes, which nobody can change."""

    class Spoiler(Notebook):
        kept: list[Value]

        def apply(self, command: Value, context: Context) -> Value:
            self.kept = [*getattr(self, "kept", []), command]
            assert isinstance(command, list)
            super().apply(list(command), context)
            for each in self.kept:
                each.append("spoilt")  # type: ignore[union-attr]
            return command

    records = commands(1, ["a"], ["b"], ["a"])
    before = bytes(records)
    told = []
    for _ in range(2):
        machine = Spoiler()
        told.append(apply_all(Replica(machine), records, **everything()))
        assert [call[3] for call in machine.calls] == [["a"], ["b"], ["a"]]
    assert told[0] == told[1]
    assert records == before
