"""Saves that are waited for are reported exactly once, and no disk holds anybody up for long."""

from __future__ import annotations

import errno
import random
import threading

import pytest

from raft.core.configuration import Configuration
from raft.core.outputs import HardState
from raft.interfaces import SnapshotMeta
from raft.storage import wal
from raft.storage.brief_wait import MOST_SECONDS, QUICK_SAVES, QUICK_SECONDS, BriefWait
from raft.storage.imagined import ImaginedDisk
from tests.storage.test_faults import SEGMENT_BYTES, Direct, record, reopened, saves

VOTE = (1, HardState(1, "a"), None, 0, 0, b"")
LONG_SECONDS = 10.0
RACES = 300


def waited(direct, save):
    return direct.store.save(*save, True)


def append(index, size=200):
    return (1 + index, None, None, index, index + 1, record(index, 1, size))


class Race(BriefWait):
    """A wait whose writer is done when the test says so."""

    def __init__(self, falls):
        super().__init__()
        self.falls = falls
        self.reported = []

    def write(self):
        if not self.is_taken(1, 0.0):
            self.reported.append("by the writer")

    def pause(self, seconds):
        if self.falls == "during":
            self.write()
        rang = super().pause(0.0)
        if self.falls == "between":
            self.write()
        return rang

    def run(self):
        if not self.begin(1):
            return
        if self.falls == "before":
            self.write()
        if self.end():
            self.reported.append("by who waits")
        if self.falls == "after":
            self.write()


@pytest.mark.parametrize(
    ("falls", "reporter"),
    [
        ("before", "by who waits"),
        ("during", "by who waits"),
        ("between", "by who waits"),
        ("after", "by the writer"),
    ],
)
def test_a_save_is_reported_once_however_the_race_falls(falls, reporter):
    """D2: before, during or after the wait, and between its end and the lock."""
    race = Race(falls)
    race.run()
    assert race.reported == [reporter]
    assert race._bell.locked()


def test_a_wait_that_was_won_in_the_last_moment_is_none_in_vain():
    race = Race("between")
    race.run()
    race.run()
    assert race.reported == ["by who waits"] * 2


def test_two_threads_report_each_save_once():
    """The same with threads, and pauses that often end when the writer does."""
    wait = BriefWait(quick_saves=0)
    asked = threading.Semaphore(0)
    answered = threading.Semaphore(0)
    reported = []

    def write():
        for ticket in range(1, RACES + 1):
            assert asked.acquire(timeout=LONG_SECONDS)
            if not wait.is_taken(ticket, 0.0):
                reported.append((ticket, "writer"))
                answered.release()

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    chance = random.Random(1)
    for ticket in range(1, RACES + 1):
        wait.most_seconds = chance.choice((0.0, 0.00002, 0.0001, LONG_SECONDS))
        assert wait.begin(ticket)
        asked.release()
        if wait.end():
            reported.append((ticket, "waiter"))
        else:
            assert answered.acquire(timeout=LONG_SECONDS)
    writer.join(LONG_SECONDS)
    assert [ticket for ticket, _ in reported] == list(range(1, RACES + 1))
    assert "waiter" in {who for _, who in reported}


def test_an_answer_to_another_save_is_not_the_one_that_is_awaited():
    """A ticket is what is waited for [RULES D2]."""
    wait = BriefWait(most_seconds=0.0)
    assert wait.begin(2)
    assert not wait.is_taken(1, 0.0)
    assert not wait.end()


def test_after_a_wait_in_vain_many_saves_must_be_quick():
    """sc-K6: a disk that hangs is waited for once."""
    wait = BriefWait(most_seconds=0.0)
    assert wait.begin(1)
    assert not wait.end()
    for ticket in range(1, QUICK_SAVES + 1):
        assert not wait.begin(ticket)
        assert not wait.is_taken(ticket, QUICK_SECONDS)
    assert wait.begin(QUICK_SAVES + 1)


def test_a_slow_save_counts_all_over_again():
    wait = BriefWait(quick_saves=2)
    for took_seconds in (2 * QUICK_SECONDS, 0.0, 2 * QUICK_SECONDS, 0.0):
        wait.is_taken(1, took_seconds)
        assert not wait.begin(2)
    wait.is_taken(1, 0.0)
    assert wait.begin(2)


# The whole log.


class BrokenOnce:
    """Fails one sync; the next one would pass, as a kernel's does that forgot what was dirty."""

    def __init__(self):
        self.failed = False

    def __call__(self, call, _):
        if call == "fdatasync" and not self.failed:
            self.failed = True
            raise OSError(errno.EIO, "broken")


@pytest.fixture
def disk():
    return ImaginedDisk()


@pytest.fixture
def direct(disk):
    """A quiet store on a disk that keeps nothing unsynced; a busy machine is waited for, too."""
    direct = Direct(disk)
    direct.tidied()
    thread = direct.store._thread
    thread.seconds = lambda: 0.0
    thread.wait.most_seconds = LONG_SECONDS
    yield direct
    if not direct.store._stopping:
        direct.stop()


