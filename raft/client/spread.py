"""Reads over all members: any of them may answer, so that they share the work.

A linearizable read is answered by a follower as truly as by the leader: it asks the leader how
far it must be [RULES R8]. So the reads of a turn go to one member and those of the next turn to
the next. One that cannot answer is left alone for a moment, and what it was asked goes elsewhere.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred, DeferredList

from raft.client.batches import Wish
from raft.client.lanes import Hooks, ReadLane
from raft.client.links import Link, Links
from raft.client.route import Backoff
from raft.client.search import as_mapping
from raft.errors import RaftError, Timeout
from raft.interfaces import ReadTerms
from raft.transport import commands

LOOK_SECONDS: Final = 10.0
"""How often, at most, the members are asked for while reads are made and nothing is wrong."""

MISSING_SECONDS: Final = 2.0
"""The same while a member cannot be reached."""

MEMBERS: Final = 32
"""Connections to so many members are kept."""

LINEARIZABLE: Final = ReadTerms("linearizable")


class SpreadLane(ReadLane):
    """Queries that any member may answer."""

    # Whoever is cut off from the leader waits for a state that the others have at once.
    answer_share = 0.4

    def _may_repeat(self, error: RaftError) -> bool:
        return isinstance(error, Timeout) or super()._may_repeat(error)

    def send_over(self, pick: Callable[[], Link | None]) -> list[Link]:
        """Send each batch that waits to whom `pick` says; return to whom."""
        used: list[Link] = []
        self._settle()
        while not self.returned and self.has_waiting:
            link = pick()
            if link is None:
                break
            if self.send_next(link):
                used.append(link)
        return used


class Spread:
    """Keeps connections to the members, and gives each of them its share of a lane of reads."""

    def __init__(
        self,
        reactor: Any,
        hooks: Hooks,
        links: Links,
        addresses: Iterable[str],
        chance: random.Random,
        connect_seconds: float,
        limit_bytes: int,
        run: Callable[[Coroutine[Deferred[Any], Any, None]], Deferred[None]],
    ) -> None:
        """Know `addresses` to begin with; the members are learnt from whoever answers."""
        self.lane = SpreadLane(
            limit_bytes, evolve(hooks, refused=self._refused, trouble=lambda: self._trouble)
        )
        self._reactor = reactor
        self._hooks = hooks
        self._seconds = hooks.seconds
        self._links = links
        self._endpoints = list(addresses)
        self._members: list[str] = []
        self._backoff = Backoff(chance)
        self._connect_seconds = connect_seconds
        self._run = run
        self._ring: list[Link] = []
        self._left_alone: dict[Link, float] = {}
        self._trouble: RaftError | None = None
        self._is_looking = False
        self._look_at = 0.0
        self._timer: Any = None

    @property
    def links(self) -> list[Link]:
        """The connections that reads go over."""
        return self._ring

    def wish(self, terms: ReadTerms, indexed: bool) -> Wish:
        """Return what a read of `terms` wants: any member must take it for its own."""
        if not terms.consistency:
            terms = evolve(terms, consistency="linearizable") if terms.min_index else LINEARIZABLE
        return Wish(terms, indexed)

    def send(self) -> None:
        """Send what was issued in this turn, as far as there is anybody to ask."""
        lane = self.lane
        if not lane.wanted:
            return
        if not self._is_looking and self._seconds() >= self._look_at:
            self._is_looking = True
            self._run(self._look())
        for link in lane.send_over(self._pick):
            link.connection.flush()
        if lane.wanted and self._timer is None:
            times = [self._look_at, *(self._left_alone.get(link, 0.0) for link in self._ring)]
            wait = max(0.01, min(times) - self._seconds())
            self._timer = self._reactor.callLater(wait, self._resume)

    def close(self, error: RaftError) -> None:
        """End every read that has no answer, and wait for nothing any more."""
        self.lane.close(error)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _resume(self) -> None:
        self._timer = None
        self._hooks.wake()

    def _pick(self) -> Link | None:
        """Return the next connection whose node may answer."""
        now, ring = self._seconds(), self._ring
        for _ in range(len(ring)):
            link = ring.pop(0)
            if not link.usable:
                self._left_alone.pop(link, None)
                # Whoever is gone may be back soon, and others may have come.
                self._look_at = min(self._look_at, now + self._backoff.next())
                continue
            ring.append(link)
            if self._left_alone.get(link, 0.0) <= now:
                return link
        return None

    def _refused(self, error: RaftError, link: Link) -> None:
        self._trouble = error
        self._left_alone[link] = self._seconds() + self._backoff.next()
        self._hooks.wake()

    # -- Members -----------------------------------------------------------------------------

    async def _look(self) -> None:
        """Connect to the members, as far as they are known, and learn who they are."""
        try:
            await self._reach_all(self._members or self._endpoints)
            if not self._ring:
                await self._reach_all(self._endpoints)
            members = await self._learn()
            await self._reach_all(self._members)
            self._leave_all_but(members)
        except CancelledError:
            return
        finally:
            self._is_looking = False
            self._look_at = self._seconds() + self._look_pause()
            self._hooks.wake()

    def _look_pause(self) -> float:
        usable = sum(link.usable for link in self._ring)
        if not usable:
            return self._backoff.next()
        known = min(MEMBERS, len(self._members or self._endpoints))
        return LOOK_SECONDS if usable >= known else MISSING_SECONDS

    async def _reach_all(self, addresses: Iterable[str]) -> None:
        known = {self._links.canonical(link.address) for link in self._ring if link.usable}
        new = [each for each in addresses if self._links.canonical(each) not in known]
        room = max(0, MEMBERS - len(known))
        reaching = [Deferred.fromCoroutine(self._reach(address)) for address in new[:room]]
        await DeferredList(reaching, consumeErrors=True)

    async def _reach(self, address: str) -> None:
        try:
            link = await self._links.reach(address, self._connect_seconds)
        except RaftError as error:
            self._trouble = error
            return
        if link not in self._ring:
            self._links.held.add(link)
            self._ring.append(link)
            self._hooks.wake()

    async def _learn(self) -> set[str]:
        """Ask who the members are; return their ids, or none where nobody says it.

        Whoever was removed may not know it: the newest configuration is the one.
        """
        links = [link for link in self._ring if link.usable]
        asking = [Deferred.fromCoroutine(self._members_by(link)) for link in links]
        answers = [told for good, told in await DeferredList(asking, consumeErrors=True) if good]
        _, members = max(answers, key=lambda each: each[0], default=(0, {}))
        valid = [each for each in members.values() if self._links.is_same(each, each)]
        if valid:
            self._members = valid
        return set(members)

    async def _members_by(self, link: Link) -> tuple[int, dict[str, str]]:
        """Return the index of a node's configuration, and its members' addresses by their ids."""
        try:
            answer = await link.call(self._seconds, commands.Status, self._connect_seconds)
            status: Any = as_mapping(answer["status"])
        except RaftError as error:
            self._trouble = error
            return -1, {}
        members = status.get("members") or ()
        found = {str(each["id"]): str(each.get("client_address") or "") for each in members}
        return (int(status.get("configuration_index") or 0) if found else -1), found

    def _leave_all_but(self, members: set[str]) -> None:
        """Ask those no more that are no members: a removed server stands still for ever."""
        gone = [link for link in self._ring if members and link.server not in {"", *members}]
        for link in gone:
            self._ring.remove(link)
            self._links.held.discard(link)
            self._left_alone.pop(link, None)
