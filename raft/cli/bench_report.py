"""What `raft bench` tells: tables for people, lines of JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from raft.bench.plan import Row
from raft.bench.rows import mebibytes
from raft.places import MEMORY_FILESYSTEMS

RATES = ("ops_per_second", "ops_per_second_least", "ops_per_second_most")
LATENCIES = ("p50_ms", "p99_ms", "p999_ms", "max_ms")


class Report:
    """Tells what is found, when it is found."""

    def __init__(self, as_json: bool) -> None:
        """Write to standard output, and notes to standard error."""
        self.as_json = as_json
        # A table for people: where output is no terminal, it must not be cut to 80 columns.
        self._out = Console(width=None if Console().is_terminal else 160, highlight=False)
        self._notes = Console(stderr=True, highlight=False)
        self._status = self._notes.status("")
        self.rows: list[Row] = []

    def note(self, text: str) -> None:
        """Say what goes on, where somebody looks."""
        if self._notes.is_terminal:
            self._status.update(Text(text))
            self._status.start()

    def found(self, rows: Sequence[Row], machine: dict[str, object]) -> None:
        """Take the rows of one workload."""
        self.rows += rows
        if self.as_json:
            for row in rows:
                click.echo(json.dumps({**row, "machine": machine}))

    def end(self, machine: dict[str, object]) -> None:
        """Show the tables."""
        self._status.stop()
        if self.as_json or not self.rows:
            return
        self._out.print(
            Text(
                "; ".join(f"{name} {value}" for name, value in machine.items() if value is not None)
            )
        )
        self._out.print(Text(durability(machine)))
        self._out.print(figures(self.rows))
        self._out.print(costs(self.rows))
        if any(row["details"] for row in self.rows):
            self._out.print(details(self.rows))


def durability(machine: dict[str, object]) -> str:
    """Return what a sync means where this was measured."""
    kind = machine["filesystem"]
    if kind is None:
        return (
            "The cluster ran already: a write was synced by a majority of its members before it "
            "was answered; what their disks are, is not known here."
        )
    if kind in MEMORY_FILESYSTEMS:
        return (
            f"The logs were on {kind}, which is memory: nothing here says anything about a disk. "
            "Choose one with --directory."
        )
    return (
        f"Every write was synced to {kind} by a majority of three nodes before it was answered; "
        f"one sync of 4 KiB takes {machine['fdatasync_p50_ms']} ms."
    )


def figures(rows: Sequence[Row]) -> Table:
    """Return the table of rates and latencies."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("workload", "", "outstanding", "bytes", "ops/s", "(least", "most)"):
        shown.add_column(heading, justify="left" if heading in ("workload", "") else "right")
    for heading in ("p50 ms", "p99 ms", "p99.9 ms", "max ms", "entries/sync", "syncs/s"):
        shown.add_column(heading, justify="right")
    for heading in ("failed", "elections"):
        shown.add_column(heading, justify="right")
    for row in rows:
        cells = [row["workload"], row["text"]]
        cells += [_number(row[key], 0) for key in ("outstanding", "value_bytes")]
        cells += [_number(row.get(key), 0) for key in RATES]
        cells += [_number(row.get(key), 2) for key in LATENCIES]
        cells += [_number(row.get(key), 0) for key in ("entries_per_sync", "syncs_per_second")]
        shown.add_row(*map(Text, [*cells, str(row["failures"]), str(row["elections"])]))
    return shown


def costs(rows: Sequence[Row]) -> Table:
    """Return the table of what each process used: medians over the runs, of memory the most."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("workload", "outstanding", "process", "cores", "us of CPU/op", "MiB"):
        shown.add_column(heading, justify="left" if heading in ("workload", "process") else "right")
    for row in rows:
        for name, used in row["processes"].items():
            shown.add_row(
                *map(Text, (row["workload"], _number(row["outstanding"], 0))),
                Text(name if used["role"] == "load" else f"{name}, {used['role']}"),
                Text(_number(used["cores"], 2)),
                Text(_number(used["us_per_operation"], 2)),
                Text(_number(mebibytes(used["resident_bytes"]), 0)),
            )
    return shown


def details(rows: Sequence[Row]) -> Table:
    """Return the table of what only some workloads have."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("workload", "", "figures of its own"):
        shown.add_column(heading, overflow="fold")
    for row in rows:
        if row["details"]:
            each = (f"{name} {value:,}" for name, value in row["details"].items())
            shown.add_row(*map(Text, (row["workload"], row["text"], ", ".join(each))))
    return shown


def _number(value: float | None, places: int) -> str:
    return "-" if value is None else f"{value:,.{places}f}"
