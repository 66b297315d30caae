"""`raft bench W10`: a pace is kept whatever is answered, and what was due late has waited."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock

from raft.bench.load import operations
from raft.bench.paced import LATE_SECONDS, TICK_SECONDS, Paced
from raft.bench.worker import among
from raft.errors import OutcomeUnknown, Overloaded
from tests.loaded_side import Side


def paced(side: Side, per_second: float) -> tuple[Paced, Clock]:
    clock = Clock()
    drawn = operations("write", 64, 1)
    return Paced(clock, side.issue, drawn, per_second, clock.seconds), clock


def test_a_pace_is_kept_whether_or_not_anything_is_answered() -> None:
    side = Side()
    load, clock = paced(side, 1000.0)
    load.start()
    clock.pump([TICK_SECONDS] * 501)
    assert 1000 <= len(side.open) <= 1003
    assert [place for place, _ in side.open] == list(range(len(side.open)))
    load.stop()


def test_a_latency_runs_from_the_moment_at_which_the_operation_was_due() -> None:
    side = Side()
    load, clock = paced(side, 100.0)
    load.start()
    Deferred.fromCoroutine(load.measure(10.0))
    # Due at 0.01 s; the process comes to it some milliseconds late.
    clock.advance(0.012)
    clock.advance(0.1)
    side.answer()
    assert list(load.latencies) == pytest.approx([0.102])


def test_what_could_not_be_offered_in_time_is_left_out_and_comes_as_no_wave() -> None:
    side = Side()
    load, clock = paced(side, 1000.0)
    load.start()
    clock.advance(5.0)
    assert len(side.open) <= 1000 * LATE_SECONDS + 1
    measured = Deferred.fromCoroutine(load.measure(1.0))
    clock.pump([TICK_SECONDS] * 501)
    assert measured.called
    assert load.told()["offered"] == pytest.approx(1000, abs=5)


def test_a_refusal_is_counted_apart_with_its_time_and_other_failures_by_class() -> None:
    side = Side()
    load, clock = paced(side, 1000.0)
    load.start()
    Deferred.fromCoroutine(load.measure(1.0))
    clock.advance(TICK_SECONDS)
    (_, first), (_, second) = side.open
    clock.advance(0.5)
    first.errback(Overloaded("too much"))
    # A connection of its own answers a batch of one.
    second.callback([OutcomeUnknown()])
    assert (list(load.latencies), load.failures) == ([], {"OutcomeUnknown": 1})
    told = load.told()
    assert (told["refused"], told["refused_p99_ms"]) == (1, pytest.approx(500.0))


def test_a_stop_waits_for_the_last_answer() -> None:
    side = Side()
    load, clock = paced(side, 1000.0)
    load.start()
    clock.advance(TICK_SECONDS)
    stopped: list[None] = []
    load.stop().addCallback(stopped.append)
    for _, issued in side.open[:-1]:
        issued.callback(None)
    clock.advance(1.0)
    assert not stopped
    side.open[-1][1].callback(None)
    assert (stopped, clock.getDelayedCalls()) == ([None], [])


def test_operations_go_to_several_clients_in_turn() -> None:
    asked: list[str] = []

    def client(name: str) -> Any:
        def issue(*_: object) -> Deferred[Any]:
            asked.append(name)
            return fail(Overloaded())

        return issue

    issue = among([client("a"), client("b")])
    for place in range(4):
        issue(place, 0, []).addErrback(lambda failure: failure.trap(Overloaded))
    assert asked == ["a", "b", "a", "b"]
