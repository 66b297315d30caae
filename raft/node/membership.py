"""Who the other members are: their addresses, their incarnations, and who is let in."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from attrs import Factory, define
from twisted.logger import Logger

from raft.core import events as ev
from raft.core import membership
from raft.core.configuration import Configuration, Member
from raft.errors import BadConfiguration, PeerRefused
from raft.transport.endpoints import parse_dial
from raft.transport.greeting import Greeting

if TYPE_CHECKING:
    from raft.service import RaftService

_log = Logger()

MOST_HEARD = 1024
"""How many servers are remembered that are no members."""
NAME_BYTES = 255

REMEDY = (
    "its data directory was wiped, swapped or copied: remove the member and let it join again "
    "with an empty directory"
)


@define(eq=False)
class Members:
    """Follows the configuration of one node, and pins whom it was heard from [RULES M7]."""

    node: RaftService
    heard: dict[str, str] = Factory(dict)
    """Server id -> incarnation, as each said in its greeting."""
    strangers: dict[str, str] = Factory(dict)
    """Server id -> address of those who dialled this node while it knows no members."""
    clusters: dict[str, str] = Factory(dict)
    """Server id -> cluster id, for a node that belongs to no cluster yet."""
    _followed: Configuration | None = None
    _unpinned: bool = False
    _asked: tuple[int, Configuration | None] = (0, None)
    """In which term, and of which configuration, the core was last asked to pin."""

    def judge(self, greeting: Greeting) -> str | None:
        """Return why a server is not let in, or None [RULES M7, M9]."""
        member = self.node.shell.server.configuration.member(greeting.server_id)
        if member and member.incarnation and member.incarnation != greeting.incarnation:
            return (
                f"server {greeting.server_id!r} is known as incarnation {member.incarnation}, "
                f"not {greeting.incarnation}; {REMEDY}"
            )
        if member is None and len(self.heard) >= MOST_HEARD:
            # Whoever can dial could otherwise fill this node's memory with names.
            return None
        self.heard[greeting.server_id] = greeting.incarnation
        self.clusters[greeting.server_id] = greeting.cluster_id
        self._unpinned = self._has_unpinned()
        if greeting.address and not self.node.shell.server.configuration.members:
            # Whoever founds or grows a cluster speaks first; the answer needs a way back.
            self.strangers[greeting.server_id] = greeting.address
            self._followed = None
        self.node.shell.schedule()
        return None

    def follow(self) -> None:
        """At the end of a turn: connect to the members of the latest configuration, pin them."""
        node, server = self.node, self.node.shell.server
        configuration = server.configuration
        if configuration is not self._followed:
            self._followed = configuration
            self._check_self(configuration)
            members = {m.id: m.peer_address for m in configuration.members if m.peer_address}
            node.network.set_peers(_dialable(members or self.strangers))
            self.heard[node.id] = node.identity.incarnation
            self._unpinned = self._has_unpinned()
        if self._unpinned and membership.may_change(server):
            self._pin()
        leader = server.leader_id
        if leader and not node.identity.cluster_id and self.clusters.get(leader):
            node.take_cluster_id(self.clusters[leader])

    def _pin(self) -> None:
        server = self.node.shell.server
        asking = (server.current_term, server.configuration)
        if self._asked != asking:
            self._asked = asking
            self.node.shell.post(ev.PinIncarnations(tuple(sorted(self.heard.items()))))

    def _has_unpinned(self) -> bool:
        configuration = self.node.shell.server.configuration
        return any(not m.incarnation and m.id in self.heard for m in configuration.members)

    def _check_self(self, configuration: Configuration) -> None:
        me = configuration.member(self.node.id)
        mine = self.node.identity.incarnation
        if me and me.incarnation and me.incarnation != mine:
            self.node.shell.fail(
                PeerRefused(
                    f"the cluster knows {me.id!r} as incarnation {me.incarnation}, this data "
                    f"directory is {mine}; {REMEDY}"
                )
            )

    def found(self, members: tuple[Member, ...]) -> None:
        """Let this empty node found a cluster of `members`.

        Raises:
            BadConfiguration: it has a log or a cluster already, or is not among them.
        """
        node, server = self.node, self.node.shell.server
        if server.log.last_index or server.current_term or node.identity.cluster_id:
            raise BadConfiguration(
                f"{node.id} belongs to cluster {node.identity.cluster_id or '?'} already; a "
                "cluster is founded once, from an empty node"
            )
        check_members(members, node.id)
        node.take_cluster_id(uuid.uuid4().hex)
        node.shell.post(ev.Bootstrap(Configuration(members)))


def check_members(members: tuple[Member, ...], founder: str) -> None:
    """Refuse members that could not form a cluster, before the log holds them for good.

    Raises:
        BadConfiguration: names the member, what is wrong with it, and what would be right.
    """
    ids = [member.id for member in members]
    for member in members:
        if not isinstance(member.id, str) or not member.id.isprintable() or not member.id:
            raise BadConfiguration(f"a member's id is {member.id!r}; it must be printable text")
        if len(member.id.encode()) > NAME_BYTES:
            raise BadConfiguration(
                f"a member's id is {member.id[:40]!r}...; it may have {NAME_BYTES} bytes"
            )
        for key in ("peer_address", "client_address"):
            address = getattr(member, key)
            if key == "client_address" and not address:
                continue
            try:
                parse_dial(address)
            except (BadConfiguration, TypeError, AttributeError, ValueError) as error:
                raise BadConfiguration(
                    f"member {member.id!r}: {key} is {address!r}: {error}; write for example "
                    "tcp:10.0.0.1:7000"
                ) from error
    if founder not in ids or len(set(ids)) != len(ids):
        raise BadConfiguration(f"the members must be distinct and include {founder!r}, got {ids}")
    if founder not in [member.id for member in members if member.voter]:
        raise BadConfiguration(f"{founder!r} founds the cluster, so it must be a voter")


def _dialable(addresses: dict[str, str]) -> dict[str, str]:
    """Leave out what cannot be dialled: one bad address must not stop every member."""
    found = {}
    for server, address in addresses.items():
        try:
            parse_dial(address)
        except BadConfiguration as error:
            _log.error("{server} cannot be dialled: {error}", server=server, error=error)
        else:
            found[server] = address
    return found
