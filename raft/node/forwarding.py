"""Passing on to the leader what only it can write, for nodes that are set to do so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from attrs import Factory, define
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from raft.errors import NotAppended, OutcomeUnknown, Overloaded, RaftError, Timeout
from raft.interfaces import Stated, StatedAnswer
from raft.numbering import SessionCall
from raft.transport.arguments import pack_results
from raft.transport.calls import ClientConnection, Results
from raft.transport.dialling import dial

HOP_SECONDS = 0.05
"""What each hop takes off the time-out: two nodes that each think the other leads end soon."""
DIAL_SECONDS = 2.0
WAITING_BYTES = 16 << 20
"""What may wait for a connection that is being made."""


T = TypeVar("T")


@define(eq=False)
class Forwarded:
    """A question on its way to another node.

    `ask` asks it over a connection, with so many milliseconds left; `refuse` takes the error
    where it cannot be asked. `deadline` is in monotonic seconds.
    """

    size_bytes: int
    deadline: float
    ask: Callable[[ClientConnection, int], object]
    refuse: Callable[[RaftError], object]
    timer: Any = None


@define(eq=False)
class Forwarder:
    """One connection to the present leader's client address, made when it is needed."""

    reactor: Any
    clock: Callable[[], float]
    _address: str = ""
    _connection: ClientConnection | None = None
    _dialling: Deferred[None] | None = None
    _waiting: list[Forwarded] = Factory(list)

    def write_batch(
        self,
        address: str | None,
        commands: list[bytes],
        timeout_seconds: float,
        answer: StatedAnswer,
        with_index: bool = False,
        session: SessionCall | None = None,
    ) -> None:
        """Write to the node at `address`; whatever it answers is the answer."""

        def ask(connection: ClientConnection, timeout_ms: int) -> None:
            connection.write_batch(commands, timeout_ms, with_index, session).addCallbacks(
                lambda results: answer(_stated(results)),
                lambda failure: answer(_error(failure)),
            )

        self._pass_on(address, timeout_seconds, sum(map(len, commands)), ask, answer)

    def question(
        self,
        address: str | None,
        timeout_seconds: float,
        ask: Callable[[ClientConnection, int], Deferred[T]],
    ) -> Deferred[T]:
        """Let `ask` ask the node at `address`; fires, or fails, with its answer."""
        asked: Deferred[T] = Deferred()

        def asking(connection: ClientConnection, timeout_ms: int) -> None:
            ask(connection, timeout_ms).addCallbacks(
                lambda answer: None if asked.called else asked.callback(answer),
                lambda failure: refuse(_error(failure)),
            )

        def refuse(error: RaftError) -> None:
            # Who cancelled has been told already.
            if not asked.called:
                asked.errback(error)

        self._pass_on(address, timeout_seconds, 0, asking, refuse)
        return asked

    def _pass_on(
        self,
        address: str | None,
        timeout_seconds: float,
        size_bytes: int,
        ask: Callable[[ClientConnection, int], object],
        refuse: Callable[[RaftError], object],
    ) -> None:
        left = timeout_seconds - HOP_SECONDS
        if not address or left <= 0:
            refuse(NotAppended("the leader cannot be reached from here in time"))
            return
        if address != self._address:
            self.close()
            self._address = address
        question = Forwarded(size_bytes, self.clock() + left, ask, refuse)
        if self._connection is not None:
            self._ask(self._connection, question)
        elif size_bytes + sum(each.size_bytes for each in self._waiting) > WAITING_BYTES:
            refuse(Overloaded("the connection with the leader is not made yet"))
        else:
            self._wait(question, left)

    def _wait(self, question: Forwarded, seconds: float) -> None:
        question.timer = self.reactor.callLater(seconds, self._expire, question)
        self._waiting.append(question)
        if self._dialling is None:
            dialled = dial(self.reactor, self._address, DIAL_SECONDS)
            # Whoever closes meanwhile cancels it, and both are told.
            self._dialling = dialling = dialled.addCallbacks(self._connected, self._failed)
            if dialling.called:
                self._dialling = None

    def _expire(self, question: Forwarded) -> None:
        self._waiting.remove(question)
        question.refuse(Timeout(False, "the connection with the leader was not made in time"))

    def _taken(self) -> list[Forwarded]:
        taken, self._waiting = self._waiting, []
        for question in taken:
            question.timer.cancel()
        return taken

    def _connected(self, connection: ClientConnection) -> None:
        self._dialling = None
        self._connection = connection
        connection.lost.addCallback(lambda _: self._lost(connection))
        for question in self._taken():
            self._ask(connection, question)

    def _failed(self, failure: Failure) -> None:
        self._dialling = None
        for question in self._taken():
            question.refuse(NotAppended(f"the leader cannot be reached from here: {failure.value}"))

    def _lost(self, connection: ClientConnection) -> None:
        if self._connection is connection:
            self._connection = None

    def _ask(self, connection: ClientConnection, question: Forwarded) -> None:
        timeout_ms = max(1, int((question.deadline - self.clock()) * 1000))
        question.ask(connection, timeout_ms)

    def close(self) -> None:
        """Close the connection; what is outstanding ends with its own outcome."""
        connection, self._connection = self._connection, None
        dialling, self._dialling = self._dialling, None
        self._address = ""
        if dialling is not None:
            dialling.cancel()
        if connection is not None:
            connection.close()


def _stated(results: Results) -> bytes | Stated:
    packed = pack_results([_packed(each) for each in results])
    return Stated(packed, results.last_index) if results.last_index else packed


def _packed(result: Any) -> bytes | RaftError:
    return result if isinstance(result, RaftError) else msgspec.msgpack.encode(result)


def _error(failure: Failure) -> RaftError:
    error = failure.value
    return error if isinstance(error, RaftError) else OutcomeUnknown(type(error).__name__)
