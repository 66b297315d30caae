"""What a leader knows of one follower: the window, the match, the place where it tries next."""

from __future__ import annotations

import pytest

from raft.core.progress import Pace, Progress


def windowed() -> Progress:
    """Return a follower that matches up to 4, with [5, 8) and [8, 12) on their way to it."""
    progress = Progress(5, 0.0)
    progress.matched(4, 1)
    progress.replicate(4)
    progress.sent(8, 30, 2)
    progress.sent(12, 40, 3)
    return progress


@pytest.mark.parametrize(
    ("index", "count", "size_bytes"), [(4, 2, 70), (6, 2, 70), (7, 1, 40), (10, 1, 40), (11, 0, 0)]
)
def test_a_message_leaves_the_window_once_all_of_it_is_saved(
    index: int, count: int, size_bytes: int
) -> None:
    """L7: the window counts the messages, and their bytes, that are not wholly answered."""
    progress = windowed()
    progress.matched(index, 4)
    assert (progress.inflight_count, progress.inflight_bytes) == (count, size_bytes)


def test_an_answer_moves_the_match_forward_only_and_says_when_it_was_learnt() -> None:
    """L5: the match only grows; what repeats it, or is late, tells nothing new."""
    progress = windowed()
    progress.matched(7, 5)
    for late in (7, 4):
        progress.matched(late, 9)
    assert (progress.match_index, progress.match_sequence, progress.next_index) == (7, 5, 12)


def test_a_match_beyond_what_was_sent_moves_the_next_entry_too() -> None:
    """L5: the next entry to send is always behind the match."""
    progress = windowed()
    progress.matched(14, 5)
    assert (progress.next_index, progress.inflight_count) == (15, 0)


@pytest.mark.parametrize(("wanted", "found"), [(1, 5), (5, 5), (9, 9)])
def test_a_probe_begins_behind_the_match(wanted: int, found: int) -> None:
    """L5: one message at a time, from the place asked for, and never at what is saved there."""
    progress = windowed()
    progress.paused = True
    progress.probe(wanted)
    assert (progress.pace, progress.next_index, progress.paused) == (Pace.PROBE, found, False)
    assert (progress.inflight_count, progress.inflight_bytes) == (0, 0)


@pytest.mark.parametrize(("received", "found"), [(2, 5), (4, 5), (9, 10)])
def test_sending_ahead_begins_after_what_was_received_saved_or_not(
    received: int, found: int
) -> None:
    """L7: what the follower has received needs not be sent again while it is being saved."""
    progress = windowed()
    progress.replicate(received)
    assert (progress.pace, progress.next_index) == (Pace.REPLICATE, found)


def test_one_message_is_in_flight_to_who_is_probed() -> None:
    """L7: a probe waits for its answer, and the next entry stays until then."""
    progress = Progress(5, 0.0)
    progress.sent(8, 30, 2)
    assert (progress.paused, progress.next_index, progress.append_sequence) == (True, 5, 2)
    assert (progress.inflight_count, progress.inflight_bytes) == (0, 0)


def test_an_older_answer_takes_no_newer_one_back() -> None:
    """R3: the newest message that was answered counts, in whatever order answers come."""
    progress = Progress(5, 0.0)
    assert not progress.has_answered
    progress.heard(1.0, 7)
    progress.heard(2.0, 3)
    assert (progress.has_answered, progress.acked_sequence, progress.heard_at) == (True, 7, 2.0)


def test_nothing_is_counted_of_who_lost_its_entries() -> None:
    """L5: a follower whose disk went back matches nothing any more, and is sent nothing."""
    progress = windowed()
    progress.quarantine()
    assert (progress.pace, progress.match_index, progress.inflight_count) == (
        Pace.QUARANTINED,
        0,
        0,
    )
