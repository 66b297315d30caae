"""Backup, restoration and recovery of clusters of real processes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from raft.client import RaftClient
from raft.errors import RaftError
from raft.testing.processes import ProcessCluster
from tests.integration.load import raft

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.deadline(120)]

KEYS = 100
VALUE = "v" * 60_000
"""With so many keys of so many bytes a backup has some two dozen pieces."""


async def filled(client: RaftClient, path: Path) -> None:
    """Write what makes a large backup, save it, and write on."""
    for number in range(KEYS):
        await client.write(["set", f"k{number}", VALUE])
    await client.backup(str(path))
    await client.write(["set", "later", 1])


async def midway(cluster: ProcessCluster, client: RaftClient, leader: str) -> None:
    """Wait until some pieces are in the log."""
    begun = (await client.status(leader))["last_index"]

    async def some_pieces() -> bool:
        found = await cluster.status(leader)
        return bool(found) and found["last_index"] >= begun + 4  # type: ignore[index,operator]

    await cluster.until(some_pieces, 30.0, "no pieces came into the log")


@pytest_twisted.ensureDeferred
async def test_a_restoration_whose_leader_is_killed_is_whole_or_not_at_all(
    cluster: ProcessCluster, connect: Callable[..., RaftClient], tmp_path: Path
) -> None:
    """N8, sc-P1: on all servers alike, also on the one that was killed and comes back."""
    client = connect(cluster)
    path = tmp_path / "x"
    await filled(client, path)
    # Its client goes away with the leader: not at all.
    leader = await cluster.wait_for_leader()
    mortal = connect(cluster)
    ended: Any = mortal.restore(str(path), replace=True)
    await midway(cluster, client, leader)
    cluster.kill(leader)
    await mortal.close()
    with pytest.raises(RaftError):
        await ended
    await cluster.wait_for_leader()
    assert await client.read(["get", "later"], 10.0) == 1
    cluster.node(leader).start()
    await cluster.wait_until_equal()
    # Its client goes on: whole, though begun anew.
    leader = await cluster.wait_for_leader()
    ended = client.restore(str(path), 60.0, replace=True)
    await midway(cluster, connect(cluster), leader)
    cluster.kill(leader)
    await ended
    assert await client.read(["get", "later"], 10.0) is None
    assert await client.read(["count"], 10.0) == KEYS
    cluster.node(leader).start()
    await cluster.wait_until_equal()


@pytest_twisted.ensureDeferred
async def test_a_lost_majority_is_survived_and_does_not_come_back(
    cluster: ProcessCluster, connect: Callable[..., RaftClient]
) -> None:
    """M7, M9, sc-M15: the survivor goes on alone; an old member is refused until it was wiped."""
    client = connect(cluster)
    for number in range(10):
        await client.write(["set", f"k{number}", number])
    await cluster.wait_until_equal()
    kept, old, lost = cluster.nodes
    for id in (lost, old):
        cluster.kill(id)
    directories = {id: str(cluster.node(id).data_directory) for id in cluster.nodes}
    assert "in use" in await raft("recover", directories[kept], fails=True)
    cluster.kill(kept)
    survey = await raft("recover", "--survey", directories[kept], directories[old])
    assert f"{kept}, {old}" in survey
    assert "majority" in await raft("recover", directories[kept], directories[old], fails=True)
    told = await raft("recover", directories[kept], "--yes")
    assert "by itself" in told
    cluster.node(kept).start()
    alone = RaftClient(cluster.node(kept).address)
    assert await alone.read(["get", "k9"], 20.0) == 9
    await alone.write(["set", "after", 1])
    status: Any = await alone.status()
    assert status["cluster_id"] == status["recovered"]["cluster_id"]
    assert status["recovered"]["previous_members"] == [kept, old, lost]
    # An old member comes back with what it had: it is refused, and both say what to do.
    written = len(cluster.node(old).log)
    cluster.node(old).start()

    async def refused() -> bool:
        return "was recovered as" in cluster.node(old).log[written:]

    await cluster.until(refused, 15.0, "nothing was said of the recovery")
    assert "raft join" in cluster.node(old).log[written:]
    assert (await alone.status())["term"] == status["term"]  # type: ignore[index]
    cluster.kill(old)
    # Wiped, and without the members that found a cluster, it joins under its own id.
    shutil.rmtree(directories[old])
    path = cluster.node(old).config_path
    text = path.read_text("utf-8").partition("\n[[members]]")[0]
    (place,) = (node.place for node in cluster.nodes.values() if node.id == old)
    advertised = f'[advertise]\npeers = "{place.peers}"\nclients = "{place.clients}"\n'
    path.write_text(text.replace("# [advertise]\n", advertised, 1), "utf-8")
    cluster.node(old).start()
    joined = await raft("join", "--config", str(path), "--to", cluster.node(kept).address)
    assert f"{old} is a voter" in joined
    found: Any = await alone.status()
    assert {member["id"]: member["role"] for member in found["members"]} == {
        kept: "voter",
        old: "voter",
    }
    other: Any = await cluster.status(old)
    assert other["recovered"] == status["recovered"]
    assert other["cluster_id"] == status["cluster_id"]
    await alone.close()
