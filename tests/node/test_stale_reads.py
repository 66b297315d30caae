"""A hunt for stale reads: leases on clocks that drift, leaders that are cut off.

Whole nodes in virtual time, each on a clock of its own that keeps to the bound. Their histories
go through the linearizability checker, which must see a lease that lasts too long.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
from attrs import define

from raft.core import reads
from raft.core.roles import Leader
from raft.core.server import Options, Server
from raft.machines.kv import KeyValueStore
from raft.testing.history import Recorder
from raft.testing.linearizability import Verdict, check
from tests.node.test_linearizable_histories import Client
from tests.node.world import Node, Outcome, Wire, World, cluster, leader_of, others

BOUND = 3.0
SEEDS = range(12)
SCENES = 4
READ_SECONDS = 0.03
WRITE_SECONDS = 0.3


@define
class Drifting:
    """A node's own reactor: time that runs at a rate which may change."""

    world: World
    rate: float = 1.0
    _reading: float = 0.0
    _since: float = 0.0

    def seconds(self) -> float:
        """Return the time by this clock."""
        return self._reading + (self.world.seconds() - self._since) * self.rate

    def drift(self, rate: float) -> None:
        """Run at `rate` from now on."""
        self._reading, self._since = self.seconds(), self.world.seconds()
        self.rate = rate

    def callLater(self, delay: float, call: Callable[..., object], *args: object) -> Any:
        """Call once `delay` has passed on this clock."""
        # Rounding must not let the call come before its time: it would be asked for again at once.
        return self.world.callLater(delay / self.rate + 1e-9, call, *args)

    def callFromThread(self, call: Callable[..., object], *args: object, **named: object) -> None:
        """Call in the next turn."""
        self.world.callFromThread(call, *args, **named)

    def getThreadPool(self) -> Any:
        """Return what stands in for the threads."""
        return self.world.getThreadPool()


class Reader(Client):
    """Reads by lease, from whoever thinks that it leads, with little patience."""

    def act(self, wire: Wire) -> None:
        leaders = [node for node in wire.nodes.values() if node.leads]
        if self.open is None and leaders:
            self.open = self.recorder.begin(self.name, "get", "x")
            asked = self.chance.choice(leaders).read(
                ["get", "x"], READ_SECONDS, consistency="lease"
            )
            asked.deferred.addCallback(lambda _: self._ended(asked.value))


def connected(wire: Wire, node: Node) -> bool:
    """Tell whether any other node hears `node`."""
    return any((node.id, other) not in wire.cut for other in set(wire.nodes) - {node.id})


class Writer(Client):
    """Writes to the newest leader among those that are not cut off."""

    def act(self, wire: Wire) -> None:
        leaders = [node for node in wire.nodes.values() if node.leads and connected(wire, node)]
        if self.open is None and leaders:
            newest = max(leaders, key=lambda node: node.shell.server.current_term)
            self.count += 1
            value = f"{self.name}{self.count}"
            self.open = self.recorder.begin(self.name, "set", "x", value)
            asked: Outcome = newest.write(["set", "x", value], WRITE_SECONDS)
            asked.deferred.addCallback(lambda _: self._ended(asked.value))


def hunt(seed: int) -> list[Any]:
    """Return a history in which leaders are cut off while their clocks are the slowest."""
    chance = random.Random(seed)
    world = World()
    wire = Wire(world)
    clocks = {id: Drifting(world) for id in "abc"}
    for id, clock in clocks.items():
        Node(
            wire,
            id,
            "abc",
            machine=KeyValueStore(),
            options=Options(clock_drift_bound=BOUND),
            clock=clock.seconds,
            world=clock,
        )
    recorder = Recorder(clock_ns=lambda: int(world.seconds() * 1e9))
    readers = [Reader(name, recorder, chance) for name in "abc"]

    def live(act: str, seconds: float) -> None:
        # Writers of their own for each act: those of the one before may still wait.
        clients = [*readers, *(Writer(f"{act}{name}", recorder, chance) for name in "de")]
        end = world.seconds() + seconds
        while world.seconds() < end:
            for client in clients:
                client.act(wire)
            world.run(0.01)

    for scene in range(SCENES):
        leader = leader_of(wire)
        for id, clock in clocks.items():
            # The leader's lease seems to it to last the longest, and the others wait the least.
            clock.drift(1.0 if id == leader.id else BOUND)
        live(f"together {scene} ", chance.uniform(0.2, 0.4))
        wire.isolate(leader.id)
        live(f"apart {scene} ", 0.6)
        for clock in clocks.values():
            clock.drift(1.0)
        wire.heal()
    world.run(3.0)
    history = recorder.close()
    for node in list(wire.nodes.values()):
        assert node.failures == []
        node.stop()
    return history


@pytest.mark.parametrize("seed", SEEDS)
def test_lease_reads_are_linearizable_while_clocks_keep_their_bound(seed: int) -> None:
    """R9, sc-D4, sc-P4: a leader that is cut off serves nothing that a new one has replaced."""
    history = hunt(seed)
    assert sum(operation.ok is True for operation in history) > 200
    report = check(history)
    assert report.verdict is Verdict.OK, report.text


def test_the_hunt_finds_a_lease_that_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """R9: where a leader keeps what lease it has until it steps down, some read is stale."""
    lease_end = reads.lease_end

    def endless(server: Server, leader: Leader) -> float:
        return math.inf if lease_end(server, leader) > -math.inf else -math.inf

    monkeypatch.setattr(reads, "lease_end", endless)
    assert any(check(hunt(seed)).verdict is Verdict.ILLEGAL for seed in SEEDS)


def test_reads_that_pass_their_index_on_never_see_time_run_backwards() -> None:
    """R10, sc-D7: monotonic reads across servers, whichever is behind and cut off."""
    chance = random.Random(7)
    world, wire, _ = cluster(3)
    leader = leader_of(wire)
    seen, index, answered = 0, 0, 0
    for step in range(120):
        leader.write(["add", step])
        if step % 15 == 0:
            wire.heal()
            wire.isolate(chance.choice(others(wire, leader)).id)
        told = chance.choice(list(wire.nodes.values())).read_indexed(
            [], 0.3, consistency="local", min_index=index
        )
        world.run(0.02)
        if told.fired and not isinstance(told.value, Exception):
            answered += 1
            assert told.value.value >= seen
            assert told.value.index >= index
            seen, index = told.value.value, told.value.index
    assert answered > 40
    assert seen > 40
