"""The log as the reactor's thread sees it: what is queued, told, read and refused, and when."""

from __future__ import annotations

import os
from collections.abc import Callable
from threading import Event

import pytest
from attrs import define, evolve, field
from twisted.logger import globalLogPublisher

from raft.core.configuration import Configuration
from raft.core.outputs import HardState
from raft.errors import BadConfiguration, InvariantViolated, StorageDamaged, StorageFailed
from raft.interfaces import SnapshotMeta
from raft.storage import segments, snapshots
from raft.storage.imagined import ImaginedDisk
from raft.storage.marks import How, Mark, encode_mark
from raft.storage.records import encode
from raft.storage.wal import WriteAheadLog
from raft.storage.writer import MarkSave
from tests.storage.test_recovery import chained, opening, segment_of

SEGMENT_BYTES = 4096
META = SnapshotMeta(4, 1, Configuration(), 0, 5, "kv", 1)


@define
class Hand:
    """In the writer thread's place: it does what it is told to, when it is told to."""

    writer: object
    snapshots: object
    queue: object
    saved: Callable[[int], object]
    failed: Callable[[BaseException], object]
    finished: Callable[[], object]
    ending: Event = field(factory=Event)
    started: int = 0
    joined: int = 0

    def start(self):
        self.started += 1

    def join(self):
        self.joined += 1

    def take(self):
        """Return all that is queued."""
        taken = []
        while not self.queue.empty():
            taken.append(self.queue.get())
        return taken


@define
class Node:
    """A log with a hand in its thread's place, and what it reports."""

    disk: ImaginedDisk = field(factory=ImaginedDisk)
    saved: list = field(factory=list)
    failed: list = field(factory=list)
    hands: list = field(factory=list)
    store: WriteAheadLog = None

    def __attrs_post_init__(self):
        self.store = WriteAheadLog(
            "/imagined", self.disk, SEGMENT_BYTES, make_writer=self.make_writer
        )

    def make_writer(self, *arguments):
        self.hands.append(Hand(*arguments))
        return self.hands[-1]

    @property
    def hand(self):
        return self.hands[-1]

    def start(self):
        self.store.start(lambda call, *given: call(*given), self.saved.append, self.failed.append)

    def open(self):
        found = self.store.recover()
        self.start()
        return found


def record(index, term=1, time_us=0):
    return encode(index, term, time_us, 1, b"x" * 20)


def filled(disk, count=6, term=1):
    """Write a log of `count` entries, and return the store it was written through."""
    store = WriteAheadLog("/imagined", disk, SEGMENT_BYTES)
    store.recover()
    records = b"".join(record(index, term) for index in range(1, count + 1))
    store._writer.write([(1, HardState(term), None, 1, count + 1, records)])
    return store


def snapshot(store, meta, *, marked=True, keep_log=True, keep_from=1):
    writer = store.create_snapshot(meta)
    writer.write(b"machine")
    writer.commit()
    if marked:
        store._writer.write_mark(MarkSave(1, meta.index, meta.term, keep_log, keep_from))


@pytest.fixture
def node():
    """A node whose log holds six entries of term 1."""
    disk = ImaginedDisk()
    filled(disk).stop()
    return Node(disk)


def fails(call, code=5):
    def fault(name, number):
        if name == call:
            raise OSError(code, os.strerror(code))

    return fault


@pytest.fixture
def told():
    """What was logged meanwhile, as formats."""
    events = []

    def observe(event):
        events.append(event.get("log_format"))

    globalLogPublisher.addObserver(observe)
    yield events
    globalLogPublisher.removeObserver(observe)


@pytest.mark.parametrize("size_bytes", [0, 4095, (1 << 30) + 1])
def test_a_segment_has_a_size_that_works(size_bytes):
    with pytest.raises(BadConfiguration, match=f"segment_size_bytes is {size_bytes}: it must be"):
        WriteAheadLog("/imagined", ImaginedDisk(), size_bytes)
    for allowed in (4096, 1 << 30):
        assert WriteAheadLog("/imagined", ImaginedDisk(), allowed).segment_size_bytes == allowed


