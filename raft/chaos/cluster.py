"""Real nodes that reach each other, and are reached by clients, through proxies alone."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from attrs import frozen

from raft.chaos import wall_clock
from raft.chaos.mesh import Mesh
from raft.cli.init import Place, content, places, write_file
from raft.client import RaftClient
from raft.config import NodeConfig, read_config
from raft.testing.ports import HOST, free_base_port
from raft.testing.processes import PORTS_ABOVE, NodeProcess, ProcessCluster, with_settings

DISK_BYTES: Final = 64 << 20
"""The size of a small disk, which can be filled up."""

OFTEN: Final[Mapping[str, object]] = {
    # Snapshots, and servers that are so far behind that they need one, must be daily fare.
    "snapshot_entries": 500,
    "trailing_bytes": 64 << 10,
    "segment_bytes": 256 << 10,
}
"""What every node's file says, whatever the template has."""

_DETACH = 2


@frozen
class Template:
    """What all nodes have in common.

    Attributes:
        machine: what is replicated, as `node.machine` has it.
        settings: what else differs from the defaults of `raft init`.
        election_timeout_seconds: the T of everything that is counted in it.
    """

    machine: str = "kv"
    settings: Mapping[str, object] = OFTEN
    election_timeout_seconds: float = 0.3

    @classmethod
    def of(cls, config: NodeConfig) -> Template:
        """Take the machine and the options of a node's file; its addresses play no part."""
        timings, limits = config.timings, config.limits
        settings = {
            name: getattr(table, name)
            for table in (timings, limits)
            for name in type(table).__annotations__
        }
        settings["forward"] = config.node.forward
        return cls(config.node.machine, {**settings, **OFTEN}, timings.election_timeout)


@frozen
class DialledPlace(Place):
    """A place whose node is reached at other addresses than those where it listens."""

    peer_door: str = ""
    client_door: str = ""

    @property
    def peers(self) -> str:
        """The address that the other nodes dial."""
        return self.peer_door

    @property
    def clients(self) -> str:
        """The address that clients dial."""
        return self.client_door


