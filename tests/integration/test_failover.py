"""Leaders killed under load: nothing acknowledged is lost, and no answer was ever wrong."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from raft.client import RaftClient
from raft.errors import CommandError, NotApplied, OutcomeUnknown, RaftError, Timeout
from raft.testing.history import Recorder
from raft.testing.ledger import Ledger, read_everything
from raft.testing.linearizability import Verdict, check
from raft.testing.processes import ProcessCluster

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.deadline(80)]

Connect = Callable[..., RaftClient]
KILLS = 10
CLIENTS = 3
PAUSE_SECONDS = 0.01
UNHEARD_SECONDS = 0.1
"""For so long a leader may believe that it leads while nobody hears it."""


class Load:
    """One client that writes, and reads and changes keys which others change too."""

    def __init__(self, name: str, client: RaftClient, recorder: Recorder, seed: int) -> None:
        self.name = name
        self.client = client
        self.recorder = recorder
        self.chance = random.Random(seed)
        self.ledger = Ledger()
        self.lives = 0
        self.round = 0
        self.running = True

    async def run(self) -> None:
        from twisted.internet import reactor

        number = 0
        while self.running:
            number += 1
            await self.ledger.write(self.client, f"{self.name} {number}", number, 2.0)
            await self.operate(number)
            await deferLater(reactor, PAUSE_SECONDS)

    async def operate(self, number: int) -> None:
        """Do one of the operations on shared keys, and record it with its outcome."""
        # New keys in each round keep the search for an order short.
        key = f"shared {self.round} {self.chance.randrange(2)}"
        value = f"{self.name} {number}"
        op, command = self.chance.choice(
            [
                ("get", ["get", key]),
                ("set", ["set", key, value]),
                ("cas", ["cas", key, None, value]),
                ("delete", ["delete", key]),
            ]
        )
        operation = self.recorder.begin(
            f"{self.name}.{self.lives}", op, key, value if op in ("set", "cas") else None
        )
        try:
            ask = self.client.read if op == "get" else self.client.write
            operation.returned(await ask(command, 2.0))
        except (NotApplied, CommandError):
            operation.refused()
        except (OutcomeUnknown, Timeout) as error:
            if isinstance(error, Timeout) and not error.appended:
                operation.refused()
                return
            operation.unknown()
            # What may be done at any later time is still open: its client can do nothing more.
            self.lives += 1


async def compare(cluster: ProcessCluster, client: RaftClient, ledgers: list[Ledger]) -> None:
    """Hold every node against every ledger."""
    statuses = await cluster.wait_until_equal(1)
    assert len(statuses) == len(cluster.nodes)
    found = await read_everything(client, 10.0)
    together = Ledger()
    for ledger in ledgers:
        together.acknowledged.update(ledger.acknowledged)
        together.unknown.update(ledger.unknown)
        together.refused.update(ledger.refused)
    assert len(together.acknowledged) > 0
    begins = tuple({key.partition(" ")[0] for key in together.acknowledged})
    own = {key: value for key, value in found.items() if key.startswith(begins)}
    assert list(together.differences(own)) == []


@pytest_twisted.ensureDeferred
async def test_nothing_acknowledged_is_lost_when_the_leader_is_killed_ten_times(
    shared: ProcessCluster, connect: Connect
) -> None:
    """S1, S4, sc-P1: what one client was told holds for all, whichever leaders are killed."""
    from twisted.internet import reactor

    recorder = Recorder()
    loads = [
        Load(f"client{number}", connect(shared), recorder, seed=number) for number in range(CLIENTS)
    ]
    running = [Deferred.fromCoroutine(load.run()) for load in loads]
    try:
        for kill in range(KILLS):
            for load in loads:
                load.round = kill
            await progress(shared, loads)
            leader = await shared.wait_for_leader()
            first, second = (id for id in shared.nodes if id != leader)
            match kill % 3:
                case 1:
                    # One follower is behind; it must not lead before it has caught up.
                    shared.pause(first)
                    await progress(shared, loads)
                    shared.kill(leader)
                    shared.resume(first)
                case 2:
                    # Nobody has what the leader takes last; it must not be acknowledged. A mere
                    # pause would not do: what is sent meanwhile waits in the followers' sockets.
                    shared.kill(first)
                    shared.kill(second)
                    await deferLater(reactor, UNHEARD_SECONDS)
                    shared.kill(leader)
                    shared.node(first).start()
                    shared.node(second).start()
                case _:
                    shared.kill(leader)
            await shared.wait_for_leader(other_than=leader)
            await progress(shared, loads)
            await shared.restart(leader)
    finally:
        for load in loads:
            load.running = False
        await gatherResults(running)
    await compare(shared, loads[0].client, [load.ledger for load in loads])
    report = check(recorder.close())
    assert report.verdict is Verdict.OK, report.text


async def progress(cluster: ProcessCluster, loads: list[Load]) -> None:
    """Wait until each client was told of a new write."""
    before = [len(load.ledger.acknowledged) for load in loads]

    async def told() -> bool:
        now = [len(load.ledger.acknowledged) for load in loads]
        return all(new > old for new, old in zip(now, before, strict=True))

    await cluster.until(told, 20.0, "no write was acknowledged")


@pytest_twisted.ensureDeferred
async def test_nothing_acknowledged_is_lost_when_all_are_killed_at_once(
    shared: ProcessCluster, connect: Connect
) -> None:
    """S2, sc-E22, sc-P1, sc-U6: what a majority has saved survives the loss of every process."""
    client = connect(shared)
    ledger = Ledger()
    for start in range(0, 3000, 500):
        writes = [
            Deferred.fromCoroutine(ledger.write(client, f"key {number}", number))
            for number in range(start, start + 500)
        ]
        await gatherResults(writes)
    # These are on their way when the processes end.
    late = [
        Deferred.fromCoroutine(ledger.write(client, f"late {number}", number))
        for number in range(500)
    ]
    await deferred_turns(3)
    for id in shared.nodes:
        shared.node(id).signal(9)
    for id in shared.nodes:
        shared.kill(id)
    await gatherResults(late)
    assert len(ledger.acknowledged) >= 3000
    await shared.start()
    await compare(shared, client, [ledger])


async def deferred_turns(count: int) -> None:
    from twisted.internet import reactor

    for _ in range(count):
        await deferLater(reactor, 0)


@pytest_twisted.ensureDeferred
async def test_a_ledger_tells_every_difference() -> None:
    """The comparison above is worth something: each kind of difference is seen."""

    class Told:
        def __init__(self, outcome: object) -> None:
            self.outcome = outcome

        def write(self, command: Any, timeout: float | None = None) -> Deferred[object]:
            deferred: Deferred[object] = Deferred()
            if isinstance(self.outcome, RaftError):
                deferred.errback(self.outcome)
            else:
                deferred.callback(self.outcome)
            return deferred

    ledger = Ledger()
    outcomes = {"a": None, "b": OutcomeUnknown(), "c": NotApplied(), "d": Timeout(True)}
    for key, outcome in outcomes.items():
        assert await ledger.write(Told(outcome), key, 1) == (outcome is None)  # type: ignore[arg-type]
    assert ledger.count == 4
    assert list(ledger.differences({"a": 1})) == []
    assert list(ledger.differences({"a": 1, "b": 1, "d": 1})) == []
    assert list(ledger.differences({})) == ["the acknowledged 'a' is lost"]
    assert list(ledger.differences({"a": 2})) == ["'a' is 2, acknowledged was 1"]
    assert list(ledger.differences({"a": 1, "c": 1})) == [
        "'c' is there and was definitely not applied"
    ]
    assert list(ledger.differences({"a": 1, "b": 2})) == ["'b' is 2 and nobody wrote that"]
