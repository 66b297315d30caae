"""Data directories that are not what they were: recognised, and kept from voting.

A server is its data directory. One that was wiped, exchanged, copied or put back from an old copy
may have voted and acknowledged what it no longer knows.
"""

from __future__ import annotations

import shutil

import pytest
import pytest_twisted

from raft.testing.processes import ProcessCluster
from tests.integration.load import (
    Connect,
    Load,
    all_are_known,
    raft,
    terminate,
    wait_for_log,
    without_members,
)

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.deadline(60)]

REMEDY = "remove the member and let it join again with an empty directory"


async def followers(cluster: ProcessCluster) -> list[str]:
    leader = await cluster.wait_for_leader()
    return [id for id in cluster.nodes if id != leader]


@pytest_twisted.ensureDeferred
async def test_a_wiped_node_is_refused_and_joins_again(
    cluster: ProcessCluster, connect: Connect
) -> None:
    """M7, M9: under its old id it comes back as another incarnation, through the log."""
    await all_are_known(cluster)
    load = Load.on(cluster, connect)
    await load.progress()
    wiped, other = await followers(cluster)
    node = cluster.node(wiped)
    status = await cluster.status(wiped)
    assert status is not None
    await terminate(cluster, wiped)
    shutil.rmtree(node.data_directory)
    start = len(node.log)
    node.start()
    await wait_for_log(cluster, wiped, REMEDY, start)
    assert "is leader" not in node.log[start:]
    # What the message says: removed, then let in again with an empty directory.
    to = cluster.node(other).address
    await raft("member", "remove", wiped, "-e", to)
    await terminate(cluster, wiped)
    shutil.rmtree(node.data_directory)
    node.config_path.write_text(without_members(node.config_path.read_text("utf-8")), "utf-8")
    node.start()
    told = await raft("join", "--config", str(node.config_path), "--to", to)
    assert told == f"{wiped} is a voter of the cluster.\n"
    await load.progress()
    await load.settle()
    again = await cluster.status(wiped)
    assert again is not None
    assert again["incarnation"] != status["incarnation"]
    assert again["cluster_id"] == status["cluster_id"]


@pytest_twisted.ensureDeferred
async def test_nodes_whose_directories_were_exchanged_do_not_start(
    cluster: ProcessCluster, connect: Connect
) -> None:
    """M7: whose directory it is stands in it; each says so in one line, and ends with 1."""
    load = Load.on(cluster, connect)
    await load.progress()
    one, two = (cluster.node(id) for id in await followers(cluster))

    def exchange() -> None:
        aside = cluster.directory / "aside"
        one.data_directory.rename(aside)
        two.data_directory.rename(one.data_directory)
        aside.rename(two.data_directory)

    for node in (one, two):
        await terminate(cluster, node.id)
    exchange()
    for node, other in ((one, two), (two, one)):
        start = len(node.log)
        node.start()
        await wait_for_log(cluster, node.id, "Server Shut Down", start)
        said = node.log[start:]
        assert f"belongs to server {other.id!r}, not {node.id!r}" in said
        assert "Traceback" not in said

        async def ended(node: object = node) -> bool:
            return not node.running  # type: ignore[attr-defined]

        await cluster.until(ended, 5.0, "it runs on")
        assert node.exit_code == 1
    exchange()
    for node in (one, two):
        node.start()
    await cluster.wait_for_leader()
    await load.progress()
    await load.settle()
