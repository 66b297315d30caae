"""Every state in which a crash can leave the disk, recovered by the real code.

A scenario drives a log on an imagined disk and notes, after each save, what the log holds. Then
power is lost at every point, in every way that the disk allows. The oracle: what is
recovered is one of the states between the last that was acknowledged and the last that was
being written; a second recovery finds the same; and a crash during recovery changes nothing.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import random
from collections.abc import Callable

from attrs import define, evolve, field

from raft.core.configuration import Configuration
from raft.core.outputs import HardState
from raft.errors import RaftError
from raft.interfaces import SnapshotMeta
from raft.lives import Lives
from raft.storage.directory import Identity, decode_identity, encode_identity
from raft.storage.files import replace_file
from raft.storage.imagined import ImaginedDisk
from raft.storage.records import Kind, decode, encode
from raft.storage.recovery import Recovery
from raft.storage.snapshots import SnapshotFiles
from raft.storage.starts import (
    LIVES_NAME,
    PEER_LIVES_NAME,
    begin_life,
    decode_lives,
    decode_peers,
    write_peers,
)
from raft.storage.wal import WriteAheadLog
from raft.storage.writer import LogWriter, MarkSave

SEGMENT_BYTES = 4096
DIRECTORY = "/imagined"
CRASHED_RECOVERIES_EVERY = 5
GO_ON_EVERY = 10
TEARS = 4


@define(frozen=True)
class Held:
    """What a log holds, by the model."""

    hard_state: HardState = HardState()
    entries: tuple[tuple[int, bytes], ...] = ()
    snapshot: int = 0


@define
class Script:
    """Drives a writer as the writer thread does, and keeps the model beside it."""

    disk: ImaginedDisk = field(factory=ImaginedDisk)
    states: list[Held] = field(factory=lambda: [Held()])
    begun: list[int] = field(factory=lambda: [0])
    acknowledged: list[int] = field(factory=lambda: [0])
    writer: LogWriter = None
    snapshots: SnapshotFiles = None
    ticket: int = 0
    term: int = 1
    chance: random.Random = field(factory=lambda: random.Random(7))
    promised: list = field(factory=list)
    """(name, since how many operations, what raises where the content is not good)."""

    def open(self):
        if self.writer is not None:
            self.writer.close()
        self.writer = Recovery(self.disk, DIRECTORY, SEGMENT_BYTES, 0).run()
        self.snapshots = SnapshotFiles(self.disk, DIRECTORY, 0, lambda error: None)
        self.snapshots.load()
        mark = self.writer.ledger.mark
        self.snapshots.retain(mark.previous if mark else 0, mark.index if mark else -1)

    @property
    def held(self):
        return self.states[-1]

    @property
    def end(self):
        return max([index for index, _ in self.held.entries], default=self.held.snapshot) + 1

    def record(self, index, size=40, kind=Kind.COMMAND):
        return encode(index, self.term, index, kind, self.chance.randbytes(size))

    def promise(self, name, verify):
        """From here on a crash leaves the file, and it is good."""
        self.promised.append((name, len(self.disk.operations), verify))

    def note(self, *states):
        for state in states:
            self.states.append(state)
            self.begun.append(len(self.disk.operations))
            self.acknowledged.append(None)

    def done(self):
        count = len(self.disk.operations)
        self.acknowledged = [count if at is None else at for at in self.acknowledged]

    def save(self, *saves):
        """Each save is (hard state, truncate from, count of entries, size, kind of each)."""
        queued = []
        for hard_state, truncate_from, count, size, *kind in saves:
            held = self.held
            if hard_state is not None:
                self.term = hard_state.current_term
                held = evolve(held, hard_state=hard_state)
            if truncate_from is not None:
                kept = tuple(e for e in held.entries if e[0] < truncate_from)
                held = evolve(held, entries=kept)
            start = self.end if truncate_from is None else truncate_from
            records = [(i, self.record(i, size, *kind)) for i in range(start, start + count)]
            self.note(evolve(held, entries=held.entries + tuple(records)))
            self.ticket += 1
            body = b"".join(record for _, record in records)
            queued.append((self.ticket, hard_state, truncate_from, start, start + count, body))
        self.writer.write(queued)
        self.done()

    def append(self, count=1, size=40, kind=Kind.COMMAND):
        self.save((None, None, count, size, kind))

    def vote(self, term, server="a"):
        self.save((HardState(term, server), None, 0, 0))

    def take_snapshot(self, index, term, chunks=2):
        meta = SnapshotMeta(index, term, Configuration(), 0, index, "m", 1)
        writer = self.snapshots.create(meta)
        for _ in range(chunks):
            writer.write(self.chance.randbytes(300))
        writer.commit()

    def mark(self, index, term, keep_log=True, keep_from=0):
        entries = self.held.entries if keep_log else ()
        self.note(evolve(self.held, entries=entries, snapshot=index))
        self.ticket += 1
        self.writer.write_mark(MarkSave(self.ticket, index, term, keep_log, keep_from))
        self.done()
        self.snapshots.retain(self.writer.ledger.mark.previous, 1 << 60)

    def tidy(self):
        while self.writer.untidy:
            if not self.writer.tidy() and self.writer.full:
                break


def appends(script):
    script.vote(1)
    for size in (1, 60, 500, 900):
        script.append(1, size)
    script.save((None, None, 2, 30), (None, None, 3, 50))
    script.tidy()
    script.append(3, 10)
    script.writer.seal()


def rolls(script):
    script.vote(1)
    for _ in range(14):
        script.append(2, 400)
    script.tidy()
    script.append(1, 2000)


def conflicts(script):
    script.vote(1)
    script.append(5, 100)
    script.save((HardState(2, None), 4, 2, 80))
    script.save((None, None, 2, 60), (HardState(3, "b"), 5, 1, 700))
    script.save((HardState(4, None), 2, 0, 0))
    script.append(3, 60)


def votes(script):
    for term in range(1, 9):
        script.vote(term, "server-" + "x" * term)
        if term % 3 == 0:
            script.append(1, 20)


def compaction(script):
    script.vote(1)
    for step in range(6):
        script.append(6, 150)
        script.take_snapshot(script.end - 2, 1)
        script.append(1, 30)
        script.mark(script.end - 3, 1, keep_from=script.end - 6 + step % 2)
        script.tidy()


def compaction_of_many_segments(script):
    script.vote(1)
    for _ in range(7):
        script.append(4, 700)
    script.take_snapshot(24, 1)
    script.mark(24, 1, keep_from=20)
    script.take_snapshot(26, 1)
    script.mark(26, 1, keep_from=25)
    script.tidy()
    assert script.writer.ledger.first > 16
    script.append(1, 30)


def installs(script):
    script.vote(1)
    script.append(10, 300)
    script.take_snapshot(8, 1)
    script.mark(8, 1, keep_from=5)
    script.vote(3)
    script.take_snapshot(40, 2)
    script.mark(40, 2, keep_log=False, keep_from=41)
    script.tidy()
    script.append(3, 100)
    script.take_snapshot(42, 3)
    script.mark(42, 3, keep_from=42)
    script.tidy()


def reopens(script):
    script.vote(1)
    for size in (900, 1200, 1500, 700):
        script.append(1, size)
        script.open()
        script.vote(script.term + 1)
        script.tidy()


def truncates_into_an_older_segment(script):
    script.vote(1)
    script.append(12, 300)
    script.append(4, 300)
    script.take_snapshot(5, 1)
    script.mark(5, 1, keep_from=6)
    script.save((HardState(2, None), 8, 3, 200))
    script.take_snapshot(7, 1)
    script.mark(7, 1, keep_from=8)
    script.tidy()
    script.append(5, 300)
    script.tidy()


def larger_than_a_segment(script):
    script.vote(1)
    script.append(1, 100)
    script.append(3, 3000)
    script.append(1, 100)
    script.tidy()
    script.append(1, 5000)


def full_disk(script):
    script.vote(1)
    script.append(1, 100)
    script.disk.room_bytes = 100
    script.tidy()
    assert script.writer.full
    script.vote(2)
    script.append(1, 200)
    script.disk.room_bytes = None
    script.tidy()
    assert not script.writer.full
    script.append(3, 1000)


def abandoned_snapshots(script):
    script.vote(1)
    script.append(4, 100)
    script.take_snapshot(2, 1)
    script.open()
    script.append(1, 50)
    writer = script.snapshots.create(SnapshotMeta(4, 1, Configuration(), 0, 0))
    writer.write(b"half")
    script.take_snapshot(4, 1, chunks=2)
    script.mark(4, 1, keep_from=2)
    writer.abort()
    script.append(1, 50)


def bootstraps(script):
    """A new directory: its identity, its first start, the first configuration."""
    replace_file(script.disk, DIRECTORY, "identity", encode_identity(Identity("a", "00aa")))
    script.promise("identity", decode_identity)
    begin_life(script.disk, DIRECTORY)
    script.promise(LIVES_NAME, decode_lives)
    script.vote(1, None)
    script.append(1, 120)
    identity = Identity("a", "00aa", "cluster")
    replace_file(script.disk, DIRECTORY, "identity", encode_identity(identity))
    script.promise("identity", lambda content, name: belongs(content, name, "cluster"))
    write_peers(script.disk, DIRECTORY, {"b": ("00bb", Lives(1, ("b" * 8,)))})
    script.promise(PEER_LIVES_NAME, decode_peers)
    script.vote(1)
    script.append(2, 60)


def belongs(content, name, cluster_id):
    assert decode_identity(content, name).cluster_id == cluster_id


def upgrades_and_restores(script):
    """A newer release starts on the directory of an older one, switches, and takes a backup."""
    script.vote(1)
    script.append(4, 300)
    script.writer.close()
    script.open()
    begin_life(script.disk, DIRECTORY)
    script.promise(LIVES_NAME, decode_lives)
    script.vote(2)
    script.append(1, 3, Kind.VERSION)
    for _ in range(4):
        script.append(1, 700, Kind.RESTORE)
    script.append(1, 40, Kind.RESTORE)
    script.take_snapshot(script.end - 1, 2)
    script.mark(script.end - 1, 2, keep_from=script.end)
    script.tidy()
    begin_life(script.disk, DIRECTORY)
    script.append(1)


def wanders(script, steps=25):
    """Do whatever comes to mind; the script's seed decides."""
    chance = script.chance
    script.vote(script.held.hard_state.current_term + 1)
    for _ in range(steps):
        first = script.writer.ledger.first
        term = script.held.hard_state.current_term
        match chance.choice("aaabbtvsidro"):
            case "a":
                script.append(chance.randint(1, 4), chance.choice((0, 30, 300)))
            case "b":
                script.save(*[(None, None, chance.randint(0, 3), 60)] * chance.randint(1, 4))
            case "t" if script.end > max(first, script.held.snapshot + 1):
                start = chance.randint(max(first, script.held.snapshot + 1), script.end)
                script.save((HardState(term + 1, None), start, chance.randint(0, 3), 100))
            case "v":
                script.vote(term + chance.randint(0, 1), chance.choice("abc"))
            case "s" if script.end - 1 > max(script.held.snapshot, first):
                index = chance.randint(max(script.held.snapshot, first), script.end - 1)
                script.take_snapshot(index, script.writer.term_at(index))
                script.append(1)
                script.mark(index, script.writer.term_at(index), keep_from=chance.randint(1, index))
            case "i" if chance.random() < 0.4:
                index = script.end + chance.randint(0, 5)
                script.take_snapshot(index, term)
                script.mark(index, term, keep_log=False, keep_from=index + 1)
            case "d":
                script.tidy()
            case "r":
                script.open()
            case "o":
                script.writer.tidy()


