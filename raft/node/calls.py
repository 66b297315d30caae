"""Calls from within this process: one Deferred each, one batch a turn."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from attrs import Factory, define
from twisted.internet.defer import Deferred, fail

from raft.codec import Codec
from raft.errors import NotAppended, OutcomeUnknown, Overloaded, RaftError, from_wire
from raft.interfaces import Answer, Value
from raft.node.reads import ReadBatch
from raft.node.shell import Shell
from raft.node.writes import Batch, Outcome
from raft.transport.arguments import unpack_results


def error_of(codec: Codec, outcome: Outcome) -> RaftError:
    """Return the error that an outcome with a code stands for."""
    code, encoded = outcome
    facts = codec.decode_trusted(encoded)
    return from_wire(code, facts if isinstance(facts, dict) else {})  # type: ignore[arg-type]


@define(eq=False)
class LocalWrites:
    """Gathers the writes of one turn into a batch; one for each time-out in use."""

    shell: Shell
    codec: Codec
    _open: Batch | None = None
    _open_for: float = 0.0
    _waiting: list[Deferred[Value]] = Factory(list)

    def write(self, command: object, timeout_seconds: float) -> Deferred[Value]:
        """Queue `command`; fires with its result."""
        try:
            payload = self.codec.encode(command)
        except RaftError as error:
            return fail(error)
        batch = self._open
        if batch is None or batch.taken or self._open_for != timeout_seconds:
            batch = self._begin(timeout_seconds)
        elif not self.shell.has_room(len(payload)):
            return fail(Overloaded("commands wait for more bytes than the bound allows"))
        payloads, waiting = batch.payloads, self._waiting
        deferred: Deferred[Value] = Deferred(partial(_cancel, batch, payloads, waiting))
        payloads.append(payload)
        waiting.append(deferred)
        return deferred

    def _begin(self, timeout_seconds: float) -> Batch:
        waiting: list[Deferred[Value]] = []
        deadline = self.shell.clock() + timeout_seconds
        batch = Batch([], deadline, partial(_finish, self.codec, waiting))
        self._open, self._open_for, self._waiting = batch, timeout_seconds, waiting
        self.shell.write(batch)
        return batch

    def forward(
        self, command: object, write_batch: Callable[[bytes, Answer], None]
    ) -> Deferred[Value]:
        """Let `write_batch` write `command` elsewhere; fires with its result."""
        try:
            payload = self.codec.encode(command)
        except RaftError as error:
            return fail(error)
        deferred: Deferred[Value] = Deferred(lambda _: None)

        def answer(packed: bytes | RaftError) -> None:
            if deferred.called:
                return
            result = packed if isinstance(packed, RaftError) else unpack_results(packed)[0]
            if isinstance(result, RaftError):
                deferred.errback(result)
            else:
                deferred.callback(result)

        write_batch(payload, answer)
        return deferred


def _cancel(
    batch: Batch, payloads: list[bytes], waiting: list[Deferred[Value]], deferred: Deferred[Value]
) -> None:
    """Before the batch is taken nothing is appended; later the outcome is unknown."""
    at = waiting.index(deferred)
    if batch.taken or batch.answered:
        deferred.errback(OutcomeUnknown("cancelled after it was handed to the log"))
    else:
        del waiting[at], payloads[at]
        deferred.errback(NotAppended("cancelled"))


def _finish(
    codec: Codec, waiting: list[Deferred[Value]], result: list[Outcome] | RaftError
) -> None:
    if isinstance(result, RaftError):
        for deferred in waiting:
            if not deferred.called:
                deferred.errback(result)
        return
    decode = codec.decode_result
    for deferred, outcome in zip(waiting, result, strict=True):
        if deferred.called:
            continue
        if outcome[0]:
            deferred.errback(error_of(codec, outcome))
        else:
            deferred.callback(decode(outcome[1]))


@define(eq=False)
class LocalReads:
    """Reads of this process: each a batch of one; the core joins those of a turn anyway."""

    codec: Codec

    def read(
        self, query: object, deadline: float, read_batch: Callable[[ReadBatch], None]
    ) -> Deferred[Value]:
        """Ask `query`; fires with its answer. Cancelling forgets it."""
        try:
            payload = self.codec.encode(query)
        except RaftError as error:
            return fail(error)
        deferred: Deferred[Value] = Deferred(lambda _: batch.finish(NotAppended("cancelled")))

        def answer(result: list[Outcome] | RaftError) -> None:
            if isinstance(result, RaftError):
                deferred.errback(result)
            elif result[0][0]:
                deferred.errback(error_of(self.codec, result[0]))
            else:
                deferred.callback(self.codec.decode_result(result[0][1]))

        batch = ReadBatch([payload], deadline, answer)
        read_batch(batch)
        return deferred
