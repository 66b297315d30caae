"""Entries that are not executed: the way out where every server stops at the same one.

A machine may raise at a command on every server, and its policy, or the kind of the exception,
may be that the server stops. Started again, each of them stops again. The way out goes through the
log, as everything does that all servers must do alike: an entry that names the one before which
they stand, and says that it is not to be executed. It stands behind the one it names, so a server
looks ahead: `expected` are entries to come of which it knows so. That the same log gives the same
state rests on two things:

- what is not executed is a refusal, `CommandFailed` with the exception "Skipped": the same result
  on every server, kept by its session, and part of the digest;
- a server that executed an entry which the log then skips has another state than the others. It
  stops where it comes to know. So `done`, which entries were not executed here, is part of the
  replicated state: of snapshots, and of the notes of a machine that is durable by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Final

import msgspec
from attrs import Factory, define

from raft.errors import BadCommand, CommandFailed, StateMachineFailed
from raft.outcomes import NOTHING, Outcomes, Result
from raft.storage.records import BadRecord, decode_skip

SECTION: Final = ("skips", 1)
"""The section of a snapshot that names the entries that were skipped; left out where none was."""
SKIPS_LIMIT: Final = 1000
"""How many entries of one cluster may be skipped: each of them cost somebody a decision."""
NEVER: Final = 1 << 63
"""Above every index."""
SKIPPED: Final = "Skipped"
"""The exception that a skipped command's `CommandFailed` names."""

_decoder: msgspec.msgpack.Decoder[list[int]] = msgspec.msgpack.Decoder(
    list[Annotated[int, msgspec.Meta(ge=1, le=NEVER - 1)]]
)


@define(eq=False)
class Skips:
    """Which entries this server has not executed, and will not execute.

    Attributes:
        done: those at or below `last_applied`: part of the replicated state.
        expected: those above it, as committed entries say.
        next: the first of the expected ones, or NEVER.
    """

    done: set[int] = Factory(set)
    expected: set[int] = Factory(set)
    next: int = NEVER

    def expect(self, index: int) -> None:
        """Do not execute entry `index`, which is not applied yet: a committed entry says so."""
        self.expected.add(index)
        self.next = min(self.expected)

    def pass_by(self, index: int) -> None:
        """Entry `index` was not executed."""
        self.done.add(index)
        self._forget_to(index)

    def _forget_to(self, index: int) -> None:
        self.expected = {each for each in self.expected if each > index}
        self.next = min(self.expected, default=NEVER)

    def refused(self, outcomes: Outcomes, index: int) -> Result:
        """Return the outcome of the command of entry `index`, which is not executed."""
        return outcomes.refused(CommandFailed(SKIPPED), index)

    def apply(self, outcomes: Outcomes, index: int, payload: bytes) -> Result:
        """Apply entry `index`, which skips another: that must have been skipped here.

        Raises:
            StateMachineFailed: it was executed here, and the other servers have not.
        """
        try:
            named = decode_skip(payload)
        except BadRecord:
            named = index
        if named >= index:
            return outcomes.refused(BadCommand("the entry skips none before it"), index)
        if named not in self.done:
            raise StateMachineFailed(
                f"entry {named} was applied here, and entry {index} says that the cluster skips it:"
                " this server's state is another one. Start it again; if it stops here again,"
                " remove it from the cluster and let it join again with empty directories, the"
                " machine's too"
            )
        return NOTHING

    # The section of a snapshot, and the notes of a durable machine.

    def encode(self) -> bytes:
        """Return the skipped entries as stored: a MessagePack array of their indexes, in order."""
        return msgspec.msgpack.encode(sorted(self.done))

    def section(self) -> Iterator[bytes]:
        """Return the slices of a snapshot's section."""
        return iter([self.encode()])

    def restore(self, slices: Iterable[bytes], what: str) -> None:
        """Take what `encode` gave; no slices stand for no entry that was skipped.

        Raises:
            StateMachineFailed: `what` cannot be read.
        """
        found = b"".join(slices)
        try:
            self.done = set(_decoder.decode(found)) if found else set()
        except msgspec.MsgspecError as error:
            raise StateMachineFailed(f"{what} names no skipped entries: {error}") from error

    def go_on_behind(self, index: int) -> None:
        """The state is the one behind entry `index`: expect nothing at or below it."""
        self._forget_to(index)
