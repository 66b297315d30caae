"""A node without a file descriptor left: it serves on, and accepts again when there are some."""

from __future__ import annotations

import resource
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import pytest_twisted

from raft.client import RaftClient
from raft.testing.processes import NodeProcess, ProcessCluster

pytestmark = [pytest.mark.integration, pytest.mark.deadline(60)]

DESCRIPTORS = 48
CONNECTIONS = 80
SEGMENT_BYTES = 64 * 1024
VALUE = "x" * 4096
WRITES = 60


def limited() -> None:
    """Let the process that calls open few files; connections are files."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))


def limited_softly() -> None:
    """Let the process that calls open few files, unless it asks for more."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, 4 * DESCRIPTORS))


def flood(node: NodeProcess) -> list[socket.socket]:
    """Open more connections to a node than it can have; they say nothing."""
    opened = []
    for _ in range(CONNECTIONS):
        each = socket.socket()
        each.setblocking(False)
        each.connect_ex((node.place.host, int(node.address.rpartition(":")[2])))
        opened.append(each)
    return opened


@pytest_twisted.ensureDeferred
async def test_a_leader_without_file_descriptors_writes_on_and_accepts_again(
    make_cluster: Callable[..., ProcessCluster], connect: Callable[..., RaftClient]
) -> None:
    """sc-P8: at its hard limit what is open stays open, its log among it."""
    cluster = make_cluster()
    for node in cluster.nodes.values():
        node.start(limited)
    await cluster.start()
    leader = await cluster.wait_for_leader()
    client = connect(cluster)
    await client.write(["set", "before", 1], 10.0)
    opened = flood(cluster.node(leader))
    try:

        async def out_of_descriptors() -> bool:
            return "EMFILE recovery" in cluster.node(leader).log

        for number in range(WRITES):
            await client.write(["set", f"key {number}", 1], 20.0)
        await cluster.until(out_of_descriptors, 10.0, "nothing is said of the descriptors")
    finally:
        for each in opened:
            each.close()
    fresh = connect(cluster)
    await fresh.write(["set", "after", 1], 20.0)
    assert await fresh.read(["count"], 10.0) == WRITES + 2
    await cluster.wait_until_equal()
    assert await cluster.wait_for_leader() == leader
    for id, status in (await cluster.statuses()).items():
        assert status is not None, cluster.node(id).log
        assert status["failure"] == ""
        assert "Traceback" not in cluster.node(id).log


@pytest.mark.skipif(sys.platform != "linux", reason="only on Linux does a node raise its limit")
@pytest_twisted.ensureDeferred
async def test_connections_do_not_take_the_descriptors_that_a_log_needs(
    make_cluster: Callable[..., ProcessCluster], connect: Callable[..., RaftClient]
) -> None:
    """sc-P8, SECURITY 12: a node asks for all that it may have, and new segments are opened."""
    cluster = make_cluster(settings={"segment_bytes": SEGMENT_BYTES})
    for node in cluster.nodes.values():
        node.start(limited_softly)
    await cluster.start()
    leader = await cluster.wait_for_leader()
    client = connect(cluster)
    opened = flood(cluster.node(leader))
    try:
        for number in range(WRITES):
            await client.write(["set", f"key {number}", VALUE], 20.0)
        segments = list(cluster.node(leader).data_directory.glob("log-*"))
        assert len(segments) > 2
        assert await cluster.wait_for_leader() == leader
        assert "EMFILE" not in cluster.node(leader).log
    finally:
        for each in opened:
            each.close()
    await cluster.wait_until_equal()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux sets another process's limits")
@pytest_twisted.ensureDeferred
async def test_a_node_that_may_open_no_more_files_begins_new_segments(
    make_cluster: Callable[..., ProcessCluster], connect: Callable[..., RaftClient]
) -> None:
    """D4, sc-P8: its log has descriptors in reserve, and closes what it only keeps open to read."""
    cluster = make_cluster(settings={"segment_bytes": SEGMENT_BYTES})
    leader = await cluster.start()
    client, node = connect(cluster), cluster.node(next(id for id in cluster.nodes if id != leader))
    await client.write(["set", "before", 1], 10.0)
    await cluster.wait_until_equal(1)
    assert node.process is not None
    opened = len(list(Path(f"/proc/{node.process.pid}/fd").iterdir()))
    resource.prlimit(node.process.pid, resource.RLIMIT_NOFILE, (opened, opened))
    for _ in range(8 * SEGMENT_BYTES // len(VALUE)):
        await client.write(["set", "large", VALUE], 10.0)
    await client.write(["set", "after", 1], 10.0)

    async def segments() -> int:
        count = len(list(node.data_directory.glob("log-*")))
        return count if count > 7 else 0

    # To ask how far it is takes a connection, and so a descriptor.
    await cluster.until(segments, 30.0, "it began no new segments", [node])
    assert node.running
    assert "Traceback" not in node.log
