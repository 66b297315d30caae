"""Applying: the loop from the records of committed entries to the machine and to results.

This is one of the two loops that run for every single write on every server, so it is
written for speed where that changes nothing else: one pass over the bytes, one context
that is used again for each command, no object for an entry but the command itself, and
no result encoded for which nobody waits. Checksums were verified when the bytes came in.
"""

from __future__ import annotations

import struct
from typing import Any, Final

from attrs import frozen

from raft.digest import BLOCK_ENTRIES, SCALARS
from raft.errors import BadCommand, InvariantViolated, NodeFailed, SessionExpired
from raft.outcomes import NOTHING, Result
from raft.replica.backups import Backups
from raft.sessions import Session
from raft.storage.records import (
    HEADER_BYTES,
    SESSION_HEADER_BYTES,
    BadRecord,
    Kind,
    decode_configuration,
    decode_recovery,
    decode_version,
)

_CHECK_EVERY: Final = 64
_KIND_AT: Final = HEADER_BYTES - 1
# A record's header after its checksum, which was verified long before.
_unpack_header = struct.Struct("<4xIQQQB").unpack_from
# A record's header and a session command's in one; the first two fields of that are a session's id.
_unpack_session_record = struct.Struct("<4xIQQQB16sQQ").unpack_from
_SESSION_COMMAND_AT: Final = HEADER_BYTES + SESSION_HEADER_BYTES
_NOBODY: Final = (b"", 0, 0)
_COMMAND_KINDS: Final = frozenset({Kind.COMMAND, Kind.SESSION_COMMAND})
_FACT_KINDS: Final = frozenset({Kind.CONFIGURATION, Kind.VERSION, Kind.RECOVERY})
_SESSION_KINDS: Final = frozenset({Kind.REGISTER, Kind.KEEP_ALIVE, Kind.CLOSE_SESSION})


def _unpack_last(records: bytes, offset: int) -> tuple[Any, ...]:
    """Unpack as `_unpack_session_record` does where the rest is too short for a session's head."""
    return *_unpack_header(records, offset), *_NOBODY


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


