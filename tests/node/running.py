"""Whole nodes over loopback sockets, with their logs in real directories."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred, DeferredList, gatherResults
from twisted.internet.task import deferLater

from raft.core import messages as ms
from raft.core import outputs as out
from raft.core.configuration import Member
from raft.core.server import Options
from raft.machines.kv import KeyValueStore
from raft.node.bounds import Bounds
from raft.node.ports import address_of
from raft.node.settings import NodeSettings
from raft.service import RaftService

LOOPBACK = "tcp:0:interface=127.0.0.1"
POLL_SECONDS = 0.005


async def until(true: Callable[[], Any], seconds: float = 8.0) -> Any:
    """Wait until `true` says so; fails the test where it does not within `seconds`."""
    from twisted.internet import reactor

    for _ in range(int(seconds / POLL_SECONDS)):
        if found := true():
            return found
        await deferLater(reactor, POLL_SECONDS, lambda: None)  # type: ignore[arg-type]
    raise AssertionError(f"did not happen within {seconds} s")


async def outcome(deferred: Deferred[Any]) -> Any:
    """Return what `deferred` fires with, an exception as itself."""
    try:
        return await deferred
    except Exception as error:
        return error


class Nodes:
    """The nodes of one test, by id; `cut` links lose all that is sent over them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.all: dict[str, RaftService] = {}
        self.cut: set[tuple[str, str]] = set()

    def settings(self, id: str, **changes: Any) -> NodeSettings:
        directory = self.path / changes.pop("directory", id)
        found = NodeSettings(
            id=id,
            data_directory=str(directory),
            peer_endpoint=LOOPBACK,
            client_endpoint=LOOPBACK,
            segment_size_bytes=1 << 17,
            options=Options(heartbeat_seconds=0.05, election_timeout_seconds=0.3),
            bounds=Bounds(snapshot_entries=0),
        )
        return evolve(found, **changes)

    def start(self, id: str, machine: Any = None, **changes: Any) -> RaftService:
        node = RaftService(self.settings(id, **changes), machine or KeyValueStore())
        node.startService()
        self.all[id] = node
        send = node.network.send

        def maybe(peer: str, message: ms.Message, *beside: Any) -> bool:
            return (id, peer) not in self.cut and send(peer, message, *beside)

        node.network.send = maybe  # type: ignore[method-assign]
        return node

    async def found(self, ids: Iterable[str] = "abc", **changes: Any) -> list[RaftService]:
        """Start nodes, let the first found the cluster, and wait until all know the leader."""
        nodes = [self.start(id, **changes) for id in ids]
        await nodes[0].set_configuration([self.member(node) for node in nodes], 8.0)
        await gatherResults([node.when_leader() for node in nodes])
        return nodes

    def member(self, node: RaftService) -> Member:
        return Member(
            node.id, "", address_of(node.peer_port), address_of(node.client_port or node.peer_port)
        )

    def fixed(self, node: RaftService) -> dict[str, Any]:
        """Return the settings with which `node` would listen where it does."""

        def listening(port: Any) -> str:
            return f"tcp:{port.getHost().port}:interface=127.0.0.1"

        return {
            "peer_endpoint": listening(node.peer_port),
            "client_endpoint": listening(node.client_port),
        }

    async def leader(self, among: Iterable[str] = "") -> RaftService:
        """Return the leader once it has committed an entry of its term."""
        ids = set(among) or set(self.all)

        def found() -> list[RaftService]:
            return [
                node
                for id, node in self.all.items()
                if id in ids
                and node.serves
                and node.shell.server.role is out.Role.LEADER
                and node.shell.server.commit_index >= node.shell.server.state.first_index  # type: ignore[union-attr]
            ]

        await until(found)
        return max(found(), key=lambda node: node.shell.server.current_term)

    def others(self, node: RaftService) -> list[RaftService]:
        return [each for each in self.all.values() if each is not node]

    def isolate(self, *ids: str) -> None:
        for one in ids:
            for other in self.all:
                if other not in ids:
                    self.cut |= {(one, other), (other, one)}

    async def stop(self) -> None:
        """Stop all: the leader last, which then has nobody to wait for."""
        followers, leaders = [], []
        for node in self.all.values():
            leads = node.serves and node.leader() == node.id
            (leaders if leads else followers).append(node)
        await DeferredList([node.stopService() for node in followers])
        gone = [node.id for node in followers]
        await until(
            lambda: not any(each.network.is_connected(id) for each in leaders for id in gone)
        )
        await DeferredList([node.stopService() for node in leaders])
