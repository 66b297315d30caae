"""A byte of a real log is changed: the node refuses to start, and is repaired once it may be."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import pytest_twisted

from raft.client import RaftClient
from raft.testing.processes import NodeProcess, ProcessCluster
from tests.integration.load import all_are_known

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.deadline(90)]

SEGMENT_BYTES = 64 * 1024
VALUE = "x" * 4096
WRITES = 60


def damage(node: NodeProcess) -> Path:
    """Change one byte of a frame in the second segment of a stopped node's log."""
    path = sorted(node.data_directory.glob("log-*.wal"))[1]
    content = bytearray(path.read_bytes())
    at = content.index(b"xxxx", len(content) // 2)
    content[at] ^= 1
    path.write_bytes(content)
    return path


def allow(node: NodeProcess) -> None:
    """Let a node's file say that its log may be repaired."""
    text, count = re.subn(
        r"^# repair = false$", "repair = true", node.config_path.read_text(), flags=re.MULTILINE
    )
    assert count == 1
    node.config_path.write_text(text)


@pytest_twisted.ensureDeferred
async def test_a_damaged_server_is_repaired_by_the_others_and_leads_again(
    make_cluster: Callable[..., ProcessCluster], connect: Callable[..., RaftClient]
) -> None:
    """D1, sc-F2, sc-F28: two of three are damaged; with the third one nothing is lost."""
    cluster = make_cluster(settings={"segment_bytes": SEGMENT_BYTES})
    await cluster.start()
    leader = await cluster.wait_for_leader()
    await all_are_known(cluster)
    client = connect(cluster, timeout_seconds=20.0)
    for number in range(WRITES):
        await client.write(["set", f"key {number}", VALUE])
    await cluster.wait_until_equal()
    damaged = [node for node in cluster.nodes.values() if node.id != leader]
    for node in cluster.nodes.values():
        cluster.kill(node.id)
    for node in damaged:
        path = damage(node)
        node.start()

        async def refused(node: NodeProcess = node) -> bool:
            return node.exit_code is not None

        await cluster.until(refused, 15.0, "a damaged log was not refused")
        assert node.exit_code == 1
        assert f"{path}, offset" in node.log
        assert "repair = true" in node.log
        assert "Traceback" not in node.log
        allow(node)
        node.start()
    # The only one that has everything is down: nobody is elected without it.
    cluster.node(leader).start()
    assert await cluster.wait_for_leader() == leader
    await client.write(["set", "after", 1])
    statuses = await cluster.wait_until_equal()
    assert len(statuses) == len(cluster.nodes)
    for node in damaged:

        async def whole(id: str = node.id) -> bool:
            status = await cluster.status(id)
            return bool(status and status["repair"] and status["repair"]["state"] == "done")

        await cluster.until(whole, 15.0, "a log was not repaired")
        assert list(node.data_directory.glob("*.wal.damaged-*"))
    # They may stand for elections again, and have all that was acknowledged.
    cluster.kill(leader)
    assert await cluster.wait_for_leader() != leader
    assert await client.read(["count"]) == WRITES + 1
