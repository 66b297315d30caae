"""Histories of a simulated cluster, with its leaders killed, through the linearizability checker.

Whole nodes but for sockets and files: the shell, the replica and the key-value machine, in
virtual time, with lost messages, crashes and restarts from what was saved.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from twisted.internet.defer import succeed

from raft.codec import PLAIN
from raft.core import outputs as out
from raft.errors import NotApplied, Timeout
from raft.machines.kv import KeyValueStore
from raft.testing.history import Open, Recorder
from raft.testing.linearizability import Verdict, check
from tests.node.world import Node, Outcome, Wire, World, leader_of

SEEDS = range(40)
STEPS = 220
KEYS = ("x", "y")


class Client:
    """One client: one operation at a time, against whichever node it likes."""

    def __init__(self, name: str, recorder: Recorder, chance: random.Random) -> None:
        self.name, self.recorder, self.chance = name, recorder, chance
        self.open: Open | None = None
        self.count = 0

    def act(self, wire: Wire) -> None:
        if self.open is not None:
            return
        nodes = [node for node in wire.nodes.values() if node.shell.running]
        leaders = [node for node in nodes if node.leads]
        node = self.chance.choice(leaders if leaders and self.chance.random() < 0.9 else nodes)
        op, key = (
            self.chance.choice(["set", "get", "get", "cas", "append"]),
            self.chance.choice(KEYS),
        )
        self.count += 1
        value, expected = f"{self.name}{self.count}", None
        if op == "append":
            key = f"list-{key}"
        elif op == "cas":
            expected = f"{self.chance.choice('abc')}{self.chance.randint(1, self.count)}"
        written = None if op == "get" else value
        self.open = self.recorder.begin(self.name, op, key, written, expected)
        asked = self._ask(node, op, key, value, expected)
        asked.deferred.addCallback(lambda _: self._ended(asked.value))

    def _ask(self, node: Node, op: str, key: str, value: str, expected: str | None) -> Outcome:
        if op == "get":
            return node.read(["get", key], 1.0)
        command = [op, key, expected, value] if op == "cas" else [op, key, value]
        return node.write(command, 1.0)

    def _ended(self, value: Any) -> None:
        operation, self.open = self.open, None
        assert operation is not None
        if not isinstance(value, Exception):
            operation.returned(value)
        elif isinstance(value, NotApplied) or (isinstance(value, Timeout) and not value.appended):
            operation.refused()
        else:
            operation.unknown()


def run(seed: int) -> tuple[list[Any], int]:
    """Return the history of one seed's storm, and how many leaders were killed in it."""
    chance = random.Random(seed)
    world = World()
    wire = Wire(world)
    for id in "abc":
        Node(wire, id, "abc", machine=KeyValueStore(), snapshot_entries=30)
    leader_of(wire)
    recorder = Recorder(clock_ns=lambda: int(world.seconds() * 1e9))
    clients = [Client(name, recorder, chance) for name in "abcd"]
    kills = 0
    for _ in range(STEPS):
        for client in clients:
            client.act(wire)
        world.run(chance.choice([0.0, 0.001, 0.01, 0.05]))
        if chance.random() < 0.04:
            victims = [node for node in wire.nodes.values() if node.leads]
            for node in victims or [chance.choice(list(wire.nodes.values()))]:
                kills += node.shell.server.role is out.Role.LEADER
                node.restarted(machine=KeyValueStore(), snapshot_entries=30)
        elif chance.random() < 0.03:
            wire.isolate(chance.choice(list(wire.nodes)))
        elif chance.random() < 0.1:
            wire.heal()
    wire.heal()
    world.run(6.0)
    history = recorder.close()
    for node in list(wire.nodes.values()):
        assert node.failures == []
        node.stop()
    return history, kills


@pytest.mark.parametrize("seed", SEEDS)
def test_the_history_of_a_simulated_cluster_is_linearizable(seed: int) -> None:
    """I18, sc-Q10: whatever leaders are killed, one order explains all that clients saw."""
    history, kills = run(seed)
    assert kills >= 1
    assert sum(operation.ok is True for operation in history) > 40
    report = check(history)
    assert report.verdict is Verdict.OK, report.text


@pytest.mark.slow
def test_the_checker_sees_a_read_that_skips_the_quorum(monkeypatch: pytest.MonkeyPatch) -> None:
    """D 6.4: with reads answered from whatever is applied, some seed is not linearizable."""

    def stale(node: Node, query: Any, timeout: float = 1.0) -> Outcome:
        code, encoded = node.replica.query(PLAIN.encode(query))
        assert not code
        return Outcome(succeed(PLAIN.decode_result(encoded)))

    monkeypatch.setattr(Node, "read", stale)
    verdicts = [check(run(seed)[0]).verdict for seed in SEEDS]
    assert Verdict.ILLEGAL in verdicts
