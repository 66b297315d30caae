"""Backup, restoration and recovery of clusters of real processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from raft.client import RaftClient
from raft.errors import RaftError
from raft.testing.processes import ProcessCluster

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
    """N8: on all servers alike, also on the one that was killed and comes back."""
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
