"""Runs seeds of the simulator for so many minutes, on all cores, and tells what befell them.

    python -m raft.testing.cores.long_run --minutes 10
    tox -e simulation -- --minutes 10

Each failing seed is printed with the rule that it broke and the command that shows it again; the
exit code is 1 where there is one.
"""

from __future__ import annotations

import gc
import os
import time
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait

import click
from attrs import Factory, define, frozen

from raft.testing.cores.simulator import Failure, simulate
from raft.testing.cores.swarm import TIMEOUT_SECONDS

SEEDS_A_TASK = 20
MOST_FAILURES = 20
"""After so many failures a run ends: they have one cause, or few."""


@define
class Tally:
    """What some seeds did, all together."""

    seeds: int = 0
    events: int = 0
    checks: int = 0
    commits: int = 0
    terms: int = 0
    truncations: int = 0
    installed: int = 0
    configurations: int = 0
    reads: int = 0
    leased_reads: int = 0
    session_commands: int = 0
    fired: Counter[str] = Factory(Counter)
    slowest_leader_seconds: float = 0.0
    seconds: float = 0.0
    """Of processors."""
    failures: list[Lapse] = Factory(list)

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
            f"{self.seeds} seeds passed, {len(self.failures)} failed; {self.events:,} events, "
            f"{self.events / max(self.seconds, 1e-9):,.0f} a second of a core; "
            f"{self.checks:,} checks"
        )
        content = (
            f"{self.commits:,} entries in {self.terms:,} terms, {self.truncations:,} truncations, "
            f"{self.installed:,} snapshots installed, {self.configurations:,} configurations, "
            f"{self.reads:,} reads ({self.leased_reads:,} by lease), "
            f"{self.session_commands:,} commands of sessions; slowest leader after "
            f"{self.slowest_leader_seconds / TIMEOUT_SECONDS:.1f} T"
        )
        faults = [f"  {kind:24}{count:>10,}" for kind, count in sorted(self.fired.items())]
        return [passed, content, "faults that came about:", *faults]


@frozen
class Lapse:
    """One seed that failed."""

    seed: int
    told: str


_SUMS = (
    *("seeds", "events", "checks", "commits", "terms", "truncations", "installed"),
    *("configurations", "reads", "leased_reads", "session_commands", "seconds"),
)


def run_seeds(first: int, end: int) -> Tally:
    """Run the seeds [first, end), and count."""
    # A seed's objects live until it ends, so looking for garbage meanwhile finds none.
    gc.set_threshold(200_000, 20, 20)
    tally, begun = Tally(), time.process_time()
    for seed in range(first, end):
        try:
            report = simulate(seed)
        except Failure as failure:
            tally.failures.append(Lapse(seed, str(failure)))
            continue
        tally.seeds += 1
        tally.events += report.events
        tally.checks += report.checks
        tally.commits += report.commits
        tally.terms += report.terms
        tally.truncations += report.truncations
        tally.installed += report.installed
        tally.configurations += report.configurations
        tally.reads += report.done_reads
        tally.leased_reads += report.leased_reads
        tally.session_commands += report.session_commands
        tally.fired.update(report.fired)
        tally.slowest_leader_seconds = max(tally.slowest_leader_seconds, report.leader_seconds)
    tally.seconds = time.process_time() - begun
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
                for lapse in tally.failures:
                    click.echo(lapse.told)


@click.command()
@click.option("--minutes", default=5.0, show_default=True, help="How long to begin new seeds.")
@click.option(
    "--seed",
    default=None,
    type=int,
    help="The first seed; by default one by the clock, so that each run sees other worlds.",
)
@click.option("--processes", default=os.cpu_count() or 1, help="How many cores to use.")
def main(minutes: float, seed: int | None, processes: int) -> None:
    """Run seeds for some minutes; exit with 1 if one fails."""
    first = seed if seed is not None else int(time.time()) * 1000
    click.echo(f"seeds from {first} on, {minutes:g} minutes, {processes} processes")
    tally = run_for(minutes, first, max(1, processes))
    for line in tally.lines():
        click.echo(line)
    if tally.failures:
        click.echo(f"failing seeds: {', '.join(str(each.seed) for each in tally.failures)}")
    raise SystemExit(bool(tally.failures))


if __name__ == "__main__":
    main()
