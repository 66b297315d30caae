"""Single calls that fail, are cut short or interrupted; and bytes that rot."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import resource
import struct
import threading
import time
import tracemalloc

import pytest
from attrs import evolve

from raft.core.configuration import Configuration
from raft.core.outputs import HardState
from raft.errors import RaftError, StorageDamaged, StorageFailed, StorageFull
from raft.interfaces import SnapshotMeta
from raft.storage import frames, segments
from raft.storage.files import RealFiles
from raft.storage.imagined import ImaginedDisk
from raft.storage.records import HEADER_BYTES, encode
from raft.storage.reserve import ReservedFiles
from raft.storage.wal import WriteAheadLog
from tests.storage.crashes import Script, recovered

SEGMENT_BYTES = 4096
LAST_CALL = 90
LENGTH_OFFSET = 12
"""Where a frame says how long its body is."""


def record(index, term, size=200):
    return encode(index, term, index, 1, random.Random(index).randbytes(size))


DEADLINE_SECONDS = 10.0


class Direct:
    """A store whose thread reports straight away: what was reported, in order."""

    def __init__(self, disk):
        self.disk = disk
        self.saved = []
        self.failed = []
        self.reported = threading.Condition()
        self.store = WriteAheadLog("/imagined", disk, SEGMENT_BYTES)
        self.recovered = self.store.recover()
        self.store.start(self.call, self.saved.append, self.failed.append)

    def call(self, function, *arguments):
        with self.reported:
            function(*arguments)
            self.reported.notify_all()

    def wait(self, condition):
        with self.reported:
            assert self.reported.wait_for(condition, DEADLINE_SECONDS)

    def save(self, *saves):
        """Queue saves and wait until they are written, or something failed."""
        for save in saves:
            self.store.save(*save)
            last = save[0]
        self.wait(lambda: self.failed or (self.saved and self.saved[-1] >= last))

    def tidied(self):
        """Wait until the writer thread has removed and prepared all that it can."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while self.store._writer.untidy:
            assert time.monotonic() < deadline
            threading.Event().wait(0.001)

    def stop(self):
        stopped = []
        self.store.stop().addCallback(stopped.append)
        self.wait(lambda: stopped)

    def run(self, saves):
        self.save(*saves)
        self.stop()


def saves():
    """Votes, entries over several segments and a conflict."""
    yield (1, HardState(1, "a"), None, 0, 0, b"")
    for index in range(1, 31):
        yield (1 + index, None, None, index, index + 1, record(index, 1))
    yield (32, HardState(2, None), 25, 25, 27, record(25, 2) + record(26, 2))


def entries(store, found):
    """All entries of a store that was recovered, by index."""
    index = found.first_index
    end = found.runs[-1].end if found.runs else index
    read = {}
    while index < end:
        after, content = store.read(index, end, 1)
        read[index] = content
        index = after
    return read


def state_after(count):
    """What the log holds after the first `count` saves."""
    hard_state, log = HardState(), {}
    for _, new, truncate_from, start, end, records in list(saves())[:count]:
        hard_state = new or hard_state
        if truncate_from:
            log = {index: content for index, content in log.items() if index < truncate_from}
        size = len(records) // max(end - start, 1)
        for index in range(start, end):
            log[index] = records[(index - start) * size :][:size]
    return hard_state, log


def reopened(disk):
    disk.fault = None
    disk._open.clear()
    store = WriteAheadLog("/imagined", disk, SEGMENT_BYTES)
    found = store.recover()
    state = (found.hard_state, entries(store, found))
    store.stop()
    return state


@pytest.mark.parametrize(
    "code", [errno.EIO, errno.ENOSPC, errno.EROFS, errno.EACCES], ids=errno.errorcode.get
)
@pytest.mark.parametrize(
    "call", ["pwrite", "fdatasync", "open", "allocate", "rename", "unlink", "sync_directory"]
)
def test_the_first_failed_call_ends_all_acknowledgements(call, code):
    """D3, sc-F7, sc-F23: no report after a failure, and a restart finds what was reported."""
    for failing in range(1, LAST_CALL, 3):
        disk = ImaginedDisk()
        made = []

        def fault(name, number, made=made, failing=failing):
            if name == call:
                made.append(name)
                if len(made) == failing:
                    raise OSError(code, os.strerror(code))

        disk.fault = fault
        reported = []
        try:
            under_test = Direct(disk)
        except (StorageFailed, StorageFull):
            assert not reported
        else:
            reported = under_test.saved
            under_test.run(saves())
            failures = under_test.failed
            # A full disk is met while the next segment is prepared: that is no failure (D4).
            assert len(failures) <= 1
            for failure in failures:
                assert isinstance(failure, StorageFailed)
        state = reopened(disk)
        low = reported[-1] if reported else 0
        assert state in [state_after(count) for count in range(low, 33)]
        if len(made) < failing:
            break


