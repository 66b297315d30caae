"""raft bench: what a cluster of three real processes on this machine reaches."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from raft.bench import facts
from raft.bench.measures import measured
from raft.bench.plan import Plan, Row, Task
from raft.bench.plot import svg
from raft.bench.stand import failed
from raft.bench.workloads import WORKLOADS, Workload, chosen
from raft.errors import RaftError
from raft.places import MEMORY_FILESYSTEMS

EPILOG = "\b\n" + "\n".join(f"{each.name:4} {each.text}" for each in WORKLOADS)


class Numbers(click.ParamType):  # type: ignore[type-arg]
    """Whole numbers, parted by commas."""

    name = "N,N,..."

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Read the numbers."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(part) for part in value.split(",") if part)
        except ValueError:
            self.fail(f"{value!r}: write whole numbers, parted by commas", param, ctx)


def checked_sizes(
    _ctx: click.Context, _param: click.Parameter, value: tuple[int, ...]
) -> tuple[int, ...]:
    """Return sizes of clusters; refuse those that no cluster of one machine should have."""
    if not value or not all(0 < size <= MOST_SERVERS for size in value):
        raise click.BadParameter(f"write numbers of servers from 1 to {MOST_SERVERS}, as 3,5,7")
    return value


MOST_SERVERS = 9


def writable(path: Path | None) -> Path | None:
    """Return where the picture goes; refuse it before anything is measured.

    Raises:
        click.BadParameter: it is no .svg file, or cannot be written.
    """
    if path is not None:
        if path.suffix != ".svg":
            raise click.BadParameter(f"{path}: the picture is SVG; end the name with .svg")
        if not path.parent.is_dir():
            raise click.BadParameter(f"{path}: there is no directory {path.parent}; make it first")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise click.BadParameter(f"{path} may not be written; choose another place")
    return path


@click.command("bench", epilog=EPILOG)
@click.argument("names", nargs=-1, metavar="[WORKLOAD]...")
@click.option("--runs", type=click.IntRange(1, 100), default=3, show_default=True)
@click.option(
    "--seconds",
    type=click.FloatRange(0.1, 600),
    default=3.0,
    show_default=True,
    help="How long each run takes.",
)
@click.option(
    "--warm-up",
    "warm_up_seconds",
    type=click.FloatRange(0, 600),
    default=1.0,
    show_default=True,
    help="How long load runs before the first run, in seconds.",
)
@click.option("--outstanding", type=Numbers(), default=(), help="In place of a workload's own.")
@click.option("--value-bytes", type=Numbers(), default=(), help="In place of a workload's own.")
@click.option(
    "--connections",
    type=click.IntRange(1, 2000),
    default=100,
    show_default=True,
    help="Of W2, W4c and W10c.",
)
@click.option(
    "--clients", type=click.IntRange(1, 100), default=8, show_default=True, help="Of W10."
)
@click.option(
    "--load-processes",
    type=click.IntRange(1, 16),
    default=1,
    show_default=True,
    help="That W2, W4c and W10 come from, where one is the bottleneck.",
)
@click.option("--kills", type=click.IntRange(1, 1000), default=20, show_default=True, help="Of W7.")
@click.option(
    "--entries",
    type=click.IntRange(1000, 100_000_000),
    default=200_000,
    show_default=True,
    help="Of W8r and W8b: how many are replayed, or caught up with. In full: 1000000.",
)
@click.option(
    "--megabytes",
    type=click.IntRange(1, 10_000),
    default=32,
    show_default=True,
    help="Of W8s: how large the snapshot is. In full: 100.",
)
@click.option(
    "--growth",
    type=click.IntRange(3, 9),
    default=6,
    show_default=True,
    help="Of W9: 10 to the power of it entries are written. In full: 7.",
)
@click.option(
    "--sizes",
    type=Numbers(),
    default=(3, 5, 7),
    show_default="3,5,7",
    callback=checked_sizes,
    help="Of W9: how many servers, in turn.",
)
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the nodes keep their logs: on the disk to be measured.  [default: temporary]",
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=lambda _ctx, _param, value: writable(value),
    help="Draw the curves into this SVG file; one that is there is replaced.",
)
@click.option("--json", "as_json", is_flag=True, help="One object for each line of the table.")
def bench(
    names: Sequence[str],
    runs: int,
    seconds: float,
    warm_up_seconds: float,
    outstanding: tuple[int, ...],
    value_bytes: tuple[int, ...],
    connections: int,
    clients: int,
    load_processes: int,
    kills: int,
    entries: int,
    megabytes: int,
    growth: int,
    sizes: tuple[int, ...],
    directory: Path | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Measure writes, reads and failover; all workloads, or those named.

    Starts three nodes of its own for each workload, each a twistd process, on loopback, and
    puts load on them from this machine: figures hold for it, today. Every write is on the disks
    of a majority before it is answered; there is no option to change that. It ends by itself,
    and with it all that it started.
    """
    plan = Plan(
        *(runs, seconds, warm_up_seconds, connections),
        clients=clients,
        load_processes=load_processes,
        kills=kills,
        entries=entries,
        megabytes=megabytes,
        growth=growth,
        sizes=sizes,
    )
    workloads = chosen(names, outstanding, value_bytes)
    place = Path(tempfile.mkdtemp(prefix="raft-bench-", dir=_made(directory)))
    report = Report(as_json)
    try:
        measure(workloads, plan, place, report)
        if plot is not None:
            plot.write_text(svg(report.rows), "utf-8")
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _made(directory: Path | None) -> Path | None:
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
    return directory


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
        self._out.print(Text("; ".join(f"{name} {value}" for name, value in machine.items())))
        self._out.print(Text(durability(machine)))
        self._out.print(figures(self.rows))
        self._out.print(costs(self.rows))
        if any(row["details"] for row in self.rows):
            self._out.print(details(self.rows))


