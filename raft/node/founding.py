"""What the others say of a node that has nothing but its founding configuration [RULES M8, M9].

A first member that starts with an empty data directory may be new, or may have lost what it had
voted and acknowledged. It asks: before its first candidacy, and its first vote, it waits until it
has spoken with every other first member, for a bounded time. Where one of them, or any other
server of the cluster, says that the cluster has lived without it, the core is told so
(`raft.core.founding`), and the operator. A node that knows no members helps to found only what
somebody has ordered: who founds by its file has first members with the same file.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Final

from attrs import Factory, define
from twisted.logger import Logger

from raft.core import founding
from raft.core.events import Founding as Event
from raft.core.events import Standing
from raft.core.server import Server
from raft.transport.greeting import Greeting

if TYPE_CHECKING:
    from raft.service import RaftService

_log = Logger()

WAIT_TIMEOUTS: Final = 6.0
"""For so many election timeouts a founder waits for first members that do not answer."""
MOST_FOUNDERS: Final = 64
"""So many servers that found a cluster by an order are remembered."""


def new_cluster_id() -> str:
    """Return an id for a cluster that is founded by an order: a UUID with its dashes."""
    return str(uuid.uuid4())


def is_ordered(cluster_id: str) -> bool:
    """Tell whether a cluster of this id was founded by an order; who derives one has no dashes."""
    try:
        return str(uuid.UUID(cluster_id)) == cluster_id
    except ValueError:
        return False


def has_committed(server: Server) -> bool:
    """Tell whether a leader of this server's cluster has committed an entry, as far as it knows.

    The first is the second of the log, and no configuration follows the first one before that
    [RULES M2]: so a log with a newer configuration proves it also after a restart.
    """
    return max(server.commit_index, server.log.configuration_index) > 1


@define(eq=False)
class Founding:
    """What one node has heard, as long as it has no entry of a leader; nothing concerns it later.

    Attributes:
        standing: what it is by that.
    """

    node: RaftService
    standing: Standing = Standing.FREE
    _until: float = 0.0
    _awaited: set[str] = Factory(set)
    """First members that have not answered yet."""
    _founders: set[str] = Factory(set)
    """Who founds a cluster by an order, for a node that knows no members."""
    _is_told: bool = False

    @property
    def is_open(self) -> bool:
        """Whether this node is without a history."""
        return not founding.has_history(self.node.shell.server)

    @property
    def awaited(self) -> list[str]:
        """The first members for which it waits, in order."""
        is_waiting = self.is_open and self.node.clock() < self._until
        return sorted(self._awaited) if is_waiting else []

    def begin(self) -> None:
        """Look at what this node has when it starts, before it founds anything."""
        node, server = self.node, self.node.shell.server
        if not self.is_open:
            return
        members = server.configuration.members or node.settings.first_members
        if not members:
            self.standing = Standing.LATE
        elif not is_ordered(node.identity.cluster_id) or node.settings.first_members:
            self._awaited = {each.id for each in members if each.voter} - {node.id}
            wait_seconds = WAIT_TIMEOUTS * node.settings.options.election_timeout_seconds
            self._until = node.clock() + wait_seconds
        self._tell()

    def ordered(self) -> None:
        """Found a cluster because somebody ordered it: this node is its first founder."""
        self.standing = Standing.FREE
        self._tell()

    def greeted(self, greeting: Greeting) -> None:
        """Take what another server says of the cluster, whether it is let in or not."""
        ours, theirs = self.node.identity.cluster_id, greeting.cluster_id
        if not self.is_open or (ours and theirs != ours):
            return
        if not ours:
            self._note_founder(greeting)
        elif greeting.excluded_index:
            self.outlived(greeting.server_id)
        elif greeting.committed and self.standing is Standing.FREE:
            self.standing = Standing.LATE
            self._tell()

    def _note_founder(self, greeting: Greeting) -> None:
        id, known = greeting.server_id, len(self._founders)
        self._founders.discard(id)
        if is_ordered(greeting.cluster_id) and len(self._founders) < MOST_FOUNDERS:
            self._founders.add(id)
        if len(self._founders) != known:
            self._tell()

    def answered(self, peer: str) -> None:
        """Take note that `peer` has let this node in: it had the chance to object."""
        if peer in self._awaited:
            self._awaited.discard(peer)
            self._tell()

    def outlived(self, peer: str) -> None:
        """Take it from `peer` that the cluster has lived without this server's data directory."""
        if not self.is_open or not self.node.identity.cluster_id:
            return
        if not self._is_told:
            self._is_told = True
            _log.warn(
                "{id} has nothing but its founding configuration, and {peer} knows that the "
                "cluster has lived without it: it stands for no election and votes for nobody. "
                "Remove it from the cluster (raft member remove {id}), empty its data directory, "
                "take [[members]] out of its file, start it, and let it join (raft join).",
                id=self.node.id,
                peer=peer,
            )
        self.standing = Standing.OUTLIVED
        self._tell()

    def _tell(self) -> None:
        """Tell the core what this node is by what it has heard."""
        left = max(0.0, self._until - self.node.clock()) if self._awaited else 0.0
        self.node.shell.post(Event(self.standing, left, frozenset(self._founders)))