def test_a_failed_sync_is_not_tried_again():
    """D3, sc-F7: what it left may be marked clean, and a second one would say that it is saved."""
    disk = ImaginedDisk()
    under_test = Direct(disk)
    syncs = []

    def fault(name, number):
        if name == "fdatasync":
            syncs.append(number)
            if len(syncs) == 1:
                raise OSError(errno.EIO, os.strerror(errno.EIO))

    disk.fault = fault
    under_test.run(saves())
    assert len(syncs) == 1
    assert len(under_test.failed) == 1
    assert not under_test.saved


@pytest.mark.parametrize("failing", range(8, 16))
def test_what_recovery_found_is_on_the_disk_and_not_only_in_the_page_cache(failing):
    """D3, sc-F7: after a failed sync the cache shows bytes that no later sync will write."""
    disk = ImaginedDisk()
    made = []

    def fault(name, number):
        made.append(name)
        if name == "fdatasync" and made.count(name) == failing:
            raise OSError(errno.EIO, "Input/output error")

    disk.fault = fault
    under_test = Direct(disk)
    for save in saves():
        under_test.save(save)
        if under_test.failed:
            break
    under_test.stop()
    found = reopened(disk)
    for _, files in disk.crash_states(len(disk.operations)):
        assert reopened(ImaginedDisk.holding(files)) == found


@pytest.mark.parametrize("seed", range(5))
def test_short_and_interrupted_calls_are_finished(seed):
    """sc-F9: a short write is gone on with, an interrupted call repeated."""
    chance = random.Random(seed)

    def fault(name, number):
        if chance.random() < 0.3:
            if name == "pwrite" and chance.random() < 0.5:
                return chance.randint(1, 300)
            if name in ("pwrite", "pread", "fdatasync"):
                raise InterruptedError(errno.EINTR, "interrupted")
        return None

    disk = ImaginedDisk()
    disk.fault = fault
    under_test = Direct(disk)
    under_test.run(saves())
    assert not under_test.failed
    assert reopened(disk) == state_after(32)


def test_a_write_of_nothing_is_an_error_and_no_endless_loop():
    disk = ImaginedDisk()
    under_test = Direct(disk)
    disk.fault = lambda name, number: 0 if name == "pwrite" else None
    under_test.run(saves())
    assert isinstance(under_test.failed[0], StorageFailed)


@pytest.mark.parametrize("call", ["open", "sync_directory"])
@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE], ids=errno.errorcode.get)
def test_without_descriptors_votes_and_saves_go_on_and_nothing_fails(call, code):
    """D4, sc-P8: no descriptor for the next segment is a full disk, not a broken one."""
    disk = ImaginedDisk()
    under_test = Direct(disk)
    under_test.tidied()
    given = list(saves())
    under_test.save(given[0])

    def fault(name, number):
        if name == call:
            raise OSError(code, os.strerror(code))

    disk.fault = fault
    at = 1
    while not under_test.store.full:
        under_test.save(given[at])
        at += 1
    under_test.store.save(40, HardState(2, "b"), None, 0, 0, b"")
    under_test.wait(lambda: under_test.saved[-1] == 40)
    disk.fault = None
    deadline = time.monotonic() + DEADLINE_SECONDS
    while under_test.store.full:
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)
    under_test.stop()
    assert not under_test.failed
    assert reopened(disk) == (HardState(2, "b"), state_after(at)[1])


