"""All links between the nodes of a cluster, and between them and their clients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from attrs import frozen
from twisted.internet.defer import DeferredList

from raft.chaos.proxy import Link, Mode, Proxy
from raft.testing.ports import HOST

CLIENTS: Final = "*clients*"
"""All clients together, as one party; no node can be called so."""


@frozen
class Doors:
    """The addresses at which a node is dialled: those of its proxies."""

    peers: str
    clients: str


class Mesh:
    """Proxies before every node, and the links that lead through them.

    Attributes:
        links: by (source, target), those that were used or asked for.
    """

    def __init__(self, reactor: Any) -> None:
        """Stand before nobody."""
        self.links: dict[tuple[str, str], Link] = {}
        self._reactor = reactor
        self._proxies: dict[str, tuple[Proxy, Proxy]] = {}

    def add(self, id: str, peer_port: int, client_port: int) -> Doors:
        """Stand before a node that will listen on these ports of the loopback.

        Raises:
            CannotListenError: no port is free.
        """
        peers = Proxy(self._reactor, id, (HOST, peer_port), self.link)
        clients = Proxy(self._reactor, id, (HOST, client_port), self.link, CLIENTS)
        self._proxies[id] = (peers, clients)
        return Doors(f"tcp:{HOST}:{peers.listen()}", f"tcp:{HOST}:{clients.listen()}")

    def link(self, source: str, target: str) -> Link:
        """Return the link from one party to another: ids of nodes, or CLIENTS."""
        found = self.links.get((source, target))
        if found is None:
            found = self.links[source, target] = Link(source, target)
        return found

    def between(self, one: str, other: str) -> tuple[Link, Link]:
        """Return the links of two parties: from one to the other, and back."""
        return self.link(one, other), self.link(other, one)

    def around(self, id: str, others: Iterable[str]) -> Iterator[Link]:
        """Yield the links of a node with `others`, in both directions."""
        for other in others:
            if other != id:
                yield from self.between(id, other)

    def heal(self) -> None:
        """Open all links."""
        for link in self.links.values():
            if link.mode is not Mode.OPEN or link.delay_seconds:
                link.become(Mode.OPEN)

    def connection_count(self) -> int:
        """Return how many connections stand."""
        return sum(len(proxy.pairs) for pair in self._proxies.values() for proxy in pair)

    async def close(self) -> None:
        """Break everything and listen no more."""
        closing = [proxy.close() for pair in self._proxies.values() for proxy in pair]
        self._proxies.clear()
        await DeferredList(closing, consumeErrors=True)