SCENARIOS = [
    appends,
    rolls,
    conflicts,
    votes,
    compaction,
    compaction_of_many_segments,
    installs,
    reopens,
    truncates_into_an_older_segment,
    larger_than_a_segment,
    full_disk,
    abandoned_snapshots,
    bootstraps,
    upgrades_and_restores,
]


def encoded(record):
    return encode(record.index, record.term, record.time_us, record.kind, record.payload)


def recovered(disk: ImaginedDisk):
    """Recover with the real store; return what the log holds, and check that it agrees."""
    store = WriteAheadLog(DIRECTORY, disk, SEGMENT_BYTES)
    found = store.recover()
    try:
        snapshot = found.snapshot.index if found.snapshot else 0
        assert found.first_index <= snapshot + 1, "the log starts after the snapshot"
        end = found.runs[-1].end if found.runs else found.first_index
        entries = []
        index = found.first_index
        while index < end:
            after, body = store.read(index, end, 700)
            entries += [(record.index, encoded(record)) for record in decode(body)]
            assert entries[-1][0] == after - 1
            index = after
        assert sum(run.size_bytes for run in found.runs) == sum(len(r) for _, r in entries)
        with contextlib.suppress(KeyError):
            store.read(end, end + 1, 100)
            raise AssertionError(f"there is an entry {end}, which nobody knows of")
        return found, Held(found.hard_state, tuple(entries), snapshot)
    finally:
        store.stop()


