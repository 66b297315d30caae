"""What one seed's world of whole nodes is like: drawn first, so each seed is another corner."""

from __future__ import annotations

import random
from typing import Final

from attrs import evolve, field, frozen

from raft.core.server import Options
from raft.node.bounds import Bounds
from raft.storage.records import SessionLimits
from raft.testing.cores.swarm import TIMEOUT_SECONDS
from raft.testing.whole.minority import KINDS
from raft.testing.whole.network import Weather
from raft.testing.whole.scenes import SCENES
from raft.testing.whole.versioned import Release

TROUBLES: Final = (
    "kill",
    "power",
    "kill at disk",
    "power at disk",
    "kill at send",
    "pause",
    "cut",
    "one way",
    "flap",
    "reset",
    "slow link",
    "late",
    "slow disk",
    "failing disk",
    "full disk",
    "rot",
    "wipe",
    "transfer",
    "snapshot",
)
"""What may befall a world at a random moment; see `raft.testing.whole.troubles`."""
COPYING: Final = ("copy", "put back", "put back", "second")
"""What becomes of copies of directories; see `raft.testing.whole.copies`."""

RELEASES: Final[tuple[tuple[Release, ...], ...]] = (
    ((1, 1), (1, 2)),
    ((1, 1), (1, 2), (1, 3)),
    ((1, 1), (1, 2), (2, 3), (1, 3)),
    ((1, 1), (1, 3)),
    ((1, 2), (2, 3), (1, 3)),
)


@frozen(kw_only=True)
class Swarm:
    """The settings of one world. Times are in seconds, rates are probabilities."""

    seed: int
    voters: int = 3
    options: Options = field(factory=Options)
    bounds: Bounds = field(factory=Bounds)
    session_limits: SessionLimits = SessionLimits()
    weather: Weather = field(factory=Weather)
    segment_size_bytes: int = 65536
    disk_seconds: tuple[float, float] = (0.0, 0.002)
    clock_skew: float = 0.0
    """Each machine's clock runs at a rate drawn from 1 - skew to 1 + skew."""
    forward: bool = False
    """Whether followers pass writes on to the leader."""
    extreme_clocks: bool = False
    """Whether each clock runs at one end of that range, and at the worse one in some scenes."""
    lease_share: float = 0.0
    """The share of reads that are asked for by lease."""
    repair: bool = False
    """Whether a log that has rotted is to be repaired by the others."""
    minority: str = ""
    """What stays wrong with a minority through the healing; see `raft.testing.whole.minority`."""
    spares: int = 0
    """Servers that run empty, until an operator lets them join."""
    change_seconds: float = 0.0
    """The mean time from one order of the operator to the next; 0 for none."""
    releases: tuple[Release, ...] = ()
    """The releases of the machine, one after the other; the last can all versions. () for one
    machine without versions."""
    release_seconds: float = 0.0
    """The mean time from one change of a server's release to the next."""

    clients: int = 3
    keys: int = 3
    sessions: tuple[bool, ...] = (True,)
    """Whether each client, in turn, keeps a session."""
    act_seconds: float = 0.05
    """The mean time from one act of a client to its next."""
    burst: int = 3
    """How many operations a client begins at once, at most."""

    chaos_seconds: float = 12.0
    max_chaos_events: int = 10_000
    troubles: tuple[str, ...] = ()
    trouble_seconds: float = 2 * TIMEOUT_SECONDS
    """The mean time from one trouble to the next."""
    steady_seconds: float = 20 * TIMEOUT_SECONDS

    @classmethod
    def draw(cls, seed: int) -> Swarm:
        """Draw a world."""
        rng = random.Random(f"{seed}/whole swarm")
        some = rng.sample(TROUBLES, rng.randint(1, len(TROUBLES)))
        world = cls(
            seed=seed,
            voters=rng.choice((1, 2, 3, 3, 3, 3, 4, 5)),
            options=_options(rng),
            bounds=evolve(_bounds(rng), trailing_bytes=_trailing_bytes(seed)),
            session_limits=SessionLimits(
                timeout_us=rng.choice((2_000_000, 10_000_000, 60_000_000)),
                sessions=rng.choice((2, 4, 8, 100)),
                results=rng.choice((2, 8, 1000)),
                results_bytes=1 << 20,
            ),
            weather=_weather(rng),
            segment_size_bytes=rng.choice((4096, 16384, 65536, 1 << 20)),
            disk_seconds=rng.choice(((0.0, 0.0), (0.0, 0.002), (0.001, 0.03))),
            clock_skew=rng.choice((0.0, 0.0, 0.05, 0.2)),
            forward=rng.random() < 0.3,
            clients=rng.randint(1, 8),
            keys=rng.randint(1, 5),
            sessions=rng.choice(((True,), (True,), (True, False), (False,))),
            act_seconds=rng.choice((0.02, 0.05, 0.2)),
            burst=rng.choice((1, 3, 20)),
            troubles=tuple(some) if rng.random() < 0.95 else (),
            trouble_seconds=rng.choice((0.5, 1, 2, 6)) * TIMEOUT_SECONDS,
        )
        # What was added later draws from chance of its own, so that older worlds stay as they are.
        for and_so_on in (_with_changes, _with_leases, _with_minority, _with_repair, _with_copies):
            world = and_so_on(world)
        return _with_releases(world)

    @property
    def is_throttled(self) -> bool:
        """Whether few entries are under way at a time: clients may ask for more than passes."""
        options = self.options
        return options.max_append_entries <= 2 or options.max_inflight_messages <= 2


