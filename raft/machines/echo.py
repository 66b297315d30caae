"""A machine without state: it answers with what it was given. For trials and tests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from zope.interface import implementer

from raft.interfaces import Context, IStateMachine, Value


@implementer(IStateMachine)
class Echo:
    """Answers every command and every query with itself; refuses none."""

    machine_name = "echo"
    machine_version = 1

    def apply(self, command: Value, context: Context) -> Value:
        """Return the command."""
        return command

    def query(self, query: Value) -> Value:
        """Return the query."""
        return query

    def snapshot(self) -> Iterable[bytes]:
        """Return no chunks: there is no state."""
        return ()

    def restore(self, chunks: Iterator[bytes]) -> None:
        """Accept a snapshot without content; raise ValueError for any other."""
        if any(chunks):
            raise ValueError("an echo has no state, this is another machine's snapshot")
