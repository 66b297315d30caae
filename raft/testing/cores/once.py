"""The monitor of sessions: retried, lost or restored, each command counts once [I16]."""

from __future__ import annotations

from typing import NoReturn

from attrs import Factory, define

from raft.errors import ResultDropped, SessionExpired, StaleSequence
from raft.outcomes import Result
from raft.testing.cores.ghost import Violation

NOT_EXECUTED = frozenset({SessionExpired.code, StaleSequence.code, ResultDropped.code})
"""The codes of outcomes that say that this copy was not executed."""


@define(eq=False)
class Once:
    """What each operation of a session did, and where in the log.

    An operation is one command with one sequence number, however many copies of it are sent.
    """

    executions: dict[int, int] = Factory(dict)
    """The index at which an operation is executed: the same on every server, for ever."""
    results: dict[int, Result] = Factory(dict)
    """What it answered first."""
    outcomes: dict[int, Result] = Factory(dict)
    """What came of the entry at an index, on the first server that applied it."""
    forbidden: set[int] = Factory(set)
    """Operations whose client was told that they definitely did nothing."""
    copies: int = 0
    """Entries that were answered from what a session remembers."""

    def violated(self, rule: str, reason: str) -> NoReturn:
        """Stop the run: `rule` is broken."""
        raise Violation(rule, reason)

    def executed(self, operation: int, index: int) -> None:
        """A machine executes `operation` for the entry at `index`."""
        first = self.executions.setdefault(operation, index)
        if first != index:
            self.violated("I16", f"operation {operation} is executed at {first} and at {index}")
        if operation in self.forbidden:
            self.violated("I17", f"operation {operation} is executed at {index}, after a clear no")

    def applied(self, server: str, index: int, operation: int, outcome: Result) -> None:
        """A server applied the copy of `operation` at `index`; 0 is no command."""
        known = self.outcomes.setdefault(index, outcome)
        if known != outcome:
            self.violated("I16", f"{server} answers entry {index} {outcome}, another {known}")
        if not operation or outcome[0] in NOT_EXECUTED:
            return
        at = self.executions.get(operation)
        if at is None:
            self.violated("I16", f"{server} answers {operation} {outcome} and never executed it")
        first = self.results.setdefault(operation, outcome)
        if first != outcome:
            self.violated("I16", f"{server} answers {operation} {outcome}, {first} before")
        self.copies += at != index

    def forbid(self, operation: int) -> None:
        """Its client was told that its only copy did nothing [I17]."""
        if operation in self.executions:
            self.violated("I17", f"operation {operation} was executed, and is denied")
        self.forbidden.add(operation)
