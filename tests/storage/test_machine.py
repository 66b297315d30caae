"""A rule-based machine: any order of saves, restarts and snapshots against a model of lists."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from raft.core.configuration import Configuration
from raft.core.outputs import HardState
from raft.errors import StorageDamaged
from raft.interfaces import SnapshotMeta
from raft.storage.imagined import ImaginedDisk
from raft.storage.records import encode
from raft.storage.recovery import Recovery
from raft.storage.wal import WriteAheadLog
from raft.storage.writer import MarkSave

SEGMENT_BYTES = 4096


class LogMachine(RuleBasedStateMachine):
    """The model: a list of records from index `base` on, a hard state, a snapshot index."""

    def __init__(self):
        super().__init__()
        self.disk = ImaginedDisk()
        self.base = 1
        self.records = []
        self.hard_state = HardState(1)
        self.snapshot = 0
        self.ticket = 0
        self.chance = random.Random(3)
        self.restart()
        self.write(hard_state=self.hard_state)

    @property
    def end(self):
        return self.base + len(self.records)

    def restart(self):
        self.store = WriteAheadLog("/imagined", self.disk, SEGMENT_BYTES)
        return self.store.recover()

    def write(self, hard_state=None, truncate_from=None, records=()):
        self.ticket += 1
        start = self.end
        self.store._writer.write(
            [
                (
                    self.ticket,
                    hard_state,
                    truncate_from,
                    start,
                    start + len(records),
                    b"".join(records),
                )
            ]
        )
        self.records += records

    @rule(sizes=st.lists(st.sampled_from([0, 10, 100, 1000, 5000]), min_size=1, max_size=4))
    def append(self, sizes):
        term = self.hard_state.current_term
        self.write(
            records=[
                encode(self.end + n, term, 0, 1, self.chance.randbytes(size))
                for n, size in enumerate(sizes)
            ]
        )

    @rule(vote=st.sampled_from([None, "a", "server-ü"]), up=st.integers(0, 2))
    def vote(self, vote, up):
        self.hard_state = HardState(self.hard_state.current_term + up, vote)
        self.write(hard_state=self.hard_state)

    @precondition(lambda self: self.end - 1 > self.snapshot)
    @rule(where=st.floats(0, 1), again=st.integers(0, 2))
    def conflict(self, where, again):
        low = max(self.snapshot + 1, self.base)
        start = low + int(where * (self.end - 1 - low))
        self.hard_state = HardState(self.hard_state.current_term + 1, None)
        del self.records[start - self.base :]
        term = self.hard_state.current_term
        self.write(
            self.hard_state,
            start,
            [encode(start + n, term, 0, 1, b"again") for n in range(again)],
        )

    @precondition(lambda self: self.end - 1 > max(self.snapshot, self.base))
    @rule(where=st.floats(0, 1), keep=st.integers(0, 5))
    def take_snapshot(self, where, keep):
        low = max(self.snapshot + 1, self.base)
        index = low + int(where * (self.end - 1 - low))
        self.commit(index, self.store._writer.term_at(index), True, index + 1 - keep)

    @rule(ahead=st.integers(0, 4))
    def install_snapshot(self, ahead):
        index = self.end + ahead
        self.commit(index, self.hard_state.current_term, False, index + 1)
        self.records.clear()
        self.base = index + 1

    def commit(self, index, term, keep_log, keep_from):
        writer = self.store.create_snapshot(SnapshotMeta(index, term, Configuration(), 0, 0))
        writer.write(b"machine")
        writer.commit()
        self.ticket += 1
        self.store._writer.write_mark(MarkSave(self.ticket, index, term, keep_log, keep_from))
        self.store._snapshots.retain(self.store._writer.ledger.mark.previous, index)
        self.snapshot = index

    @rule()
    def tidy(self):
        while self.store._writer.untidy:
            self.store._writer.tidy()

    @rule(clean=st.booleans())
    def reopen(self, clean):
        if clean:
            self.store._writer.seal()
            self.store._writer.close()
        found = self.restart()
        assert found.hard_state == self.hard_state
        assert (found.snapshot.index if found.snapshot else 0) == self.snapshot
        assert (found.runs[-1].end if found.runs else found.first_index) == self.end
        assert self.base <= found.first_index <= self.snapshot + 1

    @rule(where=st.floats(0, 0.999))
    def lose_power(self, where):
        """Whatever was not synced may be there or not; all that was written was."""
        states = [files for _, files in self.disk.crash_states(len(self.disk.operations))]
        self.store.stop()
        self.disk = ImaginedDisk.holding(states[int(where * len(states))])
        self.reopen(clean=False)

    @rule(which=st.floats(0, 0.999), where=st.floats(0, 0.999), bit=st.integers(0, 7))
    def flip(self, which, where, bit):
        """A flipped bit is harmless, refused, or has cut the last frame: never another log."""
        self.store._writer.seal()
        files = self.disk.contents()
        name = sorted(files)[int(which * len(files))]
        content = bytearray(files[name])
        content[int(where * len(content.rstrip(b"\0")))] ^= 1 << bit
        store = WriteAheadLog(
            "/imagined", ImaginedDisk.holding({**files, name: bytes(content)}), SEGMENT_BYTES
        )
        try:
            found = store.recover()
        except StorageDamaged:
            return
        assert found.hard_state == self.hard_state
        end = found.runs[-1].end if found.runs else found.first_index
        assert end == self.end
        if found.first_index < end:
            after, records = store.read(found.first_index, end, 3000)
            start = found.first_index - self.base
            assert records == b"".join(self.records[max(start, 0) : after - self.base]) or start < 0
        store.stop()

    @invariant()
    def reads_are_the_model(self):
        first = self.store._writer.ledger.first
        for start in {first, (first + self.end) // 2, self.end - 1}:
            if first <= start < self.end:
                after, records = self.store.read(start, self.end, 3000)
                assert records == b"".join(self.records[start - self.base : after - self.base])
        with pytest.raises(KeyError):
            self.store.read(self.end, self.end + 1, 10)

    @invariant()
    def the_index_stays_small(self):
        """Memory is bounded by the log's bytes, not by its entries."""
        ledger = self.store._writer.ledger
        assert len(ledger.spans) == len(ledger._firsts)
        assert len(ledger.spans) <= 3 + len(self.records)


