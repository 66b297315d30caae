"""Commands whose exit code is a verdict: wrong input needs another one than 1 or 2."""

from __future__ import annotations

import click

BAD_INPUT = 3


class BadInput(click.ClickException):
    """What was given to judge, or the command line, is wrong."""

    exit_code = BAD_INPUT


class _BadCommandLine(click.UsageError):
    """An option is wrong: 2, with which others end then, is a verdict here."""

    exit_code = BAD_INPUT


class JudgingCommand(click.Command):
    """A command whose wrong options end with an exit code of their own."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the options."""
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            raise _BadCommandLine(error.format_message(), error.ctx) from None
