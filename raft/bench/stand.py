"""A cluster of our own with the load that is put on it: started, asked, measured, ended.

Every process is one that was started here: the nodes, each a twistd of its own, and the load's.

    async with Stand(task) as stand:
        await stand.start_load(1000, 64)
        run = await stand.measured(3.0)
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import Factory, define, field

from raft.bench.inside import tac_of
from raft.bench.loaded import Loaded, Statuses
from raft.bench.plan import START_SECONDS
from raft.testing.processes import ProcessCluster


@define(eq=False)
class Stand(Loaded):
    """One cluster and its load; `async with` starts the cluster and ends everything.

    Attributes:
        settings: what differs from the defaults in all nodes' files.
        name: of the directory that the nodes' files are in.
    """

    settings: Mapping[str, object] = Factory(dict)
    name: str = "cluster"
    cluster: ProcessCluster = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.cluster = ProcessCluster(
            self.directory, self.nodes, settings=self.settings, reactor=self.task.reactor
        )
        if self.task.workload.target == "inside":
            for node in self.cluster.nodes.values():
                tac = self.directory / f"{node.id}.tac"
                tac.write_text(tac_of(str(node.config_path), str(self.socket(node.id))), "utf-8")
                node.arguments = ["-y", str(tac)]

    @property
    def directory(self) -> Path:
        """Where the nodes' files are."""
        return self.task.directory / self.name

    @property
    def addresses(self) -> Sequence[str]:
        """The client addresses of the nodes."""
        return self.cluster.addresses

    @property
    def leader_address(self) -> str:
        """The client address of the leader."""
        return self.cluster.node(self.leader).address

    @property
    def pids(self) -> dict[str, int]:
        """The processes of the nodes."""
        nodes = self.cluster.nodes.values()
        return {node.id: node.process.pid for node in nodes if node.process is not None}

    async def __aenter__(self) -> Stand:
        """Start every node.

        Raises:
            Timeout: no leader was elected; what was started has been ended.
        """
        # Said again for the type: those who start a cluster do more to it than load it.
        await super().__aenter__()
        return self

    async def prepare(self) -> None:
        """Start every node."""
        self.leader = await self.cluster.start(START_SECONDS)
        await self.cluster.wait_until_equal(1)

    async def close(self) -> None:
        """End the load and every node, and remove what they wrote."""
        await super().close()
        await self.cluster.stop()
        # The next cluster may need the room.
        shutil.rmtree(self.directory, ignore_errors=True)

    async def statuses(self) -> Statuses:
        """Return what each node says of itself; None of one that does not answer."""
        return await self.cluster.statuses()

    async def number(self, id: str, key: str) -> int:
        """Return a number of a node's status; -1 where it does not answer."""
        status = await self.cluster.status(id)
        return -1 if status is None else int(str(status.get(key, -1)))
