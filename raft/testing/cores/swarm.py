"""What one seed's world is like: drawn first, so that each seed stresses another corner.

Swarm testing: a bug that needs one entry a message, or a slow disk, or no faults but
crashes, is rare when every run has a little of everything, and common when some runs
have much of it and none of the rest [TESTING 3.3].
"""

from __future__ import annotations

import random

from attrs import evolve, field, frozen

from raft.core.configuration import Configuration, Member
from raft.core.server import Options
from raft.storage.records import SessionLimits

TIMEOUT_SECONDS = 0.3
"""The base election timeout, T, in which the phases of a run are measured."""
TICK_SECONDS = TIMEOUT_SECONDS / 10
"""The unit of message delays."""
MOST_SERVERS = 7

PARTITIONS = ("halves", "isolate", "ring", "bridge", "deaf", "mute")
"""The shapes in which links may be cut: see `raft.testing.cores.network.cut_links`."""

FAULTS = (
    "crash",
    "crash leader",
    "pause",
    *PARTITIONS,
    "flap",
    "reset",
    "replay",
    "depose",
)
"""What may befall a run at a random moment."""

WIPES = ("wipe", "lose")
"""What may befall directories, where members change: see `raft.testing.cores.wipes`."""

LEASE_FAULTS = ("alone", "late answers", "asleep", "forget")
"""What may befall a leader that reads by lease: see `raft.testing.cores.lease_faults`."""

LINK_FAULTS = ("slow link",)
"""What may befall single links, in some worlds."""

TRIGGERS = (
    "crash before send",
    "send to one",
    "partition after election",
    "drop first no-op",
)
"""What may befall a run at its most delicate moments."""

CHANGE_TRIGGERS = ("change first",)
"""What may, where members change: a change is asked for before the term's first entry commits."""


