"""Every model against a slow and obvious twin: all orders, on plain values."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from raft.testing.history import Operation
from raft.testing.linearizability import MODELS, Model, Verdict, check

ANY = object()
"""An output that says nothing."""


def key_value(each: Operation, state: Any) -> tuple[Any, Any]:
    """Return the result of an operation on a key, as (result, state); () is no key."""
    value = None if state == () else state[0]
    match each.op:
        case "get" | "read":
            return value, state
        case "put" | "write":
            return ANY, (each.value,)
        case "delete":
            return state != (), ()
        case "cas":
            return value == each.expected, (each.value,) if value == each.expected else state
    if value is not None and not isinstance(value, list):
        return "refused", state
    return len(value or []) + 1, ([*(value or []), each.value],)


def lock(each: Operation, state: Any) -> tuple[Any, Any]:
    owner = each.client if each.value is None else each.value
    if each.op == "acquire":
        return state == (), state or (owner,)
    return state == (owner,), () if state == (owner,) else state


def queue(each: Operation, state: Any) -> tuple[Any, Any]:
    if each.op == "enqueue":
        return ANY, (*state, each.value)
    return (state[0], state[1:]) if state else (None, state)


TWINS: dict[str, Callable[[Operation, Any], tuple[Any, Any]]] = {
    "kv": key_value,
    "register": key_value,
    "lock": lock,
    "queue": queue,
}


def agrees(each: Operation, result: Any) -> bool:
    if result is ANY or not each.ok:
        return True
    if each.output is None and each.op in ("delete", "append"):
        return result != "refused"
    if each.output is None and each.op in ("cas", "acquire", "release"):
        return result is True
    return bool(each.output == result) and isinstance(each.output, bool) == isinstance(result, bool)


def has_an_order(history: Sequence[Operation], twin: Callable[[Operation, Any], Any]) -> bool:
    """Try every order of everything, with and without what is unknown."""

    def extend(left: list[Operation], state: Any) -> bool:
        if not any(each.ok for each in left):
            return True
        for each in left:
            if any(other.ok and other.return_ns < each.call_ns for other in left):  # type: ignore[operator]
                continue
            result, after = twin(each, state)
            if agrees(each, result) and extend([x for x in left if x is not each], after):
                return True
        return False

    return extend([each for each in history if each.ok is not False], ())


OPS = {
    "kv": ("get", "put", "delete", "cas", "append"),
    "register": ("read", "write", "cas"),
    "lock": ("acquire", "release"),
    "queue": ("enqueue", "dequeue"),
}
OUTPUTS: dict[str, tuple[Any, ...]] = {
    "get": (None, 1, 2, True, [1], [1, 2], [2, 1]),
    "read": (None, 1, 2, True),
    "delete": (True, False, None),
    "cas": (True, False, None),
    "acquire": (True, True, False, None),
    "release": (True, True, False, None),
    "append": (1, 2, 3, None),
    "dequeue": (1, 2, 3, None),
    "put": (None,),
    "write": (None,),
    "enqueue": (None,),
}


@st.composite
def histories(draw: st.DrawFn, model: str) -> list[Operation]:
    """Return operations with any results: some of them can be explained."""
    ops = draw(st.sets(st.sampled_from(OPS[model]), min_size=1))
    made = []
    for number in range(draw(st.integers(1, 7))):
        op = draw(st.sampled_from(sorted(ops)))
        call = draw(st.integers(0, 12))
        ok = draw(st.sampled_from((True, True, True, True, None, False)))
        value = draw(st.sampled_from((1, 2, 3, None, True) if model == "kv" else (1, 2, 3)))
        made.append(
            Operation(
                client=f"c{number % 3}",
                op=op,
                key="k",
                value=value if op not in ("get", "read", "delete", "dequeue") else None,
                expected=draw(st.sampled_from((None, 1, 2))) if op == "cas" else None,
                output=draw(st.sampled_from(OUTPUTS[op])) if ok else None,
                ok=ok,
                call_ns=call,
                return_ns=call + draw(st.integers(0, 8)) if ok is not None else None,
            )
        )
    return made


def told(history: Sequence[Operation], twin: Callable[[Operation, Any], Any]) -> list[Operation]:
    """Give each operation the result that it has in the order of its calls."""
    state: Any = ()
    found = []
    for each in sorted(history, key=lambda each: each.call_ns):
        result, after = twin(each, state)
        if each.ok is False or result == "refused":
            found.append(evolve(each, ok=False, output=None))
            continue
        state = after
        output = each.output if each.ok is None or result is ANY else result
        found.append(evolve(each, output=output))
    return found


@pytest.mark.parametrize("model", MODELS)
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(choice=st.data())
def test_a_history_of_any_results_is_judged_as_by_trying_all_orders(
    model: str, choice: st.DataObject
) -> None:
    """TESTING 3.10: against brute force."""
    history = choice.draw(histories(model))
    assert_judged_alike(history, model)


@pytest.mark.parametrize("model", MODELS)
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(choice=st.data())
def test_a_nearly_legal_history_is_judged_as_by_trying_all_orders(
    model: str, choice: st.DataObject
) -> None:
    """TESTING 3.10: one result of a legal history changed."""
    history = told(choice.draw(histories(model)), TWINS[model])
    assert check(history, MODELS[model]).verdict is Verdict.OK
    number = choice.draw(st.integers(0, len(history) - 1))
    if history[number].ok:
        output = choice.draw(st.sampled_from(OUTPUTS[history[number].op]))
        history[number] = evolve(history[number], output=output)
    assert_judged_alike(history, model)


def assert_judged_alike(history: list[Operation], model: str) -> None:
    twin, judge = TWINS[model], MODELS[model]
    expected = has_an_order(history, twin)
    report = check(history, judge)
    assert (report.verdict is Verdict.OK) is expected
    if report.verdict is Verdict.ILLEGAL:
        assert not has_an_order(report.piece, twin), report.text
    # The model's steps alone, without its plan, are a twin too.
    assert check(history, bare(judge)).verdict is report.verdict


def history_of(*rows: tuple[Any, ...]) -> list[Operation]:
    """Return operations from (op, value, expected, output, call, return)."""
    return [
        Operation(
            f"c{number}", op, "k", value, expected, output, end is not None or None, call, end
        )
        for number, (op, value, expected, output, call, end) in enumerate(rows)
    ]


def test_a_write_of_what_is_there_already_may_have_taken_effect() -> None:
    """A write of 1 onto 1 that returns after a swap to 2: it stood before it, and nobody saw."""
    history = history_of(
        ("write", 1, None, None, 0, 1),
        ("cas", 2, 1, True, 0, 6),
        ("write", 1, None, None, 3, 7),
        ("cas", 2, 1, False, 8, 11),
    )
    assert check(history, MODELS["register"]).verdict is Verdict.OK
    assert_judged_alike(history, "register")


def test_a_write_of_what_is_there_already_hides_another() -> None:
    """Over 1 stand 7 and again 1, both unseen, and then the swap from 1 to 2."""
    history = history_of(
        ("write", 1, None, None, 0, 1),
        ("write", 1, None, None, 2, 9),
        ("write", 7, None, None, 2, 8),
        ("cas", 2, 1, True, 2, 6),
        ("read", None, None, 2, 10, 11),
    )
    assert check(history, MODELS["register"]).verdict is Verdict.OK
    assert_judged_alike(history, "register")


def test_none_in_a_list_is_a_value_like_others() -> None:
    history = history_of(
        ("append", 3, None, None, 0, None),
        ("append", None, None, None, 0, None),
        ("get", None, None, [None], 2, 6),
        ("append", 2, None, 2, 7, 8),
    )
    assert check(history, MODELS["kv"]).verdict is Verdict.OK
    assert_judged_alike(history, "kv")


def test_true_is_another_value_than_1_and_a_cas_takes_one_for_the_other() -> None:
    history = history_of(
        ("put", True, None, None, 0, 1),
        ("cas", 1, 1, None, 2, None),
        ("get", None, None, 1, 4, 5),
    )
    assert check(history, MODELS["kv"]).verdict is Verdict.OK
    assert_judged_alike(history, "kv")
    assert check(history[::2], MODELS["kv"]).verdict is Verdict.ILLEGAL


def passed(unknown: int = 0) -> list[Operation]:
    """Return the history of a queue through which 50 values went, ten at a time."""
    dice = random.Random(3)
    rows: list[tuple[Any, ...]] = []
    for start in range(0, 50, 10):
        now = 100 * start
        rows += [("enqueue", start + n, None, None, now, now + 50) for n in range(10)]
        order = dice.sample(range(start, start + 10), 10)
        rows += [
            ("dequeue", None, None, each, now + 100 + 10 * n, now + 115 + 10 * n)
            for n, each in enumerate(order)
        ]
        rows.append(("dequeue", None, None, None, now + 300, now + 310))
    for number in dice.sample([n for n, each in enumerate(rows) if each[3] is not None], unknown):
        rows[number] = (*rows[number][:3], None, rows[number][4], None)
    return history_of(*rows)


@pytest.mark.parametrize("unknown", [0, 5])
def test_a_busy_queue_is_judged_at_once(unknown: int) -> None:
    """Ten enqueues at a time, whose order only the dequeues tell: 10! orders, five times."""
    assert check(passed(unknown), MODELS["queue"], budget_steps=5_000).verdict is Verdict.OK


def spoilt(number: int, **changes: Any) -> list[Operation]:
    history = passed()
    history[number] = evolve(history[number], **changes)
    return history


@pytest.mark.parametrize(
    ("history", "count"),
    [
        # A value that nobody enqueued; one that is enqueued later; one that is dequeued twice.
        (spoilt(12, output=99), 1),
        (spoilt(12, output=40), 2),
        (spoilt(60, output=passed()[61].output), 3),
        # Two values change places, or one is left behind; the queue is empty too early.
        ([*passed()[:10], *history_of(("enqueue", 77, None, None, 60, 70)),
          *history_of(("dequeue", None, None, 77, 75, 80)), *passed()[10:]], 4),
        ([*passed()[:10], *passed()[11:]], 3),
        (spoilt(20, call_ns=90, return_ns=95), 3),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_queue_is_shown_with_few_operations(
    history: list[Operation], count: int
) -> None:
    report = check(history, MODELS["queue"])
    assert report.verdict is Verdict.ILLEGAL
    assert not has_an_order(report.piece, queue)
    assert len(report.piece) <= count, report.text


def test_what_is_wrong_with_a_list_is_shown_with_two_operations() -> None:
    rows: list[tuple[Any, ...]] = [
        ("append", n, None, n + 1, 10 * n, 10 * n + 5) for n in range(50)
    ]
    wrong: list[tuple[Any, ...]] = [
        # An append is lost; one takes effect twice; an old list is read; two lists disagree.
        ("append", 60, None, 50, 600, 610),
        ("append", 60, None, 52, 600, 610),
        ("get", None, None, [*range(40)], 600, 610),
        ("get", None, None, [*range(49), 60], 600, 610),
    ]
    for each in wrong:
        report = check(history_of(*rows, each), MODELS["kv"])
        assert report.verdict is Verdict.ILLEGAL
        if each[3] != 52:
            assert len(report.piece) <= 2, report.text
    assert check(history_of(*rows), MODELS["kv"]).verdict is Verdict.OK


def bare(model: Model) -> Model:
    return Model(model.name, model.steps, model.initial, model.reads)
