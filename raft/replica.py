"""Committed entries to the application's machine, and its results back.

A `Replica` owns one machine. The service hands it the record bytes of consecutive
entries that are committed and saved, as they stand in the log, and gets the encoded
results of those for whom somebody waits. The machine never meets an entry twice, never
misses one, and never sees the log, a clock or the network: `last_applied` grows by
exactly one for each entry, and all that a command may know besides itself is in its
`Context`, derived from the log.

This is one of the two loops that run for every single write on every server, so it is
written for speed where that changes nothing else: one pass over the bytes, one context
that is used again for each command, no object for an entry but the command itself, and
no result encoded for which nobody waits. Checksums were verified when the bytes came in.

What a machine's exception means is decided here and nowhere else:

- `CommandError` is a result like any other;
- MemoryError, RecursionError, OSError and whatever is no `Exception` are troubles of this
  one machine: this node stops with `StateMachineFailed`, the others go on;
- anything else is the same on every server, hence a result: `CommandFailed` with the
  class name. A machine with `stop_on_error = True` stops the node instead.
"""

from __future__ import annotations

import struct
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Final
from zlib import crc32

import msgspec
from attrs import frozen
from twisted.logger import Logger

from raft.codec import DECODE_ERRORS, ENCODE_ERRORS, PLAIN, Codec
from raft.core.configuration import Configuration
from raft.envelope import Header, unwrap, wrap
from raft.errors import (
    BadCommand,
    CommandError,
    CommandFailed,
    InvariantViolated,
    NodeFailed,
    RaftError,
    Refused,
    StateMachineFailed,
)
from raft.interfaces import SnapshotMeta, Value
from raft.machine import CommandContext, verified_machine
from raft.storage.records import HEADER_BYTES, BadRecord, Kind, decode_configuration

Result = tuple[str, bytes]
"""An outcome, encoded: ("", the result) or (an error's code, its facts as a dict)."""

NOTHING: Final[Result] = ("", b"\xc0")
"""The result None."""

SLICE_SECONDS: Final = 0.005
"""How long one call of `Replica.apply` may take, unless said otherwise."""

LOCAL_ERRORS: Final = (MemoryError, RecursionError, OSError)
"""Exceptions that say something about this computer and nothing about the command."""

_CHECK_EVERY = 64
_LOGGED_LIMIT = 256
# A record's header after its checksum, which was verified long before.
_unpack_header = struct.Struct("<4xIQQQB").unpack_from

_log = Logger()


@frozen
class Applied:
    """How far a call of `Replica.apply` came.

    Attributes:
        last_applied: the index of the last entry that is applied.
        offset: how many bytes of the records given are done with; hand over the rest again.
        first_result: the index to which `results[0]` belongs.
        results: one outcome for each entry applied that was wanted, by index, without gaps.
    """

    last_applied: int
    offset: int
    first_result: int
    results: list[Result]


