"""Model clients: unique writes and linearizable reads, checked against the one true history.

Commands are applied in the order of the log, so the history is linearizable exactly if
real time agrees with that order: what is asked after an answer stands above it. One
number is enough to check that: `floor`, the highest index that any answer has shown.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from attrs import Factory, define, field

from raft.core.configuration import Member
from raft.core.events import (
    CancelReads,
    ChangeConfiguration,
    PinIncarnations,
    TransferLeadership,
)
from raft.core.outputs import Outputs, Role
from raft.testing.cores.disk import Entry
from raft.testing.cores.session_clients import FIRST_ATTEMPT, SessionClients
from raft.testing.cores.swarm import TIMEOUT_SECONDS, Swarm
from raft.testing.cores.timeline import Timeline

if TYPE_CHECKING:
    from raft.testing.cores.model_node import ModelNode
    from raft.testing.cores.monitors import Monitors

PATIENCE_SECONDS = 4 * TIMEOUT_SECONDS
"""When a client stops waiting for a read."""
PIN_RATE = 0.05
"""How often a node hears a member's incarnation: a change of configuration but for members."""
STEADY_SECONDS = TIMEOUT_SECONDS / 4
STEADY_MIX = (0.6, 0.4, 0.0)


@define(eq=False)
class Request:
    """One write, change or read: where it was asked, and what had been answered before."""

    node: str
    floor: int
    count: int = 0
    """How many commands a write holds; 0 for a read or a change."""
    size_bytes: int = 0
    expected_index: int | None = None
    """The configuration from which a change was computed, where it says so."""
    outcome: str = ""
    """Empty while unanswered; then done, refused, superseded, lost or unknown."""