def agrees(found, held: Held, expected: Held) -> bool:
    """Whether what was recovered is `expected`: it may hold less of what was compacted."""
    end = max([index for index, _ in expected.entries], default=expected.snapshot) + 1
    wanted = tuple(e for e in expected.entries if e[0] >= found.first_index)
    held_end = max([index for index, _ in held.entries], default=found.first_index - 1) + 1
    return (
        held.hard_state == expected.hard_state
        and held.entries == wanted
        and held_end == max(end, found.first_index)
        and held.snapshot == expected.snapshot
    )


def enumerate_crashes(
    scenario: Callable[[Script], None], script: Script | None = None, tears: int = TEARS
) -> int:
    """Run a scenario, crash it everywhere, and return how many distinct states there were."""
    script = script or Script()
    script.open()
    scenario(script)
    oracle = Oracle()
    for done, files in script.disk.crash_states(chance=script.chance, tears=tears):
        low = max(i for i, at in enumerate(script.acknowledged) if at is not None and at <= done)
        high = max(i for i, at in enumerate(script.begun) if at <= done)
        oracle.look(files, script.states[low : high + 1], done)
        for name, since, verify in script.promised:
            if since <= done:
                verify(files[name], name)
    return oracle.count


@define
class Oracle:
    """Looks at what crashes left: each state once, however often it comes up."""

    known: dict[bytes, tuple[object, Held]] = field(factory=dict)
    """By the digest of the files: what is recovered from them."""

    @property
    def count(self) -> int:
        return len(self.known)

    def look(self, files, allowed, done, nested=False):
        key = digest(files)
        if key not in self.known:
            self.known[key] = self.recover(files, done)
            if self.count % CRASHED_RECOVERIES_EVERY == 0 and not nested:
                self.crash_recovery(files, allowed)
        found, held = self.known[key]
        assert any(agrees(found, held, state) for state in allowed), (
            f"after {done} operations: {held} is none of {allowed}"
        )

    def recover(self, files, done):
        """Recover twice, with the same result, and now and then go on from there."""
        disk = ImaginedDisk.holding(files)
        try:
            first = recovered(disk)
        except RaftError as error:
            raise AssertionError(f"refused after {done} operations: {error}") from error
        # Recovery is a function of the files: where it changed nothing it finds the same again.
        if (left := disk.contents()) != files:
            assert recovered(ImaginedDisk.holding(left)) == first
        if self.count % GO_ON_EVERY == 0:
            go_on(disk.contents())
        return first

    def crash_recovery(self, files, allowed):
        """Crash the recovery of `files` at each of its operations."""
        disk = ImaginedDisk.holding(files)
        recovered(disk)
        left = {digest(files): files for _, files in disk.crash_states()}
        for key, files in left.items():
            if key not in self.known:
                self.look(files, allowed, 0, nested=True)


