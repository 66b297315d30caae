"""Three shells in a storm: what they told their callers is held against what they applied."""

from __future__ import annotations

import random
from typing import Any

import pytest

from raft.errors import NotApplied, OutcomeUnknown, Timeout
from tests.node.world import Journal, Node, Outcome, Wire, World, cluster, leader_of

SEEDS = range(14)


class Storm:
    """Random writes, reads, partitions, crashes, slow disks and snapshots, from one seed."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        small = self.chance.random() < 0.5
        self.settings: dict[str, Any] = {
            "cache_bytes": 300 if small else 1 << 20,
            "snapshot_entries": self.chance.choice([0, 15, 60]),
            "trailing_entries": self.chance.choice([0, 3, 40]),
        }
        self.world: World
        self.wire: Wire
        self.world, self.wire, _ = cluster(3, **self.settings)
        self.writes: list[tuple[int, Node, Outcome]] = []
        self.reads: list[tuple[int, Outcome]] = []
        self.lost: set[int] = set()
        """Writes whose caller went down with its node."""

    @property
    def nodes(self) -> list[Node]:
        return [self.wire.nodes[id] for id in sorted(self.wire.nodes)]

    def acknowledged(self) -> int:
        return sum(each.fired and isinstance(each.value, list) for _, _, each in self.writes)

    def blow(self) -> None:
        chance = self.chance
        node = chance.choice(self.nodes)
        leaders = [each for each in self.nodes if each.leads]
        if leaders and chance.random() < 0.8:
            node = chance.choice(leaders)
        match chance.choices(
            ["write", "read", "isolate", "heal", "crash", "hang", "sync", "take", "cancel"],
            [60, 12, 2, 4, 1, 2, 8, 2, 3],
        )[0]:
            case "write":
                for _ in range(chance.choice([1, 1, 3])):
                    number = len(self.writes)
                    told = node.write(["add", number], chance.choice([0.05, 0.5, 5.0]))
                    self.writes.append((number, node, told))
            case "read":
                self.reads.append((self.acknowledged(), node.read(0, 1.0)))
            case "isolate":
                self.wire.isolate(node.id)
            case "heal":
                self.wire.heal()
            case "crash":
                self.lost |= {n for n, at, told in self.writes if at is node and not told.fired}
                again = node.restarted(**self.settings)
                again.storage.automatic = True
                again.storage.complete()
            case "hang":
                node.storage.automatic = False
            case "sync":
                for each in self.nodes:
                    each.storage.automatic = True
                    each.storage.complete()
            case "take":
                node.shell.snapshots.take().addErrback(lambda _: 0)
            case "cancel":
                if self.writes:
                    self.writes[-1][2].deferred.cancel()
        self.world.run(chance.choice([0.0, 0.0, 0.0, 0.01, 0.03, 0.2]))

    def calm(self) -> None:
        self.wire.heal()
        for each in self.nodes:
            each.storage.automatic = True
            each.storage.complete()
        # Who was cut off may think for a moment that it leads.
        self.world.run(1.0)
        last = leader_of(self.wire, seconds=10.0)
        told = last.write(["add", "the end"], 5.0)
        self.world.run(5.0, lambda: told.fired)
        assert isinstance(told.value, list)
        applied = last.shell.server.commit_index
        self.world.run(5.0, lambda: all(each.applied >= applied for each in self.nodes))
        self.world.run(6.0)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_callers_were_told_is_what_was_applied(seed: int) -> None:
    """L9, R5, E7, N6: each outcome is true, given once, and given to whom it belongs.

    sc-Q9, sc-Q10.
    """
    storm = Storm(seed)
    for _ in range(250):
        storm.blow()
    storm.calm()
    nodes = storm.nodes
    assert [node.failures for node in nodes] == [[], [], []]
    assert all(node.guard and node.guard.agreed_index for node in nodes)
    journal = nodes[0].machine.applied
    assert all(node.machine.applied == journal for node in nodes)
    assert len({node.replica.digest for node in nodes}) == 1
    numbers = [command[1] for command in journal]
    assert len(set(numbers)) == len(numbers), "a command was applied twice"
    applied = set(numbers)
    for number, _, told in storm.writes:
        if number in storm.lost and not told.fired:
            continue
        value = told.value
        if isinstance(value, list):
            assert value[1] == number, "a result was given to another caller"
            assert number in applied, "an acknowledged write is lost"
        elif isinstance(value, NotApplied) or (isinstance(value, Timeout) and not value.appended):
            assert number not in applied, f"{value!r}, but it was applied"
        else:
            assert isinstance(value, OutcomeUnknown | Timeout), value
    for least, asked in storm.reads:
        if asked.fired and isinstance(asked.value, int):
            assert asked.value >= least, "a stale read"
    told_indexes = [t.value[0] for _, _, t in storm.writes if t.fired and isinstance(t.value, list)]
    assert len(set(told_indexes)) == len(told_indexes)
    for node in nodes:
        node.stop()
    storm.world.run(0.1)
    assert storm.world.getDelayedCalls() == []


def test_the_storm_is_one(  # The tests above would pass in a dead calm.
) -> None:
    storm = Storm(1)
    for _ in range(250):
        storm.blow()
    assert storm.acknowledged() > 30
    assert any(isinstance(t.values[0], Exception) for _, _, t in storm.writes if t.fired)
    assert isinstance(storm.nodes[0].machine, Journal)
