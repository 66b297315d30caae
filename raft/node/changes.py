"""Changes of the configuration that begin at this node, and who waits for them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from attrs import define, evolve
from twisted.internet.defer import Deferred, fail

from raft.core import membership
from raft.core import outputs as out
from raft.core.configuration import Member
from raft.core.roles import Leader
from raft.errors import (
    BadConfiguration,
    ConfigurationAbandoned,
    ConfigurationInProgress,
    NodeFailed,
    NodeStopped,
    OutcomeUnknown,
    RaftError,
    Superseded,
)
from raft.members import Members
from raft.node.membership import check_members
from raft.node.refusals import refusal

if TYPE_CHECKING:
    from raft.service import RaftService

Edit = Callable[[Members], Members]
"""Makes of the members there are those that shall be."""


@define(eq=False)
class Changes:
    """Begins changes at a leader, and tells how they end."""

    node: RaftService

    @property
    def is_empty(self) -> bool:
        """Whether this node knows no members: it may found a cluster."""
        return not self.node.shell.server.configuration.members

    def begin(
        self, change: Callable[[float], Coroutine[Any, Any, None]], timeout: float
    ) -> Deferred[None]:
        """Run `change`, which may take `timeout` seconds, if this node serves."""
        try:
            seconds = self.node.checked_seconds(timeout)
        except RaftError as error:
            return fail(error)
        return Deferred.fromCoroutine(change(seconds))

    async def found(self, members: Members, timeout_seconds: float) -> None:
        """Found a cluster of `members`, and wait until a majority has agreed."""
        server = self.node.shell.server
        self.node.members.found(members)
        await self._wait(
            lambda: server.commit_index >= server.log.configuration_index > 0,
            self.node.clock() + timeout_seconds,
            "no majority of the members answered yet; the node goes on trying",
        )

    async def change(
        self, edit: Edit, timeout_seconds: float, expected_index: int | None, force: bool
    ) -> None:
        """Let `edit` make the members that shall be, and wait until they are.

        Where the configuration changes before this change has begun, `edit` is asked again.
        """
        deadline = self.node.clock() + timeout_seconds
        accepted: out.Accepted | None = None
        while accepted is None:
            await self._wait(
                self._may_begin, deadline, "the configuration before is not committed yet"
            )
            log = self.node.shell.server.log
            if expected_index not in (None, log.configuration_index):
                raise ConfigurationInProgress(
                    f"expected_index is {expected_index}, but the configuration is entry "
                    f"{log.configuration_index}; look again, then decide again"
                )
            before = log.configuration.members
            members = edit(before)
            check_members(members)
            _refuse_others(before, members)
            if _bare(members) == _bare(before):
                return
            accepted = await self._ask(members, log.configuration_index, force, deadline)
        await self._complete(accepted, members, deadline)

    async def _complete(self, begun: out.Accepted, wanted: Members, deadline: float) -> None:
        try:
            await self._wait(
                lambda: self._ended(begun, wanted),
                deadline,
                "the change is under way and goes on; `status` shows how far it is",
                appended=True,
            )
        except (NodeStopped, NodeFailed) as error:
            raise OutcomeUnknown("the node stopped while the change was under way") from error

    def _may_begin(self) -> bool | RaftError:
        server = self.node.shell.server
        leader, configuration = server.state, server.configuration
        if not isinstance(leader, Leader):
            return refusal(server, out.Refusal.NOT_LEADER)
        if leader.transfer is not None:
            return refusal(server, out.Refusal.TRANSFER_IN_PROGRESS)
        if configuration.is_joint or configuration.target:
            return refusal(server, out.Refusal.CHANGE_IN_PROGRESS)
        # Otherwise it is a matter of one round: an election, or members that are pinned.
        return membership.may_change(server) and membership.knows_who_lives(server)

    async def _ask(
        self, members: Members, index: int, force: bool, deadline: float
    ) -> out.Accepted | None:
        """Return what the core answers, or None where it should be asked again."""
        shell = self.node.shell
        answered = shell.change(members, index, force)
        await self._wait(lambda: answered, deadline, "no answer", appended=True)
        answer = answered[0]
        if isinstance(answer, out.Accepted):
            return answer
        # Incarnations were pinned in the same turn, or this node was elected anew meanwhile.
        overtaken = shell.server.log.configuration_index != index
        early = answer.reason is out.Refusal.CHANGE_IN_PROGRESS
        if (overtaken or early) and self._may_begin() in (True, False):
            # Nobody else's change is under way.
            return None
        raise refusal(shell.server, answer.reason)

    def _ended(self, begun: out.Accepted, wanted: Members) -> bool | RaftError:
        """Tell whether the change is complete; return the error with which it ended otherwise."""
        shell = self.node.shell
        server, log = shell.server, shell.server.log
        is_compacted = begun.start < log.first_index - 1
        if not is_compacted and not log.matches(begun.start, begun.term):
            return Superseded()
        index, configuration = log.configuration_at(server.commit_index)
        if index < begun.start or configuration.is_joint or configuration.target:
            return False
        if _bare(configuration.members) == _bare(wanted):
            return True
        abandoned = shell.abandoned
        if abandoned and begun.start < abandoned.index <= index:
            return ConfigurationAbandoned(abandoned.server, abandoned.reason)
        return OutcomeUnknown("the members are others by now; `status` shows them")

    def _wait(
        self, done: Callable[[], Any], deadline: float, otherwise: str, appended: bool = False
    ) -> Deferred[Any]:
        seconds = max(0.0, deadline - self.node.clock())
        return self.node.waiters.wait(done, seconds, otherwise, appended)


def _bare(members: Members) -> set[Member]:
    """Return what a caller can ask for: incarnations are pinned meanwhile."""
    return {evolve(member, incarnation="") for member in members}


def _refuse_others(before: Members, members: Members) -> None:
    known = {member.id: member.incarnation for member in before}
    for member in members:
        if known.get(member.id, "") not in ("", member.incarnation):
            raise BadConfiguration(
                f"member {member.id!r}: its incarnation is {known[member.id]}, not "
                f"{member.incarnation}; remove it first, then add it again"
            )
