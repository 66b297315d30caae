"""A hunt for stale reads: leases on clocks that drift, leaders that are cut off.

Whole nodes in virtual time, each on a clock of its own that runs within the bound. Their
histories go through the linearizability checker. The hunt is not sharp enough to see leases that
last too long: what holds those rules is tests/core/test_leases.py.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from raft.core.server import Options
from raft.machines.kv import KeyValueStore
from raft.testing.history import Recorder
from raft.testing.linearizability import Verdict, check
from tests.node.test_linearizable_histories import Client
from tests.node.world import Node, Outcome, Wire, World, cluster, leader_of, others

BOUND = 1.5
SEEDS = range(20)
STEPS = 150


class Leased(Client):
    """Writes to whoever leads, and reads by the lease of whoever thinks so."""

    def _ask(self, node: Node, op: str, key: str, value: str, expected: str | None) -> Outcome:
        if op == "get":
            return node.read(["get", key], 1.0, consistency="lease")
        return super()._ask(node, op, key, value, expected)


def hunt(seed: int, fastest: float) -> list[Any]:
    """Return a history in which clocks differ by up to `fastest`."""
    chance = random.Random(seed)
    world = World()
    wire = Wire(world)
    options = Options(clock_drift_bound=BOUND)
    rates = [1.0, fastest, fastest]
    for id, rate in zip("abc", rates, strict=True):
        Node(
            wire,
            id,
            "abc",
            machine=KeyValueStore(),
            options=options,
            clock=lambda rate=rate: world.seconds() * rate,
        )
    leader_of(wire)
    recorder = Recorder(clock_ns=lambda: int(world.seconds() * 1e9))
    clients = [Leased(name, recorder, chance) for name in "abcd"]
    cut_until = 0.0
    for _ in range(STEPS):
        for client in clients:
            client.act(wire)
        world.run(chance.choice([0.001, 0.01, 0.05]))
        if wire.cut and world.seconds() > cut_until:
            wire.heal()
        elif not wire.cut and chance.random() < 0.1:
            leaders = [node.id for node in wire.nodes.values() if node.leads]
            # The slowest clock's leader above all: its lease seems to last the longest.
            wire.isolate(leaders[0] if leaders else "a")
            cut_until = world.seconds() + 1.5
    wire.heal()
    world.run(4.0)
    history = recorder.close()
    for node in list(wire.nodes.values()):
        assert node.failures == []
        node.stop()
    return history


@pytest.mark.parametrize("seed", SEEDS)
def test_lease_reads_are_linearizable_while_clocks_keep_their_bound(seed: int) -> None:
    """R9: a leader that is cut off serves nothing that a new one has replaced."""
    history = hunt(seed, BOUND)
    assert sum(operation.ok is True for operation in history) > 40
    report = check(history)
    assert report.verdict is Verdict.OK, report.text


def test_reads_that_pass_their_index_on_never_see_time_run_backwards() -> None:
    """R10: monotonic reads across servers, whichever is behind and cut off."""
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
