"""raft init: write the configuration files of a new cluster, each line explained."""

from __future__ import annotations

import ipaddress
import os
import shlex
import string
from collections.abc import Sequence
from pathlib import Path

import click
from attrs import evolve, frozen

PORT_END = 65536
CLIENTS_ABOVE_PEERS = 1000
HTTP_ABOVE_PEERS = 2000
NODES_END = 100

HEAD = string.Template("""\
# Node $id of the cluster "$cluster". Start it with:
#
#     $start
#
# What begins with "# " and looks like a setting is a default: remove the "# " to change it.
# The project's docs/reference/configuration.md says more of each line.

[node]
# This node's name, and of this node alone.
id = "$id"
# The cluster's name; the same in the files of all its nodes.
cluster = "$cluster"
# Where the log and the snapshots live; relative to this file. Never shared by two nodes.
data_directory = "$id-data"
# What is replicated: "kv", "sqlite", "echo", "stack", or a class of your own as
# "package.module:ClassName".
machine = "$machine"
# Whether this node passes writes on to the leader when it does not lead itself.
# forward = false
# Whether a log that is found damaged at the start is repaired by the other nodes.
# repair = false

[listen]
# Endpoints that this node opens: for the other nodes, for clients, for a web page with metrics.
peers = "$listen_peers"
clients = "$listen_clients"
http = "$listen_http"
# Without encryption, anyone on the way can read and change what is sent. It is refused on
# anything but this machine itself unless you allow it, for a network that you trust.
${plaintext}allow_plaintext = ${allowed}

${advertised}[advertise]
# Where others reach this node; what [[members]] says of it, unless it is said here.
${advertised}peers = "$peers"
${advertised}clients = "$clients"

[timings]
# All in seconds. The leader shows this often that it is there.
# heartbeat = 0.06
# Without a sign of it for this long, and at most twice as long, a new one is elected.
# election_timeout = 0.3
# A request that has no answer by then fails.
# request_timeout = 3.0
# How many times faster one node's clock may run than another's; 0 for no reads by lease.
# clock_drift = 0

[limits]
# The largest command, and all that waits to be committed, in bytes.
# command_bytes = 4_194_304
# uncommitted_bytes = 67_108_864
# A snapshot is taken when the log is so many times as large as the last one, and no smaller than
# that; or after so many entries. 0 turns either off.
# snapshot_factor = 4
# snapshot_floor_bytes = 67_108_864
# snapshot_entries = 1_000_000
# Snapshots for other nodes leave at no more than so many bytes a second; 0 for no limit.
# snapshot_bytes_per_second = 0
# So much of the log stays behind a snapshot for followers that lack it.
# trailing_bytes = 268_435_456
# Sessions make a command of a client that sends it again take effect once: how many there are,
# for how many seconds one lives unused, and how many results, and bytes of them, each keeps.
# sessions = 10_000
# session_timeout = 3600
# session_results = 4096
# session_result_bytes = 1_048_576
# The log is kept in files of about this size.
# segment_bytes = 16_777_216

""")

FOUNDERS = """\
# The first members of the cluster: the same lines, in every node's file. They found the cluster
# and count for nothing afterwards; later changes go through the cluster itself. Take them out once
# the cluster is founded: with an empty data directory they would found it again.
"""

JOINS = """\
# No [[members]]: this node waits until a running cluster takes it in. See `raft join --help`.
"""

MEMBER = string.Template("""\

[[members]]
id = "$id"
peers = "$peers"
clients = "$clients"
""")


@frozen
class Place:
    """Where one node of the new cluster is to be."""

    id: str
    host: str
    port: int

    @property
    def peers(self) -> str:
        """The address that the other nodes dial."""
        return self._address(self.port)

    @property
    def clients(self) -> str:
        """The address that clients dial."""
        return self._address(self.port + CLIENTS_ABOVE_PEERS)

    def listen(self, above: int) -> str:
        """Return the endpoint to open, `above` the port for peers."""
        if is_loopback(self.host):
            host = "127.0.0.1" if self.host == "localhost" else self.host
            return f"tcp:{self.port + above}:interface={_quoted(host)}"
        return f"tcp:{self.port + above}"

    def _address(self, port: int) -> str:
        return f"tcp:{_quoted(self.host)}:{port}"


