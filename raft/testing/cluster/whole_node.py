"""A whole node in a simulated world: the real shell, core and replica, storage in memory.

What a service puts around a shell is here too: calls of this process, and a first configuration.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from raft.codec import PLAIN, Codec
from raft.core import events as ev
from raft.core import outputs as out
from raft.core.configuration import Configuration, Member
from raft.core.roles import Leader
from raft.core.server import Options
from raft.errors import Diverged
from raft.interfaces import ReadTerms
from raft.node.bounds import Bounds
from raft.node.calls import LocalReads, LocalWrites
from raft.node.guard import Guard, Judgement
from raft.node.shell import Shell
from raft.replica import Replica
from raft.storage.memory import MemoryStorage
from raft.testing.cluster.wire import Port
from raft.testing.cluster.world import Outcome, World

if TYPE_CHECKING:
    from raft.testing.cluster.wire import Wire

ELECTED_SECONDS: Final = 3.0
"""How long an election may take, unless told otherwise."""

OPTIONS: Final = Options()
NO_SNAPSHOTS: Final = Bounds(snapshot_entries=0)
"""A node takes snapshots when it is asked, or when its log is very long."""

N = TypeVar("N", bound="WholeNode")


class WholeNode:
    """One shell in a world, with what a service puts around it.

    Attributes:
        on_change: called with each change that the shell tells.
        failures: what stopped the node, if anything did.
    """

    def __init__(
        self,
        wire: Wire[Any],
        id: str,
        machine: object,
        founders: Iterable[str] = (),
        storage: MemoryStorage | None = None,
        *,
        world: World | None = None,
        clock: Callable[[], float] | None = None,
        codec: Codec = PLAIN,
        options: Options = OPTIONS,
        chance: random.Random | None = None,
        bounds: Bounds = NO_SNAPSHOTS,
        guarded: bool = False,
    ) -> None:
        """Recover what `storage` holds and start; `founders` found a cluster where it is empty.

        With `chance`, all that the node draws comes from there. `guarded` ones compare their
        digests, and stop where theirs is wrong.
        """
        self.id, self.wire, self.options = id, wire, options
        self.world: World = world or wire.world
        self.clock = clock or self.world.seconds
        self.storage = storage or MemoryStorage()
        self.machine: Any = machine
        self.changes: list[out.Change] = []
        self.on_change: Callable[[out.Change], object] = self.changes.append
        self.turns = 0
        self.failures: list[BaseException] = []
        self.replica = Replica(machine, codec, clock=self.clock)
        self.port = Port(wire, id)
        self.shell = Shell(
            self.world,
            self.clock,
            self.storage,
            self.replica,
            self.port,
            self._changed,
            self.turned,
            self.failures.append,
            bounds,
        )
        self.writes = LocalWrites(self.shell, codec)
        self.reads = LocalReads(codec)
        self.guard = Guard(id, self.shell, self.port, self._set_aside) if guarded else None
        wire.nodes[id] = self
        self._start(tuple(founders), chance)

    def _start(self, founders: tuple[str, ...], chance: random.Random | None) -> None:
        found = self.storage.recover()
        if found.snapshot is not None:
            self.replica.restore(*self.storage.open_snapshot(found.snapshot.index))
        self.shell.start(self.id, self.options, chance or random.Random(self.id), found)
        if chance is not None:
            self.shell.scribe.seed = lambda: chance.randbytes(16)
        if founders and not found.hard_state.current_term:
            members = tuple(Member(each, incarnation="1") for each in founders)
            self.shell.post(ev.Bootstrap(Configuration(members)))

    def _changed(self, change: out.Change) -> None:
        self.on_change(change)

    def turned(self) -> None:
        """Count a turn, and compare digests; the shell calls this at the end of each."""
        self.turns += 1
        if self.guard is not None:
            self.guard.turned()

    def _set_aside(self, found: Judgement) -> None:
        self.shell.fail(Diverged(found.index, found.is_exact))

    @property
    def leads(self) -> bool:
        """Whether it takes itself for the leader."""
        return self.shell.running and self.shell.server.role is out.Role.LEADER

    @property
    def serves(self) -> bool:
        """Whether it leads and has committed an entry of its term."""
        state = self.shell.server.state
        if not self.shell.running or not isinstance(state, Leader):
            return False
        return self.shell.server.commit_index >= state.first_index

    @property
    def applied(self) -> int:
        """The index of the last entry applied."""
        return self.replica.last_applied

    def write(self, command: Any, timeout: float = 3.0, session: Any = None) -> Outcome:
        """Write a command; return what comes of it."""
        return Outcome(self.writes.write(command, timeout, session=session))

    def read(self, query: Any, timeout: float = 3.0, **terms: Any) -> Outcome:
        """Ask a query; return what comes of it."""
        deadline = self.clock() + timeout
        return Outcome(self.reads.read(query, deadline, self.shell.read, ReadTerms(**terms)))

    def read_indexed(self, query: Any, timeout: float = 3.0, **terms: Any) -> Outcome:
        """Ask a query; what comes of it is an `Indexed`."""
        deadline = self.clock() + timeout
        return Outcome(self.reads.read(query, deadline, self.shell.read, ReadTerms(**terms), True))

    def stop(self) -> None:
        """Lose the power; what `storage.crash()` returns is what was saved."""
        if self.guard is not None:
            self.guard.stop()
        self.shell.stop()
        self.wire.nodes.pop(self.id, None)


def leader_of(wire: Wire[N], among: Iterable[str] = "", seconds: float = ELECTED_SECONDS) -> N:
    """Wait for the leader (of `among`) that has committed an entry of its term; return it.

    Raises:
        NeverHappened: there is none within `seconds`.
    """
    ids = set(among) or set(wire.nodes)

    def found() -> list[N]:
        return [node for id, node in wire.nodes.items() if id in ids and node.serves]

    wire.world.run(seconds, found)
    return max(found(), key=lambda node: node.shell.server.current_term)
