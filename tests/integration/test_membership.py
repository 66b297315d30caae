"""A running cluster of processes grows, shrinks and replaces, told by the command line alone."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.utils import getProcessOutputAndValue

from raft.cli.init import places
from raft.client import RaftClient
from raft.errors import RaftError
from raft.testing.ports import HOST, free_base_port
from raft.testing.processes import PORTS_ABOVE, NodeProcess, ProcessCluster

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.deadline(120)]


async def raft(*arguments: str) -> str:
    """Run `raft` and return what it printed; fails the test where it fails."""
    command = ["-c", "from raft.cli.main import main; main()", *arguments]
    out, err, code = await getProcessOutputAndValue(sys.executable, command, env=None)
    assert code == 0, (arguments, out, err)
    return str(out.decode())


def newcomer(cluster: ProcessCluster, id: str) -> NodeProcess:
    """Return a node that is no member yet: a member's file without members, and its own ports."""
    (place,) = places(1, free_base_port(1, PORTS_ABOVE), [HOST])
    model = cluster.node("node1")
    text = model.config_path.read_text("utf-8").partition("\n[[members]]")[0]
    text = text.replace("node1", id)
    for above in PORTS_ABOVE:
        text = text.replace(str(model.place.port + above), str(place.port + above))
    path = cluster.directory / f"{id}.toml"
    path.write_text(text, "utf-8")
    path.chmod(0o644)
    assert re.search(rf'^id = "{id}"$', text, re.MULTILINE)
    made = NodeProcess(place, path, Path(f"{path}.log"), cluster.directory / f"{id}-data")
    cluster.nodes[id] = made
    return made


class Load:
    """Writes one key after another until it is stopped; remembers what was acknowledged."""

    def __init__(self, client: RaftClient) -> None:
        self.client = client
        self.acknowledged: list[int] = []
        self.goes_on = True
        self.ended = Deferred.fromCoroutine(self.run())

    async def run(self) -> None:
        number = 0
        while self.goes_on:
            number += 1
            try:
                await self.client.write(["set", f"k{number}", number])
            except RaftError as error:
                # A client that is closed fails at once, and would be asked for ever.
                self.goes_on &= "closed" not in str(error)
                continue
            self.acknowledged.append(number)


@pytest_twisted.ensureDeferred
async def test_join_under_load_remove_a_dead_node_replace_a_dead_node(
    cluster: ProcessCluster, connect: Callable[..., RaftClient]
) -> None:
    """M3, M5, M6: nothing that was acknowledged is lost, whoever comes and goes."""
    client = connect(cluster)
    load = Load(client)
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
    load.goes_on = False
    await load.ended
    assert len(load.acknowledged) > 50
    values = await gatherResults([client.read(["get", f"k{each}"]) for each in load.acknowledged])
    assert values == load.acknowledged
    del cluster.nodes[first], cluster.nodes[second]
    await cluster.wait_until_equal()
