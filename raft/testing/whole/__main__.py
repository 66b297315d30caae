"""`python -m raft.testing.whole`: run worlds of whole nodes, or replay and shrink one.

python -m raft.testing.whole --seed 0 --count 20
python -m raft.testing.whole --seed 17 --save story.txt
python -m raft.testing.whole --choices story.txt --transcript 40
python -m raft.testing.whole --seed 17 --shrink
python -m raft.testing.whole --minutes 60
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import click
from twisted.logger import globalLogBeginner

from raft.testing.choices import BadChoices, Choices
from raft.testing.shrinking import Budget
from raft.testing.whole.run import Failure, simulate
from raft.testing.whole.shrink import as_test, shrink
from raft.testing.whole.tally import Tally, run_for


@click.command()
@click.option("--seed", default=None, type=int, help="The first seed; by default 0.")
@click.option("--count", default=1, show_default=True, help="How many seeds to run.")
@click.option("--minutes", default=0.0, help="Run seeds for so long, from one by the clock on.")
@click.option("--processes", default=os.cpu_count() or 1, help="How many cores to use then.")
@click.option("--transcript", default=0, metavar="K", help="Print the last K lines of a failure.")
@click.option("--save", type=click.Path(path_type=Path), help="Write what a seed chose to a file.")
@click.option("--choices", type=click.Path(path_type=Path), help="Play the choices in a file.")
@click.option("--shrink", "is_shrunk", is_flag=True, help="Make a failure small; print a test.")
@click.option("--seconds", default=60.0, help="How long to shrink one failure.", show_default=True)
def main(
    seed: int | None,
    count: int,
    minutes: float,
    processes: int,
    transcript: int,
    save: Path | None,
    choices: Path | None,
    is_shrunk: bool,
    seconds: float,
) -> None:
    """Run whole nodes in simulated worlds, one for each seed; exit with 1 if one fails."""
    # What nodes log of their troubles is nobody's concern here.
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False, discardBuffer=True)
    if minutes:
        first = seed if seed is not None else int(time.time()) * 1000
        click.echo(f"seeds from {first} on, {minutes:g} minutes, {processes} processes")
        tally = run_for(minutes, first, max(1, processes))
    else:
        tally = Tally()
        try:
            begun = [_loaded(choices)] if choices else [(n, None) for n in _seeds(seed, count)]
        except BadChoices as error:
            raise click.ClickException(str(error)) from None
        for number, chosen in begun:
            failure = tally.run(number, chosen, save)
            if failure is not None:
                _tell(failure, transcript, seconds if is_shrunk else 0.0)
    for line in tally.lines():
        click.echo(line)
    raise SystemExit(bool(tally.failures))


def _seeds(seed: int | None, count: int) -> range:
    return range(seed or 0, (seed or 0) + count)


def _loaded(path: Path) -> tuple[int, Choices]:
    chosen, about = Choices.load(path)
    match about.get("seed"):
        case int(seed):
            return seed, chosen
    raise BadChoices(f"{path}, line 1: it names no seed")


def _tell(failure: Failure, transcript: int, seconds: float) -> None:
    if transcript:
        click.echo(failure.transcript(transcript))
    click.echo(str(failure))
    if not seconds:
        return
    left = shrink(failure, Budget(seconds))
    click.echo(f"\n{len(failure.choices)} choices were made, {len(left)} of them are enough:\n")
    click.echo(as_test(failure, left))
    try:
        simulate(failure.seed, choices=Choices.replaying(left))
    except Failure as smaller:
        click.echo(smaller.transcript(max(transcript, 20)))


if __name__ == "__main__":
    main()
