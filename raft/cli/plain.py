"""raft write and raft read: any machine's commands and queries from the command line, as JSON."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from raft.cli.kv import Context
from raft.cli.running import Cluster, cluster_options
from raft.client import RaftClient
from raft.interfaces import CONSISTENCIES

LIMIT_BYTES = 64 << 20
"""How much of standard input is read: more than any node takes."""


@click.command()
@click.argument("command")
@cluster_options
def write(
    endpoints: Sequence[str],
    config: Path | None,
    timeout_seconds: float,
    allow_plaintext: bool,
    command: str,
) -> int:
    """Let the machine apply COMMAND, any JSON, and print its result as JSON.

    A COMMAND of - is read from standard input. What a machine understands is told by its own
    documentation: ["set", "a", 1] is for the key-value store, ["execute", "DELETE FROM t"] for the
    SQLite database. A refusal is one line on standard error, and the exit code 1.
    """
    cluster = Cluster.chosen(endpoints, config, timeout_seconds, allow_plaintext)
    context = Context(cluster, as_json=True)
    value = context.value(_text(command), "COMMAND")

    async def work(client: RaftClient) -> int:
        click.echo(context.text(await client.write(value)))
        return 0

    return context.run(work)


@click.command()
@click.argument("query")
@click.option(
    "--consistency",
    type=click.Choice(CONSISTENCIES),
    help="How current the state must be; linearizable unless said otherwise.",
)
@click.option("--max-age", type=float, metavar="SECONDS", help="How old, for bounded.")
@cluster_options
def read(
    endpoints: Sequence[str],
    config: Path | None,
    timeout_seconds: float,
    allow_plaintext: bool,
    query: str,
    consistency: str | None,
    max_age: float | None,
) -> int:
    """Ask the machine QUERY, any JSON, and print its answer as JSON.

    A QUERY of - is read from standard input. Nothing is changed.
    """
    cluster = Cluster.chosen(endpoints, config, timeout_seconds, allow_plaintext)
    context = Context(cluster, as_json=True)
    value = context.value(_text(query), "QUERY")

    async def work(client: RaftClient) -> int:
        answer = await client.read(value, consistency=consistency or "", max_age=max_age)
        click.echo(context.text(answer))
        return 0

    return context.run(work)


def _text(argument: str) -> str:
    """Return the argument, or what standard input holds in its place."""
    if argument != "-":
        return argument
    content = sys.stdin.buffer.read(LIMIT_BYTES + 1)
    if len(content) > LIMIT_BYTES:
        raise click.UsageError(f"standard input holds more than {LIMIT_BYTES} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise click.UsageError(f"standard input: byte {error.start} is not UTF-8") from error
