"""One client's connection: its questions, and the answers to them.

Batches of writes and reads are the hot path: parsed and dispatched by hand, handed to
the service whole, and answered by one callback with bytes that are packed already. The rare
questions go by their declaration in `commands`. A client that sends faster than it is
answered, or does not take its answers, is not read from until that changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

from attrs import frozen
from twisted.internet.defer import maybeDeferred
from twisted.protocols import amp
from twisted.python.failure import Failure

from raft.errors import BadCommand, RaftError, Refused
from raft.interfaces import PLAIN_TERMS, IRescueService, ReadTerms, Stated
from raft.numbering import OpenedSession, SessionCall
from raft.storage.records import NONCE_BYTES
from raft.transport import commands
from raft.transport.arguments import (
    BadValue,
    describe_error,
    pack_plain,
    unpack_commands,
    unpack_members,
    unpack_sessions,
)
from raft.transport.boxes import (
    BOX_KEYS,
    PIECE_BYTES,
    Box,
    BoxParser,
    close_box,
    encode_box,
    gather,
    pair,
)
from raft.transport.connection import Counters
from raft.transport.greeting import (
    Identity,
    encode_answer,
    encode_refusal,
    objection,
    read_greeting,
)
from raft.transport.turns import PatientConnection, ReadingTurns
from raft.transport.wire import BadMessage

LONGEST_TIMEOUT_MS: Final = 86_400_000
"""A question may wait for a day at most."""
TAG_BYTES: Final = 64
"""The longest tag (`_ask`) of a question."""


@frozen
class ClientLimits:
    """Bounds of what clients may cost; times in seconds, sizes in bytes.

    Attributes:
        box_bytes: the largest question.
        in_flight_bytes: questions of one connection without an answer; reading pauses above.
        in_flight: the same as a number of boxes.
        queue_bytes: answers that one connection has not taken; it is closed above.
        first_seconds: how long a connection may take to its first question.
        stall_seconds: how long a box may take to arrive, or an answer to be taken.
        connections: in all; and `connections_of_address` from one address.
        timeout_seconds: where a question names none.
    """

    box_bytes: int = (4 << 20) + (64 << 10)
    in_flight_bytes: int = 16 << 20
    in_flight: int = 4096
    queue_bytes: int = 32 << 20
    first_seconds: float = 5.0
    stall_seconds: float = 30.0
    connections: int = 4096
    connections_of_address: int = 2048
    timeout_seconds: float = 3.0


class ClientServer(PatientConnection):
    """One client's connection, on the node's side."""

    def __init__(
        self,
        service: Any,
        identity: Callable[[], Identity],
        limits: ClientLimits,
        counters: Counters,
        answered: Callable[[ClientServer], object],
        turns: ReadingTurns,
    ) -> None:
        """Hand questions to `service`, an `IClientService`, as `turns` has time.

        `answered` is called when there is something to `flush` at the end of the turn.
        """
        keys = max(BOX_KEYS, 64 + limits.box_bytes // PIECE_BYTES)
        super().__init__(BoxParser(limits.box_bytes, keys), counters, turns)
        self._service = service
        self._identity = identity
        self._answered = answered
        self._limits = limits
        self._in_flight = 0
        self._in_flight_bytes = 0
        self._is_reading = True

    # -- Questions -------------------------------------------------------------------------

    def box_received(self, box: Box) -> None:
        """Dispatch one question; anything else is malformed."""
        command = box.get(b"_command")
        ask = box.get(b"_ask")
        if command is None or not ask or len(ask) > TAG_BYTES:
            raise BadMessage("a box that is no question")
        self.is_greeted = True
        if command == b"Write":
            self._batch(ask, box, b"commands")
        elif command == b"Read":
            self._batch(ask, box, b"queries")
        elif command == b"Hello":
            self._greet(ask, box)
        else:
            answerer = _ANSWERERS.get(command)
            if answerer is None:
                self._refuse_unknown(ask, command)
            else:
                self._ask_rarely(ask, box, answerer)

    def _batch(self, ask: bytes, box: Box, key: bytes) -> None:
        try:
            packed = gather(box, key)
            items = unpack_commands(packed)
            timeout_seconds = self._timeout_seconds(box)
            terms, stated = _terms(box) if key == b"queries" else (None, b"with_index" in box)
            session = _session(box) if b"session" in box else None
        except (KeyError, BadValue, BadCommand) as error:
            self._answer_error(ask, BadCommand(f"{key.decode()}: {_text(error)}"))
            return
        size_bytes = len(packed)
        self._began(size_bytes)
        answer = self._answerer(ask, size_bytes, stated)
        try:
            if terms is not None:
                self._service.read_batch(items, timeout_seconds, terms, answer)
            elif session is not None:
                with_index = box.get(b"with_index") == b"True"
                self._service.write_batch(items, timeout_seconds, answer, with_index, session)
            elif stated:
                with_index = box[b"with_index"] == b"True"
                self._service.write_batch(items, timeout_seconds, answer, with_index)
            else:
                self._service.write_batch(items, timeout_seconds, answer)
        except RaftError as error:
            answer(error)
        except Exception:
            self._log_failure(box)
            answer(None)

    def _answerer(
        self, ask: bytes, size_bytes: int, stated: bool
    ) -> Callable[[bytes | Stated | RaftError | None], None]:
        is_answered = False

        def answer(outcome: bytes | Stated | RaftError | None) -> None:
            nonlocal is_answered
            if is_answered:
                return
            is_answered = True
            if isinstance(outcome, bytes):
                self._answer(close_box(pair(b"_answer", ask), b"results", outcome))
            elif isinstance(outcome, Stated):
                head = pair(b"_answer", ask) + (_statement(outcome) if stated else b"")
                self._answer(close_box(head, b"results", outcome.results))
            else:
                self._answer_error(ask, outcome)
            self._ended(size_bytes)

        return answer

    def _timeout_seconds(self, box: Box) -> float:
        text = box.get(b"timeout_ms")
        if text is None:
            return self._limits.timeout_seconds
        if not text.isdigit() or len(text) > 9 or int(text) > LONGEST_TIMEOUT_MS:
            raise BadValue(f"timeout_ms is {text[:40]!r}, not a number up to {LONGEST_TIMEOUT_MS}")
        return int(text) / 1000

    def _greet(self, ask: bytes, box: Box) -> None:
        greeting = read_greeting(box)
        identity = self._identity()
        reason = objection(identity, greeting, "client")
        if reason is None:
            self._answer(encode_answer(identity, ask))
            return
        self.counters.refused += 1
        self.counters.log.warn(
            "Refused the client at {peer}: {reason}", peer=self.peer_text(), reason=reason
        )
        self.post(encode_refusal(reason, ask))
        self.finish(f"refused: {reason}")

    def _refuse_unknown(self, ask: bytes, command: bytes) -> None:
        # As stock AMP answers it, and the connection stays open, as there.
        name = command[:40].decode("utf-8", "replace")
        self._answer(_error_box(ask, amp.UNHANDLED_ERROR_CODE, f"Unhandled Command: {name}"))

    # -- Rare questions --------------------------------------------------------------------

    def _ask_rarely(self, ask: bytes, box: Box, answerer: _Answerer) -> None:
        declared, respond = answerer
        self._began(0)
        asked = maybeDeferred(self._respond, declared, respond, box)
        asked.addCallback(self._answer_rarely, declared, ask)
        asked.addErrback(self._fail_rarely, ask, box)
        asked.addBoth(lambda _: self._ended(0))

    def _respond(self, declared: type[amp.Command], respond: Callable[..., Any], box: Box) -> Any:
        try:
            arguments = declared.parseArguments(amp.AmpBox(box), None)
            timeout_seconds = self._timeout_seconds(box)
        except (KeyError, ValueError, TypeError) as error:
            # AMP's Boolean raises TypeError for what is neither True nor False.
            raise BadCommand(f"{declared.__name__}: {error}") from error
        return respond(self._service, arguments, timeout_seconds)

    def _answer_rarely(self, values: Any, declared: type[amp.Command], ask: bytes) -> None:
        shaped = _SHAPES[declared.commandName](values)
        box = declared.makeResponse(shaped, None)
        self._answer(encode_box([(b"_answer", ask), *box.items()]))

    def _fail_rarely(self, failure: Failure, ask: bytes, box: Box) -> None:
        if failure.check(RaftError):
            self._answer_error(ask, failure.value)
            return
        self._log_failure(box, failure)
        self._answer_error(ask, None)

    def _log_failure(self, box: Box, failure: Failure | None = None) -> None:
        self.counters.log.failure(
            "The service failed at {command}",
            failure or Failure(),
            command=box[b"_command"].decode("utf-8", "replace"),
        )

    # -- Answers ---------------------------------------------------------------------------

    def _answer_error(self, ask: bytes, error: Any) -> None:
        if isinstance(error, RaftError):
            self._answer(_error_box(ask, error.code.encode(), describe_error(error).decode()))
        else:
            # The text of an unforeseen exception may hold anything: it stays here.
            self._answer(_error_box(ask, b"ERROR", '{"message": "the node failed at this"}'))

    def _answer(self, box: bytes) -> None:
        if not self.is_open:
            return
        self.post(box)
        if self.queued_bytes > self._limits.queue_bytes and self.is_paused:
            self.counters.stalled += 1
            self.abandon(f"it has not taken {self.queued_bytes} bytes of answers")
            return
        self._answered(self)

    # -- Pressure --------------------------------------------------------------------------

    def _began(self, size_bytes: int) -> None:
        self._in_flight += 1
        self._in_flight_bytes += size_bytes
        limits = self._limits
        if self._in_flight >= limits.in_flight or self._in_flight_bytes >= limits.in_flight_bytes:
            self.regulate()

    def _ended(self, size_bytes: int) -> None:
        self._in_flight -= 1
        self._in_flight_bytes -= size_bytes
        if not self._is_reading:
            self.regulate()

    def regulate(self) -> None:
        """Read while nothing waits, and the client takes its answers, and bounds are kept."""
        limits = self._limits
        full = (
            self.is_paused
            or self.is_late
            or self._in_flight >= limits.in_flight
            or self._in_flight_bytes >= limits.in_flight_bytes
        )
        if full == self._is_reading and self.is_open:
            self._is_reading = not full
            if full:
                self.transport.pauseProducing()
            else:
                self.transport.resumeProducing()

    def pauseProducing(self) -> None:
        """The client does not take its answers: read no more questions."""
        super().pauseProducing()
        self.regulate()

    def resumeProducing(self) -> None:
        """It takes them again."""
        super().resumeProducing()
        self.regulate()


def _terms(box: Box) -> tuple[ReadTerms, bool]:
    """Return what a read asks of its state, and whether its answer is to tell the state's."""
    word, index, age_ms = (box.get(key) for key in (b"consistency", b"min_index", b"max_age_ms"))
    if word is None and index is None and age_ms is None:
        return PLAIN_TERMS, False
    age = None if age_ms is None else _whole(b"max_age_ms", age_ms) / 1000
    text = "" if word is None else word.decode("utf-8", "replace")
    return ReadTerms(text, _whole(b"min_index", index or b"0"), age), True


