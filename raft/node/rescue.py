"""The part of a node's Deferred API that saves its state to a file and brings it back."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, fail

from raft.backup import BackupMeta, BackupReader, pieces, verify
from raft.errors import RaftError
from raft.node.backups import Backups
from raft.node.restorations import Restorations
from raft.node.skipping import Skipping
from raft.restoration import ID_BYTES, PIECE_BYTES

BACKUP_SECONDS = 60.0
"""How long a backup may take to begin where the caller does not say."""
RESTORE_SECONDS = 60.0
"""How long each piece of a restoration may take where the caller does not say."""

SKIP_SECONDS = 10.0
"""How long it may take to skip an entry where the caller does not say."""

Answer = TypeVar("Answer")


class Rescue:
    """Backup and restoration, while the cluster serves; and the way past a poisonous command."""

    backups: Backups
    restorations: Restorations
    skipping: Skipping

    def backup(self, path: str, timeout: float = BACKUP_SECONDS) -> Deferred[BackupMeta]:
        """Save the state of this moment or later to the new file `path`; fires once it is durable.

        The leader and followers can do that alike: whatever was answered before this call, by any
        node, is in the backup. The node goes on serving. `timeout` is in seconds and for the
        beginning: for the cluster to confirm how far the state must be.

        Raises (as failures):
            NotLeader, ElectionInProgress, Timeout: there is no leader, or no majority.
            BadConfiguration: the file exists already.
            OSError: the file cannot be written.
            RestoreInProgress: a backup is being restored.
            RaftError: no snapshot could be taken; the text says why.
        """
        return self._begun(lambda: self.backups.save(path, timeout), timeout)

    def restore(
        self, path: str, timeout: float = RESTORE_SECONDS, *, replace: bool = False
    ) -> Deferred[int]:
        """Let the state be that of the backup `path`, on all servers; fires with the entry's index.

        Only the leader can. The file is read through before anything is done. The backup then
        travels through the log beside other writes; what was written before its last entry is
        replaced, what comes behind that is not. All sessions of clients end. Until the last
        entry nothing is changed, and a new leader ends the restoration: begin it anew there.

        Args:
            path: of a file that `backup` made, of this cluster or of another one.
            timeout: seconds that each piece may take.
            replace: allow it where commands have changed the state before.

        Raises (as failures):
            BadBackup: the file is damaged, or of a machine that this cluster does not run.
            WouldReplace: there is a state already, and `replace` is not set.
            NotLeader, ElectionInProgress, RestoreInProgress, RestoreAbandoned: nothing was changed.
            OutcomeUnknown, Timeout: where the last entry was appended, it may be restored yet.
            OSError: the file cannot be read.
        """
        return self._begun(lambda: self._restore(path, timeout, replace), timeout)

    async def _restore(self, path: str, timeout: float, replace: bool) -> int:
        node = self.backups.node
        call = node.shell.snapshots.threads.call
        found: Any = await call(verify, path)
        id = secrets.token_bytes(ID_BYTES)
        with BackupReader.open(path) as reader:
            self.restorations.begin(id, reader.meta_bytes, replace)
            offset, content = 0, pieces(reader, PIECE_BYTES)
            while True:
                piece: Any = await call(next, content, b"")
                if not piece:
                    break
                await self.restorations.piece(id, offset, piece, timeout)
                offset += len(piece)
        return await self.restorations.end(id, found.size_bytes, found.digest, timeout)

    def skip(self, index: int, timeout: float = SKIP_SECONDS) -> Deferred[int]:
        """Let no server execute the command of entry `index`, at which all of them stop.

        The leader can do that, where it holds its machine (`NodeSettings.hold`), as a majority
        of the cluster should. Fires with the index of the entry that says so, once that is
        committed; then start the nodes as usual. Whoever waits for the command, or repeats it in
        its session, gets `CommandFailed("Skipped")`.

        A server that has applied the command stops where it comes to know, and stays so until it
        joins again with empty directories: see that there is none.

        Raises (as failures):
            NotLeader, ElectionInProgress, NotAppended: nothing was done; try again.
            NotFound: the entry is not committed, or is in a snapshot.
            Refused: it is no command, this server has applied it, or does not hold its machine.
            Timeout, OutcomeUnknown: it may be skipped yet. Asking again does no harm.
        """
        return self._begun(lambda: self.skipping.skip(index, timeout), timeout)

    def _begun(
        self, work: Callable[[], Coroutine[Any, Any, Answer]], timeout: float
    ) -> Deferred[Answer]:
        try:
            self.backups.node.checked_seconds(timeout)
        except RaftError as error:
            return fail(error)
        return Deferred.fromCoroutine(work())
