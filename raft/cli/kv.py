"""raft kv: the built-in key-value store from the command line."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import click
from attrs import evolve

from raft.cli.running import Cluster, Work, cluster_options, reason, run
from raft.cli.values import to_json
from raft.client import RaftClient
from raft.errors import Timeout
from raft.interfaces import CONSISTENCIES

NOT_THERE = 1
PAGE = 1000

Operation = Callable[[RaftClient], Awaitable[Any]]


class Context:
    """What the options of one command say: which cluster, and how values are written."""

    def __init__(self, cluster: Cluster, as_json: bool) -> None:
        """Keep both."""
        self.cluster = cluster
        self.as_json = as_json

    def value(self, text: str, name: str) -> Any:
        """Read a value of the command line.

        Raises:
            click.BadParameter: it should be JSON, and is not.
        """
        if not self.as_json:
            return text
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            shown = text if len(text) <= 80 else f"{text[:77]}..."
            raise click.BadParameter(
                f"{shown!r} is no JSON ({error}); a text needs quotes: '\"text\"'", param_hint=name
            ) from error

    def text(self, value: Any) -> str:
        """Write a value: text as it is unless JSON is asked for, everything else as JSON."""
        if isinstance(value, str) and not self.as_json:
            return value
        if isinstance(value, bytes) and not self.as_json:
            return value.decode("utf-8", "backslashreplace")
        return to_json(value)

    def run(self, work: Work) -> int:
        """Run `work`; a time-out says what it means for the caller."""
        try:
            return run(self.cluster, work)
        except Timeout as error:
            if error.appended:
                hint = "it may be applied, or be applied later: read before you write again"
                raise click.ClickException(f"no answer in time; {hint}") from error
            raise click.ClickException(f"no answer in time: {reason(error)}") from error


def _command(function: Callable[..., int]) -> click.Command:
    """Make a subcommand whose first argument is the `Context`."""

    def called(
        endpoints: Sequence[str],
        config: Path | None,
        timeout_seconds: float,
        allow_plaintext: bool,
        as_json: bool,
        **arguments: Any,
    ) -> int:
        cluster = Cluster.chosen(endpoints, config, timeout_seconds, allow_plaintext)
        return function(Context(cluster, as_json), **arguments)

    called.__doc__ = function.__doc__
    called.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]
    with_json = click.option(
        "--json", "as_json", is_flag=True, help="Values are JSON, in and out."
    )(called)
    return click.command(function.__name__.rstrip("_"))(cluster_options(with_json))


@click.group()
def kv() -> None:
    """Read and write the built-in key-value store.

    Values are text, or any JSON with --json. Reads see every write that had ended before.
    """


@click.argument("key")
@click.option(
    "--consistency",
    type=click.Choice(CONSISTENCIES),
    help="How current the state must be; linearizable unless said otherwise.",
)
@click.option("--max-age", type=float, metavar="SECONDS", help="How old, for bounded.")
def get(context: Context, key: str, consistency: str | None, max_age: float | None) -> int:
    """Print the value under KEY; exit with 1 where there is none."""

    async def work(client: RaftClient) -> int:
        value = await client.read(["get", key], consistency=consistency or "", max_age=max_age)
        if value is None:
            click.echo(f"raft: there is no key {key!r}", err=True)
            return NOT_THERE
        click.echo(context.text(value))
        return 0

    if consistency and consistency != "lease":
        # Any node may answer that, the very one that the user names.
        context.cluster = evolve(context.cluster, spread_reads=True)
    return context.run(work)


@click.argument("key")
@click.argument("value")
def set_(context: Context, key: str, value: str) -> int:
    """Store VALUE under KEY."""
    stored = context.value(value, "VALUE")

    async def work(client: RaftClient) -> int:
        await client.write(["set", key, stored])
        return 0

    return context.run(work)


@click.argument("key")
def delete(context: Context, key: str) -> int:
    """Remove KEY; exit with 1 where it was not there."""

    async def work(client: RaftClient) -> int:
        if await client.write(["delete", key]):
            return 0
        click.echo(f"raft: there is no key {key!r}", err=True)
        return NOT_THERE

    return context.run(work)


@click.argument("key")
@click.argument("values", nargs=-1, required=True, metavar="[EXPECTED] NEW")
@click.option("--absent", is_flag=True, help="Expect no value; give only NEW.")
def cas(context: Context, key: str, values: tuple[str, ...], absent: bool) -> int:
    """Store NEW under KEY if the value is EXPECTED; exit with 1 where it is another."""
    if len(values) != (1 if absent else 2):
        raise click.UsageError("give KEY EXPECTED NEW, or --absent KEY NEW")
    new = context.value(values[-1], "NEW")
    expected = None if absent else context.value(values[0], "EXPECTED")

    async def work(client: RaftClient) -> int:
        if await client.write(["cas", key, expected, new]):
            return 0
        click.echo(f"raft: {key!r} holds another value; nothing was changed", err=True)
        return NOT_THERE

    return context.run(work)


@click.argument("prefix", default="")
@click.option("--limit", type=click.IntRange(min=1), help="Print at most so many keys.")
@click.option("--after", help="Begin behind this key.")
def scan(context: Context, prefix: str, limit: int | None, after: str | None) -> int:
    """Print the keys that begin with PREFIX, in order, each with its value.

    Long lists are read in pages: each page is of one moment, the whole is not.
    """

    async def work(client: RaftClient) -> int:
        left, last = limit, after
        while left is None or left > 0:
            page = PAGE if left is None else min(left, PAGE)
            query = ["scan", prefix, page] if last is None else ["scan", prefix, page, last]
            pairs: Any = await client.read(query)
            if not pairs:
                break
            for key, value in pairs:
                click.echo(_line(context, key, value))
            last = pairs[-1][0]
            left = None if left is None else left - len(pairs)
        return 0

    return context.run(work)


def _line(context: Context, key: Any, value: Any) -> str:
    if context.as_json:
        return context.text([key, value])
    return f"{context.text(key)}\t{context.text(value)}"


def count(context: Context) -> int:
    """Print how many keys there are."""

    async def work(client: RaftClient) -> int:
        click.echo(context.text(await client.read(["count"])))
        return 0

    return context.run(work)


for _each in (get, set_, delete, cas, scan, count):
    kv.add_command(_command(_each))
