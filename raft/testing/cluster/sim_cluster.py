"""A whole cluster in one object, for tests of an application's own state machine.

    with SimCluster(Jobs, seed=7) as cluster:
        cluster.write(["add", "mail"])
        cluster.crash(cluster.leader)
        cluster.storm(300, commands)

The nodes are real: core, log, sessions, snapshots, replicas. Time, network, disks and chance are
simulated: no sockets, no files, no threads, and the same seed does the same again.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Final, Generic, TypeVar

from raft.codec import PLAIN, Codec
from raft.errors import BadConfiguration, NodeFailed
from raft.interfaces import IOnDiskStateMachine
from raft.node.bounds import Bounds
from raft.storage.memory import MemoryStorage
from raft.testing.cluster.auditor import Auditor
from raft.testing.cluster.client import SimClient, serving
from raft.testing.cluster.node import SimNode
from raft.testing.cluster.sameness import check_alike
from raft.testing.cluster.storm import Commands, Storm
from raft.testing.cluster.whole_node import ELECTED_SECONDS
from raft.testing.cluster.wire import Wire
from raft.testing.cluster.world import LeapingWorld, Outcome
from raft.testing.machine_fault import MachineFault, Words
from raft.testing.watched import Ledger, States, WallClock, Watched

EPOCH: Final = 1_700_000_000.0
DAY_SECONDS: Final = 86_400.0
DELAY_SECONDS: Final = (0.0005, 0.004)
"""How long a message takes, at least and at most."""
WAIT_SECONDS: Final = 10.0
"""How much simulated time a call may take, unless told otherwise."""
NODES: Final = 3
SNAPSHOT_ENTRIES: Final = 50
"""After how many entries a node takes a snapshot by itself, unless told otherwise."""

M = TypeVar("M")


class SimCluster(Generic[M]):
    """A cluster of whole nodes in simulated time, that watches the machines it runs.

    Times are simulated seconds: they pass only within its methods, and cost next to nothing.
    Nodes are named n1, n2, ... What is wrong with a machine is found while entries are applied,
    and raised by `check`, by `storm`, and at the end of a `with` block.
    """

    def __init__(
        self,
        machine_factory: Callable[[], M],
        *,
        seed: int = 0,
        nodes: int = NODES,
        codec: Codec = PLAIN,
        state: Callable[[M], object] | None = None,
        snapshot_entries: int = SNAPSHOT_ENTRIES,
    ) -> None:
        """Start the nodes and wait for a leader.

        Args:
            machine_factory: makes a machine in its initial state: for each start of a node.
            seed: what all chance is drawn from.
            nodes: how many members found the cluster, from 1 to 9.
            codec: of the machine's commands and results.
            state: returns what machines are compared by: the bytes of `snapshot()` by default,
                in whatever order they come.
            snapshot_entries: a node takes a snapshot after so many entries; 0 for never.

        Raises:
            BadConfiguration: what the factory makes is no machine that can be simulated.
        """
        if not 1 <= nodes <= 9:
            raise BadConfiguration(f"nodes is {nodes}; a simulated cluster has from 1 to 9")
        self.machine_factory, self.seed, self.codec = machine_factory, seed, codec
        self.chance = random.Random(seed)
        self.world = LeapingWorld()
        self.ids = tuple(f"n{number}" for number in range(1, nodes + 1))
        self.wire: Wire[SimNode] = Wire(self.world)
        self.wire.delay = lambda: self.chance.uniform(*DELAY_SECONDS)
        self._disks: dict[str, MemoryStorage] = {}
        self._bounds = Bounds(snapshot_entries=snapshot_entries, trailing_entries=5)
        self._ledger = Ledger(Words(codec))
        self._auditor = Auditor(self._make, self._ledger, random.Random(seed), States(state))
        self._client = SimClient(self.wire, self.chance)
        self._called = 0
        self._line = f"the same calls on {self._name()}"
        for id in self.ids:
            self._start(id, MemoryStorage(), self.ids)
        self._run_until(lambda: self.leader, ELECTED_SECONDS)

    # Reading it.

    @property
    def leader(self) -> str | None:
        """The node that leads and can answer, or None while there is none."""
        node = serving(self.wire)
        return node.id if node is not None else None

    @property
    def up(self) -> tuple[str, ...]:
        """The nodes that run."""
        return tuple(id for id in self.ids if id in self.wire.nodes)

    @property
    def seconds(self) -> float:
        """The simulated time that has passed."""
        return float(self.world.seconds())

    def machines(self) -> dict[str, M]:
        """Return the machine of each node that runs."""
        return {id: self.wire.nodes[id].machine.machine for id in self.up}

    def applied(self) -> dict[str, int]:
        """Return the index of the last entry that each node which runs has applied."""
        return {id: self.wire.nodes[id].applied for id in self.up}

    # What clients do.

    def write(self, command: object, timeout: float = WAIT_SECONDS) -> Any:
        """Write a command and return its result; it takes effect once, however often it is sent.

        Raises:
            CommandError, CommandFailed, ...: what the machine raised, as a client gets it.
            Timeout: there was no answer in time; `appended` tells whether it may be applied.
        """
        self._called += 1
        return self._client.write(command, timeout)

    def read(self, query: object, timeout: float = WAIT_SECONDS) -> Any:
        """Ask a query and return the answer, from a state with all writes before it.

        Raises:
            CommandError, CommandFailed, ...: what the machine raised, as a client gets it.
            Timeout: there was no answer in time.
        """
        self._called += 1
        answer = self._client.read(query, timeout)
        self._auditor.ask(self.codec.encode(query))
        return answer

    # What befalls it.

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self._called += 1
        self.world.run(seconds)

    def settle(self, timeout: float = WAIT_SECONDS) -> None:
        """Let time pass until all nodes that run have applied the same entries.

        Raises:
            NeverHappened: they have not in time: some cannot be reached, or none leads.
        """
        self._called += 1
        self._run_until(lambda: self.leader and len(set(self.applied().values())) == 1, timeout)

    def crash(self, node: str | None) -> None:
        """Cut the power of a node: what was not synced is lost.

        Raises:
            BadConfiguration: it does not run; None, as `leader` may be, never does.
        """
        self._called += 1
        running = self._running(node)
        running.stop()
        self._disks[running.id] = running.storage.crash()

    def restart(self, node: str) -> None:
        """Start a node that is down, or one that stopped by itself, from its disk.

        Raises:
            MachineFault: the machine refuses the snapshot that is there.
        """
        self._called += 1
        if node in self.wire.nodes:
            if self.wire.nodes[node].shell.running:
                raise BadConfiguration(f"{node} runs; crash it first")
            self.crash(node)
        if node not in self._disks:
            raise BadConfiguration(f"no node {node!r}; there are {', '.join(self.ids)}")
        storage = self._disks.pop(node)
        try:
            self._start(node, storage, ())
        except NodeFailed as failure:
            # The machine has refused its own snapshot.
            self.wire.nodes.pop(node, None)
            self._disks[node] = storage.crash()
            text = f"{node} does not start any more: {failure}"
            self._ledger.faults.append(MachineFault("stopped", text))
            self._raise()

    def partition(self, *groups: str | Iterable[str]) -> None:
        """Cut the links between groups of nodes; who is in none forms one more.

        `partition("n1")` cuts n1 off; `partition(["n1", "n2"], ["n3", "n4"])` makes two sides of
        four nodes. Links that are cut already stay so until `heal`.
        """
        self._called += 1
        named = [(group,) if isinstance(group, str) else tuple(group) for group in groups]
        for node in {each: None for group in named for each in group}:
            if node not in self.ids:
                raise BadConfiguration(f"no node {node!r}; there are {', '.join(self.ids)}")
        rest = tuple(id for id in self.ids if not any(id in group for group in named))
        sides = [*named, rest]
        self.wire.sever(
            (one, other)
            for side in sides
            for one in side
            for other in self.ids
            if other not in side
        )

    def heal(self) -> None:
        """Open all links, lose nothing any more, and let all disks be fast."""
        self._called += 1
        self.wire.heal()
        self.wire.drop = lambda *_: False

    def drop(self, rate: float) -> None:
        """Lose each message with this probability, from 0 to 1, until `heal`."""
        self._called += 1
        if not 0 <= rate <= 1:
            raise BadConfiguration(f"rate is {rate}; give a probability, from 0 to 1")
        self.wire.drop = lambda *_: self.chance.random() < rate

    def slow_disk(self, node: str | None, seconds: float) -> None:
        """Let each sync of a node take up to `seconds`, until it is started again."""
        self._called += 1
        self._running(node).disk_seconds = seconds

    def snapshot(self, node: str | None) -> int:
        """Let a node take a snapshot; return the index of the last entry in it.

        Raises:
            RaftError: why there is none; whatever the machine's `snapshot` raised passes too.
        """
        self._called += 1
        told = Outcome(self._running(node).shell.snapshots.take())
        self._run_until(lambda: told.fired, WAIT_SECONDS)
        if isinstance(told.value, BaseException):
            raise told.value
        return int(told.value)

    # The verdict.

    def check(self) -> None:
        """See that the machines keep what `IStateMachine` promises.

        All that was applied is judged: the results of every entry on every node, the state before
        and after commands that failed, what restored machines are like, and the states of the nodes
        that have applied the same entries.

        Raises:
            MachineFault: what is wrong, at which command, where to look, and how to see it again.
        """
        self._raise()

    def storm(
        self,
        steps: int,
        commands: Commands,
        queries: Commands | None = None,
    ) -> Counter[str]:
        """Do `steps` random things: writes, reads, crashes, partitions, snapshots; then heal.

        In the end all nodes run, are connected and have applied the same, and `check` is satisfied.

        Args:
            steps: a few hundred find most; each costs about a millisecond.
            commands: makes a command of a `random.Random`; draw from nothing else.
            queries: makes queries alike.

        Returns:
            What befell the cluster: how often, by name.

        Raises:
            MachineFault: see `check`. The text has the line that does the same again.
            NeverHappened: the healed cluster did not serve: the library is at fault, not you.
        """
        told = f"{steps}, {_named(commands)}" + (f", {_named(queries)}" if queries else "")
        before = "the same calls before, then " if self._called else ""
        self._line = f"{before}{self._name()}.storm({told})"
        storm = Storm(self, commands, queries)
        for _ in range(steps):
            storm.blow()
            if self._ledger.faults or any(node.failures for node in self.wire.nodes.values()):
                self._raise()
        storm.calm()
        self._raise()
        return storm.counts

    def close(self) -> None:
        """Stop all nodes; nothing is left behind."""
        for id in self.up:
            self.wire.nodes[id].stop()

    def __enter__(self) -> SimCluster[M]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self.check()
        finally:
            self.close()

    # Within.

    def _start(self, id: str, storage: MemoryStorage, founders: tuple[str, ...]) -> None:
        chance = random.Random(self.chance.getrandbits(64))
        settings = {"codec": self.codec, "bounds": self._bounds}
        SimNode(self.wire, id, self._make(id), founders, storage, self._auditor, chance, **settings)

    def _make(self, name: str) -> Watched:
        machine = self.machine_factory()
        if IOnDiskStateMachine.providedBy(machine):
            kind = type(machine).__qualname__
            raise BadConfiguration(f"{kind} keeps its state on a real disk; simulate one in memory")
        # Each start of each node has another idea of the date, and of how long a second is.
        skew, rate = self.chance.uniform(-DAY_SECONDS, DAY_SECONDS), self.chance.uniform(0.5, 2)
        clock = WallClock(lambda: EPOCH + skew + self.seconds * rate, machine)
        return Watched(machine, name, self._ledger, clock)

    def _running(self, node: str | None) -> SimNode:
        # None is what `leader` is while there is none.
        if node is None or node not in self.wire.nodes:
            raise BadConfiguration(f"no node {node!r} runs; there are {', '.join(self.up)}")
        return self.wire.nodes[node]

    def _run_until(self, condition: Callable[[], object], seconds: float) -> None:
        self.world.run(seconds, condition)

    def _raise(self) -> None:
        fault: MachineFault | None = self._ledger.faults[0] if self._ledger.faults else None
        if fault is None:
            fault = check_alike(self.wire, self._auditor)
        if fault is not None:
            raise fault.replayed_by(
                f"Seen with seed {self.seed}; to see it again:\n    {self._line}"
            )

    def _name(self) -> str:
        """Return the call that makes such a cluster."""
        more = [f"seed={self.seed}"]
        if len(self.ids) != NODES:
            more.append(f"nodes={len(self.ids)}")
        if self._bounds.snapshot_entries != SNAPSHOT_ENTRIES:
            more.append(f"snapshot_entries={self._bounds.snapshot_entries}")
        if self.codec is not PLAIN:
            more.append("codec=...")
        if (read := self._auditor.states.read) is not None:
            more.append(f"state={_named(read)}")
        return f"SimCluster({', '.join([_named(self.machine_factory), *more])})"


def _named(made: object) -> str:
    return str(getattr(made, "__qualname__", None) or repr(made))
