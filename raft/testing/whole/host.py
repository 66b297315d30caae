"""A machine on which a server lives: its disk, and one life of the server's process after another.

The service is the one that twistd starts, with a directory that nobody else can reach, and a log
that the clock writes.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from attrs import define, evolve, field

from raft.errors import RaftError, StorageDamaged, StorageFailed, StorageFull
from raft.node.settings import NodeSettings
from raft.service import RaftService
from raft.storage.directory import DataDirectory
from raft.storage.repair import DONE
from raft.testing.cores.disk import Disk as SavedDisk
from raft.testing.whole.disk import Disk, Mount
from raft.testing.whole.process import Died, Process
from raft.testing.whole.view import View, WatchedReads, WatchedSaving, WatchedServer, WatchedStorage
from raft.testing.whole.writer import clocked_log

if TYPE_CHECKING:
    from raft.testing.whole.copies import Copy
    from raft.testing.whole.world import World

PEER_PORT: Final = 7000
CLIENT_PORT: Final = 7001
DIRECTORY: Final = "/server"
CHANGES: Final = ("open", "pwrite", "allocate", "fdatasync", "rename", "unlink", "sync_directory")
"""The operations at which a fuse burns: those that change what a crash leaves."""


@define(eq=False)
class Fuse:
    """Lets something happen at a later operation of a disk, or at a later write to a socket."""

    left: int
    """How many more of them there will be before."""
    burn: Callable[[], object]


@define(eq=False)
class Host:
    """One machine. `start` and `kill`, `lose_power` may follow each other in any order.

    Attributes:
        id: of the server that lives here.
        address: of the machine in the network.
        service: of the present life, or None.
        refused: why the last start was refused, or None.
        lives: how many there were.
    """

    world: World
    id: str
    address: str
    settings: NodeSettings
    view: View
    disk: Disk = field(factory=Disk)
    process: Process | None = None
    service: RaftService | None = None
    refused: RaftError | None = None
    copy: Copy | None = None
    """An older state of its directory."""
    is_damaged: bool = False
    """Whether something that was durable is lost here: it may stay out."""
    lives: int = 0
    disk_seconds: tuple[float, float] = (0.0, 0.002)
    """How long a turn of the writer takes, at least and at most."""
    disk_fuse: Fuse | None = None
    disk_has_failed: bool = False
    """Whether an operation of this life has failed: it must end, and be started again."""
    send_fuse: Fuse | None = None
    release: tuple[int, int] = (1, 1)
    """The oldest and the newest version that the machine of the present life can."""

    def __attrs_post_init__(self) -> None:
        """Let every operation of the disk pass here."""
        self.disk.before = self._operation

    @property
    def is_up(self) -> bool:
        """Whether a process lives here."""
        return self.process is not None and self.process.is_alive

    @property
    def is_serving(self) -> bool:
        """Whether its service runs."""
        return self.is_up and self.service is not None and self.service.serves

    @property
    def server(self) -> Any:
        """The core of the present life."""
        return self.service.shell.server if self.service is not None else None

    def counts(self, other: str) -> bool:
        """Tell whether it votes, and must know who `other` was; a learner lets anybody in."""
        if not self.is_serving or not self.server.is_voter:
            return False
        member = self.server.configuration.member(other)
        return member is not None and bool(member.incarnation)

    # Life.

    def start(self) -> None:
        """Start the server, unless it runs."""
        if self.is_up:
            return
        world = self.world
        world.network.host_started(self.address)
        self.lives += 1
        self.refused = None
        self.disk_fuse = self.send_fuse = None
        self.disk_has_failed = False
        chance = random.Random(f"{world.seed}/{self.id}/{self.lives}")
        rate = world.rates[self.id]
        process = Process(
            *(world.timeline, world.network, self.address, chance, world.broke, world.entropy, rate)
        )
        process.died, process.wrote = self._died, self._wrote
        self.process = process
        world.tell(self.id, f"starts, for the {self.lives}. time")
        process.enter(self._begin, process)

    def _begin(self, process: Process) -> None:
        world, machine = self.world, self.world.releases.machine(self)
        mount: Any = Mount(self.disk, process.check, lambda: process.is_alive)
        machine.process = process
        service = self.service = world.parts.service(
            self.settings,
            machine,
            reactor=process,
            clock=process.seconds,
            make_storage=partial(self._make_storage, process, mount),
            open_directory=lambda path, id, cluster: DataDirectory.load(path, id, cluster, mount),
        )
        service.ended.addCallback(self._service_ended, process)
        try:
            service.startService()
        except RaftError as error:
            self._refuse(process, error)
            return
        repair = service.repairing.repair
        if repair is not None and repair.state != DONE:
            world.fired["repair begun"] += 1
            world.tell(self.id, f"repairs its log: {repair}")
        shell = service.shell
        shell.server = WatchedServer(shell.server, self.view)  # type: ignore[assignment]
        shell.saving = WatchedSaving(shell.saving, self.view)  # type: ignore[assignment]
        self.view.began(shell.server, service.replica, process)
        self._watch(service, process)

    def _refuse(self, process: Process, error: RaftError) -> None:
        if process.is_alive:
            self.refused = error
            self.world.tell(self.id, f"does not start: {error}")
            process.kill()
            if self.world.releases.excuses(self, error):
                self.world.ended(self)
                return
            if isinstance(error, StorageDamaged) or not isinstance(
                error, StorageFailed | StorageFull
            ):
                # Whose disk has rotted stays out; of any other nothing may pass for damage.
                if not self.is_damaged or (self.settings.repair and not self.view.is_lost):
                    self.world.verdict.note("I11", f"{self.id} does not start: {error}")
                return
            self.world.ended(self)

    def _make_storage(
        self, process: Process, mount: Any, settings: NodeSettings, incarnation: str
    ) -> Any:
        def turn_seconds() -> float:
            return process.chance.uniform(*self.disk_seconds)

        log = clocked_log(
            *(process, mount, DIRECTORY, settings.segment_size_bytes, incarnation),
            turn_seconds,
            self.world.parts.writer,
        )
        return WatchedStorage(log, self.view)

    def _watch(self, service: RaftService, process: Process) -> None:
        shell, network, view = service.shell, service.network, self.view
        send, turned = network.send, shell.turned

        def seen(peer: str, message: Any, *beside: Any) -> bool:
            process.check()
            is_sent = send(peer, message, *beside)
            if is_sent:
                if view.is_lost and self.world.hosts[peer].counts(self.id):
                    self.world.verdict.note("M9", f"{self.id} is not what it was, and meets {peer}")
                view.left(peer, message)
            return is_sent

        def seen_turn() -> None:
            if process.is_alive and shell.running:
                view.turned(shell.restoring.is_active)
                self.world.bounds.look(service)
            turned()

        shell.reads = WatchedReads(shell.reads, view)  # type: ignore[assignment]
        network.send = seen  # type: ignore[method-assign, assignment]
        shell.turned = seen_turn

    def _service_ended(self, error: BaseException | None, process: Process) -> None:
        if not process.is_alive:
            return
        is_excused = error is not None and self.world.releases.excuses(self, error)
        if not (is_excused or error is None or isinstance(error, StorageFailed | StorageFull)):
            self.world.verdict.note("raised", f"{self.id} stops: {type(error).__name__}: {error}")
        self.world.tell(self.id, f"ends: {error}")
        # As twistd does, once the service is closed.
        process.callLater(0, process.kill)
        # Who ends in good order is not started again, whatever its disk refused before.
        self.disk_has_failed = self.disk_has_failed and error is not None
        self.world.ended(self)

    def stop(self) -> None:
        """Ask the service to stop in good order."""
        if self.process is not None and self.service is not None:
            self.process.enter(self.service.stopService)

    def drift(self, rate: float) -> None:
        """Let the machine's clock run `rate` times as fast as the world, in later lives too."""
        self.world.rates[self.id] = rate
        if self.process is not None:
            self.process.drift(rate)

    def kill(self) -> None:
        """End the process at once; its machine goes on."""
        if self.process is not None:
            self.process.kill()

    def lose_power(self) -> None:
        """End the machine at once, and lose what its disk has not synced."""
        if self.process is not None:
            self.process.vanish()
        self.world.network.down.add(self.address)
        self.disk.lose_power(self.world.disk_chance(self.id))

    def wipe(self) -> None:
        """Put an empty disk into the machine, which does not run."""
        self.disk.wipe()
        self.lose(SavedDisk())

    def lose(self, left: SavedDisk) -> None:
        """Note that all that was saved is lost, but for what is `left`."""
        view = self.view
        view.lost_disks.append(view.disk)
        view.disk, view.owed = left, (0, 0)
        view.lives += 1
        view.is_lost = self.is_damaged = True
        self.copy = None

    def begin_anew(self) -> None:
        """Empty the disk of a server that was removed: it may join again, as another one [M7]."""
        view = self.view
        self.wipe()
        view.monitors.lost(view)  # type: ignore[arg-type]
        view.is_lost = view.is_damaged = self.is_damaged = False
        self.settings = evolve(self.settings, first_members=(), cluster_id="")

    def _died(self) -> None:
        self.view.ended()
        self.disk.process_died()
        self.service = None

    # Fuses.

    def _operation(self, name: str) -> None:
        if self.process is None or not self.process.is_alive:
            raise Died
        fuse = self.disk_fuse
        if fuse is None or name not in CHANGES:
            return
        fuse.left -= 1
        if fuse.left < 0:
            self.disk_fuse = None
            fuse.burn()
            self.process.check()

    def _wrote(self, is_done: bool) -> None:
        fuse = self.send_fuse
        if fuse is None:
            return
        fuse.left -= 1
        if fuse.left < 0:
            self.send_fuse = None
            fuse.burn()


def settings_of(id: str, address: str, model: NodeSettings) -> NodeSettings:
    """Return `model` with what is this server's own."""
    return evolve(
        model,
        id=id,
        data_directory=DIRECTORY,
        peer_endpoint=f"tcp:{PEER_PORT}:interface={address}",
        client_endpoint=f"tcp:{CLIENT_PORT}:interface={address}",
    )
