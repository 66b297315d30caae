"""Operators who change the members of the cluster at random moments, whatever goes wrong."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from attrs import Factory, define, evolve, field

from raft.core.configuration import Member
from raft.core.outputs import Role
from raft.testing.cores.members import votes
from raft.testing.cores.swarm import Swarm
from raft.testing.cores.timeline import Timeline

if TYPE_CHECKING:
    from raft.core.configuration import Configuration
    from raft.testing.cores.model_node import ModelNode
    from raft.testing.cores.workload import Workload

KINDS = ("join", "remove", "remove leader", "replace", "flip", "anything", "anything")


@define(eq=False)
class Changes:
    """Asks for one change after the other, for as long as the chaos lasts."""

    swarm: Swarm
    timeline: Timeline
    workload: Workload
    nodes: dict[str, ModelNode] = Factory(dict)
    active: bool = False
    _rng: random.Random = field(init=False)

    def __attrs_post_init__(self) -> None:
        """Draw the operators' own chance."""
        self._rng = random.Random(f"{self.swarm.seed}/changes")

    def start(self) -> None:
        """Begin to change the members, in worlds that do."""
        self.active = bool(self.swarm.change_seconds)
        self._later()

    def stop(self) -> None:
        """Ask for no more changes; the one under way goes on."""
        self.active = False

    def _later(self) -> None:
        if self.active:
            delay = self._rng.expovariate(1 / self.swarm.change_seconds)
            self.timeline.after(delay, self._ask)

    def _ask(self) -> None:
        if not self.active:
            return
        self._later()
        rng = self._rng
        up = [node for node in self.nodes.values() if node.up]
        leading = [node for node in up if node.role is Role.LEADER]
        if not up or self.timeline.now < self.workload.silent_until:
            return
        self.ask_of(rng.choice(leading if leading and rng.random() < 0.9 else up))

    def ask_of(self, node: ModelNode) -> None:
        """Ask `node` for one change, perhaps for servers that will never be heard."""
        rng = self._rng
        known = node.server.log.configuration_index
        expected = rng.choices((None, known, known - 1), (70, 25, 5))[0]
        members = self._target(node)
        if members:
            force = self.active and rng.random() < 0.15 and not self.swarm.wipes
            self.workload.change(node, members, expected, force=force)

    def allows(self, node: ModelNode, members: tuple[Member, ...]) -> bool:
        """Tell whether an operator who knows who lost a directory could ask `node` for these."""
        present = node.server.configuration.ids
        named = [self.nodes.get(member.id) for member in members]
        return bool(named) and all(
            each is not None
            and not (each.is_lost or each.is_shut_out if each.id in present else False)
            and (each.id in present or self._may_join(each))
            for each in named
        )

    def _may_join(self, newcomer: ModelNode) -> bool:
        """Tell whether a server may be named as a member.

        One that lost its directory may under its old id unless a log says that it voted before
        its incarnation was known: it would believe, for a while, that it still does.
        """
        if not newcomer.lost_disks:
            return True
        known = [
            configuration
            for node in self.nodes.values()
            for configuration in node.disk.configurations()
        ]
        return not newcomer.is_lost and not any(
            votes(each, newcomer.id) and not _is_pinned(each, newcomer.id) for each in known
        )

    def _target(self, node: ModelNode) -> tuple[Member, ...]:
        """Return who is to be the cluster, from who is it in the eyes of `node`."""
        rng = self._rng
        members = {member.id: member for member in node.server.configuration.members}
        useful = sorted(node.id for node in self.nodes.values() if self._may_join(node))
        strangers = [id for id in useful if id not in members]
        gone = [node for node in self.nodes.values() if node.is_lost or node.is_shut_out]
        if any(node.id in members for node in gone):
            # What cannot come back must leave first: it counts for majorities.
            return tuple(each for each in members.values() if self.nodes[each.id] not in gone)
        kind = rng.choice(KINDS)
        if kind == "anything" and not useful:
            # Everybody lost a directory: there is nobody whom a change could name.
            return ()
        if kind == "anything":
            chosen = rng.sample(useful, rng.randint(1, len(useful)))
            return tuple(Member(id, voter=rng.random() < 0.75) for id in chosen)
        if kind in ("remove", "replace") and members:
            del members[rng.choice(sorted(members))]
        elif kind == "remove leader":
            members.pop(node.id, None)
        elif kind == "flip" and members:
            flipped = rng.choice(sorted(members))
            members[flipped] = evolve(members[flipped], voter=not members[flipped].voter)
        if kind in ("join", "replace") and strangers:
            newcomer = rng.choice(strangers)
            members[newcomer] = Member(newcomer, voter=rng.random() < 0.8)
        return tuple(members.values())


def _is_pinned(configuration: Configuration, id: str) -> bool:
    """Tell whether `configuration` knows the incarnation of the server `id`."""
    member = configuration.member(id)
    return member is not None and bool(member.incarnation)