def test_removals_without_a_descriptor_stay_in_order():
    """D4, sc-F15, sc-P8: a directory's sync that could not begin comes before the next removal."""
    script = Script()
    script.open()
    script.vote(1)
    for _ in range(5):
        script.append(4, 700)
    script.take_snapshot(16, 1)
    script.mark(16, 1, keep_from=16)
    script.take_snapshot(17, 1)
    script.mark(17, 1, keep_from=17)
    writer = script.writer
    made = []

    def fault(name, number):
        made.append(name)
        if name == "sync_directory" and made.count(name) <= 3:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    script.disk.fault = fault
    while writer.untidy:
        writer.tidy()
    removals = [name for name in made if name in ("unlink", "sync_directory")]
    assert removals[:5] == ["unlink", *["sync_directory"] * 4]
    script.disk.fault = None
    for _, files in script.disk.crash_states(len(script.disk.operations) - 12):
        recovered(ImaginedDisk.holding(files))


def test_the_log_keeps_descriptors_back(tmp_path):
    """sc-P8: at the process's limit the log still gets what it needs for a moment."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = ReservedFiles()
    taken = []
    try:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 40, limit[1])
        )
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        fd = files.open(str(tmp_path / "a"), create=True)
        files.sync_directory(str(tmp_path))
        before = len(taken)
        with contextlib.suppress(OSError):
            for name in "bcdef":
                taken.append(files.open(str(tmp_path / name), create=True))
        assert len(taken) - before < 5
        files.close(fd)
        files.sync_directory(str(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
        for fd in taken:
            os.close(fd)


def test_a_descriptor_that_is_given_up_and_taken_by_another_is_not_the_last(tmp_path, monkeypatch):
    """sc-P8, D4: a connection was accepted in between, and the log failed with more in reserve."""
    files = ReservedFiles(3)
    real, tries = RealFiles.open, []

    def contested(self, path, create=False):
        tries.append(path)
        if len(tries) <= 2:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(self, path, create)

    monkeypatch.setattr(RealFiles, "open", contested)
    files.close(files.open(str(tmp_path / "a"), create=True))
    assert len(tries) == 3
    tries.clear()
    del files
    with pytest.raises(OSError, match="Too many"):
        ReservedFiles(1).open(str(tmp_path / "a"))
    assert len(tries) == 2


def test_old_snapshots_are_removed_without_a_descriptor():
    """sc-P8, D4: nothing is wrong with the disk; the store was poisoned, and the node ended."""
    script = Script()
    script.open()
    script.vote(1)
    script.append(6, 100)
    for index in (2, 3):
        script.take_snapshot(index, 1)
        script.mark(index, 1, keep_from=1)
    script.take_snapshot(5, 1)

    def fault(name, number):
        if name == "sync_directory":
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    script.disk.fault = fault
    script.mark(5, 1, keep_from=1)
    script.disk.fault = None
    assert script.snapshots.indexes() == [5, 3]
    for _, files in script.disk.crash_states(len(script.disk.operations) - 4):
        recovered(ImaginedDisk.holding(files))
    script.disk.fault = lambda name, number: fail(name)
    with pytest.raises(OSError, match="Input/output"):
        script.snapshots.retain(5, 5)


def fail(name):
    """Let the disk refuse to sync a directory."""
    if name == "sync_directory":
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def sealed_log():
    """Return the files of a log that was stopped cleanly, and what it holds."""
    disk = ImaginedDisk()
    under_test = Direct(disk)
    under_test.run(list(saves()))
    return disk.contents(), reopened(ImaginedDisk.holding(disk.contents()))


def outcome(files):
    """Return what recovery makes of `files`: the state, or None for a refusal."""
    try:
        return reopened(ImaginedDisk.holding(files))
    except StorageDamaged as error:
        if not error.path or "server" not in str(error):
            raise
        return None


def test_a_flipped_bit_never_makes_another_log():
    """TESTING 3.7, sc-F2: every byte of a log that was stopped cleanly: the same log, or a refusal.

    The last data frame is followed by a sealing one: not even that can be cut off.

    sc-F3.
    """
    files, expected = sealed_log()
    refused = 0
    for name, content in files.items():
        used = len(content.rstrip(b"\x00"))
        for offset in range(min(used + 64, len(content))):
            flipped = bytearray(content)
            flipped[offset] ^= 1 << (offset % 8)
            found = outcome({**files, name: bytes(flipped)})
            assert found is None or found == expected, f"{name} at {offset}"
            refused += found is None
    assert refused > 5000


def test_a_torn_last_frame_is_dropped_and_nothing_else():
    """D1: while the writer lives, the last frame may be torn; only what it held can go.

    sc-F1, sc-F3.
    """
    disk = ImaginedDisk()
    under_test = Direct(disk)
    for save in list(saves())[:4]:
        under_test.save(save)
    writer = under_test.store._writer
    files = disk.contents()
    name = os.path.basename(writer.segment.path)
    last = files[name].rindex(b"\xf5RFr")
    for offset in range(last, writer.offset):
        flipped = bytearray(files[name])
        flipped[offset] ^= 0x10
        assert outcome({**files, name: bytes(flipped)}) == state_after(3)
    for offset in range(512, last):
        flipped = bytearray(files[name])
        flipped[offset] ^= 0x10
        assert outcome({**files, name: bytes(flipped)}) is None
    under_test.stop()


@pytest.mark.parametrize("length", [1 << 20, (1 << 31) - 1, (1 << 32) - 1])
def test_a_damaged_length_claims_no_memory(length):
    """SECURITY 17, sc-F24: however long a frame says that it is, no more than the file is read."""
    files, expected = sealed_log()
    largest, refused = max(map(len, files.values())), 0
    tracemalloc.start()
    try:
        for name, content in files.items():
            for offset, _ in frames_of(content)[0]:
                damaged = bytearray(content)
                struct.pack_into("<I", damaged, offset + LENGTH_OFFSET, length)
                found = outcome({**files, name: bytes(damaged)})
                # The last frame only says that the log was stopped cleanly.
                assert found is None or found == expected, (name, offset)
                refused += found is None
        assert refused > 10
        assert tracemalloc.get_traced_memory()[1] < 100 * largest
    finally:
        tracemalloc.stop()


def test_a_segment_has_its_whole_size_on_the_disk_before_it_has_its_name():
    """sc-F13: nothing that is acknowledged waits for a file's new size to be synced."""
    disk = ImaginedDisk()
    under_test = Direct(disk)
    for save in saves():
        under_test.save(save)
        under_test.tidied()
    under_test.stop()
    sizes = set()
    for _, files in disk.crash_states():
        sizes |= {len(content) for name, content in files.items() if name.endswith(".wal")}
    assert sizes == {SEGMENT_BYTES}


