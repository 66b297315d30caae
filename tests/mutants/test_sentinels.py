"""Bugs that must be noticed: one line each, put in place, and killed by the test that is for it.

A test that was weakened, a monitor that was switched off, a check that went with a refactoring:
here it shows, in seconds. Each bug is put into the running functions of a fork of one process, so
the package may be installed or not.
"""

from __future__ import annotations

import pytest
from attrs import frozen

from tests.mutants.living import source_of
from tests.mutants.mutation import answers, bench, tell
from tests.mutants.sentinels import SENTINELS
from tests.mutants.watches import WATCHERS, watches
from tests.simulation.broken_promises import BROKEN
from tests.simulation.test_monitors import ONCE, RULES

ROOMS = sorted({each.room for each in SENTINELS})
SPEAKS = "tests/simulation/test_monitors.py::test_"
KILLERS = {
    place: f"{SPEAKS}{test}[{place}]"
    for test, places in (
        ("a_watcher_of_the_simulator_speaks", BROKEN),
        ("the_watcher_of_sessions_speaks", ONCE),
        ("a_rule_of_the_small_models_speaks", RULES),
    )
    for place in places
}
"""By the place where a watcher speaks: the test that breaks the promise it is for."""


@frozen
class Planted:
    """A module with a bug in it, and the test that is to notice."""

    name: str
    module: str
    source: str
    killer: str


def told_by_a_bench(planted: list[Planted]) -> dict[str, str]:
    """Return what there is to complain of, by the bug's name."""
    tests = sorted({each.killer for each in planted})
    process = bench(tests, children=2)
    for test in tests:
        tell(process, {"name": test, "tests": [test], "cpu_seconds": 60})
    for each in planted:
        order = {"name": each.name, "module": each.module, "source": each.source}
        tell(process, {**order, "tests": [each.killer], "cpu_seconds": 60})
    if process.stdin is not None:
        process.stdin.close()
    wrong: dict[str, str] = {}
    count = 0
    for answer in answers(process):
        count += 1
        name = str(answer["name"])
        if answer["trouble"]:
            wrong[name] = str(answer["trouble"])
        elif name in tests and answer["killer"]:
            wrong[name] = "it fails without any bug"
        elif name not in tests and not answer["killer"]:
            wrong[name] = "no test notices it"
    process.wait()
    assert count == len(tests) + len(planted)
    return wrong


def test_each_sentinel_still_fits_its_place() -> None:
    """A bug whose line has changed is written anew, or it guards nothing."""
    unfit = [each.name for each in SENTINELS if source_of(each.module).count(each.old) != 1]
    assert unfit == []
    assert len({each.name for each in SENTINELS}) == len(SENTINELS)


@pytest.mark.slow
@pytest.mark.deadline(300)
@pytest.mark.parametrize("room", ROOMS)
def test_each_sentinel_is_killed_by_its_test(room: str) -> None:
    """And that test passes without it."""
    planted = [
        Planted(
            each.name,
            each.module,
            source_of(each.module).replace(each.old, each.new),
            each.killer,
        )
        for each in SENTINELS
        if each.room == room
    ]
    assert told_by_a_bench(planted) == {}


@pytest.mark.slow
@pytest.mark.deadline(300)
def test_each_watcher_that_is_switched_off_is_missed() -> None:
    """In each place where one speaks, by the test that breaks its promise, and not by another."""
    planted = [
        Planted(watch.place, module, watch.source, KILLERS[watch.place])
        for module in WATCHERS
        for watch in watches(module)
    ]
    assert len(planted) > 70
    assert told_by_a_bench(planted) == {}
