"""Bugs that must be noticed: one line each, put in place, and killed by the test that is for it.

A test that was weakened, a monitor that was switched off, a check that went with a refactoring:
here it shows, in seconds. Each bug is put into the running functions of a fork of one process, so
the package may be installed or not.
"""

from __future__ import annotations

import pytest

from tests.mutants.living import source_of
from tests.mutants.mutation import answers, bench, tell
from tests.mutants.sentinels import SENTINELS, Sentinel

ROOMS = sorted({each.room for each in SENTINELS})


def told_by_a_bench(sentinels: list[Sentinel]) -> dict[str, str]:
    """Return what there is to complain of, by the bug's name."""
    tests = sorted({each.killer for each in sentinels})
    process = bench(tests, children=2)
    for test in tests:
        tell(process, {"name": test, "tests": [test], "cpu_seconds": 60})
    for each in sentinels:
        source = source_of(each.module).replace(each.old, each.new)
        order = {"name": each.name, "module": each.module, "source": source, "cpu_seconds": 60}
        tell(process, {**order, "tests": [each.killer]})
    if process.stdin is not None:
        process.stdin.close()
    wrong: dict[str, str] = {}
    for answer in answers(process):
        name = str(answer["name"])
        if answer["trouble"]:
            wrong[name] = str(answer["trouble"])
        elif name in tests and answer["killer"]:
            wrong[name] = "it fails without any bug"
        elif name not in tests and not answer["killer"]:
            wrong[name] = "no test notices it"
    process.wait()
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
    assert told_by_a_bench([each for each in SENTINELS if each.room == room]) == {}
