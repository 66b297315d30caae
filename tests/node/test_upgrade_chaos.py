"""Upgrades and downgrades at random, with elections and cut links in between."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from raft.core.server import Options
from raft.errors import RaftError, StateMachineFailed
from raft.node.bounds import Bounds
from raft.service import RaftService
from tests.node.ledgers import Ledger1, Ledger2
from tests.node.running import Nodes, until

pytestmark = pytest.mark.slow

OPTIONS = Options(heartbeat_seconds=0.03, election_timeout_seconds=0.15)
STEPS = 12


@pytest_twisted.async_yield_fixture
async def nodes(tmp_path: Path) -> AsyncIterator[Nodes]:
    made = Nodes(tmp_path)
    yield made
    await made.stop()


class Chaos:
    """Three nodes that are restarted with one release or the other while clients write."""

    def __init__(self, nodes: Nodes, chance: random.Random) -> None:
        self.nodes = nodes
        self.chance = chance
        # A release that is too old finds out by a snapshot, or where it comes to the entry.
        self.bounds = Bounds(
            snapshot_entries=chance.choice([0, 0, 30]), trailing_entries=5, trailing_bytes=0
        )
        self.fixed: dict[str, dict[str, Any]] = {}
        self.refused = 0
        self.writing = True

    def start(self, id: str, machine: Any) -> RaftService:
        settings = {"options": OPTIONS, "bounds": self.bounds, **self.fixed.get(id, {})}
        node = self.nodes.start(id, machine, **settings)
        self.fixed[id] = self.nodes.fixed(node)
        return node

    async def restart(self, id: str, release: type[Any]) -> None:
        await self.nodes.all.pop(id).stopService()
        try:
            self.start(id, release())
        except StateMachineFailed:
            # Its own snapshot is of a version that the old release cannot.
            self.refused += 1
            self.start(id, Ledger2())

    async def mend(self) -> None:
        """Start the node anew that stopped because it could not go along."""
        for id, node in list(self.nodes.all.items()):
            if node.failure is not None:
                assert isinstance(node.failure, StateMachineFailed)
                assert type(node.replica.machine) is Ledger1
                self.refused += 1
                await self.restart(id, Ledger2)

    async def write(self) -> None:
        from twisted.internet import reactor

        number = 0
        while self.writing:
            node = self.nodes.all.get(self.chance.choice("abc"))
            number += 1
            try:
                if node is not None and node.serves:
                    await node.write(["add", f"x{number % 3}", 1], 0.2)
            except RaftError:
                pass
            await deferLater(reactor, 0.001)  # type: ignore[arg-type]

    async def step(self) -> None:
        from twisted.internet import reactor

        id = self.chance.choice("abc")
        deed = self.chance.choice(["old", "new", "new", "cut", "heal", "transfer"])
        if deed == "old":
            await self.restart(id, Ledger1)
        elif deed == "new":
            await self.restart(id, Ledger2)
        elif deed == "cut":
            self.nodes.cut.clear()
            self.nodes.isolate(id)
        elif deed == "heal":
            self.nodes.cut.clear()
        else:
            for node in self.nodes.all.values():
                if node.serves and node.leader() == node.id:
                    node.transfer_leadership(timeout=0.3).addErrback(lambda _: None)
        await deferLater(reactor, self.chance.uniform(0.02, 0.3))  # type: ignore[arg-type]
        await self.mend()
        self.check()

    def check(self) -> None:
        """Any two servers have applied the same, as the same version, as far as both are."""
        seen = [node.replica.machine.seen for node in self.nodes.all.values()]  # type: ignore[attr-defined]
        for one, other in pairwise(sorted(seen, key=len)):
            assert one == other[: len(one)]


@pytest.mark.parametrize("seed", [4, 6, 9, 13])
@pytest_twisted.ensureDeferred
async def test_random_restarts_of_two_releases_never_diverge(nodes: Nodes, seed: int) -> None:
    """sc-U1, sc-SM7."""
    chaos = Chaos(nodes, random.Random(seed))
    started = [chaos.start("a", Ledger1()), *(chaos.start(id, Ledger2()) for id in "bc")]
    await started[0].set_configuration([nodes.member(node) for node in started], 8.0)
    load = [Deferred.fromCoroutine(chaos.write()) for _ in range(3)]
    try:
        for _ in range(STEPS):
            await chaos.step()
        nodes.cut.clear()
        for id, node in list(nodes.all.items()):
            if type(node.replica.machine) is Ledger1:
                await chaos.restart(id, Ledger2)
        await until(lambda: {each.replica.versions.active for each in nodes.all.values()} == {2})
    finally:
        chaos.writing = False
        for each in load:
            await each
    await until(lambda: len({each.replica.last_applied for each in nodes.all.values()}) == 1)
    chaos.check()
    machines: list[Any] = [node.replica.machine for node in nodes.all.values()]
    found = [version for _, version in machines[0].seen]
    assert found == sorted(found)
    assert [machine.accounts for machine in machines[1:]] == [machines[0].accounts] * 2
    assert [machine.switched for machine in machines] == [[2]] * 3
    assert len({node.replica.digest for node in nodes.all.values()}) == 1
