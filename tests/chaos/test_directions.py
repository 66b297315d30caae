"""Real nodes whose links are cut in one direction, and whose wall clocks are set."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from attrs import define
from twisted.internet.defer import Deferred

from raft.chaos.cluster import ChaosCluster, Template
from raft.chaos.mesh import Mesh
from raft.chaos.proxy import Mode
from raft.client import RaftClient

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.deadline(60)]

T_SECONDS = 0.3
HEALING_SECONDS = 20.0
DAY_SECONDS = 86_400.0


@define
class Stand:
    """A cluster behind proxies, and a client that comes in through them."""

    mesh: Mesh
    cluster: ChaosCluster
    client: RaftClient

    def cut(self, source: str, target: str) -> None:
        self.mesh.link(source, target).become(Mode.CUT)

    async def term_of(self, id: str) -> int:
        status = await self.cluster.status(id)
        assert status is not None
        return int(str(status["term"]))

    async def campaigns(self, id: str) -> None:
        """Wait until a node has found itself without a leader."""

        async def alone() -> bool:
            status = await self.cluster.status(id)
            return status is not None and not status["leader"]

        await self.cluster.until(alone, HEALING_SECONDS, f"{id} still hears a leader")


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    from twisted.internet import reactor

    mesh = Mesh(reactor)
    settings = {**Template().settings, "clock_drift": 1.1}
    cluster = ChaosCluster(tmp_path, 3, mesh, Template(settings=settings), reactor)
    stand = Stand(mesh, cluster, cluster.outside_client(timeout_seconds=10.0))
    try:
        yield stand
    finally:
        cluster.destroy()
        for closing in (stand.client.close(), Deferred.fromCoroutine(mesh.close())):
            pytest_twisted.blockon(closing)


@pytest_twisted.ensureDeferred
async def test_a_server_that_hears_nothing_moves_no_term_and_a_deaf_leader_steps_down(
    stand: Stand,
) -> None:
    """E5, E6, E7, sc-E2, sc-E3: with links cut in one direction, between real processes."""
    cluster, client = stand.cluster, stand.client
    leader = await cluster.start()
    await client.write(["set", "a", 1])
    term = await stand.term_of(leader)
    deaf, other = (id for id in cluster.nodes if id != leader)
    for id in (leader, other):
        stand.cut(id, deaf)
    await stand.campaigns(deaf)
    began = time.monotonic()
    while time.monotonic() < began + 6 * T_SECONDS:
        await client.write(["set", "a", 2])
    assert [await stand.term_of(id) for id in cluster.nodes] == [term] * 3
    stand.mesh.heal()
    await cluster.wait_until_equal(1, HEALING_SECONDS)
    assert await cluster.wait_for_leader() == leader

    for id in (deaf, other):
        stand.cut(id, leader)
    successor = await cluster.wait_for_leader(HEALING_SECONDS, other_than=leader)
    status = await cluster.status(leader)
    assert status is not None
    assert (status["role"], status["leader"]) != ("leader", leader)
    await client.write(["set", "a", 3])
    stand.mesh.heal()
    await cluster.wait_until_equal(1, HEALING_SECONDS)
    assert await client.read(["get", "a"]) == 3
    assert successor in (deaf, other)


@pytest_twisted.ensureDeferred
async def test_wall_clocks_change_nothing(stand: Stand) -> None:
    """sc-P5, sc-K13: nodes a day apart from the start; then each is set forth and back."""
    cluster, client = stand.cluster, stand.client
    first, second, third = cluster.nodes
    cluster.set_clock(first, -DAY_SECONDS)
    cluster.set_clock(third, DAY_SECONDS)
    leader = await cluster.start()
    term = await stand.term_of(leader)
    number = 0
    for ahead in (3600.0, -3600.0, DAY_SECONDS, -DAY_SECONDS):
        for id in (leader, first, second, third):
            cluster.set_clock(id, ahead)
            number += 1
            await client.write(["set", "number", number])
            assert await client.read(["get", "number"], consistency="lease") == number
    assert [await stand.term_of(id) for id in cluster.nodes] == [term] * 3
    statuses: Any = await cluster.wait_until_equal(1)
    assert {status["leader"] for status in statuses.values()} == {leader}
    assert {status["session_expired_count"] for status in statuses.values()} == {0}
    # Timers that ran by a wall clock would be silent until it comes to where it was, in a day.
    cluster.kill(leader)
    await cluster.wait_for_leader(HEALING_SECONDS, other_than=leader)
    for node in cluster.nodes.values():
        assert "Traceback" not in node.log
    # Their logs show that they did believe it.
    days = {cluster.node(id).log[:10] for id in (first, second, third)}
    assert len(days) == 3
