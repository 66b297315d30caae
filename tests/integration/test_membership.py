"""A running cluster of processes grows, shrinks and replaces, told by the command line alone."""

from __future__ import annotations

import json
from typing import Any

import pytest
import pytest_twisted

from raft.testing.processes import ProcessCluster
from tests.integration.load import Connect, Load, newcomer, raft

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.deadline(120)]


@pytest_twisted.ensureDeferred
async def test_join_under_load_remove_a_dead_node_replace_a_dead_node(
    cluster: ProcessCluster, connect: Connect
) -> None:
    """M3, M5, M6: nothing that was acknowledged is lost, whoever comes and goes."""
    load = Load.on(cluster, connect)
    leader = await cluster.wait_for_leader()
    first, second = (id for id in cluster.nodes if id != leader)
    to = ("--to", cluster.node(first).address)
    fourth = newcomer(cluster, "node4")
    fourth.start()
    # Through a follower, which knows the leader.
    told = await raft("join", "--config", str(fourth.config_path), *to)
    assert told == "node4 is a voter of the cluster.\n"

    cluster.kill(first)
    at = ("-e", cluster.node(second).address, "-e", cluster.node(leader).address)
    await raft("member", "remove", first, *at)
    cluster.kill(second)
    fifth = newcomer(cluster, "node5")
    fifth.start()
    at = ("--to", fourth.address, "--to", cluster.node(leader).address)
    await raft("join", "--config", str(fifth.config_path), *at, "--replace", second)

    listed: Any = json.loads(await raft("member", "list", "--json", "-e", fifth.address))
    roles = {each["id"]: each["role"] for each in listed["members"]}
    assert roles == dict.fromkeys((leader, "node4", "node5"), "voter")
    table = await raft("member", "list", "-e", fifth.address)
    assert "voter, leads" in table

    await raft("member", "remove", "node4", "-e", fifth.address)
    await raft(
        *("member", "add-learner", "node4", fourth.place.peers, fourth.address),
        *("-e", fifth.address),
    )
    del cluster.nodes[first], cluster.nodes[second]
    await load.settle()
    assert len(load.ledger.acknowledged) > 50
