"""L5: what stays wrong with a minority through the healing changes nothing for the rest.

Down, standing still, heard by nobody (mute), hearing nobody (deaf), or in touch with too few to
lead (partly). The rest gets its leader, its service and its peace all the same; and when the sick
are well again, at last, they come to the same state.
"""

from __future__ import annotations

import random
from itertools import product
from typing import TYPE_CHECKING, Final

from attrs import Factory, define

if TYPE_CHECKING:
    from raft.testing.whole.host import Host
    from raft.testing.whole.world import World

KINDS: Final = ("down", "paused", "mute", "deaf", "partly")
PATIENCE_SECONDS: Final = 2.0
"""How long a fresh client may spend on each of them: a connect, and a question."""


@define(eq=False)
class Minority:
    """The sick of one world, from its healing on."""

    world: World
    sick: list[Host] = Factory(list)
    _cuts: list[tuple[str, str]] = Factory(list)

    def begin(self) -> None:
        """Make as many sick as the cluster is made to survive, beside those that are damaged."""
        world, kind = self.world, self.world.swarm.minority
        hosts = list(world.hosts.values())
        damaged = [host for host in hosts if host.is_damaged]
        count = (len(hosts) - 1) // 2 - len(damaged)
        if not kind or count <= 0:
            return
        rng = random.Random(f"{world.seed}/minority")
        leaders = [host for host in world.leaders() if host not in damaged]
        well = [host for host in hosts if host not in damaged]
        first = leaders[:1] if rng.random() < 0.5 else []
        rest = [host for host in well if host not in first]
        self.sick = [*first, *rng.sample(rest, count - len(first))]
        world.fired[f"minority {kind}"] += 1
        world.tell("world", f"leaves {[host.id for host in self.sick]} {kind}")
        for host in self.sick:
            if kind == "down":
                host.kill()
            elif kind == "paused" and host.process is not None:
                host.process.pause()
        self._cut(kind, [host for host in hosts if host not in self.sick], rng)

    def _cut(self, kind: str, well: list[Host], rng: random.Random) -> None:
        out = [(one.address, other.address) for one, other in product(self.sick, well)]
        back = [(one.address, other.address) for one, other in product(well, self.sick)]
        match kind:
            case "mute":
                self._cuts = out
            case "deaf":
                self._cuts = back
            case "partly":
                # With these and all the other sick it is still no majority.
                most = len(self.world.hosts) // 2 - len(self.sick)
                near = {host.address for host in rng.sample(well, most)}
                self._cuts = [link for link in (*out, *back) if not near.intersection(link)]
        for link in self._cuts:
            self.world.network.cut(*link)

    def end(self) -> None:
        """Let them be well."""
        for link in self._cuts:
            self.world.network.open(*link)
        for host in self.sick:
            if host.process is not None and host.process.is_paused:
                host.process.resume()
            host.start()
        self.sick, self._cuts = [], []
