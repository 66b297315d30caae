"""Whole nodes that replicate a SQLite database, through stops, snapshots and restarts."""

from __future__ import annotations

import shutil
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults

from raft.errors import LogLost
from raft.machines.sqlite import SQLiteDatabase
from raft.node.bounds import Bounds
from raft.service import RaftService
from tests.node.running import Nodes, until

pytestmark = pytest.mark.integration

STATE_MEGABYTES = 64
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
async def test_a_database_ahead_of_what_is_known_to_be_committed_goes_on(nodes: Nodes) -> None:
    """After a restart nobody tells a lone follower what is committed; its database knows."""
    started = [nodes.start(id, database(nodes, id)) for id in "abc"]
    await started[0].set_configuration([nodes.member(node) for node in started], 8.0)
    leader = await nodes.leader()
    await leader.write(["execute", "CREATE TABLE t (id INTEGER PRIMARY KEY, x)"])
    await gatherResults([leader.write(["execute", INSERT]) for _ in range(20)])
    node = next(each for each in started if each is not leader)
    applied = leader.replica.last_applied
    await until(lambda: node.replica.last_applied == applied)
    before, fixed = rows(node), {each.id: nodes.fixed(each) for each in started}
    for each in started:
        await each.stopService()
    nodes.all.clear()
    alone = nodes.start(node.id, database(nodes, node.id), **fixed[node.id])
    assert alone.shell.server.commit_index == alone.replica.last_applied >= applied
    answer = await alone.read(["query", "SELECT count(*) FROM t"], consistency="local")
    assert answer == {"columns": ["count(*)"], "rows": [[20]]}
    # Entries that were not committed yet are neither lost nor applied; a snapshot may be taken.
    assert await alone.take_snapshot() == alone.replica.last_applied
    for each in started:
        if each is not node:
            nodes.start(each.id, database(nodes, each.id), **fixed[each.id])
    leader = await nodes.leader()
    await leader.write(["execute", INSERT])
    last = leader.replica.last_applied
    await until(lambda: all(each.replica.last_applied >= last for each in nodes.all.values()))
    assert len({each.replica.digest for each in nodes.all.values()}) == 1
    assert rows(alone)[:20] == before  # type: ignore[index]


class SlowStorage:
    """A node's storage that writes nothing yet from the first mark of a snapshot on."""

    def __init__(self, storage: Any) -> None:
        self.storage = storage
        self.waiting: list[Any] = []

    def mark_snapshot(self, *mark: Any) -> None:
        self.waiting.append(mark)

    def save(self, *save: Any) -> bool:
        if self.waiting:
            self.waiting.append(save)
            return False
        done: bool = self.storage.save(*save)
        return done

    def __getattr__(self, name: str) -> Any:
        return getattr(self.storage, name)


@pytest_twisted.ensureDeferred
async def test_an_installed_snapshot_is_not_in_the_database_before_its_mark_in_the_log(
    nodes: Nodes,
) -> None:
    """N1: a crash in between leaves a database that is behind the log, and never ahead of it."""
    bounds = Bounds(snapshot_entries=0, trailing_entries=0, trailing_bytes=0)
    started = [nodes.start(id, database(nodes, id), bounds=bounds) for id in "abc"]
    await started[0].set_configuration([nodes.member(node) for node in started], 8.0)
    leader = await nodes.leader()
    await leader.write(["execute", "CREATE TABLE t (id INTEGER PRIMARY KEY, x)"])
    behind = next(each for each in started if each is not leader)
    await until(lambda: behind.replica.last_applied == leader.replica.last_applied)
    nodes.isolate(behind.id)
    await gatherResults([leader.write(["execute", INSERT]) for _ in range(20)])
    index = await leader.take_snapshot()
    applied = behind.replica.last_applied
    slow = behind.shell.storage = SlowStorage(behind.storage)
    nodes.cut.clear()
    await until(lambda: slow.waiting)
    assert behind.status()["restoring"]
    assert behind.replica.last_applied == applied < index
    fixed = nodes.fixed(behind)
    await behind.stopService()
    again = nodes.start(behind.id, database(nodes, behind.id), bounds=bounds, **fixed)
    assert again.replica.last_applied == applied
    await until(lambda: again.replica.last_applied >= index)
    assert rows(again) == rows(leader)
    assert again.replica.digest == leader.replica.digest


@pytest.mark.parametrize("lost", ["directory", "entries"])
@pytest_twisted.ensureDeferred
async def test_a_database_ahead_of_its_log_does_not_start(nodes: Nodes, lost: str) -> None:
    """M9, sc-F26: the log was lost, or is an older copy: the server says so and what to do."""
    node = nodes.start("a", database(nodes, "a"))
    await node.set_configuration([nodes.member(node)], 8.0)
    await nodes.leader()
    await node.write(["execute", "CREATE TABLE t (id INTEGER PRIMARY KEY, x)"])
    await node.stopService()
    directory = Path(node.settings.data_directory)
    copy = nodes.path / "copy"
    shutil.copytree(directory, copy)
    nodes.all.clear()
    node = nodes.start("a", database(nodes, "a"))
    await nodes.leader()
    await node.write(["execute", INSERT])
    applied = node.replica.last_applied
    await node.stopService()
    nodes.all.clear()
    shutil.rmtree(directory)
    if lost == "entries":
        shutil.copytree(copy, directory)
    with pytest.raises(LogLost, match="let it join again with empty directories") as caught:
        nodes.start("a", database(nodes, "a"))
    assert caught.value.last_applied == applied > caught.value.last_index
    # The lock and the database were let go.
    shutil.rmtree(nodes.path / "a-sqlite")
    nodes.start("a", database(nodes, "a"))


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


@pytest.mark.slow
@pytest.mark.deadline(90)
@pytest_twisted.ensureDeferred
async def test_a_state_that_is_larger_than_what_may_be_held_goes_to_a_new_node(
    nodes: Nodes,
) -> None:
    """N5, sc-S12: neither side holds more than its windows, however large the database is."""
    bounds = Bounds(snapshot_entries=0, trailing_bytes=0, trailing_entries=0, cache_bytes=1 << 20)
    node = nodes.start("a", database(nodes, "a"), bounds=bounds)
    await node.set_configuration([nodes.member(node)], 8.0)
    await nodes.leader()
    await node.write(["execute", "CREATE TABLE t (id INTEGER PRIMARY KEY, x)"])
    for _ in range(STATE_MEGABYTES):
        await node.write(["execute", "INSERT INTO t (x) VALUES (zeroblob(1000000))"])
    newcomer = nodes.start("b", database(nodes, "b"), bounds=bounds)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        await node.shell.snapshots.take()
        await node.add_learner(nodes.member(newcomer), 30.0)
        await until(lambda: newcomer.replica.last_applied >= STATE_MEGABYTES, 30.0)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert newcomer.replica.machine.query(["query", "SELECT count(*) FROM t"]) == {
        "columns": ["count(*)"],
        "rows": [[STATE_MEGABYTES]],
    }
    # Both nodes live in this process: pieces on their way, and what they are made of and into.
    assert peak < 12_000_000
