"""A network of hosts with TCP between them: streams that are late, cut in pieces, stuck or reset.

TCP loses nothing and changes no order: what a cut link holds back arrives when it is open again,
unless the connection has ended before. A reset loses the end of what was sent.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from attrs import define, frozen
from twisted.internet import error as net

from raft.testing.whole.connects import Connector, ListeningPort

if TYPE_CHECKING:
    from raft.testing.cores.ghost import Hash
    from raft.testing.cores.timeline import Timeline
    from raft.testing.whole.process import Process
    from raft.testing.whole.sockets import Stream

Host = str
LinkName = tuple[Host, Host]
"""(from, to)."""


@frozen(kw_only=True)
class Weather:
    """What all links of a world are like.

    Attributes:
        delay_seconds: how long bytes take, at least and at most.
        grid_seconds: arrivals come at multiples of this, many in one turn; 0 for each by itself.
        chunk_bytes: how many bytes arrive at once, at most; 0 for all that were written.
        window_bytes: how much may be under way on one stream.
    """

    delay_seconds: tuple[float, float] = (0.0005, 0.004)
    grid_seconds: float = 0.0
    chunk_bytes: int = 0
    window_bytes: int = 65536


@define(eq=False)
class Link:
    """One direction between two hosts."""

    chance: random.Random
    is_cut: bool = False
    bytes_per_second: float = 0.0
    """0 for no limit."""
    extra_seconds: float = 0.0


class Network:
    """All hosts, ports and connections of a world."""

    def __init__(self, timeline: Timeline, weather: Weather, seed: object, sha: Hash) -> None:
        """Let no host be down and no link be cut; `sha` takes in all that arrives."""
        self.sha = sha
        self.timeline, self.weather, self.seed = timeline, weather, seed
        self.links: dict[LinkName, Link] = {}
        self.ports: dict[tuple[Host, int], ListeningPort] = {}
        self.down: set[Host] = set()
        self.streams: dict[Stream, None] = {}
        self.segments = 0
        """How many pieces have arrived."""

    def link(self, source: Host, target: Host) -> Link:
        """Return what is between two hosts, in one direction."""
        found = self.links.get((source, target))
        if found is None:
            chance = random.Random(f"{self.seed}/link/{source}/{target}")
            found = self.links[source, target] = Link(chance)
        return found

    def moment(self, link: Link, size_bytes: int = 0) -> float:
        """Return when something that leaves now is there."""
        delay = link.chance.uniform(*self.weather.delay_seconds) + link.extra_seconds
        if link.bytes_per_second:
            delay += size_bytes / link.bytes_per_second
        moment = self.timeline.now + delay
        grid = self.weather.grid_seconds
        return -(-moment // grid) * grid if grid else moment

    # Hosts.

    def cut(self, source: Host, target: Host) -> None:
        """Let nothing pass in this direction, and nobody know."""
        self.link(source, target).is_cut = True

    def open(self, source: Host, target: Host) -> None:
        """Let everything pass again."""
        self.link(source, target).is_cut = False
        self._move(lambda stream: stream.link_name in ((source, target), (target, source)))

    def process_died(self, process: Process) -> None:
        """Close what a process had open: the other sides learn it."""
        self._close_ports(process)
        for socket in list(process.sockets):
            socket.vanish()
            socket.output.reset()

    def host_died(self, process: Process) -> None:
        """Forget what a process had open: nobody learns it before something is sent there."""
        self._close_ports(process)
        self.down.add(process.host)
        for socket in list(process.sockets):
            socket.vanish()

    def host_started(self, host: Host) -> None:
        """Let a machine answer again: it knows none of its connections."""
        self.down.discard(host)
        self._move(lambda stream: host in stream.link_name)

    def _close_ports(self, process: Process) -> None:
        for place, port in list(self.ports.items()):
            if port.process is process:
                del self.ports[place]

    def _move(self, is_meant: Callable[[Stream], bool]) -> None:
        for stream in list(self.streams):
            if stream.is_idle:
                del self.streams[stream]
            elif is_meant(stream):
                stream.retransmit()

    def reset_between(self, one: Host, other: Host) -> int:
        """Reset all connections between two hosts; return how many there were."""
        meant = [each for each in self.streams if each.link_name == (one, other)]
        for stream in meant:
            stream.break_off()
        return len(meant)

    # Ports and connects.

    def listen(self, process: Process, host: Host, port: int, factory: Any) -> ListeningPort:
        """Accept connections; raise `CannotListenError` where somebody does already."""
        process.check()
        place = (host or process.host, port)
        if place in self.ports:
            raise net.CannotListenError(host, port, OSError("address in use"))
        self.ports[place] = listening = ListeningPort(self, process, *place, factory)
        factory.doStart()
        return listening

    def connect(
        self, process: Process, host: Host, port: int, factory: Any, timeout_seconds: float
    ) -> Connector:
        """Begin to connect."""
        process.check()
        connector = Connector(self, process, host, port, factory, timeout_seconds)
        connector.begin()
        return connector