@frozen(kw_only=True)
class Swarm:
    """The settings of one run. All times are in seconds, all rates are probabilities."""

    seed: int
    voters: int = 3
    learners: int = 0
    bootstrap_all: bool = True
    """Every voter starts from the configuration, or only the first does."""
    options: Options = field(factory=Options)
    spares: int = 0
    """Servers that run empty, until a change of the members lets them join."""
    change_seconds: float = 0.0
    """The mean time from one change of the members to the next; 0 for never."""
    wipes: bool = False
    """Whether servers may lose their directories."""
    lease_share: float = 0.0
    """The share of reads that are asked for by lease."""

    chaos_seconds: float = 30 * TIMEOUT_SECONDS
    steady_seconds: float = 20 * TIMEOUT_SECONDS
    max_chaos_events: int = 2800
    """The chaos ends early once the cores have been handed so many events."""

    delay_seconds: tuple[float, float] = (0.1 * TICK_SECONDS, TICK_SECONDS)
    loss: float = 0.0
    duplicate: float = 0.0
    in_order: bool = False
    turn_seconds: float = 0.0
    """How long a node gathers events before it steps; 0 steps for each."""
    save_seconds: tuple[float, float] = (0.0, 0.0)
    group_saves: bool = True
    """Whether one sync makes all that is queued durable, as one ticket."""
    timeout_spread: float = 1.0
    """What share of their range election timeouts are drawn from in the chaos: if small,
    elections are contested again and again."""
    clock_skew: float = 0.0
    """Each node's clock runs at a rate drawn from 1 - skew to 1 + skew."""
    extreme_clocks: bool = False
    """Whether each clock runs at one end of that range, and at the worse one at bad moments."""

    snapshot_every: int = 0
    """Applied entries between snapshots; 0 for never."""
    trailing: int = 0
    damaged_share: float = 0.0
    """How often a server that restarts finds its newest snapshot damaged."""

    faults: tuple[str, ...] = ()
    fault_seconds: float = 2 * TIMEOUT_SECONDS
    """The mean time from one fault to the next."""
    triggers: tuple[str, ...] = ()
    trigger_rate: float = 0.0
    request_seconds: float = 0.05
    """The mean time from one client request to the next."""
    session_clients: int = 0
    """How many clients keep sessions; 0 for none, and for nodes without them."""
    session_limits: SessionLimits = SessionLimits()
    session_window: int = 1
    """How many commands of one session may wait for their answers."""
    mix: tuple[float, float, float] = (0.7, 0.28, 0.02)
    """The shares of writes, reads and transfers of leadership."""
    minority: str = ""
    """What stays wrong with a minority of voters for ever: down, deaf, mute, or nothing."""
    aged: bool = False
    """Whether the nodes begin with unequal logs and terms, in a world without chaos."""
    cold: bool = False
    """Whether all nodes lose power when the world is healed: nobody leads, all ask."""

    @property
    def servers(self) -> tuple[str, ...]:
        """The ids of all servers there are: the first members, then the spares."""
        count = self.voters + self.learners + self.spares
        return tuple(f"n{number}" for number in range(1, count + 1))

    @property
    def configuration(self) -> Configuration:
        """The first configuration: voters n1, n2, ..., then the learners."""
        return Configuration(
            tuple(
                Member(f"n{number}", voter=number <= self.voters)
                for number in range(1, self.voters + self.learners + 1)
            )
        )

    @classmethod
    def draw(cls, seed: int) -> Swarm:
        """Draw the world of `seed`; the same seed gives the same world."""
        rng = random.Random(f"{seed}/swarm")
        options = _options(rng)
        world = cls(
            seed=seed,
            voters=rng.choices((1, 2, 3, 4, 5, 7), (3, 6, 46, 10, 28, 7))[0],
            learners=rng.choices((0, 1, 2), (80, 15, 5))[0],
            bootstrap_all=rng.random() < 0.75,
            options=options,
            chaos_seconds=rng.uniform(20, 60) * TIMEOUT_SECONDS,
            steady_seconds=(100 if rng.random() < 0.05 else 10) * TIMEOUT_SECONDS,
            delay_seconds=_ticks(rng.choices(((0.1, 1), (0.5, 3), (0, 20)), (5, 3, 2))[0]),
            loss=rng.choice((0.0, 0.0, 0.02, 0.1, 0.3)),
            duplicate=rng.choice((0.0, 0.0, 0.05, 0.2)),
            in_order=rng.random() < 0.5,
            turn_seconds=rng.choice((0.0, 0.0, 0.0, 0.002, 0.02)),
            save_seconds=rng.choice(((0.0, 0.0), (0.0005, 0.005), (0.01, 0.15))),
            group_saves=rng.random() < 0.5,
            clock_skew=rng.choice((0.0, 0.0, 0.05, 0.2)),
            snapshot_every=rng.choice((0, 0, 5, 50)),
            trailing=rng.choice((0, 5)),
            damaged_share=random.Random(f"{seed}/damage").choice((0.0, 0.2, 0.6)),
            faults=_some(rng, FAULTS, 0.45),
            fault_seconds=rng.choice((0.5, 1, 2, 4)) * TIMEOUT_SECONDS,
            triggers=_some(rng, TRIGGERS, 0.6),
            trigger_rate=rng.choice((0.05, 0.2, 0.5)),
            request_seconds=rng.choice((0.01, 0.03, 0.1)),
            mix=rng.choice(((0.7, 0.28, 0.02), (0.95, 0.05, 0.0), (0.4, 0.5, 0.1))),
            cold=rng.random() < 0.2,
            aged=rng.random() < 0.1,
            minority=_minority(rng, options),
            timeout_spread=rng.choice((1.0, 1.0, 1.0, 0.1)),
        )
        return _with_moods(_with_sessions(_with_wipes(_with_leases(_with_changes(world)))))


def _options(rng: random.Random) -> Options:
    pre_vote, check_quorum = rng.choices(
        ((True, True), (False, False), (False, True), (True, False)), (60, 16, 8, 16)
    )[0]
    return Options(
        heartbeat_seconds=TIMEOUT_SECONDS / 5,
        election_timeout_seconds=TIMEOUT_SECONDS,
        max_append_entries=rng.choice((1, 2, 64)),
        max_append_bytes=rng.choice((200, 65536)),
        max_inflight_messages=rng.choice((1, 2, 8)),
        max_inflight_bytes=rng.choice((400, 1 << 20)),
        max_uncommitted_bytes=rng.choice((2000, 1 << 20)),
        pre_vote=pre_vote,
        check_quorum=check_quorum,
    )


