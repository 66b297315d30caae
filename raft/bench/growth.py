"""W9: what becomes of rate, latency, memory and disk as a log grows, and with more servers.

Every decade of entries is one span, measured whole: what snapshots and their unlinking cost
stands in the figures of the span in which they were taken.
"""

from __future__ import annotations

from pathlib import Path

from raft.bench.plan import Row, Task
from raft.bench.rows import mebibytes, row_of
from raft.bench.stand import Stand

FIRST_DECADE = 3
SPAN_SECONDS = 3600.0
"""A decade that takes longer is cut off: its rate is told, and later ones begin where it ended."""


async def measure(task: Task) -> list[Row]:
    """Return a line for each decade of entries and each size of the cluster.

    Raises:
        RaftError: no leader was elected, or the load failed.
    """
    rows = []
    for size in task.plan.sizes:
        async with Stand(task, size, name=f"cluster{size}") as stand:
            rows += await _grown(stand)
    return rows


async def _grown(stand: Stand) -> list[Row]:
    task = stand.task
    outstanding, value_bytes = task.workload.points()[0]
    await stand.start_load(outstanding, value_bytes)
    rows = []
    for decade in range(FIRST_DECADE, task.plan.growth + 1):
        task.note(f"W9: {stand.nodes} servers, up to 10^{decade} entries")
        entries = 10**decade
        left = max(outstanding, entries - await stand.number(stand.leader, "last_index"))
        run = await stand.measured(SPAN_SECONDS, left)
        row = row_of(task.workload, outstanding, value_bytes, [run], stand.nodes)
        rows.append(
            row
            | {
                "text": f"{stand.nodes} servers, up to 10^{decade} entries",
                "series": f"W9, {stand.nodes} servers",
                "axis": "entries written",
                "at": entries,
                "details": await _sizes(stand, row),
            }
        )
    await stand.stop_load()
    return rows


async def _sizes(stand: Stand, row: Row) -> Row:
    """Return what the nodes hold: the largest of them, in MiB, and how the log stands."""
    disk_bytes = max(disk_usage(node.data_directory) for node in stand.cluster.nodes.values())
    status = await stand.cluster.status(stand.leader) or {}
    return {
        "servers": stand.nodes,
        "resident_mib": mebibytes(row["resident_bytes"]),
        "disk_mib": mebibytes(disk_bytes),
        **{key: status.get(key) for key in ("first_index", "last_index", "snapshot_count")},
    }


def disk_usage(directory: Path) -> int:
    """Return the bytes that files below `directory` take, preallocated ones included."""
    size_bytes = 0
    for path in directory.rglob("*"):
        try:
            size_bytes += path.stat().st_blocks * 512
        except FileNotFoundError:
            # A log drops its old segments while it is looked at.
            continue
    return size_bytes
