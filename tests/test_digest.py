"""The rolling digest [S4]: same entries and outcomes, same digest, at every index."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from itertools import count
from typing import Any

import pytest
from zope.interface import implementer

from raft.codec import PLAIN, Codec
from raft.digest import BLOCK_ENTRIES, KEPT_BLOCKS, Digest, folded, stream_of
from raft.errors import BadCommand, CommandError, CommandFailed, RaftError
from raft.interfaces import Context, IStateMachine, Value
from raft.replica import Replica
from raft.storage.records import Kind, encode, encode_commands
from tests.test_sessions_model import Disk, Shelf


@implementer(IStateMachine)
class Oracle:
    """Answers each command by a function of it."""

    def __init__(self, answer: Callable[[Any], Any] = lambda command: command) -> None:
        self.answer = answer

    def apply(self, command: Value, _: Context) -> Value:
        return self.answer(command)  # type: ignore[no-any-return]

    def query(self, query: Value) -> Value:
        return query

    def snapshot(self) -> Iterable[bytes]:
        return [b"nothing"]

    def restore(self, chunks: Iterable[bytes]) -> None:
        b"".join(chunks)


def commands(start: int, values: Iterable[object]) -> bytes:
    return encode_commands(start, 1, 5, [PLAIN.encode(value) for value in values])


def applied(values: list[Any], answer: Callable[[Any], Any] = lambda each: each) -> Replica:
    replica = Replica(Oracle(answer), clock=lambda: 0.0)
    replica.apply(commands(1, values))
    assert replica.last_applied == len(values)
    return replica


def raising(error: Exception) -> Callable[[Any], Any]:
    def answer(_: Any) -> Any:
        raise error

    return answer


MIXED: list[Any] = [
    *(
        None,
        True,
        -5,
        7.25,
        "text",
        b"bytes",
        "a text of more bytes than are told as they are" * 2,
    ),
    *([1, "two"], {"b": 1, "a": [2]}, 0, False, "", 1 << 63, [[]]),
]


def test_the_digest_is_the_one_of_this_table() -> None:
    """A golden value: what two releases that are compared must agree on."""
    digest = Digest()
    digest.told += (1, True, 2, -3, 3, 0.5)
    digest.answered(4, b"short")
    digest.told += (5, "text")
    digest.answered(5, b"x" * 65)
    digest.refused(6, CommandError("no-such-key", "told to nobody"))
    digest.reach(6, b"records", 0, 7)
    assert f"{digest.value:016x}" == "b57c5d2c3b435b7b"
    digest.reach(BLOCK_ENTRIES, b"records", 0, 7)
    assert f"{digest.value:016x}" == "a10841963acbadb1"


def test_slices_and_wanted_results_change_no_digest() -> None:
    """sc-SM3: at each index it is the same, however the log was cut."""
    values = MIXED * 30
    whole = applied(values)
    dice = random.Random(5)
    cut = Replica(Oracle(), clock=count().__next__, slice_seconds=3)
    seen: dict[int, int | None] = {}
    while cut.last_applied < len(values):
        start = cut.last_applied + 1
        piece = commands(start, values[start - 1 : start - 1 + dice.randrange(1, 90)])
        offset = 0
        while offset < len(piece):
            wanted = dice.randrange(500)
            offset = cut.apply(piece, offset, wanted, wanted + dice.randrange(99)).offset
            assert cut.rolling.at(cut.last_applied) == cut.rolling.value
            seen[cut.last_applied] = cut.rolling.value
    assert len(seen) > 20
    assert {index: whole.rolling.at(index) for index in seen} == seen
    for index in range(len(values) + 1):
        assert whole.rolling.at(index) == cut.rolling.at(index) is not None


@pytest.mark.parametrize("at", [0, 6, 254, 255, 256, 350])
def test_the_first_entry_with_another_outcome_is_found(at: int) -> None:
    """sc-SM3: from there on no digest is the same again."""
    values: list[Any] = [number if number % 3 else [number] for number in range(400)]
    one = applied(values)
    numbers = count()
    other = applied(values, lambda each: "other" if next(numbers) == at else each)
    same = [one.rolling.at(index) == other.rolling.at(index) for index in range(401)]
    assert same.index(False) == at + 1
    assert not any(same[at + 1 :])


def test_other_entries_with_the_same_outcomes_are_told_apart_at_the_next_multiple() -> None:
    one, other = (applied([["set", key]] * 256, lambda _: None) for key in "ab")
    assert one.rolling.at(255) == other.rolling.at(255)
    assert one.rolling.at(256) != other.rolling.at(256)
    # All of what is applied counts in what a status shows.
    one, other = (applied([["set", key]], lambda _: None) for key in "ab")
    assert one.digest != other.digest


def test_errors_are_told_by_their_code_and_never_by_their_text() -> None:
    """A text may differ between servers; reason and class of an error may not."""
    errors = [
        *(CommandError("one"), CommandError("two"), ValueError("x"), KeyError("x")),
        *(CommandError("COMMAND_ERROR:one"), None),
    ]
    values = {
        applied(["c"], raising(error) if error else lambda _: None).rolling.value
        for error in errors
    }
    assert len(values) == len(errors)
    for one, other in (
        (CommandError("one", "text"), CommandError("one", "another")),
        (ValueError("text"), ValueError("another")),
    ):
        replicas = [applied(["c"], raising(error)) for error in (one, other)]
        assert len({replica.rolling.value for replica in replicas}) == 1


def test_a_result_that_is_changed_later_was_told_as_it_was() -> None:
    """sc-SM5: the machine gives away its own list, and slices end anywhere."""

    def machine() -> Callable[[Any], Any]:
        kept: list[Any] = []

        def answer(command: Any) -> Any:
            kept.append(command)
            return kept

        return answer

    one, other = Replica(Oracle(machine())), Replica(Oracle(machine()))
    one.apply(commands(1, range(40)), deadline=float("inf"))
    for number in range(40):
        other.apply(commands(number + 1, [number]))
    assert one.rolling.value == other.rolling.value


def test_the_order_of_a_dicts_keys_is_no_divergence() -> None:
    """One server may have built its dict, another restored it; both answer the same."""
    one = applied(["c"], lambda _: [{"a": 1, "b": {"c": 2, "d": 3}}])
    other = applied(["c"], lambda _: [{"b": {"d": 3, "c": 2}, "a": 1}])
    assert one.rolling.value == other.rolling.value
    # Keys of several types have no order but the one in which they stand.
    assert applied(["c"], lambda _: {1: 2, "a": 3}).rolling.value


def test_a_result_that_cannot_travel_is_told_alike_by_leader_and_follower() -> None:
    huge = 1 << 70
    replicas = [Replica(Oracle(lambda _: [huge, huge][0])) for _ in range(2)]
    replicas += [Replica(Oracle(lambda _: object())) for _ in range(2)]
    replicas += [Replica(Oracle(lambda _: "\ud800")) for _ in range(2)]
    for number, replica in enumerate(replicas):
        replica.apply(commands(1, [1, 2]), want_from=1, want_end=1 + number % 2 * 5)
    values = [replica.rolling.value for replica in replicas]
    assert values[0] == values[1] != values[2] == values[3] != values[4] == values[5]


def test_results_of_an_applications_own_types_are_told() -> None:
    codec = Codec(encode_hook=lambda value: [value.real, value.imag])
    replicas = [Replica(Oracle(lambda _, z=z: z), codec) for z in (1j, 1j, 2j)]
    for replica in replicas:
        replica.apply(commands(1, [1]))
    one, same, other = (replica.rolling.value for replica in replicas)
    assert one == same != other


def test_only_so_much_is_remembered() -> None:
    """I21: the ends of blocks, for so many of them, and not what a talkative block told."""
    many = BLOCK_ENTRIES * (KEPT_BLOCKS + 10)
    digest = Digest()
    for index in range(BLOCK_ENTRIES, many + 1, BLOCK_ENTRIES):
        digest.told += (index - 1, index)
        digest.reach(index, b"", 0, 0)
    assert digest.oldest == many - BLOCK_ENTRIES * (KEPT_BLOCKS - 1)
    assert digest.at(digest.oldest - 1) is None
    assert digest.at(digest.oldest) is not None
    assert digest.at(many + 1) is None
    for _ in range(8000):
        digest.answered(many + 1, b"expired 0123")
    digest.reach(many + 5, b"", 0, 0)
    assert digest.at(many) is not None
    assert digest.at(many + 1) is None
    assert digest.at(many + 5) == digest.value


def test_a_snapshot_carries_the_digest_on() -> None:
    """S4: who was restored in the midst of a block has the same digest from there on."""
    values = MIXED * 15
    one = applied(values)
    meta, chunks = one.snapshot()
    other = Replica(Oracle(), clock=lambda: 0.0)
    other.restore(meta, chunks)
    after = commands(len(values) + 1, MIXED * 9)
    for replica in (one, other):
        replica.apply(after)
    assert other.rolling.at(meta.index - 1) is None
    for index in range(meta.index, one.last_applied + 1):
        assert one.rolling.at(index) == other.rolling.at(index) is not None
    assert one.digest == other.digest
    assert other.rolling.origin == 0


def no_op(index: int) -> bytes:
    return encode(index, 2, 5, Kind.NO_OP, b"")


def test_digests_that_began_in_the_midst_begin_anew_at_each_election() -> None:
    """Two that were restored from snapshots without one, of different entries, come together."""
    digests = [Digest(), Digest()]
    for digest, index in zip(digests, (10, 20), strict=True):
        digest.resume(index, 7, None)
        assert digest.origin == digest.index == index
    replicas = [Replica(Oracle(), clock=lambda: 0.0) for _ in digests]
    for replica, begun in zip(replicas, (3, 5), strict=True):
        replica.apply(commands(1, range(begun)))
        replica.rolling.resume(begun, replica.rolling.records_crc, None)
        replica.apply(commands(begun + 1, range(begun, 260)))
    assert len({replica.rolling.value for replica in replicas}) == 2
    for replica in replicas:
        replica.apply(no_op(261) + commands(262, range(300)))
        assert replica.rolling.origin == 261
    for index in range(261, 562):
        one, other = (replica.rolling.at(index) for replica in replicas)
        assert one == other is not None
    # One that covers the whole log is never begun anew.
    whole = applied(list(range(5)))
    whole.apply(no_op(6))
    assert (whole.rolling.origin, whole.rolling.at(5)) == (0, whole.rolling.value)


def test_what_is_told_is_a_stream_without_borders() -> None:
    told: list[Any] = [1, True, 2, b"x", 3, 0.5] * 20
    whole = stream_of(list(told))
    for cut in range(len(told)):
        assert stream_of(told[:cut]) + stream_of(told[cut:]) == whole
    assert stream_of(told * 600) == whole * 600
    assert folded(b"x" * 16) == b"x" * 16
    assert len(folded(b"x" * 65)) == 8


def test_a_refusal_is_told_by_its_code() -> None:
    errors: list[RaftError] = [BadCommand("text"), BadCommand("other"), CommandFailed("E")]
    values = []
    for error in errors:
        digest = Digest()
        digest.refused(1, error)
        digest.reach(1, b"", 0, 0)
        values.append(digest.value)
    assert values[0] == values[1] != values[2]


def test_a_note_of_another_entry_is_passed_over() -> None:
    """S5: a release that knew of no digest went on with the machine, and left the note behind."""
    disk = Disk()
    replica = Replica(Shelf(disk))
    replica.open()
    replica.apply(commands(1, [["a", 1], ["b", 2]]))
    replica.close()
    again = Replica(Shelf(disk))
    again.open()
    assert (again.rolling.value, again.rolling.origin) == (replica.rolling.value, 0)
    disk.notes[b"d"] = PLAIN.encode([1, 7, 0])
    later = Replica(Shelf(disk))
    later.open()
    assert (later.rolling.value, later.rolling.origin) == (0, 2)
