"""What a node answers to its clients: boxes of encoded commands in, packed results out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat
from typing import TYPE_CHECKING

import msgspec
from attrs import define
from twisted.internet.defer import Deferred
from zope.interface import implementer

from raft.codec import Codec
from raft.core.configuration import Member
from raft.errors import NodeStopped, NotAppended, RaftError
from raft.interfaces import IClientService, IRescueService, ReadTerms, Stated, StatedAnswer
from raft.node.answers import Outcome, nobody
from raft.node.parts import Gathering, checked, parts_of
from raft.node.reads import ReadBatch
from raft.node.sequences import Place
from raft.node.writes import Batch
from raft.numbering import OpenedSession, SessionCall
from raft.storage.records import Kind, session_payloads
from raft.transport.arguments import pack_array

if TYPE_CHECKING:
    from raft.service import RaftService

_encode = msgspec.msgpack.Encoder().encode


def pack_outcomes(outcomes: list[Outcome]) -> bytes:
    """Return the results of a batch as the wire carries them; nothing is decoded."""
    return pack_array(
        [
            b"\x92\xa0" + encoded if not code else b"\x92" + _encode(code) + encoded
            for code, encoded in outcomes
        ]
    )


def packing(answer: StatedAnswer) -> Callable[[list[Outcome] | RaftError], None]:
    """Return what takes a batch's outcomes and gives `answer` their packed form."""

    def packed(result: list[Outcome] | RaftError) -> None:
        answer(result if isinstance(result, RaftError) else pack_outcomes(result))

    return packed


def _stating(
    answer: StatedAnswer, batches: list[Batch]
) -> Callable[[list[Outcome] | RaftError], None]:
    """Return what gives `answer` the packed outcomes, with the index of the last command."""

    def stated(result: list[Outcome] | RaftError) -> None:
        end = max(batch.end for batch in batches)
        if isinstance(result, RaftError) or not end:
            packing(answer)(result)
        else:
            answer(Stated(pack_outcomes(result), end - 1))

    return stated


def _numbered(
    commands: list[bytes], refused: dict[int, Outcome], session: SessionCall
) -> list[bytes]:
    """Return the payloads of those commands that are not refused; each keeps its number."""
    payloads = session_payloads(session.id, session.sequence, session.low_mark, commands)
    if not refused:
        return payloads
    return [payload for at, payload in enumerate(payloads) if at not in refused]


def places_of(
    parts: list[list[bytes]], count: int, refused: dict[int, Outcome], session: SessionCall
) -> Iterator[Place]:
    """Yield the place of each part of a box of `count` commands in `session`.

    Numbers of commands that are refused belong to the part before them, or to the first one.
    """
    accepted = [at for at in range(count) if at not in refused] if refused else range(count)
    begin = reached = 0
    for part in parts:
        reached += len(part)
        end = accepted[reached] if reached < len(accepted) else count
        whole = end - begin == len(part)
        yield Place(
            session.id, session.sequence + begin, session.sequence + end, session.low_mark, whole
        )
        begin = end


