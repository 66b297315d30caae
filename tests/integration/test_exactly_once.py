"""Writes within sessions against real processes: each takes effect once, whatever is killed or cut.

Every command appends a number of its own to a list, and its result is the list's new length.
What is lost, repeated or out of order shows in the list, and a wrong answer in its result.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from raft.client import RaftClient
from raft.errors import OutcomeUnknown
from raft.testing.processes import ProcessCluster

pytestmark = [pytest.mark.integration, pytest.mark.deadline(60)]

Connect = Callable[..., RaftClient]
CLIENTS = 3
OUTSTANDING = 40
PATIENCE_SECONDS = 40.0
"""How long a write may take: longer than anything that is done to the cluster here."""


class Appender:
    """Keeps a client busy with appends to a list of its own."""

    def __init__(self, client: RaftClient, key: str, seed: int) -> None:
        self.client = client
        self.key = key
        self.chance = random.Random(seed)
        self.running = True
        self.issued = 0
        self.results: dict[int, Any] = {}
        self.cuts = 0

    async def run(self) -> None:
        from twisted.internet import reactor

        while self.running:
            await gatherResults(
                [self.write() for _ in range(self.chance.randrange(1, OUTSTANDING))]
            )
            await deferLater(reactor, 0.002)

    def write(self) -> Deferred[None]:
        number = self.issued
        self.issued += 1

        def told(result: Any) -> None:
            self.results[number] = result

        return self.client.write(["append", self.key, number], PATIENCE_SECONDS).addCallback(told)

    def cut(self) -> None:
        """Break the connection to the leader in the middle of whatever is on it."""
        link = self.client._links.kept
        if link is not None and link.usable:
            self.cuts += 1
            link.connection.abandon("cut by the test")

    async def keep_cutting(self) -> None:
        from twisted.internet import reactor

        while self.running:
            await deferLater(reactor, self.chance.uniform(0.02, 0.2))
            self.cut()


@pytest_twisted.ensureDeferred
async def test_every_write_counts_once_while_leaders_die_and_connections_are_cut(
    shared: ProcessCluster, connect: Connect
) -> None:
    """S2, S7, S9, sc-Q1, sc-Q2."""
    appenders = [
        Appender(connect(shared), f"appends {seed} {random.random()}", seed)
        for seed in range(CLIENTS)
    ]
    running = [Deferred.fromCoroutine(each.run()) for each in appenders]
    cutting = [Deferred.fromCoroutine(each.keep_cutting()) for each in appenders]
    try:
        for harm in ("kill", "pause", "kill"):
            await progress(shared, appenders)
            leader = await shared.wait_for_leader()
            if harm == "kill":
                shared.kill(leader)
            else:
                shared.pause(leader)
            await shared.wait_for_leader(other_than=leader)
            await progress(shared, appenders)
            if harm == "kill":
                await shared.restart(leader)
            else:
                shared.resume(leader)
    finally:
        for each in appenders:
            each.running = False
    # No write fails: each has time enough to be sent again until it is answered.
    await gatherResults(running + cutting)
    for each in appenders:
        assert each.cuts > 5
        assert each.issued > 100
        assert each.results == {number: number + 1 for number in range(each.issued)}
        assert await each.client.read(["get", each.key], 10.0) == list(range(each.issued))


async def progress(cluster: ProcessCluster, appenders: list[Appender]) -> None:
    """Wait until each client was told of writes that it issued after this call."""
    issued = [each.issued for each in appenders]

    async def told() -> bool:
        return all(
            len(each.results) > count + OUTSTANDING
            for each, count in zip(appenders, issued, strict=True)
        )

    await cluster.until(told, 20.0, "no write was answered")


@pytest_twisted.ensureDeferred
async def test_a_command_repeated_after_a_restart_of_the_client_has_its_old_result(
    shared: ProcessCluster, connect: Connect
) -> None:
    """S7: the session and the number were saved before the write."""
    from twisted.internet import reactor

    key = f"once {random.random()}"
    first = connect(shared)
    await first.write(["append", key, "before"])
    saved = first.session
    assert saved is not None
    write = first.write(["append", key, "paid"])
    # It leaves at the end of this turn; the client does not wait for the answer.
    await deferLater(reactor, 0)
    lost = write.addErrback(lambda failure: failure.trap(OutcomeUnknown))
    await first.close(keep_session=True)
    assert await lost in (OutcomeUnknown, 2)
    again = connect(shared, session=saved)
    assert await again.write(["append", key, "paid"], 10.0) == 2
    assert await again.write(["append", key, "after"], 10.0) == 3
    assert await again.read(["get", key]) == ["before", "paid", "after"]


@pytest_twisted.ensureDeferred
async def test_a_session_that_was_closed_is_unknown_to_a_client_that_goes_on_with_it(
    shared: ProcessCluster, connect: Connect
) -> None:
    """S2: the earlier life may have had the command applied."""
    key = f"closed {random.random()}"
    first = connect(shared)
    saved = await first.open_session()
    assert await first.write(["append", key, 1]) == 1
    await first.close()
    again = connect(shared, session=saved)
    with pytest.raises(OutcomeUnknown):
        await again.write(["append", key, 1])
    assert await again.write(["append", key, 2]) == 2


@pytest_twisted.ensureDeferred
async def test_a_session_that_ends_under_its_client_costs_nothing_but_a_new_one(
    shared: ProcessCluster, connect: Connect
) -> None:
    """S2: at its first try a command was definitely not executed in a session that is gone."""
    key = f"ended {random.random()}"
    client = connect(shared)
    saved = await client.open_session()
    assert await client.write(["append", key, 1]) == 1
    other = connect(shared, session=saved)
    # Any command finds the leader; closing then ends the session of both.
    await other.write_indexed(["append", key, 2])
    await other.close()
    results = await gatherResults([client.write(["append", key, each]) for each in range(3, 9)])
    assert results[-1] == len(await client.read(["get", key]))
    assert client.session is not None
    assert client.session.id != saved.id


@pytest_twisted.ensureDeferred
async def test_small_sessions_serve_any_number_of_writes_and_are_kept_while_idle(
    make_cluster: Callable[..., ProcessCluster], connect: Connect
) -> None:
    """S3: a client stays within what is kept for it, and keeps its session alive."""
    from twisted.internet import reactor

    settings = {"session_results": 10, "session_timeout": 1}
    cluster = make_cluster(settings=settings)
    await cluster.start()
    client = connect(cluster)
    results = await gatherResults(
        [client.write(["append", "k", each], 20.0) for each in range(500)]
    )
    assert results == list(range(1, 501))
    before = client.session
    assert before is not None
    assert (before.results, before.timeout_seconds) == (10, 1.0)
    others = connect(cluster)
    for _ in range(25):
        # Another session's entries let the cluster's time pass the timeout.
        await others.write(["set", "other", 1])
        await deferLater(reactor, 0.1)
    assert await client.write(["append", "k", 500]) == 501
    assert client.session is not None
    assert client.session.id == before.id
