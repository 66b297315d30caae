"""The time limits of a connection's questions: one timer for all of them."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from raft.errors import Timeout
from raft.transport.boxes import encode_box
from raft.transport.calls import ClientConnection


class Line:
    """A connection on a clock; what came of each question is noted with its time."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.connection = ClientConnection(self.clock)
        self.connection.makeConnection(StringTransport())
        self.told: list[tuple[str, Any, float]] = []

    def ask(self, name: str, seconds: float) -> None:
        asked = self.connection.ask(b"\0\0", lambda box: box[b"said"], True, seconds)
        asked.addCallbacks(
            lambda value: self.told.append((name, value, self.clock.seconds())),
            lambda failure: self.told.append((name, failure.type, self.clock.seconds())),
        )

    def answer(self, tag: bytes) -> None:
        self.connection.dataReceived(encode_box([(b"_answer", tag), (b"said", b"yes")]))

    def pass_by(self, seconds: float) -> None:
        self.clock.pump([0.125] * int(seconds * 8))


@pytest.fixture
def line() -> Line:
    return Line()


def test_each_question_ends_at_its_own_time_in_whatever_order_they_were_asked(line: Line) -> None:
    line.ask("third", 3.0)
    line.ask("first", 1.0)
    line.ask("second", 2.0)
    line.pass_by(4.0)
    assert line.told == [("first", Timeout, 1.0), ("second", Timeout, 2.0), ("third", Timeout, 3.0)]
    assert not line.connection.outstanding


def test_any_number_of_questions_costs_one_timer(line: Line) -> None:
    for number in range(100):
        line.ask(str(number), 3.0 + number / 1000)
    line.clock.advance(0)
    assert len(line.clock.getDelayedCalls()) == 1


def test_what_was_answered_is_not_ended_and_what_follows_still_is(line: Line) -> None:
    line.ask("answered", 1.0)
    line.answer(b"1")
    line.ask("late", 2.0)
    line.pass_by(4.0)
    assert line.told == [("answered", b"yes", 0.0), ("late", Timeout, 2.0)]


def test_who_is_told_may_ask_again(line: Line) -> None:
    asked = line.connection.ask(b"\0\0", lambda box: box, False, 1.0)
    asked.addErrback(lambda _: line.ask("again", 0.5))
    line.ask("another", 5.0)
    line.pass_by(6.0)
    assert line.told == [("again", Timeout, 1.5), ("another", Timeout, 5.0)]


def test_a_deadline_that_has_passed_ends_in_the_next_turn(line: Line) -> None:
    line.ask("late", -1.0)
    assert not line.told
    line.clock.advance(0)
    assert line.told == [("late", Timeout, 0.0)]


def test_nothing_is_left_when_the_connection_is_lost(line: Line) -> None:
    line.ask("open", 3.0)
    line.clock.advance(0)
    line.connection.connectionLost()
    assert not line.clock.getDelayedCalls()
    assert [name for name, _, _ in line.told] == ["open"]
