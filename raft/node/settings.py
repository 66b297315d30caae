"""What one node is told, whoever tells it: a file, an application, a test."""

from __future__ import annotations

from typing import Final

from attrs import evolve, frozen

from raft.core.configuration import Member
from raft.core.server import Options
from raft.errors import BadConfiguration
from raft.node.bounds import Bounds
from raft.storage.records import SessionLimits
from raft.storage.wal import SEGMENT_SIZE_BYTES
from raft.transport.clients import ClientLimits
from raft.transport.endpoints import require_private
from raft.transport.peers import PeerLimits

SESSION_RESULTS: Final = 4096
"""How many results each session keeps, where the settings do not say.

More than the format's own 1,000: a client has no more commands on their way, and with thousands
outstanding that would be the end of its batches. What is answered is not kept.
"""


@frozen
class NodeSettings:
    """What one node is told; times in seconds, sizes in bytes.

    Attributes:
        id: the server's id within its cluster.
        data_directory: where its log, snapshots and identity live.
        peer_endpoint: listens for other servers, an endpoint string (port 0 chooses one).
        client_endpoint: listens for clients, or empty: then only this process can call.
        http_endpoint: answers health, status and metrics (`raft.ops`), or empty for none.
        peer_address: where other servers dial this one; found out where it is empty and
            the endpoint names a host.
        first_members: the first configuration, the same on every first member; empty for a
            node that waits for `set_configuration` or for a leader.
        cluster_id: of the cluster that `first_members` found; required with them.
        forward: pass clients' writes on to the leader instead of naming it.
        allow_plaintext: listen without TLS on more than loopback and Unix sockets.
        timeout_seconds: of `write` and `read` where a call names none.
        hold: vote and replicate, and let the machine apply nothing: while an entry is skipped at
            which every server stops (`RaftService.skip`).
        repair: let a log that is found damaged at the start be repaired by the other servers.
        session_limits: what the sessions of the cluster are bounded by while this node leads,
            from the next session on that is opened.
    """

    id: str
    data_directory: str
    peer_endpoint: str
    client_endpoint: str = ""
    http_endpoint: str = ""
    peer_address: str = ""
    first_members: tuple[Member, ...] = ()
    cluster_id: str = ""
    forward: bool = False
    allow_plaintext: bool = False
    timeout_seconds: float = 3.0
    hold: bool = False
    segment_size_bytes: int = SEGMENT_SIZE_BYTES
    options: Options = Options()
    bounds: Bounds = Bounds()
    client_limits: ClientLimits = ClientLimits()
    repair: bool = False
    session_limits: SessionLimits = SessionLimits(results=SESSION_RESULTS)


def check_settings(settings: NodeSettings) -> None:
    """Refuse what a node could not start with.

    Raises:
        BadConfiguration: says what is wrong, and what would be right.
    """
    endpoints = (settings.peer_endpoint, settings.client_endpoint, settings.http_endpoint)
    for endpoint in filter(None, endpoints):
        require_private(endpoint, settings.allow_plaintext, listen=True)
    if settings.first_members:
        ids = [member.id for member in settings.first_members]
        if settings.id not in ids:
            raise BadConfiguration(f"{settings.id!r} is not among the first members {ids}")
        if not settings.cluster_id:
            raise BadConfiguration("first members need a cluster id that all of them share")


def peer_limits(settings: NodeSettings, command_bytes: int) -> PeerLimits:
    """Return limits under which every message passes that a node may have to send.

    One command, or the commands of one client's box, may have to travel together.
    """
    limits = PeerLimits()
    box_bytes = max(settings.client_limits.box_bytes, command_bytes)
    message_bytes = max(limits.message_bytes, box_bytes + (1 << 20))
    queue_bytes = max(limits.queue_bytes, 2 * message_bytes)
    return evolve(limits, message_bytes=message_bytes, queue_bytes=queue_bytes)
