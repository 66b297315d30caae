"""Nodes on a clock: real shells and cores, storage in memory, a network that obeys the test.

Nothing here waits, listens or starts a thread: `World.run` moves time on by small steps, and
the same test takes the same steps each time.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from zope.interface import implementer

from raft.codec import PLAIN
from raft.core import events as ev
from raft.core import messages as ms
from raft.core import outputs as out
from raft.core.configuration import Configuration, Member
from raft.core.server import Options
from raft.errors import CommandError
from raft.interfaces import IStateMachine, ReadTerms
from raft.node.bounds import Bounds
from raft.node.calls import LocalReads, LocalWrites
from raft.node.shell import Shell
from raft.node.writes import Batch
from raft.replica import Replica
from raft.storage.memory import MemoryStorage
from raft.transport.wire import SnapshotChunk

STEP_SECONDS = 0.01
ELECTED_SECONDS = 3.0


class Pool:
    """A thread pool without threads: what it is given is done at once."""

    def callInThreadWithCallback(self, done: Any, call: Any, *args: Any, **named: Any) -> None:
        """Call, and report as a thread would."""
        try:
            result, ok = call(*args, **named), True
        except BaseException:
            from twisted.python.failure import Failure

            result, ok = Failure(), False
        done(ok, result)


class World(Clock):
    """A reactor whose time moves by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = Pool()

    def callFromThread(self, call: Callable[..., object], *args: object, **named: object) -> None:
        """Call in the next turn."""
        self.callLater(0, call, *args, **named)

    def getThreadPool(self) -> Pool:
        """Return what stands in for the threads."""
        return self.pool

    def run(self, seconds: float = 0.0, until: Callable[[], object] | None = None) -> None:
        """Let `seconds` pass (one turn at least), or less where `until` is true before.

        With `until`, fails the test where it is not true by the end.
        """
        end = self.seconds() + seconds
        self.advance(0)
        while self.seconds() < end:
            if until is not None and until():
                return
            self.advance(STEP_SECONDS)
        assert until is None or until(), f"did not happen within {seconds} s"


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


class Wire:
    """Carries messages between the nodes of a world; cut links lose them."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.nodes: dict[str, Node] = {}
        self.cut: set[tuple[str, str]] = set()
        self.drop: Callable[[str, str, ms.Message], bool] = lambda *_: False
        """Loses those messages of which it returns True, as a full buffer would."""

    def isolate(self, *ids: str) -> None:
        """Cut off `ids`, together, from all others."""
        for one in ids:
            for other in self.nodes:
                if other not in ids:
                    self.cut |= {(one, other), (other, one)}
        for one, other in self.cut:
            self.nodes[one].shell.post(ev.Unreachable(other))

    def heal(self) -> None:
        """Open all links."""
        self.cut.clear()

    def carry(self, sender: str, receiver: str, message: ms.Message, *beside: Any) -> bool:
        node = self.nodes.get(receiver)
        if node is None or (sender, receiver) in self.cut:
            return False
        if not self.drop(sender, receiver, message):
            if isinstance(message, ms.AppendEntries):
                # What travels is the records: who receives sums them up.
                message = evolve(message, entries=ms.Entries(message.prev_log_index + 1))
            self.world.callLater(0.001, self.arrive, sender, receiver, message, *beside)
        return True

    def arrive(self, sender: str, receiver: str, message: ms.Message, *beside: Any) -> None:
        if receiver in self.nodes and (sender, receiver) not in self.cut:
            self.nodes[receiver].shell.receive(sender, message, *beside)


class Port:
    """One node's end of the wire."""

    def __init__(self, wire: Wire, id: str) -> None:
        self.wire, self.id = wire, id
        self.sent: list[tuple[str, ms.Message]] = []

    def send(
        self,
        peer: str,
        message: ms.Message,
        records: bytes = b"",
        chunk: SnapshotChunk | None = None,
    ) -> bool:
        self.sent.append((peer, message))
        return self.wire.carry(self.id, peer, message, records, chunk)

    def flush(self) -> None:
        """Nothing is held back."""

    def is_connected(self, peer: str) -> bool:
        return peer in self.wire.nodes and (self.id, peer) not in self.wire.cut