def test_before_it_is_recovered_there_is_nothing_to_be_had(node):
    assert (node.store.full, node.store.sync_count) == (False, 0)
    with pytest.raises(KeyError):
        node.store.read(1, 2, 100)
    with pytest.raises(InvariantViolated, match="recovered once"):
        node.start()
    assert node.hands == []
    node.store.recover()
    assert node.store.read(1, 2, 1) == (2, record(1))
    assert not node.store.full
    node.store._writer.full = True
    node.store._writer.sync_count = 7
    assert (node.store.full, node.store.sync_count) == (True, 7)


def test_it_starts_once(node):
    node.open()
    with pytest.raises(InvariantViolated, match="started once"):
        node.start()
    assert (len(node.hands), node.hand.started) == (1, 1)


def test_a_recovery_that_fails_can_be_tried_again(node):
    """Nothing stays open; the error says what was being done."""
    node.disk.fault = fails("pread")
    with pytest.raises(StorageFailed, match="recovering the log"):
        node.store.recover()
    assert node.disk._open == {}
    node.disk.fault = None
    other = Node(node.disk)
    other.store.recover()
    snapshot(other.store, META)
    other.store.stop()
    opened = []

    def fault(name, number):
        opened.append(name)
        if name == "pread" and "fdatasync" in opened:
            raise OSError(5, os.strerror(5))

    node.disk.fault = fault
    with pytest.raises(StorageFailed, match="recovering a snapshot"):
        node.store.recover()
    assert node.disk._open == {}
    node.disk.fault = None
    assert node.store.recover().snapshot == META


def test_a_torn_frame_is_told_and_a_clean_end_is_not(node, told):
    """D1: an operator can see that something was cut off, and that nobody was told of it."""
    format = "{path}: dropped a torn last frame of up to {size} bytes that was never acknowledged"
    (name,) = node.disk.contents()
    used = node.disk.contents()[name].rstrip(b"\0")
    node.store.recover()
    assert format not in told
    files = {name: (used + b"\xf5RFr torn").ljust(SEGMENT_BYTES, b"\0")}
    Node(ImaginedDisk.holding(files)).store.recover()
    assert told.count(format) == 1


@pytest.mark.parametrize(("entries", "snapshots_time"), [(90, 20), (20, 90), (None, 70)])
def test_the_cluster_s_time_goes_on_from_the_latest_that_is_known(entries, snapshots_time):
    """S3: of the last entry or the snapshot, whichever is there and later."""
    disk = ImaginedDisk()
    store = filled(disk, 4)
    meta = evolve(META, time_us=snapshots_time)
    snapshot(store, meta, keep_log=entries is not None, keep_from=1)
    if entries is not None:
        store._writer.write([(2, None, None, 5, 6, record(5, 1, entries))])
    found = Node(disk).open()
    assert found.last_time_us == max(entries or 0, snapshots_time)
    name = snapshots.name(4, 1)
    assert found.snapshot_bytes == len(disk.contents()[name]) > 0


def test_what_a_queued_truncation_removes_is_hidden_until_it_is_done(node):
    """A read tells what the core may count on: the first of all truncations decides."""
    node.open()
    node.store.save(11, HardState(2), 5, 5, 6, record(5, 2))
    node.store.save(12, None, 3, 3, 4, record(3, 2))
    assert node.store.read(1, 7, 1000)[0] == 3
    with pytest.raises(KeyError):
        node.store.read(3, 7, 1000)
    node.hand.saved(11)
    assert node.store.read(1, 7, 1000)[0] == 3
    node.hand.saved(12)
    assert node.store.read(1, 7, 1000)[0] == 7
    assert (len(node.hand.take()), node.saved) == (2, [11, 12])


def test_a_mark_that_discards_the_log_hides_it_at_once(node):
    """N6: nothing of the old history is read any more; a mark that keeps it hides nothing."""
    node.open()
    snapshot(node.store, META, marked=False)
    node.store.mark_snapshot(11, 4, 1, True, 1)
    assert node.store.read(1, 7, 1000)[0] == 7
    node.store.mark_snapshot(12, 4, 1, False, 5)
    with pytest.raises(KeyError):
        node.store.read(1, 7, 1000)
    assert node.hand.take() == [MarkSave(11, 4, 1, True, 1), MarkSave(12, 4, 1, False, 5)]
    with pytest.raises(InvariantViolated, match="no snapshot up to 3"):
        node.store.mark_snapshot(13, 3, 1, True, 1)
    assert node.hand.take() == []


