"""A run as a list of acts: what reached which node when, in lines that can be read and edited.

An act is all that the outside did to one node at one moment: a message was heard, a clock
reached its deadline, a write became durable, the power failed, a client asked. What the node then
did of itself follows, and is not written down. A message that nobody hears was lost, one that is
heard late was delayed, one heard twice was doubled, so there is no chance in a list of acts; and
any part of a list is a list, of another and perhaps shorter story.

    4 0.31 n1 rings
    5 0.32 n2 hears n1 4 PreVote
    6 0.33 n1 hears n2 5 PreVoteResult | dice=[0.5]

A line holds the act's number, its moment (seconds), who it befalls, a verb, what the verb needs,
and, behind a bar, what chance decided within. A message is named by its sender, by the number of
the act in which it left, and by its type (and its place, from 0, among those of that type).
Moments may be too early: time never goes back, and whose clock rings is past its deadline.
A server of which `starts` is not the first act runs from the beginning.
"""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
from attrs import Factory, evolve, fields, frozen

from raft.core.server import Options
from raft.storage.records import SessionLimits
from raft.testing.choices import BadChoices, Json
from raft.testing.cores.swarm import Swarm

HEADER = "raft scenario 1"
_PLAIN = re.compile(r"[A-Za-z][\w~@/,=+.-]*")
_CONSTANTS = ("true", "false", "null", "NaN", "Infinity")

VERBS = frozenset(
    """starts crashes loses pauses resumes drifts hears misses turns rings syncs continues
    writes reads pins changes hands-over registers sends repeats keeps-alive closes cancels
    heals""".split()
)


_NEEDED: dict[str, tuple[type, ...]] = {
    "hears": (str, int, str),
    "continues": (int, str, int),
    "misses": (str,),
    "loses": (str,),
    "drifts": (float,),
    "syncs": (int,),
    "writes": (int, int),
    "changes": (str, int | None, bool),  # type: ignore[dict-item]
    "hands-over": (str | None,),  # type: ignore[dict-item]
    "registers": (str,),
    "repeats": (int,),
    "cancels": (int,),
}
"""The first words that a verb needs."""


@frozen
class Act:
    """One act; see the module's text for what its parts mean."""

    number: int
    moment: float
    actor: str
    verb: str
    args: tuple[Json, ...] = ()
    notes: dict[str, Any] = Factory(dict)
    """What chance decided within: dice, a clock's reading, how many writes were kept, ..."""

    def __str__(self) -> str:
        """Return its line."""
        words = [str(self.number), repr(self.moment), self.actor, self.verb]
        words += [_word(each) for each in self.args]
        if self.notes:
            words += ["|", *(f"{name}={_json(each)}" for name, each in self.notes.items())]
        return " ".join(words)

    @classmethod
    def parse(cls, line: str) -> Act:
        """Read a line; raise `ValueError` where it is none."""
        told, _, notes = line.partition(" | ")
        number, moment, actor, verb, *args = told.split()
        if verb not in VERBS:
            raise ValueError(f"{verb!r} is none of {', '.join(sorted(VERBS))}")
        noted = dict(each.split("=", 1) for each in notes.split())
        found = tuple(_value(each) for each in args)
        needed = _NEEDED.get(verb, ())
        if len(found) < len(needed) or not all(map(isinstance, found, needed)):
            raise ValueError(f"{verb!r} needs {', '.join(map(str, needed))}")
        shown = {name: json.loads(each) for name, each in noted.items()}
        return cls(int(number), float(moment), actor, verb, found, shown)


@frozen
class Scenario:
    """A world and what befell it, in acts."""

    world: Swarm
    acts: tuple[Act, ...] = ()

    def __str__(self) -> str:
        """Return it in lines, of which the first tells what they are and the second the world."""
        about = f"world {_json(world_as_json(self.world))}"
        return "\n".join([HEADER, about, *map(str, self.acts), ""])

    @classmethod
    def parse(cls, text: str, name: str = "scenario") -> Scenario:
        """Read what `str` gives; empty lines, and lines that begin with #, say nothing.

        Raises:
            BadChoices: A line cannot be read; the message names it after `name`.
        """
        numbered = [
            (number, line.strip())
            for number, line in enumerate(text.splitlines(), 1)
            if line.strip() and not line.strip().startswith("#")
        ]
        if not numbered or numbered[0][1] != HEADER:
            raise BadChoices(f"{name}: the first line is not {HEADER!r}; write one with --save")
        world, acts = Swarm(seed=0), []
        for number, line in numbered[1:]:
            try:
                if line.startswith("world "):
                    world = world_from_json(json.loads(line.removeprefix("world ")))
                else:
                    acts.append(Act.parse(line))
            except (ValueError, TypeError, RecursionError, msgspec.MsgspecError) as error:
                raise BadChoices(f"{name}, line {number}: {line!r} says nothing: {error}") from None
        return cls(world, tuple(acts))

    def renumbered(self) -> Scenario:
        """Number the acts from 1 on, and name the messages after that."""
        new = {act.number: place for place, act in enumerate(self.acts, 1)}
        acts = [evolve(act, number=new[act.number]) for act in self.acts]
        return evolve(self, acts=tuple(recaused(act, new) for act in acts))


def cause_of(act: Act) -> int | None:
    """Return the number of the act in which what `act` is about began, if it is about such."""
    place = _CAUSES.get(act.verb)
    return int(act.args[place]) if place is not None else None  # type: ignore[arg-type]


def recaused(act: Act, numbers: dict[int, int]) -> Act:
    """Return `act` with the number of the act that it refers to replaced, where `numbers` say."""
    cause, place = cause_of(act), _CAUSES.get(act.verb)
    if cause is None or place is None or cause not in numbers:
        return act
    args = (*act.args[:place], numbers[cause], *act.args[place + 1 :])
    return evolve(act, args=args)


_CAUSES = {"hears": 1, "continues": 0}


def world_as_json(world: Swarm) -> dict[str, Json]:
    """Return what differs from the calm world."""
    return _differences(world, Swarm(seed=-1))


def _differences(value: Any, calm: Any) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for name in _names(value):
        each, usual = getattr(value, name), getattr(calm, name)
        if each == usual:
            continue
        told[name] = _differences(each, usual) if _is_record(each) else each
    return told


def _names(value: Any) -> list[str]:
    if isinstance(value, msgspec.Struct):
        return list(value.__struct_fields__)
    return [attribute.name for attribute in fields(type(value))]


def _is_record(value: Any) -> bool:
    return isinstance(value, Options | SessionLimits)


def world_from_json(about: dict[str, Any]) -> Swarm:
    """Return the world of which `world_as_json` told."""
    told: dict[str, Any] = {
        name: tuple(each) if isinstance(each, list) else each for name, each in about.items()
    }
    if "options" in told:
        told["options"] = Options(**told["options"])
    if "session_limits" in told:
        told["session_limits"] = SessionLimits(**told["session_limits"])
    told.setdefault("seed", 0)
    return Swarm(**told)


def _json(value: Json) -> str:
    return json.dumps(value, separators=(",", ":"))


def _word(value: Json) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value not in _CONSTANTS:
        return value
    return _json(value)


def _value(word: str) -> Json:
    try:
        found: Json = json.loads(word)
    except ValueError:
        return word
    return found
