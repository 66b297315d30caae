"""Directories that are copied: an old copy is put back, or a second process starts from one.

Both are the right server by name, and have forgotten what it has promised since. Whoever has seen
a later start of it, or has the first process at its address, lets them in no more [M9]. Nothing is
promised of what nobody alive has seen, so that is not drawn: an old copy is put back only where
all others have noted a later start, and a second process runs only while nothing else goes wrong.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from attrs import define, evolve

from raft.errors import RaftError
from raft.service import RaftService
from raft.storage.directory import DataDirectory
from raft.testing.cores.disk import Disk as SavedDisk
from raft.testing.whole.disk import Disk, Mount
from raft.testing.whole.process import Process
from raft.testing.whole.writer import clocked_log

if TYPE_CHECKING:
    from raft.testing.whole.host import Host
    from raft.testing.whole.world import World

SECOND_NET = "127.0.4."


@define(eq=False)
class Copy:
    """A directory as it was: what is on it, what the watchers know of it, and how often begun."""

    disk: Disk
    saved: SavedDisk
    starts: int


@define(eq=False)
class Second:
    """A second process with a server's directory, at another address than the server's."""

    process: Process
    service: RaftService | None = None


@define(eq=False)
class Copies:
    """Takes copies of the directories of one world, and does with them what nobody should."""

    world: World
    second: Second | None = None
    seconds_count: int = 0

    def take(self, host: Host) -> bool:
        """Keep a copy of a directory that is in use."""
        if not host.is_serving or host.service is None or host.view.is_lost:
            return False
        saved = host.view.disk
        copy = SavedDisk(saved.hard_state, saved.snapshot, saved.previous, saved.records.copy())
        copy.queue.extend(saved.queue)
        starts = host.service.identity.lives.count
        host.copy = Copy(host.disk.copied(), copy, starts)
        return True

    def put_back(self, host: Host) -> bool:
        """Let a server have the copy again, if all others know that it is an old one."""
        copy, world = host.copy, self.world
        if copy is None or not host.is_up or not world.may_damage(host) or host.view.is_lost:
            return False
        others = [each for each in world.hosts.values() if each is not host]
        if not others or not all(self._has_noted(each, host.id, copy.starts) for each in others):
            return False
        host.kill()
        host.lose(copy.saved)
        host.disk.become(copy.disk)
        host.copy = None
        return True

    def _has_noted(self, other: Host, id: str, starts: int) -> bool:
        if not other.is_serving or other.service is None:
            return False
        noted = other.service.members._noted.get(id)
        return noted is not None and noted[1].count > starts

    # A second process.

    def start_second(self, host: Host) -> bool:
        """Start another process from a copy of a directory whose server runs on."""
        world = self.world
        hosts = world.hosts.values()
        if self.second is not None or len(hosts) < 2 or not all(map(self._is_well, hosts)):
            return False
        # Whoever cannot hear the server itself has only the copy's word.
        names = [each.address for each in hosts]
        if any(world.network.link(a, b).is_cut for a in names for b in names):
            return False
        self.seconds_count += 1
        address = SECOND_NET + str(self.seconds_count)
        world.network.host_started(address)
        chance = random.Random(f"{world.seed}/{host.id}/second/{host.lives}")
        process = Process(
            world.timeline, world.network, address, chance, world.broke, world.entropy
        )
        self.second = second = Second(process)
        process.enter(self._begin, second, host, host.disk.copied())
        return True

    def _is_well(self, host: Host) -> bool:
        """Tell whether a server is in touch with all others, and nothing waits to befall it."""
        if not host.is_serving or host.service is None or host.view.is_lost:
            return False
        network = host.service.network
        others = [id for id in self.world.hosts if id != host.id]
        is_calm = host.process is not None and not host.process.is_paused
        is_whole = host.disk_fuse is None and host.disk.capacity_bytes is None
        return is_calm and is_whole and all(map(network.is_connected, others))

    def _begin(self, second: Second, host: Host, disk: Disk) -> None:
        process = second.process
        mount: Any = Mount(disk, process.check, lambda: process.is_alive)
        ports = (host.settings.peer_endpoint, host.settings.client_endpoint)
        peers, clients = (each.replace(host.address, process.host) for each in ports)
        # Nobody is its witness: it is not to be believed.
        machine = self.world.releases.machine(host, is_seen=False)
        service = self.world.parts.service(
            evolve(host.settings, peer_endpoint=peers, client_endpoint=clients),
            machine,
            reactor=process,
            clock=process.seconds,
            make_storage=lambda settings, incarnation: clocked_log(
                *(process, mount, settings.data_directory, settings.segment_size_bytes),
                incarnation,
                lambda: 0.0,
            ),
            open_directory=lambda path, id, cluster: DataDirectory.load(path, id, cluster, mount),
        )
        try:
            service.startService()
        except RaftError as error:
            self.world.verdict.note("I11", f"a copy of {host.id} does not start: {error}")
            return
        second.service = service

    def end(self) -> None:
        """End the second process; nobody may have spoken with it."""
        second, self.second = self.second, None
        if second is None:
            return
        if second.service is not None:
            network = second.service.network
            met = [id for id in self.world.hosts if network.is_connected(id)]
            if met:
                self.world.verdict.note("M9", f"{met} speak with a copy of {second.service.id}")
        # What it has sent may arrive when the server itself is down, which only it could deny.
        for other in self.world.hosts.values():
            self.world.network.cut(second.process.host, other.address)
        second.process.kill()
