"""The application's machine as the replica meets it: checked once, told what it may know."""

from __future__ import annotations

import random
import uuid
from hashlib import sha256
from inspect import iscoroutinefunction
from typing import Final

from attrs import define, field
from zope.interface.exceptions import (
    BrokenImplementation,
    BrokenMethodImplementation,
    Invalid,
)
from zope.interface.verify import verifyObject

from raft.errors import BadConfiguration
from raft.interfaces import (
    IGradualStateMachine,
    IOnDiskStateMachine,
    IPreparingStateMachine,
    IStateMachine,
    IVersionedStateMachine,
)

_KINDS: Final = (
    IGradualStateMachine,
    IPreparingStateMachine,
    IOnDiskStateMachine,
    IVersionedStateMachine,
)
_ATTRIBUTES: Final = frozenset({"version", "active_version"})


@define
class CommandContext:
    """What a command may know: the one `raft.interfaces.Context`, used again for each."""

    seed: bytes
    index: int = 0
    term: int = 0
    time_us: int = 0
    _drawn_for: int = field(default=-1, init=False)
    _random: random.Random = field(factory=random.Random, init=False)

    @property
    def time(self) -> float:
        """The cluster's time, in seconds."""
        return self.time_us / 1_000_000

    @property
    def random(self) -> random.Random:
        """A generator seeded from the cluster and the index, made when first asked for."""
        if self._drawn_for != self.index:
            digest = sha256(self.seed + self.index.to_bytes(8, "big")).digest()
            self._random.seed(int.from_bytes(digest, "big"))
            self._drawn_for = self.index
        return self._random

    def uuid(self) -> uuid.UUID:
        """Return the next UUID (RFC 4122, shaped as version 4) drawn from `random`."""
        return uuid.UUID(int=self.random.getrandbits(128), version=4)


def verified_machine(machine: object) -> IStateMachine:
    """Return `machine`, checked; raise `BadConfiguration` naming its class and what it lacks."""
    if isinstance(machine, type):
        raise BadConfiguration(f"{_name(machine)} is a class; give an instance of it")
    name = _name(type(machine))
    if not IStateMachine.providedBy(machine):
        raise BadConfiguration(
            f"{name} is no state machine; decorate it with @implementer(IStateMachine)"
        )
    for kind in (each for each in (IStateMachine, *_KINDS) if each.providedBy(machine)):
        try:
            verifyObject(kind, machine)
        except Invalid as error:
            # Several faults at once come as one exception that lists them.
            faults = "; ".join(_fault(each) for each in getattr(error, "exceptions", (error,)))
            raise BadConfiguration(f"{name} {faults}") from error
        for method in kind:
            if iscoroutinefunction(getattr(machine, method)):
                raise BadConfiguration(
                    f"{name} has an async {_method(method)}; it must answer when it returns"
                )
    return IStateMachine(machine)


def _fault(error: Exception) -> str:
    if isinstance(error, BrokenImplementation):
        name = _name_of(error.name)
        if name in _ATTRIBUTES:
            return f"lacks the attribute {name}; write {name} = 1 in the class"
        return f"lacks the method {_method(name)}"
    if isinstance(error, BrokenMethodImplementation):
        return f"has an unusable {_method(_name_of(error.method))}: {error.mess}"
    return f"is no state machine: {error}"


def _name_of(part: object) -> str:
    return part if isinstance(part, str) else str(getattr(part, "__name__", part))


def _method(name: str) -> str:
    kind = next((kind for kind in _KINDS if name in kind), None)
    return f"{name}{kind[name].getSignatureString() if kind else '()'}"


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
