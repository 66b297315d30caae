"""The checker itself is checked: against brute force, on seeded faults, and on its honesty."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence

import pytest
from attrs import evolve

from raft.interfaces import Value
from raft.machines.kv import KeyValueStore
from raft.replica import CommandContext
from raft.testing.history import Operation, Recorder, read
from raft.testing.linearizability import KEY_VALUE, REGISTER, Verdict, check

CONTEXT = CommandContext(b"")


def operation(
    op: str,
    call: int,
    end: int | None,
    *,
    value: Value = None,
    expected: Value = None,
    output: Value = None,
    ok: bool | None = True,
    key: str = "k",
) -> Operation:
    """Return one that returned at `end`, or whose outcome is unknown where that is None."""
    if end is None:
        ok = None
    return Operation("c", op, key, value, expected, output, ok, call, end)


def ask(store: KeyValueStore, each: Operation) -> Value:
    """Carry an operation out on the real store."""
    match each.op:
        case "get":
            return store.query(["get", each.key])
        case "delete":
            return store.apply(["delete", each.key], CONTEXT)
        case "cas":
            return store.apply(["cas", each.key, each.expected, each.value], CONTEXT)
    return store.apply([each.op, each.key, each.value], CONTEXT)


def brute_force(history: Sequence[Operation]) -> bool:
    """Try every order, on a plain value, with nothing remembered and nothing pruned."""
    taking_part = [each for each in history if each.ok is not False]

    def extend(left: list[Operation], state: Value) -> bool:
        if not any(each.ok for each in left):
            return True
        first_return = min(each.return_ns for each in left if each.ok)  # type: ignore[type-var]
        for each in left:
            if each.call_ns > first_return:  # type: ignore[operator]
                continue
            output, after = outcome(each, state)
            if each.ok and output != each.output:
                continue
            if extend([other for other in left if other is not each], after):
                return True
        return False

    return extend(taking_part, None)


def outcome(each: Operation, state: Value) -> tuple[Value, Value]:
    match each.op:
        case "get":
            return state, state
        case "set":
            return None, each.value
        case "delete":
            return state is not None, None
        case "cas":
            return state == each.expected, each.value if state == each.expected else state
    longer = [*(state or []), each.value]  # type: ignore[misc]
    return len(longer), longer


def random_operations(
    dice: random.Random, count: int, appends: bool, longest: int
) -> list[Operation]:
    """Return operations with random times and no results yet."""
    made = []
    for number in range(count):
        call = dice.randrange(0, 3 * count)
        op = dice.choice(("get", "append") if appends else ("get", "get", "set", "delete", "cas"))
        made.append(
            Operation(
                client=f"c{number}",
                op=op,
                key="k",
                value=dice.randrange(1, 4) if op in ("set", "cas", "append") else None,
                expected=dice.choice((None, 1, 2, 3)) if op == "cas" else None,
                ok=True,
                call_ns=call,
                return_ns=call + dice.randrange(1, longest),
            )
        )
    return made


def legal_history(
    dice: random.Random, count: int, appends: bool = False, longest: int = 14
) -> list[Operation]:
    """Return a history that the real store gave, each operation at a moment within its time."""
    moments = [
        (dice.uniform(each.call_ns, each.return_ns or 0), number, each)
        for number, each in enumerate(random_operations(dice, count, appends, longest))
    ]
    store, history = KeyValueStore(), []
    for _, _, each in sorted(moments):
        if dice.random() < 0.15:
            # The client never heard: half of these took effect all the same.
            if dice.random() < 0.5:
                ask(store, each)
            history.append(evolve(each, ok=None, return_ns=None))
        else:
            output = ask(store, each)
            history.append(
                evolve(each, output=list(output) if isinstance(output, list) else output)
            )
    return history


def mutated(dice: random.Random, history: list[Operation]) -> list[Operation]:
    """Swap the results of two operations of one kind, or give one another's value."""
    returned = [number for number, each in enumerate(history) if each.ok]
    if len(returned) < 2:
        return history
    first, second = dice.sample(returned, 2)
    if history[first].op != history[second].op:
        return history
    changed = list(history)
    changed[first] = evolve(history[first], output=history[second].output)
    changed[second] = evolve(history[second], output=history[first].output)
    return changed


