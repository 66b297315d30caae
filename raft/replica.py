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

A command of a session is executed only if its number was not executed before; what the
sessions remember is kept here beside the machine, and `raft.sessions` tells how. What a
machine's exception means is told in `raft.outcomes`, what a machine on a disk keeps for the
replica in `raft.durable`, which version of a machine is in force in `raft.versions`, and how a
backup comes back in `raft.restoration`. What is left is one room of more than 500 lines:
applying, snapshots and resuming are about the same dozen of fields.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Final
from zlib import crc32

from attrs import frozen

from raft.backup import BackupMeta
from raft.codec import PLAIN, Codec
from raft.core.configuration import Configuration
from raft.durable import Notes, progress_of
from raft.envelope import Content, Header, unwrap, wrap
from raft.errors import (
    BadBackup,
    BadCommand,
    CommandError,
    CommandFailed,
    InvariantViolated,
    NodeFailed,
    NotFound,
    RaftError,
    Refused,
    SessionExpired,
    StateMachineFailed,
)
from raft.interfaces import (
    IGradualStateMachine,
    IOnDiskStateMachine,
    IPreparingStateMachine,
    SnapshotMeta,
    Value,
)
from raft.machine import CommandContext, verified_machine
from raft.outcomes import LOCAL_ERRORS, NOTHING, Outcomes, Result, encoded_error, where
from raft.restoration import Restoration, Restorations
from raft.sessions import Sessions
from raft.storage.records import (
    HEADER_BYTES,
    SESSION_HEADER_BYTES,
    BadRecord,
    Kind,
    RecoveryNote,
    decode_configuration,
    decode_recovery,
    decode_version,
    encode_recovery,
)
from raft.versions import SECTION as _VERSION_SECTION
from raft.versions import Versions

SLICE_SECONDS: Final = 0.005
"""How long one call of `Replica.apply` may take, unless said otherwise."""