def _session(box: Box) -> SessionCall:
    """Return where the commands of a write belong; raise where that is not whole."""
    sequence, low_mark = box[b"first_sequence"], box[b"low_mark"]
    return SessionCall(
        box[b"session"], _whole(b"first_sequence", sequence), _whole(b"low_mark", low_mark)
    )


def _whole(name: bytes, text: bytes) -> int:
    if not text.isdigit() or len(text) > 19:
        raise BadValue(f"{name.decode()} is {text[:40]!r}, not a whole number")
    return int(text)


def _text(error: Exception) -> str:
    return ": ".join(map(str, error.args))


def _statement(stated: Stated) -> bytes:
    """Return the pairs that tell of which state an answer is."""
    index = pair(b"index", b"%d" % stated.index)
    if stated.age_seconds == math.inf:
        return index
    # Rounded up: never younger than it is.
    return index + pair(b"age_ms", b"%d" % math.ceil(stated.age_seconds * 1000))


_Answerer = tuple[type[amp.Command], Callable[..., Any]]


def _set_configuration(service: Any, arguments: dict[str, Any], seconds: float) -> Any:
    try:
        members = unpack_members(arguments["members"])
    except BadValue as error:
        raise BadCommand(f"members: {error}") from error
    expected_index = arguments["expected_index"]
    if expected_index is not None and expected_index < 0:
        raise BadCommand(f"expected_index is {expected_index}; give 0 or more")
    return service.set_configuration(
        members,
        seconds,
        replace=bool(arguments["replace"]),
        expected_index=expected_index,
        force=bool(arguments["force"]),
    )


