"""A snapshot goes into the machine over many turns, while the server takes part as before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from zope.interface import implementer

from raft.errors import Overloaded, StateMachineFailed
from raft.interfaces import IGradualStateMachine
from raft.machines.sqlite import SQLiteDatabase
from raft.node.restoring import STEPS_AT_ONCE, Restoring
from raft.replica import Replica
from tests.node.test_snapshots import caught_up, compacted
from tests.node.world import Journal, Node, Outcome, Wire, World, others

STEPS = 100


@implementer(IGradualStateMachine)
class Gradual(Journal):
    """A journal that takes a snapshot in by many steps."""

    steps = 0
    refuses_at = -1

    def restoring(self, chunks: Iterator[bytes]) -> Iterator[None]:
        self.applied = []
        for self.steps in range(1, STEPS + 1):
            if self.steps == self.refuses_at:
                raise ValueError("no such slice")
            yield
        super().restore(chunks)

    def apply(self, command: Any, context: Any) -> Any:
        assert self.steps in (0, STEPS)
        return super().apply(command, context)

    def query(self, query: Any) -> Any:
        assert self.steps in (0, STEPS)
        return super().query(query)


class Held(Gradual):
    """One whose restoration does not go on before the test says so."""

    holds = True

    def restoring(self, chunks: Iterator[bytes]) -> Iterator[None]:
        while self.holds:
            yield
        yield from super().restoring(chunks)


def installing(machine: type[Gradual] = Gradual) -> tuple[World, Wire, Node, Node]:
    """Return a leader and a follower that has begun to take its snapshot in."""
    world, wire, leader, behind = compacted(machine)
    # A turn takes time, so that the next one is not in the same advance of the clock.
    later = world.callLater
    world.callLater = lambda delay, *call, **named: later(  # type: ignore[method-assign]
        max(delay, 0.0005), *call, **named
    )
    wire.heal()
    world.run(5.0, lambda: behind.shell.restoring.is_active)
    assert behind.machine.steps < STEPS
    return world, wire, leader, behind


def test_a_server_takes_part_while_a_snapshot_is_restored() -> None:
    """N5, N6: heartbeats are answered, entries saved; only what needs the machine waits."""
    world, _wire, leader, behind = installing()
    term, index = leader.shell.server.current_term, leader.shell.server.snapshot_index
    leader.write(["add", "meanwhile"])
    read = behind.read(None, consistency="local")
    refused = Outcome(behind.shell.snapshots.take())
    turns, sent = 0, len(behind.port.sent)
    while behind.shell.restoring.is_active and turns < STEPS:
        before = behind.machine.steps
        world.advance(0.02)
        turns += 1
        assert behind.machine.steps - before <= STEPS_AT_ONCE
        assert behind.shell.running
        if behind.shell.restoring.is_active:
            assert not read.fired
            assert behind.applied < index
    assert turns >= STEPS // STEPS_AT_ONCE - 2
    assert len(behind.port.sent) > sent
    assert isinstance(refused.value, Overloaded)
    caught_up(world, behind, leader)
    assert leader.shell.server.current_term == term
    assert read.value >= 20
    assert behind.shell.server.snapshot_index == index


def test_who_is_elected_in_the_middle_of_a_restore_answers_when_it_is_done() -> None:
    """N6, R5: it has the log, so it may lead; nobody is answered from half a state."""
    world, wire, leader, behind = installing(Held)
    last = leader.shell.server.log.last_index
    world.run(1.0, lambda: behind.shell.server.log.saved_index == last)
    leader.shell.transfer(behind.id)
    world.run(2.0, lambda: behind.leads)
    told = [behind.write(["add", "x"]), behind.read(None), behind.read(None, consistency="local")]
    refused = Outcome(behind.shell.snapshots.take())
    world.run(0.5)
    assert behind.leads
    assert not any(each.fired for each in told)
    assert isinstance(refused.value, Overloaded)
    behind.machine.holds = False
    world.run(2.0, lambda: all(each.fired for each in told))
    assert told[0].value[1:] == ["x"]
    assert min(told[1].value, told[2].value) >= 21
    for other in others(wire, behind):
        caught_up(world, other, behind)


def test_a_power_loss_in_the_middle_of_a_restore_loses_nothing() -> None:
    """N7: the snapshot is durable, and marked, before the machine takes it in."""
    world, _wire, leader, behind = installing()
    index = behind.shell.server.snapshot_index
    world.run(0.01)
    assert behind.shell.restoring.is_active
    again = behind.restarted(machine=Gradual())
    assert again.applied == index
    caught_up(world, again, leader)


def test_a_machine_that_refuses_a_later_slice_stops_its_node_only() -> None:
    world, wire, leader, behind = compacted(Gradual)
    behind.machine.refuses_at = 30
    wire.heal()
    world.run(3.0, lambda: behind.failures)
    assert isinstance(behind.failures[0], StateMachineFailed)
    assert "ValueError" in str(behind.failures[0])
    assert leader.shell.running


def test_a_node_that_stops_in_the_middle_reads_the_snapshot_no_more() -> None:
    world, _wire, _leader, behind = installing()
    steps = behind.machine.steps
    behind.stop()
    world.run(0.5)
    assert behind.machine.steps == steps
    assert not behind.shell.restoring.is_active


class Chunks:
    """Chunks that know whether they were closed."""

    def __init__(self, *chunks: bytes) -> None:
        self.left = iter(chunks)
        self.closed = False

    def __iter__(self) -> Chunks:
        return self

    def __next__(self) -> bytes:
        return next(self.left)

    def close(self) -> None:
        self.closed = True


def test_a_later_snapshot_takes_the_place_of_an_unfinished_one() -> None:
    machines = [Gradual() for _ in range(3)]
    replicas = [Replica(each) for each in machines]
    offers = []
    for number, replica in enumerate(replicas[:2]):
        replica.last_applied = 10 * (number + 1)
        machines[number].applied = [["add", number]]
        meta, content = replica.snapshot()
        offers.append((meta, Chunks(*content)))
    restoring = Restoring(replicas[2], lambda: 0.0)
    restoring.begin(*offers[0])  # type: ignore[arg-type]
    assert not restoring.advance(1.0)
    with pytest.raises(StateMachineFailed, match="not restored"):
        replicas[2].snapshot()
    restoring.begin(*offers[1])  # type: ignore[arg-type]
    assert offers[0][1].closed
    while not restoring.advance(1.0):
        assert restoring.is_active
    assert offers[1][1].closed
    assert replicas[2].last_applied == 20
    assert machines[2].applied == [["add", 1]]
    assert list(replicas[2].snapshot()[1])


def test_a_durable_machine_waits_for_the_mark_of_the_latest_snapshot(tmp_path: Path) -> None:
    """N1: the file, then its mark in the log, then everything that builds on it."""
    offers = []
    for index in (10, 20):
        source = Replica(SQLiteDatabase(tmp_path / f"{index}"))
        source.open()
        source.last_applied = index
        meta, content = source.snapshot()
        offers.append((meta, Chunks(*content)))
        source.close()
    replica = Replica(SQLiteDatabase(tmp_path / "replica"))
    replica.open()
    restoring = Restoring(replica, lambda: 0.0)
    for meta, chunks in offers:
        restoring.begin(meta, chunks)  # type: ignore[arg-type]
        assert restoring.is_active
        assert restoring.is_held
    restoring.marked(10)
    assert not restoring.advance(1.0)
    assert replica.last_applied == 0
    restoring.marked(20)
    assert restoring.advance(1.0)
    assert replica.last_applied == 20
    with pytest.raises(StateMachineFailed, match="of the machine 'kv'"):
        restoring.begin(evolve(offers[1][0], index=30, machine="kv"), Chunks())  # type: ignore[arg-type]
    replica.close()


def test_steps_end_with_the_deadline_of_the_turn() -> None:
    machine = Gradual()
    replica = Replica(machine)
    meta, content = replica.snapshot()
    now = [0.0]
    restoring = Restoring(replica, lambda: now[0])
    restoring.begin(meta, iter(list(content)))
    before = machine.steps
    restoring.advance(1.0)
    assert machine.steps == before + STEPS_AT_ONCE
    now[0] = 2.0
    restoring.advance(1.0)
    assert machine.steps == before + STEPS_AT_ONCE + 1
