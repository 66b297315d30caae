"""What the search for an order knows of operations: what each needs of the state and leaves."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from enum import IntEnum
from typing import Final, NamedTuple

State = Hashable

ABSENT: Final = 0
"""The state that a CLEAR leaves, and in which it is impossible."""

UNREAD: Final = -1
"""The state that nothing looks for."""


class Kind(IntEnum):
    """How a move depends on the state, and changes it."""

    READ = 1
    """Possible where the state is `need`; changes nothing."""

    UNLESS = 2
    """Possible where the state is not `need`; changes nothing."""

    WRITE = 3
    """Possible anywhere; leaves `to`."""

    SWAP = 4
    """Possible where the state is `need`; leaves `to`."""

    CLEAR = 5
    """Possible where the state is not ABSENT; leaves ABSENT."""

    GENERAL = 6
    """Whatever `step` says."""

    GENERAL_READ = 7
    """Possible where `step` says so; changes nothing."""


class Move(NamedTuple):
    """What an operation that took part requires of the state, and makes of it.

    A tuple, as there may be a million of them.

    Attributes:
        kind: which of the fields below count.
        call_ns: when it began.
        return_ns: when it ended; None where it never did, and need not have taken effect.
        number: which operation it is, for its owner.
        need: the state it requires, or the one it excludes.
        to: the state it leaves.
        step: the state -> the state after, or None where it is impossible.
        equals: moves of kind GENERAL with equal values are interchangeable; None for no other.
        rank: what has a lower one is tried first; it changes no verdict.
    """

    kind: Kind
    call_ns: int
    return_ns: int | None
    number: int
    need: State = None
    to: State = None
    step: Callable[[State], State | None] | None = None
    equals: Hashable = None
    rank: float = 0.0


def result_of(move: Move, state: State) -> State | None:
    """Return the state after a move; None if it is impossible in that state."""
    kind = move.kind
    if kind is Kind.WRITE:
        return move.to
    if kind is Kind.READ:
        return state if state == move.need else None
    if kind is Kind.SWAP:
        return move.to if state == move.need else None
    if kind is Kind.CLEAR:
        return ABSENT if state != ABSENT else None
    if kind is Kind.UNLESS:
        return state if state != move.need else None
    return move.step(state) if move.step is not None else None
