"""Calls from within this process: one Deferred each, one batch a turn."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from attrs import Factory, define
from twisted.internet.defer import Deferred, fail

from raft.codec import PLAIN, Codec
from raft.errors import (
    NodeStopped,
    NotAppended,
    OutcomeUnknown,
    Overloaded,
    RaftError,
    from_wire,
)
from raft.interfaces import PLAIN_TERMS, Indexed, ReadTerms, Stated, StatedAnswer, Value
from raft.node.answers import Outcome, nobody
from raft.node.reads import ReadBatch
from raft.node.sequences import Place
from raft.node.shell import Shell
from raft.node.writes import Batch
from raft.numbering import SessionCall
from raft.storage.records import HEADER_BYTES, Kind, session_payloads
from raft.transport.arguments import unpack_results

BATCH_BYTES = 16 << 10
"""How large a batch of several commands may be: its callers are answered at once."""


def error_of(outcome: Outcome) -> RaftError:
    """Return the error that an outcome with a code stands for.

    Its facts are plain values, whatever types the application's own commands have.
    """
    code, encoded = outcome
    facts = PLAIN.decode_trusted(encoded)
    return from_wire(code, facts if isinstance(facts, dict) else {})  # type: ignore[arg-type]


def tell(
    codec: Codec,
    deferred: Deferred[Any],
    outcome: Outcome,
    index: int | None = None,
    age_seconds: float = 0.0,
) -> None:
    """Fire `deferred` with what `outcome` says; with `BadCommand` where it cannot be read.

    With `index` it fires with an `Indexed`.
    """
    try:
        value = error_of(outcome) if outcome[0] else codec.decode_result(outcome[1])
    except RaftError as error:
        value = error
    if isinstance(value, RaftError):
        deferred.errback(value)
    elif index is None:
        deferred.callback(value)
    else:
        deferred.callback(Indexed(value, index, age_seconds))


@define(eq=False)
class LocalWrites:
    """Gathers the writes of one turn into batches: of one time-out, session and kind of answer."""

    shell: Shell
    codec: Codec
    _open: Batch | None = None
    _open_for: tuple[float, bool, bytes] = (0.0, False, b"")
    """Time-out, whether indexes are told, and the session or nothing."""
    _open_bytes: int = 0
    _waiting: list[Deferred[Value]] = Factory(list)

    def write(
        self,
        command: object,
        timeout_seconds: float,
        indexed: bool = False,
        session: SessionCall | None = None,
    ) -> Deferred[Any]:
        """Queue `command`; fires with its result, `indexed` with an `Indexed`."""
        try:
            payload = self.codec.encode(command)
        except RaftError as error:
            return fail(error)
        if session is not None:
            return self._write_in_session(payload, timeout_seconds, indexed, session)
        size_bytes = len(payload) + HEADER_BYTES
        if not self.shell.running:
            return fail(NodeStopped())
        if not self.shell.has_room(size_bytes):
            return fail(Overloaded("commands wait for more bytes than the bound allows"))
        batch, open_for = self._open, (timeout_seconds, indexed, b"")
        if (
            batch is None
            or batch.taken
            or self._open_for != open_for
            or self._open_bytes + size_bytes > BATCH_BYTES
        ):
            batch = self._begin(open_for)
            self.shell.writes.queue(batch)
            self.shell.schedule()
        payloads, waiting = batch.payloads, self._waiting
        deferred: Deferred[Value] = Deferred(partial(self._cancel, batch, payloads, waiting))
        payloads.append(payload)
        waiting.append(deferred)
        self._open_bytes += size_bytes
        return deferred

    def _write_in_session(
        self, payload: bytes, timeout_seconds: float, indexed: bool, session: SessionCall
    ) -> Deferred[Any]:
        """Queue a command with a number; consecutive numbers of a turn are one batch."""
        if not self.shell.running:
            return fail(NodeStopped())
        (payload,) = session_payloads(session.id, session.sequence, session.low_mark, [payload])
        size_bytes = len(payload) + HEADER_BYTES
        batch, open_for = self._open, (timeout_seconds, indexed, session.id)
        begins = (
            batch is None
            or self._open_for != open_for
            or not _goes_on(batch, session)
            or self._open_bytes + size_bytes > BATCH_BYTES
        )
        if batch is None or begins:
            batch = self._begin(open_for)
            batch.kind = Kind.SESSION_COMMAND
            batch.place = Place(session.id, session.sequence, session.sequence, session.low_mark)
        elif not self.shell.has_room(size_bytes):
            return fail(Overloaded("commands wait for more bytes than the bound allows"))
        payloads, waiting = batch.payloads, self._waiting
        deferred: Deferred[Value] = Deferred(partial(self._cancel, batch, payloads, waiting))
        payloads.append(payload)
        waiting.append(deferred)
        self._open_bytes += size_bytes
        if batch.place is not None:
            batch.place.lengthen()
        if begins:
            self.shell.write(batch)
        return deferred

    def _begin(self, open_for: tuple[float, bool, bytes]) -> Batch:
        timeout_seconds, indexed, _ = open_for
        waiting: list[Deferred[Value]] = []
        batch = Batch([], self.shell.clock() + timeout_seconds, nobody)
        batch.answer = partial(_finish, self.codec, waiting)
        if indexed:
            batch.answer = partial(_finish_indexed, self.codec, waiting, batch)
        self._open, self._open_for, self._open_bytes = batch, open_for, 0
        self._waiting = waiting
        return batch

    def _cancel(
        self,
        batch: Batch,
        payloads: list[bytes],
        waiting: list[Deferred[Value]],
        deferred: Deferred[Value],
    ) -> None:
        """Before the batch is taken nothing is appended; later the outcome is unknown."""
        place = batch.place
        if batch.taken or batch.answered:
            deferred.errback(OutcomeUnknown("cancelled after it was handed to the log"))
            return
        if place is not None and (place.is_copy or place.copies):
            deferred.errback(OutcomeUnknown("cancelled while a copy is on its way"))
            return
        at = waiting.index(deferred)
        if place is not None and place.is_early:
            # It is alone in its batch, and counts as queued nowhere.
            batch.finish(NotAppended("cancelled"))
            return
        self.shell.writes.queued_bytes -= len(payloads[at]) + HEADER_BYTES
        del waiting[at], payloads[at]
        if place is not None:
            # The number counts as answered: those behind it keep their turn.
            place.whole = False
        deferred.errback(NotAppended("cancelled"))

    def forward(
        self, command: object, write_batch: Callable[[bytes, StatedAnswer], None], indexed: bool
    ) -> Deferred[Any]:
        """Let `write_batch` write `command` elsewhere; fires as `write` does."""
        try:
            payload = self.codec.encode(command)
        except RaftError as error:
            return fail(error)
        unknown = OutcomeUnknown("cancelled after it was passed on")
        deferred: Deferred[Any] = Deferred(lambda waiting: waiting.errback(unknown))

        def answer(packed: bytes | Stated | RaftError) -> None:
            if deferred.called:
                return
            index: int | None = None
            if isinstance(packed, Stated):
                index = packed.index
                packed = packed.results
            result = packed if isinstance(packed, RaftError) else unpack_results(packed)[0]
            if indexed and index is None and not isinstance(result, RaftError):
                result = OutcomeUnknown("written, but the leader's older release tells no index")
            if isinstance(result, RaftError):
                deferred.errback(result)
            else:
                tell(self.codec, deferred, ("", PLAIN.encode_result(result)), index)

        write_batch(payload, answer)
        return deferred


def _goes_on(batch: Batch, session: SessionCall) -> bool:
    """Tell whether the next number of `batch`, which is queued, is that of `session`."""
    place = batch.place
    return (
        place is not None
        and not (batch.taken or batch.answered or place.is_early or place.is_copy)
        and place.end == session.sequence
    )


def _finish(
    codec: Codec, waiting: list[Deferred[Value]], result: list[Outcome] | RaftError
) -> None:
    if isinstance(result, RaftError):
        for deferred in waiting:
            if not deferred.called:
                deferred.errback(result)
        return
    for deferred, outcome in zip(waiting, result, strict=True):
        if not deferred.called:
            tell(codec, deferred, outcome)


def _finish_indexed(
    codec: Codec, waiting: list[Deferred[Any]], batch: Batch, result: list[Outcome] | RaftError
) -> None:
    if isinstance(result, RaftError):
        _finish(codec, waiting, result)
        return
    for index, (deferred, outcome) in enumerate(zip(waiting, result, strict=True), batch.start):
        if not deferred.called:
            tell(codec, deferred, outcome, index)


@define(eq=False)
class LocalReads:
    """Reads of this process: each a batch of one; the core joins those of a turn anyway."""

    codec: Codec

    def read(
        self,
        query: object,
        deadline: float,
        read_batch: Callable[[ReadBatch], None],
        terms: ReadTerms = PLAIN_TERMS,
        indexed: bool = False,
    ) -> Deferred[Any]:
        """Ask `query`; fires with its answer (an `Indexed`). Cancelling forgets it."""
        try:
            payload = self.codec.encode(query)
        except RaftError as error:
            return fail(error)
        deferred: Deferred[Any] = Deferred(lambda _: batch.finish(NotAppended("cancelled")))

        def answer(result: list[Outcome] | RaftError) -> None:
            if isinstance(result, RaftError):
                deferred.errback(result)
            else:
                index = batch.index if indexed else None
                tell(self.codec, deferred, result[0], index, batch.age_seconds)

        batch = ReadBatch([payload], deadline, answer, terms)
        read_batch(batch)
        return deferred
