"""Which behaviour of the machine is in force, and which ones this server's code can.

The version in force is part of the replicated state: it changes by entries alone, so that every
server behaves differently from the same command on. Whoever cannot go along stops there, and
that alone keeps servers from diverging: that a leader asks every member first, and proposes
nothing while members change, spares them the stop.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec
from attrs import define

from raft.codec import UNREADABLE
from raft.errors import BadConfiguration, RaftError, StateMachineFailed
from raft.interfaces import IVersionedStateMachine
from raft.outcomes import where
from raft.storage.records import HIGHEST_VERSION

SECTION: Final = ("version", 1)
"""The section of a snapshot that names the version in force; left out where that is 1."""

_decode: Final = msgspec.msgpack.Decoder(int).decode


@define(eq=False)
class Versions:
    """The versions of one server's machine.

    Attributes:
        oldest: the first version that the machine can; 1 for one that has no versions.
        newest: the last version that it can; 1 for one that has no versions.
        active: the version in force.
    """

    machine: IVersionedStateMachine | None
    oldest: int = 1
    newest: int = 1
    active: int = 1

    @classmethod
    def of(cls, machine: object) -> Versions:
        """Ask `machine` what it can; raise `BadConfiguration` where that means nothing."""
        if not IVersionedStateMachine.providedBy(machine):
            return cls(None)
        versioned = IVersionedStateMachine(machine)
        oldest = _checked(versioned, "oldest_version", getattr(versioned, "oldest_version", 1))
        newest = _checked(versioned, "version", versioned.version)
        if oldest > newest:
            raise BadConfiguration(
                f"{_name(machine)}.oldest_version is {oldest}, above its version {newest}"
            )
        versions = cls(versioned, oldest, newest)
        versions._set(1)
        return versions

    @property
    def has_any(self) -> bool:
        """Whether the machine has versions at all."""
        return self.machine is not None

    def _set(self, version: int) -> None:
        self.active = version
        if self.machine is not None:
            try:
                self.machine.active_version = version
            except Exception as error:
                raise BadConfiguration(
                    f"{_name(self.machine)}.active_version cannot be set ({error}); make it an "
                    "ordinary attribute"
                ) from error

    @property
    def is_behind(self) -> bool:
        """Whether the version in force is none that the machine can any more."""
        return self.active < self.oldest

    def resume(self, version: int, what: str) -> None:
        """Behave as `version`, which `what` is of, from before its state is there.

        Raises:
            StateMachineFailed: the machine cannot that version.
        """
        if not self.oldest <= version <= self.newest:
            raise StateMachineFailed(f"{what} is of {self._mismatch(version)}")
        self._set(version)

    def switch(self, version: int, index: int) -> None:
        """Let the machine go over to `version`, as entry `index` says; older ones mean nothing.

        Raises:
            StateMachineFailed: the machine cannot, or failed.
        """
        if version <= self.active:
            # A leader need not know what the one before it has appended.
            return
        if not self.oldest <= version <= self.newest:
            raise StateMachineFailed(f"entry {index} begins {self._mismatch(version)}")
        try:
            if self.machine is not None:
                self.machine.switch(version)
        except RaftError:
            raise
        except Exception as error:
            raise StateMachineFailed(
                f"the machine did not switch to version {version} at entry {index}: "
                f"{type(error).__name__}, {where(error)}"
            ) from error
        self._set(version)

    def refuse_command(self, index: int) -> None:
        """Raise `StateMachineFailed`: `is_behind`, and entry `index` is a command."""
        raise StateMachineFailed(f"entry {index} is a command for {self._mismatch(self.active)}")

    def _mismatch(self, version: int) -> str:
        can = f"{self.oldest} to {self.newest}" if self.oldest < self.newest else f"{self.newest}"
        if version > self.newest:
            remedy = "upgrade it"
        else:
            remedy = f"run a release in between, which can version {version} too, first"
        return f"version {version} of the machine, this node can {can}: {remedy}"

    # The section of a snapshot.

    def section(self) -> Iterator[bytes]:
        """Return the slices that name the version in force."""
        return iter([msgspec.msgpack.encode(self.active)])

    def restore(self, slices: Iterable[bytes], what: str) -> None:
        """Resume the version that a snapshot's slices name; none of them stand for version 1.

        Raises:
            StateMachineFailed: the machine cannot that version, or these bytes are none.
        """
        found = b"".join(slices)
        try:
            version = _decode(found) if found else 1
        except UNREADABLE as error:
            raise StateMachineFailed(f"{what} names no version: {error}") from error
        self.resume(version, what)


def _checked(machine: object, name: str, value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= HIGHEST_VERSION:
        return value
    raise BadConfiguration(f"{_name(machine)}.{name} is {value!r}; give a whole number from 1 on")


def _name(machine: object) -> str:
    return f"{type(machine).__module__}.{type(machine).__qualname__}"
