"""Reads over all members of a cluster of real processes."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import pytest_twisted
from twisted.internet.defer import gatherResults
from twisted.internet.task import deferLater

from raft.client import RaftClient
from raft.testing.processes import ProcessCluster

pytestmark = [pytest.mark.integration, pytest.mark.deadline(40)]

Connect = Callable[..., RaftClient]


@pytest_twisted.ensureDeferred
async def test_no_read_of_any_member_misses_what_was_written_before(
    shared: ProcessCluster, connect: Connect
) -> None:
    """R8: a follower's linearizable read sees every write that had ended, by whichever client.

    sc-D7.
    """
    from twisted.internet import reactor

    writer = connect(shared)
    reader = connect(shared, spread_reads=True)
    key = f"seen {random.random()}"
    for number in range(60):
        await writer.write(["set", key, number])
        found = await gatherResults([reader.read(["get", key]), reader.read(["get", key])])
        assert found == [number, number]
        await deferLater(reactor, 0)
    spread = reader._spread
    assert spread is not None
    assert {link.server for link in spread.links} == set(shared.nodes)


@pytest_twisted.ensureDeferred
async def test_a_monotonic_client_reads_its_own_writes_from_any_member(
    shared: ProcessCluster, connect: Connect
) -> None:
    """R10, sc-D7: local reads wait for what this client has seen, and no longer."""
    from twisted.internet import reactor

    client = connect(shared, spread_reads=True, monotonic=True)
    key = f"own {random.random()}"
    for number in range(60):
        await client.write(["set", key, number])
        assert await client.read(["get", key], consistency="local") == number
        await deferLater(reactor, 0)


@pytest_twisted.ensureDeferred
async def test_reads_go_on_while_the_leader_is_paused_and_after_it_is_killed(
    shared: ProcessCluster, connect: Connect
) -> None:
    """R8: the members that are left answer, once they have a leader."""
    client = connect(shared, spread_reads=True)
    key = f"kept {random.random()}"
    await client.write(["set", key, "there"])
    leader = await shared.wait_for_leader()
    shared.pause(leader)
    try:
        for _ in range(10):
            assert await client.read(["get", key], 20.0) == "there"
    finally:
        shared.resume(leader)
    leader = await shared.wait_for_leader()
    shared.kill(leader)
    for _ in range(10):
        assert await client.read(["get", key], 20.0) == "there"
    await shared.restart(leader)
