"""What is wrong with a world: the first broken promise that anybody sees, and who looks.

A violation that is raised within a node would be taken for the node's own error, and handled: so
it is kept here too, and ends the run once the present event is over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from attrs import Factory, define

from raft.interfaces import Value
from raft.testing.cores.disk import Entry
from raft.testing.cores.ghost import Violation
from raft.testing.cores.monitors import Monitors


@define(eq=False)
class Verdict:
    """The first broken promise, if there is one."""

    first: Violation | None = None
    trace: BaseException | None = None
    """Where it was raised, if anything was."""

    def violated(self, rule: str, reason: str) -> NoReturn:
        """Stop the run: `rule` is broken."""
        violation = Violation(rule, reason)
        self.first = self.first or violation
        raise violation

    def note(self, rule: str, reason: str) -> None:
        """Stop the run once the present event is over."""
        self.first = self.first or Violation(rule, reason)

    def check(self) -> None:
        """Raise what was seen."""
        if self.first is not None:
            raise self.first


@define(eq=False)
class WatchingMonitors(Monitors):
    """The simulator's monitors, which are heard whatever a node makes of what they raise."""

    verdict: Verdict = Factory(Verdict)
    created_at: Callable[[Any, list[Entry]], None] | None = None
    """Hears what a leader has appended."""

    def appended(self, node: Any, start: int, entries: list[Entry], fresh: bool) -> None:
        """See `LogMonitors`."""
        super().appended(node, start, entries, fresh)
        if fresh and self.created_at is not None:
            self.created_at(node, entries)

    def violated(self, rule: str, reason: str) -> NoReturn:
        """Stop the run: `rule` is broken."""
        self.verdict.violated(rule, reason)

    def _is_excused(self, leader: Any, follower: Any, index: int) -> bool:
        """Whoever repairs its log is known to lack what it had, and votes as if it had it."""
        return follower.is_repairing or super()._is_excused(leader, follower, index)


@define(eq=False)
class Witness:
    """What the cluster has carried out, whichever server it was [I16, I17]."""

    verdict: Verdict
    executions: dict[int, int] = Factory(dict)
    """Number of a command -> the index of its entry."""
    results: dict[int, Value] = Factory(dict)
    commands: dict[int, Value] = Factory(dict)
    """What was carried out, by the index of its entry."""
    denied: set[int] = Factory(set)
    """Numbers whose clients were told that they definitely did nothing."""
    in_force: Callable[[int], int] = lambda _: 1
    """Tells by which version of the machine an entry is applied."""

    def behaved(self, index: int, version: int) -> None:
        """A machine carries out the command at `index` as this version of it does."""
        right = self.in_force(index)
        if version != right:
            self.verdict.violated(
                "U1", f"entry {index} is applied by version {version}, in force is {right}"
            )

    def executed(self, number: int, index: int, command: Value, result: Value) -> None:
        """A machine has carried out a command."""
        violated = self.verdict.violated
        first = self.executions.setdefault(number, index)
        if first != index:
            violated("I16", f"command {number} is carried out at {first} and at {index}")
        self.commands.setdefault(index, command)
        known = self.results.setdefault(number, result)
        if known != result:
            violated("I7", f"command {number} gives {known!r} here and {result!r} there")
        if number in self.denied:
            violated("I17", f"command {number} is carried out at {index}, after a clear no")

    def until(self, index: int) -> list[Value]:
        """Return what was carried out up to an index, in the order of the log."""
        return [self.commands[each] for each in sorted(self.commands) if each <= index]

    def done(self, number: int, result: Value) -> None:
        """A client was told the result of a command."""
        violated = self.verdict.violated
        if number not in self.executions:
            violated("I17", f"command {number} is done ({result!r}), and nobody did it")
        if self.results[number] != result:
            violated(
                "I16", f"command {number} gave {self.results[number]!r}, its client got {result!r}"
            )

    def deny(self, number: int) -> None:
        """A client was told that its command definitely did nothing."""
        if number in self.executions:
            at = self.executions[number]
            self.verdict.violated("I17", f"command {number} was done at {at}, and is denied")
        self.denied.add(number)
