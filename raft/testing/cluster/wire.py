"""A network between whole nodes that obeys the test: links that delay, lose and are cut."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from attrs import evolve

from raft.core import events as ev
from raft.core import messages as ms
from raft.testing.cluster.world import World
from raft.transport.wire import SnapshotChunk, StateDigest

if TYPE_CHECKING:
    from raft.testing.cluster.whole_node import WholeNode

DELAY_SECONDS: Final = 0.001
"""How long a message is on its way, unless told otherwise."""

AnyNode = TypeVar("AnyNode", bound="WholeNode")


class Wire(Generic[AnyNode]):
    """Carries messages between the nodes of a world; cut links lose them.

    Attributes:
        nodes: those that are up, by id.
        cut: the links (from, to) that carry nothing.
        drop: loses those messages of which it returns True, as a full buffer would.
        delay: how many seconds a message takes; those of a link never overtake each other.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.nodes: dict[str, AnyNode] = {}
        self.cut: set[tuple[str, str]] = set()
        self.drop: Callable[[str, str, ms.Message], bool] = lambda *_: False
        self.delay: Callable[[], float] = lambda: DELAY_SECONDS
        self._latest: dict[tuple[str, str], float] = {}

    def isolate(self, *ids: str) -> None:
        """Cut off `ids`, together, from all others."""
        self.sever((one, other) for one in ids for other in self.nodes if other not in ids)

    def sever(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Cut the links between the two of each pair, and let both notice."""
        for one, other in pairs:
            self.cut |= {(one, other), (other, one)}
        for one, other in sorted(self.cut):
            if one in self.nodes:
                self.nodes[one].shell.post(ev.Unreachable(other))

    def heal(self) -> None:
        """Open all links."""
        self.cut.clear()

    def carry(
        self, sender: str, receiver: str, message: ms.Message | StateDigest, *beside: Any
    ) -> bool:
        """Take a message; False where it cannot be sent."""
        node = self.nodes.get(receiver)
        if node is None or (sender, receiver) in self.cut:
            return False
        if isinstance(message, StateDigest) or not self.drop(sender, receiver, message):
            if isinstance(message, ms.AppendEntries):
                # What travels is the records: who receives sums them up.
                message = evolve(message, entries=ms.Entries(message.prev_log_index + 1))
            now, link = self.world.seconds(), (sender, receiver)
            moment = max(now + self.delay(), self._latest.get(link, 0.0))
            self._latest[link] = moment
            self.world.callLater(moment - now, self.arrive, sender, receiver, message, *beside)
        return True

    def arrive(
        self, sender: str, receiver: str, message: ms.Message | StateDigest, *beside: Any
    ) -> None:
        """Hand a message to its receiver, where that is up and can be reached."""
        if receiver not in self.nodes or (sender, receiver) in self.cut:
            return
        node = self.nodes[receiver]
        if not isinstance(message, StateDigest):
            node.shell.receive(sender, message, *beside)
        elif node.guard is not None:
            node.guard.heard(sender, message)


class Port:
    """One node's end of the wire."""

    def __init__(self, wire: Wire[Any], id: str) -> None:
        self.wire, self.id = wire, id
        self.sent: list[tuple[str, ms.Message]] = []
        """All messages, where `keeps_sent`."""
        self.keeps_sent = False

    def send(
        self,
        peer: str,
        message: ms.Message,
        records: bytes = b"",
        chunk: SnapshotChunk | None = None,
    ) -> bool:
        """Send a message; see `raft.node.sending.Network`."""
        if self.keeps_sent:
            self.sent.append((peer, message))
        return self.wire.carry(self.id, peer, message, records, chunk)

    def send_digest(self, peer: str, digest: StateDigest) -> bool:
        """Send a digest; see `raft.node.guard.DigestNetwork`."""
        return self.wire.carry(self.id, peer, digest)

    def flush(self) -> None:
        """Nothing is held back."""

    def is_connected(self, peer: str) -> bool:
        """Tell whether `peer` is up and the link to it open."""
        return peer in self.wire.nodes and (self.id, peer) not in self.wire.cut
