"""A damaged log that the other servers fill again: what is known of it, and its end [RULES D1]."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from attrs import define
from twisted.logger import Logger

from raft.storage.repair import Repair, end

if TYPE_CHECKING:
    from raft.service import RaftService
    from raft.storage.directory import DataDirectory

_log = Logger()

RETRY_SECONDS: Final = 1.0
"""A disk that is full, or has failed for once, is asked again after so long."""


@define(eq=False)
class Repairing:
    """The last repair of one node's log, and the note in its directory that it is done.

    Attributes:
        repair: as the directory has it; None where no log was ever repaired.
    """

    node: RaftService
    repair: Repair | None = None
    _directory: DataDirectory | None = None
    _call: Any = None

    def begin(self, directory: DataDirectory, repair: Repair | None) -> None:
        """Know what was found when the log in `directory` was opened."""
        self._directory, self.repair = directory, repair

    def ended(self) -> None:
        """Say that the log is whole, and note it."""
        if self.repair is None or self._directory is None:
            return
        _log.warn(
            "{id}: the log is repaired, and as far as it was before it was damaged; look after the "
            "disk, then remove {names} from {path}",
            id=self.node.id,
            names=", ".join(self.repair.set_aside) or "nothing",
            path=self._directory.path,
        )
        self._note(self._directory, self.repair)

    def _note(self, directory: DataDirectory, repair: Repair) -> None:
        """Note the end, now or later; a start in between finds by itself that the log is whole."""
        self._call = None
        try:
            self.repair = end(directory.files, directory.path, repair)
        except OSError as error:
            _log.warn(
                "{id}: the end of the repair is not noted yet, and is tried again: {error}",
                id=self.node.id,
                error=error,
            )
            later = self.node.reactor.callLater
            self._call = later(RETRY_SECONDS, self._note, directory, repair)

    def stop(self) -> None:
        """Try no more."""
        call, self._call = self._call, None
        if call is not None:
            call.cancel()
