"""What the commands that talk to a cluster share: their options, and a run of the reactor."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from attrs import frozen

from raft.client import RaftClient
from raft.config import read_config
from raft.errors import RaftError

DEFAULT_ENDPOINTS = ("tcp:127.0.0.1:8001", "tcp:127.0.0.1:8002", "tcp:127.0.0.1:8003")
"""Where the nodes of a plain `raft init` listen for clients."""

ENDPOINTS_VARIABLE = "RAFT_ENDPOINTS"
TIMEOUT_SECONDS = 3.0

Command = TypeVar("Command", bound=Callable[..., Any])
Work = Callable[[RaftClient], Awaitable[int]]


@frozen
class Cluster:
    """Which cluster a command talks to, and how."""

    endpoints: tuple[str, ...]
    timeout_seconds: float = TIMEOUT_SECONDS
    allow_plaintext: bool = False
    spread_reads: bool = False
    """Ask who is named, and not the leader alone: a node that is cut off from it may answer."""

    @classmethod
    def chosen(
        cls,
        endpoints: Sequence[str],
        config: Path | None,
        timeout_seconds: float,
        allow_plaintext: bool,
    ) -> Cluster:
        """Take the endpoints given, or those in the file, or those of a plain `raft init`.

        Raises:
            BadConfiguration: the file is wrong; the text says what.
            click.UsageError: the file names no address for clients.
        """
        given = [one for each in endpoints for one in re.split(r"[\s,]+", each) if one]
        if given or config is None:
            return cls(tuple(given) or DEFAULT_ENDPOINTS, timeout_seconds, allow_plaintext)
        node = read_config(config)
        found = [node.advertise.clients, *(member.clients for member in node.members)]
        known = tuple(dict.fromkeys(each for each in found if each))
        if not known:
            raise click.UsageError(f"{config} names no address for clients; give --endpoint")
        return cls(known, timeout_seconds, allow_plaintext or node.listen.allow_plaintext)

    def client(self, reactor: Any = None) -> RaftClient:
        """Return a client of the cluster; close it."""
        return RaftClient(
            self.endpoints,
            reactor=reactor,
            timeout_seconds=self.timeout_seconds,
            connect_timeout_seconds=min(1.0, self.timeout_seconds),
            allow_plaintext=self.allow_plaintext,
            spread_reads=self.spread_reads,
            # One command is one write: opening and ending a session for it would write two
            # entries more, and a loop in a shell would fill the cluster's memory of sessions.
            sessions=False,
        )


config_option = click.option(
    "-c",
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A node's file, to take the addresses from.",
)
plaintext_option = click.option(
    "--allow-plaintext", is_flag=True, help="Talk to other machines without encryption."
)


def endpoint_option(variable: str | None, text: str) -> Callable[[Command], Command]:
    """Return the option that names nodes, which `variable` of the environment stands in for."""
    shown = f" [env: {variable}]" if variable else ""
    return click.option(
        *("-e", "--endpoint", "endpoints"), multiple=True, envvar=variable, help=f"{text}{shown}"
    )


def cluster_options(command: Command) -> Command:
    """Add the options that `Cluster.chosen` takes."""
    for option in reversed(
        (
            endpoint_option(ENDPOINTS_VARIABLE, "A node's address for clients; may be repeated."),
            config_option,
            click.option(
                "-t",
                "--timeout",
                "timeout_seconds",
                type=click.FloatRange(min=0, min_open=True, max=3600),
                default=TIMEOUT_SECONDS,
                show_default=True,
                help="Give up after so many seconds.",
            ),
            plaintext_option,
        )
    ):
        command = option(command)
    return command


def run(cluster: Cluster, work: Work) -> int:
    """Run `work` with a client of `cluster`, in a reactor of its own; return its exit code.

    Raises:
        RaftError: whatever `work` raises.
        click.ClickException: `work` failed at something that nobody foresaw.
        click.Abort: it was interrupted.
    """
    from twisted.internet.task import react

    outcome: list[int | BaseException] = []

    async def main(reactor: Any) -> None:
        try:
            outcome.append(await with_client(cluster, work, reactor))
        except (RaftError, click.ClickException, OSError) as error:
            outcome.append(error)
        except Exception as error:
            outcome.append(click.ClickException(f"unexpected: {type(error).__name__}: {error}"))

    def begun(reactor: Any) -> Any:
        from twisted.internet.defer import Deferred

        return Deferred.fromCoroutine(main(reactor))

    try:
        react(begun, [])
    except SystemExit:
        # How `react` ends; the exit code is the caller's to give.
        pass
    if not outcome:
        raise click.Abort
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def reason(error: BaseException) -> str:
    """Return the innermost known reason of an error, without its class's sentence."""
    while isinstance(error.__cause__, RaftError):
        error = error.__cause__
    return ": ".join(map(str, error.args)) or str(error)


async def with_client(cluster: Cluster, work: Work, reactor: Any = None) -> int:
    """Await `work` with a client of `cluster`, and close it."""
    client = cluster.client(reactor)
    try:
        return await work(client)
    finally:
        await client.close()
