"""Whole nodes that replicate a SQLite database, through stops, snapshots and restarts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults

from raft.machines.sqlite import SQLiteDatabase
from raft.service import RaftService
from tests.node.running import Nodes, until

pytestmark = pytest.mark.integration

INSERT = "INSERT INTO t (x) VALUES (raft_uuid())"


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    made = Nodes(tmp_path)
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.stop()))


def database(nodes: Nodes, id: str) -> SQLiteDatabase:
    return SQLiteDatabase(nodes.path / f"{id}-sqlite")


def rows(node: RaftService) -> object:
    answer = node.replica.machine.query(["query", "SELECT id, x FROM t ORDER BY id"])
    assert isinstance(answer, dict)
    return answer["rows"]


@pytest_twisted.ensureDeferred
async def test_three_nodes_have_the_same_rows(nodes: Nodes) -> None:
    """I7: and what comes from chance is the same on each."""
    started = [nodes.start(id, database(nodes, id)) for id in "abc"]
    await started[0].set_configuration([nodes.member(node) for node in started], 8.0)
    leader = await nodes.leader()
    await leader.write(["execute", "CREATE TABLE t (id INTEGER PRIMARY KEY, x)"])
    await gatherResults([leader.write(["execute", INSERT]) for _ in range(20)])
    index = leader.replica.last_applied
    await until(lambda: all(node.replica.last_applied >= index for node in started))
    assert len(rows(leader)) == 20  # type: ignore[arg-type]
    assert rows(started[0]) == rows(started[1]) == rows(started[2])
    assert len({node.replica.digest for node in started}) == 1


@pytest.mark.parametrize("snapshot", [False, True])
@pytest_twisted.ensureDeferred
async def test_a_restarted_node_applies_nothing_again(nodes: Nodes, snapshot: bool) -> None:
    """S5: neither the log nor a snapshot that is older than the database."""
    node = nodes.start("a", database(nodes, "a"))
    await node.set_configuration([nodes.member(node)], 8.0)
    await nodes.leader()
    await node.write(["execute", "CREATE TABLE t (id INTEGER PRIMARY KEY, x)"])
    await node.write(["execute", INSERT])
    if snapshot:
        await node.shell.snapshots.take()
    await node.write(["execute", INSERT])
    before, digest, applied = rows(node), node.replica.digest, node.replica.last_applied
    await node.stopService()
    again = nodes.start("a", database(nodes, "a"))
    assert (again.replica.last_applied, again.replica.digest) == (applied, digest)
    await nodes.leader()
    assert rows(again) == before
    await again.write(["execute", INSERT])
    assert len(rows(again)) == 3  # type: ignore[arg-type]


@pytest_twisted.ensureDeferred
async def test_a_database_that_was_lost_comes_back_from_snapshot_and_log(nodes: Nodes) -> None:
    """N7."""
    node = nodes.start("a", database(nodes, "a"))
    await node.set_configuration([nodes.member(node)], 8.0)
    await nodes.leader()
    await node.write(["execute", "CREATE TABLE t (id INTEGER PRIMARY KEY, x)"])
    await node.write(["execute", INSERT])
    await node.shell.snapshots.take()
    await node.write(["execute", INSERT])
    before, digest, applied = rows(node), node.replica.digest, node.replica.last_applied
    await node.stopService()
    again = nodes.start("a", SQLiteDatabase(nodes.path / "elsewhere"))
    await until(lambda: again.replica.last_applied >= applied)
    assert rows(again) == before
    await until(lambda: again.replica.last_applied > applied)
    assert again.replica.digest != digest
