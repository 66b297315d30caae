"""A node whose directory was wiped: recognised, silent in elections, and said so."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest
import pytest_twisted

from raft.client import RaftClient
from raft.errors import RaftError
from raft.testing.processes import ProcessCluster
from tests.integration.load import all_are_known

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.deadline(60)]

SEVERAL_ELECTIONS_SECONDS = 2.5


@pytest_twisted.ensureDeferred
async def test_a_wiped_server_does_not_vote_and_says_what_to_do(
    cluster: ProcessCluster, connect: Callable[..., RaftClient]
) -> None:
    """M7, M9: what lost its data may have voted and acknowledged; it must not do so again.

    sc-F6.
    """
    client = connect(cluster, timeout_seconds=10.0)
    await client.write(["set", "before", 1])
    leader = await cluster.wait_for_leader()
    await all_are_known(cluster)
    wiped, witness = (id for id in cluster.nodes if id != leader)
    cluster.kill(wiped)
    shutil.rmtree(cluster.node(wiped).data_directory)
    # With the leader gone, only the wiped one's vote could make another.
    cluster.kill(leader)
    written = len(cluster.node(wiped).log)
    witnessed = len(cluster.node(witness).log)
    cluster.node(wiped).start()

    async def said() -> bool:
        return "incarnation" in cluster.node(wiped).log[written:]

    await cluster.until(said, 15.0, "nothing was said of the lost directory")
    assert "remove" in cluster.node(wiped).log[written:]
    with pytest.raises(RaftError):
        await client.write(["set", "never", 1], SEVERAL_ELECTIONS_SECONDS)
    for log in (cluster.node(wiped).log[written:], cluster.node(witness).log[witnessed:]):
        assert "is leader" not in log
    # The two that kept their data go on.
    await cluster.restart(leader)
    await cluster.wait_for_leader()
    await client.write(["set", "after", 1])
    assert await client.read(["get", "before"]) == 1
    assert await client.read(["get", "never"]) is None
    assert "Traceback" not in cluster.node(wiped).log[written:]
