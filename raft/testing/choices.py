"""What chance decided in one run, written down: a run that can be told again without chance.

A simulator asks a *stream* for each decision, with a draw and with what is *calm*:

    fates = choices.stream(f"{sender}>{receiver}")
    fate = fates.choose(lambda rng: ["lost"] if rng.random() < 0.1 else None, calm=None)

Drawn from a seed, each stream has chance of its own, so that one which is asked more often leaves
the others as they are. Decisions that differ from the calm one are recorded under their stream
and their number in it. Replayed from such a list, nothing is drawn: what stands in the list comes
back, and all else is calm. So a list still says something once the code has changed, and any part
of a list is a run as well, which is what shrinking needs (`raft.testing.shrinking`):

    smaller = ddmin(choices.made(), lambda part: fails(Choices.replaying(part)), budget)

What makes a good stream: one for each link, client or disk, and one for each kind of decision;
values of a whole decision ("crash", "n1", 0.3), not single dice; calm is what a quiet world does:
a message arrives at the usual time, no fault strikes, a client asks nothing.

`write_lines` and `read_lines` keep any list of JSON values in a file, behind a line that names
what it is.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from attrs import Factory, define, field, frozen

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
"""A decision: anything that JSON holds, lists and not tuples."""

T = TypeVar("T", bound=Json)

LONGEST_FILE_BYTES = 64 << 20


class BadChoices(Exception):
    """A file of choices cannot be used; the message names the file, the line and the remedy."""


@frozen
class Choice:
    """One decision that was not the calm one."""

    stream: str
    number: int
    """Its place among the decisions of its stream, from 0."""
    value: Json


@define(eq=False)
class Choices:
    """The decisions of one run: `drawing` from a seed, or `replaying` a list."""

    seed: str | None
    """None where nothing is drawn."""
    _given: dict[tuple[str, int], Json] = Factory(dict)
    _made: list[Choice] = Factory(list)
    _streams: dict[str, Stream] = Factory(dict)

    @classmethod
    def drawing(cls, seed: object) -> Choices:
        """Decide by chance; the same seed decides alike."""
        return cls(str(seed))

    @classmethod
    def replaying(cls, choices: Iterable[Choice]) -> Choices:
        """Decide as `choices` say, and calmly where they say nothing."""
        return cls(None, {(each.stream, each.number): each.value for each in choices})

    def stream(self, name: str) -> Stream:
        """Return the stream of that name: the same object whenever it is asked for."""
        found = self._streams.get(name)
        if found is None:
            found = self._streams[name] = Stream(name, self.seed, self._given, self._made)
        return found

    def made(self) -> list[Choice]:
        """Return the decisions so far that were not calm, in the order in which they were made."""
        return list(self._made)

    def save(self, path: Path, about: dict[str, Json]) -> None:
        """Write the decisions to a file, behind a line that says what world they are of."""
        rows: list[Json] = [[each.stream, each.number, each.value] for each in self._made]
        write_lines(path, "choices", about, rows)

    @classmethod
    def load(cls, path: Path) -> tuple[Choices, dict[str, Json]]:
        """Read what `save` wrote; raise `BadChoices` where that is not what the file holds."""
        about, rows = read_lines(path, "choices")
        choices = []
        for line, row in enumerate(rows, 2):
            match row:
                case [str(stream), int(number), value]:
                    choices.append(Choice(stream, number, value))
                case _:
                    raise BadChoices(f"{path}, line {line}: not [stream, number, value]: {row!r}")
        return cls.replaying(choices), about


@define(eq=False)
class Stream:
    """Decisions of one kind, in order."""

    name: str
    seed: str | None
    _given: dict[tuple[str, int], Json]
    _made: list[Choice]
    _count: int = 0
    _rng: random.Random = field(init=False)

    def __attrs_post_init__(self) -> None:
        """Give a stream that draws its own chance."""
        self._rng = random.Random(f"{self.seed}/{self.name}")

    def choose(self, draw: Callable[[random.Random], T], calm: T) -> T:
        """Decide once: by `draw`, or as the list says, or calmly."""
        number = self._count
        self._count += 1
        value: Json = calm
        if self.seed is None:
            value = self._given.get((self.name, number), calm)
        else:
            value = draw(self._rng)
        if value != calm:
            self._made.append(Choice(self.name, number, value))
        return value  # type: ignore[return-value]


def write_lines(path: Path, kind: str, about: dict[str, Json], rows: Iterable[Json]) -> None:
    """Write JSON values to a file, one a line, behind a line that says what they are."""
    first = {"raft": kind, "version": 1, **about}
    lines = [json.dumps(each, sort_keys=True) for each in (first, *rows)]
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")


def read_lines(path: Path, kind: str) -> tuple[dict[str, Json], list[Json]]:
    """Return what `write_lines` wrote: what the first line says, and the rows.

    Raises:
        BadChoices: The file cannot be read, is too long, or is of another kind or version.
    """
    try:
        if path.stat().st_size > LONGEST_FILE_BYTES:
            raise BadChoices(f"{path} is longer than {LONGEST_FILE_BYTES} bytes")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadChoices(f"{path} cannot be read: {error}") from None
    values: list[Json] = []
    for line, written in enumerate(text.splitlines(), 1):
        try:
            values.append(json.loads(written))
        except (ValueError, RecursionError) as error:
            raise BadChoices(f"{path}, line {line}: not JSON: {error}") from None
    first = values[0] if values else None
    if not isinstance(first, dict) or (first.get("raft"), first.get("version")) != (kind, 1):
        raise BadChoices(f"{path}, line 1: not a file of {kind}, version 1; write one with --save")
    return {name: each for name, each in first.items() if name not in ("raft", "version")}, values[
        1:
    ]
