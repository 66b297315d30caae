"""Reads that wait at one node, whatever becomes of it, for the history that is judged.

`RaftClient` leaves a node that is silent for a second, and so never hears what that node would
say when it wakes up. These readers stay: who believes too long that it leads is found out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall

from raft.codec import PLAIN
from raft.errors import RaftError
from raft.testing.history import Open, Recorder
from raft.transport.calls import ClientConnection
from raft.transport.dialling import dial

SPACING_SECONDS: Final = 0.05
READ_SECONDS: Final = 3.0
DIAL_SECONDS: Final = 1.0
MOST_WAITING: Final = 40
"""Reads that wait at one node; no more are sent there meanwhile."""


class DirectReader:
    """Reads one key from each of some nodes, again and again, over a connection to each."""

    def __init__(
        self, reactor: Any, addresses: Callable[[], Iterable[str]], key: str, history: Path
    ) -> None:
        """Read `key` from all that `addresses` tells at the time, and write into `history`."""
        self._reactor = reactor
        self._addresses = addresses
        self._key = key
        self._file = history.open("a", encoding="utf-8", buffering=1)
        self._recorder = Recorder(self._file)
        self._query = PLAIN.encode(["get", key])
        self._connections: dict[str, ClientConnection | None] = {}
        self._waiting: dict[str, int] = {}
        self._count = 0
        self._loop = LoopingCall(self._read_all)

    def start(self) -> None:
        """Begin."""
        self._loop.start(SPACING_SECONDS)

    def stop(self) -> None:
        """End: what is still without an answer shows nothing."""
        if self._loop.running:
            self._loop.stop()
        for connection in self._connections.values():
            if connection is not None:
                connection.close()
        self._connections.clear()
        self._recorder.close()
        self._file.close()

    def _read_all(self) -> None:
        for address in self._addresses():
            connection = self._connections.get(address)
            if connection is not None and connection.connected:
                if self._waiting.get(address, 0) < MOST_WAITING:
                    self._read(address, connection)
            elif address not in self._connections or connection is not None:
                self._connections[address] = None
                Deferred.fromCoroutine(self._dial(address))

    async def _dial(self, address: str) -> None:
        try:
            connection = await dial(self._reactor, address, DIAL_SECONDS)
        except RaftError:
            self._connections.pop(address, None)
            return
        if self._loop.running:
            self._connections[address] = connection
        else:
            connection.close()

    def _read(self, address: str, connection: ClientConnection) -> None:
        self._count += 1
        self._waiting[address] = self._waiting.get(address, 0) + 1
        operation = self._recorder.begin(f"direct{self._count}", "get", self._key)
        Deferred.fromCoroutine(self._ask(address, connection, operation))

    async def _ask(self, address: str, connection: ClientConnection, operation: Open) -> None:
        try:
            reading = connection.read_batch([self._query], round(READ_SECONDS * 1000))
            connection.flush()
            (result,) = await reading
        except RaftError as error:
            result = error
        self._waiting[address] -= 1
        if not self._loop.running:
            return
        if isinstance(result, RaftError):
            operation.refused()
        else:
            operation.returned(result)
