"""A SQLite database replicated by real `twistd` processes, killed in the middle."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import clientFromString, connectProtocol

from raft.codec import PLAIN
from raft.errors import NotApplied, OutcomeUnknown, Timeout
from raft.numbering import SessionCall
from raft.testing.processes import ProcessCluster
from raft.transport.calls import ClientConnection

pytestmark = [pytest.mark.integration, pytest.mark.deadline(60)]

INSERT = "INSERT INTO t (name) VALUES (?)"


def rows(cluster: ProcessCluster, id: str) -> list[tuple[object, ...]]:
    """Read the file of a node beside its process, as any other program may."""
    (path,) = (cluster.node(id).data_directory / "machine").glob("database-*.sqlite")
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return connection.execute("SELECT id, name FROM t ORDER BY id").fetchall()
    finally:
        connection.close()


async def connected(cluster: ProcessCluster, id: str) -> ClientConnection:
    from twisted.internet import reactor

    endpoint = clientFromString(reactor, cluster.node(id).address)
    found: Any = await connectProtocol(endpoint, ClientConnection(reactor))
    return found


@pytest_twisted.ensureDeferred
async def test_a_database_survives_kills_in_the_middle(
    make_cluster: Callable[..., ProcessCluster], connect: Callable[..., Any]
) -> None:
    """S5, S7: equal rows on all, each acknowledged one is there, and once."""
    cluster = make_cluster(machine="sqlite", settings={"snapshot_entries": 200})
    leader = await cluster.start()
    client = connect(cluster, timeout_seconds=10.0)
    await client.write(["execute", "CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT)"])
    known: list[str] = []
    unknown: list[str] = []
    running = True

    async def load(writer: int) -> None:
        number = 0
        while running:
            number += 1
            name = f"{writer}.{number}"
            try:
                await client.write(["execute", INSERT, [name]])
                known.append(name)
            except (OutcomeUnknown, Timeout):
                unknown.append(name)
            except NotApplied:
                pass

    async def more(count: int) -> None:
        before = len(known)

        async def enough() -> bool:
            return len(known) >= before + count

        await cluster.until(enough, 20.0, "too few writes")

    loads = [Deferred.fromCoroutine(load(writer)) for writer in range(4)]
    await more(150)
    cluster.kill(leader)
    leader = await cluster.wait_for_leader(other_than=leader)
    await more(150)
    for id in cluster.nodes:
        if id not in cluster.running:
            await cluster.restart(id)
    # All at once, which no majority survives: what was acknowledged is on their disks.
    for id in cluster.nodes:
        cluster.kill(id)
    await cluster.start()
    await more(100)
    running = False
    await gatherResults(loads)
    await cluster.wait_until_equal()
    found = {id: rows(cluster, id) for id in cluster.nodes}
    assert found["node1"] == found["node2"] == found["node3"]
    names = [str(name) for _, name in found["node1"]]
    assert set(known) <= set(names) <= {*known, *unknown}
    assert len(set(names)) == len(names)


@pytest_twisted.ensureDeferred
async def test_a_command_of_a_session_stays_done_after_all_were_killed(
    make_cluster: Callable[..., ProcessCluster],
) -> None:
    """S5: the session and the rows are one transaction, so a copy finds both or neither."""
    cluster = make_cluster(machine="sqlite")
    leader = await cluster.start()
    connection = await connected(cluster, leader)
    session = (await connection.open_session(b"8 bytes!", 8000)).id
    create = PLAIN.encode(["execute", "CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT)"])
    insert = PLAIN.encode(["execute", INSERT + " RETURNING id", ["once"]])
    call = SessionCall(session, 1, 1)
    first = await connection.write_batch([create, insert], 8000, session=call)
    assert first[1] == {"changes": 1, "rows": [[1]]}
    await cluster.wait_until_equal()
    for id in cluster.nodes:
        cluster.kill(id)
    leader = await cluster.start()
    connection = await connected(cluster, leader)
    again = await connection.write_batch([create, insert], 8000, session=call)
    assert list(again) == list(first)
    await cluster.wait_until_equal()
    assert [rows(cluster, id) for id in cluster.nodes] == [[(1, "once")]] * 3
    await refuses_to_start_without_its_log(cluster)


async def refuses_to_start_without_its_log(cluster: ProcessCluster) -> None:
    """M9: a database whose log is gone is told what to do, in one line."""
    node = cluster.node("node1")
    cluster.kill(node.id)
    for path in node.data_directory.glob("log-*.wal"):
        path.unlink()
    before = len(node.log)
    node.start()

    async def ended() -> bool:
        return not node.running

    await cluster.until(ended, 15.0, "node1 does not end", [node])
    said = node.log[before:]
    assert node.exit_code == 1
    assert "let it join again with empty directories" in said
    assert "Traceback" not in said
