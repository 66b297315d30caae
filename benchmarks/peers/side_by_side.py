"""Measures this library and whichever others are found, in turns, and prints ratios.

    python benchmarks/peers/side_by_side.py [--rounds 3] [--seconds 3] [--directory DIR] [W0 ...]

Three servers each, on this machine, with their logs in DIR, the same shapes of load. Each round
measures every system once on a fresh cluster; medians are told, and the ratio of ours to each other
one. See README.md beside this file for what each needs. Ends all that it starts.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from systems import SYSTEMS, CannotRun, Figures, Shape, Span, System

from raft.bench import facts

SHAPES = (
    Shape("W0", 2500, clients=5, inside=True),
    Shape("W1", 1000),
    Shape("W2", 1000, connections=100),
    Shape("W3i", 1, inside=True),
    Shape("W3n", 1),
    Shape("W4p", 1000, reads=True),
    Shape("W4c", 1000, connections=100, reads=True),
    Shape("W4l", 1, reads=True),
    Shape("W5", 1000, value_bytes=1024, clients=5),
    Shape("W5", 8, value_bytes=1 << 20),
)
LATENCIES = ("p50_ms", "p99_ms")
Found = dict[str, list[Figures]]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workloads", nargs="*", help="some of " + " ".join(sorted(names())))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--warm-up", type=float, default=1.0)
    parser.add_argument("--directory", help="where logs go; a temporary one by default")
    parser.add_argument("--json", action="store_true", help="one object for each line")
    given = parser.parse_args()
    if unknown := set(given.workloads) - names():
        parser.error(f"no workload {', '.join(sorted(unknown))}")
    if given.directory:
        Path(given.directory).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=given.directory, prefix="peers-") as place:
        # Where the systems put what they compile.
        os.environ["SIDE_BY_SIDE"] = place
        machine = facts.machine(Path(place))
        print("; ".join(f"{key} {value}" for key, value in machine.items()), file=sys.stderr)
        systems = []
        for system in SYSTEMS:
            if why := system.missing():
                print(f"without {system.name}: {why}", file=sys.stderr)
            else:
                systems.append(system)
        span = Span(given.warm_up, given.seconds)
        if not given.json:
            heads = "".join(f"{each:>9}" for each in ("ops/s", "least", "most", "p50 ms", "p99 ms"))
            print(f"{'':34}{heads}  ours by it")
        for shape in SHAPES:
            if given.workloads and shape.workload not in given.workloads:
                continue
            chosen = [
                each for each in systems if not each.workloads or shape.workload in each.workloads
            ]
            if len(chosen) > 1:
                found = in_turns(chosen, shape, span, given.rounds, Path(place))
                tell(shape, found, machine if given.json else None)


def names() -> set[str]:
    """Return what may be asked for."""
    return {shape.workload for shape in SHAPES}


def in_turns(systems: list[System], shape: Shape, span: Span, rounds: int, place: Path) -> Found:
    """Measure each of `systems` once a round."""
    found: Found = defaultdict(list)
    for _ in range(rounds):
        for system in systems:
            with tempfile.TemporaryDirectory(dir=place) as own:
                try:
                    found[system.name].append(system.run(shape, span, Path(own)))
                except CannotRun as error:
                    print(f"{shape.workload}, {system.name}: {error}", file=sys.stderr)
    return found


def tell(shape: Shape, found: Found, machine: dict[str, object] | None) -> None:
    """Print one line for each system."""
    ours = median(found, "txraft", "ops_per_second"), median(found, "txraft", "p50_ms")
    for system in SYSTEMS:
        runs = found.get(system.name)
        if not runs:
            continue
        rates = [run["ops_per_second"] for run in runs]
        row: Figures = {
            "workload": shape.workload,
            "outstanding": shape.outstanding,
            "value_bytes": shape.value_bytes,
            "system": system.name,
            "durable": system.durable,
            "ops_per_second": round(statistics.median(rates), 1),
            "ops_per_second_least": round(min(rates), 1),
            "ops_per_second_most": round(max(rates), 1),
            **{key: round(median(found, system.name, key), 3) for key in LATENCIES},
        }
        row["ours_by_it"] = round(ours[0] / row["ops_per_second"], 2) if ours[0] else None
        row["our_p50_by_its"] = round(ours[1] / row["p50_ms"], 2) if ours[1] else None
        if machine is not None:
            print(json.dumps({**row, "machine": machine}), flush=True)
            continue
        name = system.name if system.durable else f"{system.name} (not durable)"
        head = f"{shape.workload:4}{shape.value_bytes:>8}  {name}"
        cells = "".join(f"{row[key]:9,.0f}" for key in RATES)
        cells += "".join(f"{row[key]:9.2f}" for key in LATENCIES)
        print(f"{head:34}{cells}  {row['ours_by_it']} x, p50 {row['our_p50_by_its']} x", flush=True)


RATES = ("ops_per_second", "ops_per_second_least", "ops_per_second_most")


def median(found: Found, name: str, key: str) -> float:
    """Return a median over the rounds; 0 where a system has none."""
    runs = found.get(name)
    return statistics.median(run[key] for run in runs) if runs else 0.0


if __name__ == "__main__":
    main()
