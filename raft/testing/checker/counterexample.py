"""From a history that no order explains to the few operations that show why.

Nothing is taken away that could make a legal history illegal: what is left is not only
impossible by itself, it is why the whole is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from typing import Final

from attrs import evolve

from raft.testing.checker.models import Model, hashable
from raft.testing.checker.ordering import Outcome, Search
from raft.testing.history import Operation

SHRINK_STEPS: Final = 100_000
"""How long one piece may be searched before it is kept as it is."""

SHRINK_SECONDS: Final = 10.0

_SHOWN = 40
_ROUNDS = 6

Group = tuple[Operation, ...]
"""Operations that can only be taken away together."""


def shrunk(
    operations: Sequence[Operation],
    model: Model,
    blocked_ns: int | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> list[Operation]:
    """Return a small part of an illegal history that is illegal by itself.

    Args:
        operations: all on one key.
        model: of the key.
        blocked_ns: a return that no order gets past, if it is known.
        clock: tells seconds; what takes too long is left larger than it could be.
    """
    deadline = clock() + SHRINK_SECONDS

    def is_illegal(part: Sequence[Operation]) -> bool:
        if clock() > deadline:
            return False
        plan = model.planned(part)
        return Search(plan.moves, plan.initial).run(SHRINK_STEPS) is Outcome.NONE

    piece = sorted((each for each in operations if model.matters(each)), key=_call_ns)
    if blocked_ns is not None:
        shorter = [each for each in _until(piece, blocked_ns) if model.matters(each)]
        piece = shorter if is_illegal(shorter) else piece
    for _ in range(_ROUNDS):
        before = len(piece)
        for groups_of in (_idle, _unread, _passed_on):
            piece = _thinned(piece, groups_of(piece, model), is_illegal)
        if len(piece) == before:
            break
    return piece


def _call_ns(operation: Operation) -> int:
    return operation.call_ns


def _until(piece: Sequence[Operation], end_ns: int) -> list[Operation]:
    """Cut a history off: what returns later is open then."""
    return [
        evolve(each, ok=None, return_ns=None, output=None)
        if each.return_ns is not None and each.return_ns > end_ns
        else each
        for each in piece
        if each.call_ns <= end_ns
    ]


def _idle(piece: Sequence[Operation], model: Model) -> list[Group]:
    """Return what changes nothing: without it all else stays as legal as it was."""
    return [(each,) for each in piece if model.is_idle(each)]


def _unread(piece: Sequence[Operation], model: Model) -> list[Group]:
    """Return the writes of values that nothing here looks for.

    Where nothing needs the state to be *other* than some value, what came before such a write
    can stay until the next one.
    """
    ops = model.steps.keys()
    if "get" not in ops or any(
        each.op == "append" or each.op == "delete" or (each.op == "cas" and each.output is False)
        for each in piece
    ):
        return []
    wanted: set[Hashable] = set()
    for each in piece:
        if each.op == "cas":
            wanted.add(hashable(each.expected))
        elif each.op in model.reads:
            wanted.add(hashable(each.output))
    return [
        (each,) for each in piece if not model.is_idle(each) and hashable(each.value) not in wanted
    ]


def _passed_on(piece: Sequence[Operation], model: Model) -> list[Group]:
    """Return what passed through a queue, each value with all that put it in or took it out.

    Without it, all else stays in the same order.
    """
    if "enqueue" not in model.steps:
        return []
    groups: dict[Hashable, list[Operation]] = {}
    for each in piece:
        if each.op == "enqueue":
            groups.setdefault(hashable(each.value), []).append(each)
        elif each.ok and each.output is not None:
            groups.setdefault(hashable(each.output), []).append(each)
    return [
        tuple(group)
        for group in groups.values()
        if sum(each.op == "enqueue" for each in group) == 1
        and sum(each.op == "dequeue" for each in group) <= 1
    ]


def _thinned(
    piece: list[Operation],
    groups: list[Group],
    is_illegal: Callable[[Sequence[Operation]], bool],
) -> list[Operation]:
    """Take away as many groups as leave it illegal: first many at once, then one by one."""
    size = len(groups)
    while size and groups:
        kept: list[Group] = []
        for start in range(0, len(groups), size):
            chunk = groups[start : start + size]
            gone = {id(each) for group in chunk for each in group}
            rest = [each for each in piece if id(each) not in gone]
            if is_illegal(rest):
                piece = rest
            else:
                kept += chunk
        groups = kept
        size //= 2
    return piece


def piece_text(key: Hashable, piece: Sequence[Operation], model: Model) -> str:
    """Return the piece for people, one operation a line, in the order of calls."""
    shown = piece[-_SHOWN:]
    start = min((each.call_ns for each in shown), default=0)
    rows = [
        (
            each.client if each.client.isprintable() else ascii(each.client),
            since(start, each.call_ns),
            "?" if each.return_ns is None or not each.ok else since(start, each.return_ns),
            label(each),
        )
        for each in shown
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        f"  {client:{widths[0]}}  {call:>{widths[1]}} .. {end:<{widths[2]}}  {text}"
        for client, call, end, text in rows
    ]
    if len(piece) > _SHOWN:
        lines.insert(0, f"  ... and {len(piece) - _SHOWN} before")
    about = f"no order of these explains every result ({model.name}, key {key!r}):"
    return "\n".join([about, *lines])


def since(start_ns: int, time_ns: int) -> str:
    """Return a time for people, counted from another one."""
    span: float = time_ns - start_ns
    for unit in ("ns", "us", "ms"):
        if span < 1000:
            return f"{span:.4g} {unit}"
        span /= 1000
    return f"{span:.6g} s"


def label(operation: Operation) -> str:
    """Return what was asked and told, such as `cas 1 2 -> True`."""
    asked = [repr(operation.value)] if operation.value is not None else []
    if operation.op == "cas":
        asked = [repr(operation.expected), repr(operation.value)]
    text = " ".join([operation.op, *asked])
    if not operation.ok:
        return f"{text} (refused)" if operation.ok is False else f"{text} (outcome unknown)"
    tells = operation.output is not None or operation.op in ("get", "read", "dequeue")
    return f"{text} -> {operation.output!r}" if tells else text
