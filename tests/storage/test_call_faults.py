"""One call of each kind fails, is cut short or interrupted, in every scenario of the crash tests.

After a call that failed nothing is acknowledged any more, and the next start finds a state between
the last that was acknowledged and the last that was being written. A full disk may be met without
any failure [RULES D4]; what is cut short or interrupted is gone on with.
"""

from __future__ import annotations

import errno
import os
import random

import pytest

from raft.errors import RaftError
from raft.storage.imagined import ImaginedDisk
from tests.storage.crashes import SCENARIOS, Script, agrees, recovered, wanders

CALLS = ("open", "pread", "pwrite", "allocate", "fdatasync", "rename", "unlink", "sync_directory")
MOST_PLACES = 30
"""Of more calls of one kind than so many, some are left out, evenly."""


def steps(script: Script) -> None:
    """Do something of everything, by chance."""
    wanders(script, 30)


def count_calls(scenario) -> dict[str, int]:
    """Return how many calls of each kind a scenario makes."""
    made = dict.fromkeys(CALLS, 0)
    script = Script(chance=random.Random(3))

    def note(call, number):
        if call in made:
            made[call] += 1

    script.disk.fault = note
    script.open()
    scenario(script)
    return made


def places(count: int) -> list[int]:
    return list(range(1, count + 1, max(1, count // MOST_PLACES)))


def run_with(scenario, call: str, place: int, give) -> tuple[Script, bool]:
    """Run a scenario in which one call meets `give`; tell whether it came to its end."""
    script = Script(ImaginedDisk(), chance=random.Random(3))
    made = [0]

    def fault(name, number):
        if name == call:
            made[0] += 1
            if made[0] == place:
                return give()
        return None

    script.disk.fault = fault
    try:
        script.open()
        scenario(script)
    except (OSError, RaftError):
        return script, False
    except AssertionError:
        # A scenario may expect room where there was none this time.
        return script, False
    return script, True


def check(script: Script, ended: bool) -> None:
    """What is found must be something between what was acknowledged and what was written."""
    low = max(i for i, at in enumerate(script.acknowledged) if at is not None)
    allowed = script.states[-1:] if ended else script.states[low:]
    disk = script.disk
    disk.fault = disk.room_bytes = None
    found, held = recovered(disk)
    assert any(agrees(found, held, state) for state in allowed)
    # And what a loss of power leaves of that is the same: recovery has brought it to the disk.
    last = [files for _, files in disk.crash_states(len(disk.operations))]
    for files in last[:: max(1, len(last) // 3)]:
        assert recovered(ImaginedDisk.holding(files))[1] == held


@pytest.mark.slow
@pytest.mark.parametrize("scenario", [*SCENARIOS, steps], ids=lambda scenario: scenario.__name__)
def test_a_call_that_fails_loses_nothing_that_was_acknowledged(scenario, record_property):
    """TESTING 3.7, D3, D4, D5, sc-F7, sc-F8: each kind of call, in places all over the scenario."""
    runs = 0
    for call, count in count_calls(scenario).items():
        for place in places(count):
            for code in (errno.EIO, errno.ENOSPC):

                def fail(code=code):
                    raise OSError(code, os.strerror(code))

                check(*run_with(scenario, call, place, fail))
                runs += 1
    record_property("call faults", runs)
    assert runs > 40


@pytest.mark.slow
@pytest.mark.parametrize("scenario", [*SCENARIOS, steps], ids=lambda scenario: scenario.__name__)
def test_a_call_that_is_cut_short_or_interrupted_changes_nothing(scenario, record_property):
    """TESTING 3.7, sc-F9: the scenario comes to its end, and all of it is found."""

    def interrupt():
        raise InterruptedError(errno.EINTR, os.strerror(errno.EINTR))

    counted = count_calls(scenario)
    faults = [(call, interrupt) for call in ("pread", "pwrite", "fdatasync")]
    faults += [("pwrite", lambda: 1), ("pwrite", lambda: 17)]
    runs = 0
    for call, give in faults:
        for place in places(counted[call]):
            script, ended = run_with(scenario, call, place, give)
            assert ended, (call, place)
            check(script, ended)
            runs += 1
    record_property("call faults", runs)
    assert runs > 20
