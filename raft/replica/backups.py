"""Backups: the machine's state alone is taken in, at a place of the log [RULES N8]."""

from __future__ import annotations

from collections.abc import Iterator

from raft.backup import BackupMeta
from raft.errors import BadBackup, StateMachineFailed
from raft.outcomes import LOCAL_ERRORS
from raft.replica.snapshots import Snapshots


class Backups(Snapshots):
    """A replica whose machine can be given the state of a backup."""

    def _take_backup(self, meta: BackupMeta, chunks: Iterator[bytes]) -> None:
        """Let the machine be as in a backup [RULES N8]: at this place of the log, on every server.

        All sessions end: what their clients have sent is not in this state, or may not be. The
        cluster's time never falls behind what the machine has seen.
        """
        active, before = self.versions.active, self._view_before()
        try:
            for _ in self._taking_in(meta, chunks, f"the backup of entry {meta.index}", True):
                pass
        except StateMachineFailed as failure:
            cause = failure.__cause__
            if before is None or cause is None or isinstance(cause, LOCAL_ERRORS):
                raise
            # What the machine raises at these bytes it raises on every server: a result, as of a
            # command. The state must be as if nothing had been tried.
            self.versions.resume(active, "the state before the backup")
            self.machine.restore(before)
            raise BadBackup(f"the machine refused it: {type(cause).__name__}") from failure
        finally:
            close = getattr(before, "close", None)
            if close is not None:
                close()
        self.sessions.load(())
        self.last_time_us = max(self.last_time_us, meta.time_us)

    def _view_before(self) -> Iterator[bytes] | None:
        """Return the machine's state of this moment, where one in memory can give it."""
        if self._notes is not None:
            return None
        try:
            return iter(self.machine.snapshot())
        except Exception:
            # One is being read already, for example. Should the machine refuse the backup too, this
            # node stops, and comes here again after its restart, when none is.
            return None

    def check_backup(self, meta: BackupMeta) -> None:
        """Raise `BadBackup` where this machine could not take a backup of what `meta` says."""
        if meta.machine != self._machine_name:
            raise BadBackup(
                f"it is of the machine {meta.machine!r}, this cluster runs {self._machine_name!r}"
            )
        # A machine without versions may say 0, and means the first.
        version, oldest = max(1, meta.machine_version), self.versions.oldest
        if not oldest <= version <= self._readable_version:
            raise BadBackup(
                f"it is of version {version} of the machine, this node can read {oldest} to "
                f"{self._readable_version}: run a release that can read both"
            )
