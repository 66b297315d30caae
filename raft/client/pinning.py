"""A client stays with the cluster that it found first."""

from __future__ import annotations

from typing import Any

from attrs import define
from twisted.internet.defer import Deferred

from raft.errors import PeerRefused
from raft.transport.calls import ClientConnection
from raft.transport.dialling import dial


@define(eq=False)
class OneCluster:
    """Dials nodes, and refuses those of another cluster than the first one that answered.

    At an address that was reused, or of a node that founded a cluster by mistake, writes would
    be acknowledged that the client's own cluster never sees. A cluster that `raft recover` made
    of a survivor is the same one: its id begins as the old one did.

    Attributes:
        cluster_id: what the application asked for, or "" for any.
    """

    reactor: Any
    cluster_id: str = ""
    _found: str = ""

    def __call__(self, address: str, timeout_seconds: float) -> Deferred[ClientConnection]:
        """Connect to the node at `address`, as `raft.transport.dialling.dial` does."""
        dialled = dial(self.reactor, address, timeout_seconds, self.cluster_id)
        return dialled.addCallback(self._checked)

    def _checked(self, connection: ClientConnection) -> ClientConnection:
        greeting = connection.greeting
        # A node that belongs to no cluster yet has no id.
        theirs = greeting.cluster_id.partition("+")[0] if greeting else ""
        if theirs and self._found and theirs != self._found:
            connection.close()
            raise PeerRefused(
                f"the node belongs to cluster {theirs}, and this client found {self._found} "
                "before; make a new client for another cluster"
            )
        self._found = self._found or theirs
        return connection
