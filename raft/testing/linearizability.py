"""Could a single copy of the state have given these answers?

A history is linearizable if all its operations can be put in one order in which each
takes effect at one moment between its call and its return, and a lone copy of the state
would give just those results. The search for that order is Wing and Gong's with Lowe's
memory of what was tried, and operations are put in order only when a return forces it:
see `raft.testing.checker.ordering`. It is exponential at worst, and fast on histories that
a correct system produces.

- Keys are independent, so each is searched for itself.
- An operation with an unknown outcome never ends: it may take effect at any time after
  its call, or never.
- One that was definitely refused takes no part: should it have taken effect, some result
  that shows it finds no explanation.
- Searches take turns with a growing budget: a history that is easily refuted on one key
  is refuted at once, however hard another key is. The first refutation ends all.
- When the budget is spent, the verdict is UNKNOWN, never OK.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Iterable
from enum import Enum
from typing import Final

from attrs import define, evolve, frozen

from raft.testing.checker.counterexample import piece_text, shrunk
from raft.testing.checker.models import Judged, Model, Step
from raft.testing.checker.moves import State
from raft.testing.checker.objects import KEY_VALUE, LOCK, MODELS, QUEUE, REGISTER
from raft.testing.checker.ordering import Outcome, Search
from raft.testing.history import Operation

__all__ = [
    "BUDGET_STEPS",
    "KEY_VALUE",
    "LOCK",
    "MODELS",
    "QUEUE",
    "REGISTER",
    "Judged",
    "Model",
    "Report",
    "State",
    "Step",
    "Verdict",
    "check",
]

BUDGET_STEPS: Final = 5_000_000
"""How many steps (a few microseconds each) all searches may take together."""

_FIRST_TURN_STEPS = 1_000
_SLICE_STEPS = 5_000
"""After how many steps the clock is looked at."""

_SHOWN = 40


class Verdict(Enum):
    """What the checker knows."""

    OK = "linearizable"
    ILLEGAL = "not linearizable"
    UNKNOWN = "unknown: the budget is spent"


@frozen
class Report:
    """The verdict over a history.

    Attributes:
        verdict: OK, ILLEGAL or UNKNOWN.
        steps: how many steps the search took.
        key: the key that is not linearizable, or the first that was not decided; None if OK.
        piece: for ILLEGAL, few operations on that key that are already impossible together.
        text: for people: the piece, one operation a line.
        undecided: for UNKNOWN, all keys that were not decided.
        operation_count: how many operations were judged, those that took no part included.
        key_count: on how many keys.
    """

    verdict: Verdict
    steps: int
    key: Hashable = None
    piece: tuple[Operation, ...] = ()
    text: str = ""
    undecided: tuple[Hashable, ...] = ()
    operation_count: int = 0
    key_count: int = 0


def check(
    history: Iterable[Operation],
    model: Model = KEY_VALUE,
    budget_steps: int = BUDGET_STEPS,
    budget_seconds: float = math.inf,
    clock: Callable[[], float] = time.monotonic,
) -> Report:
    """Judge a history.

    Args:
        history: in any order.
        model: what each key is.
        budget_steps: how many steps all searches may take together.
        budget_seconds: how long they may take.
        clock: tells seconds.

    Raises:
        ValueError: an operation is none of the model's, or returns before it is called.
    """
    keys: dict[Hashable, list[Operation]] = {}
    for operation in history:
        _checked(operation, model)
        keys.setdefault(operation.key, []).append(operation)
    purse = _Purse(budget_steps, clock() + budget_seconds, clock)
    count = sum(map(len, keys.values()))
    report = Report(Verdict.OK, 0, operation_count=count, key_count=len(keys))
    searches: dict[Hashable, Search | None] = dict.fromkeys(keys)
    turn = _FIRST_TURN_STEPS
    while searches and not purse.is_spent():
        for key, left in list(searches.items()):
            # What contradicts itself, or cannot, needs no search.
            piece = model.contradiction(keys[key]) if left is None else None
            search = left or _search(keys[key] if piece is None else [], model)
            outcome = purse.spend(search, turn)
            if outcome is Outcome.NONE:
                piece = tuple(shrunk(keys[key], model, search.blocked_ns))
            if piece:
                text = piece_text(key, piece, model)
                found = evolve(report, verdict=Verdict.ILLEGAL, steps=purse.steps)
                return evolve(found, key=key, piece=piece, text=text)
            searches[key] = search
            if outcome is Outcome.FOUND:
                del searches[key]
            if purse.is_spent():
                break
        turn *= 2
    return _undecided(evolve(report, steps=purse.steps), tuple(searches))


def _undecided(report: Report, keys: tuple[Hashable, ...]) -> Report:
    """Return what is known once all searches have ended, or the budget has."""
    if not keys:
        return report
    names = ", ".join(sorted(map(str, keys))[:_SHOWN])
    text = f"undecided after {report.steps} steps: {len(keys)} keys, among them {names}"
    return evolve(report, verdict=Verdict.UNKNOWN, key=keys[0], undecided=keys, text=text)


@define
class _Purse:
    """The budget of all searches together, in steps and in time."""

    left: int
    deadline: float
    clock: Callable[[], float]
    steps: int = 0

    def is_spent(self) -> bool:
        """Say whether nothing is left, of steps or of time."""
        return self.left <= 0 or self.clock() >= self.deadline

    def spend(self, search: Search, turn: int) -> Outcome:
        """Let a search take a turn, or what is left of the budget."""
        while True:
            allowed = min(turn, self.left, _SLICE_STEPS)
            outcome = search.run(allowed)
            self.steps += search.steps_taken
            self.left -= search.steps_taken
            turn -= allowed
            if outcome is not Outcome.OPEN or turn <= 0 or self.is_spent():
                return outcome


def _search(operations: list[Operation], model: Model) -> Search:
    plan = model.planned(operations)
    return Search(plan.moves, plan.initial)


def _checked(operation: Operation, model: Model) -> None:
    if operation.op not in model.steps:
        raise ValueError(f"a {model.name} knows no {operation.op!r}: {operation}")
    if operation.ok and (operation.return_ns is None or operation.return_ns < operation.call_ns):
        raise ValueError(f"it returned before it was called: {operation}")
