"""The part of a node's Deferred API that writes and reads: what each call promises."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail

from raft.core import outputs as out
from raft.errors import BadCommand, RaftError
from raft.interfaces import Indexed, ReadTerms, Value
from raft.node.calls import LocalReads, LocalWrites
from raft.node.forwarding import Forwarder
from raft.node.reads import ReadBatch
from raft.node.refusals import refusal
from raft.node.settings import NodeSettings
from raft.node.shell import Shell
from raft.numbering import SessionCall


class Asking:
    """Writes and reads, from within the node's process."""

    settings: NodeSettings
    clock: Callable[[], float]
    shell: Shell
    writes: LocalWrites
    reads: LocalReads
    forwarder: Forwarder

    @property
    @abstractmethod
    def id(self) -> str:
        """The server's id."""

    @property
    @abstractmethod
    def serves(self) -> bool:
        """Whether it runs, and has not failed."""

    @abstractmethod
    def not_running(self) -> RaftError:
        """Return why nothing is served."""

    @abstractmethod
    def leader_address(self) -> str | None:
        """Return the leader's client address, where known."""

    def write(
        self,
        command: object,
        timeout: float | None = None,
        *,
        session: SessionCall | None = None,
    ) -> Deferred[Value]:
        """Replicate and apply `command`; fires with the machine's result.

        It has then been saved by a majority and applied here. Writes are appended in the
        order of the calls. Cancelling before the end of this reactor turn is definite:
        nothing is appended. Later, or where this node passes it on, the outcome is unknown,
        and cancelling undoes nothing; in a session the number of what was cancelled counts as
        answered.

        Args:
            command: what the machine understands.
            timeout: in seconds, 3 by default.
            session: the command's number in a session (`open_session`): written again with
                the same one, here or on another node, it takes effect once, and every copy has
                the same result.

        Raises (as failures):
            NotLeader, ElectionInProgress, Overloaded, StorageFull, NotAppended: definitely
                not applied by this call.
            Timeout: `appended` says whether the outcome is unknown.
            OutcomeUnknown: the leadership was lost after the append. `StaleSequence` and
                `ResultDropped` are the kinds of it that sessions know.
            SessionExpired: the session has ended; not applied, if this was the first try.
            CommandError, CommandFailed, BadCommand, CommandTooLarge: refused.
        """
        return self._write(command, timeout, session, False)

    def write_indexed(
        self,
        command: object,
        timeout: float | None = None,
        *,
        session: SessionCall | None = None,
    ) -> Deferred[Indexed]:
        """Do as `write` does; fires with the result and the index of its entry in the log.

        A read with that as `min_index`, on any server, sees the write.
        """
        return self._write(command, timeout, session, True)

    def _write(
        self, command: object, timeout: float | None, session: SessionCall | None, indexed: bool
    ) -> Deferred[Any]:
        try:
            seconds = self.checked_seconds(timeout)
        except RaftError as error:
            return fail(error)
        if self.forwards:
            return self._forward(command, seconds, session, indexed)
        return self.writes.write(command, seconds, indexed, session)

    def checked_seconds(self, timeout: float | None) -> float:
        """Return the time that a call may take; raise where there can be none."""
        if not self.serves:
            raise self.not_running()
        seconds = self.settings.timeout_seconds if timeout is None else timeout
        if not isinstance(seconds, int | float) or not seconds >= 0:
            raise BadCommand(f"timeout is {timeout!r}; give seconds, 0 or more")
        return seconds

    def _forward(
        self, command: object, seconds: float, session: SessionCall | None, indexed: bool
    ) -> Deferred[Any]:
        return self.writes.forward(
            command,
            lambda payload, answer: self.forwarder.write_batch(
                self.leader_address(), [payload], seconds, answer, indexed, session
            ),
            indexed,
        )

    @property
    def forwards(self) -> bool:
        """Whether writes go on to the leader: set so, and another server leads."""
        leader = self.shell.server.leader_id
        return self.settings.forward and leader is not None and leader != self.id

    def read(
        self,
        query: object,
        timeout: float | None = None,
        *,
        consistency: str = "",
        min_index: int = 0,
        max_age: float | None = None,
    ) -> Deferred[Value]:
        """Answer `query` from applied state that is as current as `consistency` says.

        Always safe to retry. Without `consistency` it is `linearizable`, and a follower
        answers `NotLeader`, unless it is set to forward.

        Args:
            query: what the machine understands.
            timeout: in seconds, 3 by default.
            consistency: `linearizable` sees every write that was answered before this call,
                by any node; a follower or learner asks the leader how far it must be, and
                answers itself. `lease` is the same without asking anyone, on a leader whose
                lease is valid (`Options.clock_drift_bound` is set); elsewhere it is as none.
                `local` is whatever this node has applied. `bounded` is `local` where that is
                no older than `max_age`; till then it waits.
            min_index: wait until this entry is applied here: what `write_indexed` or
                `read_indexed` told, by whichever node.
            max_age: in seconds, for `bounded`.

        Raises (as failures):
            NotLeader, ElectionInProgress, Overloaded: try again, elsewhere or later.
            Timeout: there was no answer in time, or no state that is new enough.
            CommandError, CommandFailed, BadCommand, CommandTooLarge: refused.
        """
        return self._read(query, timeout, consistency, min_index, max_age, False)

    def read_indexed(
        self,
        query: object,
        timeout: float | None = None,
        *,
        consistency: str = "",
        min_index: int = 0,
        max_age: float | None = None,
    ) -> Deferred[Indexed]:
        """Do as `read` does; fires with the answer, and the index and age of its state."""
        return self._read(query, timeout, consistency, min_index, max_age, True)

    def _read(
        self,
        query: object,
        timeout: float | None,
        consistency: str,
        min_index: int,
        max_age: float | None,
        indexed: bool,
    ) -> Deferred[Any]:
        try:
            terms = ReadTerms(consistency, min_index, max_age)
            deadline = self.clock() + self.checked_seconds(timeout)
        except RaftError as error:
            return fail(error)
        return self.reads.read(query, deadline, self.read_batch, terms, indexed)

    def read_batch(self, batch: ReadBatch) -> None:
        """Take encoded queries; the clients' door uses it too."""
        leads = self.shell.server.role is out.Role.LEADER
        if leads or self.settings.forward or batch.terms.on_any_node:
            self.shell.read(batch)
        else:
            batch.finish(refusal(self.shell.server, out.Refusal.NOT_LEADER))
