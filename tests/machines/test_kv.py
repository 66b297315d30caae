"""The key-value store: every command, and views that stand still while it changes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import pairwise

import pytest
from zope.interface.verify import verifyObject

from raft.errors import CommandError
from raft.interfaces import IStateMachine, Value
from raft.machines import overlaid
from raft.machines.kv import SCAN_BYTES, SCAN_LIMIT, KeyValueStore
from raft.machines.slices import SLICE_BYTES
from raft.machines.sorted_keys import SortedKeys
from raft.replica import CommandContext

CONTEXT = CommandContext(b"")


def apply(store: KeyValueStore, *command: Value) -> Value:
    return store.apply(list(command), CONTEXT)


def query(store: KeyValueStore, *query: Value) -> Value:
    return store.query(list(query))


def everything(store: KeyValueStore) -> dict[Value, Value]:
    return {
        key: query(store, "get", key)
        for prefix in ("", b"")
        for key in scanned(store, prefix, SCAN_LIMIT)
    }


def scanned(store: KeyValueStore, prefix: Value, limit: int) -> list[Value]:
    """Return all keys with `prefix`, by as many scans as it takes."""
    keys: list[Value] = []
    after: list[Value] = []
    while pairs := query(store, "scan", prefix, limit, *after):
        keys += [key for key, _ in pairs]
        after = keys[-1:]
    return keys


def restored(chunks: Iterator[bytes]) -> KeyValueStore:
    store = KeyValueStore()
    store.restore(chunks)
    return store


def test_it_is_a_state_machine() -> None:
    verifyObject(IStateMachine, KeyValueStore())


def test_set_get_delete_count() -> None:
    store = KeyValueStore()
    assert query(store, "get", "k") is None
    assert apply(store, "set", "k", {"a": [1, b"2"]}) is None
    assert apply(store, "set", b"k", 2) is None
    assert query(store, "get", "k") == {"a": [1, b"2"]}
    assert query(store, "get", b"k") == 2
    assert query(store, "count") == 2
    assert apply(store, "delete", "k") is True
    assert apply(store, "delete", "k") is False
    assert query(store, "get", "k") is None
    assert query(store, "count") == 1


def test_cas_stores_only_over_what_was_expected() -> None:
    store = KeyValueStore()
    assert apply(store, "cas", "k", 1, 2) is False
    assert query(store, "count") == 0
    assert apply(store, "cas", "k", None, 1) is True
    assert apply(store, "cas", "k", None, 5) is False
    assert apply(store, "cas", "k", 1, [2]) is True
    assert apply(store, "cas", "k", [3], 4) is False
    assert query(store, "get", "k") == [2]


def test_append_makes_and_lengthens_a_list() -> None:
    store = KeyValueStore()
    assert apply(store, "append", "k", 7) == 1
    assert apply(store, "append", "k", [8]) == 2
    assert query(store, "get", "k") == [7, [8]]
    apply(store, "set", "s", "text")
    with pytest.raises(CommandError) as caught:
        apply(store, "append", "s", 1)
    assert caught.value.reason == "not-a-list"
    assert query(store, "get", "s") == "text"


def test_scan_is_in_order_of_keys_with_limit_and_continuation() -> None:
    store = KeyValueStore()
    for key in ("b", "a/2", "a/1", "a/10", "é", "a", b"a/1", b"\xff"):
        apply(store, "set", key, key)
    assert query(store, "scan", "a/", 10) == [["a/1", "a/1"], ["a/10", "a/10"], ["a/2", "a/2"]]
    assert query(store, "scan", "a/", 2) == [["a/1", "a/1"], ["a/10", "a/10"]]
    assert query(store, "scan", "a/", 2, "a/10") == [["a/2", "a/2"]]
    assert query(store, "scan", "a/", 2, "a/2") == []
    assert query(store, "scan", "", 2, "b") == [["é", "é"]]
    assert query(store, "scan", b"", 9) == [[b"a/1", b"a/1"], [b"\xff", b"\xff"]]
    apply(store, "delete", "a/10")
    apply(store, "set", "a/11", 1)
    assert scanned(store, "", 2) == ["a", "a/1", "a/11", "a/2", "b", "é"]


def test_a_scan_ends_before_it_grows_too_large_and_can_be_continued() -> None:
    store = KeyValueStore()
    for number in range(8):
        apply(store, "set", f"k{number}", ["x" * (SCAN_BYTES // 3)])
    assert len(query(store, "scan", "", 100)) == 3  # type: ignore[arg-type]
    assert len(scanned(store, "", 100)) == 8


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (None, "bad-command"),
        ("set", "bad-command"),
        ([], "bad-command"),
        (["get", "k"], "bad-command"),
        (["set", "k"], "bad-command"),
        (["set", "k", 1, 2], "bad-command"),
        ({"set": 1, "k": 2, "v": 3}, "bad-command"),
        (["set", 1, 2], "bad-key"),
        (["set", True, 2], "bad-key"),
        (["set", None, 2], "bad-key"),
        (["delete", ["k"]], "bad-key"),
        (["cas", 1.5, 1, 2], "bad-key"),
        (["append", {}, 2], "bad-key"),
        (["expire", "k"], "bad-command"),
    ],
)
def test_a_bad_command_is_refused_and_changes_nothing(command: Value, reason: str) -> None:
    store = KeyValueStore()
    apply(store, "set", "k", 1)
    with pytest.raises(CommandError) as caught:
        store.apply(command, CONTEXT)
    assert caught.value.reason == reason
    assert everything(store) == {"k": 1}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (None, "bad-command"),
        (["set", "k", 1], "bad-command"),
        (["get"], "bad-command"),
        (["get", 1], "bad-key"),
        (["scan", "", 0], "bad-limit"),
        (["scan", "", SCAN_LIMIT + 1], "bad-limit"),
        (["scan", "", True], "bad-limit"),
        (["scan", "", "1"], "bad-limit"),
        (["scan", None, 1], "bad-key"),
        (["scan", "", 1, b""], "bad-key"),
        (["scan", "", 1, None], "bad-key"),
    ],
)
def test_a_bad_query_is_refused(bad: Value, reason: str) -> None:
    with pytest.raises(CommandError) as caught:
        KeyValueStore().query(bad)
    assert caught.value.reason == reason


# Snapshots.


def filled(count: int) -> KeyValueStore:
    store = KeyValueStore()
    for number in range(count):
        apply(store, "set", f"key-{number:06}", number)
    return store


def test_a_snapshot_shows_the_moment_it_was_taken() -> None:
    """sc-S10: the state at exactly that index, whatever is applied meanwhile."""
    store = filled(10_000)
    apply(store, "append", "list", 1)
    before = everything(store)
    chunks = store.snapshot()
    parts = [next(chunks)]
    for number in range(0, 12_000, 3):
        apply(store, "set", f"key-{number:06}", "new")
        apply(store, "delete", f"key-{number + 1:06}")
    apply(store, "append", "list", 2)
    apply(store, "append", "list", 3)
    after = everything(store)
    assert after["list"] == [1, 2, 3]
    assert query(store, "count") == len(after)
    parts += list(chunks)
    assert everything(restored(iter(parts))) == before
    assert everything(store) == after
    assert query(store, "count") == len(after)
    assert everything(restored(store.snapshot())) == after


def test_a_snapshot_comes_in_slices_of_at_most_two_thousand_keys() -> None:
    """N2: a slice is a fraction of a millisecond."""
    chunks = list(filled(10_000).snapshot())
    assert len(chunks) == 6
    assert max(map(len, chunks)) < SLICE_BYTES


def test_slices_are_bounded_in_bytes_too() -> None:
    store = KeyValueStore()
    for number in range(40):
        apply(store, "set", f"s{number}", "x" * 50_000)
        apply(store, "set", f"l{number}", [["x" * 50_000]])
    chunks = list(store.snapshot())
    assert max(map(len, chunks)) < SLICE_BYTES + 60_000
    assert everything(restored(iter(chunks))) == everything(store)


def test_a_key_and_its_value_are_never_parted_by_a_slice() -> None:
    store = KeyValueStore()
    for number in range(5):
        apply(store, "set", f"{number}" * SLICE_BYTES, number)
    chunks = list(store.snapshot())
    assert len(chunks) == 5
    assert everything(restored(iter(chunks))) == everything(store)


def test_what_was_written_meanwhile_is_poured_back_in_slices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(overlaid, "POUR_KEYS", 10)
    store = filled(100)
    chunks = store.snapshot()
    for number in range(100):
        apply(store, "set", f"new-{number}", number)
    pauses = 0
    for chunk in chunks:
        if not chunk:
            pauses += 1
            apply(store, "set", "during", pauses)
            apply(store, "delete", f"key-{pauses:06}")
            assert query(store, "get", f"key-{pauses:06}") is None
            assert query(store, "get", "during") == pauses
    assert 10 <= pauses < 15
    assert query(store, "count") == 200 + 1 - pauses
    assert len(everything(store)) == 200 + 1 - pauses
    assert list(restored(store.snapshot()).snapshot())


def test_pouring_ends_however_fast_others_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlaid, "POUR_KEYS", 10)
    store = filled(10)
    chunks = store.snapshot()
    pauses = 0
    for _ in chunks:
        pauses += 1
        for number in range(100):
            apply(store, "set", f"{pauses}-{number}", number)
    assert pauses < 10
    assert len(everything(store)) == 10 + 100 * pauses


def test_a_second_snapshot_waits_until_the_first_is_read_or_closed() -> None:
    store = filled(10)
    first = store.snapshot()
    next(first)
    with pytest.raises(RuntimeError, match="finish or close it first"):
        store.snapshot()
    apply(store, "set", "k", 1)
    first.close()  # type: ignore[attr-defined]
    second = store.snapshot()
    assert len(everything(restored(second))) == 11
    assert list(first) == []


def test_a_snapshot_that_nobody_holds_closes_itself() -> None:
    store = filled(10)
    store.snapshot()
    next(iter(store.snapshot()))
    apply(store, "set", "k", 1)
    assert len(everything(restored(store.snapshot()))) == 11


def test_an_old_view_ends_without_touching_a_newer_one() -> None:
    store = filled(10)
    first = store.snapshot()
    first.close()  # type: ignore[attr-defined]
    second = store.snapshot()
    apply(store, "set", "key-000001", "new")
    assert list(first) == []
    first.close()  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError):
        store.snapshot()
    assert query(restored(second), "get", "key-000001") == 1


def test_a_view_behind_one_that_is_being_poured_back_loses_nothing() -> None:
    """N2: what the first one's overlay still holds is part of the second one's state."""
    store = filled(10)
    first = store.snapshot()
    for number in range(3 * overlaid.POUR_KEYS):
        apply(store, "set", f"new-{number}", number)
    while next(first):
        pass
    second = store.snapshot()
    apply(store, "set", "new-0", "changed")
    assert len(everything(restored(second))) == 10 + 3 * overlaid.POUR_KEYS
    assert list(first) == []
    assert query(store, "count") == 10 + 3 * overlaid.POUR_KEYS
    assert query(store, "get", "new-0") == "changed"


def test_a_restore_replaces_everything_while_a_snapshot_is_read() -> None:
    store = filled(5_000)
    chunks = store.snapshot()
    next(chunks)
    apply(store, "set", "k", 1)
    other = KeyValueStore()
    apply(other, "set", "only", 1)
    store.restore(other.snapshot())
    list(chunks)
    assert everything(store) == {"only": 1}


def test_what_is_no_whole_snapshot_is_refused_and_changes_nothing() -> None:
    content = b"".join(filled(10).snapshot())
    store = filled(3)
    for damaged in (b"", content[:-1], content + b"\x00", content[:3], content[9:]):
        with pytest.raises(ValueError):  # noqa: PT011
            store.restore(iter([damaged]))
    *all_but_the_last, _ = list(filled(5_000).snapshot())
    with pytest.raises(ValueError, match="keys where it promises 5000"):
        store.restore(iter(all_but_the_last))
    assert len(everything(store)) == 3


@pytest.mark.parametrize("seed", range(40))
def test_it_behaves_as_a_dict_with_snapshots_at_any_time(seed: int) -> None:
    """Random commands, scans, snapshots read in pieces, given up, overlapping pours."""
    dice = random.Random(seed)
    store, model = KeyValueStore(), {}
    keys: list[Value] = [f"k{number}" for number in range(12)] + [b"k%d" % n for n in range(6)]
    view: Iterator[bytes] | None = None
    parts: list[bytes] = []
    expected: dict[Value, Value] = {}
    pour = overlaid.POUR_KEYS
    for step in range(600):
        key = dice.choice(keys)
        match dice.choice(("set", "set", "delete", "cas", "append", "scan", "view", "view")):
            case "set":
                apply(store, "set", key, step)
                model[key] = step
            case "delete":
                assert apply(store, "delete", key) == (model.pop(key, None) is not None)
            case "cas":
                guess = dice.choice((model.get(key), step))
                assert apply(store, "cas", key, guess, -step) == (guess == model.get(key))
                if guess == model.get(key):
                    model[key] = -step
            case "append" if isinstance(model.get(key, []), list):
                model[key] = [*model.get(key, []), step]  # type: ignore[misc]
                assert apply(store, "append", key, step) == len(model[key])  # type: ignore[arg-type]
            case "scan":
                prefix = dice.choice(("", "k1", b"", b"k"))
                right = sorted(
                    k
                    for k in model
                    if type(k) is type(prefix) and k.startswith(prefix)  # type: ignore[union-attr]
                )
                assert scanned(store, prefix, dice.randrange(1, 9)) == right
            case "view" if view is None:
                expected = {k: list(v) if isinstance(v, list) else v for k, v in model.items()}
                view, parts = store.snapshot(), []
            case "view" if dice.random() < 0.1:
                view = view.close()  # type: ignore[union-attr]
            case "view":
                view._count = dice.randrange(1, 4)  # type: ignore[union-attr]
                chunk = next(view, None)  # type: ignore[arg-type]
                if chunk is None:
                    assert everything(restored(iter(parts))) == expected
                    view = None
                else:
                    parts.append(chunk)
        assert query(store, "count") == len(model)
        assert query(store, "get", key) == model.get(key)
    assert everything(store) == model
    assert pour == overlaid.POUR_KEYS


@pytest.mark.parametrize("seed", range(20))
def test_sorted_keys_follow_their_dict(seed: int) -> None:
    dice = random.Random(seed)
    values: dict[str | bytes, object] = {}
    keys = SortedKeys(values)
    for _ in range(60):
        for _ in range(dice.choice((1, 5, 200))):
            values[dice.choice((str, lambda n: b"%d" % n))(dice.randrange(500))] = 1
        for key in dice.sample(sorted(values, key=repr), dice.randrange(min(9, len(values)))):
            keys.discard(key)
            del values[key]
        if dice.random() < 0.5:
            assert list(keys.starting("", None)) == sorted(k for k in values if type(k) is str)
            assert list(keys.starting(b"", b"3")) == sorted(
                k for k in values if type(k) is bytes and k > b"3"
            )


def test_a_store_is_replaced_by_two_thousand_keys_in_each_step() -> None:
    """Neither the old state nor the new one is dropped, filled or held at once."""
    chunks, store = list(filled(9_000).snapshot()), filled(7_000)
    old = store._values._base
    sizes = [len(old)]
    restoring = store.restoring(iter(chunks))
    for _ in restoring:
        sizes.append(len(old))
    assert sizes[-1] == 0
    assert max(before - after for before, after in pairwise(sizes)) == 2_000
    assert len(sizes) > 7_000 // 2_000 + 9_000 // 2_000
    assert everything(store) == everything(filled(9_000))


def test_a_store_that_is_being_read_is_left_to_its_reader() -> None:
    store = filled(3_000)
    view = store.snapshot()
    first = next(iter(view))
    store.restore(iter(list(filled(10).snapshot())))
    for _ in store.restoring(iter(list(filled(20).snapshot()))):
        pass
    again = KeyValueStore()
    again.restore(iter([first, *view]))
    assert len(everything(again)) == 3_000
    assert len(everything(store)) == 20


def test_steps_of_a_restore_refuse_what_a_restore_refuses() -> None:
    chunks = list(filled(5_000).snapshot())
    store = filled(3)
    with pytest.raises(ValueError, match="kv 1"):
        next(store.restoring(iter([b"\x04\x00\x00\x00\x92\xa1x\x01"])))
    assert len(everything(store)) == 3
    with pytest.raises(ValueError, match="promises 5000"):
        list(store.restoring(iter(chunks[:-1])))
