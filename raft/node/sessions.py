"""The part of a node's Deferred API that opens, keeps and closes sessions.

Each of these is an entry of the log. The leader puts into a registration what all sessions
are bounded by, from its own settings, where that differs from what is in force: clients have
no say in it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from attrs import define
from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger

from raft.core.outputs import Role
from raft.errors import BadCommand, NotAppended, OutcomeUnknown, Overloaded, RaftError
from raft.node.answers import Outcome, nobody
from raft.node.calls import error_of
from raft.node.writes import Batch
from raft.numbering import OpenedSession, checked_session
from raft.storage.records import (
    NONCE_BYTES,
    SESSION_IDS_LIMIT,
    Kind,
    encode_registration,
    encode_sessions,
    session_id,
)
from raft.transport.calls import ClientConnection

if TYPE_CHECKING:
    from raft.service import RaftService

_log = Logger()
T = TypeVar("T")

OPENING_LIMIT: Final = 256
"""How many registrations may be on their way at once."""

SPARED_SECONDS: Final = 60.0
"""A session used within this time does not make room for a new one, if that can be helped."""

WARNING_SECONDS: Final = 60.0
"""How often, at most, it is told that sessions are refused."""

_decode_registered = msgspec.msgpack.Decoder(tuple[int, int, int, int]).decode
_decode_present = msgspec.msgpack.Decoder(list[bool]).decode


@define(eq=False)
class SessionEntries:
    """Writes the entries of sessions at a leader, or lets the leader write them."""

    node: RaftService
    opening: int = 0
    """Registrations that are on their way."""
    refused_count: int = 0
    """Registrations that found no room."""
    _warned_at: float = -WARNING_SECONDS

    def open(self, timeout: float | None, nonce: bytes | None) -> Deferred[OpenedSession]:
        """See `SessionCare.open_session`."""
        drawn = secrets.token_bytes(NONCE_BYTES) if nonce is None else nonce

        def read(encoded: bytes) -> OpenedSession:
            index, timeout_us, results, results_bytes = _decode_registered(encoded)
            id = session_id(index, drawn)
            return OpenedSession(id, timeout_us / 1_000_000, results, results_bytes)

        try:
            if not isinstance(drawn, bytes) or len(drawn) != NONCE_BYTES:
                raise BadCommand(f"nonce is {drawn!r}; give {NONCE_BYTES} random bytes")
            seconds = self.node.checked_seconds(timeout)
            if self.node.forwards:
                return self._forward(seconds, lambda to, left: to.open_session(drawn, left))
            if self.node.shell.server.role is Role.LEADER:
                self._check_room()
        except RaftError as error:
            return fail(error)
        self.opening += 1
        opened = self._append(Kind.REGISTER, self._registration(drawn), seconds, read)
        return opened.addBoth(self._opened)

    def _opened(self, result: Any) -> Any:
        self.opening -= 1
        return result

    def _registration(self, nonce: bytes) -> bytes:
        limits = self.node.settings.session_limits
        # What is applied may lag behind the log: limits that are stated twice change nothing.
        in_force = self.node.replica.sessions.limits
        return encode_registration(nonce, None if limits == in_force else limits)

    def _check_room(self) -> None:
        """Refuse a session for which one that is in use would have to make room.

        At the limit the one unused for longest ends, by the rule that is the same on every
        server. This is not part of that rule: it keeps one client that opens sessions in a loop
        from ending everybody else's within seconds.
        """
        sessions, limits = self.node.replica.sessions, self.node.settings.session_limits
        if self.opening >= OPENING_LIMIT:
            self._refuse(f"{self.opening} sessions are being opened already")
        ending = len(sessions) + self.opening - limits.sessions
        if ending < 0:
            return
        oldest = next(islice(sessions, ending, None), None)
        spared_us = min(int(SPARED_SECONDS * 1_000_000), limits.timeout_us // 3)
        if oldest is None or self.node.shell.scribe.now_us() - oldest.touched_us < spared_us:
            self._refuse(f"all {limits.sessions} sessions that there may be are in use")

    def _refuse(self, reason: str) -> None:
        self.refused_count += 1
        now = self.node.clock()
        if now - self._warned_at >= WARNING_SECONDS:
            self._warned_at = now
            _log.warn(
                "{id} opens no more sessions: {reason}. Raise limits.sessions, or find the client "
                "that opens them and does not close them.",
                id=self.node.id,
                reason=reason,
            )
        raise Overloaded(reason)

    def keep(self, sessions: Sequence[bytes], timeout: float | None) -> Deferred[list[bool]]:
        """See `SessionCare.keep_sessions`."""
        return self._name(
            Kind.KEEP_ALIVE, sessions, timeout, lambda to, left: to.keep_sessions(sessions, left)
        )

    def close(self, sessions: Sequence[bytes], timeout: float | None) -> Deferred[list[bool]]:
        """See `SessionCare.close_sessions`."""
        return self._name(
            Kind.CLOSE_SESSION,
            sessions,
            timeout,
            lambda to, left: to.close_sessions(sessions, left),
        )

    def _name(
        self,
        kind: int,
        sessions: Sequence[bytes],
        timeout: float | None,
        ask: Callable[[ClientConnection, int], Deferred[list[bool]]],
    ) -> Deferred[list[bool]]:
        try:
            seconds = self.node.checked_seconds(timeout)
            if len(sessions) > SESSION_IDS_LIMIT:
                raise BadCommand(f"{len(sessions)} sessions; name {SESSION_IDS_LIMIT} at most")
            payload = encode_sessions([checked_session(each) for each in sessions])
        except RaftError as error:
            return fail(error)
        if self.node.forwards:
            return self._forward(seconds, ask)
        return self._append(kind, payload, seconds, _decode_present)

    def _forward(
        self, seconds: float, ask: Callable[[ClientConnection, int], Deferred[T]]
    ) -> Deferred[T]:
        return self.node.forwarder.question(self.node.leader_address(), seconds, ask)

    def _append(
        self, kind: int, payload: bytes, seconds: float, read: Callable[[bytes], T]
    ) -> Deferred[T]:
        """Append one entry; fires with what `read` makes of its result."""

        def cancel(_: object) -> None:
            if not batch.taken:
                batch.finish(NotAppended("cancelled"))
            elif not told.called:
                told.errback(OutcomeUnknown("cancelled after it was handed to the log"))

        def answer(result: list[Outcome] | RaftError) -> None:
            if told.called:
                return
            if isinstance(result, RaftError):
                told.errback(result)
            elif result[0][0]:
                told.errback(error_of(result[0]))
            else:
                told.callback(read(result[0][1]))

        told: Deferred[T] = Deferred(cancel)
        batch = Batch([payload], self.node.clock() + seconds, nobody, kind)
        batch.answer = answer
        self.node.shell.write(batch)
        return told


class SessionCare:
    """Sessions: within one, a command takes effect once, however often it is sent.

    Open one, number its commands (`raft.numbering.Numbering`), and give each `write` its
    `SessionCall`; a command that was not answered may be written again with the same number,
    on any node. All fail so, besides what is said at each:

        NotLeader, ElectionInProgress, Overloaded, StorageFull, NotAppended: nothing was done.
        Timeout, OutcomeUnknown: it may have been done; to ask again is safe.

    Cancelling before the end of this reactor turn is definite; later it forgets the caller.
    """

    session_entries: SessionEntries

    def open_session(
        self, timeout: float | None = None, nonce: bytes | None = None
    ) -> Deferred[OpenedSession]:
        """Open a session; fires with its id, and with what the servers remember for it.

        A session that nobody uses or keeps for its timeout ends, so one that was opened and
        whose answer was lost costs nothing.

        Args:
            timeout: in seconds, 3 by default.
            nonce: 8 bytes that nobody else would draw; drawn here where there are none.

        Raises (as failures):
            Overloaded: besides queues, there are as many sessions as may be, all in use.
        """
        return self.session_entries.open(timeout, nonce)

    def keep_sessions(
        self, sessions: Sequence[bytes], timeout: float | None = None
    ) -> Deferred[list[bool]]:
        """Keep sessions alive that are not used; fires with whether each is there.

        At most 1,000 ids. A third of the session's timeout is a good interval.

        Raises (as failures):
            BadCommand: one of them is no session's id, or there are too many.
        """
        return self.session_entries.keep(sessions, timeout)

    def close_sessions(
        self, sessions: Sequence[bytes], timeout: float | None = None
    ) -> Deferred[list[bool]]:
        """End sessions; fires with whether each was there.

        At most 1,000 ids. What is written in them afterwards is `SessionExpired`.

        Raises (as failures):
            BadCommand: one of them is no session's id, or there are too many.
        """
        return self.session_entries.close(sessions, timeout)
