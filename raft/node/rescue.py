"""The part of a node's Deferred API that saves its state to a file and brings it back."""

from __future__ import annotations

from twisted.internet.defer import Deferred, fail

from raft.backup import BackupMeta
from raft.errors import RaftError
from raft.node.backups import Backups

BACKUP_SECONDS = 60.0
"""How long a backup may take to begin where the caller does not say."""


class Rescue:
    """Backup and restoration, while the cluster serves."""

    backups: Backups

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
        try:
            self.backups.node.checked_seconds(timeout)
        except RaftError as error:
            return fail(error)
        return Deferred.fromCoroutine(self.backups.save(path, timeout))
