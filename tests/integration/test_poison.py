"""A command at which servers stop, on real processes: how they end, and the way past it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import pytest_twisted

import raft
from raft.client import RaftClient
from raft.errors import RaftError
from raft.testing.processes import NodeProcess, ProcessCluster
from tests.integration.load import raft as typed
from tests.node import strict

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.deadline(90)]

ENDS_SECONDS = 20.0


@pytest.fixture(autouse=True)
def application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the processes find the machines."""
    shutil.copy(str(strict.__file__), tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{Path(raft.__file__).parent.parent}:{tmp_path}")
    monkeypatch.syspath_prepend(str(tmp_path))


async def ended(cluster: ProcessCluster, nodes: list[NodeProcess], count: int) -> list[NodeProcess]:
    """Wait until `count` of the nodes have ended; return those that have."""

    async def enough() -> list[NodeProcess] | None:
        found = [node for node in nodes if not node.running]
        return found if len(found) >= count else None

    return await cluster.until(enough, ENDS_SECONDS, f"{count} nodes do not end", nodes)


def entry_of(node: NodeProcess, written: int = 0) -> int:
    """Return the entry at which a node stopped, which said so in one line and no traceback."""
    told = node.log[written:]
    assert node.exit_code == 1
    assert "Traceback" not in told
    assert "canary" not in told
    (line,) = [line for line in told.splitlines() if line.startswith("raft: ")]
    found = re.search(r"(\w+) at entry (\d+), a command of \d+ bytes, .*raft skip (\d+)", line)
    assert found, line
    assert found[2] == found[3]
    return int(found[2])


@pytest_twisted.ensureDeferred
async def test_a_server_whose_disk_fails_at_a_command_ends_alone(
    make_cluster: Callable[..., ProcessCluster], connect: Callable[..., RaftClient]
) -> None:
    """sc-SM2, sc-P14: it does not skip the command, and applies it once it is well."""
    cluster = make_cluster(machine="strict:Sick")
    leader = await cluster.start()
    client = connect(cluster, timeout_seconds=10.0)
    ill = next(node for id, node in cluster.nodes.items() if id != leader)
    illness = Path(f"{ill.config_path}.ill")
    illness.touch()
    await client.write(["set", "poison", 1])
    await ended(cluster, [ill], 1)
    entry = entry_of(ill)
    await client.write(["set", "after", 1])
    # Started again, it stops there again; nobody else is disturbed.
    written = len(ill.log)
    ill.start()
    await ended(cluster, [ill], 1)
    assert entry_of(ill, written) == entry
    assert await client.read(["get", "after"]) == 1
    illness.unlink()
    ill.start()
    await cluster.wait_until_equal()
    assert "Traceback" not in ill.log


@pytest_twisted.ensureDeferred
async def test_servers_that_stop_at_one_entry_go_past_it_by_the_command_line(
    make_cluster: Callable[..., ProcessCluster], connect: Callable[..., RaftClient]
) -> None:
    """sc-P14: all end with 1 at the same entry, again after a restart; `raft skip` is the way."""
    cluster = make_cluster(machine="strict:Strict")
    await cluster.start()
    nodes = list(cluster.nodes.values())
    client = connect(cluster, timeout_seconds=10.0)
    await client.write(["set", "before", 1])
    with pytest.raises(RaftError):
        await client.write(["set", "poison", 1], 1.0)
    stopped = await ended(cluster, nodes, 2)
    (entry,) = {entry_of(node) for node in stopped}
    written = {node.id: len(node.log) for node in stopped}
    for node in nodes:
        node.start()
    for node in await ended(cluster, nodes, 2):
        assert entry_of(node, written.get(node.id, 0)) == entry
    await cluster.stop()
    for node in nodes:
        node.arguments.append("--hold")
        node.start()
    await cluster.wait_for_leader()
    at = nodes[0].address
    told = await typed("skip", str(entry), "--yes", "-e", at)
    assert f"Entry {entry} of term " in told
    assert f"says that entry {entry} is skipped" in told
    await cluster.stop()
    for node in nodes:
        node.arguments.remove("--hold")
        node.start()
    await cluster.wait_for_leader()
    await client.write(["set", "after", 1])
    await cluster.wait_until_equal()
    found = [await client.read(["get", key]) for key in ("before", "poison", "half", "after")]
    assert found == [1, None, None, 1]
