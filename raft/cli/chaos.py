"""raft chaos: a cluster of its own, everything that may go wrong with it, and a verdict."""

from __future__ import annotations

import importlib
import json
import random
import shlex
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import click
from attrs import asdict
from rich.console import Console
from rich.text import Text

from raft.chaos.cluster import Template, template_of
from raft.chaos.run import Outcome, Plan, Run
from raft.chaos.storm import FAULTS, unavailable
from raft.cli.judging import BadInput, JudgingCommand
from raft.errors import BadConfiguration, RaftError
from raft.interfaces import Value

FINE, VIOLATED, UNDECIDED = 0, 1, 2
SEEDS_END: Final = 1 << 31
NODES_MOST: Final = 9
EPILOG = "Faults: " + ", ".join(FAULTS) + "."

Draw = Callable[[random.Random], Value]


class Names(click.ParamType[tuple[str, ...]]):
    """Names of faults, parted by commas."""

    name = "NAME,..."

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Read the names."""
        if isinstance(value, tuple):
            return value
        names = tuple(name for name in str(value).split(",") if name)
        for name in names:
            if name not in FAULTS:
                self.fail(f"{name!r} is no fault; there are {', '.join(FAULTS)}", param, ctx)
        return names


@click.command("chaos", cls=JudgingCommand, epilog=EPILOG)
@click.option(
    "--minutes",
    type=click.FloatRange(0.05, 60 * 24 * 31),
    default=1.0,
    show_default=True,
    help="How long things go wrong; starting, healing and judging come on top.",
)
@click.option(
    "-c",
    "--config",
    "configs",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="A node's file, for its machine, timings and limits; each one more is a node more.",
)
@click.option(
    "--nodes",
    type=click.IntRange(1, NODES_MOST),
    help="How many nodes.  [default: 3, or as many as files]",
)
@click.option("--seed", type=click.IntRange(0, SEEDS_END - 1), help="Do as an earlier run did.")
@click.option(
    "--clients", type=click.IntRange(1, 8), default=6, show_default=True, help="How many clients."
)
@click.option(
    "--commands",
    metavar="MODULE:FUNCTION",
    help="Draws the commands for a machine other than kv, given a random.Random.",
)
@click.option(
    "--faults", type=Names(), default=(), help="Only these.  [default: each phase draws its own]"
)
@click.option(
    "--pace",
    type=click.FloatRange(0.05, 600),
    default=1.0,
    show_default=True,
    help="The mean time between two faults, in seconds.",
)
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the nodes' files go.  [default: temporary]",
)
@click.option("--keep", is_flag=True, help="Keep them also where all is well.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as one line of JSON.")
@click.option("-v", "--verbose", is_flag=True, help="Say what is done, on standard error.")
def chaos(
    minutes: float,
    configs: Sequence[Path],
    nodes: int | None,
    seed: int | None,
    clients: int,
    commands: str | None,
    faults: tuple[str, ...],
    pace: float,
    directory: Path | None,
    keep: bool,
    as_json: bool,
    verbose: bool,
) -> int:
    """Run a cluster through everything that may go wrong, and hold it to what it promised.

    Nodes are started here, each a process of its own on loopback, and clients that write and
    read. Processes are killed and stopped, links between them cut, slowed and garbled, disks fail
    and fill up, clocks jump, members come and go. In the end everything heals: then there must be
    a leader, every acknowledged write, and the same state on all nodes; and what clients saw must
    be linearizable.

    A cluster that runs already is never touched: of a --config, only the machine and the options
    are taken. Where something is wrong, the nodes' files and logs are kept, with a list of what
    was done, and the command that does it again is printed.

    \b
    Exit codes:
      0  all is well
      1  a promise was broken, or the cluster did not come back: how, is printed
      2  a history could not be judged within the time for it; all else is well
      3  a file or the command line is wrong
    """  # noqa: D301 - a backspace character tells click to keep the lines of a paragraph
    template = _template(configs)
    draw = _draw(commands, template)
    chosen = random.SystemRandom().randrange(SEEDS_END) if seed is None else seed
    plan = Plan(
        *(minutes * 60, min(40.0, minutes * 60), chosen),
        nodes=nodes or max(3, len(configs)),
        clients=clients,
        faults=faults,
        mean_seconds=pace,
        draw=draw,
    )
    console = Console(stderr=True, highlight=False)
    missing = unavailable()
    if faults and all(name in missing for name in faults):
        raise BadInput(f"--faults: none of these is possible here: {missing[faults[0]]}")
    for name in [name for name in faults or FAULTS if name in missing]:
        console.print(Text(f"raft: without {name}: {missing[name]}"))
    place = _place(directory, chosen)
    outcome = _run(place, plan, template, console, verbose)
    is_fine = not (outcome.violations or outcome.undecided)
    if is_fine and not keep:
        shutil.rmtree(place, ignore_errors=True)
    click.echo(_as_json(outcome, place) if as_json else _as_text(outcome, plan))
    if not is_fine or keep:
        click.echo(f"files     {place}", err=as_json)
    if not is_fine:
        click.echo(f"again     {_again(plan, minutes, configs, commands)}", err=as_json)
    if outcome.violations:
        return VIOLATED
    return UNDECIDED if outcome.undecided else FINE


def _template(configs: Sequence[Path]) -> Template:
    try:
        templates = [template_of(path) for path in configs]
    except BadConfiguration as error:
        raise BadInput(str(error.args[0])) from None
    for path, template in zip(configs, templates, strict=True):
        if template != templates[0]:
            raise BadInput(
                f"{path}: another machine, other timings or limits than {configs[0]}; "
                "all nodes of a cluster have the same"
            )
    return templates[0] if templates else Template()


def _draw(commands: str | None, template: Template) -> Draw | None:
    if commands is None:
        if template.machine != "kv":
            raise BadInput(
                f"--commands: the machine is {template.machine}; give a function that draws "
                "commands for it, as package.module:function"
            )
        return None
    module, _, name = commands.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
        found(random.Random(0))
    except Exception as error:
        raise BadInput(
            f"--commands: {commands} draws nothing ({type(error).__name__}: {error}); give "
            "package.module:function, which takes a random.Random and returns a command; "
            "set PYTHONPATH where it cannot be imported"
        ) from None
    return found  # type: ignore[no-any-return]


def _place(directory: Path | None, seed: int) -> Path:
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f"raft-chaos-{seed}-", dir=directory)).absolute()


def _run(place: Path, plan: Plan, template: Template, console: Console, verbose: bool) -> Outcome:
    from twisted.internet.defer import Deferred
    from twisted.internet.task import react

    ended: list[Outcome | Exception] = []
    status = console.status("")

    def report(text: str) -> None:
        if verbose:
            console.print(Text(text))
        elif console.is_terminal:
            status.update(Text(text))
            status.start()

    async def main(reactor: Any) -> None:
        try:
            ended.append(await Run(reactor, place, plan, template, report).run())
        except Exception as error:
            ended.append(error)

    begun: Callable[[Any], Any] = lambda reactor: Deferred.fromCoroutine(main(reactor))  # noqa: E731
    try:
        react(begun, [])
    except SystemExit:
        # How `react` ends; the exit code is the caller's to give.
        pass
    finally:
        status.stop()
    if not ended:
        raise click.Abort
    if isinstance(ended[0], RaftError | OSError):
        raise click.ClickException(f"chaos: {ended[0]}; see {place}") from ended[0]
    if isinstance(ended[0], Exception):
        raise ended[0]
    return ended[0]


def _as_text(outcome: Outcome, plan: Plan) -> str:
    done = outcome.outcomes
    faults = ", ".join(f"{count} {kind}" for kind, count in outcome.faults.most_common())
    storms = f"{plan.seconds:.0f} s of storm in {outcome.phases} phases"
    told = f"{done['ok']:,} done, {done['refused']:,} definitely not, {done['unknown']:,} unknown"
    longest = f"{outcome.longest_seconds:.1f} s at most without a write"
    healing = f"{outcome.healing_seconds:.1f} s at most from healing to a fresh one"
    lines = [
        f"seed      {outcome.seed}: {plan.nodes} nodes, {plan.clients} clients, {storms}",
        f"faults    {faults}",
        f"clients   {told}; {outcome.judged:,} operations judged in histories",
        f"outage    {longest}; {healing}",
    ]
    if outcome.memory_slope is not None:
        lines.append(f"memory    {outcome.memory_slope / (1 << 20):+.1f} MiB an hour and node")
    if outcome.violations:
        lines += [f"WRONG     {text}" for text in outcome.violations]
    elif outcome.undecided:
        lines += [f"UNKNOWN   {text}" for text in outcome.undecided]
    else:
        lines.append("verdict   all is well")
    return "\n".join(lines)


def _as_json(outcome: Outcome, place: Path) -> str:
    return json.dumps({**asdict(outcome), "directory": str(place)})


def _again(plan: Plan, minutes: float, configs: Sequence[Path], commands: str | None) -> str:
    words = ["raft", "chaos", "--minutes", f"{minutes:g}", "--seed", str(plan.seed)]
    words += ["--nodes", str(plan.nodes), "--clients", str(plan.clients)]
    words += ["--pace", f"{plan.mean_seconds:g}"]
    words += [word for path in configs for word in ("--config", str(path))]
    words += ["--commands", commands] if commands else []
    words += ["--faults", ",".join(plan.faults)] if plan.faults else []
    return shlex.join(words)
