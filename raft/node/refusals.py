"""What callers are told when the core refuses."""

from __future__ import annotations

from raft.core.outputs import Refusal
from raft.core.server import Server
from raft.errors import (
    BadConfiguration,
    ConfigurationInProgress,
    ElectionInProgress,
    NotAppended,
    NotLeader,
    Overloaded,
    RaftError,
)


def refusal(server: Server, reason: Refusal) -> RaftError:
    """Return the error that the callers of `server` get for the core's `reason`."""
    match reason:
        case Refusal.NOT_LEADER | Refusal.NO_LEADER | Refusal.LOST_LEADERSHIP:
            leader = server.leader_id
            if leader is None or leader == server.id:
                return ElectionInProgress()
            member = server.configuration.member(leader)
            return NotLeader(leader, member.client_address if member else None)
        case Refusal.OVERLOADED:
            return Overloaded("entries wait to be committed for more bytes than allowed")
        case Refusal.TRANSFER_IN_PROGRESS:
            return NotAppended("the leadership is being transferred")
        case Refusal.NOT_A_VOTER:
            return BadConfiguration("the target is no voter of this cluster")
        case Refusal.NOT_EMPTY:
            return BadConfiguration("this node has a log already; it belongs to a cluster")
        case Refusal.CHANGE_IN_PROGRESS:
            return ConfigurationInProgress("wait until it is done; `status` shows the members")
        case Refusal.OTHER_CONFIGURATION:
            return ConfigurationInProgress("the configuration has changed since it was looked at")
        case Refusal.NO_VOTERS:
            return BadConfiguration("the members must be distinct, and one of them must vote")
        case Refusal.NO_LIVE_MAJORITY:
            return BadConfiguration(
                "too few of the voters it would leave are alive; start them first, or force it"
            )