def _rescue(service: Any) -> Any:
    found = IRescueService(service, None)
    if found is None:
        raise Refused("this node gives no backups")
    return found


def _open_session(service: Any, arguments: dict[str, Any], seconds: float) -> Any:
    nonce = arguments["nonce"]
    if len(nonce) != NONCE_BYTES:
        raise BadCommand(f"nonce has {len(nonce)} bytes; draw {NONCE_BYTES} random ones")
    return service.open_session(nonce, seconds)


def _keep_sessions(service: Any, arguments: dict[str, Any], seconds: float) -> Any:
    return service.keep_sessions(_sessions(arguments), seconds)


def _close_sessions(service: Any, arguments: dict[str, Any], seconds: float) -> Any:
    return service.close_sessions(_sessions(arguments), seconds)


def _sessions(arguments: dict[str, Any]) -> list[bytes]:
    try:
        return unpack_sessions(arguments["sessions"])
    except BadValue as error:
        raise BadCommand(f"sessions: {error}") from error


def _as_opened(opened: OpenedSession) -> dict[str, Any]:
    return {
        "session": opened.id,
        "timeout_us": round(opened.timeout_seconds * 1_000_000),
        "results": opened.results,
        "results_bytes": opened.results_bytes,
    }


_ANSWERERS: Final[dict[bytes, _Answerer]] = {
    b"Status": (commands.Status, lambda service, _arguments, _seconds: service.status()),
    b"Leader": (commands.Leader, lambda service, _arguments, _seconds: service.leader()),
    b"OpenSession": (commands.OpenSession, _open_session),
    b"KeepSessions": (commands.KeepSessions, _keep_sessions),
    b"CloseSessions": (commands.CloseSessions, _close_sessions),
    b"SetConfiguration": (commands.SetConfiguration, _set_configuration),
    b"GetEntry": (
        commands.GetEntry,
        lambda service, arguments, _seconds: service.get_entry(arguments["index"]),
    ),
    b"TransferLeadership": (
        commands.TransferLeadership,
        lambda service, arguments, seconds: service.transfer_leadership(
            arguments["target"] or None, seconds
        ),
    ),
    b"BeginBackup": (
        commands.BeginBackup,
        lambda service, _arguments, seconds: _rescue(service).begin_backup(seconds),
    ),
    b"BackupPiece": (
        commands.BackupPiece,
        lambda service, arguments, _seconds: _rescue(service).backup_piece(
            arguments["name"], arguments["number"]
        ),
    ),
    b"EndBackup": (
        commands.EndBackup,
        lambda service, arguments, _seconds: _rescue(service).end_backup(arguments["name"]),
    ),
    b"BeginRestore": (
        commands.BeginRestore,
        lambda service, arguments, _seconds: _rescue(service).begin_restore(
            arguments["id"], arguments["meta"], bool(arguments["replace"])
        ),
    ),
    b"RestorePiece": (
        commands.RestorePiece,
        lambda service, arguments, seconds: _rescue(service).restore_piece(
            arguments["id"], arguments["offset"], arguments["piece"], seconds
        ),
    ),
    b"EndRestore": (
        commands.EndRestore,
        lambda service, arguments, seconds: _rescue(service).end_restore(
            arguments["id"], arguments["size_bytes"], arguments["digest"], seconds
        ),
    ),
    b"Skip": (
        commands.Skip,
        lambda service, arguments, seconds: _rescue(service).skip(arguments["index"], seconds),
    ),
}
"""The rare questions: their declaration, and what the service is asked."""

