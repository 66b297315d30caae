"""RaftClient: the way into a cluster from outside."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from itertools import count
from typing import Any, Final, TypeVar

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.interfaces import IReactorCore
from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.python.failure import Failure

from raft.client.administration import CHANGE_SECONDS, Administration
from raft.client.checks import MemberLike, checked_setting, checked_timeout, packed_members
from raft.client.deadlines import Deadlines
from raft.client.lanes import Batch, Hooks, Lane, ReadLane, WriteLane
from raft.client.links import Dial, Link, Links
from raft.client.rescue import Rescue
from raft.client.search import OF_ITSELF, Search, as_mapping
from raft.codec import PLAIN, Codec
from raft.errors import (
    BadCommand,
    BadConfiguration,
    ElectionInProgress,
    NotAppended,
    NotLeader,
    OutcomeUnknown,
    RaftError,
    Timeout,
)
from raft.interfaces import PLAIN_TERMS, ReadTerms, Value
from raft.transport import commands
from raft.transport.calls import dial as dial_node
from raft.transport.endpoints import require_private

Answer = TypeVar("Answer")

LIMIT_BYTES: Final = 16 << 20
"""How much may be without an answer, of writes and of reads each, before `Overloaded`."""


class RaftClient(Administration, Rescue):
    """A cluster's client: finds the leader, follows it, retries what is safe to retry.

    Writes of one client are appended in the order in which they were issued. A write is sent
    again only while it is definitely not applied, and only to its own place in that order:
    where a later one may have been appended already, its error is the answer. A read is
    repeated until there is an answer or no time left.

    Everything that is issued in one reactor turn leaves together, and no turn waits for the
    answers of another. Each call has exactly one outcome: see `raft.errors`.

    Cancelling a call that is not sent yet is definite, and nothing of it is sent. Once it
    is sent, cancelling undoes nothing: its outcome is unknown and its answer is dropped.
    """

    log = Logger()

    def __init__(
        self,
        endpoints: str | Iterable[str],
        *,
        reactor: Any = None,
        timeout_seconds: float = 3.0,
        connect_timeout_seconds: float = 1.0,
        limit_bytes: int = LIMIT_BYTES,
        cluster_id: str = "",
        allow_plaintext: bool = False,
        codec: Codec = PLAIN,
        chance: random.Random | None = None,
        dial: Dial | None = None,
    ) -> None:
        """Connect to nothing yet.

        Args:
            endpoints: client addresses of some nodes, such as `tcp:127.0.0.1:7001`; the
                others are learnt. One address may be given as it is.
            reactor: the global one where it is None.
            timeout_seconds: how long a call may take that names no time-out of its own.
            connect_timeout_seconds: how long a node may take to answer a connect, or one of
                the small questions with which the leader is found.
            limit_bytes: how much may be without an answer, of writes and of reads each.
            cluster_id: refuse nodes of any other cluster; empty for any.
            allow_plaintext: connect without encryption to other machines than this one.
            codec: the application's types; the cluster's machine uses the same.
            chance: draws the jitter of pauses.
            dial: connects to an address, in place of a real connection.

        Raises:
            BadConfiguration: an address is none, or is refused without `allow_plaintext`; or
                a number is not positive.
        """
        addresses = [endpoints] if isinstance(endpoints, str) else list(endpoints)
        if not addresses:
            raise BadConfiguration("endpoints is empty: give the address of at least one node")
        for address in addresses:
            require_private(address, allow_plaintext)
        if reactor is None:
            from twisted.internet import reactor
        self._reactor = reactor
        # A real reactor's seconds are wall time, which may jump; a Clock's are the test's.
        real = IReactorCore.providedBy(reactor) and not isinstance(reactor, Clock)
        self._seconds: Callable[[], float] = time.monotonic if real else reactor.seconds
        self._timeout_seconds = checked_setting("timeout_seconds", timeout_seconds)
        self._connect_seconds = checked_setting("connect_timeout_seconds", connect_timeout_seconds)
        self._encode = codec.encode
        dial = dial or partial(dial_node, reactor, cluster_id=cluster_id)
        self._links = Links(reactor, dial, allow_plaintext, self._timeout_seconds, self._link_lost)
        self._search = Search(
            reactor,
            self._seconds,
            self._links,
            addresses,
            chance or random.Random(),
            self._connect_seconds,
        )
        self._backoff = self._search.backoff
        self._numbers = count()
        self._deadlines = Deadlines(reactor, self._seconds, lambda batch: batch.lane.expire(batch))
        hooks = self._hooks()
        self._writes, self._reads = WriteLane(limit_bytes, hooks), ReadLane(limit_bytes, hooks)
        self._turn: Any = None
        self._pause: Any = None
        self._is_seeking = False
        self._tasks: set[Deferred[Any]] = set()
        self._closed: NotAppended | None = None

    # -- Commands and queries ------------------------------------------------------------

    def write(self, command: object, timeout: float | None = None) -> Deferred[Value]:
        """Replicate and apply `command`, a plain value; fire with the machine's result.

        Args:
            command: what the state machine understands.
            timeout: seconds, in place of `timeout_seconds`.

        Raises (as failures):
            Timeout: `appended` says whether the command may be applied, or is definitely not.
            OutcomeUnknown: it may be applied, or not: the connection broke, or the leader
                lost its place.
            Overloaded: too much is outstanding.
            Refused: and its leaves, such as `CommandError`: the machine or the node refused it.
        """
        try:
            payload = self._encode(command)
            seconds = self._timeout_seconds if timeout is None else checked_timeout(timeout)
        except RaftError as error:
            return fail(error)
        return self._writes.add(payload, seconds)

    def read(
        self,
        query: object,
        timeout: float | None = None,
        *,
        consistency: str = "",
        min_index: int = 0,
        max_age: float | None = None,
    ) -> Deferred[Value]:
        """Answer `query` from a state that includes every write that had ended before.

        The leader is asked; it may answer `lease`, `local` and `bounded` (of `max_age` seconds)
        reads alone, from a state that has applied `min_index`. See `RaftService.read`.

        Raises (as failures):
            Timeout: there was no answer in time.
            Overloaded: too much is outstanding.
            Refused: and its leaves, such as `CommandError`: the machine or the node refused it.
        """
        try:
            payload = self._encode(query)
            seconds = self._timeout_seconds if timeout is None else checked_timeout(timeout)
            terms = ReadTerms(consistency, min_index, max_age)
        except RaftError as error:
            return fail(error)
        return self._reads.add(payload, seconds, None if terms == PLAIN_TERMS else terms)

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

    def close(self) -> Deferred[None]:
        """End everything: fire when all connections are closed; calls afterwards fail.

        What is sent ends with `OutcomeUnknown` if it was a write; everything else ends with
        `NotAppended`.
        """
        if self._closed is None:
            self._closed = NotAppended("the client is closed")
            for call in (self._turn, self._pause):
                if call is not None:
                    call.cancel()
            self._turn = self._pause = None
            self._deadlines.stop()
            for task in list(self._tasks):
                task.cancel()
            self._writes.close(self._closed)
            self._reads.close(self._closed)
        return self._links.close()

    # -- Turns -----------------------------------------------------------------------------

    def _hooks(self) -> Hooks:
        return Hooks(
            begin=self._begin,
            refused=self._refused,
            delivered=self._backoff.reset,
            wake=self._wake,
            seconds=self._seconds,
            trouble=lambda: self._search.trouble,
        )

    def _begin(self, lane: Lane, timeout_seconds: float) -> Batch:
        deadline = self._seconds() + timeout_seconds
        batch = Batch(lane, next(self._numbers), timeout_seconds, deadline)
        self._deadlines.add(batch)
        self._wake()
        return batch

    def _wake(self) -> None:
        if self._turn is None and self._closed is None:
            self._turn = self._reactor.callLater(0, self._send)

    def _send(self) -> None:
        """Send what was issued in this turn, or look for someone to send it to."""
        self._turn = None
        # What is issued from here on must not slip into a box that is packed already.
        self._writes.open = self._reads.open = None
        link = self._links.kept
        if link is None or not link.usable:
            if self._is_wanted:
                self._seek()
        elif self._pause is None:
            self._writes.send(link)
            self._reads.send(link)
            link.connection.flush()

    @property
    def _is_wanted(self) -> bool:
        return self._writes.wanted or self._reads.wanted

    # -- Following the leader ----------------------------------------------------------------

    def _refused(self, error: RaftError, link: Link) -> None:
        """Decide where, and when, what came back over `link` is sent again."""
        if self._closed is not None:
            return
        if link is not self._links.kept:
            # Another batch of that link was refused before, and has begun the search.
            self._wake()
        elif isinstance(error, OF_ITSELF) and link.usable:
            if self._pause is None:
                self._pause = self._reactor.callLater(self._backoff.next(), self._resume)
        else:
            self._links.kept = None
            route = self._search.route
            route.new_round()
            # Whoever has just refused is not asked at once, even if others think that it leads.
            route.visited(link.address)
            if isinstance(error, NotLeader) and error.address:
                route.hint(error.address)
            self._seek()

    def _resume(self) -> None:
        self._pause = None
        self._wake()

    def _link_lost(self, link: Link) -> None:
        if self._is_wanted:
            self._wake()

    def _seek(self) -> None:
        if not self._is_seeking:
            self._is_seeking = True
            self._run(self._find())

    async def _find(self) -> None:
        """Ask node after node until one says that it leads; then send what waits."""

        def remaining() -> float:
            return math.inf if self._is_wanted else 0.0

        try:
            link = await self._search.leader(remaining)
        except (Timeout, CancelledError):
            # Everything that waited has expired or was cancelled, or the client is closed.
            return
        finally:
            self._is_seeking = False
        self._links.kept = link
        self.log.debug("Following {server} at {address}", server=link.server, address=link.address)
        self._wake()

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
