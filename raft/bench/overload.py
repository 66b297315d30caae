"""W10: offered load at a half of what is sustainable, as much, twice and four times as much."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from twisted.internet.task import deferLater

from raft.bench.loaded import Loaded
from raft.bench.plan import Row, Task
from raft.bench.rows import mebibytes, row_of
from raft.bench.targets import loaded

FACTORS = (0.5, 1.0, 2.0, 4.0)
TIMEOUT_SECONDS = 3.0
"""A client's default."""


async def measure(task: Task) -> list[Row]:
    """Return a line for the sustainable rate, by a closed loop, and one for each load offered.

    Raises:
        RaftError: no leader was elected, or the load failed.
    """
    outstanding, value_bytes = task.workload.points()[0]
    async with loaded(task) as stand:
        task.note(f"{task.workload.name}: what is sustainable")
        await stand.start_load(outstanding, value_bytes)
        runs = await _runs(stand)
        await stand.stop_load()
        first = row_of(task.workload, outstanding, value_bytes, runs, stand.nodes)
        first |= {"text": f"{task.workload.text}: sustained", "at": None}
        sustainable = first["ops_per_second"]
        rows = [first]
        for factor in FACTORS:
            task.note(f"{task.workload.name}: {factor:g} x {sustainable:,.0f}/s offered")
            rows.append(await _offered(stand, factor, sustainable, value_bytes))
    peak = max(row["ops_per_second"] for row in rows)
    for row in rows:
        row["details"]["share_of_peak"] = round(row["ops_per_second"] / peak, 3)
    return rows


async def _runs(stand: Loaded) -> list[Row]:
    plan = stand.task.plan
    await deferLater(stand.task.reactor, plan.warm_up_seconds)
    return [await stand.measured(plan.seconds) for _ in range(plan.runs)]


async def _offered(stand: Loaded, factor: float, sustainable: float, value_bytes: int) -> Row:
    task = stand.task
    await stand.start_load(
        1, value_bytes, per_second=factor * sustainable, timeout_seconds=TIMEOUT_SECONDS
    )
    runs = await _runs(stand)
    await stand.stop_load()
    most_open = max(sum(int(each["most_open"]) for each in run["load"]) for run in runs)
    row = row_of(task.workload, most_open, value_bytes, runs, stand.nodes)
    stalls = [
        float(str(status["stall_longest_seconds"]))
        for status in (await stand.statuses()).values()
        if status is not None
    ]
    return row | {
        "text": f"{task.workload.text}: {factor:g} x",
        "axis": "times the sustainable rate",
        "at": factor,
        "details": {
            "offered_per_second": _rate(runs, "offered"),
            "refused_per_second": _rate(runs, "refused"),
            "refused_p50_ms": _most(runs, "refused_p50_ms"),
            "refused_p99_ms": _most(runs, "refused_p99_ms"),
            "resident_mib": mebibytes(row["resident_bytes"]),
            "stall_longest_seconds": max(stalls, default=0.0),
        },
    }


def _rate(runs: Sequence[Row], key: str) -> float:
    """Return the median over runs of how many a second, of all generators of load together."""
    rates: list[float] = [sum(each[key] for each in run["load"]) / run["seconds"] for run in runs]
    return round(statistics.median(rates), 1)


def _most(runs: Sequence[Row], key: str) -> float:
    """Return the median over runs of the worst generator's figure."""
    worst: list[float] = [max(each[key] for each in run["load"]) for run in runs]
    return round(statistics.median(worst), 4)
