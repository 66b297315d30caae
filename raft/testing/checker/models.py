"""What a single copy of the state would have answered: the models of the checker.

A `Model` says what each operation makes of a state. That is enough for the search. The models
here also have a *plan*, which says the same of a whole key's history in terms that are searched
much faster: as reads, writes and swaps of small numbers (see `raft.testing.checker.ordering`).

None is no value: an absent key, a register never written, an empty queue. A key that holds
None reads as if it were absent; only `delete` can tell.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial

from attrs import field, frozen

from raft.testing.checker.moves import Kind, Move, State
from raft.testing.history import Operation

Step = Callable[[State, "Judged"], tuple[bool, State]]
"""(state, operation) -> (whether it may have that result in that state, the state after)."""


@frozen
class Judged:
    """An operation as a model sees it: all values hashable, and whether its result counts."""

    op: str
    value: Hashable
    expected: Hashable
    output: Hashable
    known: bool
    client: Hashable = None


@frozen
class Plan:
    """The moves of one key's operations, and the state before them."""

    moves: list[Move]
    initial: State


@frozen
class Model:
    """A state and what each operation makes of it; for one key.

    What is named in `reads`, and whatever returned False, changed nothing.

    Attributes:
        name: for people.
        steps: what each operation does.
        initial: the state at the beginning.
        reads: the operations that never change anything.
        conflict: a contradiction among one key's operations that needs no search: (): they are
            linearizable; None: only a search can say.
        plan: the same for one key's operations, made faster to search; None where it cannot.
    """

    name: str
    steps: Mapping[str, Step]
    initial: State = None
    reads: frozenset[str] = field(default=frozenset({"get", "read"}))
    plan: Callable[[Sequence[Operation]], Plan | None] = lambda _: None
    conflict: Callable[[Sequence[Operation]], tuple[Operation, ...] | None] = lambda _: None

    def planned(self, operations: Sequence[Operation]) -> Plan:
        """Return the moves of one key's operations; those that cannot matter have none."""
        taking_part = [each for each in operations if self.matters(each)]
        plan = self.plan(taking_part)
        if plan is None:
            moves = [self._general(number, each) for number, each in enumerate(taking_part)]
            plan = Plan(moves, (self.initial,))
        return plan

    def contradiction(self, operations: Sequence[Operation]) -> tuple[Operation, ...] | None:
        """Return what `conflict` says of those operations that may matter."""
        return self.conflict([each for each in operations if self.matters(each)])

    def matters(self, operation: Operation) -> bool:
        """Say whether it is any operation that may have taken effect, or whose result counts."""
        return operation.ok is True or (operation.ok is None and operation.op not in self.reads)

    def is_idle(self, operation: Operation) -> bool:
        """Say whether it changed nothing, by its kind or by its result."""
        return operation.op in self.reads or (operation.ok is True and operation.output is False)

    def _general(self, number: int, operation: Operation) -> Move:
        judged = Judged(
            operation.op,
            hashable(operation.value),
            hashable(operation.expected),
            hashable(operation.output) if operation.ok else None,
            operation.ok is True,
            operation.client,
        )
        kind = Kind.GENERAL_READ if self.is_idle(operation) else Kind.GENERAL
        step = partial(_step, self.steps[operation.op], judged)
        return move_of(operation, kind, number, step=step, equals=judged)


def _step(step: Step, judged: Judged, boxed: State) -> State | None:
    """Carry out a model's step on a state in a tuple: None alone says "impossible"."""
    state: State = boxed[0]  # type: ignore[index]
    legal, after = step(state, judged)
    if judged.known:
        return (after,) if legal else None
    # To have no effect is the same as never to happen.
    return None if after == state else (after,)


def move_of(
    operation: Operation,
    kind: Kind,
    number: int,
    need: State = None,
    to: State = None,
    step: Callable[[State], State | None] | None = None,
    equals: Hashable = None,
    rank: float = 0.0,
) -> Move:
    """Return a move with the times of an operation; without an end where it is unknown."""
    end = operation.return_ns if operation.ok else None
    return Move(kind, operation.call_ns, end, number, need, to, step, equals, rank)


def hashable(value: object) -> Hashable:
    """Return a plain value that compares as `value` does, and can be a key."""
    if isinstance(value, (list, tuple)):
        return tuple(map(hashable, value))
    if isinstance(value, dict):
        return frozenset((key, hashable(inner)) for key, inner in value.items())
    return value
