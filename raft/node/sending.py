"""Messages on their way out: held back for the disk, and given the records they speak of."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from attrs import Factory, define, evolve

from raft.core import messages as ms
from raft.core import outputs as out
from raft.transport.wire import SnapshotChunk

if TYPE_CHECKING:
    from raft.node.shell import Shell

MOST_HELD = 4096
"""How many messages wait for a disk at most; the oldest are lost then, as any message may be."""


class Network(Protocol):
    """What the shell asks of the transport (`raft.transport.peers.PeerNetwork` has more)."""

    def send(
        self,
        peer: str,
        message: ms.Message,
        records: bytes = b"",
        chunk: SnapshotChunk | None = None,
    ) -> bool:
        """Send, or drop and return False."""

    def flush(self) -> None:
        """Write what was sent in this turn."""

    def is_connected(self, peer: str) -> bool:
        """Tell whether messages to `peer` can be sent."""


@define(eq=False)
class Sending:
    """Sends what the core says, when it says."""

    shell: Shell
    _held: deque[out.Send] = Factory(lambda: deque(maxlen=MOST_HELD))

    def carry_out(self, sends: Iterable[out.Send]) -> None:
        """Send what waited for a save that is done by now, then what may leave at once."""
        held, saved_ticket = self._held, self.shell.server.saved_ticket
        while held and held[0].after <= saved_ticket:
            self._send(held.popleft())
        for send in sends:
            if send.after:
                held.append(send)
            else:
                self._send(send)
        self.shell.network.flush()

    def _send(self, send: out.Send) -> None:
        message, records = send.message, b""
        shell = self.shell
        if not shell.network.is_connected(send.receiver):
            return
        if isinstance(message, ms.AppendEntries) and message.entries.runs:
            server = shell.server
            if server.role is not out.Role.LEADER or message.term != server.current_term:
                return
            found = self._slice(message.entries)
            if found is None:
                return
            records = found
        elif isinstance(message, ms.InstallSnapshotResult):
            offset_bytes = shell.snapshots.receiving.received_bytes(send.receiver)
            message = evolve(message, offset_bytes=offset_bytes)
        shell.network.send(send.receiver, message, records)

    def _slice(self, entries: ms.Entries) -> bytes | None:
        pieces: list[bytes] = []
        reached = entries.start
        try:
            while reached < entries.end:
                reached, piece = self.shell.cache.slice(reached, entries.end, 1 << 30)
                pieces.append(piece)
        except KeyError:
            return None
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
