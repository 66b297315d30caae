"""A core's state as a value: copied by hand, freed of what makes no difference, and compared.

Two states of a `Server` are the same to every event to come where they differ only in the
absolute time, in the absolute number of a ticket, or in what is shown as a hint (`turn`). An
exhaustive search must see that, or it would never end.

Fields are found, not listed: one that is added to the core is copied and compared as it is.
"""

from __future__ import annotations

import inspect
import math
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping
from functools import cache
from typing import cast

import attrs

from raft.core import roles
from raft.core.configuration import Configuration
from raft.core.log import Log
from raft.core.progress import Progress
from raft.core.roles import CatchUp, Departure, Leader, Question, Transfer
from raft.core.server import Options, Server, Turn

HORIZON_SECONDS = 8.0
"""What lies further back is as good as this: no timeout of a small model is longer."""

_SHARED = frozenset({"options", "rng"})
_MEANINGLESS = frozenset({"options", "rng", "turn", "now"})

_PAST: dict[type, tuple[str, ...]] = {
    Server: ("heard_at", "started_at", "unsaved_since"),
    Leader: ("elected_at", "blocked_since"),
    Progress: ("heard_at", "answered_since"),
    Question: ("asked_at",),
    CatchUp: ("round_started", "moved_at"),
}
_DEADLINES: dict[type, tuple[str, ...]] = {
    Server: ("election_deadline",),
    Leader: ("heartbeat_deadline",),
    Transfer: ("deadline",),
    Departure: ("deadline",),
}


def _changing_classes() -> list[type]:
    found = [each for _, each in inspect.getmembers(roles, inspect.isclass)]
    return [Server, Log, Progress, *(each for each in found if _changes(each))]


def _changes(cls: type) -> bool:
    return cls.__module__ == roles.__name__ and attrs.has(cls) and cls.__hash__ is None


_NAMES: dict[type, tuple[str, ...]] = {
    cls: tuple(attribute.name for attribute in attrs.fields(cls)) for cls in _changing_classes()
}


def copied(server: Server) -> Server:
    """Return a copy of `server` that changes on its own; options and chance are shared."""
    copy = cast("Server", _copy(server))
    copy.turn = Turn(1)
    return copy


def renamed(value: object, names: Mapping[str, str]) -> object:
    """Return a copy of `value` in which each server has another's name.

    A configuration stays: all of its members must be among those renamed.
    """
    cls = type(value)
    if cls in _ATOMS:
        return value
    if isinstance(value, str):
        return names.get(value, value)
    if isinstance(value, tuple | list | set | deque):
        made: Callable[..., object] = cls
        return made([renamed(each, names) for each in value])
    if isinstance(value, dict):
        return {names.get(key, key): renamed(each, names) for key, each in value.items()}
    if not attrs.has(cls):
        return value
    copy = object.__new__(cls)
    for name in _names_of(cls):
        object.__setattr__(copy, name, renamed(getattr(value, name), names))
    return copy


_ATOMS = frozenset({int, float, bool, type(None), Configuration, Options, Turn})


@cache
def _names_of(cls: type) -> tuple[str, ...]:
    return tuple(attribute.name for attribute in attrs.fields(cls))


def _copy(value: object) -> object:
    names = _NAMES.get(type(value))
    if names is not None:
        copy = object.__new__(type(value))
        for name in names:
            each = getattr(value, name)
            if type(each) in _CONTAINERS:
                each = _CONTAINERS[type(each)](each)
            elif type(each) in _NAMES and name not in _SHARED:
                each = _copy(each)
            setattr(copy, name, each)
        return copy
    return value


_CONTAINERS: dict[type, Callable[..., object]] = {
    dict: lambda each: {name: _copy(value) for name, value in each.items()},
    list: list,
    set: set,
    deque: deque,
}


def normalise(server: Server, *, timeless: bool) -> int:
    """Let the state begin at time 0 and save ticket 0, in place.

    Args:
        server: The state to be changed.
        timeless: Whether the options let no decision rest on how long ago something was: then
            the past is now, and each deadline is one second away.

    Returns:
        How much was taken from each ticket.
    """
    _shift(server, server.now, timeless)
    server.now = 0.0
    server.failed_elections = 0 if timeless else min(server.failed_elections, 4)
    ticket, log = server.saved_ticket, server.log
    server.last_ticket -= ticket
    server.hard_state_ticket = max(0, server.hard_state_ticket - ticket)
    server.saved_ticket = 0
    log._unsaved = deque((each - ticket, last) for each, last in log._unsaved)
    return ticket


def _shift(value: object, now: float, timeless: bool) -> None:
    cls = type(value)
    for name in _PAST.get(cls, ()):
        moment = getattr(value, name) - now
        if timeless and moment != math.inf:
            moment = 0.0
        setattr(value, name, max(moment, -HORIZON_SECONDS))
    for name in _DEADLINES.get(cls, ()):
        moment = getattr(value, name) - now
        if timeless and moment != math.inf:
            moment = math.inf if cls is Departure else 1.0
        setattr(value, name, moment)
    if isinstance(value, Leader):
        value.beats = deque((sequence, at - now) for sequence, at in value.beats)
    for name in _NAMES[cls]:
        each = getattr(value, name)
        if type(each) in _NAMES:
            _shift(each, now, timeless)
        elif type(each) is dict:
            for inner in each.values():
                if type(inner) in _NAMES:
                    _shift(inner, now, timeless)


def key_of(value: object) -> Hashable:
    """Return a value that equals that of another state if and only if the two are the same."""
    cls = type(value)
    names = _NAMES.get(cls)
    if names is not None:
        told = [key_of(getattr(value, name)) for name in names if name not in _MEANINGLESS]
        return (cls.__name__, *told)
    if cls in _ATOMS:
        return value
    if cls is list or cls is deque:
        return tuple(map(key_of, cast("Iterable[object]", value)))
    if isinstance(value, dict):
        return tuple((name, key_of(value[name])) for name in sorted(value))
    if isinstance(value, set):
        return tuple(sorted(value))
    if isinstance(value, Hashable):
        return value
    raise TypeError(f"{value!r} has no place in a state")
