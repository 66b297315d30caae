"""Enumerate crash states for as long as one likes: `tox -e crashes -- --minutes 60`.

Each seed is a scenario of its own, on all processors. Every tenth state's recovery is crashed
at each of its operations too. A seed that finds something is printed, with the way to run it alone.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import sys
import time
import traceback
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait

from tests.storage.crashes import Script, enumerate_crashes, wanders

FIRST_SEED = 1_000_000
"""Those below it belong to the ordinary run."""


def states_of(seed: int) -> tuple[int, int, str]:
    """Return the seed, how many states it had, and what went wrong, if anything."""
    chance = random.Random(seed)
    steps = chance.randint(5, 40)
    try:
        script = Script(chance=chance)
        return seed, enumerate_crashes(lambda script: wanders(script, steps), script, 6), ""
    except Exception:
        return seed, 0, traceback.format_exc()


def run(first: int, minutes: float, processes: int) -> int:
    """Enumerate until the time is up; return how many seeds found something."""
    until = time.monotonic() + 60 * minutes
    source = itertools.count(first)
    total = tried = failed = 0
    told = time.monotonic()
    waiting = set()
    with ProcessPoolExecutor(processes) as pool:
        while waiting or time.monotonic() < until:
            while len(waiting) < 2 * processes and time.monotonic() < until:
                waiting.add(pool.submit(states_of, next(source)))
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for each in done:
                seed, states, error = each.result()
                total, tried = total + states, tried + 1
                if error:
                    failed += 1
                    print(f"seed {seed}:\n{error}run it alone: --seed {seed}", flush=True)
            if time.monotonic() - told > 30:
                told = time.monotonic()
                print(f"{tried:,} scenarios, crash states: {total:,}", flush=True)
    print(f"{tried:,} scenarios from seed {first} on, crash states: {total:,}, failed: {failed}")
    return failed


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--first", type=int, default=FIRST_SEED, help="the first seed")
    parser.add_argument("--seed", type=int, help="only this one, with its traceback")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    if given.seed is not None:
        _, states, error = states_of(given.seed)
        print(error or f"seed {given.seed}: crash states: {states:,}")
        return 1 if error else 0
    return 1 if run(given.first, given.minutes, given.processes) else 0


if __name__ == "__main__":
    sys.exit(main())
