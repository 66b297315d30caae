"""An installed snapshot on its way into the machine: some milliseconds in each turn.

The snapshot is durable by then, and the log goes on behind it: entries arrive and are saved
and acknowledged, heartbeats are answered. Only what needs the machine waits.

A machine that is durable by itself takes the snapshot only once its mark in the log is durable
too: otherwise a crash in between would leave a machine that is ahead of its log, and nobody
could tell that from a log that was lost.
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
    _held: int = 0
    """The index of the snapshot that waits for its mark, or 0."""

    @property
    def is_active(self) -> bool:
        """Whether the machine is between two states."""
        return self._steps is not None

    @property
    def is_held(self) -> bool:
        """Whether nothing can be done before the mark is durable."""
        return self._held != 0

    def begin(self, meta: SnapshotMeta, chunks: Iterator[bytes]) -> None:
        """Take the first step, which for most machines is the only one.

        For one that is durable by itself it is taken after `marked`.

        Raises:
            RaftError: as `Replica.restore`.
        """
        self.drop()
        self._steps, self._chunks = self.replica.restoring(meta, chunks), chunks
        if self.replica.is_durable:
            self.replica.check_snapshot(meta)
            self._held = meta.index
        else:
            self._step()

    def marked(self, index: int) -> None:
        """The mark of the snapshot up to `index` is durable: go on, if it is the latest."""
        if self._held == index:
            self._held = 0

    def advance(self, deadline: float) -> bool:
        """Take steps until `deadline`, a few at most; tell whether the machine is ready.

        Raises:
            RaftError: as `Replica.restore`.
        """
        for _ in range(STEPS_AT_ONCE):
            if self._held:
                return False
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
        chunks, self._steps, self._chunks, self._held = self._chunks, None, None, 0
        close = getattr(chunks, "close", None)
        if close is not None:
            close()
