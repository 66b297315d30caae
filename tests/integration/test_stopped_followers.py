"""A follower whose process stands still until the log that it needs is gone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import pytest_twisted
from twisted.internet.defer import gatherResults

from raft.client import RaftClient
from raft.core.server import Options
from raft.testing.processes import ProcessCluster

pytestmark = [pytest.mark.integration, pytest.mark.deadline(60)]

SEGMENT_BYTES = 64 * 1024
SNAPSHOT_ENTRIES = 100
BOXES, BOX = 12, 50
VALUE = "x" * 2048


@pytest_twisted.ensureDeferred
async def test_a_follower_that_stood_still_is_caught_up_by_a_snapshot(
    make_cluster: Callable[..., ProcessCluster], connect: Callable[..., RaftClient]
) -> None:
    """N4, N5, sc-P3: nobody waits for it, and it disturbs nobody when it goes on."""
    settings = {
        "segment_bytes": SEGMENT_BYTES,
        "snapshot_entries": SNAPSHOT_ENTRIES,
        "trailing_bytes": 0,
    }
    cluster = make_cluster(settings=settings)
    await cluster.start()
    leader = await cluster.wait_for_leader()
    behind = next(id for id in cluster.nodes if id != leader)
    client = connect(cluster)
    await client.write(["set", "before", 1], 10.0)
    await cluster.wait_until_equal()
    known = await cluster.status(behind)
    assert known is not None
    cluster.pause(behind)
    try:
        # One message each, until nothing more is sent to who answers nothing: its kernel
        # keeps what has been sent, and a follower that has all of it needs no snapshot.
        for n in range(Options().max_inflight_messages + 1):
            await client.write(["set", "one by one", n], 20.0)
        for _ in range(BOXES):
            await gatherResults(
                [client.write(["set", f"key {n}", VALUE], 20.0) for n in range(BOX)]
            )

        async def cut() -> bool:
            status = await cluster.status(leader)
            return status is not None and status["first_index"] > known["last_index"] + 1

        await cluster.until(cut, 20.0, "the leader keeps all of its log")
    finally:
        cluster.resume(behind)
    found = await cluster.wait_until_equal()
    assert found[behind]["snapshot_index"] > known["last_index"]
    assert found[leader]["term"] == known["term"]
    assert await cluster.wait_for_leader() == leader