@define(eq=False)
class Workload:
    """Asks at random moments and remembers what was answered."""

    swarm: Swarm
    timeline: Timeline
    monitors: Monitors
    nodes: dict[str, ModelNode] = Factory(dict)
    requests: dict[int, Request] = Factory(dict)
    clients_class: ClassVar[type[SessionClients]] = SessionClients
    clients: SessionClients = field(init=False)
    """Those that keep sessions, in worlds that have them."""
    floor: int = 0
    silent_until: float = 0.0
    """Until then the clients ask nothing, nor do operators: a lull, as there are at night."""
    done_writes: int = 0
    done_reads: int = 0
    _rng: random.Random = field(init=False)
    _lease_rng: random.Random = field(init=False)
    _asking: int = 0
    """Grows when the clients stop or start: an older loop ends."""
    _mean_seconds: float = 0.0
    _mix: tuple[float, float, float] = (1.0, 0.0, 0.0)
    _payload: int = 0
    _pending: dict[str, dict[int, tuple[int, int]]] = Factory(dict)
    """For each node: index to (term, request) of the writes it accepted."""

    def __attrs_post_init__(self) -> None:
        """Draw the clients' own chance."""
        self._rng = random.Random(f"{self.swarm.seed}/workload")
        self._lease_rng = random.Random(f"{self.swarm.seed}/lease reads")
        self._mean_seconds, self._mix = self.swarm.request_seconds, self.swarm.mix
        self.clients = self.clients_class(self)

    # Asking

    def start(self) -> None:
        """Begin to ask."""
        self._asking += 1
        self._later(self._asking)
        self.clients.start()

    def stop(self) -> None:
        """Ask no more; what is under way is still answered."""
        self._asking += 1
        self.clients.stop()

    def steady(self) -> None:
        """Ask for little, and for no transfers, from now on."""
        self._mean_seconds, self._mix = STEADY_SECONDS, STEADY_MIX
        self.start()

    def hush(self, seconds: float) -> None:
        """Ask nothing for so long."""
        self.silent_until = self.timeline.now + seconds

    def _later(self, asking: int) -> None:
        delay = self._rng.expovariate(1 / self._mean_seconds)
        self.timeline.after(delay, self._ask, asking)

    def _ask(self, asking: int) -> None:
        if asking != self._asking:
            return
        self._later(asking)
        node = self.somebody()
        if node is None or self.timeline.now < self.silent_until:
            return
        if self._rng.random() < PIN_RATE:
            heard = [self._rng.choice(list(self.nodes.values()))]
            if self.swarm.wipes:
                heard = [each for each in self.nodes.values() if each.up]
            self.pin(node, tuple((each.id, each.incarnation) for each in heard))
        match self._rng.choices((0, 1, 2), self._mix)[0]:
            case 0:
                self.write(node, self._rng.choice((1, 1, 1, 2, 5)))
            case 1:
                self.read(node)
            case _:
                self.transfer(node, self._rng.choice([None, *self.nodes]))

    def somebody(self) -> ModelNode | None:
        """Return a node that is up, rather one that leads."""
        up = [node for node in self.nodes.values() if node.up]
        leading = [node for node in up if node.role is Role.LEADER]
        if leading and self._rng.random() < 0.7:
            return self._rng.choice(leading)
        return self._rng.choice(up) if up else None

    def pin(self, node: ModelNode, incarnations: tuple[tuple[str, str], ...]) -> None:
        """Let `node` hear of servers by their incarnations."""
        node.hand(PinIncarnations(incarnations))

    def transfer(self, node: ModelNode, target: str | None) -> None:
        """Ask `node` to hand the leadership over."""
        node.hand(TransferLeadership(target))

    def write(self, node: ModelNode, count: int = 1, size_bytes: int = 0) -> int:
        """Ask `node` to append `count` commands of that size; return the request's number.

        The size of each is drawn where none is given.
        """
        size = size_bytes or self._rng.randint(40, 120)
        number = self._note(Request(node.id, self.floor, count, size))
        node.propose(number, count, size * count)
        return number

    def read(self, node: ModelNode, *, lease: bool | None = None) -> int:
        """Ask `node` for a linearizable read; return the request's number.

        Whether it may be answered by a lease is drawn where nothing is said.
        """
        number = self._note(Request(node.id, self.floor))
        if lease is None:
            share = self.swarm.lease_share
            lease = bool(share) and self._lease_rng.random() < share
        node.read(number, lease=lease)
        self.timeline.after(PATIENCE_SECONDS, self._give_up, number, node.epoch)
        return number

    def change(
        self,
        node: ModelNode,
        members: tuple[Member, ...],
        expected_index: int | None = None,
        *,
        force: bool = False,
    ) -> int:
        """Ask `node` to make `members` the cluster; return the request's number."""
        number = self._note(Request(node.id, self.floor, expected_index=expected_index))
        node.hand(ChangeConfiguration(number, members, expected_index, force))
        return number

    def _note(self, request: Request) -> int:
        number = len(self.requests) + 1
        self.requests[number] = request
        return number

    def _give_up(self, number: int, epoch: int) -> None:
        request = self.requests[number]
        node = self.nodes[request.node]
        if not request.outcome and node.epoch == epoch:
            request.outcome = "unknown"
            node.hand(CancelReads((number,)))

    # Answers

    def payloads(
        self, node: ModelNode, number: int, start: int, end: int, term: int
    ) -> list[Entry]:
        """Return the entries [start, end) of a write that `node` now appends in `term`."""
        if number > FIRST_ATTEMPT:
            return self.clients.entries(node, number, start, end, term)
        request, count = self.requests[number], end - start
        if count != request.count or request.outcome:
            self.monitors.violated("I17", f"request {number} is appended after {request}")
        first = self._payload + 1
        self._payload += count
        return [(term, payload, request.size_bytes) for payload in range(first, first + count)]

    def answered(self, node: ModelNode, outputs: Outputs) -> None:
        """Take the answers of one step."""
        for accepted in outputs.accepted:
            if accepted.request > FIRST_ATTEMPT:
                self.clients.accepted(node, accepted)
                continue
            pending = self._pending.setdefault(node.id, {})
            pending[accepted.end - 1] = (accepted.term, accepted.request)
            expected = self.requests[accepted.request].expected_index
            if expected is not None:
                self.monitors.compared(node, accepted.start, expected)
        for rejected in outputs.rejected:
            if rejected.request > FIRST_ATTEMPT:
                self.clients.rejected(rejected.request)
            elif rejected.request:
                self._end(node, rejected.request, "refused")
        for lost in outputs.lost:
            self._end(node, lost, "lost")
        for confirmed in outputs.confirmed:
            request = self.requests[confirmed.request]
            if confirmed.index < request.floor:
                self.monitors.violated(
                    "I18",
                    f"{node.id} confirms read {confirmed.request} at {confirmed.index}, "
                    f"but {request.floor} was answered before it was asked",
                )
            if confirmed.index >= len(self.monitors.committed):
                self.monitors.violated("I18", f"{node.id} reads {confirmed}, not committed")
            if self._end(node, confirmed.request, "confirmed"):
                read = (confirmed.index, confirmed.request, confirmed.valid_until)
                node.waiting_reads.append(read)

    def _end(self, node: ModelNode, number: int, outcome: str) -> bool:
        """Note the one answer to a request; False where nobody waits for it."""
        request = self.requests[number]
        if request.node != node.id or request.outcome not in ("", "unknown"):
            self.monitors.violated("I22", f"{node.id} answers {number} {outcome}: {request}")
        if request.outcome:
            return False
        request.outcome = outcome
        return True

    def served(self, number: int, applied: int) -> None:
        """A confirmed read was answered from the state as of `applied`."""
        self.requests[number].outcome = "done"
        self.done_reads += 1
        self.floor = max(self.floor, applied)

    def expired(self, number: int) -> None:
        """The lease ended before a confirmed read could be answered."""
        self.requests[number].outcome = "lost"

    def applied(self, node: ModelNode, index: int, entry: Entry) -> None:
        """Answer the write that waits for `index` at this node, if one does."""
        pending = self._pending.get(node.id)
        waiting = pending.pop(index, None) if pending else None
        if waiting is None:
            return
        term, number = waiting
        request = self.requests[number]
        if term != entry[0]:
            request.outcome = "superseded"
            return
        if index <= request.floor:
            self.monitors.violated("I18", f"write {number} at {index}, asked after {request.floor}")
        request.outcome = "done"
        self.done_writes += bool(request.count)
        self.floor = max(self.floor, index)

    def swallowed(self, node: ModelNode) -> None:
        """A snapshot took the place of entries: the outcome of what waited is unknown."""
        self.clients.swallowed(node)
        pending = self._pending.get(node.id, {})
        self._forget([index for index in pending if index <= node.applied], pending)

    def crashed(self, node: str) -> None:
        """A node lost its memory: nobody learns what became of its requests."""
        self.clients.crashed(node)
        pending = self._pending.pop(node, {})
        self._forget(list(pending), pending)
        for request in self._unanswered(node):
            request.outcome = "unknown"

    def _forget(self, indexes: Sequence[int], pending: dict[int, tuple[int, int]]) -> None:
        for index in indexes:
            self.requests[pending.pop(index)[1]].outcome = "unknown"

    def _unanswered(self, node: str) -> list[Request]:
        return [
            request
            for request in self.requests.values()
            if request.node == node and request.outcome in ("", "confirmed")
        ]