class Applying(Backups):
    """A replica that goes on from entry to entry."""

    _slice_first = 0
    """The first entry of the call of `apply` that is under way."""
    _slice_ends = False
    """Whether that call is over behind the entry just applied."""

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
        notes, digest = self._notes if offset < end else None, self._outcomes.digest
        try:
            if notes is not None:
                notes.begin()
            while offset < end:
                following = self.last_applied + 1
                # No run goes past the end of a block of the digest.
                stop = following + min(step, -following % BLOCK_ENTRIES + 1)
                if following < self.skips.next < stop:
                    stop = self.skips.next
                wanted = want_from <= following < want_end
                border = want_end if wanted else want_from
                if following < border < stop:
                    stop = border
                taken = results if wanted else None
                if following == self.skips.next:
                    offset = self._pass_by(records, offset, taken)
                else:
                    offset = self._apply_run(records, offset, stop, taken)
                step = min(step * 2, _CHECK_EVERY)
                if self.last_applied % BLOCK_ENTRIES == 0:
                    digest.reach(self.last_applied, records, begun, offset)
                    begun = offset
                if self._slice_ends or (offset < end and self._clock() >= deadline):
                    break
            digest.reach(self.last_applied, records, begun, offset)
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
        tell, scalars = outcomes.digest.told.append, SCALARS
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
                    if result is None:
                        if results is not None:
                            results.append(NOTHING)
                    elif type(result) in scalars:
                        tell(index)
                        tell(result)
                        if results is not None:
                            results.append(outcomes.encoded(result))
                    else:
                        outcome = outcomes.answered(result, index, results is not None)
                        if results is not None:
                            results.append(outcome)
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
        outcomes, limits = self._outcomes, self.sessions.limits
        most_results, most_bytes = limits.results, limits.results_bytes
        last_time_us, end = self.last_time_us, len(records)
        following, applied_term = self.last_applied + 1, self.last_applied_term
        execute = self._refuse_skipped if following == self.skips.next else self._execute
        session, session_id, touched_us = None, b"", -1
        try:
            while offset < end and following < stop:
                command_at = offset + _SESSION_COMMAND_AT
                unpack = _unpack_session_record if command_at <= end else _unpack_last
                length, index, term, time_us, kind, named, sequence, low_mark = unpack(
                    records, offset
                )
                if kind != 4:
                    break
                after = offset + HEADER_BYTES + length
                if index != following or after > end:
                    raise InvariantViolated(f"entry {index} to be applied, not {following}, or cut")
                if time_us > last_time_us:
                    last_time_us = time_us
                if command_at > after:
                    named, sequence, low_mark = _NOBODY
                if named != session_id or last_time_us != touched_us:
                    session_id, touched_us = named, last_time_us
                    session = self._touch(named, last_time_us, index)
                    kept = session.results if session is not None else {}
                if session is None:
                    outcome = outcomes.refused(SessionExpired(), index)
                else:
                    if low_mark > session.low_mark:
                        session.raise_low_mark(low_mark)
                    if sequence in kept:
                        outcome = kept[sequence]
                    elif sequence < session.kept_from:
                        outcome = outcomes.refused(session.refusal(sequence), index)
                    else:
                        outcome = execute(index, term, last_time_us, records[command_at:after])
                        kept[sequence] = outcome
                        size_bytes = session.size_bytes = session.size_bytes + len(outcome[1])
                        if size_bytes > most_bytes or len(kept) > most_results:
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
        if type(result) in SCALARS:
            outcomes.digest.told += (index, result)
            return outcomes.encoded(result)
        return outcomes.answered(result, index)

    def _touch(self, session: bytes, now_us: int, index: int) -> Session | None:
        """Use a session at an entry; return it, or None where there is none (any more)."""
        found = self.sessions.touch(session, now_us)
        if self._ended:
            self._tell_ended(index)
        return found

    def _tell_ended(self, index: int) -> None:
        for ended in self._ended:
            self._outcomes.digest.answered(index, ended)
        self._ended.clear()

    def _pass_by(self, records: bytes, offset: int, results: list[Result] | None) -> int:
        """Go past an entry that the log says is not to be executed; return the offset behind it.

        In a session its number is used up, and every copy of it is answered like that.
        """
        index, kind = self.last_applied + 1, records[offset + _KIND_AT]
        if kind == Kind.SESSION_COMMAND:
            offset = self._apply_session_commands(records, offset, index + 1, results)
        elif kind == Kind.COMMAND:
            offset = self._apply_other(records, offset, results)
        else:
            # What is no command is not skipped: the same on every server, whoever asked for it.
            offset = self._apply_run(records, offset, index + 1, results)
        if self.last_applied == index:
            self.skips.pass_by(index)
        return offset

    def _refuse_skipped(
        self, index: int, term: int = 0, time_us: int = 0, payload: bytes = b""
    ) -> Result:
        return self.skips.refused(self._outcomes, index)

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
        if kind == Kind.COMMAND:
            # It would be in the hot path, were it to be executed.
            outcome = self._refuse_skipped(index)
        elif kind == Kind.NO_OP:
            # A leader begins its term with a number nobody could guess: what random values
            # are drawn from, the same on every server.
            self._context.seed = payload or self._context.seed
            self.restorations.current = None
            self._outcomes.digest.begin_term(index)
        elif kind in _FACT_KINDS:
            self._learn(kind, index, payload)
        elif kind == Kind.SKIP:
            outcome = self.skips.apply(self._outcomes, index, payload)
        elif kind == Kind.RESTORE:
            outcome = self.restorations.apply(index, payload, self._take_backup)
            now_us = max(now_us, self.last_time_us)
        elif kind in _SESSION_KINDS:
            try:
                outcome = "", self.sessions.apply(kind, index, now_us, payload)
                self._outcomes.digest.answered(index, outcome[1])
                self._tell_ended(index)
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

    def _learn(self, kind: int, index: int, payload: bytes) -> None:
        """Take in what an entry says of the cluster: it was checked before it was appended."""
        try:
            if kind == Kind.CONFIGURATION:
                self.configuration = decode_configuration(payload)
                self.configuration_index = index
            elif kind == Kind.VERSION:
                self.versions.switch(decode_version(payload), index)
            else:
                self.recovery = decode_recovery(payload)
        except BadRecord as error:
            raise InvariantViolated(f"entry {index}: {error}") from error
