"""A machine that is durable by itself, and what the replica must find again beside it.

A machine in memory is made again from a snapshot and the log. One on a disk comes back with
what it had; the log would then be applied to it a second time. Therefore how far it is and what
the sessions remember are stored by the machine too, in the same transaction as the commands'
effects [RULES S5]: as *notes*, opaque keys and values, of which each transaction changes few.

Notes, version 1: under `0` how far the replica is (a MessagePack array, with the version first);
under `s` and a session's id the session without its results; under `r`, the id and a sequence
number (8 bytes, big-endian) one result; under `k`, once there is one, the entries that were
skipped (`raft.skips`). Version 2 is written once the machine's version was raised:
the version in force then stands at the end of the array. Version 3 is written while a backup is
being restored: what is under way (id, index of the first piece, bytes) stands behind that.
Version 4 is written once the cluster was recovered: what the log said of it stands behind all.
Under `d` the digest of all that was applied: [index, digest, its origin]. A release that does not
know of it lets it stand, so it counts at that index alone.
"""

from __future__ import annotations

from typing import Final

import msgspec
from attrs import define, field

from raft.codec import UNREADABLE
from raft.core.configuration import Configuration
from raft.errors import RaftError, StateMachineFailed
from raft.interfaces import IOnDiskStateMachine
from raft.outcomes import where
from raft.sessions import Session, Sessions
from raft.skips import Skips
from raft.storage.records import (
    SESSION_ID_BYTES,
    BadRecord,
    RecoveryNote,
    SessionLimits,
    decode_configuration,
    encode_configuration,
)

PROGRESS_KEY: Final = b"0"
SKIPS_KEY: Final = b"k"
_DIGEST_KEY: Final = b"d"
_SESSION: Final = b"s"
_RESULT: Final = b"r"
_VERSION: Final = 1
_RAISED_VERSION: Final = 2
_RESTORING_VERSION: Final = 3
_RECOVERED_VERSION: Final = 4


class Progress(msgspec.Struct, array_like=True, frozen=True):
    """How far a replica is, with all that it keeps besides the machine and the sessions."""

    version: int
    last_applied: int
    last_applied_term: int
    last_time_us: int
    configuration_payload: bytes
    configuration_index: int
    records_crc: int
    outcomes_crc: int
    seed: bytes
    limits: SessionLimits
    machine_version: int
    active_version: int = 1
    restoration: tuple[bytes, int, int] | None = None
    recovery: RecoveryNote | None = None

    @property
    def configuration(self) -> Configuration:
        """The members as of `last_applied`."""
        return decode_configuration(self.configuration_payload)


class _SessionNote(msgspec.Struct, array_like=True, frozen=True):
    order: int
    touched_us: int
    low_mark: int
    kept_from: int


_encode = msgspec.msgpack.Encoder().encode
_decode_progress = msgspec.msgpack.Decoder(Progress).decode
_decode_session = msgspec.msgpack.Decoder(_SessionNote).decode
_decode_digest = msgspec.msgpack.Decoder(tuple[int, int, int]).decode
_decode_result = msgspec.msgpack.Decoder(tuple[str, bytes]).decode


