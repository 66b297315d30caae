"""Snapshots under load: heartbeats go on, pieces stay small, and a catch-up comes to an end."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgspec
import pytest

from raft.core import messages as ms
from raft.errors import StorageFull
from raft.machines.kv import KeyValueStore
from raft.machines.overlaid import POUR_KEYS
from raft.machines.slices import SLICE_BYTES
from raft.node.snapshot_sending import PIECE_BYTES
from raft.storage.memory import MemorySnapshotWriter
from tests.node.test_snapshots import Bulky, Chunks
from tests.node.world import Node, Outcome, Wire, World, cluster, leader_of, others

KEYS = 50_000
WINDOW_BYTES = 4 << 20


class Watched(KeyValueStore):
    """A store that notes what each step of a snapshot makes."""

    def __init__(self) -> None:
        super().__init__()
        self.chunks: list[bytes] = []

    def snapshot(self) -> Any:
        for chunk in super().snapshot():
            self.chunks.append(chunk)
            yield chunk


def turns_take_time(world: World) -> None:
    """Let the next turn of the reactor come in a later advance of the clock."""
    later = world.callLater
    world.callLater = lambda delay, *call, **named: later(  # type: ignore[method-assign]
        max(delay, 0.0005), *call, **named
    )


def test_a_snapshot_is_made_by_small_pieces_between_turns() -> None:
    """N2, sc-S14: slices of at most 2,000 keys; apply and heartbeats go on between two of them."""
    world, wire, nodes = cluster(3, trailing_entries=0)
    for node in nodes.values():
        node.machine = node.replica.machine = Watched()
        for number in range(KEYS):
            node.machine._values.written[f"key {number:09}"] = "v" * 64
    leader = leader_of(wire)
    world.run(0.5)
    turns_take_time(world)
    term = leader.shell.server.current_term
    leader.shell.snapshots.take()
    beats, applied, pieces = 0, [], 0
    while leader.shell.snapshots.is_taking:
        sent, made = len(leader.port.sent), len(leader.machine.chunks)
        told = leader.write(["set", f"key {pieces:09}", "changed"])
        world.advance(0.01)
        pieces += 1
        assert pieces < 10 * KEYS / 2_000
        # One step a turn, whose bytes are on their way to the file before the next one.
        assert len(leader.machine.chunks) - made <= 1
        beats += sum(isinstance(m, ms.AppendEntries) for _, m in leader.port.sent[sent:])
        applied.append(told)
    chunks = [chunk for chunk in leader.machine.chunks if chunk]
    assert pieces > len(chunks) >= KEYS / 2_000
    for chunk in chunks:
        assert len(chunk) <= SLICE_BYTES + 100
        # Two thousand keys with their values, and the head.
        assert len(msgspec.msgpack.decode(chunk[4:])) <= 4_000 + 2
    world.run(0.3)
    assert all(each.fired for each in applied)
    assert beats >= len(applied)
    assert leader.shell.server.current_term == term
    assert leader.leads


def loaded(**settings: Any) -> tuple[World, Wire, Node, Node]:
    """Return a leader with the snapshot policy on, and a follower that has nothing."""
    world, wire, nodes = cluster(3, trailing_entries=0, trailing_bytes=8 << 20, **settings)
    for node in nodes.values():
        node.machine = node.replica.machine = Bulky()
    leader = leader_of(wire)
    behind = others(wire, leader)[0]
    wire.isolate(behind.id)
    # For so long that nobody waits for it any more.
    world.run(61.0)
    load(world, leader, 1.0)
    leader.shell.snapshots.take()
    load(world, leader, 0.1)
    assert leader.shell.server.log.first_index > behind.shell.server.log.last_index + 1
    return world, wire, leader, behind


def load(world: World, leader: Node, seconds: float) -> None:
    """Write 1.3 MB a second."""
    for _ in range(int(seconds / 0.03)):
        for _ in range(10):
            leader.write(["add", "x" * 4_000])
        world.run(0.03)


def slow_down(world: World, wire: Wire) -> None:
    """Let chunks travel at 4 MB a second, one after the other."""
    arrive, free_at = wire.arrive, [0.0]

    def slow(sender: str, receiver: str, message: Any, *beside: Any) -> None:
        delay = 0.0
        if isinstance(message, ms.InstallSnapshot):
            free_at[0] = max(free_at[0], world.seconds()) + len(beside[1].chunk) / 4_000_000
            delay = free_at[0] - world.seconds()
        world.callLater(delay, arrive, sender, receiver, message, *beside)

    wire.arrive = slow  # type: ignore[method-assign]


def test_a_follower_a_snapshot_behind_catches_up_under_load_by_one_snapshot() -> None:
    """N4, sc-S9, sc-S12: no newer snapshot takes from it what it needs next; memory is bounded."""
    world, wire, leader, behind = loaded(snapshot_floor_bytes=1 << 20, snapshot_factor=0.1)
    taken = leader.shell.snapshots.taken_count
    load(world, leader, 2.0)
    # A period is shorter than the transfer will be.
    assert leader.shell.snapshots.taken_count > taken
    chunks = Chunks(wire)
    slow_down(world, wire)
    wire.heal()
    held = 0
    for round in range(300):
        load(world, leader, 0.03)
        if round == 60:
            # For more than a period: the file must still be there when it goes on.
            wire.isolate(behind.id)
            world.callLater(2.5, wire.heal)
        underway = leader.shell.snapshots.sending
        if underway.is_busy:
            arrived = behind.shell.snapshots.receiving.received_bytes(leader.id)
            held = max(held, chunks.offsets[-1] - arrived if arrived else 0)
        if behind.applied >= leader.applied - 20:
            break
    assert behind.applied >= leader.applied - 20
    assert chunks.offsets.count(0) == 1
    assert 0 < held <= WINDOW_BYTES + PIECE_BYTES
    assert behind.shell.server.log.first_index > 1
    assert not behind.failures
    # Once it is there, the leader goes on with its own.
    taken = leader.shell.snapshots.taken_count
    load(world, leader, 2.0)
    assert leader.shell.snapshots.taken_count > taken


def test_a_snapshot_that_fails_leaves_what_was_written_to_small_steps() -> None:
    """sc-S13: a full disk is no reason for a pause, and the next snapshot may begin."""
    world, wire, nodes = cluster(1)
    node = nodes["a"]
    machine = node.machine = node.replica.machine = KeyValueStore()
    for number in range(KEYS):
        machine._values.written[f"key {number:09}"] = "v"
    leader_of(wire)
    turns_take_time(world)

    def full(_: object) -> None:
        for number in range(10_000):
            machine._values.written[f"new {number:09}"] = "v"
        raise StorageFull("no room")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemorySnapshotWriter, "write", lambda *_: full(None))
        told = Outcome(node.shell.snapshots.take())
        left = [10_000]
        while node.shell.snapshots.is_taking:
            world.advance(0.01)
            left.append(len(machine._values._overlay or ()))
            assert len(left) < 100
    assert isinstance(told.value, StorageFull)
    assert max(earlier - later for earlier, later in pairwise(left[left.index(max(left)) :])) <= (
        POUR_KEYS
    )
    assert left[-1] == 0
    assert len(machine._values) == KEYS + 10_000
    again = Outcome(node.shell.snapshots.take())
    world.run(2.0, lambda: again.fired)
    assert again.value == node.applied
    assert not node.failures
