"""How small a world is: the bounds within which everything is visited."""

from __future__ import annotations

from attrs import evolve, frozen

from raft.core.configuration import Configuration, Member
from raft.core.server import Options

QUIET = Options(
    heartbeat_seconds=0.5,
    election_timeout_seconds=1.0,
    disk_timeout_seconds=1e9,
    join_timeout_seconds=4.0,
    pre_vote=False,
    check_quorum=False,
)
"""Nothing rests on time: the least states, and all of Figure 2."""

LIVELY = evolve(QUIET, pre_vote=True, check_quorum=True)


@frozen
class Bounds:
    """How often, at most, each thing happens in a run."""

    campaigns: int = 2
    beats: int = 0
    proposals: int = 0
    reads: int = 0
    changes: int = 0
    transfers: int = 0
    compactions: int = 0
    crashes: int = 0
    duplicates: int = 0
    slow_saves: int = 0


@frozen
class Model:
    """A small world. Members of `configuration` begin with it as their first entry."""

    name: str
    bounds: Bounds
    servers: tuple[str, ...] = ("n1", "n2", "n3")
    configuration: Configuration = Configuration(tuple(map(Member, ("n1", "n2", "n3"))))
    targets: tuple[Configuration, ...] = ()
    """What each change asks for, in order."""
    options: Options = QUIET
    past: tuple[tuple[int, ...], ...] = ()
    """The terms of what each server holds beyond its first entry, none of it committed."""
    max_term: int = 3
    """Terms above it are not entered. All begin in term 1, or in the last of their past."""

    @property
    def is_symmetric(self) -> bool:
        """Whether any server may have any other's name: all begin alike, and no name decides."""
        everyone = frozenset(self.servers)
        return self.configuration.voters == everyone and not (self.targets or self.bounds.transfers)


def members(voters: str, learners: str = "") -> Configuration:
    """Return the configuration of these servers, each named by one digit."""
    everyone = [(f"n{each}", each in voters) for each in voters + learners]
    return Configuration(tuple(Member(name, voter=voter) for name, voter in everyone))


ONE_AT_A_TIME = evolve(QUIET, max_append_entries=1)

PROMOTION = Model(
    "a learner becomes a voter",
    Bounds(campaigns=2, changes=1),
    configuration=members("12", "3"),
    targets=(members("123"),),
)
REMOVAL = Model("a voter leaves", Bounds(campaigns=1, changes=1), targets=(members("12"),))
READ = Model("a read", Bounds(campaigns=2, reads=1))
FOUR = members("1234")

MODELS = (
    Model("three campaigns", Bounds(campaigns=3)),
    Model("a command", Bounds(campaigns=2, proposals=1)),
    Model("a command, one by one", Bounds(campaigns=1, proposals=2), options=ONE_AT_A_TIME),
    Model("a crash", Bounds(campaigns=2, crashes=1)),
    Model("a message twice", Bounds(campaigns=2, duplicates=1)),
    Model("a slow save", Bounds(campaigns=2, slow_saves=1)),
    Model("slow saves and a crash", Bounds(campaigns=1, slow_saves=2, crashes=1)),
    Model("a slow save and a beat", Bounds(campaigns=1, beats=1, slow_saves=1)),
    Model("three histories", Bounds(campaigns=2), past=((2, 2), (3,), ()), max_term=5),
    Model(
        "four servers, a message twice",
        Bounds(campaigns=1, duplicates=1),
        servers=("n1", "n2", "n3", "n4"),
        configuration=FOUR,
        max_term=2,
    ),
    Model("a snapshot", Bounds(campaigns=1, beats=1, compactions=1)),
    Model("a transfer", Bounds(campaigns=1, transfers=1)),
    PROMOTION,
    Model(
        "a server joins",
        Bounds(campaigns=2, changes=1),
        configuration=members("12"),
        targets=(members("123"),),
    ),
    Model(
        "a learner and a voter change places",
        Bounds(campaigns=2, changes=1),
        configuration=members("12", "3"),
        targets=(members("23", "1"),),
    ),
    Model("two voters leave", Bounds(campaigns=1, changes=1), targets=(members("1"),)),
    REMOVAL,
    Model("pre-vote and check-quorum", Bounds(campaigns=1, beats=1), options=LIVELY),
)
"""What the ordinary tests visit to the end."""

DEEPER = (
    Model("all of it", Bounds(3, 0, 2, 0, 0, 0, 0, 1, 1, 0), max_term=4),
    Model(
        "three histories, one by one",
        Bounds(campaigns=2),
        past=((2, 2), (3,), ()),
        options=ONE_AT_A_TIME,
        max_term=5,
    ),
    READ,
    Model("a crash, slow saves", Bounds(campaigns=2, slow_saves=1, crashes=1)),
    Model("three terms", Bounds(campaigns=3), max_term=4),
    Model("three terms, one by one", Bounds(3, proposals=2), options=ONE_AT_A_TIME, max_term=4),
    Model("a beat", Bounds(campaigns=2, beats=1)),
    evolve(REMOVAL, name="a voter leaves, and elections", bounds=Bounds(campaigns=2, changes=1)),
    evolve(PROMOTION, name="a promotion and a command", bounds=Bounds(2, 0, 1, changes=1)),
    Model("a snapshot that is sent", Bounds(campaigns=2, proposals=1, compactions=1)),
    Model("two rounds of pre-vote", Bounds(campaigns=3, beats=1), options=LIVELY),
)
"""What takes minutes or hours: each is visited as far as the time goes."""