class Node:
    """One shell on the clock, with what a service puts around it."""

    def __init__(
        self,
        wire: Wire,
        id: str,
        founders: Iterable[str] = (),
        storage: Any = None,
        machine: Any = None,
        **settings: Any,
    ) -> None:
        self.id, self.wire = id, wire
        self.world: World = settings.pop("world", wire.world)
        self.storage = storage or MemoryStorage()
        self.machine: Any = machine or Journal()
        self.changes: list[out.Change] = []
        self.on_change: Callable[[out.Change], object] = self.changes.append
        self.turns = 0
        self.failures: list[BaseException] = []
        self.options = settings.pop("options", Options())
        codec = settings.pop("codec", PLAIN)
        self.clock = settings.pop("clock", self.world.seconds)
        self.replica = Replica(self.machine, codec, clock=self.clock)
        self.port = Port(wire, id)
        self.shell = Shell(
            self.world,
            self.clock,
            self.storage,
            self.replica,
            self.port,
            lambda change: self.on_change(change),
            self._turned,
            self.failures.append,
            Bounds(**{"snapshot_entries": 0, **settings}),
        )
        self.writes = LocalWrites(self.shell, codec)
        self.reads = LocalReads(codec)
        wire.nodes[id] = self
        found = self.storage.recover()
        if found.snapshot is not None:
            self.replica.restore(*self.storage.open_snapshot(found.snapshot.index))
        self.shell.start(id, self.options, random.Random(id), found)
        founders = tuple(founders)
        if founders and not found.hard_state.current_term:
            members = tuple(Member(each, incarnation="1") for each in founders)
            self.shell.post(ev.Bootstrap(Configuration(members)))

    def _turned(self) -> None:
        self.turns += 1

    @property
    def leads(self) -> bool:
        return self.shell.running and self.shell.server.role is out.Role.LEADER

    @property
    def applied(self) -> int:
        return self.replica.last_applied

    def write(self, command: Any, timeout: float = 3.0, session: Any = None) -> Outcome:
        return Outcome(self.writes.write(command, timeout, session=session))

    def read(self, query: Any, timeout: float = 3.0, **terms: Any) -> Outcome:
        deadline = self.clock() + timeout
        return Outcome(self.reads.read(query, deadline, self.shell.read, ReadTerms(**terms)))

    def read_indexed(self, query: Any, timeout: float = 3.0, **terms: Any) -> Outcome:
        deadline = self.clock() + timeout
        return Outcome(self.reads.read(query, deadline, self.shell.read, ReadTerms(**terms), True))

    def stop(self) -> None:
        self.shell.stop()
        self.wire.nodes.pop(self.id, None)

    def restarted(self, **settings: Any) -> Node:
        """Lose the power and start again with what was saved."""
        self.stop()
        settings.setdefault("options", self.options)
        machine = settings.pop("machine", None) or type(self.machine)()
        return Node(self.wire, self.id, (), self.storage.crash(), machine, **settings)


class Outcome:
    """What a Deferred came to: `value` once it fired, an exception as itself."""

    def __init__(self, deferred: Deferred[Any]) -> None:
        self.deferred = deferred
        self.values: list[Any] = []
        deferred.addCallbacks(self.values.append, lambda failure: self.values.append(failure.value))

    @property
    def fired(self) -> bool:
        return bool(self.values)

    @property
    def value(self) -> Any:
        assert len(self.values) == 1, f"fired {len(self.values)} times"
        return self.values[0]


class Told:
    """What a batch was answered, each time."""

    def __init__(self) -> None:
        self.answers: list[Any] = []

    def batch(self, *payloads: bytes, deadline: float = 3.0) -> Batch:
        return Batch(list(payloads), deadline, self.answers.append)


def cluster(count: int = 3, **settings: Any) -> tuple[World, Wire, dict[str, Node]]:
    """Start servers a, b, c ... which found a cluster; return them once they have a leader."""
    world = World()
    wire = Wire(world)
    ids = "abcdefg"[:count]
    for id in ids:
        Node(wire, id, ids, **settings)
    leader_of(wire)
    return world, wire, wire.nodes


def leader_of(wire: Wire, among: Iterable[str] = "", seconds: float = ELECTED_SECONDS) -> Node:
    """Return the leader (of `among`) that has committed an entry of its term."""
    ids = set(among) or set(wire.nodes)

    def found() -> list[Node]:
        return [
            node
            for id, node in wire.nodes.items()
            if id in ids
            and node.leads
            and node.shell.server.commit_index >= node.shell.server.state.first_index  # type: ignore[union-attr]
        ]

    wire.world.run(seconds, lambda: found())
    return max(found(), key=lambda node: node.shell.server.current_term)


def others(wire: Wire, node: Node) -> list[Node]:
    """Return all nodes but `node`."""
    return [each for each in wire.nodes.values() if each is not node]
