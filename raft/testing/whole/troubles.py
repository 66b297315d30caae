"""What goes wrong in a world of whole nodes, until it is healed.

A trouble is drawn with all that it needs, as plain JSON, and recorded as a choice: so a list of
troubles says what happened, and a shorter list is a calmer world.

- `["kill", n1, 0.3]`: the process ends, what it wrote stays in the cache; a start after 0.3 s.
- `["power", n1, 0.3]`: the machine ends, unsynced writes and names are lost, torn at 512 bytes.
- `["kill at disk", n1, 3, 0.3]`, `["power at disk", ...]`: at its third next operation on disk.
- `["kill at send", n1, 3, 0.3]`: before or after it hands a socket bytes for the third time.
- `["pause", n1, 0.5]`: it stands still.
- `["cut", [[n1, n2], ...], 1.0]`: these directed links carry nothing, and nobody is told.
- `["flap", [[n1, n2], ...], 0.1, 5]`: they come and go.
- `["reset", n1, n2]`: connections between two hosts break; the end of what was sent is lost.
- `["slow link", n1, n2, 5000, 1.0]`: so many bytes a second; `["late", n1, n2, 0.2, 1.0]`.
- `["slow disk", n1, 0.2, 1.0]`: so long for each turn of the writer.
- `["failing disk", n1, 3, 0.3]`: the third next operation is EIO; the node must end itself.
- `["full disk", n1, 9000, 1.0]`: room for so many more bytes, and then ENOSPC.
- `["rot", n1, 0.3]`: a bit flips in an old record, while the process is down.
- `["wipe", n1, 0.3]`: it comes back with an empty disk, and is let in by nobody [M9].
- `["transfer", n1, n2]`, `["snapshot", n1]`: what an operator may ask for at any time.
- `["copy", n1]`, `["put back", n1, 0.3]`: an older state of its directory comes back, and is let
  in by nobody; `["second", n1, 1.0]`: another process runs from a copy. See `copies`.
- `["alone", ...]` and others: see `raft.testing.whole.scenes`.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from attrs import Factory, define, field

from raft.errors import RaftError
from raft.testing.choices import Json, Stream
from raft.testing.whole import rot
from raft.testing.whole.copies import Copies
from raft.testing.whole.drawing import Drawing
from raft.testing.whole.host import Fuse, Host
from raft.testing.whole.network import LinkName
from raft.testing.whole.scenes import SCENES, Scenes
from raft.testing.whole.world import World

STEPS: Final = 10
"""How often, in the mean time between two troubles, it is drawn whether one comes."""


@define(eq=False)
class Troubles:
    """Draws troubles, one after the other, and carries them out."""

    world: World
    is_over: bool = False
    drawing: Drawing = field(init=False)
    scenes: Scenes = field(init=False)
    copies: Copies = field(init=False)
    _stream: Stream = field(init=False)
    _cuts: dict[LinkName, int] = Factory(dict)
    """How many troubles hold a link cut."""

    def __attrs_post_init__(self) -> None:
        """Draw from the world's choices."""
        self.drawing = Drawing(self.world)
        self.copies = Copies(self.world)
        self.scenes = Scenes(self.world, self._later, self._cut, self._mend, self._crash)
        self._stream = self.world.choices.stream("trouble")
        self.world.ended = self._ended
        self.world.operator.later = self.world.releases.later = self._later
        self.world.releases.crash = self._crash

    def begin(self) -> None:
        """Let things go wrong."""
        if self.world.swarm.troubles:
            self._later(self.world.swarm.trouble_seconds / STEPS, self._strike)

    def _strike(self) -> None:
        self._later(self.world.swarm.trouble_seconds / STEPS, self._strike)
        trouble = self._stream.choose(self._draw, None)
        if trouble is not None and self._befall(trouble):
            self._came(str(trouble[0]), *trouble[1:])

    def _draw(self, rng: random.Random) -> list[Json] | None:
        return self.drawing.trouble(rng) if rng.random() < 1 / STEPS else None

    def _later(self, seconds: float, action: Callable[..., object], *args: Any) -> None:
        """Do something later, unless all is well by then."""

        def act() -> None:
            if not self.is_over:
                if action not in (self._strike, self.copies.end):
                    self.copies.end()
                action(*args)

        self.world.timeline.after(seconds, act)

    def _ended(self, host: Host) -> None:
        """A server ended by itself: somebody looks after it, and starts it again."""
        self.copies.end()
        self._later(self.drawing.repair_seconds, self._start, host)
        if self.is_over and host.disk_has_failed:
            # It was paused when its disk failed, and ends only now that all is well.
            self.world.timeline.after(0.0, self._start, host)

    def _start(self, host: Host) -> None:
        if not host.is_up:
            host.start()

    # One trouble. Each returns whether it came about at once.

    def _befall(self, trouble: list[Json]) -> bool:
        hosts = self.world.hosts
        # It is refused while all else is well: that is all that is promised.
        self.copies.end()
        match trouble:
            case ["kill" | "power" as how, str(id), float() | int() as down] if id in hosts:
                return self._crash(hosts[id], how, down)
            case ["kill at disk" | "power at disk" as how, str(id), int(left), float(down)]:
                host = hosts[id]
                burn = partial(self._crash, host, how.split()[0], down)
                host.disk_fuse = self._fuse(host, left, how, burn)
                return False
            case ["kill at send" as how, str(id), int(left), float(down)]:
                host = hosts[id]
                burn = partial(self._crash, host, "kill", down)
                host.send_fuse = self._fuse(host, left, how, burn)
                return False
            case ["pause", str(id), float(seconds)]:
                return self._pause(hosts[id], seconds)
            case ["cut", [*links], float(seconds)]:
                self._cut(links)
                self._later(seconds, self._mend, links)
                return bool(links)
            case ["flap", [*links], float(seconds), int(count)]:
                self._flap(links, seconds, count)
                return bool(links)
            case ["reset", str(one), str(other)]:
                return self.world.network.reset_between(*map(self._address, (one, other))) > 0
            case ["slow link" | "late" as how, str(one), str(other), float(much), float(seconds)]:
                self._hinder(one, other, how, much, seconds)
            case ["transfer", str(id), str(target)]:
                return self._transfer(hosts[id], target)
            case ["snapshot", str(id)]:
                return self._snapshot(hosts[id])
            case [str(kind), str(id), *times] if kind in SCENES:
                return self.scenes.play(kind, hosts[id], [float(str(each)) for each in times])
            case _:
                return self._befall_disk(trouble)
        return True

    def _befall_disk(self, trouble: list[Json]) -> bool:
        hosts = self.world.hosts
        match trouble:
            case ["slow disk", str(id), float(much), float(seconds)]:
                self._slow_disk(hosts[id], much, seconds)
            case ["failing disk" as how, str(id), int(left), float()]:
                burn = partial(_fail, hosts[id])
                hosts[id].disk_fuse = self._fuse(hosts[id], left, how, burn)
                return False
            case ["full disk", str(id), int(room), float(seconds)]:
                self._fill(hosts[id], room, seconds)
                return False
            case ["rot" | "wipe" as how, str(id), float(down)]:
                return self._damage(hosts[id], how, down)
            case ["copy", str(id)]:
                return self.copies.take(hosts[id])
            case ["put back", str(id), float(down)]:
                if not self.copies.put_back(hosts[id]):
                    return False
                self._later(down, self._start, hosts[id])
            case ["second", str(id), float(seconds)]:
                self._later(seconds, self.copies.end)
                return self.copies.start_second(hosts[id])
            case _:
                raise ValueError(f"no trouble: {trouble!r}")
        return True

    def _came(self, kind: str, *about: Json) -> None:
        """Count and tell what has come about."""
        self.world.fired[kind] += 1
        self.world.tell("trouble", " ".join(map(str, (kind, *about))))

    def _fuse(self, host: Host, left: int, kind: str, burn: Callable[[], object]) -> Fuse:
        """Return what is a trouble once it burns, if it ever does."""

        def count_and_burn() -> None:
            self._came(kind, host.id)
            burn()

        return Fuse(left, count_and_burn)

    def _crash(self, host: Host, how: Json, down_seconds: float) -> bool:
        if not host.is_up:
            return False
        if how == "power":
            host.lose_power()
        else:
            host.kill()
        self.world.tell(host.id, f"{how}")
        self._later(down_seconds, self._start, host)
        return True

    def _pause(self, host: Host, seconds: float) -> bool:
        process = host.process
        if process is None or not process.is_alive or process.is_paused:
            return False
        process.pause()
        self._later(seconds, process.resume)
        return True

    def _address(self, name: str) -> str:
        return self.world.address_of(name)

    def _links(self, links: list[Any]) -> list[LinkName]:
        return [(self._address(one), self._address(other)) for one, other in links]

    def _cut(self, links: list[Any]) -> None:
        for link in self._links(links):
            self._cuts[link] = self._cuts.get(link, 0) + 1
            self.world.network.cut(*link)

    def _mend(self, links: list[Any]) -> None:
        for link in self._links(links):
            self._cuts[link] -= 1
            if not self._cuts[link]:
                self.world.network.open(*link)

    def _flap(self, links: list[Any], seconds: float, count: int) -> None:
        self._cut(links)
        self._later(seconds, self._mend, links)
        if count > 1:
            self._later(2 * seconds, self._flap, links, seconds, count - 1)

    def _hinder(self, one: str, other: str, how: str, much: float, seconds: float) -> None:
        link = self.world.network.link(self._address(one), self._address(other))
        name = "bytes_per_second" if how == "slow link" else "extra_seconds"
        setattr(link, name, much)
        self._later(seconds, setattr, link, name, 0.0)

    def _slow_disk(self, host: Host, much: float, seconds: float) -> None:
        host.disk_seconds = (0.0, much)
        self._later(seconds, setattr, host, "disk_seconds", self.world.swarm.disk_seconds)

    def _fill(self, host: Host, room_bytes: int, seconds: float) -> None:
        host.disk.capacity_bytes = host.disk.used_bytes + room_bytes
        host.disk.refused = partial(self._came, "full disk", host.id)
        self._later(seconds, setattr, host.disk, "capacity_bytes", None)

    def _damage(self, host: Host, how: str, down_seconds: float) -> bool:
        if not host.is_up or not self.world.may_damage(host):
            return False
        if how == "wipe" and not self.world.is_pinned(host):
            return False
        host.kill()
        if how == "wipe":
            host.wipe()
        elif not rot.strike(host, self.world.disk_chance(host.id)):
            self._later(down_seconds, self._start, host)
            return False
        self._later(down_seconds, self._start, host)
        return True

    def _transfer(self, host: Host, target: str) -> bool:
        service = host.service
        if service is None or not host.is_serving or host.process is None:
            return False

        def ask() -> None:
            service.transfer_leadership(target, 1.0).addErrback(lambda why: why.trap(RaftError))

        host.process.enter(ask)
        return True

    def _snapshot(self, host: Host) -> bool:
        service = host.service
        if service is None or not host.is_serving or host.process is None:
            return False
        taking = service.shell.snapshots

        def ask() -> None:
            taking.take().addErrback(lambda why: why.trap(RaftError))

        host.process.enter(ask)
        return True

    # The end.

    def end(self) -> list[Host]:
        """Let all be well; return the servers that can be."""
        self.is_over = True
        self.copies.end()
        world = self.world
        for link in world.network.links.values():
            link.bytes_per_second = link.extra_seconds = 0.0
        for name, link in world.network.links.items():
            if link.is_cut:
                world.network.open(*name)
        world.releases.settle()
        for host in world.hosts.values():
            host.disk_seconds = (0.0, 0.0)
            host.disk.capacity_bytes = None
            host.disk_fuse = host.send_fuse = None
            if host.process is not None and host.process.is_paused:
                host.process.resume()
            host.start()
            if not (host.is_up or host.is_damaged):
                world.verdict.note("L1", f"{host.id} does not start when healed: {host.refused}")
        # Who has lost something may be refused, by itself or by all others.
        return [host for host in world.hosts.values() if host.is_up and not host.view.is_lost]


def _fail(host: Host) -> None:
    host.disk_has_failed = True
    raise OSError(errno.EIO, os.strerror(errno.EIO))
