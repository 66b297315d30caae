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

import click
from attrs import Factory, define

from raft.testing import seeds
from raft.testing.cores.simulator import Failure, simulate
from raft.testing.cores.swarm import TIMEOUT_SECONDS

SEEDS_A_TASK = 20


@define(eq=False)
class Tally(seeds.Tally):
    """What some seeds did, all together."""

    checks: int = 0
    configurations: int = 0
    reads: int = 0
    leased_reads: int = 0
    session_commands: int = 0
    failing: list[int] = Factory(list)
    """The seeds that failed."""

    def lines(self) -> list[str]:
        """Return what is to be printed at the end."""
        passed = (
            f"{self.seeds} seeds passed, {len(self.failures)} failed; {self.events:,} events, "
            f"{self.events_per_second:,.0f} a second of a core; "
            f"{self.checks:,} checks"
        )
        content = (
            f"{self.commits:,} entries in {self.terms:,} terms, {self.truncations:,} truncations, "
            f"{self.installed:,} snapshots installed, {self.configurations:,} configurations, "
            f"{self.reads:,} reads ({self.leased_reads:,} by lease), "
            f"{self.session_commands:,} commands of sessions; slowest leader after "
            f"{self.slowest_leader_seconds / TIMEOUT_SECONDS:.1f} T"
        )
        return [passed, content, "faults that came about:", *self.fired_lines()]


def run_seeds(first: int, end: int) -> Tally:
    """Run the seeds [first, end), and count."""
    # A seed's objects live until it ends, so looking for garbage meanwhile finds none.
    gc.set_threshold(200_000, 20, 20)
    tally, begun = Tally(), time.process_time()
    for seed in range(first, end):
        try:
            report = simulate(seed)
        except Failure as failure:
            tally.failures.append(str(failure))
            tally.failing.append(seed)
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
    tally = seeds.run_for(run_seeds, SEEDS_A_TASK, minutes, first, max(1, processes))
    for line in tally.lines():
        click.echo(line)
    if tally.failures:
        click.echo(f"failing seeds: {', '.join(map(str, tally.failing))}")
    raise SystemExit(bool(tally.failures))


if __name__ == "__main__":
    main()
