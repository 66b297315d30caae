"""The way in from outside: one connection to a node, and questions over it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol

from raft.transport.arguments import Result
from raft.transport.commands import Question
from raft.transport.peers import Greeting


class ClientConnection(Protocol):
    """A connection to one node. Questions of one turn leave in one write.

    What goes wrong is a `RaftError`. A connection that breaks ends what was written with
    `OutcomeUnknown` if it might have been sent and `NotAppended` if not; questions that
    change nothing always end with `NotAppended`.

    Attributes:
        greeting: what the node said of itself in the handshake; None if there was none.
        lost: fires with a text when the connection is gone; never fails.
        connected: whether questions can be asked.
    """

    greeting: Greeting | None = None
    lost: Deferred[str]

    def call(
        self, command: type[Question], timeout_seconds: float = 5.0, **arguments: Any
    ) -> Deferred[dict[str, Any]]:
        """Ask any question of `raft.transport.commands`, by its declaration.

        After `timeout_seconds`, or when cancelled, nothing of it is left behind: a late answer
        is dropped. It fails with `Timeout` then; cancelling does not undo what was asked.
        """
        raise NotImplementedError

    def write_batch(self, commands: Sequence[bytes], timeout_ms: int) -> Deferred[list[Result]]:
        """Write encoded commands; fires with a result or a `RaftError` for each, in order."""
        raise NotImplementedError

    def read_batch(
        self, queries: Sequence[bytes], timeout_ms: int, consistency: str = "linearizable"
    ) -> Deferred[list[Result]]:
        """Read encoded queries; fires with a result or a `RaftError` for each, in order."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the connection; what is outstanding fails."""
        raise NotImplementedError


def dial(
    reactor: Any, address: str, timeout_seconds: float = 5.0, cluster_id: str = ""
) -> Deferred[ClientConnection]:
    """Connect to a node and greet it; cancelling gives up.

    `address` is an endpoint string or `host:port`. A node of another cluster than `cluster_id`
    (where it is not empty) refuses.

    Raises (as failures):
        PeerRefused: the node belongs to another cluster or speaks another version.
        NotAppended: it cannot be reached within `timeout_seconds`.
        BadConfiguration: `address` is none.
    """
    raise NotImplementedError
