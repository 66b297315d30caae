"""Why a node knows no leader, in a sentence: for its status."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raft.core import founding
from raft.core.outputs import Role

if TYPE_CHECKING:
    from raft.service import RaftService


def leaderless_reason(node: RaftService) -> str:
    """Return why `node` knows no leader as far as it can see, or "" where it knows one."""
    server = node.shell.server
    if server.leader_id is not None:
        return ""
    configuration = server.configuration
    term, index = server.lost
    repairing = (
        f"its log was damaged: until a leader has sent it what it held up to entry {index} of "
        f"term {term} it stands for no election, and votes for nobody who lacks that"
    )
    if not configuration.members and server.is_repairing:
        return repairing
    if not configuration.members:
        return "it belongs to no cluster yet: found one, or let it join one"
    if founding.is_barred(server):
        return (
            "it has nothing but its founding configuration, and its cluster has lived without it: "
            "it stands for no election"
        )
    if awaited := node.founding.awaited:
        return f"it founds its cluster, and waits for {', '.join(awaited)} to object, for a moment"
    voters = sorted(configuration.voters | configuration.outgoing)
    near = [voter for voter in voters if voter == node.id or node.network.is_connected(voter)]
    away = ", ".join(voter for voter in voters if voter not in near)
    reach = f"{len(near)} of {len(voters)} voters are in its reach"
    beyond = f"; {away} is not" if len(voters) - len(near) == 1 else f"; {away} are not"
    if not away:
        beyond = ""
    if not configuration.majority(near):
        return f"{reach}, no majority{beyond}"
    if server.is_repairing:
        return f"{reach}{beyond}; {repairing}"
    if server.role in (Role.PRE_CANDIDATE, Role.CANDIDATE):
        return (
            f"{reach}{beyond}; it asks them for their votes, which they refuse where their logs go "
            "further than its own or they hear a leader"
        )
    return f"{reach}{beyond}; it waits for one of them to lead"
