"""`python -m raft.testing.whole`: run worlds of whole nodes, or replay one."""

from __future__ import annotations

import sys
import time

import click
from twisted.logger import globalLogBeginner

from raft.testing.whole.run import Failure, Report, simulate


@click.command()
@click.option("--seed", default=0, show_default=True, help="The first seed.")
@click.option("--count", default=1, show_default=True, help="How many seeds to run.")
@click.option("--transcript", default=0, metavar="K", help="Print the last K lines of a failure.")
def main(seed: int, count: int, transcript: int) -> None:
    """Run whole nodes in simulated worlds, one for each seed."""
    # What nodes log of their troubles is nobody's concern here.
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False, discardBuffer=True)
    begun = time.process_time()
    events = 0
    for number in range(seed, seed + count):
        try:
            report = simulate(number)
        except Failure as failure:
            if transcript:
                click.echo(failure.transcript(transcript))
            click.echo(failure)
            sys.exit(1)
        events += report.events
        if count == 1:
            show(report)
    seconds = time.process_time() - begun
    click.echo(f"{count} seeds, {events} events, {events / seconds:.0f} events a second")


def show(report: Report) -> None:
    """Print what one run did."""
    for name in report.__attrs_attrs__:
        click.echo(f"{name.name}: {getattr(report, name.name)}")


if __name__ == "__main__":
    main()
