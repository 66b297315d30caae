"""Edits of a cluster's members: what they are now and what is wanted make what they shall be.

Pure functions, for the node and for whoever asks it from outside. Addresses that are not given
stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable

from attrs import evolve

from raft.core.configuration import Member
from raft.errors import BadConfiguration, NotFound

Members = tuple[Member, ...]


def merged(members: Members, given: Iterable[Member]) -> Members:
    """Return `members` with those `given` added or updated; none is removed."""
    wanted = {member.id: member for member in members}
    for member in given:
        known = wanted.get(member.id)
        wanted[member.id] = _updated(known, member) if known else member
    return tuple(wanted.values())


def exactly(members: Members, given: Iterable[Member]) -> Members:
    """Return those `given` and no others; what is not said of those in `members` is kept."""
    known = {member.id: member for member in members}
    return tuple(
        _updated(known[member.id], member) if member.id in known else member for member in given
    )


def with_learner(members: Members, learner: Member) -> Members:
    """Return `members` with one more that gets the log and never votes.

    Raises:
        BadConfiguration: it is a voter, which this would quietly make less.
    """
    if any(member.id == learner.id and member.voter for member in members):
        raise BadConfiguration(f"{learner.id!r} is a voter already")
    return merged(members, [evolve(learner, voter=False)])


def promoted(members: Members, id: str) -> Members:
    """Return `members` with `id` as a voter.

    Raises:
        NotFound: it is none of them.
    """
    return merged(members, [evolve(_found(members, id), voter=True)])


def without(members: Members, id: str) -> Members:
    """Return `members` without `id`.

    Raises:
        NotFound: it is none of them.
    """
    gone = _found(members, id)
    return tuple(member for member in members if member is not gone)


def replaced(members: Members, old: str, new: Member) -> Members:
    """Return `members` with `new` in the place of `old`: it votes where that voted.

    Raises:
        NotFound: `old` is none of them.
        BadConfiguration: `new` has the same id.
    """
    gone = _found(members, old)
    if new.id == old:
        raise BadConfiguration(
            f"{old!r} cannot replace itself: an id comes back only after it was removed; "
            "remove it, then add it, or give the new server another id"
        )
    return merged(without(members, old), [evolve(new, voter=gone.voter)])


def _updated(known: Member, given: Member) -> Member:
    return evolve(
        given,
        incarnation=given.incarnation or known.incarnation,
        peer_address=given.peer_address or known.peer_address,
        client_address=given.client_address or known.client_address,
    )


def _found(members: Members, id: str) -> Member:
    for member in members:
        if member.id == id:
            return member
    names = ", ".join(member.id for member in members)
    raise NotFound(f"no member is called {id!r}; members are {names}")
