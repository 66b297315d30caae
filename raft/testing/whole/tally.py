"""Runs many worlds of whole nodes, and counts what they did."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from attrs import define
from twisted.logger import globalLogBeginner

from raft.testing import seeds
from raft.testing.choices import Choices
from raft.testing.cores.swarm import TIMEOUT_SECONDS
from raft.testing.whole.run import Failure, Run
from raft.testing.whole.swarm import Swarm
from raft.testing.whole.world import World

SEEDS_A_TASK: Final = 5
_REPORTED: Final = (
    *("events", "steps", "commits", "terms", "truncations", "installed"),
    *("lives", "done", "failed", "dropped"),
)


@define(eq=False)
class Tally(seeds.Tally):
    """What some seeds did, all together."""

    steps: int = 0
    lives: int = 0
    done: int = 0
    failed: int = 0
    dropped: int = 0
    undecided: int = 0

    def run(
        self, seed: int, choices: Choices | None = None, save: Path | None = None
    ) -> Failure | None:
        """Run one seed, and count; return its failure, or None."""
        world = World(Swarm.draw(seed), choices or Choices.drawing(seed))
        begun = time.process_time()
        try:
            report = Run(world).run()
        except Failure as failure:
            self.failures.append(str(failure))
            return failure
        finally:
            self.seconds += time.process_time() - begun
            if save is not None:
                world.choices.save(save, {"seed": seed})
        self.seeds += 1
        for name in _REPORTED:
            setattr(self, name, getattr(self, name) + getattr(report, name))
        self.undecided += report.is_undecided
        self.fired.update(report.fired)
        self.slowest_leader_seconds = max(self.slowest_leader_seconds, report.leader_seconds)
        return None

    def lines(self) -> list[str]:
        """Return what is to be printed at the end."""
        passed = (
            f"{self.seeds} seeds passed, {len(self.failures)} failed; {self.events:,} events "
            f"({self.steps:,} steps of cores, each watched), "
            f"{self.events_per_second:,.0f} a second of a core"
        )
        content = (
            f"{self.commits:,} entries in {self.terms:,} terms, {self.truncations:,} truncations, "
            f"{self.installed:,} snapshots installed, {self.lives:,} lives of nodes; "
            f"{self.dropped:,} unsynced writes were lost; {self.done:,} calls of clients done, "
            f"{self.failed:,} failed; {self.undecided} histories undecided; slowest leader after "
            f"{self.slowest_leader_seconds / TIMEOUT_SECONDS:.1f} T"
        )
        return [passed, content, "troubles that came about:", *self.fired_lines()]


def run_seeds(first: int, end: int) -> Tally:
    """Run the seeds [first, end), and count."""
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False, discardBuffer=True)
    tally = Tally()
    for seed in range(first, end):
        tally.run(seed)
    return tally


def run_for(minutes: float, first: int, processes: int) -> Tally:
    """Run seeds from `first` on for so many minutes; print each failure as it is found."""
    return seeds.run_for(run_seeds, SEEDS_A_TASK, minutes, first, processes)
