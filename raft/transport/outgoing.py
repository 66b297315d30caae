"""The connection this server dials to one peer, and what waits to be sent over it.

Records too large for one box are cut into fragments. They and the chunks of snapshots are
the bulk, written piece by piece as the transport drains: everything else overtakes it,
heartbeats too. A heartbeat that
builds on the records still under way would be refused, and make the leader
start again: it is sent with the previous entry of those records instead, which is as true
and which the follower has.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from attrs import define, evolve
from twisted.internet import defer
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, connectionDone
from twisted.python.failure import Failure

from raft.core.messages import AppendEntries, Message
from raft.errors import BadConfiguration
from raft.sparing import SparingLog
from raft.transport import wire
from raft.transport.boxes import HANDSHAKE_BOX_BYTES, HANDSHAKE_KEYS, Box, BoxParser
from raft.transport.connection import BoxConnection, Counters
from raft.transport.endpoints import client_endpoint
from raft.transport.greeting import (
    Greeting,
    Identity,
    encode_greeting,
    objection,
    read_greeting,
    tells_outlived,
)

FRAGMENT_BYTES: Final = 256 << 10
"""How much of large records goes into one fragment: what a heartbeat may have to wait for."""
WHOLE_BYTES: Final = 1 << 20
"""Records up to this size travel in one box."""
BOX_OVERHEAD_BYTES: Final = 512
"""What a box takes besides its records, about, for the bound of the queue."""


@define
class _Ordered:
    """A message whose records must arrive before what builds on them; sent up to `offset`."""

    message: AppendEntries
    records: bytes
    offset: int = 0


class Outgoing(BoxConnection):
    """A dialled connection: greets, then only sends.

    Attributes:
        answer: what the other side said of itself, once it has answered well.
    """

    def __init__(
        self,
        peer: str,
        identity: Callable[[], Identity],
        judge: Callable[[Greeting], str | None],
        opened: Callable[[], object],
        greeted: Callable[[], object],
        counters: Counters,
        queue_bytes: int,
        outlived: Callable[[], object] = lambda: None,
    ) -> None:
        """Greet as `identity()` once connected.

        `opened` is called when the connection stands, `greeted` when `peer` has answered well,
        `outlived` when it says that its cluster lives without this server.
        """
        super().__init__(BoxParser(HANDSHAKE_BOX_BYTES, HANDSHAKE_KEYS), counters)
        self.answer: Greeting | None = None
        self.speaker = self._peer = peer
        self._identity = identity
        self._judge = judge
        self._opened = opened
        self._greeted = greeted
        self._outlived = outlived
        self._limit_bytes = queue_bytes
        self._ordered: deque[_Ordered] = deque()
        self._chunks: deque[bytes] = deque()
        self._bulk_bytes = 0

    def connectionMade(self) -> None:
        """Say who we are and whom we want."""
        super().connectionMade()
        self._opened()
        self.post(encode_greeting(self._identity(), "peer", self._peer, b"1"))
        self.flush()

    def box_received(self, box: Box) -> None:
        """Take the answer to the greeting; nothing else ever comes this way."""
        if self.is_greeted:
            raise wire.BadMessage("a box on a connection that only sends")
        if b"_error" in box:
            if tells_outlived(box):
                self._outlived()
            self._refuse(
                f"refused by the other side: {box.get(b'_error_description', b'')[:500]!r}"
            )
            return
        if box.get(b"_answer") != b"1":
            raise wire.BadMessage("something else than the answer to the greeting")
        answer = read_greeting(box)
        identity = self._identity()
        reason = objection(identity, answer, "peer", self._peer) or self._judge(answer)
        if reason is not None:
            self._refuse(f"refused: {reason}")
            return
        self.is_greeted = True
        self.answer = answer
        self._greeted()

    def _refuse(self, reason: str) -> None:
        self.counters.refused += 1
        self.abandon(reason)

    def send(self, message: Message, records: bytes, chunk: wire.SnapshotChunk | None) -> bool:
        """Queue `message`; False where the bound of the queue is passed."""
        size_bytes = len(records) + (len(chunk.chunk) if chunk is not None else 0)
        waiting = self.queued_bytes + self._bulk_bytes
        # One message always fits into an empty queue, however large it is.
        if waiting and waiting + size_bytes + BOX_OVERHEAD_BYTES > self._limit_bytes:
            return False
        if type(message) is AppendEntries and (self._ordered or len(records) > WHOLE_BYTES):
            self._send_ordered(message, records)
        elif chunk is not None:
            box = wire.encode(message, records, chunk)
            self._chunks.append(box)
            self._bulk_bytes += len(box)
        else:
            self.post(wire.encode(message, records, chunk))
        return True

    def send_digest(self, digest: wire.StateDigest) -> bool:
        """Queue `digest`; False where the bound of the queue is passed."""
        if self.queued_bytes + BOX_OVERHEAD_BYTES > self._limit_bytes:
            return False
        self.post(wire.encode_digest(digest))
        return True

    def _send_ordered(self, message: AppendEntries, records: bytes) -> None:
        if self._ordered and message.term != self._ordered[0].message.term:
            # The receiver will refuse the older term's records, however many arrive.
            self._bulk_bytes -= sum(len(each.records) - each.offset for each in self._ordered)
            self._ordered.clear()
        if not self._ordered and len(records) <= WHOLE_BYTES:
            self.post(wire.encode_append(message, records))
        elif records:
            self._ordered.append(_Ordered(message, records))
            self._bulk_bytes += len(records)
        else:
            self.post(wire.encode_append(self._clipped(message), b""))

    def _clipped(self, heartbeat: AppendEntries) -> AppendEntries:
        first = self._ordered[0].message
        if heartbeat.prev_log_index <= first.prev_log_index:
            return heartbeat
        return evolve(
            heartbeat, prev_log_index=first.prev_log_index, prev_log_term=first.prev_log_term
        )

    def flush(self) -> None:
        """Write the queue, then the bulk, piece by piece, as long as the transport takes it."""
        super().flush()
        while (self._ordered or self._chunks) and not self.is_paused and self.is_open:
            self.transport.write(self._next_fragment() if self._ordered else self._next_chunk())

    def _next_chunk(self) -> bytes:
        box = self._chunks.popleft()
        self._bulk_bytes -= len(box)
        return box

    def _next_fragment(self) -> bytes:
        first = self._ordered[0]
        rest = len(first.records) - first.offset
        if rest <= FRAGMENT_BYTES or (not first.offset and rest <= WHOLE_BYTES):
            self._ordered.popleft()
            self._bulk_bytes -= rest
            return wire.encode_append(first.message, first.records[first.offset :], first.offset)
        piece = first.records[first.offset : first.offset + FRAGMENT_BYTES]
        box = wire.encode_fragment(first.message, first.offset, piece)
        first.offset += len(piece)
        self._bulk_bytes -= len(piece)
        return box

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Forget what waits."""
        self._ordered.clear()
        self._chunks.clear()
        self._bulk_bytes = 0
        super().connectionLost(reason)


