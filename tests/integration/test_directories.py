"""Data directories that are not what they were: recognised, and kept from voting.

A server is its data directory. One that was wiped, exchanged, copied or put back from an old copy
may have voted and acknowledged what it no longer knows.
"""

from __future__ import annotations

import shutil

import pytest
import pytest_twisted

from raft.errors import RaftError
from raft.testing.ledger import read_everything
from raft.testing.processes import ProcessCluster
from tests.integration.load import (
    Connect,
    Load,
    all_are_known,
    newcomer,
    raft,
    terminate,
    wait_for_log,
    without_members,
)

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.deadline(60)]

REJOIN = "remove the member and let it join again with an empty directory"

SEVERAL_ELECTIONS_SECONDS = 2.5


async def followers(cluster: ProcessCluster) -> list[str]:
    leader = await cluster.wait_for_leader()
    return [id for id in cluster.nodes if id != leader]


@pytest_twisted.ensureDeferred
async def test_a_wiped_node_is_refused_and_joins_again(
    cluster: ProcessCluster, connect: Connect
) -> None:
    """M7, M9: under its old id it comes back as another incarnation, through the log.

    sc-F6, sc-M9.
    """
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
    await wait_for_log(cluster, wiped, REJOIN, start)
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
    """M7, sc-F25: whose directory it is stands in it; each says so in one line, and ends with 1."""
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


@pytest_twisted.ensureDeferred
async def test_a_directory_from_an_old_copy_neither_votes_nor_counts(
    cluster: ProcessCluster, connect: Connect
) -> None:
    """L5, M9, sc-F20: it lost what it had acknowledged; those who saw it later do not let it in."""
    await all_are_known(cluster)
    load = Load.on(cluster, connect)
    await load.progress()
    old, other = await followers(cluster)
    leader = next(id for id in cluster.nodes if id not in (old, other))
    node = cluster.node(old)
    await terminate(cluster, old)
    copy = cluster.directory / "copy"
    shutil.copytree(node.data_directory, copy)
    await cluster.restart(old)
    await cluster.until(lambda: has_all(cluster, old), 10.0, "it does not catch up")
    await load.progress(20)
    cluster.kill(old)
    shutil.rmtree(node.data_directory)
    copy.rename(node.data_directory)
    start, before = len(node.log), len(cluster.node(other).log)
    node.start()
    await wait_for_log(cluster, old, REJOIN, start)
    await load.progress()
    # Only its vote could make another leader.
    cluster.kill(leader)
    client = connect(cluster)
    with pytest.raises(RaftError):
        await client.write(["set", "never", 1], SEVERAL_ELECTIONS_SECONDS)
    assert "is leader" not in node.log[start:] + cluster.node(other).log[before:]
    await cluster.restart(leader)
    await cluster.wait_for_leader()
    await load.progress()
    # What the message says to do.
    to = ("-e", cluster.node(leader).address, "-e", cluster.node(other).address)
    await raft("member", "remove", old, *to)
    await terminate(cluster, old)
    shutil.rmtree(node.data_directory)
    node.config_path.write_text(without_members(node.config_path.read_text("utf-8")), "utf-8")
    node.start()
    await raft("join", "--config", str(node.config_path), "--to", cluster.node(leader).address)
    await load.progress()
    await load.settle()
    assert await client.read(["get", "never"]) in (None, 1)


@pytest_twisted.ensureDeferred
async def test_an_old_copy_is_still_known_by_servers_that_were_restarted_as_well(
    cluster: ProcessCluster, connect: Connect
) -> None:
    """M9: they kept its later start in memory only, let it in, and elected one with it."""
    await all_are_known(cluster)
    load = Load.on(cluster, connect)
    await load.progress()
    old, lagging = await followers(cluster)
    full = next(id for id in cluster.nodes if id not in (old, lagging))
    node = cluster.node(old)
    await terminate(cluster, old)
    copy = cluster.directory / "copy"
    shutil.copytree(node.data_directory, copy)
    await cluster.restart(old)
    await cluster.until(lambda: has_all(cluster, old), 10.0, "it does not catch up")
    # What is acknowledged from here on, these two alone have.
    cluster.kill(lagging)
    await load.progress(20)
    for id in (old, full):
        cluster.kill(id)
    shutil.rmtree(node.data_directory)
    copy.rename(node.data_directory)
    before = len(cluster.node(lagging).log)
    start = len(node.log)
    for id in (old, lagging):
        cluster.node(id).start()
    await wait_for_log(cluster, old, REJOIN, start)
    client = connect(cluster)
    with pytest.raises(RaftError):
        await client.write(["set", "never", 1], SEVERAL_ELECTIONS_SECONDS)
    assert "is leader" not in node.log[start:] + cluster.node(lagging).log[before:]
    # Without the old copy nothing is lost.
    cluster.kill(old)
    cluster.node(full).start()
    await load.progress()
    await load.stop()
    found = await read_everything(client, 10.0)
    own = {key: value for key, value in found.items() if key.startswith("client")}
    assert list(load.ledger.differences(own)) == []


async def has_all(cluster: ProcessCluster, id: str) -> bool:
    """Tell whether a node has saved all that some other node has applied."""
    found = await cluster.statuses()
    own = found.get(id)
    return own is not None and all(
        own["saved_index"] >= each["commit_index"]  # type: ignore[operator]
        for each in found.values()
        if each
    )


@pytest_twisted.ensureDeferred
async def test_a_copy_beside_the_original_is_recognised(
    cluster: ProcessCluster, connect: Connect
) -> None:
    """M7, M9: two processes with one identity could vote twice; the second is not let in.

    sc-F18.
    """
    await all_are_known(cluster)
    load = Load.on(cluster, connect)
    await load.progress()
    original, _ = await followers(cluster)
    node = cluster.node(original)
    await terminate(cluster, original)
    clone = newcomer(cluster, "clone", like=original)
    shutil.copytree(node.data_directory, clone.data_directory)
    text = clone.config_path.read_text("utf-8")
    clone.config_path.write_text(text.replace('id = "clone"', f'id = "{original}"'), "utf-8")
    await cluster.restart(original)
    await cluster.until(lambda: has_all(cluster, original), 10.0, "it does not catch up")
    clone.start()
    await wait_for_log(cluster, "clone", REJOIN)
    await load.progress()
    assert "is leader" not in clone.log
    clone.destroy()
    del cluster.nodes["clone"]
    await load.settle()
