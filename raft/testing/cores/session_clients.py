"""Clients that keep sessions: they number their commands and send each until it is answered.

A command goes to whichever node they like, again while the first copy is under way, and once
more long after it was answered, as a slow network would bring it. Whatever comes of that, each
is executed once [RULES S1-S9].
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
from attrs import Factory, define, field

from raft.core.outputs import Accepted
from raft.errors import ResultDropped, SessionExpired, StaleSequence
from raft.outcomes import Result
from raft.storage.records import (
    Kind,
    encode,
    encode_registration,
    encode_sessions,
    session_id,
    session_payloads,
)
from raft.testing.cores.disk import Entry, SessionRecord
from raft.testing.cores.swarm import TIMEOUT_SECONDS

if TYPE_CHECKING:
    from raft.testing.cores.model_node import ModelNode
    from raft.testing.cores.workload import Workload

FIRST_ATTEMPT = 1 << 40
"""Numbers of requests above this are attempts of clients with sessions."""
ACTIONS = ("send", "again", "keep alive", "close", "idle", "cancel")
WEIGHTS = (45, 40, 7, 2, 4, 2)
REFUSED_RATE = 0.2
"""How many commands the machine refuses: a result like any other [RULES S6]."""
LATE_RATE = 0.15
"""How many copies come back much later."""
REGISTERED_SECONDS = 4 * TIMEOUT_SECONDS
"""After this time a registration without an answer is given up."""


@define(eq=False)
class Operation:
    """One command: its place in the session, and what is known of its copies."""

    number: int
    """In the whole world; negative where the machine refuses the command."""
    sequence: int
    floor: int
    """What had been answered before it was first sent."""
    copies: int = 0
    """How many were sent that may be, or come to be, in the log."""


@define(eq=False)
class Attempt:
    """One request: an entry of one kind, or consecutive commands, on its way to one node."""

    client: SessionClient
    kind: Kind
    session: bytes = b""
    low_mark: int = 0
    nonce: bytes = b""
    operations: tuple[Operation, ...] = ()

    @property
    def count(self) -> int:
        """How many entries it makes."""
        return max(1, len(self.operations))


@define(eq=False)
class SessionClient:
    """One client: its session, and the commands that wait for an answer, by sequence number."""

    session: bytes = b""
    next_sequence: int = 1
    waiting: dict[int, Operation] = Factory(dict)
    nonce: bytes = b""
    registered_at: float = 0.0
    idle_until: float = 0.0

    @property
    def low_mark(self) -> int:
        """The lowest number without an answer."""
        return min(self.waiting, default=self.next_sequence)

    def forget(self) -> None:
        """Begin anew, without a session."""
        self.session, self.nonce, self.next_sequence = b"", b"", 1
        self.waiting.clear()


@define(eq=False)
class SessionClients:
    """All clients with sessions of a world."""

    workload: Workload
    done: int = 0
    """Commands that were answered with their result."""
    expired: int = 0
    clients: list[SessionClient] = field(init=False)
    _rng: random.Random = field(init=False)
    _asking: int = 0
    _active: bool = False
    _operations: int = 0
    _attempts: dict[int, Attempt] = Factory(dict)
    """Those that were neither rejected, answered nor lost with their node."""
    _numbers: int = FIRST_ATTEMPT
    _pending: dict[str, dict[int, tuple[int, int, int]]] = Factory(dict)
    """For each node: index to (term, attempt, place in it)."""

    def __attrs_post_init__(self) -> None:
        """Draw the clients' own chance."""
        swarm = self.workload.swarm
        self._rng = random.Random(f"{swarm.seed}/session clients")
        self.clients = [SessionClient() for _ in range(swarm.session_clients)]

    # Asking

    def start(self) -> None:
        """Begin to ask."""
        self._asking += 1
        self._active = True
        if self.clients:
            self._later(self._asking)

    def stop(self) -> None:
        """Ask no more; what is under way is still answered."""
        self._asking += 1
        self._active = False

    def _later(self, asking: int) -> None:
        # Sessions live longer than requests last: they need not ask as often.
        mean_seconds = max(self.workload.swarm.request_seconds, 0.03)
        delay = self._rng.expovariate(1 / mean_seconds)
        self.workload.timeline.after(delay, self._act, asking)

    def _act(self, asking: int) -> None:
        if asking != self._asking:
            return
        self._later(asking)
        client, now = self._rng.choice(self.clients), self.workload.timeline.now
        if now < max(client.idle_until, self.workload.silent_until):
            return
        if not client.session:
            self._register(client)
            return
        match self._rng.choices(ACTIONS, WEIGHTS)[0]:
            case "send":
                room = self.workload.swarm.session_window
                room -= client.next_sequence - client.low_mark
                count = min(room, self._rng.choice((1, 1, 2, 3)))
                refused = [self._rng.random() < REFUSED_RATE for _ in range(count)]
                self.send(client, refused)
            case "again":
                if client.waiting:
                    self.send_again(client, self._rng.choice(sorted(client.waiting)))
            case "keep alive":
                self.keep_alive(client)
            case "close":
                self.close(client)
            case "idle":
                timeout_us = self.workload.swarm.session_limits.timeout_us
                idle = min(timeout_us / 1_000_000, 10 * TIMEOUT_SECONDS)
                client.idle_until = now + self._rng.uniform(0.3, 1.5) * idle
            case _:
                if client.waiting:
                    self.cancel(client, self._rng.choice(list(client.waiting)))

    def _register(self, client: SessionClient) -> None:
        now = self.workload.timeline.now
        if client.nonce and now < client.registered_at + REGISTERED_SECONDS:
            return
        client.registered_at = now
        self.register(client, self._rng.randbytes(8))

    # What a client does, in so many words.

    def register(self, client: SessionClient, nonce: bytes) -> None:
        """Ask for a session."""
        client.nonce = nonce
        self._ask(Attempt(client, Kind.REGISTER, nonce=client.nonce))

    def keep_alive(self, client: SessionClient) -> None:
        """Say that the session is still wanted."""
        self._ask(Attempt(client, Kind.KEEP_ALIVE, client.session))

    def close(self, client: SessionClient) -> None:
        """Give the session up, and with it what is under way: nothing more is learnt of that."""
        self._ask(Attempt(client, Kind.CLOSE_SESSION, client.session))
        client.forget()

    def cancel(self, client: SessionClient, sequence: int) -> None:
        """Wait no more for a command: a cancelled number counts as answered [RULES S9]."""
        del client.waiting[sequence]

    def send(self, client: SessionClient, refused: Sequence[bool]) -> None:
        """Send new commands, of which some will be refused, and all that were never sent."""
        for is_refused in refused:
            self._operations += 1
            sign = -1 if is_refused else 1
            sequence = client.next_sequence
            client.next_sequence += 1
            client.waiting[sequence] = Operation(
                sign * self._operations, sequence, self.workload.floor
            )
        fresh = [each for each in client.waiting.values() if not each.copies]
        self._send_copies(client, fresh)

    def send_again(self, client: SessionClient, sequence: int) -> None:
        """Send another copy of a command that waits for its answer."""
        self._send_copies(client, [client.waiting[sequence]])

    def _send_copies(self, client: SessionClient, operations: list[Operation]) -> None:
        if not operations:
            return
        attempt = Attempt(
            client,
            Kind.SESSION_COMMAND,
            client.session,
            client.low_mark,
            operations=tuple(operations),
        )
        self._ask(attempt)
        late_seconds = self._late_seconds()
        if late_seconds:
            for each in operations:
                each.copies += 1
            self.workload.timeline.after(late_seconds, self._ask_late, attempt)

    def _late_seconds(self) -> float:
        """Return when one more copy of what was just sent comes along; 0 where none does."""
        if self._rng.random() >= LATE_RATE:
            return 0.0
        return self._rng.uniform(0, 6) * TIMEOUT_SECONDS

    def _ask_late(self, attempt: Attempt) -> None:
        for each in attempt.operations:
            each.copies -= 1
        if self._active:
            self._ask(attempt)

    def _ask(self, attempt: Attempt) -> None:
        node = self.workload.somebody()
        if node is None:
            return
        for each in attempt.operations:
            each.copies += 1
        self._numbers += 1
        self._attempts[self._numbers] = attempt
        node.propose(self._numbers, attempt.count, 100 * attempt.count)

    # The log

    def entries(self, node: ModelNode, number: int, start: int, end: int, term: int) -> list[Entry]:
        """Return the entries [start, end) of an attempt that `node` now appends in `term`."""
        attempt = self._attempts[number]
        time_us = node.machine.cluster_time_us(term)
        match attempt.kind:
            case Kind.REGISTER:
                payload = encode_registration(attempt.nonce, self.workload.swarm.session_limits)
            case Kind.SESSION_COMMAND:
                return [
                    self._command(attempt, place, start + place, term, time_us)
                    for place in range(end - start)
                ]
            case _:
                payload = encode_sessions([attempt.session])
        record = encode(start, term, time_us, attempt.kind, payload)
        return [(term, SessionRecord(record, time_us), len(record))]

    def _command(self, attempt: Attempt, place: int, index: int, term: int, time_us: int) -> Entry:
        operation = attempt.operations[place]
        command = msgspec.msgpack.encode([operation.number])
        (payload,) = session_payloads(
            attempt.session, operation.sequence, attempt.low_mark, [command]
        )
        record = encode(index, term, time_us, Kind.SESSION_COMMAND, payload)
        return term, SessionRecord(record, time_us, abs(operation.number)), len(record)

    # Answers

    def accepted(self, node: ModelNode, accepted: Accepted) -> None:
        """A node appended an attempt."""
        pending = self._pending.setdefault(node.id, {})
        for index in range(accepted.start, accepted.end):
            pending[index] = (accepted.term, accepted.request, index - accepted.start)

    def rejected(self, number: int) -> None:
        """A node did not append an attempt: those copies never were."""
        for each in self._attempts.pop(number).operations:
            each.copies -= 1

    def applied(self, node: ModelNode, index: int, entry: Entry, outcome: Result) -> None:
        """Tell the client that waits for `index` at this node, if one does."""
        pending = self._pending.get(node.id)
        waiting = pending.pop(index, None) if pending else None
        if waiting is None:
            return
        term, number, place = waiting
        attempt = self._attempts[number]
        if term != entry[0]:
            # Superseded: another leader's entry stands there.
            for each in attempt.operations[place : place + 1]:
                each.copies -= 1
        elif attempt.operations:
            self._answered(attempt, attempt.operations[place], index, outcome)
        elif attempt.kind == Kind.REGISTER and attempt.client.nonce == attempt.nonce:
            attempt.client.session = session_id(index, attempt.nonce)
            self.workload.floor = max(self.workload.floor, index)

    def _answered(
        self, attempt: Attempt, operation: Operation, index: int, outcome: Result
    ) -> None:
        client, once = attempt.client, self.workload.monitors.once
        waits = (
            client.session == attempt.session
            and client.waiting.get(operation.sequence) is operation
        )
        number, code = abs(operation.number), outcome[0]
        if code == SessionExpired.code:
            if operation.copies == 1:
                # It was the only copy that ever was: a clear no.
                once.forbid(number)
            if client.session == attempt.session:
                self.expired += 1
                client.forget()
            return
        if not waits:
            return
        swarm = self.workload.swarm
        if code == StaleSequence.code or (
            code == ResultDropped.code and swarm.session_window <= swarm.session_limits.results
        ):
            once.violated("I16", f"{operation} waits for its result, and is told {outcome}")
        del client.waiting[operation.sequence]
        if code == ResultDropped.code:
            return
        if once.executions[number] <= operation.floor:
            once.violated("I18", f"{operation} was executed at {once.executions[number]}")
        self.done += 1
        self.workload.floor = max(self.workload.floor, index)

    def swallowed(self, node: ModelNode) -> None:
        """A snapshot took the place of entries: nobody learns what came of them there."""
        pending = self._pending.get(node.id, {})
        for index in [index for index in pending if index <= node.applied]:
            del pending[index]

    def crashed(self, node: str) -> None:
        """A node lost its memory."""
        self._pending.pop(node, None)
