"""The way in from outside: one connection to a node, and questions over it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

from attrs import define
from twisted.internet import defer
from twisted.internet.defer import Deferred
from twisted.internet.protocol import connectionDone
from twisted.protocols import amp
from twisted.python.failure import Failure

from raft.errors import (
    BadCommand,
    CommandTooLarge,
    NotAppended,
    OutcomeUnknown,
    Overloaded,
    RaftError,
    Refused,
    Timeout,
)
from raft.interfaces import ReadTerms
from raft.numbering import SESSION_BYTES, OpenedSession, SessionCall
from raft.transport import commands
from raft.transport.arguments import (
    NUMBER_END,
    BadValue,
    Result,
    error_from_description,
    pack_commands,
    pack_sessions,
    unpack_present,
    unpack_results,
)
from raft.transport.boxes import (
    PIECE_BYTES,
    Box,
    BoxParser,
    close_box,
    encode_box,
    gather,
    pair,
)
from raft.transport.commands import Question
from raft.transport.connection import BoxConnection, Counters
from raft.transport.greeting import Greeting
from raft.transport.wire import BadMessage

ANSWER_BYTES: Final = 64 << 20
"""The largest answer taken."""
QUESTION_BYTES: Final = 4 << 20
"""The largest batch asked in one box."""
QUEUE_BYTES: Final = 64 << 20
"""What may wait to be sent before questions are refused as `Overloaded`."""
GRACE_SECONDS: Final = 0.5
"""How long after a batch's own time-out its answer is awaited: the node should say so itself."""
UNACKNOWLEDGED_SECONDS: Final = 10.0

_CHANGING: Final = frozenset(
    {
        commands.Write,
        commands.SetConfiguration,
        commands.TransferLeadership,
        commands.EndRestore,
        commands.OpenSession,
        commands.Skip,
        commands.KeepSessions,
        commands.CloseSessions,
    }
)
_WRITE: Final = pair(b"_command", b"Write")
_READ: Final = pair(b"_command", b"Read")


@define
class _Asked:
    """A question without an answer yet.

    `begins` is where its box stands in the stream of all that was posted: it may have been
    sent once more than that was written.
    """

    answered: Deferred[Any]
    read: Callable[[Box], Any]
    changes: bool
    begins: int
    deadline: float
    timeout_seconds: float


class Results(list[Result]):
    """The results of a batch, and the state they belong to, where that was asked for.

    Attributes:
        last_index: of the last command written, or the last entry that was applied; 0 if the
            node did not say.
        age_seconds: of a read, for how long the node has not known its state to be current.
    """

    last_index = 0
    age_seconds = math.inf


