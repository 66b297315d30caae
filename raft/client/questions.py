"""Questions that are no batch: about the cluster, and orders to change it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.python.failure import Failure

from raft.client.administration import CHANGE_SECONDS, Administration
from raft.client.checks import MemberLike, checked_timeout, packed_members
from raft.client.links import Link, Links
from raft.client.search import Search, as_mapping
from raft.errors import (
    BadCommand,
    BadConfiguration,
    ElectionInProgress,
    NotAppended,
    OutcomeUnknown,
)
from raft.transport import commands

Answer = TypeVar("Answer")


class Questions(Administration):
    """What `RaftClient` asks beside commands and queries: one question, one answer."""

    _timeout_seconds: float
    _links: Links
    _search: Search
    _tasks: set[Deferred[Any]]
    _closed: NotAppended | None

    # -- Questions about the cluster -----------------------------------------------------

    def leader(self, timeout: float | None = None) -> Deferred[tuple[str, str]]:
        """Return the leader's id and its client address, once a node knows them."""

        async def ask(link: Link, seconds: float) -> tuple[str, str]:
            answer = await self._search.small(link, commands.Leader, seconds)
            if not answer["leader"]:
                raise ElectionInProgress()
            return answer["leader"], answer["address"]

        return self._start(timeout, lambda remaining: self._search.ask(ask, remaining))

    def status(
        self, server: str | None = None, timeout: float | None = None
    ) -> Deferred[dict[str, object]]:
        """Return what a node says of itself and its cluster.

        Args:
            server: a member's id, or a client address; where it is None, the leader if it is
                known already, or else any node.
            timeout: seconds, in place of `timeout_seconds`.

        Raises (as failures):
            NotFound: no member has that id, or the cluster knows no client address of it.
            NotAppended: the server cannot be reached.
            Timeout: there was no answer in time.
        """
        return self._start(timeout, lambda remaining: self._search.status(server, remaining))

    def get_entry(self, index: int, timeout: float | None = None) -> Deferred[dict[str, object]]:
        """Return the committed entry at `index`, as a dict.

        Raises (as failures):
            NotFound: it is not committed, or no longer in the log.
            Timeout: there was no answer in time.
        """

        async def ask(link: Link, seconds: float) -> dict[str, object]:
            answer = await self._search.small(link, commands.GetEntry, seconds, index=index)
            return as_mapping(answer["entry"])

        return self._start(timeout, lambda remaining: self._search.ask(ask, remaining))

    # -- Administration --------------------------------------------------------------------

    def set_configuration(
        self,
        members: Iterable[MemberLike],
        timeout: float | None = CHANGE_SECONDS,
        *,
        replace: bool = False,
        expected_index: int | None = None,
        force: bool = False,
    ) -> Deferred[None]:
        """Add or update `members`, or with `replace` make them the cluster; fire when complete.

        Each is a `Member`, or a mapping of its fields: `id`, and if needed `peer_address`,
        `client_address`, `voter` and `incarnation`. Addresses that are empty stay as they are.

        Args:
            members: see above.
            timeout: seconds; a server that joins has to catch up first.
            replace: remove all others.
            expected_index: `configuration_index` of the status from which the members were
                computed; another one is refused.
            force: begin even where too few of the voters that are to be are heard.

        Raises (as failures):
            BadConfiguration: the members are wrong; the text says what.
            ConfigurationInProgress: another change is not finished, or was made meanwhile.
            ConfigurationAbandoned: the change was taken back; the text says why.
            OutcomeUnknown, Timeout: the change may be under way; ask `status`.
        """
        try:
            packed = packed_members(members)
        except BadConfiguration as error:
            return fail(error)
        given: dict[str, Any] = {"replace": replace, "force": force}
        options: dict[str, Any] = {name: True for name, wanted in given.items() if wanted}
        if expected_index is not None:
            options["expected_index"] = expected_index

        async def ask(link: Link, seconds: float) -> None:
            await self._order(link, commands.SetConfiguration, seconds, members=packed, **options)

        return self._start(timeout, lambda remaining: self._search.order(ask, remaining), True)

    def transfer_leadership(self, target: str = "", timeout: float | None = None) -> Deferred[str]:
        """Hand the leadership to `target`, or to the most up-to-date voter; fire with its id.

        Raises (as failures):
            OutcomeUnknown, Timeout: it may be under way; ask `leader`.
            Refused: and its leaves: `target` cannot lead.
        """

        async def ask(link: Link, seconds: float) -> str:
            answer = await self._order(link, commands.TransferLeadership, seconds, target=target)
            return str(answer["leader"])

        return self._start(timeout, lambda remaining: self._search.order(ask, remaining), True)

    # -- Questions -----------------------------------------------------------------------------

    def _order(
        self, link: Link, command: type[commands.Question], seconds: float, **arguments: Any
    ) -> Deferred[dict[str, Any]]:
        timeout_ms = max(1, int(seconds * 1000))
        return link.call(self._seconds, command, seconds, timeout_ms=timeout_ms, **arguments)

    def _start(
        self,
        timeout: float | None,
        work: Callable[[Callable[[], float]], Coroutine[Deferred[Any], Any, Answer]],
        changes: bool = False,
    ) -> Deferred[Answer]:
        """Begin a question that is no batch; `work` is given the seconds that remain."""
        try:
            seconds = self._timeout_seconds if timeout is None else checked_timeout(timeout)
        except BadCommand as error:
            return fail(error)
        if self._closed is not None:
            return fail(self._closed)
        deadline = self._seconds() + seconds
        return self._run(work(lambda: deadline - self._seconds()), changes)

    def _run(
        self, work: Coroutine[Deferred[Any], Any, Answer], changes: bool = False
    ) -> Deferred[Answer]:
        """Run a coroutine that `close` cancels."""
        task = Deferred.fromCoroutine(work)
        self._tasks.add(task)

        def ended(result: Any) -> Any:
            self._tasks.discard(task)
            self._links.prune()
            if self._closed and isinstance(result, Failure) and result.check(CancelledError):
                raise OutcomeUnknown("the client was closed") if changes else self._closed
            return result

        return task.addBoth(ended)
