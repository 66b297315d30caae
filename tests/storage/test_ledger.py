"""The verbs that change what the log holds, one at a time."""

from __future__ import annotations

import pytest

from raft.errors import InvariantViolated
from raft.storage.ledger import SPAN_BYTES, Ledger
from raft.storage.marks import Mark
from raft.storage.segments import Segment


def segment(number):
    return Segment(number, number, f"log-{number}", None, 1 << 20)


@pytest.fixture
def ledger():
    """Entries 1 to 10 in the first segment, 11 to 20 in the second."""
    made = Ledger()
    for number in (1, 2):
        made.open_segment(segment(number))
        start = made.next_index
        made.append(start, start + 10, made.segments[-1], 512, 1512)
    return made


def test_a_segment_goes_when_the_log_and_the_previous_snapshot_are_past_it(ledger):
    """N7: the snapshot before the newest still needs its log."""
    ledger.set_mark(Mark(15, 1, 16, 9), keep_log=True)
    assert (ledger.bound, ledger.removable) == (10, False)
    ledger.set_mark(Mark(18, 1, 14, 15), keep_log=True)
    assert (ledger.bound, ledger.removable) == (14, True)
    ledger.drop_segment(1)
    assert (ledger.first, ledger.prev_term, ledger.removable) == (11, 1, False)
    assert ledger.locate(10) is None
    assert ledger.locate(11) is not None


def test_a_truncation_lowers_where_later_segments_begin(ledger):
    """What was live in the older segment ends where the truncation began."""
    ledger.truncate(6, 1)
    assert [one.start for one in ledger.segments] == [1, 6]
    ledger.append(6, 8, ledger.segments[1], 1512, 1700)
    ledger.set_mark(Mark(7, 1, 6, 6), keep_log=True)
    assert ledger.removable
    ledger.drop_segment(1)
    assert (ledger.first, ledger.next_index) == (6, 8)
    assert ledger.locate(6)[1] == 8


def test_an_entry_that_replaces_another_is_read_from_its_own_place(ledger):
    """D2: what was removed is never read, however many spans it stood in."""
    ledger.truncate(6, 1)
    ledger.append(6, 8, ledger.segments[1], 1512, 1700)
    span, end = ledger.locate(6)
    assert (span.first, span.offset, end) == (6, 1512, 8)


def test_a_truncation_below_what_is_left_moves_the_beginning():
    """A log replayed from a later segment on, in which an earlier part was replaced."""
    ledger = Ledger()
    ledger.open_segment(segment(5))
    ledger.begin_at(101, 3)
    ledger.truncate(90, 2)
    ledger.append(90, 95, ledger.segments[0], 600, 700)
    assert (ledger.first, ledger.prev_term, ledger.next_index) == (90, 2, 95)


def test_frames_grow_into_one_span_until_it_is_full(ledger):
    stop = 1512
    for index in range(21, 29):
        ledger.append(index, index + 1, ledger.segments[1], stop, stop + SPAN_BYTES // 4)
        stop += SPAN_BYTES // 4
    assert len(ledger.spans) == 4


def test_a_truncation_ends_a_span(ledger):
    """What a span's frames hold beyond its end was truncated, and is never read."""
    ledger.truncate(15, 1)
    ledger.append(15, 16, ledger.segments[1], 1512, 1600)
    span, end = ledger.locate(14)
    assert (span.first, span.stop, end) == (11, 1512, 15)
    assert ledger.locate(15)[0].offset == 1512


def test_a_snapshot_that_replaces_the_log_frees_all_older_segments(ledger):
    ledger.set_mark(Mark(12, 7, 13, 12), keep_log=False)
    assert (ledger.first, ledger.next_index, ledger.prev_term) == (13, 13, 7)
    assert ledger.removable
    ledger.drop_segment(7)
    assert (ledger.first, ledger.locate(13), ledger.spans) == (13, None, [])


@pytest.mark.parametrize(
    "wrong",
    [
        lambda ledger: ledger.append(22, 23, ledger.segments[1], 0, 1),
        lambda ledger: ledger.append(20, 21, ledger.segments[1], 0, 1),
        lambda ledger: ledger.truncate(22, 1),
        lambda ledger: ledger.set_mark(Mark(21, 1, 21, 0), keep_log=True),
    ],
    ids=["gap", "twice", "truncated beyond", "marked beyond"],
)
def test_what_cannot_be_is_refused(ledger, wrong):
    with pytest.raises(InvariantViolated):
        wrong(ledger)
