"""Logs with any history, damaged in several places at once: no repair forgets or invents anything.

A script appends, conflicts, votes, takes and installs snapshots, tidies and reopens as it likes.
Then bits rot, sectors are zero, files end early or are gone, but for the very last frame, which
cannot be told from a torn one. What is repaired may go on, and be damaged and repaired once more.
"""

from __future__ import annotations

import contextlib
import random
from collections import Counter

from attrs import define, field

from raft.errors import StorageDamaged
from raft.storage import repair, repair_plan
from raft.storage.imagined import ImaginedDisk
from raft.storage.repair import DONE, FETCHING, Repair
from tests.storage.crashes import DIRECTORY, SEGMENT_BYTES, Held, Script, recovered, wanders
from tests.storage.test_faults import frames_of
from tests.storage.test_repair import last_of, with_peers

SEEDS = 120
SECTOR_BYTES = 512


def test_whatever_the_log_was_a_repair_tells_no_lie(record_property):
    """D1, E1, sc-F2, sc-F16: the same term and vote, a log that once was, and all that is owed."""
    outcomes = Counter()
    for seed in range(SEEDS):
        outcomes.update(Wandering(random.Random(seed)).run())
    for outcome, count in outcomes.items():
        record_property(f"wandering logs, {outcome}", count)
    assert min(outcomes[each] for each in ("accepted", "refused", DONE, FETCHING, "again")) > 3


@define
class Wandering:
    """One log, its history, and what a server with it owes."""

    chance: random.Random
    histories: set[tuple[tuple[int, bytes], ...]] = field(factory=set)
    owed: tuple[int, int] = (0, 0)
    before: Repair | None = None

    def run(self):
        """Write, damage and repair; yield what became of it each time."""
        disk = ImaginedDisk.holding(with_peers({}))
        files, held = self.write(disk, Held(), self.chance.choice((15, 30, 60)))
        for number in range(2):
            files = self.damaged(files)
            try:
                found, now = recovered(ImaginedDisk.holding(files))
            except StorageDamaged as error:
                refusal = error
            else:
                # A snapshot that is gone may be made up for by the log, or be none that counts.
                self.check_same(found, now, held)
                yield "accepted"
                return
            disk = ImaginedDisk.holding(files)
            try:
                planned = (self.before, refusal, SEGMENT_BYTES)
                intended = repair_plan.plan(disk, DIRECTORY, "", "a", *planned)
            except StorageDamaged:
                yield "refused"
                return
            repair.begin(disk, DIRECTORY, intended)
            self.before = repair.finish(disk, DIRECTORY, "", SEGMENT_BYTES)
            found, now = recovered(disk)
            self.check(found, now, held)
            yield self.before.state
            if number:
                yield "again"
            files, held = self.write(disk, now, self.chance.randint(0, 8))

    def write(self, disk, held, steps):
        """Let the log on `disk` go on; return its files, and what it holds then."""
        script = Script(disk, [held], chance=self.chance, term=held.hard_state.current_term)
        script.open()
        if held == Held():
            wanders(script, steps)
        else:
            for _ in range(steps):
                script.append(self.chance.randint(1, 3), self.chance.choice((30, 300, 900)))
        script.writer.seal()
        script.writer.close()
        self.histories |= {state.entries for state in script.states}
        return disk.contents(), script.held

    def damaged(self, files):
        """Return the files with one to three damages."""
        wrong = dict(files)
        segments = sorted(name for name in files if name.endswith(".wal"))
        newest = max(name for name in segments if frames_of(files[name])[0])
        end = frames_of(files[newest])[0][-1][0]
        names = [name for name in files if name.endswith((".wal", ".snap")) and name <= newest]
        names += [name for name in files if name.endswith(".snap")]
        for _ in range(self.chance.choice((1, 1, 2, 3))):
            name = self.chance.choice(names)
            used = end if name == newest else len(files[name].rstrip(b"\0")) or 1
            at = self.chance.randrange(used)
            content = bytearray(wrong.get(name, b""))
            match self.chance.choice("fffffzcm"):
                case "f" if content:
                    content[min(at, len(content) - 1)] ^= 1 << self.chance.randrange(8)
                case "z":
                    stop = min(at + SECTOR_BYTES, used, len(content))
                    content[at:stop] = bytes(max(0, stop - at))
                case "c" if name != newest:
                    del content[at:]
                case "m" if name != newest:
                    content.clear()
                case _:
                    continue
            wrong[name] = bytes(content)
        return {name: content for name, content in wrong.items() if content}

    def check_same(self, found, now, held):
        """Nothing is lost; a snapshot may be the one before."""
        assert now.hard_state == held.hard_state
        kept = tuple(entry for entry in held.entries if entry[0] >= found.first_index)
        assert now.entries == kept
        assert now.entries or now.snapshot == held.snapshot

    def check(self, found, now, held):
        """The server is not told less than it promised, and has nothing that never was."""
        assert now.hard_state == held.hard_state
        with contextlib.suppress(IndexError):
            self.owed = max(self.owed, last_of(held))
        if self.before.state == DONE:
            self.owed = (0, 0)
            self.check_same(found, now, held)
            return
        if held.entries or self.before.last == (0, 0):
            lost_nothing = now.entries and last_of(now) == last_of(held)
            assert self.before.last == self.owed or lost_nothing
        self.owed = self.before.last
        first = found.first_index
        assert now.entries in {
            tuple(entry for entry in entries if entry[0] >= first) for entries in self.histories
        } | {()}