@pytest.mark.parametrize("chunk", range(4))
def test_it_agrees_with_brute_force_on_random_histories(chunk: int) -> None:
    """TESTING 3.10: random results, hence legal and illegal ones, with unknown outcomes."""
    dice = random.Random(chunk)
    verdicts = {Verdict.OK: 0, Verdict.ILLEGAL: 0}
    for _ in range(2_500):
        history = legal_history(dice, dice.randrange(1, 9), appends=dice.random() < 0.2)
        for number, each in enumerate(history):
            if each.ok and each.op in ("get", "cas", "delete") and dice.random() < 0.2:
                output = dice.choice((None, 1, 2) if each.op == "get" else (True, False))
                history[number] = evolve(each, output=output)
            elif dice.random() < 0.05:
                history[number] = evolve(each, ok=False, output=None)
        report = check(history)
        assert (report.verdict is Verdict.OK) == brute_force(history), history
        verdicts[report.verdict] += 1
        if report.piece:
            assert not brute_force(report.piece), report.text
    assert min(verdicts.values()) > 500


def test_mutated_histories_are_judged_as_brute_force_judges_them() -> None:
    """TESTING 3.10: two results swapped: illegal, or proven still legal."""
    dice = random.Random(11)
    illegal = 0
    for _ in range(1_000):
        history = mutated(dice, legal_history(dice, 8, appends=dice.random() < 0.3))
        report = check(history)
        assert (report.verdict is Verdict.OK) == brute_force(history), history
        illegal += report.verdict is Verdict.ILLEGAL
    assert illegal > 20


@pytest.mark.parametrize("seed", range(20))
def test_long_legal_histories_of_many_keys_are_ok(seed: int) -> None:
    dice = random.Random(seed)
    history = [
        evolve(each, key=key)
        for key in ("a", "b", "c")
        for each in legal_history(dice, 60, appends=key == "c")
    ]
    dice.shuffle(history)
    assert check(history).verdict is Verdict.OK


def illegal(*history: Operation) -> str:
    report = check(history)
    assert report.verdict is Verdict.ILLEGAL
    assert not brute_force(history)
    return report.text


def test_an_acknowledged_write_that_is_lost_is_found() -> None:
    illegal(
        operation("set", 0, 10, value=1),
        operation("set", 20, 30, value=2),
        operation("get", 40, 50, output=1),
    )
    illegal(operation("set", 0, 10, value=1), operation("get", 20, 30, output=None))
    illegal(
        operation("append", 0, 10, value=1, output=1),
        operation("append", 20, 30, value=2, output=1),
    )


def test_a_stale_read_is_found() -> None:
    illegal(
        operation("set", 0, 10, value=1),
        operation("set", 20, 100, value=2),
        operation("get", 30, 40, output=2),
        operation("get", 50, 60, output=1),
    )


def test_a_failed_compare_and_set_that_took_effect_is_found() -> None:
    illegal(
        operation("set", 0, 10, value=1),
        operation("cas", 20, 30, expected=3, value=2, output=False),
        operation("get", 40, 50, output=2),
    )


def test_a_refused_write_that_took_effect_is_found() -> None:
    """sc-Q10: a wrong "definitely not done" must fail a test."""
    illegal(
        operation("set", 0, 10, value=1),
        operation("set", 20, 30, value=2, ok=False),
        operation("get", 40, 50, output=2),
    )


def test_a_compare_and_set_that_succeeded_twice_is_found() -> None:
    illegal(
        operation("set", 0, 10, value=1),
        operation("cas", 20, 50, expected=1, value=2, output=True),
        operation("cas", 20, 50, expected=1, value=3, output=True),
    )


def test_an_unknown_write_may_take_effect_at_any_time_later_or_never() -> None:
    write, lost = operation("set", 0, 10, value=1), operation("set", 20, None, value=2)
    early = operation("get", 30, 40, output=1)
    late = operation("get", 1_000, 1_010, output=2)
    for history in ([write, lost, early], [write, lost, early, late], [write, lost, late]):
        assert check(history).verdict is Verdict.OK
    illegal(write, lost, late, operation("get", 2_000, 2_010, output=1))
    illegal(write, operation("set", 50, None, value=2), operation("get", 30, 40, output=2))


def test_operations_that_touch_at_one_moment_overlap() -> None:
    history = [operation("set", 0, 10, value=1), operation("get", 10, 20, output=None)]
    assert check(history).verdict is Verdict.OK


def explosive(count: int, output: Value) -> list[Operation]:
    """Return writes that all overlap, and reads that no order explains unless by luck."""
    writes = [operation("cas", 0, 10_000, expected=9, value=n, output=False) for n in range(3)]
    writes += [operation("set", n, 10_000, value=n) for n in range(1, count)]
    reads = [operation("get", n + 1, 10_000, output=n) for n in range(1, count)]
    return writes + reads + [operation("get", 20_000, 20_001, output=output)]


