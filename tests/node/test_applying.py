"""Applying in slices goes on where it stopped, however slow the records are to read."""

from __future__ import annotations

from typing import Any

from tests.node.world import Journal, Node, Wire, World, cluster, leader_of


class SlowClock:
    """The world's time, and what reading from the disk adds to it."""

    def __init__(self, world: World) -> None:
        self.world, self.extra = world, 0.0

    def __call__(self) -> float:
        return self.world.seconds() + self.extra


def test_records_that_are_slow_to_read_are_read_once() -> None:
    """A restart with many small saves: one read took the whole slice, and each turn read again."""
    world, wire, _ = cluster(1)
    node = leader_of(wire)
    for number in range(400):
        node.write(["add", number])
        world.run(0.0)
    world.run(1.0)
    node.stop()
    clock = SlowClock(world)
    again = Node(wire, node.id, (), node.storage.crash(), Journal(), clock=clock)
    reads: list[int] = []
    read = again.storage.read

    def slow(start: int, end: int, limit_bytes: int) -> Any:
        reads.append(start)
        clock.extra += 0.02
        return read(start, end, limit_bytes)

    again.shell.cache.read = slow
    world.run(3.0, lambda: len(again.machine.applied) == 400)
    assert len(again.machine.applied) == 400
    assert len(reads) < 10
    assert isinstance(wire, Wire)
    again.stop()
