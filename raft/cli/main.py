"""The `raft` command itself: the list of subcommands, and how errors reach the user.

Exit codes: 0 done, 1 the operation failed, 2 the command line is wrong, 130 interrupted. An
error is one line on standard error that begins with `raft:`.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence

import click

from raft.errors import InvariantViolated, RaftError

DONE, FAILED, INTERRUPTED = 0, 1, 130

COMMANDS: Mapping[str, tuple[str, str]] = {
    "init": ("raft.cli.init:init", "Write the configuration files of a new cluster."),
    "status": ("raft.cli.status:status", "Show who leads, and how far each node has come."),
    "member": ("raft.cli.member:member", "Show who belongs to the cluster, and change it."),
    "join": ("raft.cli.member:join", "Let a new node join a running cluster."),
    "backup": ("raft.cli.backup:backup", "Save the state of a running cluster to a file."),
    "restore": ("raft.cli.backup:restore", "Bring a backup back into a running cluster."),
    "recover": ("raft.cli.recover:recover", "Go on with what is left after a lost majority."),
    "skip": ("raft.cli.skip:skip", "Go past a command at which every server stops."),
    "kv": ("raft.cli.kv:kv", "Read and write the built-in key-value store."),
    "write": ("raft.cli.plain:write", "Let any machine apply a command, given as JSON."),
    "read": ("raft.cli.plain:read", "Ask any machine a query, given as JSON."),
    "demo": ("raft.cli.demo:demo", "Run a cluster in this terminal and lose a leader."),
    "check": ("raft.cli.check:check_", "Judge whether a history is linearizable."),
    "chaos": ("raft.cli.chaos:chaos", "Let everything go wrong with a cluster of its own."),
    "bench": ("raft.cli.bench:bench", "Measure a cluster's writes and reads."),
}
"""Each subcommand: where it is, and its line in `raft --help`.

The line stands here so that help imports none of them: some import Twisted, which takes longer
than everything else together.
"""


class LazyGroup(click.Group):
    """A group that imports a subcommand when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the subcommands in the order in which a newcomer needs them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the subcommand, or return None where there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), name)
        if not isinstance(command, click.Command):
            raise InvariantViolated(f"{module}:{name} is no command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of subcommands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(
    # Reading the distribution's metadata takes a while, so only --version does it.
    None,
    package_name="txraft",
    prog_name="raft",
)
def raft() -> None:
    """A replicated state machine: write files, look at a cluster, use it.

    A node itself is run by `twistd raft --config node.toml`.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `arguments` (by default the process's) and return its exit code."""
    try:
        code = raft.main(args=arguments, prog_name="raft", standalone_mode=False)
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "raft"
        return _told(f"{error.format_message()} (see {where} --help)", error.exit_code)
    except click.ClickException as error:
        return _told(error.format_message(), error.exit_code)
    except BrokenPipeError:
        # Whoever read the output, such as `head`, has seen enough; what is still buffered would
        # raise once more when the interpreter flushes it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (RaftError, OSError) as error:
        return _told(str(error), FAILED)
    except (click.Abort, KeyboardInterrupt):
        return _told("interrupted", INTERRUPTED)
    return code if isinstance(code, int) else DONE


def _told(message: str, code: int) -> int:
    click.echo(f"raft: {' '.join(message.split())}", err=True)
    return code
