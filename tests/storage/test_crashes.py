"""Power is lost at every point of many scenarios: see `tests.storage.crashes` for the oracle."""

from __future__ import annotations

import random

import pytest

from raft.core.configuration import Configuration
from raft.errors import StorageFull
from raft.interfaces import SnapshotMeta
from raft.storage.imagined import ImaginedDisk
from raft.storage.snapshots import SnapshotFiles
from tests.storage.crashes import (
    DIRECTORY,
    SCENARIOS,
    Script,
    appends,
    compaction,
    conflicts,
    die_everywhere,
    enumerate_crashes,
    fail_everywhere,
    full_disk,
    recovered,
    rolls,
    wanders,
)

LEAST = 100_000
"""How many distinct states one run of these tests recovers, at least."""
OF_SCENARIOS = {
    "compaction": 3_400,
    "compaction_of_many_segments": 1_600,
    "installs": 1_750,
    "truncates_into_an_older_segment": 1_300,
    "abandoned_snapshots": 4_800,
    "upgrades_and_restores": 780,
    "rolls": 560,
}
OF_OTHER_SCENARIOS = 180
SEEDS_IN_ONE = 8
OF_SEEDS = (5_800, 5_100, 5_950, 6_500, 5_150, 5_600, 6_600)
OF_SEEDS += (6_300, 5_200, 6_000, 7_050, 7_600, 4_800, 5_400)
AGAIN = 12
OF_CRASHES_AGAIN = 3_400
SCENARIO_TEARS = 12


@pytest.fixture
def count_states(record_property):
    """Return what notes how many states were recovered; the run's end prints the sum."""

    def count(states, least):
        record_property("crash states", states)
        assert states >= least, f"only {states} distinct states"

    return count


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_a_crash_leaves_a_state_between_acknowledged_and_written(scenario, count_states):
    """D1, D2, D5, E1, N1, N7: prefixes of the operations x subsets x tears x names.

    sc-S1, sc-S7, sc-F12, sc-F14, sc-F15, sc-F17, sc-R11.
    """
    least = OF_SCENARIOS.get(scenario.__name__, OF_OTHER_SCENARIOS)
    count_states(enumerate_crashes(scenario, tears=SCENARIO_TEARS), least)


@pytest.mark.slow
@pytest.mark.parametrize("group", range(len(OF_SEEDS)))
def test_any_order_of_saves_survives_any_crash(group, count_states):
    """TESTING 3.7: a random scenario for each seed."""
    states = 0
    for seed in range(group * SEEDS_IN_ONE, (group + 1) * SEEDS_IN_ONE):
        states += enumerate_crashes(wanders, Script(chance=random.Random(seed)))
    count_states(states, OF_SEEDS[group])


@pytest.mark.slow
def test_a_crash_after_a_crash_is_a_crash(count_states):
    """sc-F16: go on from what one crash left, and crash again."""
    states = 0
    for seed in range(AGAIN):
        chance = random.Random(seed)
        first = Script(chance=chance)
        first.open()
        wanders(first, 12)
        left = chance.choice([files for _, files in first.disk.crash_states(10)])
        disk = ImaginedDisk.holding(left)
        _, held = recovered(disk)
        disk = ImaginedDisk.holding(disk.contents())
        script = Script(disk, [held], chance=chance)
        states += enumerate_crashes(lambda script: wanders(script, 10), script)
    count_states(states, OF_CRASHES_AGAIN)


def test_a_whole_run_enumerates_enough_states():
    """TESTING 3.7: each test above has its own least; here is what they come to."""
    others = OF_OTHER_SCENARIOS * (len(SCENARIOS) - len(OF_SCENARIOS))
    assert sum([*OF_SCENARIOS.values(), others, *OF_SEEDS, OF_CRASHES_AGAIN]) >= LEAST
    assert len(SCENARIOS) >= 12


@pytest.mark.parametrize("scenario", [rolls, compaction])
def test_a_process_that_died_leaves_names_that_are_not_yet_on_disk(scenario, count_states):
    """D5, sc-F4: the next process builds on what it sees, and then power is lost."""
    count_states(die_everywhere(scenario), 1)


@pytest.mark.parametrize("scenario", [rolls, compaction, conflicts])
def test_what_a_failed_sync_left_in_the_page_cache_is_brought_to_the_disk(scenario, count_states):
    """D3, sc-F7: the next process sees bytes that no later sync of theirs will write."""
    count_states(fail_everywhere(scenario), 1)


class Unsynced(ImaginedDisk):
    """Says that it synced, and did not."""

    def fdatasync(self, fd):
        self._ask("fdatasync")


class Nameless(ImaginedDisk):
    """Never brings names to the disk."""

    def sync_directory(self, path):
        self._ask("sync_directory")


@pytest.mark.parametrize(
    ("disk", "scenario"), [(Unsynced, appends), (Nameless, rolls), (Unsynced, compaction)]
)
def test_the_oracle_notices_a_sync_that_is_left_out(disk, scenario):
    """sc-F14: the machinery is tested too: a disk that lies must be found out."""
    with pytest.raises(AssertionError):
        enumerate_crashes(scenario, Script(disk()))


def test_a_full_disk_is_no_failure_until_room_runs_out():
    """D4, sc-F8: full is met when the next segment is prepared; votes and saves go on meanwhile."""
    script = Script()
    script.open()
    full_disk(script)
    assert not script.writer.full


def test_a_snapshot_that_finds_no_room_is_refused_alone():
    """D4, sc-S13: a full disk refuses the snapshot and harms nothing else."""
    script = Script()
    script.open()
    script.vote(1)
    script.append(3)
    poisoned = []
    snapshots = SnapshotFiles(script.disk, DIRECTORY, 0, poisoned.append)

    def no_room(call, number):
        if call == "pwrite":
            raise OSError(28, "No space left on device")

    writer = snapshots.create(SnapshotMeta(2, 1, Configuration(), 0, 0))
    script.disk.fault = no_room
    with pytest.raises(StorageFull):
        writer.write(b"x" * 100)
    script.disk.fault = None
    assert not poisoned
    assert not [name for name in script.disk.contents() if "snapshot" in name]
    script.append(1)
