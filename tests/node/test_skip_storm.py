"""Skips in a storm: cuts, crashes, held and running machines, in an order that a seed draws.

What must hold whatever is skipped and whenever: who has applied as much has the same digest, or one
of them says that it executed what the log skips. Machines are in memory, so where no snapshot was
taken, all are well after a restart.
"""

from __future__ import annotations

import random

import pytest

from raft.core.outputs import Role
from raft.errors import StateMachineFailed
from raft.node.writes import Batch
from raft.storage.records import Kind, encode_skip
from raft.testing.cluster.world import NeverHappened
from tests.node.world import Node, cluster, leader_of

STEPS = 60
SEEDS = 12


class Storm:
    """One run: what a seed draws, and what is checked after each step."""

    def __init__(self, seed: int, snapshot_entries: int) -> None:
        self.chance = random.Random(seed)
        self.bounds = {"snapshot_entries": snapshot_entries, "trailing_entries": 2}
        self.world, self.wire, _ = cluster(3, **self.bounds)
        self.skipped: set[int] = set()
        self.number = 0

    @property
    def nodes(self) -> list[Node]:
        return list(self.wire.nodes.values())

    def step(self) -> None:
        node = self.chance.choice(self.nodes)
        match self.chance.randrange(10):
            case 0:
                self.wire.isolate(node.id)
            case 1 | 2:
                self.wire.heal()
            case 3 | 4:
                self.restart(node, self.chance.random() < 0.6)
            case 5 | 6:
                self.skip(node)
            case _:
                for _ in range(self.chance.randrange(1, 4)):
                    self.number += 1
                    node.write(["add", self.number], 0.5)
        self.world.run(self.chance.uniform(0.0, 0.4))
        self.check()

    def restart(self, node: Node, held: bool) -> None:
        again = node.restarted(**self.bounds)
        again.shell.applying.is_held = held

    def skip(self, node: Node) -> None:
        """Let a leader that holds its machine skip something that it has not applied."""
        server, shell = node.shell.server, node.shell
        ahead = range(node.applied + 1, server.commit_index + 1)
        if not (shell.applying.is_held and server.role is Role.LEADER and ahead):
            return
        index = self.chance.choice(ahead)
        batch = Batch([encode_skip(index)], node.clock() + 1.0, lambda _: None, Kind.SKIP)
        shell.write(batch)

    def check(self) -> None:
        """I20: and who is ill has executed what the others have not."""
        for node in self.nodes:
            self.skipped |= node.replica.skips.done
            for failure in node.failures:
                assert isinstance(failure, StateMachineFailed), failure
                assert "was applied here" in str(failure)

    def end(self, wrong_snapshots: bool) -> None:
        """Heal, let all machines run: all come to the same, where nothing wrong was kept."""
        self.wire.heal()
        for _ in range(2):
            # One start to learn of the skips, one to apply the log with them.
            for node in self.nodes:
                self.restart(node, False)
            try:
                self.settle()
            except NeverHappened:
                assert wrong_snapshots or any(node.failures for node in self.nodes)
        self.check()
        well = [node for node in self.nodes if not node.failures]
        assert wrong_snapshots or len(well) == 3
        ends = {(node.replica.digest, tuple(node.replica.skips.done)) for node in well}
        assert len(ends) <= 1
        journals = [node.machine.applied for node in well]
        assert all(journal == journals[0] for journal in journals)

    def settle(self) -> None:
        leader = leader_of(self.wire)
        self.world.run(
            3.0,
            lambda: {node.applied for node in self.nodes} == {leader.shell.server.log.last_index},
        )


@pytest.mark.slow
@pytest.mark.deadline(60)
@pytest.mark.parametrize("snapshot_entries", [0, 5])
def test_whatever_is_skipped_and_whenever_no_two_servers_differ_unseen(
    snapshot_entries: int,
) -> None:
    """sc-P14, I20."""
    skipped = 0
    for seed in range(SEEDS):
        storm = Storm(seed, snapshot_entries)
        for _ in range(STEPS):
            storm.step()
        storm.end(wrong_snapshots=bool(snapshot_entries))
        skipped += len(storm.skipped)
    assert skipped > SEEDS // 2, "the storm skips too little to show anything"