def go_on(files):
    """Recover from what a crash left, save something more, and expect to find just that."""
    disk = ImaginedDisk.holding(files)
    _, held = recovered(disk)
    script = Script(disk, [held])
    script.open()
    script.vote(held.hard_state.current_term + 1)
    script.append(2, 300)
    script.writer.close()
    found, after = recovered(disk)
    assert agrees(found, after, script.held)


def digest(files):
    summed = hashlib.blake2b(digest_size=16)
    for name, content in files.items():
        summed.update(name.encode() + len(content).to_bytes(8, "little") + content)
    return summed.digest()


class Died(BaseException):
    """The process is gone; what the kernel was told stays told."""


def die_everywhere(scenario: Callable[[Script], None]) -> int:
    """End the process at each change; the next one goes on; return how many states there were."""
    changes = ("open", "pwrite", "fdatasync", "rename", "unlink", "sync_directory")
    return _go_on_everywhere(scenario, changes, Died)


def fail_everywhere(scenario: Callable[[Script], None]) -> int:
    """Let each sync fail once; the next process goes on; return how many states there were."""
    return _go_on_everywhere(scenario, ("fdatasync",), lambda: OSError(errno.EIO, "failed"))


def _go_on_everywhere(scenario, ending, error) -> int:
    states = 0
    for last in range(2, 70):
        script = Script(ImaginedDisk())
        made = []

        def fault(call, number, made=made, last=last):
            made.append(call in ending)
            if sum(made) > last:
                raise error()

        script.disk.fault = fault
        try:
            script.open()
            scenario(script)
        except (Died, OSError, RaftError):
            pass
        else:
            break
        # What is in the page cache is what the next process finds, and builds on.
        disk = script.disk
        disk.fault, disk.room_bytes = None, None
        _, held = recovered(disk)
        following = Script(disk, [held])
        following.open()
        following.vote(held.hard_state.current_term + 1)
        oracle = Oracle()
        for _, files in disk.crash_states(len(disk.operations)):
            oracle.look(files, [following.held], last)
        states += oracle.count
    return states
