"""Changes of the configuration (dissertation chapter 4) [RULES M1, M2, M7]."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import evolve

from raft.core.configuration import Configuration
from raft.core.roles import Leader

if TYPE_CHECKING:
    from raft.core.events import PinIncarnations
    from raft.core.server import Server


def may_change(server: Server) -> bool:
    """Tell whether a new configuration may be appended [RULES M2].

    Only a leader that has committed an entry of its own term may, and only when the
    latest configuration is committed. During a transfer of leadership nothing is appended:
    the target must have the whole log [RULES M10].
    """
    return (
        isinstance(server.state, Leader)
        and server.state.transfer is None
        and server.commit_index >= server.state.first_index
        and server.log.configuration_index <= server.commit_index
    )


def pin(server: Server, event: PinIncarnations) -> None:
    """Write into the configuration which data directory each member was first heard with.

    Nothing else changes, and no majority does. A pinned member that comes back with
    another directory is not the same server [RULES M7, M9].
    """
    if not may_change(server):
        return
    known = dict(event.incarnations)
    configuration = server.configuration
    members = tuple(
        member if member.incarnation else evolve(member, incarnation=known.get(member.id, ""))
        for member in configuration.members
    )
    if members != configuration.members:
        server.append_configuration(Configuration(members, configuration.outgoing))
