"""A rolling upgrade of real `twistd` processes under load: one switch, at one entry, on all."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import clientFromString, connectProtocol

import raft
from raft.codec import PLAIN
from raft.errors import RaftError
from raft.interfaces import ReadTerms
from raft.testing.processes import NodeProcess, ProcessCluster
from raft.transport.calls import ClientConnection
from tests.node import ledgers

pytestmark = [pytest.mark.integration, pytest.mark.deadline(60)]

OLD, NEW = "ledgers:Ledger1", "ledgers:Ledger2"


@pytest.fixture
def application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the processes find the releases of an application."""
    shutil.copy(str(ledgers.__file__), tmp_path)
    path = f"{Path(raft.__file__).parent.parent}:{tmp_path}"
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.syspath_prepend(str(tmp_path))


def install(node: NodeProcess, release: str) -> None:
    """Let the node run `release` at its next start."""
    before = OLD if release == NEW else NEW
    text = node.config_path.read_text()
    assert f'machine = "{before}"' in text
    node.config_path.write_text(text.replace(before, release))


async def ended(cluster: ProcessCluster, node: NodeProcess) -> None:
    async def gone() -> bool:
        return not node.running

    await cluster.until(gone, 15.0, f"{node.id} does not end", [node])


async def in_force(cluster: ProcessCluster, version: int) -> None:
    async def everywhere() -> bool:
        found = (await cluster.statuses(cluster.nodes)).values()
        return all(each and each.get("machine_version") == version for each in found)

    await cluster.until(everywhere, 20.0, f"version {version} is not in force")


@pytest_twisted.ensureDeferred
async def test_a_cluster_is_upgraded_under_load_and_switches_at_one_entry(
    application: None, make_cluster: Callable[..., ProcessCluster], connect: Callable[..., Any]
) -> None:
    """sc-U1, sc-SM7, sc-F27: and a node that goes back does not start."""
    cluster = make_cluster(machine=OLD, settings={"snapshot_entries": 300})
    await cluster.start()
    client = connect(cluster, timeout_seconds=5.0)
    results: list[list[int]] = []
    running = True

    async def load(writer: int) -> None:
        while running:
            try:
                results.append(await client.write(["add", f"{writer}", 1]))
            except RaftError:
                pass

    async def more(count: int) -> None:
        before = len(results)

        async def enough() -> bool:
            return len(results) >= before + count

        await cluster.until(enough, 20.0, "too few writes")

    loads = [Deferred.fromCoroutine(load(writer)) for writer in range(3)]
    for node in cluster.nodes.values():
        await more(80)
        await in_force(cluster, 1)
        node.signal(signal.SIGTERM)
        await ended(cluster, node)
        install(node, NEW)
        await cluster.restart(node.id)
        await cluster.wait_for_leader()
    await in_force(cluster, 2)
    await more(80)
    running = False
    await gatherResults(loads)
    await cluster.wait_until_equal()
    seen = [await seen_by(node) for node in cluster.nodes.values()]
    assert seen[0] == seen[1] == seen[2]
    found = [version for _, version in seen[0]]
    assert found == sorted(found)
    assert set(found) == {1, 2}
    assert [version for version, _ in results] == sorted(version for version, _ in results)
    assert len(seen[0]) >= len(results)
    # There is no way back.
    node = cluster.nodes["node2"]
    cluster.kill("node2")
    install(node, OLD)
    node.start()
    await ended(cluster, node)
    assert node.exit_code == 1
    assert "version 2 of the machine, this node" in node.log
    assert "upgrade it" in node.log
    assert "Traceback" not in node.log


async def seen_by(node: NodeProcess) -> list[list[int]]:
    """Return what one node has applied: at which index, and as which version."""
    from twisted.internet import reactor

    endpoint = clientFromString(reactor, node.address)
    connection: Any = await connectProtocol(endpoint, ClientConnection(reactor))
    query = PLAIN.encode("seen")
    results = await connection.read_batch([query], 5000, ReadTerms("local"))
    connection.transport.loseConnection()
    return list(json.loads(results[0]))