class ChaosCluster(ProcessCluster):
    """Nodes behind proxies, with wall clocks that can be set, and small disks where they may be.

    Attributes:
        mesh: the links.
        retired: nodes that are members no more; their logs are still looked at.
        disks: the ids of the nodes whose data directory is a small disk of its own.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        size: int,
        mesh: Mesh,
        template: Template,
        reactor: Any,
        small_disks: bool = False,
    ) -> None:
        """Write the nodes' files, and listen with the proxies; start nothing.

        Args:
            directory: where everything goes.
            size: how many nodes.
            mesh: stands before the nodes.
            template: what they have in common.
            reactor: the proxies' and the clients'.
            small_disks: mount a small file system for each node, where that is allowed.
        """
        self.mesh = mesh
        self.template = template
        self.retired: list[NodeProcess] = []
        self.disks: list[str] = []
        self._doors: dict[str, DialledPlace] = {}
        self._small_disks = small_disks
        self._numbers = size
        super().__init__(
            directory,
            size,
            machine=template.machine,
            cluster="chaos",
            settings=template.settings,
            reactor=reactor,
            dialled=self.dialled,
        )
        for node in self.nodes.values():
            self._equip(node)

    def dialled(self, place: Place) -> DialledPlace:
        """Return the place with the addresses of its proxies, which are made once."""
        found = self._doors.get(place.id)
        if found is None:
            doors = self.mesh.add(place.id, place.port, place.port + PORTS_ABOVE[1])
            found = DialledPlace(place.id, place.host, place.port, doors.peers, doors.clients)
            self._doors[place.id] = found
        return found

    def _equip(self, node: NodeProcess) -> None:
        self.set_clock(node.id, 0.0)
        script = [sys.executable, "-P", str(Path(wall_clock.__file__))]
        node.program = [*script, str(self._clock(node.id))]
        if self._small_disks and mounted(node.data_directory, DISK_BYTES):
            self.disks.append(node.id)

    def _clock(self, id: str) -> Path:
        return self.directory / f"{id}.clock"

    def set_clock(self, id: str, ahead_seconds: float) -> None:
        """Set a node's wall clock, whether its process runs or not."""
        wall_clock.set_ahead(self._clock(id), ahead_seconds)

    # -- Members that come and go --------------------------------------------------------------

    def newcomer(self) -> NodeProcess:
        """Write the file of one more node, which is no member yet; it is not started."""
        self._numbers += 1
        (plain,) = places(1, free_base_port(1, PORTS_ABOVE), [HOST])
        place = Place(f"node{self._numbers}", plain.host, plain.port)
        path = self.directory / f"{place.id}.toml"
        node = self._node(place, path)
        self._write_joining(node)
        self._equip(node)
        self.nodes[place.id] = node
        return node

    def wipe(self, id: str) -> None:
        """Take all that a node has, which must not run; it will have to join again."""
        node = self.node(id)
        for path in node.data_directory.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        node.config_path.unlink()
        self._write_joining(node)

    def _write_joining(self, node: NodeProcess) -> None:
        start = f"twistd -n --pidfile= raft --config {node.config_path}"
        text = content(self.dialled(node.place), [], "chaos", self.template.machine, start)
        write_file(node.config_path, with_settings(text, self.template.settings))

    def member(self, id: str) -> dict[str, object]:
        """Return what the cluster is told of a node that joins."""
        door = self._doors[id]
        return {"id": id, "peer_address": door.peers, "client_address": door.clients}

    def retire(self, id: str) -> None:
        """End a node that is a member no more, and forget it but for its log."""
        node = self.nodes.pop(id)
        node.destroy()
        self.retired.append(node)

    def recall(self, id: str) -> None:
        """Take back a node that turned out to be a member after all, and start it."""
        (node,) = (each for each in self.retired if each.id == id)
        self.retired.remove(node)
        self.nodes[id] = node
        node.start()

    # -- Ways in -------------------------------------------------------------------------------

    @property
    def doors(self) -> list[str]:
        """The addresses of the proxies that clients dial."""
        return [self._doors[id].clients for id in self.nodes]

    def outside_client(self, **options: Any) -> RaftClient:
        """Return a client that comes in through the proxies; closing it is yours."""
        return RaftClient(self.doors, reactor=self._reactor, **options)

    # -- Disks ---------------------------------------------------------------------------------

    def fill_disk(self, id: str) -> None:
        """Leave no room on a node's small disk."""
        # The node takes and frees space meanwhile, so there is no size to ask for at once.
        with contextlib.suppress(OSError), self._ballast(id).open("wb", buffering=0) as file:
            while file.tell() < DISK_BYTES:
                file.write(bytes(1 << 16))

    def clear_disk(self, id: str) -> None:
        """Give the room back."""
        self._ballast(id).unlink(missing_ok=True)

    def _ballast(self, id: str) -> Path:
        return self.node(id).data_directory / "ballast"

    def destroy(self) -> None:
        """Kill every node, retired ones too, and unmount what was mounted."""
        super().destroy()
        for node in self.retired:
            node.destroy()
        for id in self.disks:
            unmounted(self.directory / f"{id}-data")
        self.disks.clear()


def template_of(path: Path) -> Template:
    """Return what the nodes of a run have from the file of a user's node.

    Raises:
        BadConfiguration: the file is wrong; the text says what.
    """
    return Template.of(read_config(path))


def mounted(path: Path, size_bytes: int) -> bool:
    """Mount a file system in memory; tell whether that was allowed."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return False
    path.mkdir(mode=0o700, exist_ok=True)
    options = f"size={size_bytes},mode=0700".encode()
    library = ctypes.CDLL(None, use_errno=True)
    return bool(library.mount(b"tmpfs", os.fsencode(path), b"tmpfs", 0, options) == 0)


def unmounted(path: Path) -> None:
    """Take a file system in memory away, with all that is on it."""
    ctypes.CDLL(None, use_errno=True).umount2(os.fsencode(path), _DETACH)
