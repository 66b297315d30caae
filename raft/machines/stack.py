"""A stack of values: the smallest machine that has a state worth replicating.

Commands:

- `["put", value]` lays any plain value on top; the result is None;
- `["pop"]` takes the top value off; the result is that value. `CommandError("empty")`
  where there is none.

Queries:

- `["all"]` is the list of all values, the top one first;
- `["length"]` is how many there are.

Anything else is `CommandError("bad-command")`.
"""

from __future__ import annotations

from collections.abc import Iterator

from zope.interface import implementer

from raft.errors import CommandError
from raft.interfaces import Context, IStateMachine, Value
from raft.machines.slices import packed, unpacked

_Cell = tuple[Value, "_Cell"] | None


@implementer(IStateMachine)
class Stack:
    """Values on top of each other.

    The stack is a chain of pairs (value, the rest) that never change. Whoever holds a
    pair holds the whole stack as it was then: that is a consistent view for nothing.
    """

    machine_name = "stack"
    machine_version = 1

    def __init__(self) -> None:
        self._top: _Cell = None
        self._length = 0

    def apply(self, command: Value, context: Context) -> Value:
        """Carry out `put` or `pop`; see the module."""
        match command:
            case ["put", value]:
                self._top = (value, self._top)
                self._length += 1
                return None
            case ["pop"]:
                if self._top is None:
                    raise CommandError("empty", "there is nothing to pop")
                value, self._top = self._top
                self._length -= 1
                return value
        raise CommandError("bad-command", 'a stack takes ["put", value] and ["pop"]')

    def query(self, query: Value) -> Value:
        """Answer `all` or `length`; see the module."""
        match query:
            case ["all"]:
                return list(_values(self._top))
            case ["length"]:
                return self._length
        raise CommandError("bad-command", 'a stack answers ["all"] and ["length"]')

    def snapshot(self) -> Iterator[bytes]:
        """Return the values, the top one first, in slices."""
        return packed(_values(self._top))

    def restore(self, chunks: Iterator[bytes]) -> None:
        """Replace the values; raise for what is no snapshot of a stack."""
        restored = [value for values in unpacked(chunks) for value in values]
        self._top = None
        for value in reversed(restored):
            self._top = (value, self._top)
        self._length = len(restored)


def _values(cell: _Cell) -> Iterator[Value]:
    while cell is not None:
        value, cell = cell
        yield value