@implementer(IClientService, IRescueService)
@define(eq=False)
class ClientDesk:
    """Stands between the client listener and one node."""

    node: RaftService
    codec: Codec

    def write_batch(
        self,
        commands: list[bytes],
        timeout_seconds: float,
        answer: StatedAnswer,
        with_index: bool = False,
        session: SessionCall | None = None,
    ) -> None:
        """Check, then append; or pass on to the leader where this node is set to forward."""
        node = self.node
        if not node.serves:
            raise NodeStopped()
        deadline = node.clock() + timeout_seconds
        accepted, refused = checked(commands, self.codec.check)
        if node.forwards and (session is not None or (accepted and not refused)):
            # The leader must hear of all numbers of a session, of bad commands too.
            address = node.leader_address()
            node.forwarder.write_batch(
                address, commands, timeout_seconds, answer, with_index, session
            )
        elif not accepted:
            packing(answer)([refused[at] for at in sorted(refused)])
            if session is not None:
                # The numbers count as answered: what follows them has its turn all the same.
                places = places_of([[]], len(commands), refused, session)
                self._write_in_session([Batch([], deadline, nobody)], places)
        else:
            batches: list[Batch] = []
            tell = _stating(answer, batches) if with_index else packing(answer)
            gathering = Gathering(tell, refused)
            if session is not None:
                accepted = _numbered(commands, refused, session)
            parts = list(parts_of(accepted))
            # All parts are known before the first can be answered.
            takers = [gathering.part(len(part)) for part in parts]
            batches += map(Batch, parts, repeat(deadline), takers)
            if session is None:
                for batch in batches:
                    node.shell.write(batch)
            else:
                places = places_of(parts, len(commands), refused, session)
                self._write_in_session(batches, places)

    def _write_in_session(self, batches: list[Batch], places: Iterable[Place]) -> None:
        """Write the parts of a box in their order; behind one that is refused none goes."""
        refused = False
        for batch, place in zip(batches, places, strict=True):
            batch.kind, batch.place = Kind.SESSION_COMMAND, place
            if refused:
                batch.finish(NotAppended("what comes before it was refused"))
            else:
                self.node.shell.write(batch)
                refused = batch.answered

    def open_session(self, nonce: bytes, timeout_seconds: float) -> Deferred[OpenedSession]:
        """Open a session."""
        return self.node.open_session(timeout_seconds, nonce)

    def keep_sessions(
        self, sessions: Sequence[bytes], timeout_seconds: float
    ) -> Deferred[list[bool]]:
        """Keep sessions alive."""
        return self.node.keep_sessions(sessions, timeout_seconds)

    def close_sessions(
        self, sessions: Sequence[bytes], timeout_seconds: float
    ) -> Deferred[list[bool]]:
        """End sessions."""
        return self.node.close_sessions(sessions, timeout_seconds)

    def read_batch(
        self, queries: list[bytes], timeout_seconds: float, terms: ReadTerms, answer: StatedAnswer
    ) -> None:
        """Answer from a state as `terms` say, and tell which it was."""
        node = self.node
        if not node.serves:
            raise NodeStopped()
        deadline = node.clock() + timeout_seconds
        accepted, refused = checked(queries, self.codec.check)
        if not accepted:
            packing(answer)([refused[at] for at in sorted(refused)])
            return

        def tell(result: list[Outcome] | RaftError) -> None:
            if isinstance(result, RaftError):
                answer(result)
            else:
                answer(Stated(pack_outcomes(result), batch.index, batch.age_seconds))

        take = Gathering(tell, refused).part(len(accepted))
        batch = ReadBatch(accepted, deadline, take, terms)
        node.read_batch(batch)

    def status(self) -> dict[str, object]:
        """Return the node's status."""
        return self.node.status()

    def leader(self) -> tuple[str, str]:
        """Return the leader's id and client address, empty where not known.

        A leader that is no member of what has come here so far has no address for the client: it
        is better off with the word of another node.
        """
        leader = self.node.leader()
        if leader is None or self.node.shell.server.configuration.member(leader) is None:
            return "", ""
        return leader, self.node.leader_address() or ""

    def set_configuration(
        self,
        members: tuple[Member, ...],
        timeout_seconds: float,
        replace: bool = False,
        expected_index: int | None = None,
        force: bool = False,
    ) -> Deferred[None]:
        """Add or update `members`, or make them the cluster."""
        return self.node.set_configuration(
            members, timeout_seconds, replace=replace, expected_index=expected_index, force=force
        )

    def get_entry(self, index: int) -> dict[str, object]:
        """Return the committed entry at `index`."""
        return self.node.entry(index)

    def transfer_leadership(self, target: str | None, timeout_seconds: float) -> Deferred[str]:
        """Hand the leadership on."""
        return self.node.transfer_leadership(target, timeout_seconds)

    def skip(self, index: int, timeout_seconds: float) -> Deferred[int]:
        """Let no server execute the command of an entry."""
        return self.node.skip(index, timeout_seconds)

    def begin_backup(self, timeout_seconds: float) -> Deferred[tuple[str, bytes]]:
        """Begin a backup of this node's state."""
        return Deferred.fromCoroutine(self.node.backups.begin(timeout_seconds))

    def backup_piece(self, name: str, number: int) -> Deferred[bytes]:
        """Return a piece of a backup."""
        return Deferred.fromCoroutine(self.node.backups.piece(name, number))

    def end_backup(self, name: str) -> None:
        """Forget a backup."""
        self.node.backups.end(name)

    def begin_restore(self, id: bytes, meta: bytes, replace: bool) -> None:
        """Take the pieces of a backup from here on."""
        self.node.restorations.begin(id, meta, replace)

    def restore_piece(
        self, id: bytes, offset: int, piece: bytes, timeout_seconds: float
    ) -> Deferred[None]:
        """Append a piece of a backup."""
        piecewise = self.node.restorations.piece(id, offset, piece, timeout_seconds)
        return Deferred.fromCoroutine(piecewise)

    def end_restore(
        self, id: bytes, size_bytes: int, digest: bytes, timeout_seconds: float
    ) -> Deferred[int]:
        """Let a backup replace the state."""
        ending = self.node.restorations.end(id, size_bytes, digest, timeout_seconds)
        return Deferred.fromCoroutine(ending)
