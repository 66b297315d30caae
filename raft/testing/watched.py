"""A machine under watch: what it answers is noted, and its wall clock is not its neighbours'.

Nobody but the log may decide what a machine does. So every machine of a simulated cluster is
shown another time of day while it is in one of its methods, and what it answers to an entry is
held against what the others answered.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from attrs import Factory, define, frozen
from zope.interface import directlyProvides, providedBy

from raft.codec import ENCODE_ERRORS, Codec
from raft.errors import CommandError, CommandFailed
from raft.interfaces import Context, Value
from raft.outcomes import LOCAL_ERRORS, Result, encoded_error
from raft.testing.machine_fault import NOT_DETERMINISTIC, MachineFault, Words, shown, table

_REAL: Final[dict[str, Any]] = {
    name: getattr(time, name)
    for name in ("time", "time_ns", "monotonic", "monotonic_ns", "gmtime", "localtime", "ctime")
}
_NANOSECONDS: Final = 1_000_000_000


class WallClock:
    """While entered, the functions of `time` tell what `now` tells, in seconds since 1970.

    What a module has imported by name from `time` is found where `machine` was written.
    `datetime.now()` cannot be led astray; its microseconds differ by themselves.
    """

    def __init__(self, now: Callable[[], float], machine: object = None) -> None:
        self._false: dict[str, Any] = {
            "time": now,
            "monotonic": now,
            "time_ns": lambda: int(now() * _NANOSECONDS),
            "monotonic_ns": lambda: int(now() * _NANOSECONDS),
        }
        for name in ("gmtime", "localtime", "ctime"):
            self._false[name] = self._shifted(_REAL[name], now)
        homes = [time.__dict__, *_homes(machine)]
        self._places = [
            (home, key, name)
            for home in homes
            for key, value in home.items()
            for name, real in _REAL.items()
            if value is real
        ]

    @staticmethod
    def _shifted(real: Callable[[float], Any], now: Callable[[], float]) -> Callable[..., Any]:
        return lambda seconds=None: real(now() if seconds is None else seconds)

    def __enter__(self) -> None:
        for home, key, name in self._places:
            home[key] = self._false[name]

    def __exit__(self, *_: object) -> None:
        for home, key, name in self._places:
            home[key] = _REAL[name]


def _homes(machine: object) -> list[dict[str, Any]]:
    names = {kind.__module__ for kind in type(machine).__mro__} - {"builtins", "time"}
    return [sys.modules[name].__dict__ for name in sorted(names) if name in sys.modules]


@frozen
class Told:
    """What was answered to a command first, and by whom."""

    outcome: Result
    by: str
    command: bytes


@define(eq=False)
class Ledger:
    """What the machines of one cluster answered to each entry, and what is wrong with it."""

    words: Words
    told: dict[int, Told] = Factory(dict)
    faults: list[MachineFault] = Factory(list)
    """In the order in which they were found."""

    def witness(self, index: int, told: Told) -> None:
        """Hold an answer against those that others gave to the same entry."""
        first = self.told.setdefault(index, told)
        if first is told or first.outcome == told.outcome:
            return
        command = self.words.command(first.command)
        rows = [("command", shown(command))]
        rows += [(each.by, self.words.outcome(each.outcome)) for each in (first, told)]
        text = (
            f"the machine answered differently to the same command (entry {index}):\n\n"
            f"{table(rows)}\n\n{NOT_DETERMINISTIC}"
        )
        self.faults.append(MachineFault("result", text, index, command))


class Watched:
    """Stands before a machine and passes everything on.

    Attributes:
        machine: the application's.
        name: of the server that it runs on.
    """

    def __init__(self, machine: Any, name: str, ledger: Ledger, clock: WallClock) -> None:
        self.machine, self.name, self.ledger, self.clock = machine, name, ledger, clock
        self.codec: Codec = ledger.words.codec
        self.was_restored, self.origin = False, ""
        directlyProvides(self, *providedBy(machine))

    def __getattr__(self, name: str) -> Any:
        if name in _OWN:
            raise AttributeError(name)
        return getattr(self.machine, name)

    def __setattr__(self, name: str, value: object) -> None:
        if name in _OWN or name.startswith("__"):
            object.__setattr__(self, name, value)
        else:
            setattr(self.machine, name, value)

    def apply(self, command: Value, context: Context) -> Value:
        """Let the machine apply, and note what it answers."""
        # The machine may keep the command, and change it.
        payload, index = self.codec.encode_result(command), context.index
        if self.was_restored:
            self.was_restored = False
            self.origin = f", restored from a snapshot of entry {index - 1}"
        try:
            with self.clock:
                result = self.machine.apply(command, context)
        except LOCAL_ERRORS:
            raise
        except CommandError as error:
            self._note(index, payload, encoded_error(error))
            raise
        except Exception as error:
            self._note(index, payload, encoded_error(CommandFailed(type(error).__name__)))
            raise
        try:
            outcome = "", self.codec.encode_result(result)
        except ENCODE_ERRORS:
            outcome = encoded_error(CommandFailed(f"{type(result).__name__} as a result"))
        self._note(index, payload, outcome)
        return result  # type: ignore[no-any-return]

    def _note(self, index: int, payload: bytes, outcome: Result) -> None:
        self.ledger.witness(index, Told(outcome, f"{self.name}{self.origin}", payload))

    def query(self, query: Value) -> Value:
        """Let the machine answer."""
        with self.clock:
            return self.machine.query(query)  # type: ignore[no-any-return]

    def restore(self, chunks: Iterator[bytes]) -> None:
        """Let the machine take a state."""
        self.was_restored = True
        with self.clock:
            self.machine.restore(chunks)

    def restoring(self, chunks: Iterator[bytes]) -> Iterator[None]:
        """Let a gradual machine take a state."""
        self.was_restored = True
        return self.machine.restoring(chunks)  # type: ignore[no-any-return]


_OWN: Final = frozenset(
    {"machine", "name", "ledger", "clock", "codec", "was_restored", "origin", "__provides__"}
)


@frozen
class States:
    """How machines are compared.

    Without `read` two states are alike where their snapshots consist of the same bytes, in whatever
    order: a dict or a set may be written in the order in which it was filled.
    """

    read: Callable[[Any], object] | None = None

    def of(self, machine: Any) -> object:
        """Return the state of a machine, as it is compared."""
        return b"".join(machine.snapshot()) if self.read is None else self.read(machine)

    def differ(self, one: object, other: object) -> bool:
        """Tell whether two states differ in more than the order of what is written."""
        if one == other:
            return False
        if self.read is None and isinstance(one, bytes) and isinstance(other, bytes):
            return sorted(one) != sorted(other)
        return True
