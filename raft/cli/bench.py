"""raft bench: what a cluster of three real processes on this machine reaches."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from raft.bench import facts
from raft.bench.loaded import TIMEOUT_SECONDS, failed
from raft.bench.measures import measured
from raft.bench.plan import Plan, Running, Task
from raft.bench.plot import svg
from raft.bench.workloads import WORKLOADS, Workload, chosen
from raft.cli.bench_report import Report
from raft.cli.running import Cluster, config_option, endpoint_option, plaintext_option
from raft.errors import RaftError

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

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


def counted(flag: str, least: int, most: int, default: int, text: str) -> Decorator:
    """Return an option that is a whole number from `least` to `most`."""
    kind = click.IntRange(least, most)
    return click.option(flag, type=kind, default=default, show_default=True, help=text)


def timed(flag: str, name: str, least: float, default: float, text: str) -> Decorator:
    """Return an option that is a number of seconds, kept under `name`."""
    kind = click.FloatRange(least, 600)
    return click.option(flag, name, type=kind, default=default, show_default=True, help=text)


def listed(flag: str) -> Decorator:
    """Return an option that stands in place of a workload's own numbers."""
    return click.option(flag, type=Numbers(), default=(), help="In place of a workload's own.")


@click.command("bench", epilog=EPILOG)
@click.argument("names", nargs=-1, metavar="[WORKLOAD]...")
@endpoint_option(None, "Measure the cluster that this node is of, and start none.")
@config_option
@plaintext_option
@counted("--runs", 1, 100, 3, "How often each line is measured.")
@timed("--seconds", "seconds", 0.1, 3.0, "How long each run takes.")
@timed("--warm-up", "warm_up_seconds", 0, 1.0, "How long load runs before the first, in seconds.")
@listed("--outstanding")
@listed("--value-bytes")
@counted("--connections", 1, 2000, 100, "Of W2, W4c and W10c.")
@counted("--clients", 1, 100, 8, "Of W10.")
@counted(
    *("--load-processes", 1, 16, 1),
    "That W2, W4c and W10 come from, where one is the bottleneck.",
)
@counted("--kills", 1, 1000, 20, "Of W7.")
@counted(
    *("--entries", 1000, 100_000_000, 200_000),
    "Of W8r and W8b: how many are replayed, or caught up with. In full: 1000000.",
)
@counted("--megabytes", 1, 10_000, 32, "Of W8s: how large the snapshot is. In full: 100.")
@counted(*("--growth", 3, 9, 6), "Of W9: 10 to the power of it entries are written. In full: 7.")
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
    endpoints: Sequence[str],
    config: Path | None,
    allow_plaintext: bool,
    outstanding: tuple[int, ...],
    value_bytes: tuple[int, ...],
    directory: Path | None,
    plot: Path | None,
    as_json: bool,
    **figures: Any,
) -> None:
    """Measure writes, reads and failover; all workloads, or those named.

    Starts three nodes of its own for each workload, each a twistd process, on loopback, and
    puts load on them from this machine: figures hold for it, today. Every write is on the disks
    of a majority before it is answered; there is no option to change that. It ends by itself,
    and with it all that it started.

    With --endpoint or --config it loads a cluster that runs already, whose machine is the
    key-value store: with writes and reads as fast as they are answered, which whoever uses it
    will feel. Its keys begin with a prefix that is told, and are removed in the end.
    """
    workloads = chosen(names, outstanding, value_bytes)
    running = _running(endpoints, config, allow_plaintext)
    if running is not None:
        if directory is not None:
            raise click.UsageError("--directory is for nodes that are started here; leave it out")
        workloads = loadable(workloads, bool(names))
        click.echo(f"raft: keys begin with {running.prefix}, and are removed in the end", err=True)
    plan = Plan(running=running, **figures)
    place = Path(tempfile.mkdtemp(prefix="raft-bench-", dir=_made(directory)))
    report = Report(as_json)
    try:
        measure(workloads, plan, place, report)
        if plot is not None:
            plot.write_text(svg(report.rows), "utf-8")
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _running(
    endpoints: Sequence[str], config: Path | None, allow_plaintext: bool
) -> Running | None:
    """Return the cluster that is named; None where one is to be started."""
    if not endpoints and config is None:
        if allow_plaintext:
            raise click.UsageError("--allow-plaintext is for a cluster named by --endpoint")
        return None
    cluster = Cluster.chosen(endpoints, config, TIMEOUT_SECONDS, allow_plaintext)
    prefix = f"raft-bench-{secrets.token_hex(4)}/"
    return Running(cluster.endpoints, prefix, cluster.allow_plaintext)


def loadable(workloads: Sequence[Workload], named: bool) -> list[Workload]:
    """Return what can be measured on a cluster that runs already.

    What offers more than the cluster can do is among them only where it is `named`.

    Raises:
        click.UsageError: one that is named needs nodes of its own.
    """
    own = [each.name for each in workloads if each.needs_own_processes]
    if named and own:
        raise click.UsageError(
            f"{', '.join(own)}: starts, kills or fills nodes, and so needs a cluster of its own; "
            "leave it out, or --endpoint and --config"
        )
    return [
        each
        for each in workloads
        if not each.needs_own_processes and (named or each.measure != "overload")
    ]


def _made(directory: Path | None) -> Path | None:
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
    return directory


def measure(workloads: Sequence[Workload], plan: Plan, place: Path, report: Report) -> None:
    """Measure `workloads` one after the other, each on a cluster of its own.

    Raises:
        click.ClickException: something failed; the text says what.
    """
    from twisted.internet.defer import CancelledError, Deferred
    from twisted.internet.task import react

    ended: list[Exception | None] = []
    machine = facts.machine(place if plan.running is None else None)

    async def main(reactor: Any) -> None:
        try:
            for workload in workloads:
                task = Task(reactor, place / workload.name, workload, plan, report.note)
                report.found(await measured(task), machine)
            ended.append(None)
        except CancelledError:
            # Nothing has ended: `react` was interrupted.
            pass
        except Exception as error:
            ended.append(error)

    def begun(reactor: Any) -> Deferred[None]:
        measuring = Deferred.fromCoroutine(main(reactor))
        if plan.running is not None:
            # Whoever interrupts this must not be left with the keys.
            reactor.addSystemEventTrigger("before", "shutdown", interrupted, measuring)
        return measuring

    def interrupted(measuring: Deferred[None]) -> Deferred[None]:
        measuring.cancel()
        return measuring

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