def hang(disk):
    """Let syncs hang; return what ends that when it is set."""
    gate = threading.Event()
    disk.fault = lambda call, _: (call == "fdatasync" and not gate.wait(LONG_SECONDS)) or None
    return gate


def test_what_was_waited_for_is_durable_and_not_reported(direct, disk):
    """D1: it is on the disk when the call returns."""
    assert waited(direct, VOTE)
    assert waited(direct, append(1))
    direct.stop()
    assert not direct.saved
    hard_state, log = reopened(disk)
    assert (hard_state, log) == (HardState(1, "a"), {1: record(1, 1)})


def test_without_being_asked_nobody_waits_for_the_disk(direct):
    assert not direct.store.save(*VOTE)
    direct.wait(lambda: direct.saved == [1])


def test_a_disk_that_hangs_holds_nobody_up_and_is_reported_later(direct, disk):
    """sc-K6: the wait ends, and the writer's own report comes once."""
    thread = direct.store._thread
    thread.wait.most_seconds = MOST_SECONDS
    gate = hang(disk)
    assert not waited(direct, VOTE)
    assert not direct.saved
    gate.set()
    direct.wait(lambda: direct.saved)
    assert not waited(direct, append(1))
    direct.wait(lambda: len(direct.saved) > 1)
    direct.stop()
    assert direct.saved == [1, 2]


def test_nobody_waits_for_a_save_behind_one_that_is_under_way(direct, disk):
    """D1: the wait would be for both."""
    gate = hang(disk)
    assert not direct.store.save(*VOTE)
    assert not waited(direct, append(1))
    gate.set()
    direct.wait(lambda: direct.saved and direct.saved[-1] == 2)
    assert waited(direct, append(2))
    assert reopened(disk)[1] == {1: record(1, 1), 2: record(2, 1)}


def test_nobody_waits_for_a_save_behind_a_mark(direct, disk):
    """N1: what follows a snapshot's mark is not durable before it."""
    assert waited(direct, VOTE)
    assert waited(direct, append(1))
    direct.store.create_snapshot(SnapshotMeta(1, 1, Configuration(), 0, 0)).commit()
    gate = hang(disk)
    direct.store.mark_snapshot(3, 1, 1, True, 2)
    assert not waited(direct, (4, None, None, 2, 3, record(2, 1)))
    gate.set()
    direct.wait(lambda: direct.saved and direct.saved[-1] == 4)


def test_a_sync_that_fails_is_not_acknowledged_and_poisons_the_store(direct, disk):
    """D3: neither this save nor any later one is reported."""
    direct.store._thread.wait.most_seconds = MOST_SECONDS
    disk.fault = BrokenOnce()
    assert not waited(direct, VOTE)
    direct.wait(lambda: direct.failed or direct.saved)
    assert not waited(direct, append(1))
    direct.stop()
    assert not direct.saved
    assert len(direct.failed) == 1
    assert reopened(disk)[1] == {}


@pytest.mark.parametrize(("spare_bytes", "is_done"), [(0, True), (-1, False)])
def test_nobody_waits_for_a_large_save(direct, monkeypatch, spare_bytes, is_done):
    monkeypatch.setattr(wal, "MOST_WAITED_BYTES", len(record(1, 1)) + spare_bytes)
    assert waited(direct, append(1)) is is_done
    direct.wait(lambda: is_done or direct.saved == [2])


def test_a_slow_disk_is_not_waited_for(direct):
    """Its saves are reported by the writer."""
    seconds = iter(range(100))
    direct.store._thread.seconds = lambda: float(next(seconds))
    assert waited(direct, VOTE)
    assert not waited(direct, append(1))
    direct.wait(lambda: direct.saved == [2])


def test_what_is_cut_off_can_be_read_no_more_and_what_follows_can(direct):
    """D2: after a wait as after a report."""
    assert waited(direct, VOTE)
    for index in (1, 2, 3):
        assert waited(direct, append(index))
    assert waited(direct, (5, HardState(2, None), 2, 2, 3, record(2, 2)))
    assert direct.store.read(1, 3, SEGMENT_BYTES)[0] == 3
    assert direct.store.read(2, 3, SEGMENT_BYTES) == (3, record(2, 2))
    with pytest.raises(KeyError):
        direct.store.read(3, 4, SEGMENT_BYTES)


def test_both_ways_together_make_one_log(direct, disk):
    """D2: a conflict is cut off with a wait or without one, with the same result."""
    for at, save in enumerate(saves()):
        if not direct.store.save(*save, at % 3 > 0):
            direct.wait(lambda last=save[0]: direct.saved and direct.saved[-1] >= last)
    direct.stop()
    hard_state, log = reopened(disk)
    assert hard_state == HardState(2, None)
    assert list(log) == list(range(1, 27))
    assert log[25] == record(25, 2)
