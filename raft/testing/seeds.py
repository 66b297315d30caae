"""Many seeds of a simulator, on all cores: what they did together, and those that failed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import Final, TypeVar

import click
from attrs import Factory, define, fields

MOST_FAILURES: Final = 20
"""After so many failures a run ends: they have one cause, or few."""


@define(eq=False)
class Tally:
    """What some seeds did, all together; each simulator counts more of its own."""

    seeds: int = 0
    events: int = 0
    commits: int = 0
    terms: int = 0
    truncations: int = 0
    installed: int = 0
    fired: Counter[str] = Factory(Counter)
    slowest_leader_seconds: float = 0.0
    seconds: float = 0.0
    """Of processors."""
    failures: list[str] = Factory(list)

    def add(self, other: Tally) -> None:
        """Count what `other` counted as well."""
        for field in fields(type(self)):
            own, more = getattr(self, field.name), getattr(other, field.name)
            if field.name == "slowest_leader_seconds":
                self.slowest_leader_seconds = max(own, more)
            else:
                setattr(self, field.name, own + more)

    @property
    def events_per_second(self) -> float:
        """How many events a second of a core."""
        return self.events / max(self.seconds, 1e-9)

    def fired_lines(self) -> list[str]:
        """Return a line for each kind of fault that came about."""
        return [f"  {kind:24}{count:>10,}" for kind, count in sorted(self.fired.items())]


AnyTally = TypeVar("AnyTally", bound=Tally)


def run_for(
    run_seeds: Callable[[int, int], AnyTally],
    seeds_a_task: int,
    minutes: float,
    first: int,
    processes: int,
) -> AnyTally:
    """Run seeds from `first` on for so many minutes; print each failure as it is found.

    `run_seeds` runs those of a half-open range in a process of the pool.
    """
    total, next_seed = run_seeds(first, first), first
    end = time.monotonic() + minutes * 60
    with ProcessPoolExecutor(processes) as pool:
        waiting: set[Future[AnyTally]] = set()
        while True:
            going_on = time.monotonic() < end and len(total.failures) < MOST_FAILURES
            while going_on and len(waiting) < 2 * processes:
                waiting.add(pool.submit(run_seeds, next_seed, next_seed + seeds_a_task))
                next_seed += seeds_a_task
            if not waiting:
                return total
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for each in done:
                tally = each.result()
                total.add(tally)
                for told in tally.failures:
                    click.echo(told)
