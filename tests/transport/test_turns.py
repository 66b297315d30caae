"""A node reads its clients for so long, and then takes its turn: none is forgotten or passed."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from zope.interface import classImplements

from raft.interfaces import IClientService
from raft.transport.arguments import pack_commands, pack_results
from raft.transport.boxes import encode_box
from raft.transport.clients import ClientListener
from raft.transport.greeting import Identity
from raft.transport.questions import ClientServer
from raft.transport.turns import READ_SECONDS

STEP_SECONDS = READ_SECONDS / 2


class SlowDesk:
    """Each box costs half of a turn's time."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.taken: list[bytes] = []

    def write_batch(self, commands: list[bytes], timeout: float, answer: Any) -> None:
        # The clock alone: what is due is called by the reactor, not from within.
        self.clock.rightNow += STEP_SECONDS
        self.taken += commands
        answer(pack_results(commands))


classImplements(SlowDesk, IClientService)  # type: ignore[misc]


class Place:
    def __init__(self, count: int) -> None:
        self.clock = Clock()
        self.desk = SlowDesk(self.clock)
        identity = Identity("cluster", "a", "i-a")
        self.listener = ClientListener(self.clock, identity, self.desk)
        self.connections: list[ClientServer] = []
        for _ in range(count):
            connection = self.listener.admit("127.0.0.1")
            assert connection is not None
            connection.makeConnection(StringTransport())  # type: ignore[no-untyped-call]
            self.connections.append(connection)

    def ask(self, number: int, text: bytes) -> None:
        box = [(b"_ask", b"1"), (b"_command", b"Write"), (b"commands", pack_commands([text]))]
        self.connections[number].dataReceived(encode_box(box))

    def paused(self) -> list[int]:
        states = [each.transport.producerState for each in self.connections]
        return [number for number, state in enumerate(states) if state == "paused"]

    def turn(self) -> None:
        # As a reactor does, and a Clock does not: what is due later in the turn waits for the next.
        due, self.clock.calls = self.clock.calls, []
        for call in due:
            call.called = 1
            call.func(*call.args, **call.kw)
        # As the node does once it has stepped.
        self.listener.flush()


def test_a_wave_of_questions_leaves_the_node_its_turn_and_is_taken_in_the_order_it_came() -> None:
    """E7, sc-O1: a leader that reads everybody to the end is silent, and is replaced."""
    place = Place(7)
    for number in range(7):
        place.ask(number, b"%d" % number)
    # Two fill the time; the others wait and read no more.
    assert place.desk.taken == [b"0", b"1"]
    assert place.paused() == [2, 3, 4, 5, 6]
    for end in (4, 6, 7):
        place.turn()
        assert place.desk.taken == [b"%d" % number for number in range(end)]
        assert place.paused() == list(range(end, 7))
    place.turn()
    place.ask(0, b"again")
    assert place.desk.taken[-1] == b"again"


def test_what_comes_on_a_connection_that_waits_keeps_its_order() -> None:
    place = Place(3)
    place.ask(0, b"a")
    place.ask(1, b"b")
    place.ask(2, b"first")
    place.ask(2, b"second")
    place.turn()
    assert place.desk.taken == [b"a", b"b", b"first", b"second"]


def test_a_turn_of_the_node_begins_the_time_anew() -> None:
    place = Place(1)
    for number in range(6):
        place.ask(0, b"%d" % number)
        if number % 2:
            place.turn()
    assert len(place.desk.taken) == 6
    assert place.paused() == []


def test_who_is_gone_before_it_had_its_turn_is_forgotten() -> None:
    place = Place(3)
    for number in range(3):
        place.ask(number, b"%d" % number)
    place.connections[2].abandon("of its own")
    place.turn()
    assert place.desk.taken == [b"0", b"1"]


def test_a_stop_calls_nobody() -> None:
    place = Place(3)
    for number in range(3):
        place.ask(number, b"%d" % number)
    place.listener.stop()
    place.clock.advance(0)
    assert place.desk.taken == [b"0", b"1"]
