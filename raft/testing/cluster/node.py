"""A node of a simulated cluster: its disk takes its time, and an auditor follows it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec

from raft.errors import RaftError
from raft.node.answers import nobody
from raft.node.calls import error_of
from raft.node.writes import Batch
from raft.numbering import OpenedSession
from raft.storage.memory import MemoryStorage
from raft.storage.records import Kind, encode_registration, session_id
from raft.testing.cluster.auditor import Auditor
from raft.testing.cluster.whole_node import WholeNode
from raft.testing.cluster.wire import Wire
from raft.testing.watched import Watched

FAST_DISK_SECONDS = 0.002
"""How long a sync takes at most, unless the disk is slow."""

_registered = msgspec.msgpack.Decoder(tuple[int, int, int, int]).decode


class SimNode(WholeNode):
    """A whole node whose machine is under watch.

    Attributes:
        disk_seconds: how long a sync takes at most. What is not synced is lost in a crash.
    """

    def __init__(
        self,
        wire: Wire[Any],
        id: str,
        machine: Watched,
        founders: tuple[str, ...],
        storage: MemoryStorage,
        auditor: Auditor,
        chance: random.Random,
        **settings: Any,
    ) -> None:
        self.auditor, self.disk_seconds = auditor, FAST_DISK_SECONDS
        self._chance, self._is_syncing = chance, False
        storage.automatic, storage.queued = False, self._queued
        super().__init__(wire, id, machine, founders, storage, chance=chance, **settings)

    def _queued(self) -> None:
        if not self._is_syncing:
            self._is_syncing = True
            self.world.callLater(self._chance.uniform(0, self.disk_seconds), self._sync)

    def _sync(self) -> None:
        self._is_syncing = False
        self.storage.complete()

    def turned(self) -> None:
        """Let the auditor see what was applied."""
        super().turned()
        self.auditor.follow(self.applied, self.shell.cache.slice)

    def open_session(
        self, nonce: bytes, timeout: float, done: Callable[[OpenedSession | RaftError], object]
    ) -> None:
        """Open a session; `done` is called with it, or with why there is none."""

        def answer(result: Any) -> None:
            if isinstance(result, RaftError):
                done(result)
            elif result[0][0]:
                done(error_of(result[0]))
            else:
                index, timeout_us, results, results_bytes = _registered(result[0][1])
                seconds = timeout_us / 1_000_000
                done(OpenedSession(session_id(index, nonce), seconds, results, results_bytes))

        payload = encode_registration(nonce)
        batch = Batch([payload], self.clock() + timeout, nobody, Kind.REGISTER)
        batch.answer = answer
        self.shell.write(batch)
