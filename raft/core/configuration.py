"""Who belongs to the cluster, and what a majority of them is.

A `Configuration` is a value that travels through the log. It knows voters, learners
and, while it changes by joint consensus, the outgoing set of voters: then a majority
of *both* sets is needed for elections, commits and reads [D 4.3]. Every question of
the form "how far has a majority come" is one function, `agreed`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property

from attrs import field, frozen


def _by_id(members: Iterable[Member]) -> tuple[Member, ...]:
    return tuple(sorted(members, key=lambda member: member.id))


def _names(names: Iterable[str]) -> frozenset[str]:
    return frozenset(names)


@frozen
class Member:
    """One server as the configuration knows it [RULES M7].

    A server is its `id` and its `incarnation` (the random name of its data directory,
    empty until first heard). Addresses are endpoint strings and mere data.
    """

    id: str
    incarnation: str = ""
    peer_address: str = ""
    client_address: str = ""
    voter: bool = True


@frozen
class Configuration:
    """The members of the cluster, and where a change under way is heading.

    `outgoing` names the old voters while the configuration is joint. `target` lists the
    members that are to be, while a change needs more than one step: newcomers catch up as
    learners first, and a joint configuration is left for it. Empty when nothing is under
    way. It is in the log, so that any leader finishes what another began [RULES M3].
    """

    members: tuple[Member, ...] = field(default=(), converter=_by_id)
    outgoing: frozenset[str] = field(default=frozenset(), converter=_names)
    target: tuple[Member, ...] = field(default=(), converter=_by_id)

    @cached_property
    def voters(self) -> frozenset[str]:
        """The ids of the (incoming) voters."""
        return frozenset(member.id for member in self.members if member.voter)

    @cached_property
    def ids(self) -> frozenset[str]:
        """The ids of all who must be sent the log: members and outgoing voters."""
        return frozenset(member.id for member in self.members) | self.outgoing

    @cached_property
    def halves(self) -> tuple[frozenset[str], ...]:
        """The sets of voters that must each have a majority: one, or two while joint."""
        return (self.voters, self.outgoing) if self.outgoing else (self.voters,)

    @property
    def is_joint(self) -> bool:
        """Whether old and new voters must both agree."""
        return bool(self.outgoing)

    @property
    def newcomers(self) -> tuple[str, ...]:
        """The ids of those who are to vote and do not yet: they must catch up first."""
        wanted = (member.id for member in self.target if member.voter)
        return tuple(server for server in wanted if not self.is_voter(server))

    def is_voter(self, server: str) -> bool:
        """Tell whether `server` votes, in either half."""
        return server in self.voters or server in self.outgoing

    def member(self, server: str) -> Member | None:
        """Return the member of that id, or None."""
        return self._by_name.get(server)

    @cached_property
    def _by_name(self) -> dict[str, Member]:
        return {member.id: member for member in reversed(self.members)}

    def majority(self, granted: Iterable[str]) -> bool:
        """Tell whether the *set* `granted` holds a majority of each half [RULES E3]."""
        names = frozenset(granted)
        return all(len(half & names) > len(half) // 2 for half in self.halves)

    def agreed(self, reached: Callable[[str], float]) -> float:
        """Return the greatest value that a majority of each half has `reached`.

        With match indexes this is the index that may commit, with times it is when a
        quorum was last heard, with sequences the newest confirmed round. Without
        voters nothing is ever agreed: minus infinity.
        """
        return min((_majority_value(half, reached) for half in self.halves), default=-float("inf"))


def _majority_value(half: frozenset[str], reached: Callable[[str], float]) -> float:
    if not half:
        return -float("inf")
    return sorted(map(reached, half), reverse=True)[len(half) // 2]
