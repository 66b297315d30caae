"""The snapshots that one model node takes, and those that it is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import Factory, define, evolve

from raft.core.outputs import RestoreSnapshot
from raft.testing.cores.disk import StoredSnapshot, Write
from raft.testing.cores.machines import Chunks

if TYPE_CHECKING:
    from collections.abc import Callable

    from raft.testing.cores.model_node import ModelNode

LONGEST_SECONDS = 0.1
"""How long it takes to write one, at most."""


@define(eq=False)
class Snapshots:
    """Takes one at a time, while entries are applied; a crash may come in between."""

    node: ModelNode
    arrived: dict[int, StoredSnapshot] = Factory(dict)
    """Those that arrived whole, by their last index."""
    taking: bool = False
    newest_index: int = 0
    """Of the newest snapshot, finished or not."""

    def clear(self) -> None:
        """Forget all, as a crash does."""
        self.arrived.clear()
        self.taking = False

    def take_when_due(self) -> None:
        """Begin one, where enough entries were applied since the last."""
        node = self.node
        if self.taking or node.applied < self.newest_index + node.swarm.snapshot_every:
            return
        term = node.records.term_at(node.applied)
        if term is None:
            return
        index, configuration = node.configured
        machine = node.machine
        snapshot = StoredSnapshot(
            node.applied, term, configuration, index, machine.digest, machine.applied_time_us
        )
        self.taking = True
        self.newest_index = node.applied
        delay = node.rng.uniform(0.0, LONGEST_SECONDS)
        node.timeline.after(delay, self._save, node.epoch, snapshot, machine.view())

    def _save(self, epoch: int, snapshot: StoredSnapshot, content: Callable[[], Chunks]) -> None:
        if epoch != self.node.epoch:
            return
        if self.node.server.log.first_index > snapshot.index + 1:
            # One from the leader overtook it.
            self.taking = False
            return
        self.node.write(Write(snapshot=evolve(snapshot, chunks=content())))

    def restore(self, restore: RestoreSnapshot) -> StoredSnapshot:
        """Replace the node's state by a snapshot that arrived, and return it."""
        node, snapshot = self.node, self.arrived.pop(restore.index)
        node.monitors.restored(node, snapshot, restore)
        if not restore.keep_log:
            node.records.restart_after(restore.index, restore.term)
        node.applied = snapshot.index
        node.machine.begin(snapshot)
        node.configured = (snapshot.configuration_index, snapshot.configuration)
        node.restored_index = self.newest_index = snapshot.index
        node.workload.swallowed(node)
        return snapshot
