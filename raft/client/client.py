"""RaftClient: the way into a cluster from outside."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable
from itertools import count
from typing import Any, Final

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.interfaces import IReactorCore
from twisted.internet.task import Clock
from twisted.logger import Logger

from raft.client.batches import Batch, Wish
from raft.client.checks import checked_addresses, checked_setting, checked_timeout
from raft.client.deadlines import Deadlines
from raft.client.lanes import Hooks, Lane, ReadLane, WriteLane
from raft.client.links import Dial, Link, Links
from raft.client.pinning import OneCluster
from raft.client.probes import Probes
from raft.client.questions import Questions
from raft.client.recording import Recording, Target
from raft.client.rescue import Rescue
from raft.client.search import OF_ITSELF, Search
from raft.client.session import SavedSession, SessionLife
from raft.client.spread import Spread
from raft.codec import PLAIN, Codec
from raft.errors import (
    BadConfiguration,
    NotAppended,
    NotLeader,
    RaftError,
    Timeout,
)
from raft.interfaces import PLAIN_TERMS, Indexed, ReadTerms, Value

LIMIT_BYTES: Final = 16 << 20
"""How much may be without an answer, of writes and of reads each, before `Overloaded`."""


class RaftClient(Questions, Rescue):
    """A cluster's client: finds the leader, follows it, and repeats what has no answer.

    Writes of one client are applied in the order in which they were issued, each exactly once:
    they go within a *session*, in which the cluster knows a command again that is sent for
    the second time, and answers it from memory. So a write is sent again, to whoever
    leads, until there is an answer or its time is over. The session is opened with the first
    write, kept while the client is idle, and ended by `close`.

    With `sessions=False` a write is sent again only while it is definitely not applied, and
    only to its own place in the order: where a later one may have been appended already, its
    error is the answer. A read is always repeated until there is an answer or no time left.

    Everything that is issued in one reactor turn leaves together, and no turn waits for the
    answers of another. Each call has exactly one outcome: see `raft.errors`.

    Cancelling a write that is not sent yet is definite: `NotAppended`, and nothing of it is
    sent. Once it is sent, cancelling undoes nothing: `OutcomeUnknown`, and its answer is
    dropped. A read that is cancelled ends with `CancelledError`.
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
        sessions: bool = True,
        session: SavedSession | None = None,
        monotonic: bool = False,
        spread_reads: bool = False,
        record: Target | None = None,
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
            cluster_id: refuse nodes of any other cluster; empty for the one that is found first.
            allow_plaintext: connect without encryption to other machines than this one.
            codec: the application's types; the cluster's machine uses the same.
            sessions: write within sessions; False for a client that writes once and is gone.
            session: go on with this one, which the application saved before its restart: what
                it repeats now gets the number, and the answer, that it had then.
            monotonic: let no read see an older state than this client has seen or written,
                whichever node answers it, and whatever its consistency.
            spread_reads: let all members answer reads in turn, not the leader alone; those of
                the consistency `lease` still go to the leader.
            record: write what is asked of the key-value store, and what is answered, into this
                file, for `raft check`: a path, or a text file that is open.
            chance: draws the jitter of pauses.
            dial: connects to an address, in place of a real connection.

        Raises:
            BadConfiguration: an address is none, or is refused without `allow_plaintext`; or
                a number is not positive; or `session` is given without `sessions`.
            OSError: the file of `record` cannot be opened.
        """
        addresses = checked_addresses(endpoints, allow_plaintext)
        if reactor is None:
            from twisted.internet import reactor
        self._reactor = reactor
        # A real reactor's seconds are wall time, which may jump; a Clock's are the test's.
        real = IReactorCore.providedBy(reactor) and not isinstance(reactor, Clock)
        self._seconds: Callable[[], float] = time.monotonic if real else reactor.seconds
        self._timeout_seconds = checked_setting("timeout_seconds", timeout_seconds)
        self._connect_seconds = checked_setting("connect_timeout_seconds", connect_timeout_seconds)
        self._encode = codec.encode
        self._chance = chance or random.Random()
        dial = dial or OneCluster(reactor, cluster_id)
        self._links = Links(reactor, dial, allow_plaintext, self._timeout_seconds, self._link_lost)
        self._search = Search(
            reactor, self._seconds, self._links, addresses, self._chance, self._connect_seconds
        )
        self._backoff = self._search.backoff
        self._numbers = count()
        self._deadlines = Deadlines(reactor, self._seconds, lambda batch: batch.lane.expire(batch))
        self._seen: int | None = 0 if monotonic else None
        self._turn: Any = None
        self._pause: Any = None
        self._is_seeking = False
        self._tasks: set[Deferred[Any]] = set()
        self._closed: NotAppended | None = None
        self._make_lanes(limit_bytes, sessions, session)
        self._spread = self._make_spread(limit_bytes, addresses) if spread_reads else None
        self._recording = None if record is None else Recording(record)

    def _make_lanes(self, limit_bytes: int, sessions: bool, session: SavedSession | None) -> None:
        self._probes = Probes(self._reactor, self._seconds, self._watched, self._connect_seconds)
        hooks = self._hooks()
        self._reads = ReadLane(limit_bytes, hooks)
        self._life: SessionLife | None = None
        self._writes = WriteLane(limit_bytes, hooks)
        if sessions:
            self._life = SessionLife(
                self._reactor, hooks, self._search, self._timeout_seconds, limit_bytes, self._run
            )
            self._writes = self._life.lane
        if session is not None:
            if self._life is None:
                raise BadConfiguration("session: it goes with sessions=True")
            self._life.resume(session)

    def _make_spread(self, limit_bytes: int, addresses: list[str]) -> Spread:
        return Spread(
            self._reactor,
            self._hooks(),
            self._links,
            addresses,
            self._chance,
            self._connect_seconds,
            limit_bytes,
            self._run,
        )

    # -- Commands and queries ------------------------------------------------------------

    def write(self, command: object, timeout: float | None = None) -> Deferred[Value]:
        """Replicate and apply `command`, a plain value; fire with the machine's result.

        Args:
            command: what the state machine understands.
            timeout: seconds, in place of `timeout_seconds`.

        Raises (as failures):
            Timeout: `appended` says whether the command may be applied, or is definitely not.
            OutcomeUnknown: it may be applied, or not. Within a session that means that the
                session ended before there was an answer, or that the call was cancelled.
            Overloaded: too much is outstanding.
            Refused: and its leaves, such as `CommandError`: the machine or the node refused it.
        """
        return self._write(command, timeout, self._wish(False))

    def write_indexed(self, command: object, timeout: float | None = None) -> Deferred[Indexed]:
        """Do as `write` does; fires with the result and an index of the log.

        It is that of the command's entry, or of a later one that was written with it. A read
        with that as `min_index`, on any server, sees the write.
        """
        return self._write(command, timeout, self._wish(True))

    def _wish(self, indexed: bool) -> Wish | None:
        return Wish(indexed=indexed) if indexed or self._seen is not None else None

    def _write(self, command: object, timeout: float | None, wish: Wish | None) -> Deferred[Any]:
        try:
            payload = self._encode(command)
            seconds = self._timeout_seconds if timeout is None else checked_timeout(timeout)
        except RaftError as error:
            return fail(error)
        answer = self._writes.add(payload, seconds, wish)
        return answer if self._recording is None else self._recording.command(command, answer)

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

        The leader is asked, or with `spread_reads` one member after the other; it may answer
        `lease`, `local` and `bounded` (of `max_age` seconds) reads alone, from a state that has
        applied `min_index`. See `RaftService.read`.

        Raises (as failures):
            Timeout: there was no answer in time.
            Overloaded: too much is outstanding.
            Refused: and its leaves, such as `CommandError`: the machine or the node refused it.
        """
        return self._read(query, timeout, consistency, min_index, max_age, False)

    def read_indexed(
        self,
        query: object,
        timeout: float | None = None,
        *,
        consistency: str = "",
        min_index: int = 0,
        max_age: float | None = None,
    ) -> Deferred[Indexed]:
        """Do as `read` does; fires with the answer, and the index and age of its state."""
        return self._read(query, timeout, consistency, min_index, max_age, True)

    def _read(
        self,
        query: object,
        timeout: float | None,
        consistency: str,
        min_index: int,
        max_age: float | None,
        indexed: bool,
    ) -> Deferred[Any]:
        try:
            payload = self._encode(query)
            seconds = self._timeout_seconds if timeout is None else checked_timeout(timeout)
            terms = ReadTerms(consistency, min_index, max_age)
            if self._seen is not None:
                terms = evolve(terms, min_index=max(min_index, self._seen))
        except RaftError as error:
            return fail(error)
        answer: Deferred[Any]
        if self._spread is not None and terms.consistency != "lease":
            answer = self._spread.lane.add(payload, seconds, self._spread.wish(terms, indexed))
        else:
            plain = terms == PLAIN_TERMS and not indexed and self._seen is None
            answer = self._reads.add(payload, seconds, None if plain else Wish(terms, indexed))
        if self._recording is None:
            return answer
        return self._recording.query(query, answer, consistency)

    # -- Sessions ------------------------------------------------------------------------

    @property
    def session(self) -> SavedSession | None:
        """What to save before a write, to repeat it after a restart of the application.

        None where there is no session yet, or where commands wait that have no number, so
        that the next one is not certain.
        """
        return self._life.saved if self._life is not None else None

    def open_session(self, timeout: float | None = None) -> Deferred[SavedSession]:
        """Open the session, unless there is one; fires with what `session` tells then.

        Raises (as failures):
            Timeout: there was none in time.
            Overloaded: writes wait already, so that the next number is not certain.
            BadConfiguration: the client has `sessions=False`.
        """
        if self._life is None:
            return fail(BadConfiguration("sessions: there are none with sessions=False"))
        return self._start(timeout, self._life.open)

    def close(self, keep_session: bool = False) -> Deferred[None]:
        """End everything: fire when all connections are closed; calls afterwards fail.

        What is sent ends with `OutcomeUnknown` if it was a write; everything else ends with
        `NotAppended`. The cluster is told that the session is over, within a second, unless
        `keep_session` says that the application will go on with it.
        """
        if self._closed is None:
            self._closed = NotAppended("the client is closed")
            for call in (self._turn, self._pause):
                if call is not None:
                    call.cancel()
            self._turn = self._pause = None
            self._deadlines.stop()
            self._probes.stop()
            for task in list(self._tasks):
                task.cancel()
            self._writes.close(self._closed)
            self._reads.close(self._closed)
            if self._spread is not None:
                self._spread.close(self._closed)
            if self._recording is not None:
                self._recording.close()
            self._ended: Deferred[None] = succeed(None)
            if self._life is not None:
                self._ended = self._life.close(self._links.kept, keep_session)
        closed: Deferred[None] = Deferred()

        def ended(_: None) -> None:
            self._links.close().chainDeferred(closed)

        self._ended.addCallback(ended)
        return closed

    # -- Turns -----------------------------------------------------------------------------

    def _hooks(self) -> Hooks:
        return Hooks(
            begin=self._begin,
            refused=self._refused,
            delivered=self._backoff.reset,
            wake=self._wake,
            filled=self._filled,
            seconds=self._seconds,
            trouble=self._trouble,
            seen=self._note_seen,
            split=self._split,
        )

    def _begin(self, lane: Lane, timeout_seconds: float) -> Batch:
        deadline = self._seconds() + timeout_seconds
        batch = Batch(lane, next(self._numbers), timeout_seconds, deadline)
        self._deadlines.add(batch)
        self._wake()
        return batch

    def _trouble(self) -> RaftError | None:
        return self._search.trouble or (self._life.trouble if self._life is not None else None)

    def _split(self, batch: Batch, count: int) -> Batch:
        rest = batch.split(count, next(self._numbers))
        self._deadlines.add(rest)
        return rest

    def _note_seen(self, index: int) -> None:
        if self._seen is not None and index > self._seen:
            self._seen = index

    def _wake(self) -> None:
        if self._turn is None and self._closed is None:
            self._turn = self._reactor.callLater(0, self._send)

    def _send(self) -> None:
        """Send what was issued in this turn, or look for someone to send it to."""
        self._turn = None
        # What is issued from here on must not slip into a box that is packed already.
        self._writes.open = self._reads.open = None
        if self._spread is not None:
            self._spread.lane.open = None
            self._spread.send()
        link = self._links.kept
        if link is None or not link.usable:
            if self._is_wanted:
                self._seek()
        elif self._pause is None:
            self._writes.send(link)
            self._reads.send(link)
            link.connection.flush()
        if self._probes.timer is None and self._owes:
            self._probes.start()

    def _filled(self, lane: Lane) -> None:
        """Let a box that is full leave before the turn ends, if there is somebody to take it."""
        link = self._links.kept
        is_spread = self._spread is not None and lane is self._spread.lane
        if link is None or not link.usable or self._pause is not None or is_spread:
            return
        if lane.send_full(link):
            link.connection.flush()

    @property
    def _owes(self) -> bool:
        """Whether an answer is owed that is worth looking after its connection."""
        if self._life is not None and self._writes.sent:
            return True
        return self._spread is not None and bool(self._spread.lane.sent)

    def _watched(self) -> list[Link]:
        links = set(self._spread.links) if self._spread is not None else set()
        if self._links.kept is not None:
            links.add(self._links.kept)
        return list(links)

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
        if self._is_wanted or (self._spread is not None and self._spread.lane.wanted):
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