def test_a_spent_budget_is_never_ok() -> None:
    history = explosive(14, output=-1)
    for budget in (0, 1, 10, 1_000):
        report = check(history, budget_steps=budget)
        assert report.verdict is Verdict.UNKNOWN
        assert report.steps <= budget
        assert report.key == "k"
        assert "undecided" in report.text
    legal = [operation("set", n, n + 1, value=n) for n in range(0, 200, 2)]
    assert check(legal, budget_steps=99).verdict is Verdict.UNKNOWN
    assert check(legal, budget_steps=1_000).verdict is Verdict.OK


def test_an_easily_refuted_key_does_not_wait_behind_an_explosive_one() -> None:
    """TESTING 3.10: searches take turns with a growing budget."""
    hard = [evolve(each, key="a") for each in explosive(40, output=-1)]
    easy = [
        operation("set", 0, 1, value=1, key="z"),
        operation("get", 2, 3, output=2, key="z"),
    ]
    report = check(hard + easy, budget_steps=100_000)
    assert (report.verdict, report.key) == (Verdict.ILLEGAL, "z")
    assert report.steps < 5_000


def crowd(count: int, key: str) -> list[Operation]:
    """Return writes that all overlap, none of which explains the read after them."""
    writes = [operation("set", 0, 100, value=number, key=key) for number in range(count)]
    return [*writes, operation("get", 200, 201, output=-1, key=key)]


def test_what_was_tried_is_remembered() -> None:
    """Without the memory, 8 writes at once would be 8! orders, and 109,601 beginnings."""
    report = check(crowd(8, "k"))
    assert report.verdict is Verdict.ILLEGAL
    assert report.steps < 15_000


def test_turns_grow_and_never_leave_all_the_budget_to_one_key() -> None:
    hard = [evolve(each, key="a") for each in explosive(40, output=-1)]
    report = check(hard + crowd(8, "z"), budget_steps=500_000)
    assert (report.verdict, report.key) == (Verdict.ILLEGAL, "z")
    assert report.steps < 60_000


def test_the_illegal_piece_holds_what_is_wrong_and_not_what_only_lost_its_cause() -> None:
    history = [
        operation("set", 0, 10, value=1),
        operation("get", 12, 300, output=5),
        operation("set", 20, 100, value=2),
        operation("get", 30, 40, output=1),
    ]
    assert history[1] in check(history).piece


def test_the_illegal_piece_is_small() -> None:
    dice = random.Random(5)
    history: list[Operation] = []
    now = 0
    for number in range(300):
        history.append(operation("set", now, now + 5, value=number))
        history.append(operation("get", now + 10, now + 15, output=number))
        now += 20
    stale = 2 * dice.randrange(100, 200) + 1
    history[stale] = evolve(history[stale], output=3)
    report = check(history)
    # What was read, who wrote it, and what stands between.
    assert set(report.piece) == {history[6], history[stale - 1], history[stale]}
    assert report.text.count("\n") == 3
    assert "get -> 3" in report.text


def test_the_register_model_knows_its_own_words() -> None:
    history = [
        operation("write", 0, 10, value=1),
        operation("cas", 20, 30, expected=1, value=2, output=True),
        operation("read", 40, 50, output=2),
    ]
    assert check(history, REGISTER).verdict is Verdict.OK
    history[2] = evolve(history[2], output=1)
    assert check(history, REGISTER).verdict is Verdict.ILLEGAL
    with pytest.raises(ValueError, match="knows no 'write'"):
        check(history, KEY_VALUE)


def test_a_return_before_the_call_is_no_history() -> None:
    with pytest.raises(ValueError, match="returned before it was called"):
        check([operation("get", 10, 5)])


# Histories.


def test_what_is_recorded_is_read_back() -> None:
    now = iter(range(100))
    file = io.StringIO()
    recorder = Recorder(file, clock_ns=lambda: next(now))
    first = recorder.begin("a", "set", "k", b"\x00v")
    second = recorder.begin("b", "cas", "k", {"x": [1]}, b"\x00v")
    third = recorder.begin("c", "set", "k", 3)
    recorder.begin("d", "get", "k")
    second.returned(True)
    first.returned()
    third.refused()
    with pytest.raises(ValueError, match="has ended already"):
        third.unknown()
    history = recorder.close()
    assert history == [
        Operation("b", "cas", "k", {"x": [1]}, b"\x00v", True, True, 1, 4),
        Operation("a", "set", "k", b"\x00v", None, None, True, 0, 5),
        Operation("c", "set", "k", 3, None, None, False, 2, 6),
        Operation("d", "get", "k", None, None, None, None, 3, None),
    ]
    assert list(read(file.getvalue().splitlines())) == history
    assert check(history).verdict is Verdict.OK


def test_a_line_that_is_no_operation_is_refused() -> None:
    for line in ("{}", "[", '{"client": "a", "op": "get", "key": "k", "color": 1}', "3"):
        with pytest.raises(ValueError):  # noqa: PT011
            list(read([line]))