@define
class Backoff:
    """How long to wait before the next dial: growing, jittered, capped; in seconds."""

    chance: random.Random
    first_seconds: float = 0.05
    most_seconds: float = 1.0
    failures: int = 0

    def next(self) -> float:
        """Return the next wait and count a failure."""
        wait = min(self.most_seconds, self.first_seconds * 1.7 ** min(self.failures, 16))
        self.failures += 1
        return wait * self.chance.uniform(0.5, 1.0)


class Link:
    """Keeps one peer dialled at one address, for as long as it is not stopped."""

    def __init__(
        self,
        reactor: Any,
        peer: str,
        address: str,
        open_connection: Callable[[Link], Outgoing],
        connect_seconds: float,
        backoff: Backoff,
        log: SparingLog,
    ) -> None:
        """Dial nobody before `start`; `open_connection` makes the protocol of each dial."""
        self.peer = peer
        self.address = address
        self.connection: Outgoing | None = None
        self._reactor = reactor
        self._open_connection = open_connection
        self._connect_seconds = connect_seconds
        self._backoff = backoff
        self._log = log
        self._attempt: Deferred[Any] | None = None
        self._retry: Any = None
        self._stopped = False
        self._told = ""

    @property
    def ready(self) -> Outgoing | None:
        """The connection, if messages can be sent over it."""
        connection = self.connection
        if connection is not None and connection.is_greeted and connection.is_open:
            return connection
        return None

    def start(self) -> None:
        """Dial; names are resolved anew each time."""
        self._retry = None
        if self._stopped:
            return
        connection = self._open_connection(self)
        connection.closed.addCallback(self._lost, connection)
        try:
            endpoint = client_endpoint(self._reactor, self.address, self._connect_seconds)
        except BadConfiguration as wrong:
            self._later(str(wrong))
            return
        factory = Factory.forProtocol(lambda: connection)
        factory.noisy = False
        self.connection = connection
        attempt = self._attempt = endpoint.connect(factory)
        # The endpoint's own time limit does not cover the resolution of the name.
        attempt.addTimeout(self._connect_seconds, self._reactor)
        attempt.addCallbacks(self._connected, self._failed)

    def greeted(self) -> None:
        """The handshake is done: the next failure is the first again."""
        self._backoff.failures = 0
        self._told = ""

    def hurry(self) -> None:
        """Dial at once if the next dial is only waited for: the peer is known to be up."""
        if self._retry is not None:
            self._retry.cancel()
            self.start()

    def _connected(self, _: object) -> None:
        self._attempt = None

    def _failed(self, failure: Failure) -> None:
        self._attempt = None
        self.connection = None
        if not self._stopped:
            failure.trap(Exception)
            if failure.check(defer.TimeoutError, defer.CancelledError):
                self._later(f"no connection within {self._connect_seconds} s")
            else:
                self._later(failure.getErrorMessage())

    def _lost(self, text: str, connection: Outgoing) -> str:
        if self.connection is connection:
            self.connection = None
            self._later(text)
        return text

    def _later(self, reason: str) -> None:
        if self._stopped:
            return
        wait = self._backoff.next()
        # The same trouble again and again is one line, not one for each attempt.
        if reason != self._told:
            self._told = reason
            self._log.tell(
                "No connection to server {peer} at {address} ({reason}); trying again",
                self.peer,
                peer=self.peer,
                address=self.address,
                reason=reason,
            )
        self._retry = self._reactor.callLater(wait, self.start)

    def stop(self) -> None:
        """Dial no more; what is connected is left to the caller to close."""
        self._stopped = True
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._attempt is not None:
            self._attempt.cancel()
