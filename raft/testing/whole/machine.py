"""The machine of a simulated cluster: the key-value store, and a witness of what it carries out.

A command is `[number, command of the store]`. The witness knows each number's one index and
result: a second execution, another result or one after a clear no is seen at once [I16, I17].
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from zope.interface import implementer

from raft.errors import CommandError
from raft.interfaces import Context, IStateMachine, Value
from raft.machine import CommandContext
from raft.machines.kv import KeyValueStore

if TYPE_CHECKING:
    from raft.testing.whole.verdict import Witness


EVERYTHING: Final[Value] = ["scan", "", 1000]
"""Fewer keys than that are ever written."""


@implementer(IStateMachine)
class WitnessedStore:
    """A key-value store whose commands are seen, as long as its process lives."""

    machine_name = "kv"
    machine_version = 1

    def __init__(self, witness: Witness) -> None:
        self.store = KeyValueStore()
        self.witness = witness
        self.process: Any = None

    def apply(self, command: Value, context: Context) -> Value:
        """Carry out a command of the store."""
        match command:
            case [int(number), inner]:
                pass
            case _:
                raise CommandError("bad-command")
        refused: CommandError | None = None
        result: Value
        try:
            result = self._carry_out(inner, context)
        except CommandError as error:
            refused, result = error, error.code
        if self.process is not None and self.process.is_alive:
            self.witness.executed(number, context.index, inner, result)
        if refused is not None:
            raise refused
        return result

    def _carry_out(self, command: Value, context: Context) -> Value:
        return self.store.apply(command, context)

    def query(self, query: Value) -> Value:
        """Answer a query of the store."""
        return self.store.query(query)

    def snapshot(self) -> Iterator[bytes]:
        """See `IStateMachine`."""
        return self.store.snapshot()

    def restore(self, chunks: Iterator[bytes]) -> None:
        """See `IStateMachine`."""
        self.store.restore(chunks)


def made_of(commands: Iterable[Value]) -> Value:
    """Return what an empty store answers to `EVERYTHING` after these commands."""
    store, context = KeyValueStore(), CommandContext(b"")
    for command in commands:
        with suppress(CommandError):
            store.apply(command, context)
    return store.query(EVERYTHING)