def is_loopback(host: str) -> bool:
    """Tell whether `host` is this machine and nothing else."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def places(nodes: int, base_port: int, hosts: Sequence[str]) -> list[Place]:
    """Spread nodes 1 to `nodes` over `hosts`: all on the one host, or one on each.

    Raises:
        click.UsageError: The hosts are neither one nor as many as the nodes, or a port would
            not be in [1, 65536).
    """
    if len(hosts) not in (1, nodes):
        raise click.UsageError(
            f"--host is given {len(hosts)} times for {nodes} nodes; give it once, or once for each"
        )
    shared = len(hosts) == 1
    highest = base_port + HTTP_ABOVE_PEERS + (nodes if shared else 1)
    if highest >= PORT_END:
        raise click.UsageError(
            f"--base-port {base_port} would need port {highest}; the highest is {PORT_END - 1}"
        )
    return [
        Place(
            id=f"node{number}",
            host=hosts[0] if shared else hosts[number - 1],
            port=base_port + (number if shared else 1),
        )
        for number in range(1, nodes + 1)
    ]


def newcomer(number: int, base_port: int, hosts: Sequence[str]) -> Place:
    """Return where node `number` is to be: beside the others on this machine, or on its own host.

    Raises:
        click.UsageError: there is more than one host, or a port would not be in [1, 65536).
    """
    if len(hosts) != 1:
        raise click.UsageError("--join writes one node's file; give --host once")
    if not is_loopback(hosts[0]):
        (place,) = places(1, base_port, hosts)
        return evolve(place, id=f"node{number}")
    return places(number, base_port, hosts)[-1]


def content(place: Place, everyone: Sequence[Place], cluster: str, machine: str, start: str) -> str:
    """Return the text of one node's file; `everyone` are the first members, or none of them."""
    beyond = any(not is_loopback(other.host) for other in (place, *everyone))
    head = HEAD.substitute(
        id=place.id,
        cluster=cluster,
        machine=machine,
        start=start,
        listen_peers=_toml(place.listen(0)),
        listen_clients=_toml(place.listen(CLIENTS_ABOVE_PEERS)),
        # The web page shows the cluster to whoever reaches it, so it stays on the machine.
        listen_http=f"tcp:{place.port + HTTP_ABOVE_PEERS}:interface=127.0.0.1",
        peers=_toml(place.peers),
        clients=_toml(place.clients),
        # Where no member is listed, nothing else tells where this one is.
        advertised="# " if everyone else "",
        plaintext="" if beyond else "# ",
        allowed="true" if beyond else "false",
    )
    members = [
        MEMBER.substitute(id=each.id, peers=_toml(each.peers), clients=_toml(each.clients))
        for each in everyone
    ]
    return "".join([head, FOUNDERS if members else JOINS, *members])


@click.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--nodes",
    type=click.IntRange(1, NODES_END - 1),
    default=3,
    show_default=True,
    help="How many nodes; an odd number.",
)
@click.option(
    "--base-port",
    type=click.IntRange(0, PORT_END - 1),
    default=7000,
    show_default=True,
    help="Peers from the port above it, clients 1000 and the web page 2000 higher.",
)
@click.option(
    "--host",
    "hosts",
    multiple=True,
    default=["127.0.0.1"],
    show_default=True,
    help="The nodes' host: one for all, or given once for each node.",
)
@click.option(
    "--join",
    "joining",
    type=click.IntRange(1, NODES_END - 1),
    metavar="N",
    help="Write the file of node N alone, to join a cluster that runs.",
)
@click.option("--cluster", default="demo", show_default=True, help="The cluster's name.")
@click.option("--machine", default="kv", show_default=True, help="What is replicated.")
@click.option(
    "--allow-plaintext", is_flag=True, help="Let nodes on other hosts talk without encryption."
)
def init(
    directory: Path,
    nodes: int,
    base_port: int,
    hosts: Sequence[str],
    joining: int | None,
    cluster: str,
    machine: str,
    allow_plaintext: bool,
) -> None:
    """Write the configuration files of a new cluster into DIRECTORY.

    Nothing that is there is overwritten. The commands that start the nodes are printed.

    With --join, one file is written instead, which founds nothing: start the node, then let it
    join with `raft join`. A --host is then this node's alone.
    """
    # Here for its checks alone; it brings parts of Twisted, which `raft --help` can do without.
    from raft.config import parse_config

    beyond = [host for host in hosts if not is_loopback(host)]
    if beyond and not allow_plaintext:
        raise click.UsageError(
            f"nodes at {beyond[0]} would talk without encryption; give --allow-plaintext on a "
            "network that you trust"
        )
    founders = places(nodes, base_port, hosts) if joining is None else []
    everyone = founders if joining is None else [newcomer(joining, base_port, hosts)]
    paths = [directory / f"{place.id}.toml" for place in everyone]
    for path in paths:
        if os.path.lexists(path):
            raise click.ClickException(f"{path} is there already; choose another directory")
    starts = [f"twistd -n --pidfile= raft --config {shlex.quote(str(path))}" for path in paths]
    texts = [
        content(place, founders, cluster, machine, start)
        for place, start in zip(everyone, starts, strict=True)
    ]
    for path, text in zip(paths, texts, strict=True):
        parse_config(text, path)
    directory.mkdir(parents=True, exist_ok=True)
    for path, text in zip(paths, texts, strict=True):
        write_file(path, text)
    _explain(directory, starts)
    if joining is not None:
        join = f"raft join --config {shlex.quote(str(paths[0]))} --to ADDRESS"
        click.echo(f"\nThen let it join, through any member's address for clients:\n\n    {join}")


def write_file(path: Path, text: str) -> None:
    """Write a new file that others may read and none but its owner may change."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(descriptor, 0o644)
        file.write(text)


def _explain(directory: Path, starts: Sequence[str]) -> None:
    count = "one file" if len(starts) == 1 else f"{len(starts)} files"
    how = "Start the node" if len(starts) == 1 else "Start each node in a terminal of its own"
    click.echo(f"Wrote {count} into {directory}. {how}:\n")
    for start in starts:
        click.echo(f"    {start}")


def _quoted(host: str) -> str:
    """Keep a colon (of an IPv6 address) from ending the endpoint string's argument."""
    return host.replace(":", r"\:")


def _toml(text: str) -> str:
    """Return what stands between the quotes of a TOML string."""
    return text.replace("\\", "\\\\").replace('"', '\\"')