def _with_changes(world: Swarm) -> Swarm:
    """Let the members of a third of the worlds change, and some worlds have seven of them.

    What rots is not repaired there; who loses its directory is replaced.
    """
    rng = random.Random(f"{world.seed}/whole members")
    if rng.random() >= 1 / 3:
        return world
    voters = rng.choices((world.voters, 7), (9, 1))[0]
    return evolve(
        world,
        voters=voters,
        spares=rng.randint(1, 3) if voters < 7 else 1,
        change_seconds=rng.choice((0.3, 1.0, 3.0)),
        options=evolve(world.options, join_timeout_seconds=rng.choice((1.0, 3.0, 10.0))),
        troubles=tuple(each for each in world.troubles if each != "rot")
        + (("wipe", "wipe") if rng.random() < 0.4 else ()),
    )


def _with_leases(world: Swarm) -> Swarm:
    """Let a third of the worlds read by lease; their clocks keep to the bound that is promised."""
    rng = random.Random(f"{world.seed}/whole leases")
    if rng.random() >= 1 / 3:
        return world
    skew = rng.choice((0.0, 0.05, 0.2, 0.3))
    bound = (1 + skew) / (1 - skew) * (1 + 1e-9)
    scenes = tuple(kind for kind in SCENES if rng.random() < 0.7)
    world = evolve(
        world,
        clock_skew=skew,
        extreme_clocks=rng.random() < 0.7,
        lease_share=rng.choice((0.5, 1.0)),
        options=evolve(world.options, clock_drift_bound=bound),
        troubles=world.troubles + scenes,
    )
    if not scenes or rng.random() < 0.4:
        return world
    # A leader must serve for a while to have a lease that could be too long.
    return evolve(
        world,
        troubles=scenes,
        trouble_seconds=4 * TIMEOUT_SECONDS,
        weather=evolve(world.weather, delay_seconds=(0.0005, 0.004)),
        act_seconds=0.05,
        burst=1,
    )


def _with_minority(world: Swarm) -> Swarm:
    """Leave a minority sick in a quarter of the worlds whose members stay."""
    rng = random.Random(f"{world.seed}/whole minority")
    if world.change_seconds or world.voters < 3 or rng.random() >= 1 / 4:
        return world
    return evolve(world, minority=rng.choice(KINDS))


def _with_repair(world: Swarm) -> Swarm:
    """Let logs rot and be repaired in a quarter of the worlds; small segments soon have pasts."""
    rng = random.Random(f"{world.seed}/whole repair")
    if world.change_seconds or world.voters < 3 or rng.random() >= 1 / 4:
        return world
    return evolve(
        world,
        repair=True,
        troubles=(*world.troubles, *("rot",) * (1 + len(world.troubles) // 3)),
        segment_size_bytes=4096,
        bounds=evolve(world.bounds, snapshot_entries=rng.choice((0, 20, 200))),
    )


def _with_copies(world: Swarm) -> Swarm:
    """Let directories be copied in a quarter of the worlds."""
    rng = random.Random(f"{world.seed}/whole copies")
    if world.change_seconds or world.voters < 2 or rng.random() >= 1 / 4:
        return world
    return evolve(world, troubles=(*world.troubles, *COPYING * (1 + len(world.troubles) // 6)))


def _with_releases(world: Swarm) -> Swarm:
    """Let the servers of a quarter of the worlds be upgraded, and taken back."""
    rng = random.Random(f"{world.seed}/whole releases")
    if rng.random() >= 1 / 4:
        return world
    return evolve(world, releases=rng.choice(RELEASES), release_seconds=rng.choice((0.2, 0.6, 2.0)))


def _options(rng: random.Random) -> Options:
    return Options(
        heartbeat_seconds=TIMEOUT_SECONDS / 5,
        election_timeout_seconds=TIMEOUT_SECONDS,
        max_append_entries=rng.choice((1, 2, 64, 1 << 30)),
        max_append_bytes=rng.choice((300, 4096, 256 << 10)),
        max_inflight_messages=rng.choice((1, 2, 8, 64)),
    )


def _bounds(rng: random.Random) -> Bounds:
    return Bounds(
        snapshot_entries=rng.choice((0, 5, 20, 50, 200)),
        trailing_entries=rng.choice((0, 5, 50)),
        snapshot_factor=rng.choice((0.0, 4.0)),
        snapshot_floor_bytes=rng.choice((1 << 12, 1 << 16)),
        cache_bytes=rng.choice((1 << 10, 1 << 14, 64 << 20)),
    )


def _trailing_bytes(seed: int) -> int:
    """Draw how much of a log waits for followers: if little, they are sent snapshots."""
    return random.Random(f"{seed}/trailing").choice((500, 3_000, 256 << 20))


def _weather(rng: random.Random) -> Weather:
    return Weather(
        delay_seconds=rng.choice(((0.0, 0.001), (0.0005, 0.004), (0.002, 0.03), (0.0, 0.06))),
        grid_seconds=rng.choice((0.0, 0.0, 0.001, 0.01)),
        chunk_bytes=rng.choice((0, 0, 0, 700, 100)),
        window_bytes=rng.choice((65536, 65536, 4096)),
    )
