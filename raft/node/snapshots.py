"""Snapshots of one server: taken from its machine, sent to peers, received from a leader.

Taking one goes on beside `apply`: chunks are made in the reactor's thread, a few
milliseconds at a time, and written in another. `snapshot_sending` and
`snapshot_receiving` move them between servers.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

from attrs import Factory, define, field
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure

from raft.core import events as ev
from raft.core import outputs as out
from raft.envelope import GivenUp
from raft.errors import NodeStopped, NotFound, Overloaded
from raft.node.allowance import Allowance
from raft.node.answers import nobody
from raft.node.snapshot_policy import SnapshotPolicy, first_kept
from raft.node.snapshot_receiving import Receiving
from raft.node.snapshot_sending import SendingSnapshots
from raft.node.writes import Batch
from raft.storage.records import Kind, encode_sessions

if TYPE_CHECKING:
    from raft.node.shell import Shell

_log = Logger()

ENTRY_SECONDS = 3.0
"""How long an entry that makes room for a new snapshot may wait to be applied."""


@define(eq=False)
class Threads:
    """Calls in the reactor's pool; a file belongs to one such call at a time.

    A call is never given up: whoever waits for it waits until it has ended, so that no file
    is closed under a thread that writes to it.
    """

    reactor: Any
    _count: int = 0
    _idle: list[Deferred[None]] = Factory(list)

    def call(self, function: Callable[..., object], *arguments: object) -> Deferred[object]:
        """Fire with what `function` returns in another thread."""
        self._count += 1
        pool = self.reactor.getThreadPool()
        return deferToThreadPool(self.reactor, pool, function, *arguments).addBoth(self._ended)

    def _ended(self, result: object) -> object:
        self._count -= 1
        if not self._count:
            # What awaits this call may at once begin another.
            self.reactor.callLater(0, self._look)
        return result

    def _look(self) -> None:
        if not self._count:
            waiting, self._idle = self._idle, []
            for idle in waiting:
                idle.callback(None)

    def idle(self) -> Deferred[None]:
        """Fire when no call is under way."""
        if not self._count:
            return succeed(None)
        idle: Deferred[None] = Deferred(self._idle.remove)
        self._idle.append(idle)
        return idle


@define(eq=False)
class Snapshots:
    """All snapshot traffic of one server."""

    shell: Shell
    policy: SnapshotPolicy
    installed_index: int = 0
    """Of the last snapshot of another server that replaced the state; 0 for none in this life."""
    taken_count: int = 0
    failed_count: int = 0
    last_error: str = ""
    """Why the last attempt failed; empty once one has succeeded."""
    sending: SendingSnapshots = field(init=False)
    receiving: Receiving = field(init=False)
    threads: Threads = field(init=False)
    _askers: list[Deferred[int]] = Factory(list)
    is_taking: bool = False
    _by_policy: bool = False
    _pause: Deferred[None] | None = None
    """What the taking waits for and may be torn from: a turn, or the mark in the log."""

    def __attrs_post_init__(self) -> None:
        """Let nothing be under way."""
        self.threads = Threads(self.shell.reactor)
        rate = self.shell.bounds.snapshot_bytes_per_second
        self.sending = SendingSnapshots(
            self.shell, self.threads.call, Allowance(rate, self.shell.clock)
        )
        self.receiving = Receiving(self.shell, self.threads.call)

    # Taking.

    def consider(self, last_applied: int) -> None:
        """Take a snapshot where the policy finds it due, and none is taken [RULES N3]."""
        if self.is_taking:
            return
        if self.policy.is_due(self.shell.server, last_applied, self.sending.is_busy):
            self._by_policy = True
            self.take().addErrback(self._failed_to_take)

    def _failed_to_take(self, failure: Failure) -> None:
        if self.shell.running:
            self.policy.failed(self.shell.server, self.shell.replica.last_applied)
            _log.warn("No snapshot was taken: {reason}; the log stays", reason=self.last_error)

    def take(self) -> Deferred[int]:
        """Take a snapshot of what is applied; fires with its index once the log is marked.

        Whoever asks while one is taken gets the outcome of that one. Cancelling forgets the
        caller; the snapshot is taken all the same.
        """
        asker: Deferred[int] = Deferred(self._askers.remove)
        self._askers.append(asker)
        if not self.is_taking:
            self.is_taking = True
            Deferred.fromCoroutine(self._take()).addBoth(self._taken)
        return asker

    def take_anew(self) -> None:
        """Let another snapshot take the place of the newest one, which is damaged.

        It needs an index of its own: what a follower has of the old one must not be joined to it.
        """
        shell = self.shell
        if shell.replica.last_applied > shell.server.snapshot_index:
            self.take().addErrback(lambda _: None)
        else:
            # An entry that changes nothing, for the next attempt.
            payload, deadline = encode_sessions([]), shell.clock() + ENTRY_SECONDS
            shell.write(Batch([payload], deadline, nobody, Kind.KEEP_ALIVE))

    def _taken(self, result: int | Failure) -> None:
        self.is_taking = self._by_policy = False
        self.last_error = ""
        if isinstance(result, Failure):
            if result.check(CancelledError):
                result = Failure(NodeStopped())
            self.failed_count += 1
            self.last_error = str(result.value)
        askers, self._askers = self._askers, []
        for asker in askers:
            asker.callback(result)

    async def _take(self) -> int:
        shell = self.shell
        if not shell.running:
            raise NodeStopped()
        if shell.restoring.is_active:
            raise Overloaded("the leader's snapshot is being restored")
        if shell.replica.last_applied <= shell.server.snapshot_index:
            if not shell.server.snapshot_index:
                raise NotFound("nothing is applied yet")
            return shell.server.snapshot_index
        meta, chunks = shell.replica.snapshot()
        writer, size_bytes = None, 0
        try:
            writer = shell.storage.create_snapshot(meta)
            for chunk in chunks:
                if chunk:
                    await self.threads.call(writer.write, chunk)
                    size_bytes += len(chunk)
                else:
                    await self._breath()
                self._check_running()
            await self.threads.call(writer.commit)
            self._check_running()
        except Exception:
            if writer is not None:
                await self.threads.call(writer.abort)
            await self._give_up(chunks)
            raise
        if meta.index > shell.server.snapshot_index:
            # Otherwise one from the leader has overtaken it, and stands in the log already.
            await self._mark(meta.index, meta.term)
            self.policy.taken(size_bytes, self._by_policy)
            self.taken_count += 1
        return max(meta.index, shell.server.snapshot_index)

    async def _give_up(self, chunks: Iterator[bytes]) -> None:
        """Let the machine go on without its view, which it may have to tidy up step by step."""
        try:
            if isinstance(chunks, Generator) and self.shell.running:
                chunks.throw(GivenUp())
                while self.shell.running:
                    await self._breath()
                    next(chunks)
        except (GivenUp, StopIteration):
            pass
        finally:
            close = getattr(chunks, "close", None)
            if close is not None:
                close()

    async def _mark(self, index: int, term: int) -> None:
        shell, sent = self.shell, self.sending.indexes
        # The one that put itself off for a transfer must not end it: it goes on to the next one.
        limit_bytes = 2 * self.policy.sending_bytes
        keep = index + 1 - first_kept(shell.server, index, shell.bounds, sent, limit_bytes)
        marked: Deferred[None] = Deferred()
        shell.mark_snapshot(index, term, keep, lambda: marked.callback(None))
        await self._until(marked)
        shell.post(ev.SnapshotSaved(index, keep))

    async def _breath(self) -> None:
        await self._until(deferLater(self.shell.reactor, 0, lambda: None))

    async def _until(self, waited: Deferred[None]) -> None:
        self._pause = waited
        try:
            await waited
        finally:
            self._pause = None

    def _check_running(self) -> None:
        if not self.shell.running:
            raise NodeStopped()

    # Between servers, and the end.

    def installed(self, index: int) -> None:
        """A leader's snapshot has replaced the state: the next one is counted from it."""
        self.installed_index = index
        self.policy.taken(self.receiving.stored_bytes, by_policy=False)

    def role_changed(self, change: out.RoleChanged) -> None:
        """Go on with what the new role and term still need, and end the rest."""
        self.sending.role_changed(change)
        if change.leader is not None:
            self.receiving.drop_unless_of(change.leader)

    def stop(self) -> None:
        """Give up what is under way. `idle` tells when no thread is busy with it any more."""
        self.receiving.drop()
        self.sending.stop()
        if self._pause is not None:
            self._pause.cancel()

    def idle(self) -> Deferred[None]:
        """Fire when no other thread works for this node's snapshots."""
        return self.threads.idle()
