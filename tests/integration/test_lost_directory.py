"""A node whose directory was wiped: recognised, silent in elections, and said so."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest
import pytest_twisted
from twisted.internet.task import deferLater

from raft.client import RaftClient
from raft.errors import RaftError
from raft.testing.processes import ProcessCluster

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.deadline(60)]


@pytest_twisted.ensureDeferred
async def test_a_wiped_server_does_not_vote_and_says_what_to_do(
    cluster: ProcessCluster, connect: Callable[..., RaftClient]
) -> None:
    """M7, M9: what lost its data may have voted and acknowledged; it must not do so again."""
    from twisted.internet import reactor

    client = connect(cluster, timeout_seconds=10.0)
    await client.write(["set", "before", 1])
    leader = await cluster.wait_for_leader()
    await cluster.wait_until_equal()
    wiped = next(id for id in cluster.nodes if id != leader)
    cluster.kill(wiped)
    shutil.rmtree(cluster.node(wiped).data_directory)
    lines_before = len(cluster.node(wiped).log)
    cluster.node(wiped).start()

    async def said() -> bool:
        return "incarnation" in cluster.node(wiped).log[lines_before:]

    await cluster.until(said, 15.0, "nothing was said of the lost directory")
    # The other two go on.
    await client.write(["set", "after", 1])
    # With the leader gone only the wiped one's vote could make another leader.
    cluster.kill(leader)
    with pytest.raises(RaftError):
        await client.write(["set", "never", 1], 2.5)
    for id, status in (await cluster.statuses()).items():
        assert status is None or status["role"] != "leader", id
    await deferLater(reactor, 0)
    await cluster.restart(leader)
    await cluster.wait_for_leader()
    assert await client.read(["get", "after"], 10.0) == 1
