"""What operators do to a running cluster, under load: nothing acknowledged is lost."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from attrs import evolve

from raft.client import RaftClient
from raft.errors import NotApplied, OutcomeUnknown, Timeout
from raft.testing.processes import NodeProcess, ProcessCluster
from tests.integration.load import Connect, Load, newcomer, raft, terminate, wait_for_log

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.deadline(60)]

FEW = 6
"""So many writes may fail in a rolling restart: those on their way when a leader ends."""


@pytest_twisted.ensureDeferred
async def test_a_rolling_restart_is_hardly_noticed(
    cluster: ProcessCluster, connect: Connect
) -> None:
    """M10: SIGTERM hands the leadership over first, and each node comes back to where it was.

    sc-P11.
    """
    load = Load.on(cluster, connect, 3)
    await load.progress()
    for id in list(cluster.nodes):
        leader = await cluster.wait_for_leader()
        start = len(cluster.node(id).log)
        assert await terminate(cluster, id) == -15
        assert "without a successor" not in cluster.node(id).log[start:]
        if id == leader:
            await cluster.wait_for_leader(other_than=id)
        await load.progress()
        await cluster.restart(id)
        await cluster.wait_for_leader()
        await load.progress()
    await load.settle()
    failed = len(load.ledger.refused) + len(load.ledger.unknown)
    assert failed <= FEW, load.ledger


@pytest_twisted.ensureDeferred
async def test_without_a_majority_every_call_is_refused_and_nothing_is_lost(
    cluster: ProcessCluster, connect: Connect
) -> None:
    """E7, R6: who is left says that there is no leader; what it had is there afterwards."""
    load = Load.on(cluster, connect)
    await load.progress()
    leader = await cluster.wait_for_leader()
    others = [id for id in cluster.nodes if id != leader]
    for id in others:
        cluster.kill(id)

    async def stepped_down() -> bool:
        status = await cluster.status(leader)
        return status is not None and status["role"] != "leader"

    await cluster.until(stepped_down, 10.0, "it leads on without a majority")
    client = connect(cluster)
    stated = (NotApplied, OutcomeUnknown, Timeout)
    with pytest.raises(stated):
        await client.write(["set", "lost", 1], 1.0)
    with pytest.raises(stated):
        await client.read(["get", "lost"], 1.0)
    # Asked itself, the survivor says what it is.
    at = ("-e", cluster.node(leader).address)
    printed = await raft("status", *at, "--json", fails=True)
    assert "Traceback" not in printed
    assert re.fullmatch(r"raft: .*\n", await raft("kv", "get", "lost", *at, "-t", "1", fails=True))
    for id in others:
        cluster.node(id).start()
    await cluster.wait_for_leader()
    await load.progress()
    await load.settle()


@pytest_twisted.ensureDeferred
async def test_all_addresses_change_at_once_under_load(
    make_cluster: Callable[..., ProcessCluster], connect: Connect
) -> None:
    """M7: addresses are data: one step of the configuration, and no restart of the cluster.

    sc-M13.
    """
    cluster = make_cluster(settings={"allow_plaintext": True})
    for node in cluster.nodes.values():
        # At all of the machine's addresses: the old and the new one.
        listen(node, "")
    await cluster.start()
    load = Load.on(cluster, connect)
    await load.progress()
    moved = {id: evolve(node.place, host="127.0.0.2") for id, node in cluster.nodes.items()}
    await load.clients[0].set_configuration(
        [
            {"id": id, "peer_address": place.peers, "client_address": place.clients}
            for id, place in moved.items()
        ]
    )
    await load.progress()
    # The old addresses may go, one node after the other.
    for id, node in cluster.nodes.items():
        await terminate(cluster, id)
        listen(node, ":interface=127.0.0.2")
        node.place = moved[id]
        node.start()
        await cluster.until(lambda id=id: cluster.status(id), 10.0, "it is not there")
        await cluster.until(lambda: leads(cluster), 10.0, "nobody leads")
    await load.stop()
    again = RaftClient(cluster.addresses)
    try:
        await load.settle(again)
        await again.write(["set", "moved", True])
    finally:
        await again.close()


async def leads(cluster: ProcessCluster) -> bool:
    """Tell whether some node leads and all of them know it."""
    found = await cluster.statuses()
    return len({each["leader"] for each in found.values() if each and each["leader"]}) == 1


def listen(node: NodeProcess, where: str) -> None:
    """Let a node listen for peers and clients at `where`, from its next start on."""
    text = node.config_path.read_text("utf-8")
    for key, port in (("peers", node.place.port), ("clients", node.place.port + 1000)):
        text = re.sub(rf'^{key} = "tcp:{port}.*$', f'{key} = "tcp:{port}{where}"', text, flags=re.M)
    node.config_path.write_text(text, "utf-8")


@pytest_twisted.ensureDeferred
async def test_a_dead_node_is_replaced_under_load(
    cluster: ProcessCluster, connect: Connect
) -> None:
    """M3, M5, M6: the newcomer has everything before it votes; who returns is told."""
    load = Load.on(cluster, connect)
    await load.progress()
    leader = await cluster.wait_for_leader()
    dead, other = (id for id in cluster.nodes if id != leader)
    cluster.kill(dead)
    await load.progress()
    fresh = newcomer(cluster, "node4")
    fresh.start()
    to = ("--to", cluster.node(other).address, "--to", cluster.node(leader).address)
    told = await raft("join", "--config", str(fresh.config_path), *to, "--replace", dead)
    assert told == "node4 is a voter of the cluster.\n"
    listed: Any = json.loads(await raft("member", "list", "--json", "-e", fresh.address))
    assert {member["id"] for member in listed["members"]} == {leader, other, "node4"}
    await load.progress()
    # The dead one comes back, and learns from those it dials that it is out.
    start = len(cluster.node(dead).log)
    status = await cluster.restart(dead)
    await wait_for_log(cluster, dead, "was removed from the cluster", start)
    term = status["term"]
    start = len(cluster.node(dead).log)
    await cluster.restart(dead)
    await wait_for_log(cluster, dead, "was removed from the cluster", start)
    status = await cluster.status(dead, 2.0) or {}
    assert (status["removed"], status["role"], status["term"]) == (True, "follower", term)
    cluster.kill(dead)
    del cluster.nodes[dead]
    await load.settle()