class Replica:
    """The application's machine on this server, fed from the log.

    Not re-entrant: the machine must not call back into the replica.

    Attributes:
        machine: the application's.
        last_applied: Figure 2's; 0 before the first entry.
        last_applied_term: the term of that entry.
        last_time_us: the cluster's time as of that entry, in microseconds.
        configuration: the members as of that entry.
        configuration_index: where that configuration stands in the log.
        command_errors: how many commands ended with an error, for metrics.
    """

    def __init__(
        self,
        machine: object,
        codec: Codec = PLAIN,
        *,
        seed: bytes = b"",
        clock: Callable[[], float] = time.monotonic,
        slice_seconds: float = SLICE_SECONDS,
    ) -> None:
        """Check the machine and begin before the first entry.

        Args:
            machine: provides `raft.interfaces.IStateMachine`, in its initial state.
            codec: of the application's commands and results.
            seed: the same on every server: what `Context.random` is drawn from, with the
                index, until the first no-op of the log brings a better one.
            clock: monotonic seconds.
            slice_seconds: how long one `apply` may take.

        Raises:
            BadConfiguration: the machine is none; names its class and what it lacks.
        """
        self.machine = verified_machine(machine)
        self.codec = codec
        self.last_applied = 0
        self.last_applied_term = 0
        self.last_time_us = 0
        self.configuration = Configuration()
        self.configuration_index = 0
        self.command_errors = 0
        self._clock = clock
        self._slice_seconds = slice_seconds
        self._context = CommandContext(seed)
        self._stop_on_error = bool(getattr(machine, "stop_on_error", False))
        self._machine_name = str(getattr(machine, "machine_name", ""))
        self._machine_version = int(getattr(machine, "machine_version", 0))
        self._records_crc = 0
        self._outcomes_crc = 0
        self._failure: NodeFailed | None = None
        self._logged: set[str] = set()

    @property
    def digest(self) -> int:
        """A checksum (64 bits) of every record applied and every error among the outcomes.

        Servers with the same `last_applied` have the same digest, or one of them has
        diverged. It does not cover results or the machine's state.
        """
        return self._records_crc << 32 | self._outcomes_crc

    def apply(
        self,
        records: bytes,
        offset: int = 0,
        want_from: int = 0,
        want_end: int = 0,
        deadline: float | None = None,
    ) -> Applied:
        """Apply the entries in `records` from byte `offset` on, as many as fit in a slice.

        The first one must be entry `last_applied + 1`. Results are encoded for indexes in
        [want_from, want_end) only; entries that are no commands have the result None.
        Stops at `deadline` (by the clock given at construction; a slice from the call on
        by default), but never before the first entry. The clock is read after 1, 2, 4, ... and
        then every 64 entries.

        Raises:
            InvariantViolated: the records are not what must follow, or of an unknown
                kind, which is never skipped: this node stops.
            StateMachineFailed: the machine failed on this node. The entry did not count,
                yet the machine may have changed: this node stops.
        """
        if self._failure is not None:
            raise self._failure
        if deadline is None:
            deadline = self._clock() + self._slice_seconds
        begun, end, step = offset, len(records), 1
        results: list[Result] = []
        first_result = max(self.last_applied + 1, want_from)
        try:
            while offset < end:
                following = self.last_applied + 1
                stop = following + step
                wanted = want_from <= following < want_end
                border = want_end if wanted else want_from
                if following < border < stop:
                    stop = border
                offset = self._apply_run(records, offset, stop, results if wanted else None)
                step = min(step * 2, _CHECK_EVERY)
                if offset < end and self._clock() >= deadline:
                    break
        except NodeFailed as failure:
            self._failure = failure
            raise
        self._records_crc = crc32(memoryview(records)[begun:offset], self._records_crc)
        return Applied(self.last_applied, offset, first_result, results)

    def _apply_run(
        self, records: bytes, offset: int, stop: int, results: list[Result] | None
    ) -> int:
        """Apply entries below index `stop`; return the offset after the last one.

        The hot path: nothing in here may cost what can be paid once for a call.
        """
        unpack, decode, apply = _unpack_header, self.codec.decode_trusted, self.machine.apply
        context, last_time_us, end = self._context, self.last_time_us, len(records)
        following, term = self.last_applied + 1, self.last_applied_term
        try:
            while offset < end and following < stop:
                length, index, term, time_us, kind = unpack(records, offset)
                payload_at = offset + HEADER_BYTES
                offset = payload_at + length
                if index != following or offset > end:
                    raise InvariantViolated(f"entry {index} to be applied, not {following}, or cut")
                if time_us > last_time_us:
                    last_time_us = time_us
                if kind == 1:
                    context.index = index
                    context.term = term
                    context.time_us = last_time_us
                    try:
                        result = apply(decode(records[payload_at:offset]), context)
                    except BaseException as error:
                        outcome = self._failed(error, index, records[payload_at:offset])
                        if results is not None:
                            results.append(outcome)
                    else:
                        if results is not None:
                            results.append(NOTHING if result is None else self._encoded(result))
                else:
                    self._apply_other(kind, index, records[payload_at:offset])
                    if results is not None:
                        results.append(NOTHING)
                following = index + 1
        except struct.error as error:
            raise InvariantViolated(f"truncated record where {following} must follow") from error
        finally:
            if following > self.last_applied + 1:
                self.last_applied = following - 1
                self.last_applied_term = term
                self.last_time_us = last_time_us
        return offset

    def _apply_other(self, kind: int, index: int, payload: bytes) -> None:
        """Note what an entry says that is no command; stop at what this release cannot read."""
        if kind == Kind.CONFIGURATION:
            try:
                self.configuration = decode_configuration(payload)
            except BadRecord as error:
                raise InvariantViolated(f"entry {index}: {error}") from error
            self.configuration_index = index
        elif kind == Kind.NO_OP:
            # A leader begins its term with a number nobody could guess: what random values
            # are drawn from, the same on every server.
            self._context.seed = payload or self._context.seed
        else:
            raise InvariantViolated(
                f"entry {index} is of kind {kind}, which this release does not know; it is never"
                " skipped: run the release that the rest of the cluster runs"
            )

    def _encoded(self, result: Value) -> Result:
        try:
            return "", self.codec.encode_result(result)
        except ENCODE_ERRORS:
            # The command took effect; only its result cannot travel. That the result is
            # wrong on every server alike must not stop one after the other.
            return _encoded_error(CommandFailed(f"{type(result).__name__} as a result"))

    def _failed(self, error: BaseException, index: int, payload: bytes) -> Result:
        """Return the outcome that `error` is, or raise what stops this node."""
        if isinstance(error, NodeFailed):
            raise error
        if isinstance(error, CommandError):
            outcome = _encoded_error(error)
        elif isinstance(error, DECODE_ERRORS) and self._is_unreadable(payload):
            outcome = _encoded_error(BadCommand("the command in the log cannot be decoded"))
        elif (
            self._stop_on_error
            or isinstance(error, LOCAL_ERRORS)
            or not isinstance(error, Exception)
        ):
            _log.error(
                "The machine failed at entry {index}, this node stops: {exception} at {where}",
                index=index,
                exception=type(error).__name__,
                where=_where(error),
            )
            raise StateMachineFailed(
                f"{type(error).__name__} at entry {index}, {_where(error)}"
            ) from error
        else:
            self._log_unforeseen(error, index)
            outcome = _encoded_error(CommandFailed(type(error).__name__))
        self.command_errors += 1
        self._outcomes_crc = crc32(b"%d %s " % (index, outcome[0].encode()), self._outcomes_crc)
        return outcome

    def _is_unreadable(self, payload: bytes) -> bool:
        # The hot path has one try for decoding and applying; this tells the two apart.
        try:
            self.codec.decode_trusted(payload)
        except DECODE_ERRORS:
            return True
        return False

    def _log_unforeseen(self, error: Exception, index: int) -> None:
        # Neither the exception's text nor the command: both may hold what must not be in
        # logs. Each place is told once; a broken command may come a million times.
        where = _where(error)
        level = _log.debug if where in self._logged else _log.warn
        if len(self._logged) < _LOGGED_LIMIT:
            self._logged.add(where)
        level(
            "The machine raised {exception} at entry {index}, in {where}; the command failed",
            exception=type(error).__name__,
            index=index,
            where=where,
        )

    def query(self, payload: bytes) -> Result:
        """Answer a query from the current state.

        A query changes nothing, so no exception of the machine stops the node: what is no
        `CommandError` is `CommandFailed` with the class name. Limits are checked.
        """
        if self._failure is not None:
            raise self._failure
        try:
            query = self.codec.decode(payload)
        except Refused as error:
            return _encoded_error(error)
        try:
            answer = self.machine.query(query)
        except CommandError as error:
            return _encoded_error(error)
        except Exception as error:
            self._log_unforeseen(error, self.last_applied)
            return _encoded_error(CommandFailed(type(error).__name__))
        return NOTHING if answer is None else self._encoded(answer)

    def snapshot(self) -> tuple[SnapshotMeta, Iterator[bytes]]:
        """Return what a snapshot of this moment says of itself, and its chunks.

        Cheap; the work is done while chunks are taken, a few milliseconds each, and `apply`
        may go on between them. Chunks have at most 1 MiB; an empty one is only a pause.
        Whatever the machine raises passes through, here and while chunks are taken: the
        snapshot has then failed, the node has not [sc-S13]. Close the iterator when it is
        given up.
        """
        if self._failure is not None:
            raise self._failure
        meta = SnapshotMeta(
            index=self.last_applied,
            term=self.last_applied_term,
            configuration=self.configuration,
            configuration_index=self.configuration_index,
            time_us=self.last_time_us,
            machine=self._machine_name,
            machine_version=self._machine_version,
        )
        header = Header(self._records_crc, self._outcomes_crc, self._context.seed)
        return meta, wrap(header, self.machine.snapshot())

    def restore(self, meta: SnapshotMeta, chunks: Iterable[bytes]) -> None:
        """Replace everything by the snapshot whose `snapshot` gave `meta` and `chunks`.

        Blocks until the machine has taken it all.

        Raises:
            StateMachineFailed: the snapshot is of another machine or a later release, or
                the machine refused it. The state may be half replaced: this node stops.
            InvariantViolated: the snapshot is older than what is applied already.
            RaftError: whatever of it the chunks raise while they are read.
        """
        if meta.index < self.last_applied:
            raise InvariantViolated(
                f"a snapshot up to {meta.index} would undo entries up to {self.last_applied}"
            )
        self._failure = StateMachineFailed("a snapshot was not restored to its end")
        try:
            self._check_origin(meta)
            header, rest = unwrap(iter(chunks))
            self.machine.restore(rest)
        except RaftError:
            raise
        except Exception as error:
            raise StateMachineFailed(
                f"the snapshot up to {meta.index} was refused: {type(error).__name__},"
                f" {_where(error)}"
            ) from error
        self.last_applied = meta.index
        self.last_applied_term = meta.term
        self.last_time_us = meta.time_us
        self.configuration = meta.configuration
        self.configuration_index = meta.configuration_index
        self._records_crc = header.records_crc
        self._outcomes_crc = header.outcomes_crc
        self._context.seed = header.seed
        self._failure = None

    def _check_origin(self, meta: SnapshotMeta) -> None:
        if meta.machine and self._machine_name and meta.machine != self._machine_name:
            raise StateMachineFailed(
                f"the snapshot is of the machine {meta.machine!r}, this node runs"
                f" {self._machine_name!r}: check the node's configuration"
            )
        if meta.machine_version > self._machine_version:
            raise StateMachineFailed(
                f"the snapshot is of version {meta.machine_version} of the machine, this node"
                f" runs {self._machine_version}: upgrade it"
            )


def _where(error: BaseException) -> str:
    """Return file and line of the machine's own frame that raised, without any text."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "?"


def _encoded_error(error: Refused) -> Result:
    # The reason and detail of a CommandError are the application's, and may be anything.
    facts = {
        name: fact if fact is None or isinstance(fact, (bool, int)) else str(fact)
        for name, fact in error.to_wire().items()
    }
    return error.code, msgspec.msgpack.encode(facts)
