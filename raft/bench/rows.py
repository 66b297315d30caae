"""From what was counted before and after to the figures that are told."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence

from raft.bench.facts import Usage
from raft.bench.plan import Row
from raft.bench.workloads import Workload
from raft.errors import InvariantViolated

MILLION = 1_000_000
MIB = 1 << 20

Counts = Mapping[str, tuple[int, ...]]
"""Of each node that answers: syncs, entries, saves, term."""

COUNTED = ("sync_count", "entry_count", "save_count", "term")
LATENCIES = ("p50_ms", "p99_ms", "p999_ms", "max_ms")


def row_of(
    workload: Workload, outstanding: int, value_bytes: int, runs: Sequence[Row], nodes: int = 3
) -> Row:
    """Return the line of one point: medians of `runs`, which stand in it as they are.

    Raises:
        InvariantViolated: writes were answered that no majority of `nodes` has synced.
    """
    rates = [run["ops_per_second"] for run in runs]
    rate = statistics.median(rates)
    row = blank(workload, outstanding, value_bytes)
    row |= {
        "ops_per_second": round(rate, 1),
        "ops_per_second_least": round(min(rates), 1),
        "ops_per_second_most": round(max(rates), 1),
        "bytes_per_second": round(rate * value_bytes),
    }
    for name in LATENCIES:
        row[name] = round(statistics.median(run[name] for run in runs), 4)
    row["failures"] = sum(sum(run["failures"].values()) for run in runs)
    row["elections"] = sum(run["elections"] for run in runs)
    row["syncs_per_second"] = _median_of_nodes(runs, "syncs_per_second")
    row["entries_per_sync"] = _median_of_nodes(runs, "entries_per_sync")
    row["us_per_operation"] = round(statistics.median(_cost(run) for run in runs), 2)
    row["resident_bytes"] = max(most_resident(run["processes"]) for run in runs)
    if workload.writes:
        require_durable(runs, nodes)
    row["runs"] = list(runs)
    return row


def blank(workload: Workload, outstanding: int | None, value_bytes: int) -> Row:
    """Return a line with every key that all lines have, and no figure yet.

    `series`, `axis` and `at` say where it stands in a picture.
    """
    by_size = len(workload.value_bytes) > 1
    return {
        "workload": workload.name,
        "text": workload.text,
        "series": workload.name,
        "axis": "bytes of a value" if by_size else "outstanding",
        "at": value_bytes if by_size else outstanding,
        "outstanding": outstanding,
        "value_bytes": value_bytes,
        "ops_per_second": None,
        "ops_per_second_least": None,
        "ops_per_second_most": None,
        "bytes_per_second": None,
        **dict.fromkeys(LATENCIES),
        "failures": 0,
        "elections": 0,
        "syncs_per_second": None,
        "entries_per_sync": None,
        "us_per_operation": None,
        "resident_bytes": None,
        "details": {},
        "runs": [],
    }


def used(
    before: Mapping[str, Usage],
    after: Mapping[str, Usage],
    seconds: float,
    leader: str,
    rate: float,
) -> dict[str, Row]:
    """Return what each process used in so many seconds, in which `rate` a second were answered."""
    found = {}
    for name, now in after.items():
        if name not in before:
            continue
        cpu_seconds = now.cpu_seconds - before[name].cpu_seconds
        cores = cpu_seconds / seconds
        found[name] = {
            "role": _role(name, leader),
            "cpu_seconds": round(cpu_seconds, 3),
            "cores": round(cores, 3),
            "us_per_operation": round(MILLION * cores / rate, 2) if rate else None,
            "resident_bytes": now.resident_bytes,
            "most_resident_bytes": now.most_resident_bytes,
        }
    return found


def _role(name: str, leader: str) -> str:
    if not name.startswith("node"):
        return "load"
    return "leader" if name == leader else "follower"


def _cost(run: Row) -> float:
    """Return the CPU of an operation over all processes, in microseconds."""
    return sum(each["us_per_operation"] or 0.0 for each in run["processes"].values())


def most_resident(processes: Mapping[str, Row]) -> int:
    """Return the resident bytes of the largest node; 0 where the system does not tell."""
    nodes = [each["resident_bytes"] for each in processes.values() if each["role"] != "load"]
    return max(nodes, default=0)


def parts(whole: int, count: int) -> Iterator[int]:
    """Cut `whole` into `count` parts as equal as can be, each at least one."""
    for number in range(count):
        yield max(1, whole // count + (number < whole % count))


def most_term(counts: Counts) -> int:
    """Return the newest term that any node knows."""
    return max((each[-1] for each in counts.values()), default=0)


def synced(before: Counts, after: Counts, seconds: float) -> dict[str, Row]:
    """Return how often each node synced in so many seconds, and what was in it."""
    found = {}
    for id, now in after.items():
        if id not in before:
            continue
        syncs, entries, saves, _ = (new - old for new, old in zip(now, before[id], strict=True))
        found[id] = {
            "syncs": syncs,
            "syncs_per_second": round(syncs / seconds, 1),
            "entries": entries,
            "entries_per_sync": round(entries / syncs, 1) if syncs else 0.0,
            "entries_per_save": round(entries / saves, 1) if saves else 0.0,
        }
    return found


def _median_of_nodes(runs: Sequence[Row], key: str) -> float:
    found = [node[key] for run in runs for node in run["nodes"].values()]
    return round(statistics.median(found), 1) if found else 0.0


def require_durable(runs: Sequence[Row], nodes: int) -> None:
    """Hold the figures to what they claim: a majority synced while writes were answered.

    Raises:
        InvariantViolated: it did not.
    """
    for run in runs:
        durable = [node for node in run["nodes"].values() if node["syncs"] and node["entries"]]
        if run["ops_per_second"] and len(durable) <= nodes // 2:
            raise InvariantViolated("writes were answered, and no majority has synced its log")
