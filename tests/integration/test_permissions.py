"""A directory that cannot be written any more, under a node that runs."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable

import pytest
import pytest_twisted

from raft.client import RaftClient
from raft.testing.processes import ProcessCluster

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.deadline(60)]

SEGMENT_BYTES = 64 * 1024
VALUE = "x" * 4096
PR_CAPBSET_DROP = 24
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2


def bound_by_permissions() -> None:
    """Let permissions hold for the process that calls, though it may be root's."""
    libc = ctypes.CDLL(None)
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets root give up its override")
@pytest_twisted.ensureDeferred
async def test_a_node_whose_directory_cannot_be_written_ends_and_says_why(
    make_cluster: Callable[..., ProcessCluster], connect: Callable[..., RaftClient]
) -> None:
    """D3, sc-F23: it acknowledges nothing more, the others go on, and so does it when mended."""
    cluster = make_cluster(settings={"segment_bytes": SEGMENT_BYTES})
    for node in cluster.nodes.values():
        node.start(bound_by_permissions)
    leader = await cluster.start()
    client = connect(cluster, timeout_seconds=20.0)
    node = next(node for node in cluster.nodes.values() if node.id != leader)
    await client.write(["set", "before", 1])
    await cluster.wait_until_equal(1)
    node.data_directory.chmod(0o500)
    try:
        for _ in range(6 * SEGMENT_BYTES // len(VALUE)):
            await client.write(["set", "large", VALUE])

        async def ended() -> bool:
            return not node.running

        await cluster.until(ended, 15.0, "a node went on without a directory to write to")
    finally:
        node.data_directory.chmod(0o700)
    assert node.exit_code == 1
    assert "Permission denied" in node.log
    assert str(node.data_directory) in node.log
    assert "Traceback" not in node.log
    assert len(cluster.running) == 2
    await cluster.restart(node.id)
    await client.write(["set", "after", 1])
    await cluster.wait_until_equal()