@define(eq=False)
class Notes:
    """The notes of one replica beside its machine: what is stored, and what must be.

    Nothing is noted while commands are applied: a session that was used since the last commit is
    known by its place in the order of use, and which of its results are new by comparison.
    """

    machine: IOnDiskStateMachine
    sessions: Sessions
    skips: Skips
    ended: list[bytes] = field(factory=list, init=False)
    """The ids of sessions that ended since the last commit."""
    _stored: dict[bytes, set[int]] = field(factory=dict, init=False)
    """The numbers whose results are stored, by session."""
    _skipped: frozenset[int] = field(default=frozenset(), init=False)
    """The skipped entries that are stored."""
    _order: int = field(default=0, init=False)
    """The newest use of a session that is stored."""
    _digest: tuple[int, int, int] | None = field(default=None, init=False)
    """What was found of the digest: an index, its value there, its origin."""

    def open(self, machine_version: int) -> Progress | None:
        """Open the machine, fill the sessions; return how far it is, or None for a new one.

        Raises:
            StateMachineFailed: it cannot be opened, or its notes cannot be read.
        """
        try:
            notes = dict(self.machine.open())
            content = notes.pop(PROGRESS_KEY, None)
            self.skips.restore([notes.pop(SKIPS_KEY, b"")], "the machine's own state")
            self._skipped = frozenset(self.skips.done)
            if content is None:
                return None
            progress = _decode_progress(content)
            decode_configuration(progress.configuration_payload)
            known = _VERSION <= progress.version <= _RECOVERED_VERSION
            if not known or progress.machine_version > machine_version:
                raise StateMachineFailed(
                    f"the machine's state has notes of version {progress.version} and is of version"
                    f" {progress.machine_version}; this release reads {_RECOVERED_VERSION} and"
                    f" {machine_version}: upgrade it"
                )
            if (digest := notes.get(_DIGEST_KEY)) is not None:
                self._digest = _decode_digest(digest)
            self.sessions.limits = progress.limits
            self._load(notes)
        except (*UNREADABLE, BadRecord) as error:
            raise StateMachineFailed(f"the machine's notes cannot be read: {error}") from error
        except RaftError:
            raise
        except Exception as error:
            raise _failed("opened", error) from error
        return progress

    def _load(self, notes: dict[bytes, bytes]) -> None:
        found: dict[bytes, tuple[int, Session]] = {}
        for key, value in notes.items():
            if key[:1] == _SESSION:
                note = _decode_session(value)
                session = Session(key[1:], note.touched_us, note.low_mark, note.kept_from)
                found[session.id] = note.order, session
        split = 1 + SESSION_ID_BYTES
        # In the order of the numbers, as they came, whatever order the machine gives.
        for key in sorted(key for key in notes if key[:1] == _RESULT):
            _, session = found[key[1:split]]
            result = _decode_result(notes[key])
            session.results[int.from_bytes(key[split:], "big")] = result
            session.size_bytes += len(result[1])
        ordered = sorted(found.values(), key=lambda each: each[0])
        self._stored = {session.id: set(session.results) for _, session in ordered}
        # Uses are numbered from above those that are stored: the next one is stored behind them.
        newest = max((order for order, _ in ordered), default=0)
        self.sessions.load((session for _, session in ordered), newest)
        self._order = self.sessions.newest_order

    def digest_at(self, index: int) -> tuple[int, int] | None:
        """Return the digest's value and origin, if what was found is of that index."""
        found = self._digest
        return found[1:] if found is not None and found[0] == index else None

    def begin(self) -> None:
        """Begin a batch; raise `StateMachineFailed` where the machine cannot."""
        try:
            self.machine.begin()
        except Exception as error:
            raise _failed("written", error) from error

    def forget(self) -> None:
        """The machine forgets its notes with its state, for it is being restored.

        The sessions that are restored are used anew, so that the next commit notes them all.
        """
        self._stored.clear()
        self._skipped = frozenset()

    def commit(self, progress: Progress, digest: tuple[int, int]) -> None:
        """End the batch: its effects and its notes become durable together, or not at all.

        `digest` is its value there, and its origin.
        """
        notes: dict[bytes, bytes | None] = {
            PROGRESS_KEY: _encode_progress(progress),
            _DIGEST_KEY: _encode((progress.last_applied, *digest)),
        }
        for ended in self.ended:
            if ended in self._stored:
                notes[_SESSION + ended] = None
                for sequence in self._stored.pop(ended):
                    notes[_result_key(ended, sequence)] = None
        self.ended.clear()
        for session in self.sessions.used_since(self._order):
            self._note(session, notes)
        skipped = frozenset(self.skips.done)
        if skipped != self._skipped:
            notes[SKIPS_KEY] = self.skips.encode()
        try:
            self.machine.commit(progress.last_applied, notes)
        except Exception as error:
            raise _failed("written", error) from error
        self._order, self._skipped = self.sessions.newest_order, skipped

    def _note(self, session: Session, notes: dict[bytes, bytes | None]) -> None:
        notes[_SESSION + session.id] = _encode(
            _SessionNote(session.order, session.touched_us, session.low_mark, session.kept_from)
        )
        stored = self._stored.setdefault(session.id, set())
        results = session.results
        for sequence in stored - results.keys():
            notes[_result_key(session.id, sequence)] = None
        for sequence in results.keys() - stored:
            notes[_result_key(session.id, sequence)] = _encode(results[sequence])
        self._stored[session.id] = set(results)


def progress_of(
    last: tuple[int, int, int],
    configuration: tuple[Configuration, int],
    digest: tuple[int, int],
    seed: bytes,
    limits: SessionLimits,
    machine_versions: tuple[int, int],
    restoration: tuple[bytes, int, int] | None = None,
    recovery: RecoveryNote | None = None,
) -> Progress:
    """Return a replica's progress.

    `last` is index, term and time of the last entry applied; `digest` its two checksums, the
    second of which is 0 (the digest's own note has taken its place);
    `machine_versions` what the machine says of its state, and the version in force; `restoration`
    the one under way; `recovery` the last one of the cluster.
    """
    members, configuration_index = configuration
    payload = encode_configuration(members)
    version = _VERSION if machine_versions[1] == 1 else _RAISED_VERSION
    if restoration is not None:
        version = _RESTORING_VERSION
    if recovery is not None:
        version = _RECOVERED_VERSION
    return Progress(
        version,
        *last,
        payload,
        configuration_index,
        *digest,
        seed,
        limits,
        *machine_versions,
        restoration,
        recovery,
    )


def _encode_progress(progress: Progress) -> bytes:
    fields = msgspec.structs.astuple(progress)
    return _encode(fields[: len(fields) + progress.version - _RECOVERED_VERSION])


def _result_key(session: bytes, sequence: int) -> bytes:
    return _RESULT + session + sequence.to_bytes(8, "big")


def _failed(what: str, error: Exception) -> RaftError:
    if isinstance(error, RaftError):
        return error
    return StateMachineFailed(
        f"the machine's state cannot be {what}: {type(error).__name__}, {where(error)}"
    )
