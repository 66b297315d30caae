"""Numbering: the account of a session's numbers, against one that is slow and obvious."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft.errors import BadCommand, Overloaded
from raft.numbering import FIRST_SEQUENCE, Numbering, OpenedSession, SessionCall

ID = bytes(range(16))
OPENED = OpenedSession(ID, 3600.0, 8, 1 << 20)


def test_numbers_are_given_out_in_order_with_the_lowest_one_unanswered() -> None:
    """S2."""
    numbering = Numbering(OPENED)
    first, second = numbering.next(), numbering.next(3)
    assert (first.id, first.sequence, first.low_mark) == (ID, FIRST_SEQUENCE, FIRST_SEQUENCE)
    assert (second.sequence, second.low_mark) == (2, 1)
    numbering.answered(2, 3)
    assert numbering.low_mark == 1
    numbering.answered(1)
    assert numbering.next() == SessionCall(ID, 5, 5)
    assert numbering.again(second) == SessionCall(ID, 2, 5)


def test_no_more_numbers_are_out_than_results_are_kept() -> None:
    numbering = Numbering(OPENED)
    numbering.next(8)
    assert numbering.room == 0
    with pytest.raises(Overloaded):
        numbering.next()
    numbering.answered(2)
    assert numbering.room == 0
    numbering.answered(1)
    assert numbering.room == 2
    with pytest.raises(Overloaded):
        numbering.next(3)
    assert numbering.next(2).sequence == 9


def test_a_session_is_resumed_at_the_number_that_was_saved() -> None:
    numbering = Numbering(OPENED, 41)
    assert numbering.next() == SessionCall(ID, 41, 41)


class Ledger:
    """The same account, with every number written down."""

    def __init__(self) -> None:
        self.given: list[int] = []
        self.answered: set[int] = set()

    @property
    def low_mark(self) -> int:
        open_ones = [number for number in self.given if number not in self.answered]
        return min(open_ones, default=len(self.given) + 1)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 12), st.integers(1, 4)), max_size=60))
def test_the_low_mark_is_the_lowest_number_without_an_answer(
    steps: list[tuple[bool, int, int]],
) -> None:
    numbering, ledger = Numbering(OPENED), Ledger()
    for gives, back, count in steps:
        if gives and count <= numbering.room:
            call = numbering.next(count)
            assert call.sequence == len(ledger.given) + 1
            ledger.given += range(call.sequence, call.sequence + count)
        elif not gives:
            # Told twice, in part, and even of numbers that nobody has.
            first = max(1, len(ledger.given) + 2 - back)
            numbering.answered(first, count)
            ledger.answered |= set(range(first, first + count)) & set(ledger.given)
        assert numbering.low_mark == ledger.low_mark
        assert numbering.room == 8 - (len(ledger.given) + 1 - ledger.low_mark)


@pytest.mark.parametrize(
    ("id", "sequence", "low_mark"),
    [
        (b"short", 1, 1),
        ("0123456789abcdef", 1, 1),
        (ID, -1, 1),
        (ID, 1, 1 << 63),
        (ID, True, 1),
        (ID, 1, 1.0),
    ],
)
def test_a_call_that_means_nothing_is_refused(id: Any, sequence: Any, low_mark: Any) -> None:
    with pytest.raises(BadCommand):
        SessionCall(id, sequence, low_mark)