def test_directories_that_are_damaged_in_different_places_are_each_refused():
    """sc-F28: none is repaired by itself, though the others have what it lacks."""
    files, expected = sealed_log()
    names = sorted(files)
    for name in names[:2]:
        (offset, end), *_ = frames_of(files[name])[0]
        damaged = bytearray(files[name])
        damaged[(offset + end) // 2] ^= 1
        disk = ImaginedDisk.holding({**files, name: bytes(damaged)})
        store = WriteAheadLog("/imagined", disk, SEGMENT_BYTES)
        with pytest.raises(StorageDamaged, match=name):
            store.recover()
        assert disk.contents() == {**files, name: bytes(damaged)}
        assert not [each for each in disk.operations if "sync" not in each.kind]
    assert reopened(ImaginedDisk.holding(files)) == expected


def test_a_missing_segment_is_refused():
    """sc-F5: between two segments, or before the first that a snapshot reaches."""
    files, _ = sealed_log()
    names = sorted(files)
    assert len(names) > 2
    for name in names[:-1]:
        left = {other: content for other, content in files.items() if other != name}
        assert outcome(left) is None, name


def test_a_segment_cut_short_is_refused():
    files, _ = sealed_log()
    for name, content in files.items():
        for size in range(0, len(content), 37):
            found = outcome({**files, name: content[:size]})
            assert found is None, (name, size)


def test_segments_that_changed_places_are_refused():
    """sc-F21: a good file in the wrong place."""
    files, _ = sealed_log()
    first, second = sorted(files)[:2]
    assert outcome({**files, first: files[second], second: files[first]}) is None


def test_frames_of_another_log_do_not_pass():
    """sc-F22: a stale block with a good checksum is no frame of this segment."""
    files, _ = sealed_log()
    others, _ = sealed_log()
    name = sorted(files)[0]
    mixed = files[name][:512] + others[name][512:]
    assert outcome({**files, name: mixed}) is None


def frames_of(content):
    """Return (offset, end) of each frame in a segment."""
    found = []
    offset = 512
    owner = segments.HEADER.unpack_from(content)[3]
    while (frame := frames.find(memoryview(content), offset, owner)) is not None:
        found.append((offset, frame.end))
        offset = frame.end
    return found, owner


def even_log():
    """Return the files of a log whose frames of entries are of one size, and the first's name."""
    disk = ImaginedDisk()
    under_test = Direct(disk)
    for save in list(saves())[:-1]:
        under_test.save(save)
    under_test.stop()
    files = disk.contents()
    return files, sorted(files)[0]


def test_frames_that_changed_places_are_refused():
    """sc-F21: good frames of the right segment, in the wrong order or twice."""
    files, name = even_log()
    content = files[name]
    (a, b), (_, c) = frames_of(content)[0][3:5]
    one, two = content[a:b], content[b:c]
    assert len(one) == len(two)
    for wrong in (two + one, two + two, one + one):
        assert outcome({**files, name: content[:a] + wrong + content[c:]}) is None


def test_a_frame_that_is_not_chained_to_the_one_before_is_refused():
    """sc-F22: the right number, the right segment, but another past."""
    files, name = even_log()
    content = files[name]
    found, owner = frames_of(content)
    offset, end = found[-1]
    sequence = frames.find(memoryview(content), offset, owner).sequence
    body = content[offset + frames.HEADER_BYTES : end]
    header, _ = frames.encode_header(owner, sequence, 12345, [body])
    assert outcome({**files, name: content[:offset] + header + body + content[end:]}) is None


def test_a_segment_that_lost_its_last_frames_is_refused():
    """D1, sc-F12: zeros are no torn frame where the next segment goes on further."""
    files, name = even_log()
    for offset, _ in frames_of(files[name])[0][1:]:
        content = files[name][:offset].ljust(len(files[name]), b"\x00")
        with pytest.raises(StorageDamaged) as refused:
            reopened(ImaginedDisk.holding({**files, name: content}))
        assert (refused.value.path, refused.value.offset) == (f"/imagined/{name}", offset)


def test_another_directory_s_files_are_refused(tmp_path):
    """sc-F25: segments carry the incarnation of their directory."""
    store = WriteAheadLog(str(tmp_path), segment_size_bytes=8192, incarnation="00000000000000aa")
    store.recover()
    store.stop()
    other = WriteAheadLog(str(tmp_path), segment_size_bytes=8192, incarnation="00000000000000bb")
    with pytest.raises(StorageDamaged, match="another data directory"):
        other.recover()


def test_a_log_in_which_an_entry_outruns_the_term_is_refused():
    """E1, sc-F11: the term is saved with or before the first entry of it."""
    disk = ImaginedDisk()
    under_test = Direct(disk)
    under_test.run([(1, HardState(1), None, 1, 2, record(1, 2))])
    assert outcome(disk.contents()) is None


META = SnapshotMeta(20, 1, Configuration(), 0, 5, "kv", 1)


def log_with_snapshots(*marked, keep_from=20):
    disk = ImaginedDisk()
    under_test = Direct(disk)
    under_test.save(*list(saves())[:-1])
    ticket = 40
    for index in marked:
        writer = under_test.store.create_snapshot(evolve(META, index=index))
        writer.write(b"machine %d " % index * 20)
        writer.write(b"more")
        writer.commit()
        under_test.store.mark_snapshot(ticket, index, 1, True, keep_from)
        under_test.wait(lambda ticket=ticket: under_test.saved[-1] == ticket)
        ticket += 1
    under_test.tidied()
    under_test.stop()
    return disk.contents()


def newest(files, disk=None):
    store = WriteAheadLog("/imagined", ImaginedDisk.holding(files), SEGMENT_BYTES)
    found = store.recover()
    store.stop()
    return found


def test_a_damaged_snapshot_gives_way_to_the_one_before():
    """N7, sc-S8: each byte of the newest snapshot; the log reaches back far enough."""
    files = log_with_snapshots(12, 20)
    assert newest(files).snapshot.index == 20
    name = next(name for name in files if name.startswith("snapshot-00000000000000000020"))
    for offset in range(len(files[name])):
        flipped = bytearray(files[name])
        flipped[offset] ^= 1 << (offset % 8)
        found = newest({**files, name: bytes(flipped)})
        assert found.snapshot.index == 12, offset
        assert found.first_index <= 13
    for size in range(len(files[name])):
        assert newest({**files, name: files[name][:size]}).snapshot.index == 12
    assert newest({**files, name: files[name] + b"x"}).snapshot.index == 12


def test_a_snapshot_that_contradicts_the_log_gives_way_to_it():
    """N7: of another term than the entry in the log, it is of another history."""
    disk = ImaginedDisk()
    under_test = Direct(disk)
    under_test.save(*list(saves())[:-1])
    writer = under_test.store.create_snapshot(evolve(META, term=2))
    writer.commit()
    under_test.store.mark_snapshot(40, 20, 1, True, 20)
    under_test.wait(lambda: under_test.saved[-1] == 40)
    under_test.stop()
    found = newest(disk.contents())
    assert (found.snapshot, found.first_index) == (None, 1)


def test_the_first_snapshot_damaged_gives_way_to_the_whole_log():
    files = log_with_snapshots(20)
    name = next(name for name in files if name.startswith("snapshot"))
    found = newest({**files, name: files[name][:-1]})
    assert (found.snapshot, found.first_index) == (None, 1)


@pytest.mark.parametrize("marked", [(12, 20), (20,)])
def test_after_a_damaged_snapshot_the_next_one_may_be_damaged_too(marked):
    """N7: the one that was refused was kept as the one before, and the good one was removed."""
    files = log_with_snapshots(*marked)
    name = next(name for name in files if name.startswith("snapshot-00000000000000000020"))
    disk = ImaginedDisk.holding({**files, name: files[name][:-1]})
    under_test = Direct(disk)
    meta = evolve(META, index=25)
    writer = under_test.store.create_snapshot(meta)
    writer.write(b"later")
    writer.commit()
    under_test.store.mark_snapshot(90, 25, 1, True, 26)
    under_test.wait(lambda: under_test.saved == [90])
    under_test.tidied()
    under_test.stop()
    files = disk.contents()
    assert newest(files).snapshot.index == 25
    name = next(name for name in files if name.startswith("snapshot-00000000000000000025"))
    found = newest({**files, name: files[name][:-1]})
    assert (found.snapshot.index if found.snapshot else 0) == (marked[0] if marked[1:] else 0)


def test_without_a_good_snapshot_and_without_the_log_the_store_refuses():
    """sc-S2: a gap between the snapshot and the log is never stepped over."""
    files = log_with_snapshots(12, 16, 20)
    snapshots = [name for name in files if name.startswith("snapshot")]
    with pytest.raises(StorageDamaged):
        newest({n: c[:-1] if n in snapshots else c for n, c in files.items()})
    with pytest.raises(StorageDamaged, match="missing"):
        newest({n: c for n, c in files.items() if n not in snapshots})


def test_damage_is_found_while_a_snapshot_is_read():
    files = log_with_snapshots(20)
    name = next(name for name in files if name.startswith("snapshot"))
    disk = ImaginedDisk.holding(files)
    store = WriteAheadLog("/imagined", disk, SEGMENT_BYTES)
    store.recover()
    number = disk._seen.names[name]
    disk._contents[number][-40] ^= 1
    _, chunks = store.open_snapshot(20)
    with pytest.raises(StorageDamaged):
        list(chunks)
    store.stop()


def test_a_disk_that_fails_under_a_snapshot_poisons_the_store():
    """D3: an ill disk is ill for the log too."""
    disk = ImaginedDisk()
    under_test = Direct(disk)
    writer = under_test.store.create_snapshot(META)

    def fault(name, number):
        if name == "fdatasync":
            raise OSError(errno.EIO, "Input/output error")

    disk.fault = fault
    with pytest.raises(RaftError):
        writer.commit()
    disk.fault = None
    under_test.wait(lambda: under_test.failed)
    assert isinstance(under_test.failed[0], StorageFailed)
    under_test.stop()
    assert not under_test.saved


def test_a_read_notices_bytes_that_changed_under_it(tmp_path):
    store = WriteAheadLog(str(tmp_path), RealFiles(), 8192)
    store.recover()
    store._writer.write([(1, HardState(1), None, 1, 2, record(1, 1))])
    segment = store._writer.segment
    at = RealFiles().pread(segment.fd, 8192, 0).rindex(b"\xf5RFr")
    RealFiles().pwrite(segment.fd, [b"\x00"], at)
    with pytest.raises(StorageDamaged):
        store.read(1, 2, 10)
    RealFiles().pwrite(segment.fd, [b"\xf5"], at)
    assert store.read(1, 2, 10)[0] == 2
    assert len(store.read(1, 2, 10)[1]) == HEADER_BYTES + 200
    store.stop()
