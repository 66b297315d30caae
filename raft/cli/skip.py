"""raft skip: let no server execute a command at which all of them stop."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click
from attrs import frozen

from raft.cli.running import Cluster, cluster_options, run
from raft.cli.status import Row, gather
from raft.cli.values import to_json
from raft.client import RaftClient
from raft.errors import BadConfiguration, NotFound, Refused

FAILED: Final = 1
AGAIN_SECONDS: Final = 0.1
SHOWN: Final = 200
"""How many characters of a command are shown."""


@frozen
class Looked:
    """What there is to know before an entry is skipped."""

    entry: dict[str, object]
    rows: tuple[Row, ...]

    @property
    def index(self) -> int:
        """The entry's index."""
        return int(str(self.entry["index"]))

    def past(self) -> list[str]:
        """Return who has the entry in its state."""
        return [row.id for row in self.rows if _number(row, "last_applied") >= self.index]

    def silent(self) -> list[str]:
        """Return who did not answer."""
        return [row.id or row.address for row in self.rows if row.status is None]


@click.command()
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Also where a server has applied it.")
@click.argument("index", metavar="INDEX", type=click.IntRange(min=1))
@cluster_options
def skip(
    index: int,
    dry_run: bool,
    yes: bool,
    force: bool,
    endpoints: Sequence[str],
    config: Path | None,
    timeout_seconds: float,
    allow_plaintext: bool,
) -> int:
    """Let no server execute the command of entry INDEX, at which all of them stop.

    The nodes must run with `twistd raft --config FILE --hold`, a majority of them at least. Start
    them as usual afterwards. A command is lost by this: see whether no release can apply it first.
    """
    cluster = Cluster.chosen(endpoints, config, timeout_seconds, allow_plaintext)

    async def work(client: RaftClient) -> int:
        entry = await entry_at(client, index, timeout_seconds)
        looked = Looked(entry, tuple(await gather(client, cluster.endpoints)))
        for line in told(looked):
            click.echo(line)
        check(looked, force)
        if dry_run or not (yes or confirmed()):
            click.echo("Nothing is done.")
            return 0 if dry_run else FAILED
        at = await client.skip(index, timeout_seconds)
        click.echo(f"Entry {at} says that entry {index} is skipped. Start the nodes as usual.")
        return 0

    return run(cluster, work)


async def entry_at(client: RaftClient, index: int, timeout_seconds: float) -> dict[str, object]:
    """Return the entry, as soon as anybody knows that it is committed.

    Held nodes have only just been started, as a rule, and know that after an election.
    """
    from twisted.internet import reactor
    from twisted.internet.task import deferLater

    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            return await client.get_entry(index, max(deadline - time.monotonic(), 0.001))
        except NotFound:
            if time.monotonic() >= deadline:
                raise
        await deferLater(reactor, AGAIN_SECONDS)


def confirmed() -> bool:
    """Ask whoever sits there.

    Raises:
        BadConfiguration: nobody does.
    """
    if not sys.stdin.isatty():
        raise BadConfiguration("nobody can be asked here: look at --dry-run, then give --yes")
    try:
        return click.confirm("Skip it?")
    except click.Abort:
        # Ctrl-C, or the end of the input: the reactor would take it for an unforeseen error.
        return False


def told(looked: Looked) -> list[str]:
    """Say what is skipped, and what that means."""
    entry = looked.entry
    shown = to_json(entry.get("command"))
    shown = shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}..."
    what = f"{_words(entry.get('kind'))} of {entry.get('size_bytes', '?')} bytes"
    lines = [
        f"Entry {looked.index} of term {entry.get('term')} is a {what}: {shown}",
        "Lost is this command, on every server and for good; who repeats it is refused.",
    ]
    if silent := looked.silent():
        lines.append(
            f"No answer came from {', '.join(silent)}: who has applied it will stop, and must join "
            "again with empty directories."
        )
    return lines


def check(looked: Looked, force: bool) -> None:
    """Refuse what would stop servers that are well, unless it is forced.

    Raises:
        Refused: a server has the entry in its state.
    """
    if (past := looked.past()) and not force:
        raise Refused(
            f"{', '.join(past)} could apply entry {looked.index}: run that release on the others, "
            "or let them join again with empty directories; with --force it is skipped, and who "
            "has applied it will stop"
        )


def _words(kind: object) -> str:
    return str(kind).replace("_", " ").replace("session command", "command in a session")


def _number(row: Row, name: str) -> int:
    found: Any = (row.status or {}).get(name)
    return found if isinstance(found, int) else 0
