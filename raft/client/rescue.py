"""A cluster's state into a file, and back, from outside."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred, fail
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool

from raft.backup import Backup, BackupReader, BackupWriter, decode_meta, pieces, verify
from raft.client.checks import checked_timeout
from raft.client.links import Link, Links
from raft.client.search import Search
from raft.errors import BadBackup, NotAppended, OutcomeUnknown, RaftError, Timeout
from raft.transport import commands

BEGIN_SECONDS: Final = 60.0
"""How long it may take until a node has begun, where the caller does not say."""
PIECE_SECONDS: Final = 30.0
"""How long each piece may take after that."""
PIECE_TRIES: Final = 4
PAUSE_SECONDS: Final = 0.5

RESTORE_SECONDS: Final = 600.0
"""How long a restoration may take, where the caller does not say."""
RESTORE_PIECE_BYTES: Final = 256 * 1024
ID_BYTES: Final = 16

SKIP_SECONDS: Final = 10.0
"""How long it may take to skip an entry, where the caller does not say."""

Start = Callable[..., Deferred[Any]]


class Rescue:
    """What `RaftClient` offers to who saves the state of a cluster."""

    _reactor: Any
    _seconds: Callable[[], float]
    _links: Links
    _search: Search
    _start: Start

    def backup(self, path: str, timeout: float = BEGIN_SECONDS) -> Deferred[Backup]:
        """Save the cluster's state to the new file `path`; fire once it is whole and durable.

        Whatever was answered to anybody before this call is in it. One node is asked: the leader
        where it is known, else the first of the endpoints that can. The cluster goes on serving.

        Args:
            path: of the file; there must be none.
            timeout: seconds until a node has begun to give it. Then every piece has half a
                minute.

        Raises (as failures):
            BadConfiguration: the file exists already.
            OSError: the file cannot be written.
            Timeout, NotApplied: no node could give it, or give it to its end. Nothing is left
                behind; try again.
        """
        try:
            checked_timeout(timeout)
        except RaftError as error:
            return fail(error)
        return Deferred.fromCoroutine(self._backed_up(path, timeout))

    async def _backed_up(self, path: str, timeout: float) -> Backup:
        link, name, meta_bytes = await self._start(
            timeout, lambda remaining: self._search.ask(self._begun, remaining)
        )
        meta = decode_meta(meta_bytes)
        writer: BackupWriter | None = None
        try:
            writer = opened = await self._in_thread(BackupWriter.open, path, meta_bytes)
            number = 0
            while piece := await self._piece(link.address, name, number):
                await self._in_thread(opened.write, piece)
                number += 1
            await self._in_thread(opened.commit)
        except BaseException:
            if writer is not None:
                await self._in_thread(writer.abort)
            raise
        finally:
            self._forget_backup(link.address, name)
        return Backup(opened.path, meta, opened.size_bytes, opened.digest)

    async def _begun(self, link: Link, seconds: float) -> tuple[Link, str, bytes]:
        asked = link.call(
            self._seconds, commands.BeginBackup, seconds, timeout_ms=max(1, int(seconds * 1000))
        )
        answer = await asked
        try:
            decode_meta(answer["meta"])
        except BadBackup as error:
            raise NotAppended(f"the node's answer makes no sense: {error}") from error
        return link, answer["name"], answer["meta"]

    async def _piece(self, address: str, name: str, number: int) -> bytes:
        """Ask for a piece until it comes: it is the same one over another connection."""

        async def ask(remaining: Callable[[], float]) -> bytes:
            link = await self._links.reach(address, remaining())
            question = link.call(
                self._seconds, commands.BackupPiece, remaining(), name=name, number=number
            )
            return bytes((await question)["piece"])

        for tries_left in reversed(range(PIECE_TRIES)):
            try:
                piece: bytes = await self._start(PIECE_SECONDS / PIECE_TRIES, ask)
                return piece
            except (NotAppended, Timeout):
                if not tries_left:
                    raise
                await deferLater(self._reactor, PAUSE_SECONDS)
        raise NotAppended("no piece came")

    def _forget_backup(self, address: str, name: str) -> None:
        """Tell the node that it may forget the backup; without an answer it does so by itself."""

        async def ask(remaining: Callable[[], float]) -> None:
            link = await self._links.reach(address, remaining())
            await link.call(self._seconds, commands.EndBackup, remaining(), name=name)

        self._start(1.0, ask).addErrback(lambda _: None)

    def restore(
        self, path: str, timeout: float = RESTORE_SECONDS, *, replace: bool = False
    ) -> Deferred[int]:
        """Let the cluster's state be that of the backup `path`; fire with the entry's index.

        The file is read through before anything is done. Until the last of it has arrived nothing
        is changed; then the state is replaced on all servers at one place of the log: writes
        before it are gone, those behind it stay, and all sessions of clients have ended.

        Args:
            path: of a file that `backup` made, of this cluster or of another one.
            timeout: seconds for all of it; it begins anew with a new leader.
            replace: allow it where commands have changed the state before.

        Raises (as failures):
            BadBackup: the file is damaged, or of a machine that this cluster does not run.
            WouldReplace: there is a state already, and `replace` is not set.
            OSError: the file cannot be read.
            OutcomeUnknown, Timeout: with `appended`, it may be restored yet; else nothing is
                changed.
        """
        return self._start(timeout, lambda remaining: self._restored(path, replace, remaining))

    def skip(self, index: int, timeout: float = SKIP_SECONDS) -> Deferred[int]:
        """Let no server execute the command of entry `index`, at which all of them stop.

        The nodes must hold their machines (`twistd raft --hold`), a majority of them at least.
        Fires with the index of the entry that says so, once it is committed.

        Raises (as failures):
            NotFound: the entry is not committed, or is in a snapshot.
            Refused: it is no command, or the leader has applied it, or does not hold its machine.
            OutcomeUnknown, Timeout: it may be skipped yet; asking again does no harm.
        """

        async def step(link: Link, seconds: float) -> int:
            given = {"index": index, "timeout_ms": max(1, int(seconds * 1000))}
            answer = await link.call(self._seconds, commands.Skip, seconds, **given)
            return int(answer["index"])

        return self._start(timeout, lambda remaining: self._search.order(step, remaining))

    async def _restored(self, path: str, replace: bool, remaining: Callable[[], float]) -> int:
        found: Backup = await self._in_thread(verify, path)
        id = secrets.token_bytes(ID_BYTES)

        async def step(link: Link, seconds: float) -> int:
            with BackupReader.open(path) as reader:
                begin = {"id": id, "meta": reader.meta_bytes, "replace": replace}
                await self._harmless(link, commands.BeginRestore, seconds, **begin)
                await self._send_pieces(link, id, reader)
            end = {"id": id, "size_bytes": found.size_bytes, "digest": found.digest}
            seconds = max(remaining(), 0.001)
            end["timeout_ms"] = max(1, int(seconds * 1000))
            answer = await link.call(self._seconds, commands.EndRestore, seconds, **end)
            return int(answer["index"])

        return await self._search.order(step, remaining)

    async def _send_pieces(self, link: Link, id: bytes, reader: BackupReader) -> None:
        content, offset = pieces(reader, RESTORE_PIECE_BYTES), 0
        while piece := await self._in_thread(next, content, b""):
            given = {"id": id, "offset": offset, "piece": piece}
            given["timeout_ms"] = int(PIECE_SECONDS * 1000)
            await self._harmless(link, commands.RestorePiece, PIECE_SECONDS, **given)
            offset += len(piece)

    async def _harmless(
        self, link: Link, command: type[commands.Question], seconds: float, **arguments: Any
    ) -> None:
        """Ask what may be lost, or come twice: the end alone changes the state."""
        try:
            await link.call(self._seconds, command, seconds, **arguments)
        except (OutcomeUnknown, Timeout) as error:
            raise NotAppended(f"a piece of the backup had no answer: {error}") from error

    def _in_thread(self, function: Callable[..., Any], *arguments: object) -> Deferred[Any]:
        pool = self._reactor.getThreadPool()
        return deferToThreadPool(self._reactor, pool, function, *arguments)
