"""A leader that stands still for seconds, and others that did not wait for it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from raft.client import RaftClient
from raft.codec import PLAIN
from raft.errors import RaftError
from raft.testing.processes import ProcessCluster
from raft.transport.calls import ClientConnection
from raft.transport.dialling import dial

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.deadline(40)]

PAUSE_SECONDS = 3.0
READS = 20


async def read(connection: ClientConnection, key: str) -> object:
    """Read over this very connection; an error is an answer too."""
    try:
        (result,) = await connection.read_batch([PLAIN.encode(["get", key])], 2000)
    except RaftError as error:
        return error
    return result


@pytest_twisted.ensureDeferred
async def test_a_leader_that_stood_still_serves_no_stale_read(
    shared: ProcessCluster, connect: Callable[..., RaftClient]
) -> None:
    """R1, R2, sc-P2, sc-E19: a read sees every write that had ended before it, whoever is asked."""
    from twisted.internet import reactor

    client = connect(shared, timeout_seconds=10.0)
    await client.write(["set", "paused", "old"])
    leader = await shared.wait_for_leader()
    connection = await dial(reactor, shared.node(leader).address)
    try:
        assert await read(connection, "paused") == "old"
        shared.pause(leader)
        try:
            await deferLater(reactor, PAUSE_SECONDS)
            successor = await shared.wait_for_leader(other_than=leader)
            direct = connect(shared)
            await direct.write(["set", "paused", "new"], 10.0)
            # The first thing that it finds when it goes on: it waits in the socket already.
            answers = [read(connection, "paused") for _ in range(READS)]
            waiting = [Deferred.fromCoroutine(answer) for answer in answers]
        finally:
            shared.resume(leader)
        waiting += [Deferred.fromCoroutine(read(connection, "paused")) for _ in range(READS)]
        for answer in waiting:
            found = await answer
            assert found == "new" or isinstance(found, RaftError), found
        assert successor != leader
    finally:
        connection.close()
        await connection.lost
