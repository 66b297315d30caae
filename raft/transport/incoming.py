"""A connection that a peer dialled: its greeting, then its messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from attrs import define, field, frozen

from raft.core.messages import Message
from raft.transport import wire
from raft.transport.boxes import (
    BOX_BYTES,
    BOX_KEYS,
    HANDSHAKE_BOX_BYTES,
    HANDSHAKE_KEYS,
    Box,
    BoxParser,
)
from raft.transport.connection import BoxConnection, Counters
from raft.transport.greeting import (
    Greeting,
    Identity,
    encode_answer,
    encode_refusal,
    objection,
    read_greeting,
)

LARGEST_CHUNK_BYTES: Final = 1 << 20
"""The largest chunk of a snapshot: it must fit into one box."""

Receive = Callable[[str, Message, bytes, wire.SnapshotChunk | None], object]


@define
class Assembly:
    """The fragments of one message that is still arriving."""

    term: int = 0
    sequence: int = 0
    _content: bytearray = field(factory=bytearray)
    """All of it in one piece: a peer that cuts its message into crumbs costs no more than that."""

    @property
    def size_bytes(self) -> int:
        """How much has arrived."""
        return len(self._content)

    def add(self, fragment: wire.Fragment, limit_bytes: int) -> None:
        """Add the next fragment; raise `BadMessage` where it does not follow or is too much."""
        if fragment.offset_bytes == 0:
            self.clear()
            self.term, self.sequence = fragment.term, fragment.sequence
        elif (fragment.term, fragment.sequence) != (self.term, self.sequence) or (
            fragment.offset_bytes != self.size_bytes
        ):
            raise wire.BadMessage(
                f"a fragment at {fragment.offset_bytes} of message {fragment.sequence} after "
                f"{self.size_bytes} bytes of message {self.sequence}"
            )
        if self.size_bytes + len(fragment.piece) > limit_bytes:
            raise wire.BadMessage(f"fragments of more than {limit_bytes} bytes")
        self._content += fragment.piece

    def take(self, box: Box) -> bytes:
        """Return what came before the rest in `box`, and begin anew."""
        if (box.get(b"term"), box.get(b"sequence")) != (
            b"%d" % self.term,
            b"%d" % self.sequence,
        ):
            raise wire.BadMessage("fragments of another message came before")
        before = bytes(self._content)
        self.clear()
        return before

    def clear(self) -> None:
        """Drop all."""
        self._content = bytearray()


@frozen
class Desk:
    """What an incoming connection needs of its network."""

    identity: Callable[[], Identity]
    judge: Callable[[Greeting], str | None]
    exclusion: Callable[[Greeting], int]
    """The index of the configuration without the server that greets; 0 where it is a member."""
    greeted: Callable[[Incoming], object]
    receive: Receive
    contact: Callable[[str, int], object]
    message_bytes: int
    compare: Callable[[str, wire.StateDigest], object] = lambda _sender, _digest: None
    outlived: Callable[[Greeting], bool] = lambda _greeting: False
    """Whether a server that is refused is told that its cluster lives without it."""


class Incoming(BoxConnection):
    """Believes nothing before the greeting, and afterwards who sent each message.

    Attributes:
        speaker: the peer's id once it has greeted, else empty.
        greeting: what it said of itself, once it was let in.
    """

    def __init__(self, desk: Desk, counters: Counters) -> None:
        """Wait for the greeting."""
        super().__init__(BoxParser(HANDSHAKE_BOX_BYTES, HANDSHAKE_KEYS), counters)
        self.greeting: Greeting | None = None
        self._desk = desk
        self._receive = desk.receive
        self._assembly = Assembly()

    def box_received(self, box: Box) -> None:
        """Hand a message on, with its sender; a fragment counts as contact."""
        if not self.is_greeted:
            self._greet(box)
            return
        if b"_ask" in box:
            raise wire.BadMessage("a question where only messages are taken")
        command = box.get(b"_command")
        if command == b"AppendFragment":
            fragment = wire.decode_fragment(box)
            self._assembly.add(fragment, self._desk.message_bytes)
            self._desk.contact(self.speaker, fragment.term)
            return
        if command == b"StateDigest":
            self._desk.compare(self.speaker, wire.decode_digest(box))
            return
        before = self._assembly.take(box) if b"fragment_bytes" in box else b""
        message, records, chunk = wire.decode(box, before)
        self._receive(self.speaker, message, records, chunk)

    def _greet(self, box: Box) -> None:
        ask = box.get(b"_ask", b"")
        if box.get(b"_command") != b"Hello" or not ask:
            raise wire.BadMessage("something else than a greeting came first")
        greeting = read_greeting(box)
        reason, is_outlived = objection(self._desk.identity(), greeting, "peer"), False
        if reason is None and (reason := self._desk.judge(greeting)) is not None:
            is_outlived = self._desk.outlived(greeting)
        if reason is not None:
            self.counters.refused += 1
            self.post(encode_refusal(reason, ask, is_outlived))
            self.counters.log.warn(
                "Refused {peer}, which calls itself {server}: {reason}",
                peer=self.peer_text(),
                server=greeting.server_id,
                reason=reason,
            )
            self.finish(f"refused: {reason}")
            return
        self.is_greeted = True
        self.speaker, self.greeting = greeting.server_id, greeting
        self.parser.limit_bytes = BOX_BYTES
        self.parser.limit_keys = BOX_KEYS
        excluded_index = self._desk.exclusion(greeting)
        self.post(encode_answer(self._desk.identity(), ask, excluded_index))
        self.flush()
        self._desk.greeted(self)