def test_recovery_and_reading_agree_with_a_model_of_lists():
    """TESTING 3.7 item 4."""
    LogMachine.TestCase.settings = settings(
        max_examples=100,
        stateful_step_count=25,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    LogMachine.TestCase().runTest()


def test_an_index_entry_covers_many_frames():
    """One entry in memory for each 64 KiB of the log, however small the frames."""
    disk = ImaginedDisk()
    writer = Recovery(disk, "/imagined", 1 << 20, 0).run()
    writer.write([(1, HardState(1), None, 0, 0, b"")])
    for index in range(1, 4001):
        writer.write([(index, None, None, index, index + 1, encode(index, 1, 0, 1, b"x" * 20))])
    assert len(writer.ledger.spans) <= 7
    assert writer.reader.read(3777, 3778, 1)[1] == encode(3777, 1, 0, 1, b"x" * 20)


def test_the_term_before_a_removed_segment_s_end_is_kept():
    """D2: a truncation right behind it must say which term the log ends with."""
    disk = ImaginedDisk()
    store = WriteAheadLog("/imagined", disk, SEGMENT_BYTES)
    store.recover()
    writer = store._writer
    writer.write([(1, HardState(1), None, 0, 0, b"")])
    for index in range(1, 10):
        writer.write([(index, None, None, index, index + 1, encode(index, 1, 0, 1, bytes(900)))])
    for index in (8, 9):
        snapshot = store.create_snapshot(SnapshotMeta(index, 1, Configuration(), 0, 0))
        snapshot.commit()
        writer.write_mark(MarkSave(index, index, 1, True, index + 1))
    while writer.untidy:
        writer.tidy()
    assert 1 < writer.ledger.first <= 9
    assert writer.ledger.prev_term == 1
    writer.write([(20, HardState(2), writer.ledger.first, 0, 0, b"")])
    assert writer.term_at(writer.ledger.first - 1) == 1
    store.stop()
    store = WriteAheadLog("/imagined", disk, SEGMENT_BYTES)
    with pytest.raises(StorageDamaged, match="ends before this snapshot"):
        store.recover()