_SHAPES: Final[dict[bytes, Callable[[Any], dict[str, Any]]]] = {
    b"Status": lambda status: {"status": pack_plain(status)},
    b"Leader": lambda found: {"leader": found[0] or "", "address": found[1] or ""},
    b"OpenSession": _as_opened,
    b"KeepSessions": lambda present: {"present": pack_plain(present)},
    b"CloseSessions": lambda present: {"present": pack_plain(present)},
    b"SetConfiguration": lambda _: {},
    b"GetEntry": lambda entry: {"entry": pack_plain(entry)},
    b"TransferLeadership": lambda leader: {"leader": leader or ""},
    b"BeginBackup": lambda begun: {"name": begun[0], "meta": begun[1]},
    b"BackupPiece": lambda piece: {"piece": piece},
    b"EndBackup": lambda _: {},
    b"BeginRestore": lambda _: {},
    b"RestorePiece": lambda _: {},
    b"EndRestore": lambda index: {"index": index},
    b"Skip": lambda index: {"index": index},
}
"""How the service's answers fill the responses."""


def _error_box(ask: bytes, code: bytes, description: str) -> bytes:
    return encode_box(
        [
            (b"_error", ask),
            (b"_error_code", code),
            (b"_error_description", description.encode()),
        ]
    )
