"""Asking node after node: the search for the leader, and questions that are no batch."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from raft.client.links import Link, Links
from raft.client.route import Backoff, Route
from raft.errors import (
    BadConfiguration,
    ConfigurationAbandoned,
    ConfigurationInProgress,
    ElectionInProgress,
    NodeFailed,
    NotAppended,
    NotApplied,
    NotFound,
    NotLeader,
    OutcomeUnknown,
    Overloaded,
    PeerRefused,
    RaftError,
    StorageFull,
    Timeout,
)
from raft.transport import commands
from raft.transport.arguments import BadValue, unpack_plain

Answer = TypeVar("Answer")
Step = Callable[[Link, float], Awaitable[Answer]]
"""Asks one node, within so many seconds."""

OF_ITSELF: Final = (Overloaded, StorageFull, ConfigurationInProgress, ConfigurationAbandoned)
"""What a leader says of itself: asking it again later is right, asking others is not."""

_UNREACHABLE: Final = (NotApplied, PeerRefused, BadConfiguration)
_UNANSWERED: Final = (NotApplied, NodeFailed, OutcomeUnknown, Timeout)


class Search:
    """Finds who can answer; `links` are shared with the batches."""

    def __init__(
        self,
        reactor: Any,
        seconds: Callable[[], float],
        links: Links,
        addresses: Iterable[str],
        chance: random.Random,
        connect_seconds: float,
    ) -> None:
        """Know the `addresses` to begin with; a small question may take `connect_seconds`.

        `trouble` is why the last step of a search for the leader failed.
        """
        self._reactor = reactor
        self._seconds = seconds
        self._links = links
        self._addresses = list(addresses)
        self._chance = chance
        self._connect_seconds = connect_seconds
        self.route = self._new_route()
        self.backoff = Backoff(chance)
        self.trouble: RaftError | None = None

    async def leader(self, remaining: Callable[[], float]) -> Link:
        """Return a link to the leader; `route` and `backoff` go on from the last search.

        Raises:
            Timeout: nothing remains.
        """

        def goes_on(error: RaftError) -> bool:
            # What one node refuses for good, another may not: only time ends this search.
            self.trouble = error
            return True

        link = await self._walk(self._leads, remaining, self.route, self.backoff, goes_on)
        self.trouble = None
        self.route.new_round()
        self.route.prefer(link.address)
        return link

    async def ask(self, step: Step[Answer], remaining: Callable[[], float]) -> Answer:
        """Ask the leader if it is known, then others, until `step` gives an answer.

        Raises:
            Timeout: nothing remains; its cause is the last error.
            Refused: what a node refused for good.
        """

        def goes_on(error: RaftError) -> bool:
            return isinstance(error, _UNANSWERED)

        return await self._walk(
            step, remaining, self._fresh_route(), Backoff(self._chance), goes_on
        )

    async def order(self, step: Step[Answer], remaining: Callable[[], float]) -> Answer:
        """Ask as `ask` does for something that changes the cluster: at most once.

        Another node is asked only after one that has definitely done nothing.

        Raises:
            RaftError: as `ask`, and whatever leaves the outcome open.
        """

        def goes_on(error: RaftError) -> bool:
            return isinstance(error, NotApplied) and not isinstance(error, OF_ITSELF)

        return await self._walk(
            step, remaining, self._fresh_route(), Backoff(self._chance), goes_on
        )

    async def status(self, server: str | None, remaining: Callable[[], float]) -> dict[str, object]:
        """Return the status of `server`, an id or an address, or of whoever answers."""

        async def step(link: Link, seconds: float) -> dict[str, object]:
            return as_mapping((await self.small(link, commands.Status, seconds))["status"])

        if server is None:
            return await self.ask(step, remaining)
        if ":" not in server:
            server = client_address(server, await self.ask(step, remaining))
        link = await self._links.reach(server, min(remaining(), self._connect_seconds))
        return await step(link, remaining())

    def small(
        self, link: Link, command: type[commands.Question], seconds: float, **arguments: Any
    ) -> Deferred[dict[str, Any]]:
        """Ask a question that every node answers at once, from what it knows."""
        timeout = min(seconds, self._connect_seconds)
        return link.call(self._seconds, command, timeout, **arguments)

    async def _leads(self, link: Link, seconds: float) -> Link:
        answer = await self.small(link, commands.Leader, seconds)
        leader, address = answer["leader"], answer["address"]
        if not leader:
            raise ElectionInProgress()
        # Where nobody knows the leader's address, this node may pass on what it is given.
        if not address or leader == link.server or self._links.is_same(address, link.address):
            return link
        raise NotLeader(leader, address)

    async def _walk(
        self,
        step: Step[Answer],
        remaining: Callable[[], float],
        route: Route,
        backoff: Backoff,
        goes_on: Callable[[RaftError], bool],
    ) -> Answer:
        """Take `step` at node after node, as long as its errors let it go on."""
        last: RaftError | None = None
        while True:
            address = route.next()
            pause = 0.0 if address else backoff.next()
            seconds = remaining()
            if seconds <= pause:
                raise Timeout(False, f"definitely not applied: {_reason(last)}") from last
            if address is None:
                route.new_round()
                await deferLater(self._reactor, pause)
                continue
            try:
                link = await self._links.reach(address, min(seconds, self._connect_seconds))
            except _UNREACHABLE as error:
                self.trouble = last = error
                continue
            try:
                return await step(link, max(remaining(), 0.001))
            except RaftError as error:
                if not goes_on(error):
                    raise
                last = error
                if isinstance(error, NotLeader) and error.address:
                    route.hint(error.address)

    def _new_route(self) -> Route:
        return Route(self._addresses, self._links.canonical)

    def _fresh_route(self) -> Route:
        route = self._new_route()
        if self._links.kept is not None:
            route.hint(self._links.kept.address)
        return route


def as_mapping(packed: bytes) -> dict[str, object]:
    """Return the map that a node answered with.

    Raises:
        NotAppended: it is none; another node may be better.
    """
    try:
        value = unpack_plain(packed)
    except BadValue as error:
        raise NotAppended(f"the answer makes no sense: {error}") from error
    if not isinstance(value, dict):
        raise NotAppended("the answer makes no sense: it is no map")
    return value


def client_address(server: str, status: dict[str, object]) -> str:
    """Return the client address of the member `server` in a node's status.

    Raises:
        NotFound: there is no such member, or none with an address.
    """
    members = status.get("members")
    known = [each for each in members if isinstance(each, dict)] if members else []  # type: ignore[attr-defined]
    for member in known:
        if member.get("id") == server and member.get("client_address"):
            return str(member["client_address"])
    names = ", ".join(str(member.get("id")) for member in known) or "none"
    raise NotFound(f"no member {server!r} with a client address; members are {names}")


def _reason(last: RaftError | None) -> str:
    return f"no node gave an answer; the last one: {last}" if last else "no node gave an answer"
