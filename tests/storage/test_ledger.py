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
    ledger.set_mark(Mark(18, 1, 11, 15), keep_log=True)
    assert (ledger.bound, ledger.removable) == (11, True)
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
    assert [span.first for span in ledger.spans] == [1, 11, 24, 28]


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
    ledger.drop_segment(0)
    assert (ledger.first, ledger.prev_term) == (13, 7)
    assert (ledger.locate(13), ledger.spans) == (None, [])
    ledger.append(13, 15, ledger.segments[0], 1700, 1800)
    assert ledger.locate(13)[0].offset == 1700


def test_a_snapshot_that_replaces_more_than_it_covers_frees_older_segments_too(ledger):
    """N6: what is left of another history is in nobody's way."""
    ledger.set_mark(Mark(5, 7, 6, 5), keep_log=False)
    ledger.append(6, 8, ledger.segments[1], 1700, 1800)
    assert ledger.removable
    assert [one.start for one in ledger.segments] == [6, 6]
    ledger.drop_segment(0)
    assert (ledger.first, ledger.prev_term, ledger.next_index) == (6, 7, 8)
    assert ledger.locate(6)[0].offset == 1700
    ledger.set_mark(Mark(30, 8, 31, 30), keep_log=False)
    assert (ledger.first, [one.start for one in ledger.segments]) == (31, [31])


def test_a_segment_that_held_all_entries_goes_like_others():
    """The newest one holds none: the log is empty then, and goes on where it ended."""
    ledger = Ledger()
    ledger.open_segment(segment(1))
    ledger.append(1, 11, ledger.segments[0], 512, 1512)
    assert not ledger.removable
    ledger.open_segment(segment(2))
    ledger.set_mark(Mark(10, 1, 11, 10), keep_log=True)
    ledger.drop_segment(1)
    assert (ledger.first, ledger.next_index, ledger.spans) == (11, 11, [])


def test_without_a_snapshot_no_entry_may_go():
    """N4: not even where the first segment holds just the first one."""
    ledger = Ledger()
    for number in (1, 2):
        ledger.open_segment(segment(number))
        ledger.append(number, number + 1, ledger.segments[-1], 512, 1512)
    assert (ledger.bound, ledger.removable) == (1, False)


def test_a_truncation_where_a_span_begins_forgets_it(ledger):
    """What is truncated takes no memory; at the log's end nothing is."""
    ledger.truncate(21, 1)
    assert (ledger.next_index, len(ledger.spans)) == (21, 2)
    ledger.truncate(11, 1)
    assert (ledger.next_index, len(ledger.spans)) == (11, 1)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda ledger: ledger.append(22, 23, ledger.segments[1], 0, 1),
        lambda ledger: ledger.append(20, 21, ledger.segments[1], 0, 1),
        lambda ledger: ledger.truncate(22, 1),
        lambda ledger: ledger.set_mark(Mark(21, 1, 21, 0), keep_log=True),
        lambda ledger: Ledger(next_index=5).locate(4),
    ],
    ids=["gap", "twice", "truncated beyond", "marked beyond", "nowhere"],
)
def test_what_cannot_be_is_refused(ledger, wrong):
    with pytest.raises(InvariantViolated):
        wrong(ledger)
