"""Saves that are written by who asks for them, and when the thread writes them after all."""

from __future__ import annotations

import errno
import threading

import pytest

from raft.core.configuration import Configuration
from raft.core.outputs import HardState
from raft.interfaces import SnapshotMeta
from raft.storage import prompt
from raft.storage.imagined import ImaginedDisk
from raft.storage.prompt import PATIENT_SECONDS, QUICK_SECONDS
from raft.storage.thread import WriterThread
from raft.storage.writer import SAVE_BYTES
from tests.storage.test_faults import SEGMENT_BYTES, Direct, record, reopened, saves

VOTE = (1, HardState(1, "a"), None, 0, 0, b"")


def at_once(direct, save):
    return direct.store.save(*save, True)


def append(index, size=200):
    return (1 + index, None, None, index, index + 1, record(index, 1, size))


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
    """A store on a disk that keeps nothing unsynced; it is quiet."""
    direct = Direct(disk)
    direct.tidied()
    with direct.store._thread.working:
        pass
    yield direct
    if not direct.store._stopping:
        direct.stop()


def test_what_was_saved_at_once_is_durable_and_not_reported(direct, disk):
    """D1: it is on the disk when the call returns."""
    assert at_once(direct, VOTE)
    assert at_once(direct, append(1))
    assert not direct.saved
    hard_state, log = reopened(disk)
    assert (hard_state, log) == (HardState(1, "a"), {1: record(1, 1)})


def test_without_being_asked_nobody_waits_for_the_disk(direct):
    assert not direct.store.save(*VOTE)
    direct.wait(lambda: direct.saved == [1])


def test_behind_a_save_that_is_under_way_the_next_one_is_queued(direct, disk):
    """D1: saves are written in order; a vote must not pass the one before."""
    gate = threading.Event()
    disk.fault = lambda call, _: (call == "fdatasync" and not gate.wait(10)) or None
    assert not direct.store.save(*VOTE)
    assert not at_once(direct, append(1))
    gate.set()
    direct.wait(lambda: direct.saved and direct.saved[-1] == 2)
    assert at_once(direct, append(2))
    assert reopened(disk)[1] == {1: record(1, 1), 2: record(2, 1)}


def test_a_sync_that_fails_is_not_acknowledged_and_poisons_the_store(direct, disk):
    """D3: neither this save nor any later one is reported."""
    disk.fault = BrokenOnce()
    assert not at_once(direct, VOTE)
    direct.wait(lambda: direct.failed or direct.saved)
    assert not at_once(direct, append(1))
    direct.stop()
    assert not direct.saved
    assert reopened(disk)[1] == {}


def test_a_disk_that_was_slow_is_left_to_the_thread_for_a_while(direct):
    seconds = iter((0.0, 2 * QUICK_SECONDS))
    direct.store._thread.seconds = lambda: next(seconds)
    assert at_once(direct, VOTE)
    direct.store._thread.seconds = lambda: PATIENT_SECONDS
    assert not at_once(direct, append(1))
    direct.wait(lambda: direct.saved == [2])
    direct.store._thread.seconds = lambda: PATIENT_SECONDS + 2 * QUICK_SECONDS
    assert at_once(direct, append(2))


@pytest.mark.parametrize(("most_bytes", "is_done"), [(len(record(1, 1)), True), (200, False)])
def test_a_large_save_is_the_threads(direct, monkeypatch, most_bytes, is_done):
    monkeypatch.setattr(prompt, "MOST_BYTES", most_bytes)
    assert at_once(direct, append(1)) is is_done
    direct.wait(lambda: is_done or direct.saved == [2])


def test_who_cannot_be_passed_by_writes_everything(direct, monkeypatch):
    monkeypatch.setattr(WriterThread, "may_be_passed_by", False)
    assert not at_once(direct, VOTE)
    direct.wait(lambda: direct.saved == [1])


def test_a_mark_that_is_under_way_comes_first(direct, disk):
    """N1: what follows a snapshot's mark is not durable before it."""
    assert at_once(direct, VOTE)
    assert at_once(direct, append(1))
    gate = threading.Event()
    writer = direct.store.create_snapshot(SnapshotMeta(1, 1, Configuration(), 0, 0))
    writer.commit()
    disk.fault = lambda call, _: (call == "fdatasync" and not gate.wait(10)) or None
    direct.store.mark_snapshot(3, 1, 1, True, 2)
    assert not at_once(direct, (4, None, None, 2, 3, record(2, 1)))
    gate.set()
    direct.wait(lambda: direct.saved and direct.saved[-1] == 4)


def test_only_what_fits_goes_into_the_newest_segment(direct):
    """To begin another one takes as long as a disk wants."""
    writer = direct.store._writer
    room = writer.segment.size_bytes - writer.offset - SAVE_BYTES
    assert writer.has_room(room)
    assert not writer.has_room(room + 1)


def test_no_segment_is_begun_while_somebody_waits(direct, disk):
    """Making one takes as long as a disk wants; the thread has it ready."""
    assert at_once(direct, VOTE)
    written = [at_once(direct, append(index)) for index in range(1, 3 * SEGMENT_BYTES // 200)]
    assert True in written
    assert False in written
    last = 1 + len(written)
    direct.wait(lambda: written[-1] or (direct.saved and direct.saved[-1] == last))
    assert list(reopened(disk)[1]) == list(range(1, len(written) + 1))


def test_who_tidies_keeps_the_log_to_itself(direct):
    with direct.store._thread.working:
        assert not at_once(direct, VOTE)
    direct.wait(lambda: direct.saved == [1])


def test_both_ways_together_make_one_log(direct, disk):
    """D2: a conflict is cut off at once or by the thread, with the same result."""
    for at, save in enumerate(saves()):
        if not direct.store.save(*save, at % 3 > 0):
            direct.wait(lambda last=save[0]: direct.saved and direct.saved[-1] >= last)
    direct.stop()
    hard_state, log = reopened(disk)
    assert hard_state == HardState(2, None)
    assert list(log) == list(range(1, 27))
    assert log[25] == record(25, 2)
