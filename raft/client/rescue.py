"""A cluster's state into a file, from outside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred, fail
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool

from raft.backup import Backup, BackupWriter, decode_meta
from raft.client.checks import checked_timeout
from raft.client.links import Link, Links
from raft.client.search import Search
from raft.errors import BadBackup, NotAppended, RaftError, Timeout
from raft.transport import commands

BEGIN_SECONDS: Final = 60.0
"""How long it may take until a node has begun, where the caller does not say."""
PIECE_SECONDS: Final = 30.0
"""How long each piece may take after that."""
PIECE_TRIES: Final = 4
PAUSE_SECONDS: Final = 0.5

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

    def _in_thread(self, function: Callable[..., Any], *arguments: object) -> Deferred[Any]:
        pool = self._reactor.getThreadPool()
        return deferToThreadPool(self._reactor, pool, function, *arguments)
