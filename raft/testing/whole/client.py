"""Clients of a simulated cluster: `RaftClient` in processes of their own, and what they were told.

Each outcome is held against what the cluster did: done is done once with that result, denied is
never done (I16, I17), reads of one client never go back (I19), each call has one outcome in time
(I22). What was asked and told is a history for `raft.testing.linearizability` (I18).
"""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from attrs import Factory, define
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from raft.client import SavedSession
from raft.errors import NotApplied, RaftError, Refused, Timeout
from raft.interfaces import Indexed
from raft.testing.choices import Json
from raft.testing.history import Open
from raft.testing.whole.process import Process

if TYPE_CHECKING:
    from raft.testing.whole.world import World

LATE_SECONDS: Final = 0.2
"""How long after its deadline a call may be answered: the deadlines of a client are looked at
together."""
TIMEOUTS_SECONDS: Final = (0.1, 0.5, 2.0, 6.0)
OPERATIONS: Final = {"put": 30, "cas": 15, "append": 10, "delete": 5, "get": 30, "local": 10}
ACTS: Final = {"ask": 90, "cancel": 3, "restart": 2, "resume": 4, "idle": 5}
IDLE_SECONDS: Final = (0.5, 3.0)


@define(eq=False)
class Call:
    """One call that has no outcome yet."""

    number: int
    """Of the command; 0 for a query."""
    deadline: float
    told: Deferred[Any]
    opened: Open | None
    seen: int
    """The index that the client had seen when it asked."""


@define(eq=False)
class Written:
    """What an application notes in its own journal, to repeat it in the same session if it dies."""

    number: int
    op: str
    key: str
    command: list[Any]
    seconds: float
    opened: Open | None


