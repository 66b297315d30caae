"""After healing: a change of the members ends, one more succeeds, and who is out knows it.

L6: what was under way when the troubles ended comes to its target or is taken back, and a server
that is let in then becomes a voter. M6: each server that is up and no member any more says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from attrs import define

from raft.testing.cores.swarm import TIMEOUT_SECONDS
from raft.testing.whole.host import Host
from raft.testing.whole.world import World

CHANGE_SECONDS: Final = 60 * TIMEOUT_SECONDS
"""How long a change may take, beside twice the time in which a newcomer must keep up."""
REMOVAL_SECONDS: Final = 15.0
"""Until a server that was removed has dialled a member that tells it so."""
POLL_SECONDS: Final = TIMEOUT_SECONDS / 10


@define(eq=False)
class Settling:
    """Waits until the members of one world stand.

    Attributes:
        healthy: who has lost nothing.
        violated: ends the run by a rule and a reason.
    """

    world: World
    healthy: list[Host]
    violated: Callable[[str, str], None]

    def run(self) -> None:
        """Await the end of what is under way; let one more server join; look at who is out."""
        if not self.world.swarm.change_seconds:
            return
        self._await_settled()
        self._let_in()
        self._await_settled()
        self._await_removed()

    @property
    def _limit_seconds(self) -> float:
        swarm = self.world.swarm
        backlog_seconds = 60.0 if swarm.is_throttled else 0.0
        return CHANGE_SECONDS + 2 * swarm.options.join_timeout_seconds + backlog_seconds

    def _await(self, is_so: Callable[[], bool], seconds: float, rule: str, reason: str) -> None:
        world, begun, reached = self.world, self.world.timeline.now, -1
        while not is_so():
            saved = self._saved_entries()
            if world.swarm.is_throttled and saved > reached:
                # A crowd's entries stand before the change, and are sent one at a time.
                begun, reached = world.timeline.now, saved
            if world.timeline.now - begun > seconds:
                self.violated(rule, f"{reason} in {seconds:.1f} s: {world.configuration()}")
            world.run(POLL_SECONDS)

    def _saved_entries(self) -> int:
        return sum(host.server.log.saved_index for host in self.healthy if host.is_serving)

    def _await_settled(self) -> None:
        """L6: the members are at their target, or where the change began."""
        self._await(self._is_settled, self._limit_seconds, "L6", "no end of a change")

    def _is_settled(self) -> bool:
        world = self.world
        leader = world.agreed_leader(self.healthy)
        if leader is None or world.operator.order is not None:
            return False
        server = leader.server
        configuration = server.configuration
        return (
            not (configuration.is_joint or configuration.target)
            and server.log.configuration_index <= server.commit_index
            and configuration.is_voter(leader.id)
        )

    def _let_in(self) -> None:
        """A server that nobody knows joins, in the place of one that lost its directory if any."""
        world, operator = self.world, self.world.operator
        ids = world.configuration().ids
        strangers = [host for host in self.healthy if host.id not in ids]
        if not strangers:
            return
        newcomer, done = strangers[0], operator.done
        lost = [id for id in ids if world.hosts[id].view.is_lost]
        kind, order = ("replace", (lost[0], newcomer.id)) if lost else ("add", (newcomer.id,))
        operator.empty(newcomer)
        # What runs now only later: the troubles are over, and with them what they put off.
        newcomer.start()
        begun = world.timeline.now
        while operator.done == done:
            if operator.order is None:
                left = begun + self._limit_seconds - world.timeline.now
                if left <= 0:
                    self.violated("L6", f"{newcomer.id} did not join in {self._limit_seconds} s")
                operator.give(kind, order, left)
            world.run(POLL_SECONDS)

    def _await_removed(self) -> None:
        """M6: who was a member and is none knows, if anybody whom it knows can tell it."""
        for host in self.healthy:
            self._await(
                lambda host=host: self._knows_its_place(host),  # type: ignore[misc]
                REMOVAL_SECONDS,
                "M6",
                f"{host.id} does not know that it was removed",
            )

    def _knows_its_place(self, host: Host) -> bool:
        configuration = self.world.configuration()
        if host.id in configuration.ids or not host.is_serving or host.service is None:
            return True
        mine, members = host.service.identity.incarnation, host.service.members
        committed = [each.member(host.id) for _, each in self.world.monitors.configurations]
        if not any(member and member.incarnation == mine for member in committed):
            return True
        return members.is_removed or not host.server.configuration.ids & configuration.ids