class ClientConnection(BoxConnection):
    """A connection to one node. Questions of one turn leave in one write.

    What goes wrong is a `RaftError`. A connection that breaks ends what was written with
    `OutcomeUnknown` if it might have been sent and `NotAppended` if not; questions that
    change nothing always end with `NotAppended`.

    Attributes:
        greeting: what the node said of itself in the handshake; None if there was none.
        lost: fires with a text when the connection is gone; never fails.
        connected: whether questions can be asked, as `is_open`.
    """

    def __init__(self, reactor: Any) -> None:
        """Wait for a transport; `dial` makes and connects it."""
        keys = 64 + ANSWER_BYTES // PIECE_BYTES
        super().__init__(BoxParser(ANSWER_BYTES, keys), Counters())
        self.greeting: Greeting | None = None
        self.lost: Deferred[str] = Deferred()
        self._reactor = reactor
        self._asked: dict[bytes, _Asked] = {}
        self._count = 0
        self._flush_call: Any = None
        self._timer: Any = None
        self._timer_at = math.inf

    @property
    def outstanding(self) -> int:
        """How many questions have no answer yet."""
        return len(self._asked)

    def connectionMade(self) -> None:
        """Find a node that lost its power by what it no longer acknowledges."""
        super().connectionMade()
        self.give_up_unacknowledged(UNACKNOWLEDGED_SECONDS)

    # -- Asking ----------------------------------------------------------------------------

    def call(
        self, command: type[Question], timeout_seconds: float = 5.0, **arguments: Any
    ) -> Deferred[dict[str, Any]]:
        """Ask any question of `raft.transport.commands`, by its declaration.

        After `timeout_seconds`, or when cancelled, nothing of it is left behind: a late answer
        is dropped. It fails with `Timeout` then; cancelling does not undo what was asked.

        Raises (as failures):
            BadCommand: the arguments do not fit the declaration.
            RaftError: whatever the node answered.
        """
        try:
            pairs = command(**arguments).makeArguments(arguments, None)  # type: ignore[no-untyped-call]
            body = encode_box([(b"_command", command.commandName), *pairs.items()])
        except (amp.AmpError, TypeError, ValueError, AttributeError, KeyError) as error:
            return defer.fail(BadCommand(f"{command.__name__}: {error}"))
        return self.ask(
            body,
            lambda box: _response(command, box),
            command in _CHANGING,
            timeout_seconds,
        )

    def write_batch(
        self,
        commands: Sequence[bytes],
        timeout_ms: int,
        with_index: bool = False,
        session: SessionCall | None = None,
    ) -> Deferred[Results]:
        """Write encoded commands; fires with a result or a `RaftError` for each, in order.

        They are appended in the order of all writes on this connection. `timeout_ms` is
        how long the node may take to append them. `with_index` asks for the `last_index`.
        With `session` they have the numbers from `session.sequence` on, and may be sent
        again with the same ones.

        Raises (as failures):
            OutcomeUnknown: the connection broke, or the answer made no sense.
            Timeout: there was no answer in time; the outcome is unknown.
            RaftError: what the node answered to the whole batch, `NotLeader` above all.
        """
        word = pair(b"with_index", b"True") if with_index else b""
        if session is not None:
            word += _numbers(session)
        return self._batch(_WRITE, b"commands", commands, timeout_ms, word)

    def open_session(self, nonce: bytes, timeout_ms: int) -> Deferred[OpenedSession]:
        """Open a session; `nonce` is 8 random bytes.

        Asking again is safe: it opens another one, and that which nobody uses expires.
        Fails as `call` does, and with `NotLeader` above all.
        """
        asked = self.call(
            commands.OpenSession,
            timeout_ms / 1000 + GRACE_SECONDS,
            nonce=nonce,
            timeout_ms=timeout_ms,
        )
        return asked.addCallback(_opened)

    def keep_sessions(self, sessions: Sequence[bytes], timeout_ms: int) -> Deferred[list[bool]]:
        """Keep sessions that are not used; fires with whether each of them is there.

        At most 1,000 of them. Asking again is safe.
        """
        return self._ask_of_sessions(commands.KeepSessions, sessions, timeout_ms)

    def close_sessions(self, sessions: Sequence[bytes], timeout_ms: int) -> Deferred[list[bool]]:
        """End sessions; fires with whether each of them was there. Asking again is safe."""
        return self._ask_of_sessions(commands.CloseSessions, sessions, timeout_ms)

    def _ask_of_sessions(
        self, question: type[Question], sessions: Sequence[bytes], timeout_ms: int
    ) -> Deferred[list[bool]]:
        count = len(sessions)

        def read(answer: dict[str, Any]) -> list[bool]:
            try:
                present = unpack_present(answer["present"])
            except BadValue as error:
                raise NotAppended(f"the answer makes no sense: {error}") from error
            if len(present) != count:
                raise NotAppended(f"the node told of {len(present)} sessions, not of {count}")
            return present

        asked = self.call(
            question,
            timeout_ms / 1000 + GRACE_SECONDS,
            sessions=pack_sessions(sessions),
            timeout_ms=timeout_ms,
        )
        return asked.addCallback(read)

    def read_batch(
        self, queries: Sequence[bytes], timeout_ms: int, terms: ReadTerms | None = None
    ) -> Deferred[Results]:
        """Read encoded queries; fires with a result or a `RaftError` for each, in order.

        With `terms` it also tells of which state they are.

        Raises (as failures):
            NotAppended: the connection broke; reading again is safe.
            Timeout: there was no answer in time.
            RaftError: what the node answered to the whole batch.
        """
        word = _pairs(terms) if terms is not None else b""
        return self._batch(_READ, b"queries", queries, timeout_ms, word)

    def _batch(
        self, head: bytes, key: bytes, items: Sequence[bytes], timeout_ms: int, word: bytes
    ) -> Deferred[Results]:
        packed = pack_commands(items)
        if len(packed) > QUESTION_BYTES + 16:
            return defer.fail(CommandTooLarge(len(packed), QUESTION_BYTES))
        count = len(items)
        limit = pair(b"timeout_ms", b"%d" % timeout_ms)
        body = close_box(b"%b%b%b" % (head, word, limit), key, packed)
        return self.ask(
            body,
            lambda box: _results(box, count),
            head is _WRITE,
            timeout_ms / 1000 + GRACE_SECONDS,
        )

    def ask(
        self, body: bytes, read: Callable[[Box], Any], changes: bool, timeout_seconds: float
    ) -> Deferred[Any]:
        """Ask what `body` holds, a box without its tag; fires with what `read` makes of the answer.

        `changes` tells whether the outcome is unknown where there is no answer.
        """
        if not self.is_open:
            return defer.fail(NotAppended("the connection is closed"))
        if self.queued_bytes + len(body) > QUEUE_BYTES:
            return defer.fail(Overloaded("the node does not take what this client sends"))
        self._count += 1
        tag = b"%x" % self._count
        answered: Deferred[Any] = Deferred(lambda _: self._drop(tag))
        begins = self.written_bytes + self.queued_bytes
        now = self._reactor.seconds()
        deadline = now + timeout_seconds
        self._asked[tag] = _Asked(answered, read, changes, begins, deadline, timeout_seconds)
        if deadline < self._timer_at:
            self._arm(deadline, now)
        self.post(pair(b"_ask", tag))
        self.post(body)
        if self._flush_call is None:
            self._flush_call = self._reactor.callLater(0, self._flush_late)
        return answered

    def _flush_late(self) -> None:
        self._flush_call = None
        self.flush()

    # -- Answers ---------------------------------------------------------------------------

    def box_received(self, box: Box) -> None:
        """Take one answer; those to questions that are forgotten are dropped."""
        tag = box.get(b"_answer")
        if tag is not None:
            asked = self._asked.pop(tag, None)
            if asked is not None:
                self._answer(asked, box)
            return
        tag = box.get(b"_error")
        if tag is None:
            raise BadMessage("a box that is no answer")
        asked = self._asked.pop(tag, None)
        if asked is not None:
            asked.answered.errback(_error(box))

    def _answer(self, asked: _Asked, box: Box) -> None:
        try:
            value = asked.read(box)
        except (KeyError, ValueError, TypeError) as error:
            kind = OutcomeUnknown if asked.changes else NotAppended
            asked.answered.errback(kind(f"the answer makes no sense: {error}"))
            raise BadMessage(f"an answer that makes no sense: {error}") from error
        asked.answered.callback(value)

    def _drop(self, tag: bytes) -> None:
        self._asked.pop(tag, None)

    # -- Time ------------------------------------------------------------------------------

    def _arm(self, deadline: float, now: float) -> None:
        """Let the one timer that there is fire at `deadline`."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        # A deadline may have passed while the caller was busy elsewhere.
        self._timer = self._reactor.callLater(max(0.0, deadline - now), self._expire)

    def _expire(self) -> None:
        """End what has waited long enough; most is answered long before, and costs no timer."""
        now = self._reactor.seconds()
        self._timer, self._timer_at = None, math.inf
        for tag, asked in list(self._asked.items()):
            if asked.deadline <= now and self._asked.pop(tag, None) is not None:
                # What waits for a transport that takes nothing is written once it does again.
                text = f"no answer within {asked.timeout_seconds:g} s"
                asked.answered.errback(Timeout(asked.changes, text))
        nearest = min((asked.deadline for asked in self._asked.values()), default=math.inf)
        if nearest < self._timer_at:
            self._arm(nearest, now)

    # -- Ending ----------------------------------------------------------------------------

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """End what is outstanding, then fire `lost`."""
        super().connectionLost(reason)
        self.connected = 0
        if self._flush_call is not None:
            self._flush_call.cancel()
            self._flush_call = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        text = f"the connection was lost: {self._ending or reason.getErrorMessage()}"
        for tag in list(self._asked):
            asked = self._asked.pop(tag, None)
            if asked is not None:
                unknown = asked.changes and asked.begins < self.written_bytes
                asked.answered.errback(OutcomeUnknown(text) if unknown else NotAppended(text))
        self.lost.callback(text)

    def close(self) -> None:
        """Close the connection; what is outstanding fails."""
        if not self.is_open:
            return
        self.finish("closed by this side")
        if self.is_paused:
            # Nobody takes what is queued: there is nothing to wait for.
            self._abort()
        self.is_open = False
        self.connected = 0


def _response(command: type[Question], box: Box) -> dict[str, Any]:
    values: dict[str, Any] = command.parseResponse(amp.AmpBox(box), None)  # type: ignore[no-untyped-call]
    return values


def _pairs(terms: ReadTerms) -> bytes:
    pairs = pair(b"min_index", b"%d" % terms.min_index)
    if terms.consistency:
        pairs += pair(b"consistency", terms.consistency.encode())
    if terms.max_age_seconds is not None:
        # Rounded down: never older than is wanted.
        pairs += pair(b"max_age_ms", b"%d" % int(terms.max_age_seconds * 1000))
    return pairs


def _numbers(session: SessionCall) -> bytes:
    """Return the pairs of a `Write` that place its commands in a session."""
    return b"%b%b%b" % (
        pair(b"session", session.id),
        pair(b"first_sequence", b"%d" % session.sequence),
        pair(b"low_mark", b"%d" % session.low_mark),
    )


def _opened(answer: dict[str, Any]) -> OpenedSession:
    session, results = answer["session"], answer["results"]
    if len(session) != SESSION_BYTES or results < 1:
        raise NotAppended("the answer makes no sense: it names no session")
    if not 0 < answer["timeout_us"] < NUMBER_END:
        raise NotAppended("the answer makes no sense: its session lasts for no time there is")
    seconds = answer["timeout_us"] / 1_000_000
    return OpenedSession(session, seconds, results, answer["results_bytes"])


def _results(box: Box, count: int) -> Results:
    results = Results(unpack_results(gather(box, b"results")))
    if len(results) != count:
        raise BadValue(f"{len(results)} results for {count} items")
    if index := box.get(b"index"):
        results.last_index = _whole(index)
        age_ms = box.get(b"age_ms")
        results.age_seconds = math.inf if age_ms is None else _whole(age_ms) / 1000
    return results


def _whole(text: bytes) -> int:
    """Return a number of an answer; one of any size would not even be a number of seconds."""
    if not text.isdigit() or len(text) > 19:
        raise BadValue(f"{text[:40]!r} is no whole number")
    return int(text)


def _error(box: Box) -> RaftError:
    code = box.get(b"_error_code", b"").decode("utf-8", "replace")
    description = box.get(b"_error_description", b"")
    if box.get(b"_error_code") == amp.UNHANDLED_ERROR_CODE:
        return Refused("the node does not know this question: it may be of an older version")
    return error_from_description(code, description)
