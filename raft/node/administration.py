"""The part of a node's Deferred API that changes who the members are."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from twisted.internet.defer import Deferred

from raft import members as edits
from raft.core.configuration import Member
from raft.errors import NotAppended
from raft.node.changes import Changes, Edit

CHANGE_SECONDS = 60.0
"""How long a change may take where the caller does not say: a newcomer has to catch up first."""


class Administration:
    """Changes of the members, at the leader; all on a running cluster, under load.

    Every change is one of the whole configuration, and fires once the last of its steps is
    committed. Newcomers that are to vote are learners until they have caught up. All fail so:

        NotLeader, ElectionInProgress: this node does not lead. Nothing was done.
        ConfigurationInProgress: another change is under way, or the configuration is not the
            expected one. Nothing was done.
        NotAppended: this node belongs to no cluster, and an index was expected. Nothing was done.
        BadConfiguration: the members make no cluster, or would leave it without a majority
            that is alive. Nothing was done.
        ConfigurationAbandoned: a newcomer did not catch up, or too few of the voters that
            were to be were heard. The members are those before.
        Superseded: another leader's entry stands in its place. The members are those before.
        Timeout: `appended` says whether the change is under way, and goes on.
        OutcomeUnknown: the node stopped, or others have changed the members since.

    Cancelling forgets the caller. A change that has begun goes on.
    """

    changes: Changes

    def set_configuration(
        self,
        members: Sequence[Member],
        timeout: float = CHANGE_SECONDS,
        *,
        replace: bool = False,
        expected_index: int | None = None,
        force: bool = False,
    ) -> Deferred[None]:
        """Add or update `members`; with `replace`, make them the cluster, and nobody else.

        An empty node founds a cluster of `members` and mints its id; members that are empty
        join as soon as the leader reaches them.

        Args:
            members: the same id updates a member. Addresses that are empty stay as they are.
            timeout: seconds.
            replace: remove all others.
            expected_index: the index of the configuration from which the caller computed the
                members (`configuration_index` in the status); another one is refused.
            force: begin even where too few of the voters that are to be are heard.

        Raises (as failures):
            BadConfiguration: what is to be founded makes no cluster.
            RaftError: see the class.
        """
        given = tuple(members)

        async def change(seconds: float) -> None:
            if self.changes.is_empty:
                if expected_index:
                    # The cluster is elsewhere: whoever asks goes on to its leader.
                    raise NotAppended(
                        f"this node belongs to no cluster yet, so it has no configuration "
                        f"{expected_index}: ask a member"
                    )
                await self.changes.found(given, seconds)
            else:
                edit = partial(edits.exactly if replace else edits.merged, given=given)
                await self.changes.change(edit, seconds, expected_index, force)

        return self.changes.begin(change, timeout)

    def add(self, member: Member, timeout: float = CHANGE_SECONDS) -> Deferred[None]:
        """Add a voter: a learner at first, promoted once it has caught up."""
        return self.set_configuration([member], timeout)

    def add_learner(self, member: Member, timeout: float = CHANGE_SECONDS) -> Deferred[None]:
        """Add a server that gets the log and never votes, until somebody promotes it."""
        return self._edit(partial(edits.with_learner, learner=member), timeout)

    def promote(self, id: str, timeout: float = CHANGE_SECONDS) -> Deferred[None]:
        """Let the learner `id` vote, once it has caught up; `NotFound` where it is no member."""
        return self._edit(partial(edits.promoted, id=id), timeout)

    def remove(self, id: str, timeout: float = CHANGE_SECONDS) -> Deferred[None]:
        """Remove the member `id`; `NotFound` where it is none.

        A leader that removes itself hands the leadership over once that is committed.
        """
        return self._edit(partial(edits.without, id=id), timeout)

    def replace(self, old: str, new: Member, timeout: float = CHANGE_SECONDS) -> Deferred[None]:
        """Let `new` join, and remove `old` in the same step as `new` gets its vote."""
        return self._edit(partial(edits.replaced, old=old, new=new), timeout)

    def _edit(self, edit: Edit, timeout: float) -> Deferred[None]:
        return self.changes.begin(
            lambda seconds: self.changes.change(edit, seconds, None, False), timeout
        )
