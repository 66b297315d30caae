"""Rescue while clients write: what they were told before is there afterwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import pytest_twisted

from raft.client import RaftClient
from raft.testing.ledger import Ledger, read_everything
from raft.testing.processes import ProcessCluster
from tests.integration.load import Connect, Load, newcomer, raft

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.deadline(100)]


@pytest_twisted.ensureDeferred
async def test_a_backup_under_load_restores_into_a_new_cluster(
    cluster: ProcessCluster,
    make_cluster: Callable[..., ProcessCluster],
    connect: Connect,
    tmp_path: Path,
) -> None:
    """N8: all that was answered before the backup began is in it, and nothing else than writes."""
    load = Load.on(cluster, connect, 3)
    await load.progress(30)
    before = dict(load.ledger.acknowledged)
    leader = await cluster.wait_for_leader()
    follower = next(id for id in cluster.nodes if id != leader)
    path = tmp_path / "monday.backup"
    await raft("backup", "--from", cluster.node(follower).address, str(path))
    await raft("backup", "--verify", str(path))
    await load.progress()
    await load.settle()
    written = Ledger(before, {**load.ledger.acknowledged, **load.ledger.unknown})
    fresh = make_cluster(cluster="fresh")
    await fresh.start()
    await raft("restore", str(path), "--to", fresh.node("node1").address)
    found = await read_everything(connect(fresh), 10.0)
    assert list(written.differences(found)) == []
    assert before.items() <= found.items()
    await fresh.wait_until_equal(1)


@pytest_twisted.ensureDeferred
async def test_the_best_survivor_of_a_lost_majority_has_all_that_was_answered(
    cluster: ProcessCluster, connect: Connect
) -> None:
    """M7, M8: recovered alone, it serves; new servers join it; the dead ones stay away."""
    load = Load.on(cluster, connect)
    await load.progress(20)
    # The leader has whatever it has answered; which follower has it, nobody can tell.
    survivor = await cluster.wait_for_leader()
    lost = [id for id in cluster.nodes if id != survivor]
    for id in lost:
        cluster.kill(id)
    await load.stop()
    node = cluster.node(survivor)
    cluster.kill(survivor)
    told = await raft("recover", str(node.data_directory), "--yes")
    assert "by itself" in told
    node.start()
    client = RaftClient([node.address])
    try:
        for id in ("node4", "node5"):
            fresh = newcomer(cluster, id, like=survivor)
            fresh.start()
            await raft("join", "--config", str(fresh.config_path), "--to", node.address)
        for id in lost:
            del cluster.nodes[id]
        await load.settle(client)
        await client.write(["set", "after", 1], 10.0)
        await cluster.wait_until_equal(1)
    finally:
        await client.close()
