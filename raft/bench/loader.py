"""One generator of load, as seen from who measures: orders out, answers in."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

from attrs import Factory, define
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXClientEndpoint, connectProtocol
from twisted.internet.error import ConnectError
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from raft.bench.plan import START_SECONDS, Row
from raft.errors import InvariantViolated, Timeout

ANSWER_SECONDS = 60.0
"""How much longer than asked an order may take before the load counts as lost."""
POLL_SECONDS = 0.02


class _Answers(Protocol):
    """One connection to a worker: orders out, answers in."""

    transport: Any

    def __init__(self) -> None:
        self._received = b""
        self._waiting: Deferred[Row] | None = None

    def order(self, order: Row) -> Deferred[Row]:
        """Send an order; fires with its answer."""
        self._waiting = Deferred()
        self.transport.write(json.dumps(order).encode() + b"\n")
        return self._waiting

    def dataReceived(self, data: bytes) -> None:
        """Take an answer, once it is whole."""
        self._received += data
        if self._received.endswith(b"\n") and self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            line, self._received = self._received, b""
            waiting.callback(json.loads(line))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """End who waits: the worker is gone."""
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            waiting.errback(InvariantViolated("the process that puts load on has ended"))


@define(eq=False)
class Loader:
    """One worker, as seen from here; `process` is None for one inside a node."""

    reactor: Any
    path: Path
    pid: int
    process: subprocess.Popen[bytes] | None = None
    _answers: _Answers = Factory(_Answers)

    async def connect(self) -> None:
        """Connect to the worker, which may still be starting.

        Raises:
            Timeout: it does not answer.
        """
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                endpoint = UNIXClientEndpoint(self.reactor, str(self.path))
                await connectProtocol(endpoint, self._answers)
                return
            except ConnectError as error:
                if time.monotonic() > deadline:
                    raise Timeout(False, f"no load generator on {self.path}") from error
            await deferLater(self.reactor, POLL_SECONDS)

    async def order(self, order: Row, seconds: float = 0.0) -> Row:
        """Give an order and return the answer.

        Raises:
            InvariantViolated: the worker failed; the text says how.
        """
        waiting = self._answers.order(order)
        answer = await waiting.addTimeout(seconds + ANSWER_SECONDS, self.reactor)
        if "error" in answer:
            raise InvariantViolated(f"the load failed: {answer['error']}")
        return answer

    def close(self) -> None:
        """Leave the worker, and end it where it is a process of its own."""
        if self._answers.transport is not None:
            self._answers.transport.loseConnection()
        if self.process is not None:
            self.process.kill()
            self.process.wait()
