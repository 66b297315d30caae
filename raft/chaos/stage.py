"""What faults act upon, and what they tell each other: who is busy, down, damaged or excused."""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from attrs import Factory, define
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from raft.chaos.cluster import ChaosCluster
from raft.chaos.mesh import Mesh
from raft.client import RaftClient
from raft.errors import RaftError

WATCH_SECONDS: Final = 0.2
LEADER_BIAS: Final = 0.4
"""How often a fault strikes the leader, whoever that is."""


class Nobody(Exception):
    """There is no node left that this may befall now."""


@define(eq=False)
class Stage:
    """A cluster with its links, and what is being done to it.

    Attributes:
        cluster: the nodes.
        mesh: the links.
        client: goes to the nodes themselves, around the proxies.
        unit_seconds: T, the election timeout; durations are drawn in it.
        report: called with a sentence for each thing that is done.
        tally: how often what was done, and what followed.
        violations: sentences about what must not be.
        busy: who is struck by a fault that must end before the next one.
        down: whose process was ended here, or not started yet.
        excused: who may end by itself: its disk or its descriptors fail.
        damaged: who has lost what it had and is no member again yet, and whether it has been
            removed meanwhile.
        is_changing: whether members are being changed.
    """

    reactor: Any
    cluster: ChaosCluster
    mesh: Mesh
    client: RaftClient
    unit_seconds: float
    report: Callable[[str], object]
    tally: Counter[str] = Factory(Counter)
    violations: list[str] = Factory(list)
    busy: set[str] = Factory(set)
    down: set[str] = Factory(set)
    excused: set[str] = Factory(set)
    damaged: dict[str, bool] = Factory(dict)
    is_changing: bool = False
    leader: str = ""
    _watching: Deferred[None] | None = None

    # -- Time ----------------------------------------------------------------------------------

    async def sleep(self, seconds: float) -> None:
        """Let time pass."""
        await deferLater(self.reactor, seconds)

    async def sleep_units(self, units: float) -> None:
        """Let so many T pass."""
        await self.sleep(units * self.unit_seconds)

    def units(self, chance: random.Random, least: float = 0.5, most: float = 20.0) -> float:
        """Draw a time in T; each order of magnitude is as likely as the next."""
        return math.exp(chance.uniform(math.log(least), math.log(most)))

    # -- Who -----------------------------------------------------------------------------------

    @property
    def free(self) -> list[str]:
        """The nodes that run and that no fault holds."""
        unable = self.busy | self.down | self.damaged.keys()
        return [id for id in self.cluster.running if id not in unable]

    @contextmanager
    def taken(self, chance: random.Random) -> Iterator[str]:
        """Choose a node, the leader more often than others, and hold it.

        Raises:
            Nobody: none is free.
        """
        free, wants_leader, place = self.free, chance.random() < LEADER_BIAS, chance.random()
        if not free:
            raise Nobody
        leads = wants_leader and self.leader in free
        id = self.leader if leads else free[int(place * len(free))]
        with self.held(id):
            yield id

    @contextmanager
    def held(self, *ids: str) -> Iterator[None]:
        """Keep other faults from these nodes."""
        self.busy.update(ids)
        try:
            yield
        finally:
            self.busy.difference_update(ids)

    # -- What ----------------------------------------------------------------------------------

    def tell(self, kind: str, text: str) -> None:
        """Count what is done, and say it."""
        self.tally[kind] += 1
        self.report(text)

    def violated(self, text: str) -> None:
        """Note what must not be."""
        self.violations.append(text)
        self.report(f"VIOLATION: {text}")

    def kill(self, id: str) -> None:
        """End a node's process at once, without a word."""
        self.down.add(id)
        self.cluster.kill(id)

    def start(self, id: str) -> None:
        """Start a node's process if it does not run."""
        self.cluster.node(id).start()
        self.down.discard(id)

    async def ended(self, id: str, seconds: float) -> int | None:
        """Wait until a node's process has ended; return its exit code, or None if it has not."""
        node = self.cluster.node(id)
        deadline = time.monotonic() + seconds
        while node.running and time.monotonic() < deadline:
            await self.sleep(0.05)
        return node.exit_code

    # -- Watching ------------------------------------------------------------------------------

    def watch(self) -> None:
        """Find who leads, and who ends by itself, until `rest`."""
        if self._watching is None:
            self._watching = Deferred.fromCoroutine(self._watch())

    def rest(self) -> None:
        """Watch no more."""
        watching, self._watching = self._watching, None
        if watching is not None:
            watching.addErrback(lambda _: None)
            watching.cancel()

    async def _watch(self) -> None:
        while True:
            for id in list(self.cluster.nodes):
                self._look_after(id)
            for id in self.cluster.running:
                if id not in self.busy:
                    status = await self.cluster.status(id, 0.3)
                    if status is not None and status["role"] == "leader":
                        self.leader = id
            await self.sleep(WATCH_SECONDS)

    def _look_after(self, id: str) -> None:
        """Start again who has ended by itself; without an excuse it must not."""
        node = self.cluster.nodes[id]
        if node.running or node.process is None or id in self.down:
            return
        lines = [line for line in node.log.splitlines() if line.startswith("raft: ")]
        said = lines[-1] if lines else node.log[-200:]
        if id in self.excused:
            self.tell("ended by itself", f"{id} ended: {said}")
        else:
            self.violated(f"{id} ended by itself with code {node.exit_code}: {said}")
        node.start()

    async def settled(self, ids: list[str], seconds: float) -> bool:
        """Wait until these nodes answer; tell whether they do."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            statuses = await self.cluster.statuses(ids)
            if all(statuses.values()):
                return True
            await self.sleep(0.1)
        return False

    async def members(self, seconds: float = 5.0) -> dict[str, bool] | None:
        """Return the members, and whether each votes; None while that is not committed.

        Raises:
            RaftError: no leader told them in time.
        """
        _, address = await self.client.leader(seconds)
        status: Any = await self.client.status(address or None, seconds)
        if status["joint"] or status["configuration_index"] > status["commit_index"]:
            return None
        return {member["id"]: member["voter"] for member in status["members"]}


async def tried(work: Any) -> bool:
    """Await something that may fail for any reason that a cluster may have; tell whether not."""
    try:
        await work
    except RaftError:
        return False
    return True
