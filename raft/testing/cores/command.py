"""The command line of the simulator: runs seeds, shows what failed, and makes it small.

    python -m raft.testing.cores.simulator --seed 0 --count 100
    python -m raft.testing.cores.simulator --seed 17 --transcript 40
    python -m raft.testing.cores.simulator --seed 17 --save story.txt
    python -m raft.testing.cores.simulator --choices story.txt
    python -m raft.testing.cores.simulator --seed 17 --shrink

A saved story is a list of acts (`raft.testing.cores.acts`): it is played without chance, and still
says something once the code has changed. Shrinking leaves out of it what does not matter, and
prints what remains as a test.
"""

from __future__ import annotations

import gc
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click

from raft.testing.choices import LONGEST_FILE_BYTES, BadChoices
from raft.testing.cores.acts import Scenario
from raft.testing.cores.playing import failure_of
from raft.testing.cores.recording import record
from raft.testing.cores.reduction import as_test, shrink
from raft.testing.cores.simulator import Failure, Report, simulate
from raft.testing.cores.swarm import TIMEOUT_SECONDS, Swarm
from raft.testing.shrinking import Budget


def _fired(reports: Sequence[Report]) -> str:
    total: Counter[str] = Counter()
    for report in reports:
        total.update(report.fired)
    return ", ".join(f"{kind} {count}" for kind, count in sorted(total.items())) or "none"


def summary(reports: Sequence[Report], failures: int, seconds: float) -> str:
    """Return one line on what all the seeds did."""
    events = sum(report.events for report in reports)
    return (
        f"{len(reports)} seeds passed, {failures} failed; {events} events, "
        f"{events / max(seconds, 1e-9):,.0f} a second; "
        f"{sum(report.commits for report in reports)} entries committed in "
        f"{sum(report.terms for report in reports)} terms, "
        f"{sum(report.truncations for report in reports)} truncations, "
        f"{sum(report.installed for report in reports)} snapshots installed, "
        f"{sum(report.configurations for report in reports)} configurations "
        f"({sum(report.abandoned for report in reports)} abandoned), "
        f"{sum(report.done_reads for report in reports)} reads "
        f"({sum(report.leased_reads for report in reports)} by lease), "
        f"{sum(report.session_commands for report in reports)} commands of sessions "
        f"({sum(report.session_copies for report in reports)} copies, "
        f"{sum(report.sessions_expired for report in reports)} expiries met); "
        f"faults: {_fired(reports)}; slowest leader after "
        f"{max((report.leader_seconds for report in reports), default=0.0) / TIMEOUT_SECONDS:.1f} T"
    )


@click.command()
@click.option("--seed", default=0, help="The first seed.")
@click.option("--count", default=1, help="How many seeds to run.")
@click.option("--transcript", default=0, help="How many steps before a failure to show.")
@click.option("--digest", is_flag=True, help="Hash every output and show the digest.")
@click.option("--save", type=click.Path(path_type=Path), help="Write the seed's acts to a file.")
@click.option("--choices", type=click.Path(path_type=Path), help="Play the acts in a file.")
@click.option("--shrink", "is_shrunk", is_flag=True, help="Make a failure small; print a test.")
@click.option("--seconds", default=60.0, help="How long to shrink one failure.", show_default=True)
def main(
    seed: int,
    count: int,
    transcript: int,
    digest: bool,
    save: Path | None,
    choices: Path | None,
    is_shrunk: bool,
    seconds: float,
) -> None:
    """Run seeds of the simulator; exit with 1 if one fails."""
    try:
        if choices is not None:
            raise SystemExit(_play(choices, transcript, is_shrunk, seconds))
        if save is not None:
            _save(seed, save)
    except (BadChoices, OSError) as error:
        raise click.ClickException(str(error)) from None
    # A seed's objects live until it ends, so looking for garbage meanwhile finds none.
    gc.set_threshold(200_000, 20, 20)
    reports: list[Report] = []
    failures = 0
    begun = time.process_time()
    for number in range(seed, seed + count):
        try:
            report = simulate(number, full_digest=digest)
        except Failure as failure:
            failures += 1
            click.echo(f"{Swarm.draw(number)}\n{failure}")
            if transcript:
                click.echo(failure.transcript(transcript))
            if is_shrunk:
                _shrink(record(number)[0], failure, number, transcript, seconds)
            continue
        reports.append(report)
        if digest:
            click.echo(f"{number} {report.digest}")
    click.echo(summary(reports, failures, time.process_time() - begun))
    raise SystemExit(bool(failures))


def _save(seed: int, path: Path) -> None:
    scenario, _ = record(seed)
    path.write_text(str(scenario), encoding="utf-8")
    click.echo(f"{len(scenario.acts)} acts of seed {seed} are in {path}")


def _play(path: Path, transcript: int, is_shrunk: bool, seconds: float) -> int:
    """Play a file of acts; return the exit code."""
    try:
        if path.stat().st_size > LONGEST_FILE_BYTES:
            raise BadChoices(f"{path} is longer than {LONGEST_FILE_BYTES} bytes")
        scenario = Scenario.parse(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise BadChoices(f"{path} is not text: {error}") from None
    failure, performed = failure_of(scenario)
    click.echo(f"{len(performed)} of {len(scenario.acts)} acts were played")
    if failure is None:
        click.echo("no rule was broken")
        return 0
    click.echo(f"{failure.rule}: {failure.reason}")
    if transcript:
        click.echo(failure.transcript(transcript))
    if is_shrunk:
        _shrink(scenario, failure, scenario.world.seed, transcript, seconds)
    return 1


def _shrink(
    scenario: Scenario, failure: Failure, seed: int, transcript: int, seconds: float
) -> None:
    """Make a failing scenario small, and print it as a test."""
    reduction = shrink(scenario, failure, budget=Budget(seconds))
    if reduction.failure is None:
        click.echo(
            f"{failure.rule} holds when the {len(scenario.acts)} acts of seed {seed} are played: "
            f"what broke it was drawn after the healing"
        )
        return
    click.echo(
        f"{len(scenario.acts)} acts became {len(reduction.scenario.acts)} "
        f"in {reduction.tries} attempts:\n\n{as_test(reduction, seed)}"
    )
    if transcript:
        click.echo(reduction.failure.transcript(transcript))
