"""When the cluster goes over to the next version of its machine, and who would hold it up.

Safety does not rest on anything in here: a server that cannot a version stops where the log
begins it (`raft.versions`). What a leader does is to spare servers that stop: it appends the
switch once every member is connected and can the version, and lets nobody in who cannot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import define
from twisted.logger import Logger

from raft.core import events as ev
from raft.core import membership
from raft.core.roles import Leader
from raft.errors import BadBackup, RaftError
from raft.node.answers import Outcome
from raft.node.writes import Batch
from raft.storage.records import Kind, encode_version

if TYPE_CHECKING:
    from raft.backup import BackupMeta
    from raft.service import RaftService
    from raft.transport.greeting import Greeting

_log = Logger()

PATIENCE_SECONDS = 1.0
"""How long a leader waits before it appends a switch again that was refused."""

Span = tuple[int, int]
"""The oldest and the newest version that a server's machine can."""


@define(eq=False)
class Switching:
    """The versions that the members of one node's cluster can, and what a leader makes of it."""

    node: RaftService
    _asked: tuple[int, int] = (0, 0)
    """In which term this node has appended which version, until that is applied."""
    _not_before: float = 0.0

    @property
    def required(self) -> int:
        """The version that a server must be able to, to join: in force, or about to be."""
        term, version = self._asked
        active = self.node.replica.versions.active
        return max(active, version) if term == self.node.shell.server.current_term else active

    def span_of(self, member: str) -> Span | None:
        """Return what `member` can, as its present process says; None while it is not connected."""
        if member == self.node.id:
            versions = self.node.replica.versions
            return versions.oldest, versions.newest
        greeting = self.node.network.greeting_of(member)
        return greeting.versions if greeting else None

    @property
    def waits_for(self) -> list[str]:
        """The members because of whom the newest version is not in force yet, in order."""
        newest = self.node.replica.versions.newest
        if newest <= self.node.replica.versions.active:
            return []
        ids = sorted(self.node.shell.server.configuration.ids)
        return [id for id in ids if (self.span_of(id) or (0, 0))[1] < newest]

    def objection(self, greeting: Greeting) -> str | None:
        """Return why a server is not let in because of its machine, or None.

        Who votes is: it stores entries, whatever they mean, and stops by itself.
        """
        shell = self.node.shell
        if greeting.versions[1] >= self.required or shell.server.configuration.is_voter(
            greeting.server_id
        ):
            return None
        reason = self._mismatch(greeting.versions)
        self._give_up(greeting.server_id, reason)
        return reason

    def _mismatch(self, span: Span) -> str:
        can = f"{span[0]} to {span[1]}" if span[0] < span[1] else f"{span[1]}"
        remedy = "upgrade it" if span[1] < self.required else "start an older release of it first"
        return f"its machine can version {can}, the cluster needs {self.required}: {remedy}"

    def _give_up(self, newcomer: str, reason: str) -> None:
        server = self.node.shell.server
        if newcomer in server.configuration.newcomers and membership.may_change(server):
            self.node.shell.post(ev.Unfit(newcomer, reason))

    def check_backup(self, meta: BackupMeta) -> None:
        """Raise `BadBackup` where a member that is connected cannot the version of a backup.

        Its state would be of that version on every server, until the leader switches again.
        """
        version = max(1, meta.machine_version)
        for member in sorted(self.node.shell.server.configuration.ids):
            oldest, newest = self.span_of(member) or (version, version)
            if not oldest <= version <= newest:
                raise BadBackup(
                    f"it is of version {version} of the machine, {member} can read {oldest} to "
                    f"{newest}: run a release there that can"
                )

    def follow(self) -> None:
        """At the end of a leader's turn: judge those who join, append the switch if it is time."""
        server = self.node.shell.server
        if not isinstance(server.state, Leader) or self.node.shell.applying.is_held:
            return
        if server.configuration.target:
            self._judge_newcomers(server.configuration.newcomers)
        versions = self.node.replica.versions
        if versions.newest > versions.active:
            version = self._next()
            if version > versions.active:
                self._append(version)

    def _judge_newcomers(self, newcomers: tuple[str, ...]) -> None:
        for newcomer in newcomers:
            span = self.span_of(newcomer)
            if span is not None and not span[0] <= self.required <= span[1]:
                self._give_up(newcomer, self._mismatch(span))

    def _next(self) -> int:
        """Return the greatest version that every member can, or 0 where none is to be appended.

        Learners count as voters do: one that stops serves no reads. While members change, and
        while a configuration is not committed, the members are not known well enough.
        """
        server = self.node.shell.server
        configuration = server.configuration
        if not membership.may_change(server) or configuration.is_joint or configuration.target:
            return 0
        spans = [self.span_of(member) for member in configuration.ids]
        known = [span for span in spans if span is not None]
        if len(known) < len(spans):
            return 0
        newest = min(span[1] for span in known)
        return newest if newest >= max(span[0] for span in known) else 0

    def _append(self, version: int) -> None:
        shell, now = self.node.shell, self.node.clock()
        asking = (shell.server.current_term, version)
        if self._asked == asking or now < self._not_before:
            return
        self._asked = asking

        def answer(result: list[Outcome] | RaftError) -> None:
            if self._asked == asking:
                self._asked = (0, 0)
            if isinstance(result, RaftError):
                # To append it twice does no harm; to ask in each turn would.
                self._not_before = self.node.clock() + PATIENCE_SECONDS
                _log.info(
                    "The switch to version {version} waits: {error}", version=version, error=result
                )

        deadline = now + self.node.settings.timeout_seconds
        _log.info(
            "All members can version {version} of the machine: the log switches to it",
            version=version,
        )
        shell.write(Batch([encode_version(version)], deadline, answer, kind=Kind.VERSION))