@define(eq=False)
class Client:
    """One client, in one process after another."""

    world: World
    name: str
    address: str
    has_sessions: bool
    is_monotonic: bool
    process: Process | None = None
    client: Any = None
    open: dict[int, Call] = Factory(dict)
    lives: int = 0
    done: int = 0
    failed: int = 0
    chance: random.Random = Factory(random.Random)
    """When it acts."""
    _known: dict[str, Any] = Factory(dict)
    """Key -> the value that it last saw there."""
    _seen: int = 0
    _idle_until: float = 0.0
    _saved: SavedSession | None = None
    """The session as it was before the commands in the journal; None where that is not certain."""
    _journal: list[Written] = Factory(list)

    def __attrs_post_init__(self) -> None:
        """Draw when it acts."""
        self.chance = random.Random(f"{self.world.seed}/{self.name}/acts")

    def start(self, saved: SavedSession | None = None) -> Process:
        """Begin a life, with nothing of the one before but its session, where that is given."""
        world = self.world
        self.lives += 1
        chance = random.Random(f"{world.seed}/{self.name}/{self.lives}")
        world.network.host_started(self.address)
        self.process = process = Process(
            world.timeline, world.network, self.address, chance, world.broke, world.entropy
        )
        self._seen = 0
        process.enter(self._begin, process, chance, saved)
        return process

    def _begin(self, process: Process, chance: random.Random, saved: SavedSession | None) -> None:
        self.client = self.world.parts.client(
            self.world.client_addresses,
            reactor=process,
            sessions=self.has_sessions,
            session=saved,
            monotonic=self.is_monotonic,
            chance=random.Random(chance.random()),
            allow_plaintext=True,
        )

    # Acting.

    def act(self) -> None:
        """Do one thing, or nothing."""
        world = self.world
        decided = world.choices.stream(self.name).choose(self._draw, None)
        if self.process is None or decided is None or world.timeline.now < self._idle_until:
            return
        match decided:
            case ["ask", [*operations], int() | float() as seconds]:
                self._note_session()
                for operation in operations:
                    self.process.enter(self.ask, operation, float(seconds))
            case ["cancel", int(place)] if self.open:
                self._saved = None
                calls = list(self.open.values())
                self.process.enter(calls[place % len(calls)].told.cancel)
            case ["restart"]:
                self.restart()
            case ["resume"] if self._saved is not None:
                self._resume()
            case ["idle", int() | float() as seconds]:
                self._idle_until = world.timeline.now + seconds

    def _draw(self, rng: random.Random) -> Json:
        swarm = self.world.swarm
        (act,) = rng.choices(tuple(ACTS), tuple(ACTS.values()))
        match act:
            case "ask":
                operations: list[Json] = []
                for _ in range(rng.randint(1, swarm.burst)):
                    (name,) = rng.choices(tuple(OPERATIONS), tuple(OPERATIONS.values()))
                    if name == "get" and swarm.lease_share and rng.random() < swarm.lease_share:
                        name = "lease"
                    operations.append([name, rng.randint(1, swarm.keys)])
                return ["ask", operations, rng.choice(TIMEOUTS_SECONDS)]
            case "cancel":
                return ["cancel", rng.randrange(100)]
            case "restart" | "resume":
                return [act]
        return ["idle", round(rng.uniform(*IDLE_SECONDS), 2)]

    def restart(self) -> None:
        """Die without a word, and begin anew: nobody hears what becomes of its calls."""
        if self.process is not None:
            for call in self.open.values():
                if call.opened is not None:
                    call.opened.unknown()
                call.told.addErrback(lambda _: None)
            self.open.clear()
            self.process.kill()
        self._saved = None
        self.start()

    def _note_session(self) -> None:
        """Note what a restart needs to repeat all that is about to be written."""
        self._saved = None if self.open else self.client.session
        self._journal.clear()

    def _resume(self) -> None:
        """Die without a word; then repeat in the same session all that was written [S7]."""
        journal, saved = list(self._journal), self._saved
        for call in self.open.values():
            call.told.addErrback(lambda _: None)
            if call.opened is not None and not call.number:
                call.opened.unknown()
        still_open = {call.number for call in self.open.values()}
        self.open.clear()
        if self.process is not None:
            self.process.kill()
        self.start(saved)
        self.world.fired["session resumed"] += 1
        self._saved = None
        for each in journal:
            if each.number not in still_open:
                # It has had its outcome; the copy must have the same one.
                each.opened = None
            if self.process is not None:
                self.process.enter(self._send, each)

    def ask(self, operation: Json, seconds: float) -> None:
        """Begin one operation: [name, number of the key]."""
        match operation:
            case ["get" | "lease" | "local" as name, int(place)]:
                self._read(name, f"k{place}", seconds)
            case ["append", int(place)]:
                number = self.world.next_number()
                self._write(number, "append", f"l{place}", ["append", f"l{place}", number], seconds)
            case ["delete", int(place)]:
                key = f"k{place}"
                self._write(self.world.next_number(), "delete", key, ["delete", key], seconds)
            case ["cas", int(place)]:
                number, key = self.world.next_number(), f"k{place}"
                command = ["cas", key, self._known.get(key), number]
                self._write(number, "cas", key, command, seconds)
            case [_, int(place)]:
                number, key = self.world.next_number(), f"k{place}"
                self._write(number, "put", key, ["set", key, number], seconds)

    def _write(self, number: int, op: str, key: str, command: list[Any], seconds: float) -> None:
        value = None if op == "delete" else number
        expected = command[2] if op == "cas" else None
        opened = self.world.recorder.begin(f"{self.name}/{number}", op, key, value, expected)
        written = Written(number, op, key, command, seconds, opened)
        self._journal.append(written)
        self._send(written)

    def _send(self, each: Written) -> None:
        told = self.client.write([each.number, each.command], each.seconds)
        then = partial(self._written, each.key, each.op, each.number)
        self._wait(each.number, told, each.opened, each.seconds, then)

    def _read(self, name: str, key: str, seconds: float) -> None:
        number = self.world.next_number()
        if name == "local":
            told = self.client.read_indexed(["get", key], seconds, consistency="local")
            self._wait(0, told, None, seconds, lambda _: None)
            return
        opened = self.world.recorder.begin(f"{self.name}/{number}", "get", key)
        told = self.client.read(
            ["get", key], seconds, consistency="lease" if name == "lease" else ""
        )
        self._wait(0, told, opened, seconds, partial(self._known.__setitem__, key))

    def _written(self, key: str, op: str, number: int, result: Any) -> None:
        if op == "put" or (op == "cas" and result):
            self._known[key] = number

    # Outcomes.

    def _wait(
        self, number: int, told: Deferred[Any], opened: Open | None, seconds: float, then: Any
    ) -> None:
        now = self.world.timeline.now
        call = Call(number, now + seconds + LATE_SECONDS, told, opened, self._seen)
        key = self.world.next_number()
        self.open[key] = call
        told.addBoth(self._ended, key, call, then)

    def _ended(self, result: Any, key: int, call: Call, then: Any) -> None:
        if self.open.pop(key, None) is None:
            # That life is over.
            return
        world = self.world
        if world.timeline.now > call.deadline:
            late = world.timeline.now - call.deadline + LATE_SECONDS
            world.verdict.note("I22", f"{self.name} is answered {late:.3f} s late: {result}")
        if isinstance(result, Failure):
            self._failed(result.value, call)
            return
        self.done += 1
        if isinstance(result, Indexed):
            if self.is_monotonic and result.index < call.seen:
                world.verdict.note("I19", f"{self.name} saw {call.seen}, then {result.index}")
            self._seen = max(self._seen, result.index)
            result = result.value
        if call.number:
            world.witness.done(call.number, result)
            result = world.releases.unwrapped(result)
        if call.opened is not None:
            call.opened.returned(result)
        then(result)

    def _failed(self, error: BaseException | None, call: Call) -> None:
        self.failed += 1
        world = self.world
        world.errors[type(error).__name__] += 1
        if not isinstance(error, RaftError | CancelledError):
            world.verdict.note("raised", f"{self.name} is told {type(error).__name__}: {error}")
            return
        is_definite = isinstance(error, NotApplied | Refused) or (
            isinstance(error, Timeout) and not error.appended
        )
        if call.opened is not None:
            (call.opened.refused if is_definite else call.opened.unknown)()
        if call.number and is_definite:
            world.witness.deny(call.number)
            if not isinstance(error, Refused):
                # It may have had no number: those behind it have other ones than a repetition.
                self._saved = None

    def finish(self) -> None:
        """Close in good order."""
        if self.process is not None and self.process.is_alive:
            self.process.enter(self.client.close)
