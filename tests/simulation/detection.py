"""How many seeds find each planted bug: `python -m tests.simulation.detection --minutes 10`.

A rate says how many seeds a run needs: to see a bug that a seed shows with rate p, with 95 %
certainty, run 3/p seeds. Every seed here runs until the bug shows, or to its end.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import click
import pytest
from attrs import Factory, define

import tests.simulation.planted_answers
import tests.simulation.planted_leases
import tests.simulation.planted_sessions
import tests.simulation.planted_wipes  # noqa: F401  (they enter their bugs)
from raft.testing.cores.simulator import Failure, simulate
from tests.simulation.planted import BUGS


@define
class Detection:
    """What some seeds say of one bug."""

    name: str
    seeds: int = 0
    found: int = 0
    first: int = -1
    rules: Counter[str] = Factory(Counter)

    def __str__(self) -> str:
        """Return a row of the table."""
        rules = ", ".join(f"{rule} {count}" for rule, count in self.rules.most_common(4))
        first = self.first if self.found else "none"
        rate = 100 * self.found / max(1, self.seeds)
        name = self.name.replace("_", " ")
        return f"| {name} | {self.found} of {self.seeds} | {rate:.1f} % | {first} | {rules} |"


def detect(name: str, seeds: int, seconds: float) -> Detection:
    """Run seeds from 0 on under one planted bug, for so many seconds at most."""
    detection, end = Detection(name), time.monotonic() + seconds
    with pytest.MonkeyPatch.context() as patch:
        BUGS[name].plant(patch)
        for seed in range(seeds):
            if time.monotonic() > end:
                break
            detection.seeds += 1
            try:
                simulate(seed)
            except Failure as failure:
                if not detection.found:
                    detection.first = seed
                detection.found += 1
                detection.rules[failure.rule] += 1
    return detection


def rows(seeds: int, minutes: float, processes: int) -> Iterator[str]:
    """Yield the table, a row as soon as it is known."""
    yield "| planted bug | found | rate | first seed | rules |"
    yield "| --- | --- | --- | --- | --- |"
    names = sorted(BUGS)
    seconds = minutes * 60 * processes / len(names)
    with ProcessPoolExecutor(processes) as pool:
        count = len(names)
        yield from map(str, pool.map(detect, names, [seeds] * count, [seconds] * count))


@click.command()
@click.option("--seeds", default=400, show_default=True, help="At most so many for each bug.")
@click.option("--minutes", default=10.0, show_default=True, help="For all bugs together.")
@click.option("--processes", default=os.cpu_count() or 1, help="How many cores to use.")
def main(seeds: int, minutes: float, processes: int) -> None:
    """Print how many seeds find each planted bug, as a table."""
    for row in rows(seeds, minutes, processes):
        click.echo(row)


if __name__ == "__main__":
    main()