@pytest.mark.parametrize("ends", ["stop", "failure"])
def test_once_it_ended_nothing_is_queued_and_nothing_is_told(node, ends):
    """D3: what comes late from the other thread is dropped, and so is what comes from here."""
    node.open()
    hand = node.hand
    if ends == "stop":
        node.store.stop()
        assert hand.take() == [None]
    else:
        hand.failed(OSError(5, "x"))
        assert len(node.failed) == 1
    hand.saved(1)
    hand.failed(OSError(5, "y"))
    node.store.save(2, HardState(5), None, 0, 0, b"")
    node.store.mark_snapshot(3, 99, 1, True, 1)
    assert (node.saved, len(node.failed)) == ([], int(ends == "failure"))
    assert hand.take() == []


def test_after_a_failure_what_was_saved_can_be_read_until_the_stop(node, told):
    """D3: the server stops, and may look at what it has meanwhile."""
    node.open()
    node.hand.failed(OSError(5, "x"))
    assert any(format and format.startswith("storage failed") for format in told)
    assert node.store.read(1, 2, 1) == (2, record(1))
    node.store.stop()
    with pytest.raises(KeyError):
        node.store.read(1, 2, 1)


def test_a_stop_ends_when_the_thread_has_and_for_all_who_asked(node):
    """One that was cancelled is told nothing; one that asks later is answered at once."""
    node.open()
    ended = []
    for number in range(3):
        stopped = node.store.stop()
        stopped.addCallbacks(
            lambda _, number=number: ended.append(number), lambda failure: failure.trap(Exception)
        )
        if number == 1:
            stopped.cancel()
    assert (ended, node.hand.take()) == ([], [None])
    node.hand.finished()
    assert (ended, node.hand.joined) == ([0, 2], 1)
    again = []
    node.store.stop().addCallback(again.append)
    assert (again, node.hand.take()) == ([None], [])


def test_a_store_that_was_never_started_stops_at_once(node):
    stopped = []
    node.store.stop().addCallback(stopped.append)
    other = Node(node.disk)
    other.store.recover()
    other.store.stop().addCallback(stopped.append)
    assert stopped == [None, None]
    assert node.disk._open == {}


def test_a_disk_that_fails_under_a_reader_is_told_as_such(node):
    node.open()
    snapshot(node.store, META, marked=False)
    node.disk.fault = fails("pread")
    with pytest.raises(StorageFailed, match="reading the log"):
        node.store.read(1, 2, 1)
    with pytest.raises(StorageFailed, match="reading a snapshot"):
        node.store.open_snapshot(4)


def test_a_disk_that_fails_under_a_snapshot_stops_the_log_too(node):
    """D3: the writer learns of it through its queue."""
    node.open()
    node.disk.fault = fails("open")
    with pytest.raises(StorageFailed):
        node.store.create_snapshot(META)
    (poison,) = node.hand.take()
    assert isinstance(poison, StorageFailed)


def test_snapshots_that_no_mark_vouches_for_are_removed():
    """N1, N7: newer than the mark, or older than the one before it; without a mark all of them."""
    disk = ImaginedDisk()
    store = filled(disk)
    for index in (0, 1, 2, 3):
        snapshot(store, evolve(META, index=index), marked=index in (1, 2))
    assert Node(disk).open().snapshot.index == 2
    assert [name for name in disk.contents() if "snapshot" in name] == [
        snapshots.name(1, 1),
        snapshots.name(2, 1),
    ]
    disk = ImaginedDisk()
    store = filled(disk)
    for index in (0, 4):
        snapshot(store, evolve(META, index=index), marked=False)
    assert Node(disk).open().snapshot is None
    assert not any("snapshot" in name for name in disk.contents())


def damaged(disk, *indexes):
    """Return a disk on which the snapshots up to these have lost their last byte."""
    files = disk.contents()
    for index in indexes:
        name = snapshots.name(index, 1)
        files[name] = files[name][:-1]
    return ImaginedDisk.holding(files)


