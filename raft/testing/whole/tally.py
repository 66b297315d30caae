"""Runs many worlds of whole nodes, and counts what they did."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Final

import click
from attrs import Factory, define
from twisted.logger import globalLogBeginner

from raft.testing.choices import Choices
from raft.testing.cores.swarm import TIMEOUT_SECONDS
from raft.testing.whole.run import Failure, Run
from raft.testing.whole.swarm import Swarm
from raft.testing.whole.world import World

SEEDS_A_TASK: Final = 5
MOST_FAILURES: Final = 20
"""After so many failures a run ends: they have one cause, or few."""
_REPORTED: Final = (
    *("events", "steps", "commits", "terms", "truncations", "installed"),
    *("lives", "done", "failed", "dropped"),
)
_SUMS: Final = (*_REPORTED, "seeds", "undecided", "seconds")


@define(eq=False)
class Tally:
    """What some seeds did, all together."""

    seeds: int = 0
    events: int = 0
    steps: int = 0
    commits: int = 0
    terms: int = 0
    truncations: int = 0
    installed: int = 0
    lives: int = 0
    done: int = 0
    failed: int = 0
    dropped: int = 0
    undecided: int = 0
    seconds: float = 0.0
    """Of processors."""
    slowest_leader_seconds: float = 0.0
    fired: Counter[str] = Factory(Counter)
    failures: list[str] = Factory(list)

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

    def add(self, other: Tally) -> None:
        """Count what `other` counted as well."""
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.fired.update(other.fired)
        self.slowest_leader_seconds = max(self.slowest_leader_seconds, other.slowest_leader_seconds)
        self.failures += other.failures

    def lines(self) -> list[str]:
        """Return what is to be printed at the end."""
        passed = (
            f"{self.seeds} seeds passed, {len(self.failures)} failed; {self.events:,} events "
            f"({self.steps:,} steps of cores, each watched), "
            f"{self.events / max(self.seconds, 1e-9):,.0f} a second of a core"
        )
        content = (
            f"{self.commits:,} entries in {self.terms:,} terms, {self.truncations:,} truncations, "
            f"{self.installed:,} snapshots installed, {self.lives:,} lives of nodes; "
            f"{self.dropped:,} unsynced writes were lost; {self.done:,} calls of clients done, "
            f"{self.failed:,} failed; {self.undecided} histories undecided; slowest leader after "
            f"{self.slowest_leader_seconds / TIMEOUT_SECONDS:.1f} T"
        )
        faults = [f"  {kind:24}{count:>10,}" for kind, count in sorted(self.fired.items())]
        return [passed, content, "troubles that came about:", *faults]


def run_seeds(first: int, end: int) -> Tally:
    """Run the seeds [first, end), and count."""
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False, discardBuffer=True)
    tally = Tally()
    for seed in range(first, end):
        tally.run(seed)
    return tally


def run_for(minutes: float, first: int, processes: int) -> Tally:
    """Run seeds from `first` on for so many minutes; print each failure as it is found."""
    total, next_seed = Tally(), first
    end = time.monotonic() + minutes * 60
    with ProcessPoolExecutor(processes) as pool:
        waiting: set[Future[Tally]] = set()
        while True:
            going_on = time.monotonic() < end and len(total.failures) < MOST_FAILURES
            while going_on and len(waiting) < 2 * processes:
                waiting.add(pool.submit(run_seeds, next_seed, next_seed + SEEDS_A_TASK))
                next_seed += SEEDS_A_TASK
            if not waiting:
                return total
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for each in done:
                tally = each.result()
                total.add(tally)
                for told in tally.failures:
                    click.echo(told)
