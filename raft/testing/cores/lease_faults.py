"""What befalls a leader that reads by lease, where a lease that is too long would show.

A lease is wrong only while its holder still leads by its own light and another is elected
already: for a fraction of an election timeout, if all went well before. Troubles at random
moments hardly ever meet in it, so these are scripts of a few scenes [RULES R9].
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from attrs import define

from raft.testing.cores.network import Network
from raft.testing.cores.swarm import TIMEOUT_SECONDS
from raft.testing.cores.timeline import Timeline

if TYPE_CHECKING:
    from raft.testing.cores.faults import Faults
    from raft.testing.cores.model_node import ModelNode


@define(eq=False)
class LeaseFaults:
    """The scripts. Each keeps the links to itself until it is over."""

    faults: Faults
    timeline: Timeline
    network: Network
    rng: random.Random

    def strike(self, kind: str, leader: ModelNode) -> None:
        """Let `kind` befall the node that leads."""
        self.network.open()
        if self.faults.swarm.extreme_clocks:
            self._drift_apart(leader)
        match kind:
            case "late answers":
                self._late_answers(leader)
            case "alone":
                self._alone(leader)
            case "asleep":
                self._asleep(leader)
            case "forget":
                self._forget(leader)
            case _:
                raise ValueError(f"no such trouble: {kind!r}")

    def _drift_apart(self, leader: ModelNode) -> None:
        """The leader's clock becomes the slowest that the bound allows, all others the fastest."""
        skew = self.faults.swarm.clock_skew
        for node in self.faults.nodes.values():
            node.drift(1 - skew if node is leader else 1 + skew)

    def _between(self, low: float, high: float) -> float:
        """Return so many seconds, drawn between two numbers of election timeouts."""
        return self.rng.uniform(low, high) * TIMEOUT_SECONDS

    def _later(self, seconds: float, action: Callable[..., object], *args: object) -> None:
        self.timeline.after(seconds, self._while_active, action, *args)

    def _while_active(self, action: Callable[..., object], *args: object) -> None:
        if self.faults.active:
            action(*args)

    def _late_answers(self, leader: ModelNode) -> None:
        """Answers arrive late, and go on arriving when the leader is not heard any more.

        A lease that counted from an answer's arrival would outlast the voters' promises.
        """
        late = self._between(0.3, 1.2)
        others = [id for id in self.network.listeners if id != leader.id]
        self.network.slow.update({(other, leader.id): late for other in others})
        muted = {(leader.id, other) for other in others}
        begin = late + self._between(0.2, 1.0)
        self._later(begin, self.network.cut.update, muted)
        self.faults.reserve_links(begin + self._between(2, 4))

    def _alone(self, leader: ModelNode) -> None:
        """The leader is cut off and has only the promises that it got."""
        self.network.isolate(leader.id)
        self.faults.reserve_links(self._between(2, 3))

    def _asleep(self, leader: ModelNode) -> None:
        """The leader sleeps between its heartbeat and the answers, which wait for it.

        Before it wakes, the others are out of its reach.
        """
        asleep = self._between(0.8, 3)
        leader.pause(asleep)
        self._later(self._between(0.02, 0.3), self.network.isolate, leader.id)
        self.faults.reserve_links(asleep + self._between(0.5, 2))

    def _forget(self, leader: ModelNode) -> None:
        """Those whose answers make the lease lose their memory; the rest campaign already.

        The rest must have all entries to win, so nobody writes meanwhile.
        """
        configuration = leader.server.configuration
        voters = sorted(configuration.voters - {leader.id})
        self.rng.shuffle(voters)
        keepers = voters[: (len(voters) + 1) // 2]
        for stray in voters[len(keepers) :]:
            self.network.isolate_pair(leader.id, stray)
        begin, lasting = self._between(1.0, 2.2), self._between(1.5, 3)
        self.faults.hush(begin + lasting)
        self._later(begin, self._crash, leader, keepers)
        self.faults.reserve_links(begin + lasting)

    def _crash(self, leader: ModelNode, keepers: list[str]) -> None:
        self.network.isolate(leader.id)
        for keeper in keepers:
            node = self.faults.nodes[keeper]
            if node.up:
                self.faults.crash(node, self._between(0, 0.05))
