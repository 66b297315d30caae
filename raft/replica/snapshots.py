"""Snapshots of a replica: the whole of it, given in slices and taken in again."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Final

from raft.backup import BackupMeta
from raft.envelope import Content, Header, unwrap, wrap
from raft.errors import InvariantViolated, NotFound, RaftError, StateMachineFailed
from raft.interfaces import IGradualStateMachine, SnapshotMeta
from raft.outcomes import where
from raft.replica.state import State
from raft.skips import SECTION as _SKIPS_SECTION
from raft.storage.records import BadRecord, decode_recovery, encode_recovery
from raft.versions import SECTION as _VERSION_SECTION

# The sections of a snapshot that this release writes, with their versions.
_SESSIONS_SECTION: Final = ("sessions", 1)
_RECOVERY_SECTION: Final = ("recovery", 1)
_KNOWN_SECTIONS: Final = frozenset(
    {_SESSIONS_SECTION, _VERSION_SECTION, _RECOVERY_SECTION, _SKIPS_SECTION}
)


class Snapshots(State):
    """A replica that gives snapshots of itself and becomes what one says."""

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
        digest = self._outcomes.digest
        header = Header(
            *(digest.records_crc, 0, self._context.seed),
            digest=digest.value,
            digest_origin=digest.origin,
        )
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
        if self.skips.done:
            header.sections.append(_SKIPS_SECTION)
            sections.append(self.skips.section())
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
        self.skips.go_on_behind(meta.index)
        self.last_applied_term = meta.term
        self.last_time_us = meta.time_us
        self.configuration = meta.configuration
        self.configuration_index = meta.configuration_index
        self._resume_digest(meta.index, content.header)
        self._context.seed = content.header.seed
        if self._notes is not None:
            self._commit(self._notes)
        self._failure = None

    def _resume_digest(self, index: int, header: Header) -> None:
        value, origin = header.digest, header.digest_origin
        if isinstance(value, int) and isinstance(origin, int):
            self._outcomes.digest.resume(index, header.records_crc, value, origin)
        else:
            self._outcomes.digest.resume(index, header.records_crc, None)

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

    def _restore_sections(self, content: Content, what: str, machine_only: bool) -> None:
        restores: dict[tuple[str, int], Callable[[Iterable[bytes]], None]] = {
            _SESSIONS_SECTION: _pass_over if machine_only else self.sessions.restore,
            _VERSION_SECTION: lambda slices: self.versions.restore(slices, what),
            _RECOVERY_SECTION: _pass_over if machine_only else self._restore_recovery,
            _SKIPS_SECTION: (
                _pass_over if machine_only else lambda slices: self.skips.restore(slices, what)
            ),
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