def durability(machine: dict[str, object]) -> str:
    """Return what a sync means where this was measured."""
    kind = machine["filesystem"]
    if kind in MEMORY_FILESYSTEMS:
        return (
            f"The logs were on {kind}, which is memory: nothing here says anything about a disk. "
            "Choose one with --directory."
        )
    return (
        f"Every write was synced to {kind} by a majority of three nodes before it was answered; "
        f"one sync of 4 KiB takes {machine['fdatasync_p50_ms']} ms."
    )


def measure(workloads: Sequence[Workload], plan: Plan, place: Path, report: Report) -> None:
    """Measure `workloads` one after the other, each on a cluster of its own.

    Raises:
        click.ClickException: something failed; the text says what.
    """
    from twisted.internet.defer import Deferred
    from twisted.internet.task import react

    ended: list[Exception | None] = []
    machine = facts.machine(place)

    async def main(reactor: Any) -> None:
        try:
            for workload in workloads:
                task = Task(reactor, place / workload.name, workload, plan, report.note)
                report.found(await measured(task), machine)
            ended.append(None)
        except Exception as error:
            ended.append(error)

    begun: Callable[[Any], Any] = lambda reactor: Deferred.fromCoroutine(main(reactor))  # noqa: E731
    try:
        react(begun, [])
    except SystemExit:
        # How `react` ends; the exit code is the caller's to give.
        pass
    report.end(machine)
    if not ended:
        raise click.Abort
    if isinstance(ended[0], RaftError | OSError):
        raise click.ClickException(f"bench: {failed(ended[0])}") from ended[0]
    if ended[0] is not None:
        raise ended[0]


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


RATES = ("ops_per_second", "ops_per_second_least", "ops_per_second_most")
LATENCIES = ("p50_ms", "p99_ms", "p999_ms", "max_ms")


def costs(rows: Sequence[Row]) -> Table:
    """Return the table of what each process used, of each row's last run."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("workload", "outstanding", "process", "cores", "us of CPU/op", "MiB"):
        shown.add_column(heading, justify="left" if heading in ("workload", "process") else "right")
    for row in rows:
        last = row["runs"][-1] if row["runs"] else {}
        for name, used in last.get("processes", {}).items():
            shown.add_row(
                *map(Text, (row["workload"], _number(row["outstanding"], 0))),
                Text(name if used["role"] == "load" else f"{name}, {used['role']}"),
                Text(_number(used["cores"], 2)),
                Text(_number(used["us_per_operation"], 2)),
                Text(_number(used["resident_bytes"] / (1 << 20), 0)),
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
    return "" if value is None else f"{value:,.{places}f}"
