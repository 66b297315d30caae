"""I21: every queue of a node keeps within what its settings allow."""

from __future__ import annotations

from typing import Final

from attrs import define

from raft.service import RaftService
from raft.testing.whole.verdict import Verdict

MARGIN_BYTES: Final = 1 << 20
"""One message more may be under way than the bound says."""


@define(eq=False)
class QueueBounds:
    """Looks at the queues of a node at the end of its turns."""

    verdict: Verdict

    def look(self, service: RaftService) -> None:
        """See that nothing has grown beyond its bound."""
        network, listener = service.network, service.listener
        for connection in network._outgoing:
            if connection.queued_bytes > network.limits.queue_bytes + MARGIN_BYTES:
                self._note(service, f"{connection.queued_bytes} bytes wait for a peer")
        if listener.connection_count > listener.limits.connections:
            self._note(service, f"{listener.connection_count} clients are connected")
        if len(network._incoming) > network.limits.connections:
            self._note(service, f"{len(network._incoming)} peers are connected")

    def _note(self, service: RaftService, what: str) -> None:
        self.verdict.note("I21", f"{service.id}: {what}")
