"""From what was counted before and after to the figures that are told."""

from __future__ import annotations

import statistics
from collections.abc import Container, Iterator, Mapping, Sequence

from raft.bench.plan import Row
from raft.bench.workloads import Workload
from raft.errors import InvariantViolated
from raft.usage import Usage

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
        "spread": round((max(rates) - min(rates)) / rate, 3) if rate else None,
        "bytes_per_second": round(rate * value_bytes),
    }
    for name in LATENCIES:
        row[name] = round(statistics.median(run[name] for run in runs), 4)
    row["failures"] = sum(sum(run["failures"].values()) for run in runs)
    row["elections"] = sum(run["elections"] for run in runs)
    row |= over_runs(runs)
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
        "spread": None,
        "bytes_per_second": None,
        **dict.fromkeys(LATENCIES),
        "failures": 0,
        "elections": 0,
        "syncs": None,
        "syncs_per_second": None,
        "entries_per_sync": None,
        "us_per_operation": None,
        "resident_bytes": None,
        "processes": {},
        "nodes": {},
        "details": {},
        "runs": [],
    }


def over_runs(runs: Sequence[Row]) -> Row:
    """Return what every process used and every node counted: medians, of memory the most.

    Those of the last run are told; who came or went meanwhile counts where it was there.
    """
    counted = [node for run in runs for node in run["nodes"].values()]
    processes: dict[str, Row] = {
        name: {"role": last["role"]}
        | {key: median(_each(runs, "processes", name, key)) for key in SPENT}
        | {key: max(_each(runs, "processes", name, key), default=None) for key in HELD}
        for name, last in runs[-1]["processes"].items()
    }
    return {
        "syncs": sum(node["syncs"] for node in counted) if counted else None,
        "syncs_per_second": median([node["syncs_per_second"] for node in counted]),
        "entries_per_sync": median([node["entries_per_sync"] for node in counted]),
        "us_per_operation": median([_cost(run) for run in runs]),
        "resident_bytes": most_resident(processes),
        "processes": processes,
        "nodes": {
            id: {key: median(_each(runs, "nodes", id, key)) for key in last}
            for id, last in runs[-1]["nodes"].items()
        },
    }


SPENT = ("cpu_seconds", "cores", "us_per_operation")
HELD = ("resident_bytes", "most_resident_bytes")


def _each(runs: Sequence[Row], part: str, name: str, key: str) -> list[float]:
    found = [run[part].get(name, {}).get(key) for run in runs]
    return [each for each in found if each is not None]


def median(found: Sequence[float | None]) -> float | None:
    """Return the median, or None where one of `found` is not known or there are none."""
    known = [each for each in found if each is not None]
    return round(statistics.median(known), 3) if known and len(known) == len(found) else None


def used(
    before: Mapping[str, Usage],
    after: Mapping[str, Usage],
    seconds: float,
    roles: Mapping[str, str],
    rate: float,
) -> dict[str, Row]:
    """Return what each of `roles` used in so many seconds; None of what nobody tells.

    `rate` a second were answered. Who began meanwhile, has used what it has used.
    """
    found = {}
    for name, role in roles.items():
        now, old = after.get(name), before.get(name)
        cpu_seconds = cores = None
        if now is not None and (old is not None or now.pid):
            is_same = old is not None and old.pid == now.pid and old.cpu_seconds <= now.cpu_seconds
            cpu_seconds = now.cpu_seconds - (old.cpu_seconds if old and is_same else 0.0)
            cores = cpu_seconds / seconds
        found[name] = {
            "role": role,
            "cpu_seconds": None if cpu_seconds is None else round(cpu_seconds, 3),
            "cores": None if cores is None else round(cores, 3),
            "us_per_operation": None if cores is None or not rate else _us(cores, rate),
            "resident_bytes": now.resident_bytes if now else None,
            "most_resident_bytes": (now.most_resident_bytes or None) if now else None,
        }
    return found


def _us(cores: float, rate: float) -> float:
    return round(MILLION * cores / rate, 2)


def _cost(run: Row) -> float | None:
    """Return the CPU of an operation over all processes, in microseconds."""
    each = [process["us_per_operation"] for process in run["processes"].values()]
    return None if None in each or not each else sum(each)


def most_resident(processes: Mapping[str, Row]) -> int | None:
    """Return the resident bytes of the largest node; None where none is told."""
    nodes = [each["resident_bytes"] for each in processes.values() if each["role"] != "load"]
    return max((each for each in nodes if each is not None), default=None)


def mebibytes(size_bytes: int | None) -> float | None:
    """Return a size in MiB, or None where it is not known."""
    return None if size_bytes is None else round(size_bytes / MIB, 1)


def parts(whole: int, count: int) -> Iterator[int]:
    """Cut `whole` into `count` parts as equal as can be, each at least one."""
    for number in range(count):
        yield max(1, whole // count + (number < whole % count))


def most_term(counts: Counts) -> int:
    """Return the newest term that any node knows."""
    return max((each[-1] for each in counts.values()), default=0)


def synced(
    before: Counts, after: Counts, seconds: float, begun: Container[str] = ()
) -> dict[str, Row]:
    """Return how often each node synced in so many seconds, and what was in it.

    The nodes of `begun` were started meanwhile and count from there.
    """
    found = {}
    for id, now in after.items():
        if id not in before and id not in begun:
            continue
        old_counts = (0,) * len(now) if id in begun else before[id]
        syncs, entries, saves, _ = (new - old for new, old in zip(now, old_counts, strict=True))
        found[id] = {
            "syncs": syncs,
            "syncs_per_second": round(syncs / seconds, 1),
            "entries": entries,
            "entries_per_sync": round(entries / syncs, 1) if syncs else 0.0,
            "entries_per_save": round(entries / saves, 1) if saves else 0.0,
        }
    return found


def require_durable(runs: Sequence[Row], nodes: int) -> None:
    """Hold the figures to what they claim: a majority synced while writes were answered.

    A node that did not tell, is not held to anything.

    Raises:
        InvariantViolated: it did not.
    """
    for run in runs:
        durable = [node for node in run["nodes"].values() if node["syncs"] and node["entries"]]
        # Those that do not tell may have synced.
        silent = max(0, nodes - len(run["nodes"]))
        if run["ops_per_second"] and len(durable) + silent <= nodes // 2:
            raise InvariantViolated("writes were answered, and no majority has synced its log")
