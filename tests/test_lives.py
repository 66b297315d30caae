"""Which directory goes on from which, against a plain account of what happened."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft.lives import KEPT, Lives


def test_each_start_is_one_more_name_and_the_oldest_are_forgotten() -> None:
    lives = Lives()
    for number in range(KEPT + 3):
        lives = lives.begin(str(number))
    assert lives.count == KEPT + 3
    assert lives.names == tuple(str(number) for number in range(KEPT + 2, 2, -1))


@given(common=st.integers(0, 2 * KEPT), seen=st.integers(0, 2 * KEPT), own=st.integers(0, 2 * KEPT))
def test_an_old_copy_never_passes_for_what_was_seen_unless_too_long_ago(
    common: int, seen: int, own: int
) -> None:
    """L5, M9: `common` starts, then a copy is made: one goes on `seen` times, the other `own`."""
    before = Lives()
    for number in range(common):
        before = before.begin(f"common {number}")
    known = copy = before
    for number in range(seen):
        known = known.begin(f"seen {number}")
    for number in range(own):
        copy = copy.begin(f"own {number}")
    assert known.go_on_from(known)
    assert known.go_on_from(before)
    if not known.count or not copy.count or not seen:
        expected = True
    elif own < seen:
        expected = False
    else:
        # Where the list of the copy reaches back to the start in question, it has another name.
        expected = own - seen >= KEPT
    assert copy.go_on_from(known) is expected


@pytest.mark.parametrize("lives", [Lives(), Lives(3, ("c", "b", "a"))])
def test_nothing_is_judged_by_what_is_not_known(lives: Lives) -> None:
    """A program that tells no lives, or a directory from before there were any."""
    assert lives.go_on_from(Lives())
    assert Lives().go_on_from(lives)
