"""A client of a simulated cluster: it finds the leader, and writes within a session."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final

from attrs import define

from raft.errors import (
    NodeFailed,
    NotApplied,
    OutcomeUnknown,
    RaftError,
    SessionExpired,
    Timeout,
)
from raft.numbering import Numbering, OpenedSession
from raft.storage.records import NONCE_BYTES
from raft.testing.cluster.node import SimNode
from raft.testing.cluster.wire import Wire
from raft.testing.cluster.world import NeverHappened

TRY_SECONDS: Final = 1.0
"""How long one node is asked before another one is."""


def serving(wire: Wire[SimNode]) -> SimNode | None:
    """Return the leader with the latest term that can answer, if there is one."""
    leaders = [node for _, node in sorted(wire.nodes.items()) if node.serves]
    return max(leaders, key=lambda node: node.shell.server.current_term, default=None)


@define(eq=False)
class SimClient:
    """Lets time pass until there is an answer.

    A write is sent again until then, within a session: it takes effect once.
    """

    wire: Wire[SimNode]
    chance: random.Random
    _numbering: Numbering | None = None

    def write(self, command: object, seconds: float) -> Any:
        """Return the result of a command.

        Raises:
            Refused: the machine's own error, among others.
            Timeout: there was none within `seconds`; it may have been applied all the same.
        """
        end = self._now() + seconds
        while True:
            numbering = self._session(end)
            call = numbering.next()
            tries: list[RaftError] = []

            def attempt(node: SimNode, left: float, call: Any = call) -> Callable[[], list[Any]]:
                told = node.write(command, left, call)
                return lambda: told.values

            try:
                return self._ask(attempt, end, tries)
            except SessionExpired as expired:
                # Time may pass by hours here: what nobody used has ended.
                self._numbering = None
                if any(not isinstance(each, NotApplied) for each in tries):
                    raise OutcomeUnknown("the session has expired meanwhile") from expired
            finally:
                numbering.answered(call.sequence)

    def read(self, query: object, seconds: float) -> Any:
        """Return the answer of the leader, confirmed; raise as `write` does."""

        def attempt(node: SimNode, left: float) -> Callable[[], list[Any]]:
            told = node.read(query, left)
            return lambda: told.values

        return self._ask(attempt, self._now() + seconds, [])

    def _session(self, end: float) -> Numbering:
        if self._numbering is None:

            def attempt(node: SimNode, left: float) -> Callable[[], list[Any]]:
                told: list[Any] = []
                node.open_session(self.chance.randbytes(NONCE_BYTES), left, told.append)
                return lambda: told

            opened: OpenedSession = self._ask(attempt, end, [])
            self._numbering = Numbering(opened)
        return self._numbering

    def _ask(
        self,
        attempt: Callable[[SimNode, float], Callable[[], list[Any]]],
        end: float,
        tries: list[RaftError],
    ) -> Any:
        world = self.wire.world
        while (left := end - self._now()) > 0:
            node = serving(self.wire)
            if node is None:
                self._wait(lambda: serving(self.wire), left)
                continue
            told = attempt(node, min(left, TRY_SECONDS))
            self._wait(told, min(left, 2 * TRY_SECONDS))
            value = told()[0] if told() else OutcomeUnknown("no answer")
            if not isinstance(value, RaftError):
                return value
            if not isinstance(value, NotApplied | OutcomeUnknown | Timeout | NodeFailed):
                raise value
            tries.append(value)
            # Otherwise who refuses at once would be asked forever at one moment.
            world.run(0.01)
        unsure = any(not isinstance(each, NotApplied) for each in tries)
        raise Timeout(unsure, f"{tries[-1] if tries else 'no leader'}; is a majority connected?")

    def _wait(self, until: Callable[[], object], seconds: float) -> None:
        try:
            self.wire.world.run(seconds, until)
        except NeverHappened:
            # Who waits looks for itself.
            pass

    def _now(self) -> float:
        return float(self.wire.world.seconds())