def test_the_snapshot_before_serves_and_is_the_one_that_counts(told):
    """N7: the next one is marked with it as the one before, and the refused one is none."""
    disk = ImaginedDisk()
    store = filled(disk)
    for index in (2, 4):
        snapshot(store, evolve(META, index=index), keep_from=3)
    sound = Node(disk)
    assert sound.open().snapshot.index == 4
    assert sound.store._writer.ledger.mark == Mark(4, 1, 3, 2)
    node = Node(damaged(disk, 4))
    assert node.open().snapshot.index == 2
    assert node.store._writer.ledger.mark == Mark(2, 1, 3, 2)
    assert told.count("snapshot refused, looking for the one before: {error}") == 1
    node = Node(damaged(disk, 2, 4))
    assert node.open().snapshot is None
    assert node.store._writer.ledger.mark is None


def test_a_gap_between_a_snapshot_and_the_log_is_never_stepped_over():
    """sc-S2: not even of one entry, and whatever mark stands in the log."""
    mark = encode_mark(Mark(12, 2, 13, 8), How.REPEATED)
    bodies = [opening(10, 2) + mark, b"".join(record(index, 2) for index in range(10, 14))]
    made, _, _ = chained(bodies, 7, 50, 123)
    disk = ImaginedDisk.holding({segments.name(7): segment_of(7, made)})
    files = snapshots.SnapshotFiles(disk, "/imagined", 0, [].append)
    for index in (8, 9, 12):
        writer = files.create(evolve(META, index=index, term=2))
        writer.write(b"machine")
        writer.commit()
    left = disk.contents()
    assert Node(ImaginedDisk.holding(left)).open().snapshot.index == 12
    left[snapshots.name(12, 2)] = b""
    assert Node(ImaginedDisk.holding(left)).open().snapshot.index == 9
    left[snapshots.name(9, 2)] = b""
    with pytest.raises(StorageDamaged, match=snapshots.name(12, 2)):
        Node(ImaginedDisk.holding(left)).open()


@pytest.mark.parametrize("incarnations", [("", "00aa"), ("00aa", ""), ("", "")])
def test_whoever_is_told_no_incarnation_takes_any_directory(incarnations):
    """sc-F25: and what was written without one is anybody's."""
    disk = ImaginedDisk()
    for incarnation in incarnations:
        store = WriteAheadLog("/imagined", disk, SEGMENT_BYTES, incarnation)
        assert store.recover().first_index == 1
        store.stop()


@pytest.mark.parametrize(("count", "ok"), [(4, False), (5, True)])
def test_without_its_snapshots_a_whole_log_is_enough_where_it_reaches_past_them(count, ok):
    """N7: a log from the first entry on, up to the mark at least, says all that they said."""
    disk = ImaginedDisk()
    store = filled(disk, count)
    snapshot(store, META)
    if not ok:
        store._writer.write([(2, HardState(2), 4, 0, 0, b"")])
    node = Node(damaged(disk, 4))
    if ok:
        assert node.open().snapshot is None
    else:
        with pytest.raises(StorageDamaged, match="snapshot"):
            node.open()
        with pytest.raises(StorageDamaged, match="the log ends before this snapshot"):
            Node(disk).open()


def test_a_log_that_begins_behind_its_snapshot_is_nothing_without_it():
    """N7: damaged, or gone: refused, with the file or what is missing."""
    disk = ImaginedDisk()
    store = filled(disk)
    snapshot(store, META, keep_log=False, keep_from=5)
    assert Node(disk).open().snapshot == META
    with pytest.raises(StorageDamaged, match=snapshots.name(4, 1)):
        Node(damaged(disk, 4)).open()
    files = disk.contents()
    del files[snapshots.name(4, 1)]
    with pytest.raises(StorageDamaged, match="starts at entry 5 and the snapshot up to 4"):
        Node(ImaginedDisk.holding(files)).open()


def test_a_snapshot_and_the_log_that_it_replaced_have_one_term():
    """N6: what the log's beginning says of the entry before it is checked too."""
    disk = ImaginedDisk()
    store = filled(disk)
    snapshot(store, evolve(META, term=2), marked=False)
    store._writer.write_mark(MarkSave(1, 4, 1, False, 5))
    with pytest.raises(StorageDamaged, match="the snapshot says term 2, the log term 1"):
        Node(disk).open()
