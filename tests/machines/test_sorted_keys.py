"""Keys in order: put in their places a few at a time, while the dict changes as it likes."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from raft.machines.kv import KeyValueStore
from raft.machines.overlaid import POUR_KEYS
from raft.machines.sorted_keys import BLOCK_KEYS, Blocks, Key, SortedKeys

ALL = 1 << 40


def in_order(values: dict[Key, object], prefix: Key, after: Key | None) -> list[Key]:
    kind = type(prefix)
    return sorted(
        key
        for key in values
        if type(key) is kind and key.startswith(prefix) and (after is None or key > after)  # type: ignore[arg-type, operator]
    )


@pytest.mark.parametrize("seed", range(12))
def test_keys_come_in_order_whatever_happened_in_between(seed: int) -> None:
    chance = random.Random(seed)
    values: dict[Key, object] = {}
    keys = SortedKeys(values)
    width = chance.choice([30, 400, 20_000])
    for _ in range(chance.choice([200, 3_000])):
        for _ in range(chance.choice([1, 5, 20])):
            number = chance.randrange(width)
            values[str(number) if chance.random() < 0.8 else b"%d" % number] = None
        if values and chance.random() < 0.4:
            for key in chance.sample(list(values), min(len(values), chance.choice([1, 4]))):
                keys.discard(key)
                del values[key]
        if values and chance.random() < 0.2:
            keys.popped(values.popitem()[0])
        if chance.random() < 0.3:
            keys.take_in(chance.choice([0, 1, 7, 1000]))
        if chance.random() < 0.02:
            prefix, after = chance.choice([("", None), ("1", "15"), (b"", b"3"), ("2", None)])
            assert list(keys.starting(prefix, after)) == in_order(values, prefix, after)  # type: ignore[arg-type]
    assert list(keys.starting("", None)) == in_order(values, "", None)
    assert list(keys.starting(b"", None)) == in_order(values, b"", None)


@pytest.mark.parametrize("order", ["up", "down", "mixed"])
def test_no_block_is_larger_than_two(order: str) -> None:
    """What is sorted, or shifted, at once is bounded, in whatever order keys come."""
    numbers = list(range(10 * BLOCK_KEYS))
    if order == "down":
        numbers.reverse()
    elif order == "mixed":
        random.Random(1).shuffle(numbers)
    blocks = Blocks()
    for number in numbers:
        blocks.add(f"{number:09d}")
    assert max(map(len, blocks._blocks)) <= 2 * BLOCK_KEYS
    assert list(blocks.starting("", None)) == [f"{number:09d}" for number in sorted(numbers)]
    assert list(blocks.starting("00001", "000012345"))[:2] == ["000012346", "000012347"]
    assert len(list(blocks.starting("00001", None))) == 10_000
    assert list(blocks.starting("x", None)) == []


def filled(count: int) -> KeyValueStore:
    store = KeyValueStore()
    for number in range(count):
        store._values.written[f"{number * 7919 % count:06d}"] = number
    return store


def test_a_scan_is_prepared_by_two_thousand_keys_in_each_turn() -> None:
    store = filled(10_000)
    scan = ["scan", "", 3]
    assert not store.prepare(scan, False)
    assert store.prepare(["get", "x"], False)
    turns = 1
    while not store.prepare(scan, True):
        turns += 1
        assert not store.prepare(scan, False)
    assert turns == 10_000 // POUR_KEYS
    assert store.prepare(scan, False)
    assert [key for key, _ in store.query(scan)] == ["000000", "000001", "000002"]  # type: ignore[union-attr, misc, str-unpack]


def test_a_scan_is_prepared_while_a_snapshot_is_poured_back() -> None:
    """The overlay's keys keep their places as others leave it."""
    store = filled(3_000)
    view: Iterator[bytes] = store.snapshot()
    for number in range(9_000):
        store._values.written[f"new {number}"] = number
    while not store.prepare(["scan", "", 1], True):
        pass
    for chunk in view:
        if not chunk:
            assert store.prepare(["scan", "", 1], True) or store._values._keys._noted
    while not store.prepare(["scan", "", 1], True):
        pass
    assert len(list(store._values.starting("", None))) == 12_000
