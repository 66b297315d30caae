"""raft member and raft join: who belongs to the cluster, and changes of that."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from raft.cli.running import Cluster, cluster_options, reason, run
from raft.cli.values import to_json
from raft.client import RaftClient
from raft.config import NodeConfig, read_config
from raft.errors import BadConfiguration, NotFound, Timeout

WAIT_SECONDS = 60.0

Change = Callable[[RaftClient, float], Awaitable[None]]

_wait = click.option(
    "--wait",
    "wait_seconds",
    type=click.FloatRange(min=0, min_open=True, max=3600),
    default=WAIT_SECONDS,
    show_default=True,
    help="How many seconds the change may take; a server that joins has to catch up first.",
)


@click.group()
def member() -> None:
    """Show who belongs to the cluster, and change it while it runs."""


def changed(cluster: Cluster, change: Change, wait_seconds: float, told: str) -> int:
    """Carry out one change and print what was done; say what a time-out means."""

    async def work(client: RaftClient) -> int:
        await change(client, wait_seconds)
        click.echo(told)
        return 0

    try:
        return run(cluster, work)
    except Timeout as error:
        hint = "; it may be under way and go on: see raft member list" if error.appended else ""
        raise click.ClickException(f"not done in time: {reason(error)}{hint}") from error


def fields(id: str, peers: str, clients: str) -> dict[str, object]:
    """Return a member as the client takes it."""
    return {"id": id, "peer_address": peers, "client_address": clients}


def _change(name: str, *parameters: str, told: str) -> Callable[[Any], click.Command]:
    """Make a subcommand of `raft member` that carries out one change."""

    def made(function: Callable[..., Change]) -> click.Command:
        def called(
            endpoints: Sequence[str],
            config: Path | None,
            timeout_seconds: float,
            allow_plaintext: bool,
            wait_seconds: float,
            **given: str,
        ) -> int:
            cluster = Cluster.chosen(endpoints, config, timeout_seconds, allow_plaintext)
            return changed(cluster, function(**given), wait_seconds, told.format(**given))

        called.__doc__ = function.__doc__
        command: Any = cluster_options(_wait(called))
        for parameter in reversed(parameters):
            command = click.argument(parameter)(command)
        subcommand = click.command(name)(command)
        member.add_command(subcommand)
        return subcommand

    return made


@_change("add", "id", "peers", "clients", told="{id} is a voter of the cluster.")
def add(id: str, peers: str, clients: str) -> Change:
    """Add the running server ID, at its addresses for PEERS and for CLIENTS, as a voter.

    It catches up as a learner first. Where it does not, nothing has changed.
    """
    return lambda client, seconds: client.add(fields(id, peers, clients), seconds)


@_change("add-learner", "id", "peers", "clients", told="{id} is a learner of the cluster.")
def add_learner(id: str, peers: str, clients: str) -> Change:
    """Add the running server ID, which gets the log and does not vote."""
    return lambda client, seconds: client.add_learner(fields(id, peers, clients), seconds)


@_change("promote", "id", told="{id} is a voter of the cluster.")
def promote(id: str) -> Change:
    """Let the learner ID vote, once it has caught up."""
    return lambda client, seconds: client.promote(id, seconds)


@_change("remove", "id", told="{id} is removed from the cluster; stop it if it runs.")
def remove(id: str) -> Change:
    """Remove the server ID, dead or alive."""
    return lambda client, seconds: client.remove(id, seconds)


@_change(
    "replace",
    "old",
    "id",
    "peers",
    "clients",
    told="{id} has taken the place of {old}; stop {old}.",
)
def replace(old: str, id: str, peers: str, clients: str) -> Change:
    """Let the running server ID join, and remove OLD in the same step."""
    return lambda client, seconds: client.replace(old, fields(id, peers, clients), seconds)


@_change(
    "move",
    "id",
    "peers",
    "clients",
    told="{id} is to be reached at {peers}, for clients at {clients}.",
)
def move(id: str, peers: str, clients: str) -> Change:
    """Tell the cluster other addresses of the member ID, for PEERS and for CLIENTS.

    It should listen there already, or be started with these addresses now.
    """

    async def change(client: RaftClient, seconds: float) -> None:
        _, address = await client.leader()
        told: Any = await client.status(address or None)
        known = {row["id"]: row["voter"] for row in told["members"]}
        if id not in known:
            raise NotFound(f"no member is called {id!r}; members are {', '.join(known)}")
        moved = {**fields(id, peers, clients), "voter": known[id]}
        index = told["configuration_index"]
        await client.set_configuration([moved], seconds, expected_index=index)

    return change


@member.command("list")
@cluster_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def list_(
    endpoints: Sequence[str],
    config: Path | None,
    timeout_seconds: float,
    allow_plaintext: bool,
    as_json: bool,
) -> int:
    """List the members as the leader knows them."""
    cluster = Cluster.chosen(endpoints, config, timeout_seconds, allow_plaintext)

    async def work(client: RaftClient) -> int:
        leader, address = await client.leader()
        told = await client.status(address or None)
        keys = ("configuration_index", "joint", "target", "members")
        shown = {"leader": leader, **{key: told.get(key) for key in keys}}
        if as_json:
            click.echo(to_json(shown, indent=2))
        else:
            console = Console(width=None if Console().is_terminal else 200, highlight=False)
            console.print(table(shown))
        return 0

    return run(cluster, work)


def table(told: dict[str, Any]) -> Table:
    """Return the members as a table."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("member", "role", "connected", "peers", "clients"):
        shown.add_column(heading, no_wrap=True)
    for row in told["members"] or ():
        role = f"{row['role']}, leads" if row["id"] == told["leader"] else row["role"]
        connected = "yes" if row["connected"] else "no"
        # Text, not str: rich would take a "[::1]" for markup.
        cells = (row["id"], role, connected, row["peer_address"], row["client_address"])
        shown.add_row(*map(Text, cells))
    return shown


