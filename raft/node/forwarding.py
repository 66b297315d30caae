"""Passing writes on to the leader, for nodes that are set to do so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from attrs import Factory, define
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from raft.errors import NotAppended, OutcomeUnknown, Overloaded, RaftError, Timeout
from raft.interfaces import Stated, StatedAnswer
from raft.transport.arguments import pack_results
from raft.transport.calls import ClientConnection, Results, dial

HOP_SECONDS = 0.05
"""What each hop takes off the time-out: two nodes that each think the other leads end soon."""
DIAL_SECONDS = 2.0
WAITING_BYTES = 16 << 20
"""What may wait for a connection that is being made."""


@define(eq=False)
class Forwarded:
    """A batch on its way to another node."""

    commands: list[bytes]
    deadline: float
    answer: StatedAnswer
    with_index: bool = False
    timer: Any = None

    @property
    def size_bytes(self) -> int:
        """The size of its commands."""
        return sum(map(len, self.commands))


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
    ) -> None:
        """Write to the node at `address`; whatever it answers is the answer."""
        left = timeout_seconds - HOP_SECONDS
        if not address or left <= 0:
            answer(NotAppended("the leader cannot be reached from here in time"))
            return
        if address != self._address:
            self.close()
            self._address = address
        batch = Forwarded(commands, self.clock() + left, answer, with_index)
        if self._connection is not None:
            self._ask(self._connection, batch)
        elif batch.size_bytes + sum(each.size_bytes for each in self._waiting) > WAITING_BYTES:
            answer(Overloaded("the connection with the leader is not made yet"))
        else:
            self._wait(batch, left)

    def _wait(self, batch: Forwarded, seconds: float) -> None:
        batch.timer = self.reactor.callLater(seconds, self._expire, batch)
        self._waiting.append(batch)
        if self._dialling is None:
            dialled = dial(self.reactor, self._address, DIAL_SECONDS)
            # Whoever closes meanwhile cancels it, and both are told.
            self._dialling = dialling = dialled.addCallbacks(self._connected, self._failed)
            if dialling.called:
                self._dialling = None

    def _expire(self, batch: Forwarded) -> None:
        self._waiting.remove(batch)
        batch.answer(Timeout(False, "the connection with the leader was not made in time"))

    def _taken(self) -> list[Forwarded]:
        taken, self._waiting = self._waiting, []
        for batch in taken:
            batch.timer.cancel()
        return taken

    def _connected(self, connection: ClientConnection) -> None:
        self._dialling = None
        self._connection = connection
        connection.lost.addCallback(lambda _: self._lost(connection))
        for batch in self._taken():
            self._ask(connection, batch)

    def _failed(self, failure: Failure) -> None:
        self._dialling = None
        for batch in self._taken():
            batch.answer(NotAppended(f"the leader cannot be reached from here: {failure.value}"))

    def _lost(self, connection: ClientConnection) -> None:
        if self._connection is connection:
            self._connection = None

    def _ask(self, connection: ClientConnection, batch: Forwarded) -> None:
        timeout_ms = max(1, int((batch.deadline - self.clock()) * 1000))
        connection.write_batch(batch.commands, timeout_ms, batch.with_index).addCallbacks(
            lambda results: batch.answer(_stated(results)),
            lambda failure: batch.answer(_error(failure)),
        )

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
