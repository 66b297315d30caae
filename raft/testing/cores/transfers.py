"""Snapshots on their way from one model node to others."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from attrs import Factory, define, evolve

from raft.core.events import SnapshotSent
from raft.core.messages import InstallSnapshot
from raft.core.outputs import StartSnapshot
from raft.testing.cores.disk import StoredSnapshot
from raft.testing.cores.swarm import TIMEOUT_SECONDS

if TYPE_CHECKING:
    from raft.testing.cores.model_node import ModelNode

PATIENCE_SECONDS = 2 * TIMEOUT_SECONDS
"""How long a transfer may take before the sender gives it up."""
LAST_CHUNK_SECONDS = TIMEOUT_SECONDS / 2
"""At most so long after the first chunk the last one leaves."""


@define(eq=False)
class Transfers:
    """The transfers that one node has begun; each ends once, well or not."""

    node: ModelNode
    rng: random.Random
    _under_way: dict[str, tuple[int, int]] = Factory(dict)
    """(sequence, index) of the newest snapshot on its way to a peer."""

    def clear(self) -> None:
        """Forget them all, as a crash does."""
        self._under_way.clear()

    def begin(self, start: StartSnapshot) -> None:
        """Send the newest saved snapshot: one chunk that counts as contact, then the last."""
        node = self.node
        snapshot = node.disk.snapshot
        if snapshot is None:
            node.monitors.violated("N5", f"{node.id} is to send a snapshot and has none")
        chunk = InstallSnapshot(
            node.server.current_term,
            snapshot.index,
            snapshot.term,
            snapshot.configuration,
            snapshot.configuration_index,
            start.sequence,
        )
        self._under_way[start.peer] = (start.sequence, snapshot.index)
        node.network.send(node.id, start.peer, chunk, None)
        last = evolve(chunk, done=True)
        delay = self.rng.uniform(0.0, LAST_CHUNK_SECONDS)
        node.timeline.after(delay, self._send_last, node.epoch, start.peer, last, snapshot)
        node.timeline.after(PATIENCE_SECONDS, self._give_up, node.epoch, start.peer, start.sequence)

    def _send_last(
        self, epoch: int, peer: str, last: InstallSnapshot, snapshot: StoredSnapshot
    ) -> None:
        if epoch == self.node.epoch:
            self.node.network.send(self.node.id, peer, last, snapshot)

    def _give_up(self, epoch: int, peer: str, sequence: int) -> None:
        if epoch == self.node.epoch:
            self.end(peer, sequence, ok=False)

    def end(self, peer: str, sequence: int, *, ok: bool) -> None:
        """Tell the core that the transfer of that number ended, if it is still under way."""
        transfer = self._under_way.get(peer)
        if transfer and transfer[0] == sequence:
            del self._under_way[peer]
            self.node.hand(SnapshotSent(peer, transfer[1], ok))