def _with_changes(world: Swarm) -> Swarm:
    """Let the members of half of the worlds change, among at most seven servers."""
    rng = random.Random(f"{world.seed}/members")
    room = MOST_SERVERS - world.voters - world.learners
    if world.aged or rng.random() < 0.5:
        return world
    return evolve(
        world,
        spares=rng.randint(min(1, room), min(3, room)) if room > 0 else 0,
        change_seconds=rng.choice((1, 3, 8)) * TIMEOUT_SECONDS,
        options=evolve(
            world.options, join_timeout_seconds=rng.choice((2, 5, 20)) * TIMEOUT_SECONDS
        ),
    )


def _with_wipes(world: Swarm) -> Swarm:
    """Let directories be lost in some worlds whose members change; nobody else stays lame."""
    rng = random.Random(f"{world.seed}/wipes")
    if not world.change_seconds or rng.random() < 0.5:
        return world
    # It takes a while until all are known by their incarnations.
    times = rng.randint(1, 4)
    return evolve(world, minority="", wipes=True, faults=world.faults + WIPES * times)


def _with_leases(world: Swarm) -> Swarm:
    """Let some worlds read by lease; their clocks keep to the bound that is promised."""
    rng = random.Random(f"{world.seed}/leases")
    if not world.options.check_quorum or rng.random() < 0.5:
        return world
    world = evolve(world, clock_skew=rng.choice((0.0, 0.05, 0.2, 0.3)))
    bound = (1 + world.clock_skew) / (1 - world.clock_skew) * (1 + 1e-9)
    share, faults = rng.choice((0.5, 1.0)), _some(rng, LEASE_FAULTS, 0.7)
    world = evolve(
        world,
        lease_share=share,
        extreme_clocks=rng.random() < 0.7,
        faults=world.faults + faults,
        options=evolve(world.options, clock_drift_bound=bound),
    )
    if not faults or rng.random() < 0.4:
        return world
    # A leader must serve for a while to have a lease that could be too long: a quiet world,
    # in which the same number of events lasts longer.
    return evolve(
        world,
        faults=faults,
        fault_seconds=rng.choice((1, 2)) * TIMEOUT_SECONDS,
        loss=0.0,
        delay_seconds=_ticks((0.1, 1)),
        triggers=(),
        turn_seconds=min(world.turn_seconds, 0.002),
        request_seconds=0.1,
        chaos_seconds=60 * TIMEOUT_SECONDS,
    )


def _with_sessions(world: Swarm) -> Swarm:
    """Let clients keep sessions in half of the worlds, under limits that are felt."""
    rng = random.Random(f"{world.seed}/sessions")
    if world.aged or rng.random() < 0.5:
        return world
    return evolve(
        world,
        session_clients=rng.randint(1, 4),
        session_window=rng.choice((1, 3, 6)),
        session_limits=SessionLimits(
            timeout_us=int(rng.choice((1, 3, 10, 1000)) * TIMEOUT_SECONDS * 1_000_000),
            sessions=rng.choice((2, 3, 8)),
            results=rng.choice((2, 8)),
        ),
    )


def _with_moods(world: Swarm) -> Swarm:
    """Let links be slow in some worlds, windows be of any size, and changes come too early."""
    rng = random.Random(f"{world.seed}/moods")
    if world.aged or rng.random() >= 0.3:
        return world
    return evolve(
        world,
        faults=world.faults + LINK_FAULTS * rng.randint(1, 3),
        triggers=world.triggers + (CHANGE_TRIGGERS if world.change_seconds else ()),
        options=evolve(world.options, max_inflight_messages=rng.randint(1, 8)),
    )


def _minority(rng: random.Random, options: Options) -> str:
    kind = rng.choices(("", "down", "mute", "deaf"), (70, 10, 10, 10))[0]
    # A deaf leader is followed, and a deaf candidate disturbs, where nothing forbids it [E7].
    return kind if kind != "deaf" or (options.pre_vote and options.check_quorum) else ""


def _some(rng: random.Random, names: tuple[str, ...], share: float) -> tuple[str, ...]:
    return tuple(name for name in names if rng.random() < share)


def _ticks(span: tuple[float, float]) -> tuple[float, float]:
    return span[0] * TICK_SECONDS, span[1] * TICK_SECONDS
