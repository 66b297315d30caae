"""Handing the leadership over, for those who wait until that is done [RULES M10]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, fail

from raft.core.outputs import Refusal, Role
from raft.errors import NotAppended, Timeout
from raft.node.refusals import refusal

if TYPE_CHECKING:
    from raft.service import RaftService


def hand_over(
    node: RaftService, target: str | None, timeout_seconds: float, heirs: Sequence[str] = ()
) -> Deferred[str]:
    """Hand the leadership of `node` to `target`, or the best voter; fires with the new leader's id.

    With `heirs` it is given up as soon as none of these servers is connected any more: where a
    whole cluster stops, nobody is left to take over.

    Raises (as failures):
        NotLeader, ElectionInProgress: the node does not lead.
        BadConfiguration: the target is no other voter.
        NotAppended: a transfer is under way already, or no heir is left.
        Timeout: the target did not take over in time.
    """
    shell = node.shell
    server = shell.server
    if server.role is not Role.LEADER:
        return fail(refusal(server, Refusal.NOT_LEADER))
    voters = server.configuration.voters - {server.id}
    if (target is None and not voters) or (target is not None and target not in voters):
        return fail(refusal(server, Refusal.NOT_A_VOTER))
    number = shell.transfer(target)
    ended = shell.transfers[number]

    def done() -> Any:
        if server.leader_id not in (None, server.id):
            return server.leader_id
        if ended and ended[0].reason is not None:
            return refusal(server, ended[0].reason)
        if ended and server.role is Role.LEADER:
            return Timeout(False, "the target did not take over; this node leads on")
        if heirs and not any(map(node.network.is_connected, heirs)):
            return NotAppended("no other voter is left to take over")
        return None

    def forget(result: Any) -> Any:
        shell.transfers.pop(number, None)
        return result

    waiting: Deferred[str] = node.waiters.wait(
        done, timeout_seconds, "the leadership was not taken over"
    )
    return waiting.addBoth(forget)
