"""All that a replica is at one index of the log, and where it stands when a process begins."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from raft.codec import PLAIN, Codec
from raft.core.configuration import Configuration
from raft.digest import Digest
from raft.durable import Notes, progress_of
from raft.errors import NodeFailed
from raft.interfaces import IOnDiskStateMachine
from raft.machine import CommandContext, verified_machine
from raft.outcomes import Outcomes
from raft.restoration import Restoration, Restorations
from raft.sessions import Sessions
from raft.skips import Skips
from raft.storage.records import RecoveryNote
from raft.versions import Versions

SLICE_SECONDS: Final = 0.005
"""How long one call of `Replica.apply` may take, unless said otherwise."""


class State:
    """The machine, the sessions and everything else that the log has brought about so far.

    Attributes:
        machine: the application's.
        versions: which behaviour of it is in force; to be read only.
        skips: entries that are not executed; tell it which ones to expect.
        stops_on_error: whether every unforeseen exception of the machine stops the node.
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
        self.stops_on_error = bool(getattr(machine, "stop_on_error", False))
        self._outcomes = Outcomes(codec, self.stops_on_error)
        self._ended: list[bytes] = []
        """The sessions that ended at the entry that is being applied, and why."""
        self.sessions = Sessions(self._session_ended)
        self.skips = Skips()
        self._notes = (
            Notes(machine, self.sessions, self.skips)
            if IOnDiskStateMachine.providedBy(machine)
            else None
        )
        self._machine_name = str(getattr(machine, "machine_name", ""))
        self._machine_version = int(getattr(machine, "machine_version", 0))
        self.restorations = Restorations(self._outcomes)
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
        """A checksum (64 bits) of every record applied, every outcome, and the sessions.

        Servers with the same `last_applied` have the same digest, or one of them has
        diverged (or has a digest of another `origin`, see `raft.digest`). Of the sessions it
        covers each end. It does not cover the machine's state.
        """
        digest = self._outcomes.digest
        return digest.value ^ (digest.records_crc << 32 | digest.records_crc)

    @property
    def rolling(self) -> Digest:
        """The digest that is compared with other servers'; to be read only."""
        return self._outcomes.digest

    def _session_ended(self, reason: bytes, session: bytes) -> None:
        self._ended.append(b"%s %s" % (reason, session))
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
            noted = self._notes.digest_at(progress.last_applied) if self._notes else None
            value, origin = noted or (None, 0)
            self._outcomes.digest.resume(progress.last_applied, progress.records_crc, value, origin)
            self._context.seed = progress.seed
            self.recovery = progress.recovery
            if progress.restoration is not None:
                self.restorations.current = Restoration(*progress.restoration)

    def close(self) -> None:
        """Close a machine that is durable by itself. Nothing is called after that but `open`."""
        if self._notes is not None:
            self._notes.machine.close()

    def _commit(self, notes: Notes) -> None:
        current, digest = self.restorations.current, self._outcomes.digest
        notes.commit(
            progress_of(
                (self.last_applied, self.last_applied_term, self.last_time_us),
                (self.configuration, self.configuration_index),
                (digest.records_crc, 0),
                self._context.seed,
                self.sessions.limits,
                (self.machine_version, self.versions.active),
                None if current is None else (current.id, current.first_index, current.size_bytes),
                self.recovery,
            ),
            (digest.value, digest.origin),
        )
