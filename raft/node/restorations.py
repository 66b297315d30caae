"""A backup that is being restored through this leader: pieces in, entries of the log out.

One at a time. Nothing of it is kept here but whose it is and how far it is; when its client is
silent for too long, an entry gives it up, and snapshots may be taken again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from attrs import define
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from raft.backup import BackupMeta, decode_meta
from raft.core.outputs import Refusal, Role
from raft.errors import (
    BadBackup,
    BadCommand,
    NotAppended,
    RaftError,
    RestoreAbandoned,
    RestoreInProgress,
    WouldReplace,
)
from raft.node.answers import Outcome
from raft.node.calls import error_of
from raft.node.refusals import refusal
from raft.node.shell import Shell
from raft.node.writes import Batch
from raft.restoration import ID_BYTES, PIECE_BYTES, End, GiveUp, Piece, Step, encode_step
from raft.storage.records import Kind, decode

if TYPE_CHECKING:
    from raft.service import RaftService

IDLE_SECONDS: Final = 60.0
"""A restoration of which nothing is heard for so long is given up."""
GIVE_UP_SECONDS: Final = 10.0
LOOKED_AT: Final = 10_000
"""A log with more entries than this is not looked through for one that changed the machine."""
LOOK_BYTES: Final = 1 << 20

_CHANGING: Final = frozenset({Kind.COMMAND, Kind.SESSION_COMMAND, Kind.RESTORE})

_log = Logger()


@define(eq=False)
class Current:
    """The restoration that this leader takes pieces of."""

    id: bytes
    meta: BackupMeta
    meta_bytes: bytes
    term: int
    timer: Any
    is_busy: bool = False


@define(eq=False)
class Restorations:
    """Takes the pieces of one backup at a time, and appends them."""

    node: RaftService
    _current: Current | None = None

    def begin(self, id: bytes, meta_bytes: bytes, replace: bool) -> None:
        """Take the pieces of a backup from here on; the same `id` may begin anew.

        Raises:
            NotLeader, ElectionInProgress: this node does not lead.
            RestoreInProgress: another one is under way.
            BadBackup: this cluster's machine cannot take it.
            WouldReplace: the machine was changed by a command before, and `replace` is not set.
        """
        node = self.node
        node.checked_seconds(None)
        if len(id) != ID_BYTES:
            raise BadCommand(f"the restoration's id has {len(id)} bytes; give {ID_BYTES}")
        server = node.shell.server
        if server.role is not Role.LEADER:
            raise refusal(server, Refusal.NOT_LEADER)
        meta = decode_meta(meta_bytes)
        node.replica.check_backup(meta)
        node.switching.check_backup(meta)
        current = self._of_this_term()
        if current is not None and current.id != id:
            raise RestoreInProgress(f"of cluster {current.meta.cluster_id}")
        if not replace and holds_state(node.shell):
            raise WouldReplace(
                f"cluster {node.identity.cluster_id} has the state of {node.replica.last_applied} "
                f"entries; that of cluster {meta.cluster_id} up to entry {meta.index} would take "
                "its place, and every client's session would end; allow it with replace"
            )
        self._forget()
        self._current = Current(id, meta, meta_bytes, server.current_term, None)
        self._wait(self._current)

    async def piece(self, id: bytes, offset: int, piece: bytes, timeout_seconds: float) -> None:
        """Append a piece of the backup's content; return once it is applied.

        Raises:
            RestoreAbandoned: it does not follow the one before: begin anew.
            RaftError: as a write.
        """
        if not 0 < len(piece) <= PIECE_BYTES:
            raise BadCommand(f"a piece of {len(piece)} bytes; give 1 to {PIECE_BYTES}")
        await self._propose(self._of(id), Piece(id, offset, piece), timeout_seconds)

    async def end(self, id: bytes, size_bytes: int, digest: bytes, timeout_seconds: float) -> int:
        """Let the backup replace the state; return the index from which on it has.

        Raises:
            BadBackup: the pieces have another size or digest. Nothing is changed.
            RestoreAbandoned: a new leader was elected meanwhile. Nothing is changed.
            OutcomeUnknown, Timeout: it may happen yet.
        """
        if len(digest) != 32:
            raise BadCommand(f"a digest of {len(digest)} bytes; give the 32 of SHA-256")
        current = self._of(id)
        step = End(id, size_bytes, digest, current.meta_bytes)
        try:
            outcome = await self._propose(current, step, timeout_seconds)
        except (BadBackup, RestoreAbandoned):
            self._end(current)
            raise
        self._end(current)
        _log.warn(
            "The state was replaced by the backup of cluster {cluster} up to entry {index}",
            cluster=current.meta.cluster_id,
            index=current.meta.index,
        )
        return int(self.node.codec.decode_result(outcome[1]))  # type: ignore[arg-type]

    def _end(self, current: Current) -> None:
        """Forget a restoration of which the log has the end; others are given up in time."""
        if self._current is current:
            self._forget()

    def _of(self, id: bytes) -> Current:
        current = self._of_this_term()
        if current is None or current.id != id:
            raise RestoreAbandoned("this leader knows nothing of it: begin anew")
        if current.is_busy:
            raise RestoreInProgress("the piece before is not applied yet; wait for its answer")
        return current

    def _of_this_term(self) -> Current | None:
        """Return the one under way; a new term has ended any of before."""
        server = self.node.shell.server
        current = self._current
        if current and (server.role is not Role.LEADER or server.current_term != current.term):
            self._forget()
        return self._current

    async def _propose(self, current: Current, step: Step, timeout_seconds: float) -> Outcome:
        current.is_busy = True
        self._wait(current)
        try:
            outcome = await self._append(step, timeout_seconds)
        finally:
            current.is_busy = False
        if outcome[0]:
            raise error_of(outcome)
        return outcome

    def _append(
        self, step: Step, timeout_seconds: float, frees_log: bool = False
    ) -> Deferred[Outcome]:
        applied: Deferred[Outcome] = Deferred()

        def answer(result: list[Outcome] | RaftError) -> None:
            if applied.called:
                return
            if isinstance(result, RaftError):
                applied.errback(result)
            else:
                applied.callback(result[0])

        deadline = self.node.clock() + timeout_seconds
        batch = Batch([encode_step(step)], deadline, answer, Kind.RESTORE, frees_log=frees_log)
        self.node.shell.write(batch)
        return applied

    def _wait(self, current: Current) -> None:
        if current.timer is not None and current.timer.active():
            current.timer.cancel()
        current.timer = self.node.reactor.callLater(IDLE_SECONDS, self.give_up)

    def give_up(self) -> None:
        """Let the log say that the restoration under way will not end."""
        current = self._of_this_term()
        if current is None:
            return
        if current.is_busy:
            self._wait(current)
            return
        _log.warn("A restoration is given up: its client was not heard for a minute")
        # Nothing more of it is taken, and nothing of another one, before the log says so: till
        # then no server takes a snapshot.
        current.is_busy = True
        given_up = self._append(GiveUp(current.id), GIVE_UP_SECONDS, frees_log=True)
        given_up.addBoth(self._given_up, current)

    def _given_up(self, result: Outcome | Failure, current: Current) -> None:
        current.is_busy = False
        if isinstance(result, Failure):
            _log.warn("It is not given up yet: {why}", why=result.value)
            if self._current is current:
                self._wait(current)
        else:
            self._end(current)

    def _forget(self) -> None:
        current, self._current = self._current, None
        if current is not None and current.timer is not None and current.timer.active():
            current.timer.cancel()

    def close(self) -> None:
        """Take no more pieces."""
        self._forget()


def holds_state(shell: Shell) -> bool:
    """Tell whether a command may have changed the machine since the cluster was founded."""
    log, end = shell.server.log, shell.replica.last_applied + 1
    if log.first_index > 1 or end > LOOKED_AT:
        return True
    index = 1
    while index < end:
        try:
            index, records = shell.cache.slice(index, end, LOOK_BYTES)
        except KeyError as error:
            raise NotAppended(f"entry {index} cannot be read at the moment") from error
        if any(record.kind in _CHANGING for record in decode(records)):
            return True
    return False
