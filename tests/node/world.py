"""Whole nodes of `raft.testing` with a journal for a machine, and what tests ask of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from zope.interface import implementer

from raft.codec import PLAIN
from raft.errors import CommandError
from raft.interfaces import IStateMachine
from raft.node.bounds import Bounds
from raft.node.writes import Batch
from raft.testing.cluster.whole_node import WholeNode, leader_of
from raft.testing.cluster.wire import Wire
from raft.testing.cluster.world import Outcome, Pool, World

__all__ = [
    "Journal",
    "Node",
    "Outcome",
    "Pool",
    "Told",
    "Wire",
    "World",
    "cluster",
    "leader_of",
    "others",
]

TOLD = ("world", "clock", "codec", "options")
"""What a node is told itself; all else are its bounds."""


@implementer(IStateMachine)
class Journal:
    """A machine that keeps what it applied: commands are lists, the first word says what.

    `["add", x]` returns [index, x]; `["refuse"]` and `["break"]` raise; queries return how
    many there are.
    """

    def __init__(self) -> None:
        self.applied: list[Any] = []
        self.on_apply: Callable[[], object] = lambda: None

    def apply(self, command: Any, context: Any) -> Any:
        self.on_apply()
        if command == ["refuse"]:
            raise CommandError("no", "it was told to")
        if command == ["local"]:
            raise MemoryError
        self.applied.append(command)
        return [context.index, *command[1:]]

    def query(self, query: Any) -> Any:
        if query == ["refuse"]:
            raise CommandError("no")
        return len(self.applied)

    def snapshot(self) -> Iterable[bytes]:
        return [PLAIN.encode_result(each) for each in [self.applied]]

    def restore(self, chunks: Any) -> None:
        self.applied = list(PLAIN.decode_result(b"".join(chunks)))  # type: ignore[arg-type]


class Node(WholeNode):
    """A whole node with a journal for a machine, unless told otherwise."""

    def __init__(
        self,
        wire: Wire[Any],
        id: str,
        founders: Iterable[str] = (),
        storage: Any = None,
        machine: Any = None,
        **settings: Any,
    ) -> None:
        told = {name: settings.pop(name) for name in TOLD if name in settings}
        bounds = Bounds(**{"snapshot_entries": 0, **settings})
        super().__init__(
            wire, id, machine or Journal(), founders, storage, bounds=bounds, guarded=True, **told
        )
        self.port.keeps_sent = True

    def restarted(self, **settings: Any) -> Node:
        """Lose the power and start again with what was saved."""
        self.stop()
        settings.setdefault("options", self.options)
        machine = settings.pop("machine", None) or type(self.machine)()
        return Node(self.wire, self.id, (), self.storage.crash(), machine, **settings)


class Told:
    """What a batch was answered, each time."""

    def __init__(self) -> None:
        self.answers: list[Any] = []

    def batch(self, *payloads: bytes, deadline: float = 3.0) -> Batch:
        return Batch(list(payloads), deadline, self.answers.append)


def cluster(count: int = 3, **settings: Any) -> tuple[World, Wire[Node], dict[str, Node]]:
    """Start servers a, b, c ... which found a cluster; return them once they have a leader."""
    world = World()
    wire: Wire[Node] = Wire(world)
    ids = "abcdefg"[:count]
    for id in ids:
        Node(wire, id, ids, **settings)
    leader_of(wire)
    return world, wire, wire.nodes


def others(wire: Wire[Node], node: Node) -> list[Node]:
    """Return all nodes but `node`."""
    return [each for each in wire.nodes.values() if each is not node]
