"""The log for what others may cause as often as they like."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.logger import Logger

from raft.sparing import BURST_LINES, MOST_KINDS, SECONDS_A_LINE, SparingLog


def test_a_burst_is_logged_and_the_rest_is_counted(logged_texts: list[str]) -> None:
    """sc-O7: whatever happens thousands of times a second is a line in a while."""
    clock = Clock()
    log = SparingLog(Logger(), clock.seconds)
    for number in range(5000):
        log.warn("It happened: {number}", number=number)
    assert logged_texts == [f"It happened: {number}" for number in range(BURST_LINES)]
    assert log.left_out_count == 5000 - BURST_LINES
    clock.advance(SECONDS_A_LINE)
    log.warn("It happened: {number}", number=9)
    log.warn("It happened: {number}", number=10)
    left_out = 5000 - BURST_LINES
    assert logged_texts[BURST_LINES:] == [
        f"It happened: 9 ({left_out} lines like this one were left out before it)"
    ]
    clock.advance(SECONDS_A_LINE * BURST_LINES * 10)
    for number in range(5000):
        log.tell("It happened: {number}", number=number)
    assert len(logged_texts) == 2 * BURST_LINES + 1


def test_what_one_causes_hides_nothing_of_another(logged_texts: list[str]) -> None:
    log = SparingLog(Logger(), Clock().seconds)
    for _ in range(100):
        log.warn("Closed {peer}", "a", peer="a")
        log.warn("Closed {peer}", peer="a stranger")
    log.warn("Closed {peer}", "b", peer="b")
    log.warn("Refused {peer}", peer="a stranger")
    assert logged_texts.count("Closed a") == logged_texts.count("Closed a stranger") == BURST_LINES
    assert logged_texts[-2:] == ["Closed b", "Refused a stranger"]


def test_kinds_are_bounded(logged_texts: list[str]) -> None:
    """I21: ids without end cost neither memory nor lines without end."""
    log = SparingLog(Logger(), Clock().seconds)
    for number in range(5000):
        log.warn("Closed {peer}", f"id-{number}", peer=number)
    assert len(logged_texts) == MOST_KINDS + BURST_LINES
    assert len(log._kinds) == MOST_KINDS + 1


def test_a_clock_that_goes_back_gives_no_lines(logged_texts: list[str]) -> None:
    times = [100.0]
    log = SparingLog(Logger(), lambda: times[-1])
    for seconds in range(100, 0, -1):
        times.append(float(seconds))
        log.warn("It happened")
    assert len(logged_texts) == BURST_LINES