_CHECK_EVERY = 64
_KIND_AT = HEADER_BYTES - 1
# A record's header after its checksum, which was verified long before.
_unpack_header = struct.Struct("<4xIQQQB").unpack_from
# A session command's header, its first two fields as one: a session's id.
_unpack_session = struct.Struct(f"<{HEADER_BYTES}x16sQQ").unpack_from
_NOBODY = (b"", 0, 0)
_COMMAND_KINDS = frozenset({Kind.COMMAND, Kind.SESSION_COMMAND})
_SESSION_KINDS = frozenset({Kind.REGISTER, Kind.KEEP_ALIVE, Kind.CLOSE_SESSION})
# The sections of a snapshot that this release writes, with their versions.
_SESSIONS_SECTION = ("sessions", 1)
_RECOVERY_SECTION = ("recovery", 1)
_KNOWN_SECTIONS = frozenset({_SESSIONS_SECTION, _VERSION_SECTION, _RECOVERY_SECTION})


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
        versions: which behaviour of it is in force; to be read only.
        restorations: of backups; give it the log to read.
        sessions: the clients', as of the last entry applied; to be read only.
        last_applied: Figure 2's; 0 before the first entry.
        last_applied_term: the term of that entry.
        last_time_us: the cluster's time as of that entry, in microseconds.
        configuration: the members as of that entry.
        configuration_index: where that configuration stands in the log.
        recovery: what the log said when a survivor of this cluster went on alone, or None.
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
        self.versions = Versions.of(self.machine)
        self.codec = codec
        self.last_applied = 0
        self.last_applied_term = 0
        self.last_time_us = 0
        self.configuration = Configuration()
        self.configuration_index = 0
        self.recovery: RecoveryNote | None = None
        self._clock = clock
        self._slice_seconds = slice_seconds
        self._context = CommandContext(seed)
        self._outcomes = Outcomes(codec, bool(getattr(machine, "stop_on_error", False)))
        self.sessions = Sessions(self._session_ended)
        self._notes = (
            Notes(machine, self.sessions) if IOnDiskStateMachine.providedBy(machine) else None
        )
        is_preparing = IPreparingStateMachine.providedBy(machine)
        self._prepare = IPreparingStateMachine(machine).prepare if is_preparing else None
        self._machine_name = str(getattr(machine, "machine_name", ""))
        self._machine_version = int(getattr(machine, "machine_version", 0))
        self.restorations = Restorations(self._outcomes)
        self._slice_first = 0
        self._slice_ends = False
        self._records_crc = 0
        self._failure: NodeFailed | None = None

    @property
    def is_durable(self) -> bool:
        """Whether the machine is durable by itself."""
        return self._notes is not None

    @property
    def machine_version(self) -> int:
        """Return what the machine's state is to be called: the version in force, if it has any."""
        return self.versions.active if self.versions.has_any else self._machine_version

    @property
    def _readable_version(self) -> int:
        """Return the latest version of a state that the machine can take."""
        return self.versions.newest if self.versions.has_any else max(1, self._machine_version)

    @property
    def command_errors(self) -> int:
        """How many commands ended with an error, for metrics."""
        return self._outcomes.errors

    @property
    def digest(self) -> int:
        """A checksum (64 bits) of every record applied, every error, and the sessions.

        Servers with the same `last_applied` have the same digest, or one of them has
        diverged. Of the sessions it covers each end and each result that was kept. It does
        not cover the results of other commands, nor the machine's state.
        """
        return self._records_crc << 32 | self._outcomes.crc

    def _session_ended(self, reason: bytes, session: bytes) -> None:
        outcomes = self._outcomes
        outcomes.crc = crc32(b"%s %s " % (reason, session), outcomes.crc)
        if self._notes is not None:
            self._notes.ended.append(session)

    def open(self) -> None:
        """Go on where a machine that is durable by itself stands; others begin empty.

        Call it once, before anything is applied or restored. What storage has up to
        `last_applied` is not to be applied again, and a snapshot up to there not restored.

        Raises:
            StateMachineFailed: what the machine has cannot be opened or read.
        """
        progress = self._notes.open(self._readable_version) if self._notes is not None else None
        if progress is not None:
            self.versions.resume(progress.active_version, "the machine's own state")
            self.last_applied = progress.last_applied
            self.last_applied_term = progress.last_applied_term
            self.last_time_us = progress.last_time_us
            self.configuration = progress.configuration
            self.configuration_index = progress.configuration_index
            self._records_crc = progress.records_crc
            self._outcomes.crc = progress.outcomes_crc
            self._context.seed = progress.seed
            self.recovery = progress.recovery
            if progress.restoration is not None:
                self.restorations.current = Restoration(*progress.restoration)

    def close(self) -> None:
        """Close a machine that is durable by itself. Nothing is called after that but `open`."""
        if self._notes is not None:
            self._notes.machine.close()

    def _commit(self, notes: Notes) -> None:
        current = self.restorations.current
        notes.commit(
            progress_of(
                (self.last_applied, self.last_applied_term, self.last_time_us),
                (self.configuration, self.configuration_index),
                (self._records_crc, self._outcomes.crc),
                self._context.seed,
                self.sessions.limits,
                (self.machine_version, self.versions.active),
                None if current is None else (current.id, current.first_index, current.size_bytes),
                self.recovery,
            )
        )

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
        self._slice_first, self._slice_ends = self.last_applied + 1, False
        first_result = max(self.last_applied + 1, want_from)
        notes = self._notes if offset < end else None
        try:
            if notes is not None:
                notes.begin()
            while offset < end:
                following = self.last_applied + 1
                stop = following + step
                wanted = want_from <= following < want_end
                border = want_end if wanted else want_from
                if following < border < stop:
                    stop = border
                offset = self._apply_run(records, offset, stop, results if wanted else None)
                step = min(step * 2, _CHECK_EVERY)
                if self._slice_ends or (offset < end and self._clock() >= deadline):
                    break
            self._records_crc = crc32(memoryview(records)[begun:offset], self._records_crc)
            if notes is not None:
                self._commit(notes)
        except NodeFailed as failure:
            self._failure = failure
            raise
        if self.sessions.evicted_count > self.sessions.warned_count:
            self.sessions.warn(self._clock())
        return Applied(self.last_applied, offset, first_result, results)

    def _apply_run(
        self, records: bytes, offset: int, stop: int, results: list[Result] | None
    ) -> int:
        """Apply entries below index `stop`; return the offset after the last one."""
        end = len(records)
        try:
            while offset < end and self.last_applied + 1 < stop:
                kind = records[offset + _KIND_AT]
                if self.versions.is_behind and kind in _COMMAND_KINDS:
                    self.versions.refuse_command(self.last_applied + 1)
                if kind == 1:
                    offset = self._apply_commands(records, offset, stop, results)
                elif kind == 4:
                    offset = self._apply_session_commands(records, offset, stop, results)
                elif kind == Kind.RESTORE:
                    # All that is there may be replaced: it shares a batch with nothing else.
                    self._slice_ends = True
                    if self.last_applied + 1 > self._slice_first:
                        break
                    return self._apply_other(records, offset, results)
                else:
                    offset = self._apply_other(records, offset, results)
        except (struct.error, IndexError) as error:
            following = self.last_applied + 1
            raise InvariantViolated(f"truncated record where {following} must follow") from error
        return offset

    def _apply_commands(
        self, records: bytes, offset: int, stop: int, results: list[Result] | None
    ) -> int:
        """Apply commands below index `stop` until an entry of another kind.

        The hot path: nothing in here may cost what can be paid once for a call.
        """
        unpack, decode, apply = _unpack_header, self.codec.decode_trusted, self.machine.apply
        context, last_time_us, end = self._context, self.last_time_us, len(records)
        outcomes = self._outcomes
        following, applied_term = self.last_applied + 1, self.last_applied_term
        try:
            while offset < end and following < stop:
                length, index, term, time_us, kind = unpack(records, offset)
                if kind != 1:
                    break
                payload_at = offset + HEADER_BYTES
                after = payload_at + length
                if index != following or after > end:
                    raise InvariantViolated(f"entry {index} to be applied, not {following}, or cut")
                if time_us > last_time_us:
                    last_time_us = time_us
                context.index = index
                context.term = term
                context.time_us = last_time_us
                try:
                    result = apply(decode(records[payload_at:after]), context)
                except BaseException as error:
                    outcome = outcomes.failed(error, index, records[payload_at:after])
                    if results is not None:
                        results.append(outcome)
                else:
                    if results is not None:
                        results.append(NOTHING if result is None else outcomes.encoded(result))
                offset, following, applied_term = after, index + 1, term
        finally:
            self._advance(following, applied_term, last_time_us)
        return offset

    def _apply_session_commands(
        self, records: bytes, offset: int, stop: int, results: list[Result] | None
    ) -> int:
        """Apply commands of sessions below index `stop` until an entry of another kind.

        A hot path too, made for many commands of one session, with one time, after each other.
        """
        sessions, outcomes, execute = self.sessions, self._outcomes, self._execute
        last_time_us, end = self.last_time_us, len(records)
        following, applied_term = self.last_applied + 1, self.last_applied_term
        limits = sessions.limits
        session, session_id, touched_us = None, b"", -1
        try:
            while offset < end and following < stop:
                length, index, term, time_us, kind = _unpack_header(records, offset)
                if kind != 4:
                    break
                command_at = offset + HEADER_BYTES + SESSION_HEADER_BYTES
                after = offset + HEADER_BYTES + length
                if index != following or after > end:
                    raise InvariantViolated(f"entry {index} to be applied, not {following}, or cut")
                if time_us > last_time_us:
                    last_time_us = time_us
                named, sequence, low_mark = (
                    _unpack_session(records, offset) if command_at <= after else _NOBODY
                )
                if named != session_id or last_time_us != touched_us:
                    session_id, touched_us = named, last_time_us
                    session = sessions.touch(named, last_time_us)
                    kept = session.results if session is not None else {}
                if session is None:
                    outcome = outcomes.refused(SessionExpired(), index)
                else:
                    if low_mark > session.low_mark:
                        session.raise_low_mark(low_mark)
                    found = kept.get(sequence)
                    if found is not None:
                        outcome = found
                    elif sequence < session.kept_from:
                        outcome = outcomes.refused(session.refusal(sequence), index)
                    else:
                        outcome = execute(index, term, last_time_us, records[command_at:after])
                        kept[sequence] = outcome
                        session.size_bytes += len(outcome[1])
                        if len(kept) > limits.results or (
                            session.size_bytes > limits.results_bytes
                        ):
                            session.keep_within(limits)
                if results is not None:
                    results.append(outcome)
                offset, following, applied_term = after, index + 1, term
        finally:
            self._advance(following, applied_term, last_time_us)
        return offset

    def _execute(self, index: int, term: int, time_us: int, payload: bytes) -> Result:
        """Let the machine apply a session's command; return the outcome, which is kept."""
        context, outcomes = self._context, self._outcomes
        context.index = index
        context.term = term
        context.time_us = time_us
        try:
            result = self.machine.apply(self.codec.decode_trusted(payload), context)
        except BaseException as error:
            return outcomes.failed(error, index, payload)
        if result is None:
            return NOTHING
        outcome = outcomes.encoded(result)
        # Results are kept on every server, so that every server must have the same.
        outcomes.crc = crc32(outcome[1], outcomes.crc)
        return outcome

    def _advance(self, following: int, term: int, time_us: int) -> None:
        """Entries below `following` are applied, the last one of `term` at `time_us`."""
        if following > self.last_applied + 1:
            self.last_applied = following - 1
            self.last_applied_term = term
            self.last_time_us = time_us

    def _apply_other(self, records: bytes, offset: int, results: list[Result] | None) -> int:
        """Apply an entry that is no command; stop at what this release cannot read."""
        length, index, term, time_us, kind = _unpack_header(records, offset)
        payload_at = offset + HEADER_BYTES
        offset, following = payload_at + length, self.last_applied + 1
        if index != following or offset > len(records):
            raise InvariantViolated(f"entry {index} to be applied, not {following}, or cut")
        payload, now_us = records[payload_at:offset], max(time_us, self.last_time_us)
        outcome = NOTHING
        if kind == Kind.NO_OP:
            # A leader begins its term with a number nobody could guess: what random values
            # are drawn from, the same on every server.
            self._context.seed = payload or self._context.seed
            self.restorations.current = None
        elif kind == Kind.CONFIGURATION:
            try:
                self.configuration = decode_configuration(payload)
            except BadRecord as error:
                raise InvariantViolated(f"entry {index}: {error}") from error
            self.configuration_index = index
        elif kind == Kind.VERSION:
            try:
                self.versions.switch(decode_version(payload), index)
            except BadRecord as error:
                raise InvariantViolated(f"entry {index}: {error}") from error
        elif kind == Kind.RECOVERY:
            try:
                self.recovery = decode_recovery(payload)
            except BadRecord as error:
                raise InvariantViolated(f"entry {index}: {error}") from error
        elif kind == Kind.RESTORE:
            outcome = self.restorations.apply(index, payload, self._take_backup)
            now_us = max(now_us, self.last_time_us)
        elif kind in _SESSION_KINDS:
            try:
                outcome = "", self.sessions.apply(kind, index, now_us, payload)
            except BadRecord:
                # It is the same on every server, and so is what becomes of it.
                outcome = self._outcomes.refused(BadCommand("the entry names no sessions"), index)
        else:
            raise InvariantViolated(
                f"entry {index} is of kind {kind}, which this release does not know; it is never"
                " skipped: run the release that the rest of the cluster runs"
            )
        if results is not None:
            results.append(outcome)
        self._advance(index + 1, term, now_us)
        return offset

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
            return encoded_error(error)
        return self._answer(query)

    def answers(self, payloads: Sequence[bytes], may_work: bool = True) -> list[Result] | None:
        """Answer queries as `query` does, from one state; None where the machine needs a turn more.

        Without `may_work` it does nothing for that: there was enough to be done in this turn.
        """
        prepare = self._prepare
        if prepare is None or self._failure is not None:
            return [self.query(payload) for payload in payloads]
        found: list[Result] = []
        for payload in payloads:
            try:
                query = self.codec.decode(payload)
            except Refused as error:
                found.append(encoded_error(error))
                continue
            try:
                is_ready = prepare(query, may_work)
            except Exception:
                # The query itself will tell what is wrong.
                is_ready = True
            if not is_ready:
                return None
            found.append(self._answer(query))
        return found

    def _answer(self, query: Value) -> Result:
        try:
            answer = self.machine.query(query)
        except CommandError as error:
            return encoded_error(error)
        except Exception as error:
            self._outcomes.log_unforeseen(error, self.last_applied)
            return encoded_error(CommandFailed(type(error).__name__))
        return NOTHING if answer is None else self._outcomes.encoded(answer)

    def snapshot(self) -> tuple[SnapshotMeta, Iterator[bytes]]:
        """Return what a snapshot of this moment says of itself, and its chunks.

        Cheap; the work is done while chunks are taken, a few milliseconds each, and `apply`
        may go on between them. Chunks have at most 1 MiB; an empty one is only a pause.
        Raises `RestoreInProgress` while a backup is being restored, and `NotFound` before the
        first switch to a version that the machine can.
        Whatever the machine raises passes through, here and while chunks are taken: the
        snapshot has then failed, the node has not [sc-S13]. Close the iterator when it is
        given up.
        """
        if self._failure is not None:
            raise self._failure
        self.restorations.check_none()
        if self.versions.is_behind:
            # Nothing has changed the machine yet, and it could not take this in again.
            raise NotFound("the machine is not of a version yet that it can")
        meta = SnapshotMeta(
            index=self.last_applied,
            term=self.last_applied_term,
            configuration=self.configuration,
            configuration_index=self.configuration_index,
            time_us=self.last_time_us,
            machine=self._machine_name,
            machine_version=self.machine_version,
        )
        header = Header(self._records_crc, self._outcomes.crc, self._context.seed)
        chunks = self.machine.snapshot()
        sections: list[Iterator[bytes]] = []
        if not self.sessions.is_untouched:
            header.sections.append(_SESSIONS_SECTION)
            sections.append(self.sessions.view())
        if self.versions.active > 1:
            header.sections.append(_VERSION_SECTION)
            sections.append(self.versions.section())
        if self.recovery is not None:
            header.sections.append(_RECOVERY_SECTION)
            sections.append(iter([encode_recovery(self.recovery)]))
        return meta, wrap(header, chunks, sections)

    def restore(self, meta: SnapshotMeta, chunks: Iterable[bytes]) -> None:
        """Replace everything by the snapshot whose `snapshot` gave `meta` and `chunks`.

        Blocks until the machine has taken it all.

        Raises:
            StateMachineFailed: the snapshot is of another machine or a later release, or
                the machine refused it. The state may be half replaced: this node stops.
            InvariantViolated: the snapshot is older than what is applied already.
            RaftError: whatever of it the chunks raise while they are read.
        """
        for _ in self.restoring(meta, chunks):
            pass

    def restoring(self, meta: SnapshotMeta, chunks: Iterable[bytes]) -> Iterator[None]:
        """Do what `restore` does, in steps where the machine is gradual.

        The first step refuses what is of another machine. Until the last one nothing can be
        applied, queried or taken. Where the iterator is given up another one must follow.
        """
        if meta.index < self.last_applied:
            raise InvariantViolated(
                f"a snapshot up to {meta.index} would undo entries up to {self.last_applied}"
            )
        self._failure = StateMachineFailed("a snapshot is not restored to its end")
        if self._notes is not None:
            self._notes.begin()
        content = yield from self._taking_in(meta, chunks, f"the snapshot up to {meta.index}")
        self.restorations.current = None
        self.last_applied = meta.index
        self.last_applied_term = meta.term
        self.last_time_us = meta.time_us
        self.configuration = meta.configuration
        self.configuration_index = meta.configuration_index
        self._records_crc = content.header.records_crc
        self._outcomes.crc = content.header.outcomes_crc
        self._context.seed = content.header.seed
        if self._notes is not None:
            self._commit(self._notes)
        self._failure = None

    def _taking_in(
        self,
        meta: SnapshotMeta | BackupMeta,
        chunks: Iterable[bytes],
        what: str,
        machine_only: bool = False,
    ) -> Generator[None, None, Content]:
        """Let all be as in a snapshot, or the machine alone; return what is around its bytes."""
        try:
            self._check_origin(meta, what)
            content = unwrap(iter(chunks), _KNOWN_SECTIONS)
            self._restore_sections(content, what, machine_only)
            if self._notes is not None:
                # A batch of a durable machine is one piece.
                self._notes.forget()
                self.machine.restore(content.rest())
            elif IGradualStateMachine.providedBy(self.machine):
                for _ in IGradualStateMachine(self.machine).restoring(content.rest()):
                    yield
            else:
                self.machine.restore(content.rest())
        except RaftError:
            raise
        except Exception as error:
            raise StateMachineFailed(
                f"{what} was refused: {type(error).__name__}, {where(error)}"
            ) from error
        return content

    def _take_backup(self, meta: BackupMeta, chunks: Iterator[bytes]) -> None:
        """Let the machine be as in a backup [RULES N8]: at this place of the log, on every server.

        All sessions end: what their clients have sent is not in this state, or may not be. The
        cluster's time never falls behind what the machine has seen.
        """
        active, before = self.versions.active, self._view_before()
        try:
            for _ in self._taking_in(meta, chunks, f"the backup of entry {meta.index}", True):
                pass
        except StateMachineFailed as failure:
            cause = failure.__cause__
            if before is None or cause is None or isinstance(cause, LOCAL_ERRORS):
                raise
            # What the machine raises at these bytes it raises on every server: a result, as of a
            # command. The state must be as if nothing had been tried.
            self.versions.resume(active, "the state before the backup")
            self.machine.restore(before)
            raise BadBackup(f"the machine refused it: {type(cause).__name__}") from failure
        finally:
            close = getattr(before, "close", None)
            if close is not None:
                close()
        self.sessions.load(())
        self.last_time_us = max(self.last_time_us, meta.time_us)

    def _view_before(self) -> Iterator[bytes] | None:
        """Return the machine's state of this moment, where one in memory can give it."""
        if self._notes is not None:
            return None
        try:
            return iter(self.machine.snapshot())
        except Exception:
            # One is being read already, for example. Should the machine refuse the backup too, this
            # node stops, and comes here again after its restart, when none is.
            return None

    def check_backup(self, meta: BackupMeta) -> None:
        """Raise `BadBackup` where this machine could not take a backup of what `meta` says."""
        if meta.machine != self._machine_name:
            raise BadBackup(
                f"it is of the machine {meta.machine!r}, this cluster runs {self._machine_name!r}"
            )
        # A machine without versions may say 0, and means the first.
        version, oldest = max(1, meta.machine_version), self.versions.oldest
        if not oldest <= version <= self._readable_version:
            raise BadBackup(
                f"it is of version {version} of the machine, this node can read {oldest} to "
                f"{self._readable_version}: run a release that can read both"
            )

    def _restore_sections(self, content: Content, what: str, machine_only: bool) -> None:
        restores: dict[tuple[str, int], Callable[[Iterable[bytes]], None]] = {
            _SESSIONS_SECTION: _pass_over if machine_only else self.sessions.restore,
            _VERSION_SECTION: lambda slices: self.versions.restore(slices, what),
            _RECOVERY_SECTION: _pass_over if machine_only else self._restore_recovery,
        }
        for section in content.header.sections:
            restores.pop(section)(content.section())
        # What has no section is as it was in the beginning.
        for restore in restores.values():
            restore(())

    def _restore_recovery(self, slices: Iterable[bytes]) -> None:
        found = b"".join(slices)
        try:
            self.recovery = decode_recovery(found) if found else None
        except BadRecord as error:
            raise StateMachineFailed(f"the snapshot cannot be read: {error}") from error

    def check_snapshot(self, meta: SnapshotMeta) -> None:
        """Raise `StateMachineFailed` where a snapshot is of another machine or a later version."""
        self._check_origin(meta, f"the snapshot up to {meta.index}")

    def _check_origin(self, meta: SnapshotMeta | BackupMeta, what: str) -> None:
        if meta.machine and self._machine_name and meta.machine != self._machine_name:
            raise StateMachineFailed(
                f"{what} is of the machine {meta.machine!r}, this node runs"
                f" {self._machine_name!r}: check the node's configuration"
            )
        if meta.machine_version > self._readable_version:
            raise StateMachineFailed(
                f"{what} is of version {meta.machine_version} of the machine, this node"
                f" runs {self._readable_version}: upgrade it"
            )


def _pass_over(slices: Iterable[bytes]) -> None:
    for _ in slices:
        pass
