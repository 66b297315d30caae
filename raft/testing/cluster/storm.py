"""Random trouble for a simulated cluster: an application's commands, and all that befalls nodes."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from raft.errors import RaftError, Refused, Timeout
from raft.testing.cluster.client import serving
from raft.testing.cluster.world import NeverHappened, Outcome

if TYPE_CHECKING:
    from raft.testing.cluster.node import SimNode
    from raft.testing.cluster.sim_cluster import SimCluster

Commands = Callable[[random.Random], Any]
"""Makes a command, or a query, of what it draws."""

BURST: Final = (1, 1, 1, 4, 20)
"""How many commands are written at once."""

PAUSES_SECONDS: Final = (0.0, 0.0, 0.002, 0.01, 0.03, 0.2)
TROUBLES: Final = {
    "write": 60,
    "read": 8,
    "crash": 4,
    "restart": 6,
    "partition": 2,
    "heal": 4,
    "drop": 1,
    "slow disk": 1,
    "snapshot": 6,
    "session": 4,
}
CALM_SECONDS: Final = 30.0
"""How long a healed cluster may take to serve, and to be of one state: 100 election timeouts."""


class Storm:
    """What befalls one cluster."""

    def __init__(
        self, cluster: SimCluster[Any], commands: Commands, queries: Commands | None
    ) -> None:
        self.cluster, self.commands, self.queries = cluster, commands, queries
        self.chance = cluster.chance
        self.counts: Counter[str] = Counter()

    def blow(self) -> None:
        """Let one thing happen, and a little time pass."""
        (what,) = self.chance.choices(tuple(TROUBLES), tuple(TROUBLES.values()))
        if getattr(self, f"_{what.replace(' ', '_')}")():
            self.counts[what] += 1
        self.cluster.run(self.chance.choice(PAUSES_SECONDS))

    def _some_node(self) -> SimNode | None:
        """Return a node that runs, the leader more often than not."""
        leader = serving(self.cluster.wire)
        if leader is not None and self.chance.random() < 0.7:
            return leader
        up = self.cluster.up
        return self.cluster.wire.nodes[self.chance.choice(up)] if up else None

    def _write(self) -> bool:
        node = self._some_node()
        if node is None:
            return False
        for _ in range(self.chance.choice(BURST)):
            node.write(self.commands(self.chance), self.chance.choice((0.1, 1.0, 5.0)))
        return True

    def _session(self) -> bool:
        """Write within a session: what is sent again takes effect once."""
        return self._tried(lambda: self.cluster.write(self.commands(self.chance), 0.5))

    def _read(self) -> bool:
        if self.queries is None:
            return False
        return self._tried(lambda: self.cluster.read(self.queries(self.chance), 0.5))  # type: ignore[misc]

    def _tried(self, call: Callable[[], object]) -> bool:
        try:
            call()
        except Refused:
            return True
        except RaftError:
            return False
        return True

    def _crash(self) -> bool:
        node = self._some_node()
        if node is None:
            return False
        self.cluster.crash(node.id)
        return True

    def _restart(self) -> bool:
        down = [id for id in self.cluster.ids if id not in self.cluster.up]
        if not down:
            return False
        self.cluster.restart(self.chance.choice(down))
        return True

    def _partition(self) -> bool:
        ids = self.cluster.ids
        self.cluster.partition(
            self.chance.sample(ids, self.chance.randint(1, max(1, len(ids) // 2)))
        )
        return True

    def _heal(self) -> bool:
        self.cluster.heal()
        return True

    def _drop(self) -> bool:
        self.cluster.drop(self.chance.choice((0.05, 0.3)))
        return True

    def _slow_disk(self) -> bool:
        node = self._some_node()
        if node is None:
            return False
        self.cluster.slow_disk(node.id, 0.1)
        return True

    def _snapshot(self) -> bool:
        node = self._some_node()
        if node is None:
            return False
        Outcome(node.shell.snapshots.take())
        return True

    def calm(self) -> None:
        """Heal all, start all, and wait until a write is answered and all nodes have it.

        Raises:
            NeverHappened: that took too long.
        """
        cluster = self.cluster
        cluster.heal()
        for id in cluster.ids:
            if id not in cluster.up:
                cluster.restart(id)
        try:
            cluster.write(self.commands(self.chance), CALM_SECONDS)
        except Refused:
            # The machine has answered.
            pass
        except Timeout as timeout:
            raise NeverHappened(f"the healed cluster took no write: {timeout}") from timeout
        cluster.settle(CALM_SECONDS)
