"""The machine of a cluster that is upgraded: each version behaves otherwise, and shows which it is.

A result names the version that gave it: `[version, result of the store]`. From version 2 on the
store counts the commands of each version under `by 2`, `by 3`; a switch appends the version that
it begins to the list under `switches`. So whoever carries out one command by another version than
the others gives another result, and comes to another state; and a snapshot that is restored by
another version than it was taken by is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from zope.interface import implementer

from raft.errors import CommandError
from raft.interfaces import Context, IVersionedStateMachine, Value
from raft.machine import CommandContext
from raft.machines.kv import KeyValueStore
from raft.testing.whole.machine import EVERYTHING, WitnessedStore

if TYPE_CHECKING:
    from raft.testing.whole.verdict import Witness

Release = tuple[int, int]
"""The oldest and the newest version that a release of the machine can."""
FIRST: Final[Release] = (1, 1)
"""The release that knew of no versions."""
_SWITCHES: Final = "switches"


def carry_out(store: KeyValueStore, version: int, command: Value, context: Context) -> Value:
    """Let a store carry out a command as this version of it does."""
    result = store.apply(command, context)
    if version > 1:
        key = f"by {version}"
        match store.query(["get", key]):
            case int(count):
                store.apply(["set", key, count + 1], context)
            case _:
                store.apply(["set", key, 1], context)
    return [version, result]


def switch(store: KeyValueStore, version: int) -> None:
    """Let a store go over to a version."""
    store.apply(["append", _SWITCHES, version], CommandContext(b""))


class FirstRelease(WitnessedStore):
    """A store that has no versions yet."""

    @property
    def _version(self) -> int:
        return int(getattr(self, "active_version", 1))

    def _carry_out(self, command: Value, context: Context) -> Value:
        if self.process is not None and self.process.is_alive:
            self.witness.behaved(context.index, self._version)
        return carry_out(self.store, self._version, command, context)

    def restore(self, chunks: Iterator[bytes]) -> None:
        """See `IStateMachine`; what another version has written is none of this one's."""
        super().restore(chunks)
        match self.store.query(["get", _SWITCHES]):
            case [*_, int(written_by)]:
                pass
            case _:
                written_by = 1
        if written_by != self._version:
            raise ValueError(f"version {self._version} reads what {written_by} has written")


@implementer(IVersionedStateMachine)
class LaterRelease(FirstRelease):
    """A store that can behave as the releases before it."""

    active_version = 1

    def __init__(self, witness: Witness, release: Release) -> None:
        super().__init__(witness)
        self.oldest_version, self.version = release

    def switch(self, version: int) -> None:
        """See `IVersionedStateMachine`."""
        switch(self.store, version)


def made_of_releases(
    commands: Iterable[tuple[int, Value]], switches: Iterable[tuple[int, int]]
) -> Value:
    """Return what an empty store answers to `EVERYTHING` after these commands and switches.

    Args:
        commands: with the indexes of their entries.
        switches: the index of each entry that began a version, with that version.
    """
    store, context, version = KeyValueStore(), CommandContext(b""), 1
    begins = dict(switches)
    found = dict(commands)
    for index in sorted({*begins, *found}):
        if index in begins:
            version = begins[index]
            switch(store, version)
        else:
            with suppress(CommandError):
                carry_out(store, version, found[index], context)
    return store.query(EVERYTHING)
