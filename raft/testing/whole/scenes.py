"""Scenes that a lease which lasts too long does not survive; see `raft.testing.cores.lease_faults`.

A lease is wrong only while its holder still leads by its own light and another is elected already.
Each scene befalls a server that leads: first the clocks drift to the ends of what is promised.

- `["alone", n1, 0.8]`: it is cut off from the other servers, and has only their promises.
- `["asleep", n1, 0.6, 0.05, 0.4]`: it stands still for 0.6 s; after 0.05 s nobody reaches it any
  more, until 0.4 s after it has woken.
- `["asleep at disk", n1, 0.2, 0.6, 0.05, 0.4]`: the same, 0.2 s after its disk became slow: reads
  that are confirmed wait for what its own log lacks.
- `["late answers", n1, 0.3, 0.2, 0.8]`: answers to it take 0.3 s longer; 0.2 s later nobody hears
  it any more, for 0.8 s.
- `["forget", n1, 0.4, 0.01, 0.6]`: it loses touch with some; 0.4 s later with all, and those who
  still heard it are killed, down for 0.01 s; for 0.6 s.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from attrs import define

from raft.core.outputs import Role
from raft.testing.choices import Json
from raft.testing.cores.swarm import TIMEOUT_SECONDS

if TYPE_CHECKING:
    from raft.testing.whole.host import Host
    from raft.testing.whole.world import World

SCENES: Final[dict[str, tuple[tuple[float, float], ...]]] = {
    "alone": ((2.0, 3.0),),
    "asleep": ((0.8, 3.0), (0.02, 0.3), (0.5, 2.0)),
    "asleep at disk": ((0.3, 1.0), (0.8, 3.0), (0.02, 0.3), (0.5, 2.0)),
    "late answers": ((0.3, 1.2), (0.2, 1.0), (2.0, 4.0)),
    "forget": ((1.0, 2.2), (0.0, 0.05), (1.5, 3.0)),
}
"""The times that each needs, between two numbers of election timeouts."""


def draw(kind: str, id: str, rng: random.Random) -> list[Json]:
    """Draw how long each part of a scene takes."""
    times = [round(rng.uniform(*span) * TIMEOUT_SECONDS, 4) for span in SCENES[kind]]
    return [kind, id, *times]


@define(eq=False)
class Scenes:
    """Plays them; `later`, `cut`, `mend` and `crash` are those of `Troubles`."""

    world: World
    later: Callable[..., object]
    cut: Callable[[list[Any]], None]
    mend: Callable[[list[Any]], None]
    crash: Callable[[Host, str, float], object]

    def play(self, kind: str, host: Host, times: list[float]) -> bool:
        """Begin a scene, if the server leads; tell whether it does."""
        if not host.is_serving or host.server.role is not Role.LEADER:
            return False
        self._drift_apart(host)
        match kind, times:
            case "alone", (lasting,):
                self._part(self._both_ways(host), lasting)
            case "asleep", (asleep, awake, lasting):
                self._sleep(host, asleep, awake, lasting)
            case "asleep at disk", (begin, asleep, awake, lasting):
                host.disk_seconds = (begin, begin + asleep)
                self.later(begin, self._sleep, host, asleep, awake, lasting)
                usual = self.world.swarm.disk_seconds
                self.later(begin + asleep, setattr, host, "disk_seconds", usual)
            case "late answers", (late, begin, lasting):
                self._delay_answers(host, late, late + begin + lasting)
                others = self._others(host)
                self.later(late + begin, self._part, [[host.id, id] for id in others], lasting)
            case "forget", (begin, down, lasting):
                self._forget(host, begin, down, lasting)
            case _:
                raise ValueError(f"no scene: {kind} {times}")
        return True

    def _sleep(self, host: Host, asleep: float, awake: float, lasting: float) -> None:
        process = host.process
        if process is None or process.is_paused:
            return
        process.pause()
        self.later(asleep, process.resume)
        self.later(awake, self._part, self._both_ways(host), asleep - awake + lasting)

    def _drift_apart(self, leader: Host) -> None:
        """The leader's clock becomes the slowest that the bound allows, all others the fastest."""
        skew = self.world.swarm.clock_skew
        if self.world.swarm.extreme_clocks:
            for host in self.world.hosts.values():
                host.drift(1 - skew if host is leader else 1 + skew)

    def _others(self, host: Host) -> list[str]:
        return [id for id in self.world.hosts if id != host.id]

    def _both_ways(self, host: Host) -> list[list[str]]:
        return [pair for id in self._others(host) for pair in ([host.id, id], [id, host.id])]

    def _part(self, links: list[list[str]], seconds: float) -> None:
        self.cut(links)
        self.later(seconds, self.mend, links)

    def _delay_answers(self, host: Host, late: float, lasting: float) -> None:
        network = self.world.network
        for id in self._others(host):
            link = network.link(self.world.address_of(id), host.address)
            link.extra_seconds = late
            self.later(lasting, setattr, link, "extra_seconds", 0.0)

    def _forget(self, host: Host, begin: float, down: float, lasting: float) -> None:
        """Those whose answers make the lease lose their memory; the rest campaigns already."""
        others = self._others(host)
        keepers = others[: (len(others) + 1) // 2]
        strays = [p for id in others[len(keepers) :] for p in ([host.id, id], [id, host.id])]
        self._part(strays, begin + lasting)

        def forget() -> None:
            self._part(self._both_ways(host), lasting)
            for id in keepers:
                self.crash(self.world.hosts[id], "kill", down)

        self.later(begin, forget)
