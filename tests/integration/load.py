"""Clients that write to a cluster of processes while something is done to it, and the reckoning."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from attrs import Factory, define
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.internet.utils import getProcessOutputAndValue

from raft.cli.init import places
from raft.client import RaftClient
from raft.testing.ledger import Ledger, read_everything
from raft.testing.ports import HOST, free_base_port
from raft.testing.processes import PORTS_ABOVE, NodeProcess, ProcessCluster

Connect = Callable[..., RaftClient]

PAUSE_SECONDS = 0.01
WRITE_SECONDS = 2.0
PROGRESS_SECONDS = 15.0


@define(eq=False)
class Load:
    """Some clients, each of which writes one key after another until `stop`.

    Attributes:
        ledger: what they were told, all of them together.
    """

    cluster: ProcessCluster
    clients: list[RaftClient]
    ledger: Ledger = Factory(Ledger)
    _goes_on: bool = True
    _running: list[Deferred[None]] = Factory(list)

    @classmethod
    def on(cls, cluster: ProcessCluster, connect: Connect, count: int = 2) -> Load:
        """Begin to write to `cluster`."""
        load = cls(cluster, [connect(cluster) for _ in range(count)])
        load._running = [
            Deferred.fromCoroutine(load._run(f"client{number}", client))
            for number, client in enumerate(load.clients)
        ]
        return load

    async def _run(self, name: str, client: RaftClient) -> None:
        from twisted.internet import reactor

        number = 0
        while self._goes_on:
            number += 1
            await self.ledger.write(client, f"{name} {number}", number, WRITE_SECONDS)
            await deferLater(reactor, PAUSE_SECONDS)  # type: ignore[arg-type]

    async def progress(self, count: int = 5) -> None:
        """Wait until so many more writes are acknowledged."""
        before = len(self.ledger.acknowledged)

        async def told() -> bool:
            return len(self.ledger.acknowledged) >= before + count

        await self.cluster.until(told, PROGRESS_SECONDS, "no write was acknowledged")

    async def stop(self) -> None:
        """Write no more; what is under way ends."""
        self._goes_on = False
        await gatherResults(self._running)

    async def settle(self, client: RaftClient | None = None) -> None:
        """Stop, wait until all nodes of the cluster are equal, and hold them to what was told."""
        await self.stop()
        await self.cluster.wait_until_equal(1)
        found = await read_everything(client or self.clients[0], 10.0)
        assert len(self.ledger.acknowledged) > 0
        own = {key: value for key, value in found.items() if key.startswith("client")}
        assert list(self.ledger.differences(own)) == []


async def raft(*arguments: str, fails: bool = False) -> str:
    """Run `raft`; return what it printed, or the error if it `fails`, which it then must."""
    command = ["-c", "from raft.cli.main import main; main()", *arguments]
    out, err, code = await getProcessOutputAndValue(sys.executable, command, env=None)
    assert bool(code) is fails, (arguments, out, err)
    return str((err if fails else out).decode())


def newcomer(cluster: ProcessCluster, id: str, like: str = "node1") -> NodeProcess:
    """Return a node that is no member yet: the file of `like` without members, ports of its own."""
    (place,) = places(1, free_base_port(1, PORTS_ABOVE), [HOST])
    model = cluster.node(like)
    text = without_members(model.config_path.read_text("utf-8")).replace(like, id)
    for above in PORTS_ABOVE:
        text = text.replace(str(model.place.port + above), str(place.port + above))
    path = cluster.directory / f"{id}.toml"
    path.write_text(text, "utf-8")
    path.chmod(0o644)
    made = NodeProcess(place, path, Path(f"{path}.log"), cluster.directory / f"{id}-data")
    cluster.nodes[id] = made
    return made


def without_members(text: str) -> str:
    """Return a node's file without the first members."""
    return text.partition("\n[[members]]")[0]


async def terminate(cluster: ProcessCluster, id: str) -> int:
    """End a node in good order; return its exit code."""
    node = cluster.node(id)
    cluster.kill(id, 15)

    async def ended() -> bool:
        return not node.running

    await cluster.until(ended, 10.0, f"{id} does not end", [node])
    assert node.exit_code is not None
    return node.exit_code


async def wait_for_log(cluster: ProcessCluster, id: str, text: str, start: int = 0) -> None:
    """Wait until a node's log has `text` behind `start`."""

    async def said() -> bool:
        return text in cluster.node(id).log[start:]

    await cluster.until(said, 15.0, f"{id} never said {text!r}", [cluster.node(id)])


async def all_are_known(cluster: ProcessCluster) -> None:
    """Wait until every node that runs knows the incarnation of every member."""

    async def known() -> bool:
        statuses = await cluster.statuses()
        return all(
            status is not None and all(member["incarnation"] for member in status["members"])  # type: ignore[attr-defined]
            for status in statuses.values()
        )

    await cluster.until(known, 10.0, "incarnations are not pinned")