@click.command()
@click.option(
    "-c",
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The new node's file, without [[members]].",
)
@click.option(
    "--to", "endpoints", multiple=True, required=True, help="A member's address for clients."
)
@click.option("--learner", is_flag=True, help="Never let it vote.")
@click.option("--replace", "old", metavar="ID", help="Remove this member in the same step.")
@click.option("--allow-plaintext", is_flag=True, help="Talk to other machines without encryption.")
@_wait
def join(
    config: Path,
    endpoints: Sequence[str],
    learner: bool,
    old: str | None,
    allow_plaintext: bool,
    wait_seconds: float,
) -> int:
    """Let the node of CONFIG join a running cluster, through any of its members.

    Start it first, with `twistd raft --config CONFIG`: it waits to be added. Its id and
    addresses come from its file; no other file is edited anywhere.
    """
    if learner and old:
        raise click.UsageError("--learner and --replace exclude each other")
    node = read_config(config)
    newcomer = newcomer_of(node)
    allow_plaintext = allow_plaintext or node.listen.allow_plaintext
    cluster = Cluster.chosen(endpoints, None, 3.0, allow_plaintext)

    async def change(client: RaftClient, seconds: float) -> None:
        if learner:
            await client.add_learner(newcomer, seconds)
        elif old:
            await client.replace(old, newcomer, seconds)
        else:
            await client.add(newcomer, seconds)

    role = "a learner" if learner else "a voter"
    told = f"{node.node.id} is {role} of the cluster."
    return changed(cluster, change, wait_seconds, told)


def newcomer_of(node: NodeConfig) -> dict[str, object]:
    """Return what a node's file says of it as a member.

    Raises:
        BadConfiguration: with those members the node would found a cluster of its own.
    """
    if node.members:
        raise BadConfiguration(
            f"{node.path}: [[members]]: a node that joins has none, or it would found a cluster "
            "with them; remove them, and start the node with an empty data directory"
        )
    return fields(node.node.id, node.advertise.peers, node.advertise.clients)
