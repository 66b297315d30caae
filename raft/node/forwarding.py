"""Passing writes on to the leader, for nodes that are set to do so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from attrs import define
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from raft.errors import NotAppended, OutcomeUnknown, RaftError
from raft.interfaces import Answer
from raft.transport.arguments import pack_results
from raft.transport.calls import ClientConnection, dial

HOP_SECONDS = 0.05
"""What each hop takes off the time-out: two nodes that each think the other leads end soon."""


@define(eq=False)
class Forwarder:
    """One connection to the present leader's client address, made when it is needed."""

    reactor: Any
    _address: str = ""
    _connection: Deferred[ClientConnection] | None = None

    def write_batch(
        self, address: str | None, commands: list[bytes], timeout_seconds: float, answer: Answer
    ) -> None:
        """Write to the node at `address`; whatever it answers is the answer."""
        left = timeout_seconds - HOP_SECONDS
        if not address or left <= 0:
            answer(NotAppended("the leader cannot be reached from here in time"))
            return
        timeout_ms = max(1, int(left * 1000))
        written = self._connected(address).addCallback(
            lambda connection: connection.write_batch(commands, timeout_ms)
        )
        written.addCallbacks(
            lambda results: answer(pack_results([_packed(result) for result in results])),
            lambda failure: answer(_error(failure)),
        )

    def _connected(self, address: str) -> Deferred[ClientConnection]:
        if self._connection is None or self._address != address:
            self.close()
            self._address = address
            self._connection = dial(self.reactor, address)
            self._connection.addCallback(self._watch)
        waiting: Deferred[ClientConnection] = Deferred()
        self._connection.addCallbacks(
            lambda connection: _pass(waiting.callback, connection),
            lambda failure: self._not_connected(waiting, failure),
        )
        return waiting

    def _watch(self, connection: ClientConnection) -> ClientConnection:
        connection.lost.addCallback(lambda _: self._forget(connection))
        return connection

    def _forget(self, connection: ClientConnection) -> None:
        if self._connection is not None and self._connection.called:
            self._connection = None

    def _not_connected(self, waiting: Deferred[ClientConnection], failure: Failure) -> None:
        self._connection = None
        waiting.errback(failure)

    def close(self) -> None:
        """Close the connection; what is outstanding ends with its own outcome."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        connection.addCallbacks(lambda open_one: open_one.close(), lambda _: None)
        connection.cancel()


def _pass(call: Callable[[ClientConnection], object], value: ClientConnection) -> ClientConnection:
    call(value)
    return value


def _packed(result: Any) -> bytes | RaftError:
    return result if isinstance(result, RaftError) else msgspec.msgpack.encode(result)


def _error(failure: Failure) -> RaftError:
    error = failure.value
    return error if isinstance(error, RaftError) else OutcomeUnknown(type(error).__name__)
