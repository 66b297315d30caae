"""Asking the log to skip an entry: what a leader checks before it appends that.

The checks spare servers that stop. That no server goes another way than the others does not rest
on them: who executed the entry stops where the log says that it is skipped (`raft.skips`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from attrs import define
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from raft.core.outputs import Refusal
from raft.core.roles import Leader
from raft.errors import BadCommand, NotAppended, NotFound, OutcomeUnknown, RaftError, Refused
from raft.node.answers import Outcome
from raft.node.refusals import refusal
from raft.node.writes import Batch
from raft.skips import SKIPS_LIMIT
from raft.storage.records import Kind, decode, encode_skip

if TYPE_CHECKING:
    from raft.service import RaftService

_COMMANDS: Final = frozenset({Kind.COMMAND, Kind.SESSION_COMMAND})

_log = Logger()


@define(eq=False)
class Skipping:
    """Takes the order to skip an entry, at the leader."""

    node: RaftService

    async def skip(self, index: int, timeout_seconds: float) -> int:
        """Let no server execute the command of entry `index`; return where the log says so.

        It is committed then. An entry that the log skips already is not skipped again.

        Raises:
            RaftError: as `raft.node.rescue.Rescue.skip`.
        """
        at = self._checked(index)
        if at:
            return at
        answered: Deferred[list[Outcome]] = Deferred()

        def answer(result: list[Outcome] | RaftError) -> None:
            if isinstance(result, RaftError):
                answered.errback(result)
            else:
                answered.callback(result)

        deadline = self.node.clock() + timeout_seconds
        batch = Batch([encode_skip(index)], deadline, answer, Kind.SKIP)
        self.node.shell.write(batch)
        await answered
        if not batch.start:
            raise OutcomeUnknown("the entry's place in the log is not known")
        _log.warn("Entry {at} says that entry {index} is skipped", at=batch.start, index=index)
        return batch.start

    def _checked(self, index: int) -> int:
        """Refuse what cannot be skipped; return where the log skips the entry already, or 0."""
        node, shell = self.node, self.node.shell
        node.checked_seconds(None)
        if not isinstance(index, int) or index < 1:
            raise BadCommand(f"index is {index!r}; give the number of an entry")
        server = shell.server
        state = server.state
        if not isinstance(state, Leader):
            raise refusal(server, Refusal.NOT_LEADER)
        if not shell.applying.is_held:
            raise Refused(
                "nothing can be skipped while machines run: start the nodes with --hold (an "
                "embedding application sets NodeSettings.hold), then skip, then start them as usual"
            )
        if server.commit_index < state.first_index:
            raise NotAppended("this leader does not know yet what is committed")
        self._check_entry(index)
        if at := shell.scribe.skips.at(index):
            if at >= shell.applying.end:
                raise NotAppended(f"entry {at} skips it, and is not committed yet")
            return at
        done, ahead = node.replica.skips.done, shell.scribe.skips.named
        if len(done | set(ahead.values())) >= SKIPS_LIMIT:
            raise Refused(f"{SKIPS_LIMIT} entries were skipped already, which is the limit")
        return 0

    def _check_entry(self, index: int) -> None:
        shell, last_applied = self.node.shell, self.node.replica.last_applied
        if index <= last_applied:
            raise Refused(
                f"entry {index} is in the state that this server started with, which is of entry "
                f"{last_applied}: a machine could apply it"
            )
        if index > shell.server.commit_index:
            raise NotFound(
                f"entry {index} is not committed; the last one is {shell.server.commit_index}"
            )
        try:
            _, records = shell.cache.slice(index, index + 1, 1)
        except KeyError:
            raise NotFound(f"entry {index} is compacted into a snapshot") from None
        kind = next(decode(records)).kind
        if kind not in _COMMANDS:
            raise Refused(f"entry {index} is no command but of kind {Kind(kind).name.lower()}")
