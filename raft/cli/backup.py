"""raft backup and raft restore: the state of a running cluster into a file, and back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from raft.backup import Backup, verify
from raft.cli.running import ENDPOINTS_VARIABLE, TIMEOUT_SECONDS, Cluster, reason, run
from raft.cli.values import moment
from raft.client import RaftClient
from raft.errors import OutcomeUnknown, Timeout, WouldReplace

WAIT_SECONDS = 60.0
RESTORE_SECONDS = 600.0


@click.command()
@click.option(
    "--from",
    "endpoints",
    multiple=True,
    envvar=ENDPOINTS_VARIABLE,
    help=f"A node's address for clients; may be repeated. [env: {ENDPOINTS_VARIABLE}]",
)
@click.option(
    "-c",
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A node's file, to take the addresses from.",
)
@click.option("--allow-plaintext", is_flag=True, help="Talk to other machines without encryption.")
@click.option(
    "--wait",
    "wait_seconds",
    type=click.FloatRange(min=0, min_open=True, max=3600),
    default=WAIT_SECONDS,
    show_default=True,
    help="How many seconds it may take until a node has begun to give it.",
)
@click.option("--verify", "only_verify", is_flag=True, help="Only check that FILE is whole.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def backup(
    endpoints: Sequence[str],
    config: Path | None,
    allow_plaintext: bool,
    wait_seconds: float,
    only_verify: bool,
    file: Path,
) -> int:
    """Save the state of a running cluster to the new file FILE.

    Whatever was answered to a client before the command began is in it. The cluster goes on
    serving. `raft restore` brings it back.
    """
    if only_verify:
        found = verify(str(file))
        click.echo(f"{file} is whole: {told(found)}.")
        return 0
    cluster = Cluster.chosen(endpoints, config, TIMEOUT_SECONDS, allow_plaintext)

    async def work(client: RaftClient) -> int:
        saved = await client.backup(str(file), wait_seconds)
        click.echo(f"Saved {file}: {told(saved)}.")
        return 0

    return run(cluster, work)


@click.command()
@click.option(
    "--to",
    "endpoints",
    multiple=True,
    envvar=ENDPOINTS_VARIABLE,
    help=f"A member's address for clients; may be repeated. [env: {ENDPOINTS_VARIABLE}]",
)
@click.option(
    "-c",
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A node's file, to take the addresses from.",
)
@click.option("--allow-plaintext", is_flag=True, help="Talk to other machines without encryption.")
@click.option(
    "--wait",
    "wait_seconds",
    type=click.FloatRange(min=0, min_open=True, max=86400),
    default=RESTORE_SECONDS,
    show_default=True,
    help="How many seconds it may take.",
)
@click.option("--replace", is_flag=True, help="Let it take the place of the state that is there.")
@click.option("--check", is_flag=True, help="Only check that FILE is whole, and restore nothing.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def restore(
    endpoints: Sequence[str],
    config: Path | None,
    allow_plaintext: bool,
    wait_seconds: float,
    replace: bool,
    check: bool,
    file: Path,
) -> int:
    """Let the state of a running cluster be that of the backup FILE.

    Into a new cluster as it is; into one that has a state with --replace. On every server the
    state is replaced at the same place of the log, or on none.
    """
    found = verify(str(file))
    if check:
        click.echo(f"{file} is whole: {told(found)}.")
        return 0
    cluster = Cluster.chosen(endpoints, config, TIMEOUT_SECONDS, allow_plaintext)

    async def work(client: RaftClient) -> int:
        try:
            index = await client.restore(str(file), wait_seconds, replace=replace)
        except WouldReplace as error:
            hint = reason(error).replace("allow it with replace", "allow it with --replace")
            raise click.ClickException(f"nothing is restored: {hint}") from error
        except (Timeout, OutcomeUnknown) as error:
            is_open = not isinstance(error, Timeout) or error.appended
            hint = (
                "; it may be restored yet: look at the state, or restore again" if is_open else ""
            )
            raise click.ClickException(f"not done in time: {reason(error)}{hint}") from error
        click.echo(f"Restored {file} as entry {index}: {told(found)}.")
        return 0

    return run(cluster, work)


def told(found: Backup) -> str:
    """Say in one line what a backup is."""
    meta = found.meta
    machine = f"{meta.machine or 'a machine without a name'}, version {meta.machine_version}"
    said = (
        f"cluster {meta.cluster_id or 'without an id'} up to entry {meta.index} of term "
        f"{meta.term}, {machine}, {found.size_bytes} bytes, taken {moment(meta.taken_at)} from "
        f"{meta.server_id}"
    )
    # Whoever wrote the file wrote these names: they must not command a terminal.
    return "".join(each if each.isprintable() else "?" for each in said)
