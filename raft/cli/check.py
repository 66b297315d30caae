"""raft check: is a history of operations linearizable?"""

from __future__ import annotations

import gc
import json
import math
import os
import re
import sys
import time
from collections.abc import Hashable
from pathlib import Path
from typing import Any, Final

import click

from raft.cli.judging import BadInput, JudgingCommand
from raft.testing.checker.drawing import svg
from raft.testing.history import Operation
from raft.testing.history_file import BadHistory, read_history
from raft.testing.linearizability import MODELS, Model, Report, Verdict, check

LINEARIZABLE, NOT_LINEARIZABLE, UNKNOWN = 0, 1, 2
CODES: Final = {
    Verdict.OK: LINEARIZABLE,
    Verdict.ILLEGAL: NOT_LINEARIZABLE,
    Verdict.UNKNOWN: UNKNOWN,
}
BUDGET: Final = "60s"
_NO_STEPS = sys.maxsize


class _Undecided(click.ClickException):
    """There was not enough of something other than time."""

    exit_code = UNKNOWN


class _Budget(click.ParamType[tuple[int, float]]):
    """`30s` is a time, `5000000` a number of steps."""

    name = "budget"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, float]:
        """Return (steps, seconds), either of them without a bound."""
        if isinstance(value, tuple):
            return value
        text = str(value).strip()
        if re.fullmatch(r"[0-9]{1,18}", text):
            return int(text), math.inf
        found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?(s|m)", text)
        if found is None:
            self.fail(f"{value!r} is no budget: write a time, as 30s or 5m, or steps, as 5000000")
        return _NO_STEPS, float(found[1]) * (60 if found[2] == "m" else 1)


@click.command("check", cls=JudgingCommand)
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "--model",
    "model_name",
    type=click.Choice(list(MODELS)),
    default="kv",
    show_default=True,
    help="What each key is.",
)
@click.option(
    "--budget",
    type=_Budget(),
    default=BUDGET,
    show_default=True,
    metavar="TIME|STEPS",
    help="How long to search: a time (30s, 5m), or a number of steps of a few microseconds.",
)
@click.option(
    "--svg",
    "picture",
    type=click.Path(path_type=Path),
    help="Draw what is impossible as a timeline into this file.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as one line of JSON.")
def check_(
    file: Path, model_name: str, budget: tuple[int, float], picture: Path | None, as_json: bool
) -> int:
    """Judge whether the history in FILE is linearizable.

    That is: whether one copy of the state, doing one operation at a time, each at some moment
    between its call and its return, could have given all these results. Keys are judged for
    themselves. FILE is - for standard input.

    \b
    FILE has one operation a line, as a JSON object:
      client    who: a text or whole number, with one operation open at a time
      op        kv: put, get, delete, cas, append; register: read, write, cas;
                lock: acquire, release; queue: enqueue, dequeue
      key       of what; only kv must have one
      value     what is written
      expected  what a cas compares with
      output    the result: of get and dequeue the value, or null where there is
                none; of append the length; of cas, delete and a lock true or false
      ok        true (or left out): it returned; false: it was definitely not done;
                null: nobody knows
      call      when it began, in nanoseconds
      return    when it ended, of the same clock; null: the outcome is unknown, it
                may take effect at any time after its call, or never

    \b
    Exit codes:
      0  linearizable
      1  not linearizable: the few operations that show it are printed
      2  unknown: the budget was spent before there was an answer
      3  the file or the command line is wrong: what would be right is printed
    """  # noqa: D301 - a backspace character tells click to keep the lines of a paragraph
    model = MODELS[model_name]
    began = time.monotonic()
    # What is read lives until the end, and holds no cycles: looking for some takes long.
    gc.disable()
    try:
        operations = _read(file, model)
        report = check(operations, model, budget[0], budget[1])
    except MemoryError:
        raise _Undecided("unknown: there is not enough memory") from None
    finally:
        gc.enable()
    seconds = time.monotonic() - began
    _print(_as_json(report, seconds) if as_json else _as_text(report, seconds))
    if picture is not None and report.verdict is Verdict.ILLEGAL:
        _draw(picture, report, model)
    return CODES[report.verdict]


def _print(text: str) -> None:
    """Print what there is to say; where that is impossible, the exit code still says it."""
    encoding = sys.stdout.encoding or "ascii"
    try:
        click.echo(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the output, such as `head`, has seen enough; what is still buffered would
        # raise once more when the interpreter flushes it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        click.echo(f"raft: the verdict cannot be printed: {error.strerror or error}", err=True)


def _read(file: Path, model: Model) -> list[Operation]:
    ops = model.steps.keys()
    try:
        if str(file) == "-":
            return read_history(sys.stdin.buffer, "standard input", ops)
        with file.open("rb") as opened:
            return read_history(opened, str(file), ops)
    except BadHistory as error:
        raise BadInput(str(error)) from None
    except OSError as error:
        raise BadInput(f"{file} cannot be read: {error.strerror or error}") from None


def _as_text(report: Report, seconds: float) -> str:
    keys = "1 key" if report.key_count == 1 else f"{report.key_count} keys"
    about = f"{report.operation_count} operations on {keys}, {report.steps} steps, {seconds:.1f} s"
    if report.verdict is Verdict.OK:
        return f"linearizable: {about}"
    if report.verdict is Verdict.ILLEGAL:
        return f"not linearizable: {about}\n{report.text}"
    return (
        f"unknown: {about}\n{report.text}\n"
        "a larger --budget may tell; nothing here says that it is linearizable"
    )


def _as_json(report: Report, seconds: float) -> str:
    verdicts = {
        Verdict.OK: "linearizable",
        Verdict.ILLEGAL: "not linearizable",
        Verdict.UNKNOWN: "unknown",
    }
    return json.dumps(
        {
            "verdict": verdicts[report.verdict],
            "operations": report.operation_count,
            "keys": report.key_count,
            "steps": report.steps,
            "seconds": round(seconds, 3),
            "key": _plain_key(report.key),
            "piece": [json.loads(each.to_json()) for each in report.piece],
            "undecided": [_plain_key(each) for each in report.undecided],
        }
    )


def _plain_key(key: Hashable) -> object:
    return {"$bytes": key.hex()} if isinstance(key, bytes) else key


def _draw(picture: Path, report: Report, model: Model) -> None:
    """Write the picture; where that fails, the verdict stands all the same."""
    try:
        picture.write_text(svg(report.key, report.piece, model.name), encoding="utf-8")
    except OSError as error:
        click.echo(f"raft: {picture} cannot be written: {error.strerror or error}", err=True)
