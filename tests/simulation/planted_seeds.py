"""In which world each planted bug was seen: `python -m tests.simulation.planted_seeds` looks anew.

A test that begins there is over in one world. Where the core or the swarm has changed, the bug may
show elsewhere, and the test goes on to search.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

import tests.simulation.planted_answers
import tests.simulation.planted_leases
import tests.simulation.planted_sessions
import tests.simulation.planted_wipes  # noqa: F401  (they enter their bugs)
from raft.testing.cores.simulator import first_failure
from tests.simulation.planted import BUGS

PAGE = Path(__file__).with_suffix(".txt")
SEEDS = 1000


def seen() -> dict[str, int]:
    """Return the names of bugs with the seeds that show them, but those that 0 to 9 show."""
    lines = (line.split() for line in PAGE.read_text().splitlines())
    return {name: int(seed) for name, seed in lines}


def look(name: str) -> int | None:
    """Return the first seed that shows the bug."""
    with pytest.MonkeyPatch.context() as patch:
        BUGS[name].plant(patch)
        failure = first_failure(range(SEEDS))
    return None if failure is None else failure.seed


def main() -> None:
    """Look for every planted bug, on all cores, and write the page."""
    names = sorted(BUGS)
    with ProcessPoolExecutor(os.cpu_count(), max_tasks_per_child=1) as pool:
        found = dict(zip(names, pool.map(look, names), strict=True))
    rows = [f"{name} {seed}\n" for name, seed in found.items() if seed is not None and seed > 9]
    PAGE.write_text("".join(rows))
    for name, seed in found.items():
        if seed is None:
            print(f"{name} was not seen in {SEEDS} seeds")


if __name__ == "__main__":
    main()
