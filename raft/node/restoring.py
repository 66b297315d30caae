"""An installed snapshot on its way into the machine: some milliseconds in each turn.

The snapshot is durable by then, and the log goes on behind it: entries arrive and are saved
and acknowledged, heartbeats are answered. Only what needs the machine waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from attrs import define

from raft.interfaces import SnapshotMeta
from raft.replica import Replica

STEPS_AT_ONCE = 4
"""So many steps of a machine are taken in one turn at most."""


@define(eq=False)
class Restoring:
    """Takes the machine's steps; a later snapshot takes an unfinished one's place."""

    replica: Replica
    clock: Callable[[], float]
    _steps: Iterator[None] | None = None
    _chunks: Iterator[bytes] | None = None

    @property
    def is_active(self) -> bool:
        """Whether the machine is between two states."""
        return self._steps is not None

    def begin(self, meta: SnapshotMeta, chunks: Iterator[bytes]) -> None:
        """Take the first step, which for most machines is the only one.

        Raises:
            RaftError: as `Replica.restore`.
        """
        self.drop()
        self._steps, self._chunks = self.replica.restoring(meta, chunks), chunks
        self._step()

    def advance(self, deadline: float) -> bool:
        """Take steps until `deadline`, a few at most; tell whether the machine is ready.

        Raises:
            RaftError: as `Replica.restore`.
        """
        for _ in range(STEPS_AT_ONCE):
            if self._steps is None:
                return True
            self._step()
            if self.clock() >= deadline:
                break
        return self._steps is None

    def _step(self) -> None:
        if self._steps is not None and next(self._steps, self) is self:
            self.drop()

    def drop(self) -> None:
        """Hold nothing more of the snapshot."""
        chunks, self._steps, self._chunks = self._chunks, None, None
        close = getattr(chunks, "close", None)
        if close is not None:
            close()
