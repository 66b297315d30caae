"""An operator who changes the members, as one does: through a client, one order after the other.

Each order has one outcome, in time (I22). "Done" is done: the members were committed as ordered
(I17). A server that was removed is stopped, emptied, or left alone: it must do no harm, and say
itself that it is out (M6).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from attrs import Factory, define, frozen
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from raft.core.configuration import Configuration
from raft.errors import RaftError
from raft.testing.choices import Json
from raft.testing.whole.client import LATE_SECONDS
from raft.testing.whole.process import Process

if TYPE_CHECKING:
    from raft.testing.whole.host import Host
    from raft.testing.whole.world import World

NAME: Final = "operator"
ADDRESS: Final = "127.0.3.1"
KINDS: Final = {"add": 25, "learn": 20, "promote": 15, "remove": 15, "unseat": 10, "replace": 15}
TIMEOUTS_SECONDS: Final = (0.5, 2.0, 5.0, 15.0)
REMAINS: Final = ("empty", "empty", "stop", "leave", "leave")
"""What becomes of a server that was removed."""
DOWN_SECONDS: Final = (0.0, 0.5, 2.0)
DOUBT_SECONDS: Final = 5.0
"""After which time a link has delivered an order, or has been reset."""


@frozen
class Order:
    """One change that was asked for."""

    kind: str
    ids: tuple[str, ...]
    deadline: float
    known: int
    """How many configurations were committed before."""
    remains: str
    """What becomes of the server that it removes."""

    def is_met_by(self, configuration: Configuration) -> bool:
        """Tell whether these members are what was ordered."""
        *leaving, last = self.ids
        match self.kind:
            case "remove":
                return last not in configuration.ids
            case "learn":
                member = configuration.member(last)
                return member is not None and not configuration.is_voter(last)
            case "replace":
                gone = not configuration.ids.intersection(leaving)
                return gone and configuration.member(last) is not None
        return configuration.is_voter(last)


@define(eq=False)
class Operator:
    """Gives orders through a `RaftClient` of its own; `order` is the one without an outcome."""

    world: World
    process: Process | None = None
    client: Any = None
    order: Order | None = None
    done: int = 0
    doubtful_since: float = -math.inf
    """When an order ended of which nobody knows whether it is still on its way."""
    chance: random.Random = Factory(random.Random)
    """When it acts."""
    later: Callable[..., object] = lambda *_: None
    """Does something after so many seconds, unless all is well by then."""

    def __attrs_post_init__(self) -> None:
        """Draw when it acts."""
        self.chance = random.Random(f"{self.world.seed}/{NAME}/acts")

    def start(self) -> None:
        """Begin its one life."""
        world = self.world
        chance = random.Random(f"{world.seed}/{NAME}")
        world.network.host_started(ADDRESS)
        self.process = Process(
            world.timeline, world.network, ADDRESS, chance, world.broke, world.entropy
        )
        self.process.enter(self._begin, self.process, chance)

    def _begin(self, process: Process, chance: random.Random) -> None:
        self.client = self.world.parts.client(
            self.world.client_addresses,
            reactor=process,
            sessions=False,
            chance=random.Random(chance.random()),
            allow_plaintext=True,
        )

    # Acting.

    def act(self) -> None:
        """Give one order, or none."""
        decided = self.world.choices.stream(NAME).choose(self._draw, None)
        if decided is not None and self.order is None:
            self._carry_out(decided)

    @property
    def is_quiet(self) -> bool:
        """Whether no order of its is on its way."""
        now = self.world.timeline.now
        return self.order is None and now - self.doubtful_since >= DOUBT_SECONDS

    def _draw(self, rng: random.Random) -> list[Json] | None:
        world, configuration = self.world, self.world.configuration()
        lost = [host.id for host in world.hosts.values() if host.view.is_lost]
        if lost:
            return self._draw_for(rng.choice(lost), lost, rng)
        kind = rng.choices(tuple(KINDS), tuple(KINDS.values()))[0]
        seconds, remains = rng.choice(TIMEOUTS_SECONDS), rng.choice(REMAINS)
        members = sorted(configuration.ids)
        strangers = [id for id in world.hosts if id not in configuration.ids]
        learners = [id for id in members if not configuration.is_voter(id)]
        leaders = [host.id for host in world.leaders() if host.id in members]
        leaving = {"unseat": leaders[:1], "promote": learners}.get(kind, members)
        one = rng.choice(leaving) if leaving else None
        other = rng.choice(strangers) if strangers else None
        match kind:
            case "add" | "learn" if other:
                return [kind, [other], seconds, remains]
            case "replace" if one and other:
                return [kind, [one, other], seconds, remains]
            case "promote" if one:
                return [kind, [one], seconds, remains]
            case "remove" | "unseat" if one and len(members) > 1:
                return ["remove", [one], seconds, remains]
        return None

    def _draw_for(self, id: str, lost: list[str], rng: random.Random) -> list[Json]:
        """Draw how a server that lost its directory is replaced, before anything else."""
        ids = self.world.configuration().ids
        seconds = rng.choice(TIMEOUTS_SECONDS)
        strangers = [each for each in self.world.hosts if each not in ids and each not in lost]
        if id not in ids:
            return ["empty", [id], seconds, "empty"]
        if strangers and rng.random() < 0.7:
            return ["replace", [id, rng.choice(strangers)], seconds, "empty"]
        return ["remove", [id], seconds, "empty"]

    def _carry_out(self, decided: list[Json]) -> None:
        match decided:
            case ["empty", [str(id)], _, _]:
                self.empty(self.world.hosts[id])
            case [str(kind), [*ids], int() | float() as seconds, str(remains)]:
                self.give(kind, tuple(map(str, ids)), float(seconds), remains)
            case _:
                raise ValueError(f"no order: {decided!r}")

    def give(self, kind: str, ids: tuple[str, ...], seconds: float, remains: str = "leave") -> None:
        """Begin a change; it has ended once `order` is None."""
        world = self.world
        deadline = world.timeline.now + seconds + LATE_SECONDS
        known = len(world.monitors.configurations)
        self.order = Order(kind, ids, deadline, known, remains)
        world.tell(NAME, f"orders: {kind} {', '.join(ids)}, within {seconds} s")
        if self.process is not None:
            self.process.enter(self._ask, self.order, seconds)

    def _ask(self, order: Order, seconds: float) -> None:
        client, member = self.client, self.world.member
        told: Deferred[None]
        match order.kind, order.ids:
            case "add", (id,):
                told = client.add(member(id), seconds)
            case "learn", (id,):
                told = client.add_learner(member(id), seconds)
            case "promote", (id,):
                told = client.promote(id, seconds)
            case "remove", (id,):
                told = client.remove(id, seconds)
            case "replace", (old, id):
                told = client.replace(old, member(id), seconds)
            case _:
                raise ValueError(f"no order: {order}")
        told.addBoth(partial(self._ended, order))

    def _ended(self, order: Order, result: Any) -> None:
        world = self.world
        self.order = None
        told = f"{type(result.value).__name__}: {result.value}" if result else "done"
        world.tell(NAME, f"is told of {order.kind} {', '.join(order.ids)}: {told}")
        if world.timeline.now > order.deadline:
            world.verdict.note("I22", f"{NAME} is answered too late: {order}, {told}")
        if isinstance(result, Failure):
            world.errors[type(result.value).__name__] += 1
            self.doubtful_since = world.timeline.now
            world.fired[f"order refused: {type(result.value).__name__}"] += 1
            if not isinstance(result.value, RaftError):
                world.verdict.note("raised", f"{NAME} is told {told}")
            return
        self.done += 1
        world.fired[f"order done: {order.kind}"] += 1
        # The one that was committed last when it was given may be as ordered already.
        since = world.monitors.configurations[max(0, order.known - 1) :]
        if not any(order.is_met_by(configuration) for _, configuration in since):
            world.verdict.note("I17", f"{order} is done, and the members were {since}")
        if order.kind in ("remove", "replace"):
            self._bury(world.hosts[order.ids[0]], order.remains)

    def _bury(self, host: Host, remains: str) -> None:
        """Do with a server that was removed as documented: stop it, or empty it for another day."""
        chance = self.chance
        if remains == "empty":
            self.later(chance.choice(DOWN_SECONDS), self.empty, host, chance.choice(DOWN_SECONDS))
        elif remains == "stop":
            host.stop()

    def empty(self, host: Host, down_seconds: float = 0.0) -> None:
        """Stop a server that is no member, empty its directory, and start it without members."""
        if host.id in self.world.configuration().ids:
            return
        host.kill()
        host.begin_anew()
        self.world.fired["server emptied"] += 1
        self.later(down_seconds, host.start)

    def finish(self) -> None:
        """Close in good order."""
        if self.process is not None and self.process.is_alive:
            self.process.enter(self.client.close)
