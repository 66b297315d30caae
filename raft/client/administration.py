"""Changes of single members, from outside: look at the members, then ask for other ones."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

from twisted.internet.defer import Deferred, fail

from raft import members as edits
from raft.client.checks import MEMBER_KEYS, MemberLike, checked_timeout, packed_members
from raft.errors import ConfigurationInProgress, NotApplied, RaftError
from raft.transport.arguments import unpack_members

CHANGE_SECONDS: Final = 60.0
"""How long a change may take where the caller does not say."""

Edit = Callable[[edits.Members], edits.Members]


class Administration:
    """What `RaftClient` offers beyond `set_configuration`, and fails as that does.

    The members are computed from the leader's status and compared by it: who changes them at
    the same time is never overwritten. `NotFound` says that there is no such member.
    """

    _seconds: Callable[[], float]

    @abstractmethod
    def leader(self, timeout: float | None = None) -> Deferred[tuple[str, str]]:
        """Return the leader's id and its client address."""

    @abstractmethod
    def status(
        self, server: str | None = None, timeout: float | None = None
    ) -> Deferred[dict[str, object]]:
        """Return what a node says of itself and its cluster."""

    @abstractmethod
    def set_configuration(
        self,
        members: Iterable[MemberLike],
        timeout: float | None = CHANGE_SECONDS,
        *,
        replace: bool = False,
        expected_index: int | None = None,
        force: bool = False,
    ) -> Deferred[None]:
        """Add or update `members`, or make them the cluster."""

    def add(self, member: MemberLike, timeout: float = CHANGE_SECONDS) -> Deferred[None]:
        """Add a voter: a learner at first, promoted once it has caught up.

        Never founds a cluster: where the order reaches `member` itself, which knows no members
        yet and of which this client may have the address, it is refused.
        """
        return self._given(member, lambda voter: partial(edits.merged, given=[voter]), timeout)

    def add_learner(self, member: MemberLike, timeout: float = CHANGE_SECONDS) -> Deferred[None]:
        """Add a server that gets the log and never votes, until somebody promotes it."""
        return self._given(
            member, lambda learner: partial(edits.with_learner, learner=learner), timeout
        )

    def promote(self, id: str, timeout: float = CHANGE_SECONDS) -> Deferred[None]:
        """Let the learner `id` vote, once it has caught up."""
        return self._edit(partial(edits.promoted, id=id), timeout)

    def remove(self, id: str, timeout: float = CHANGE_SECONDS) -> Deferred[None]:
        """Remove the member `id`."""
        return self._edit(partial(edits.without, id=id), timeout)

    def replace(self, old: str, new: MemberLike, timeout: float = CHANGE_SECONDS) -> Deferred[None]:
        """Let `new` join, and remove `old` in the same step as `new` gets its vote."""
        return self._given(
            new, lambda member: partial(edits.replaced, old=old, new=member), timeout
        )

    def _given(
        self, member: MemberLike, edit_of: Callable[[Any], Edit], timeout: float
    ) -> Deferred[None]:
        try:
            (found,) = unpack_members(packed_members([member]))
        except RaftError as error:
            return fail(error)
        return self._edit(edit_of(found), timeout)

    def _edit(self, edit: Edit, timeout: float) -> Deferred[None]:
        try:
            seconds = checked_timeout(timeout)
        except RaftError as error:
            return fail(error)
        return Deferred.fromCoroutine(self._changed(edit, seconds))

    async def _changed(self, edit: Edit, timeout_seconds: float) -> None:
        deadline = self._seconds() + timeout_seconds

        def left() -> float:
            return max(0.001, deadline - self._seconds())

        seen = -1
        while True:
            _, address = await self.leader(left())
            status = await self.status(address or None, left())
            index = status.get("configuration_index")
            if not isinstance(index, int) or not index:
                raise NotApplied("the node knows no members: it belongs to no cluster yet")
            wanted = edit(members_of(status))
            try:
                await self.set_configuration(wanted, left(), replace=True, expected_index=index)
            except ConfigurationInProgress:
                # Incarnations may just have been pinned, or a follower was asked that is
                # behind. Where nothing is new, another change is under way.
                if index == seen or status.get("target") or status.get("joint"):
                    raise
                seen = index
            else:
                return


def members_of(status: dict[str, object]) -> edits.Members:
    """Return the members in a node's status."""
    rows: Any = status.get("members") or ()
    kept = [{name: row[name] for name in MEMBER_KEYS if name in row} for row in rows]
    return unpack_members(packed_members(kept))
