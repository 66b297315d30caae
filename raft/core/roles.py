"""What each role keeps, and nothing that outlives the role."""

from __future__ import annotations

import math
from collections import deque

from attrs import Factory, define, frozen

from raft.core.progress import Progress


@define
class Follower:
    """Answers. `verified_index` is how far the log matches that of `leader` (of this term)."""

    leader: str | None = None
    verified_index: int = 0
    sequence: int = 0
    """The highest sequence seen of that leader; acknowledgements echo it."""
    owes_acknowledgement: bool = False
    """Entries were taken in whose save is not done: the answer follows it [RULES L1]."""


@define
class PreCandidate:
    """Asks whether an election would succeed; term and vote stay as they are."""

    granted: set[str]


@define
class Candidate:
    """Gathers votes. Its own counts once it is saved, like anyone's [RULES E1]."""

    granted: set[str] = Factory(set)


@frozen
class ReadOrigin:
    """Who asked: the shell of this server (`peer` None), or a peer, under its `request`."""

    request: int
    peer: str | None = None


@define
class Question:
    """A read that a follower passed on, and when it last asked."""

    request: int
    asked_at: float


@define
class ReadRound:
    """Reads that wait for a quorum to answer messages from `sequence` on [RULES R3]."""

    sequence: int
    index: int
    origins: list[ReadOrigin]


@define
class Transfer:
    """A leadership transfer under way [RULES M10]."""

    target: str
    deadline: float
    sent: bool = False
    request: int = 0


@define
class Departure:
    """A server was removed by entry `index`, which it should get, and know to be committed.

    Messages of the leader from `sequence` on tell so; 0 while the entry is not committed. It
    has until `deadline` (monotonic seconds).
    """

    index: int
    deadline: float
    sequence: int = 0


@define
class CatchUp:
    """How a newcomer catches up, in rounds: each ends where the log ended when it began [D 4.2.1].

    The first ends at the entry that made it a learner, or after it.
    """

    round_end: int
    round_started: float
    moved_at: float
    """When it was last seen to come nearer, or to be there (monotonic seconds)."""
    match_index: int = 0
    long_rounds: int = 0
    is_ready: bool = False


@define
class Leader:
    """Figure 2's volatile state on leaders, and the reads, per term."""

    progress: dict[str, Progress]
    first_index: int
    """The index of this term's no-op: once it is committed, reads may be served [RULES R1]."""
    heartbeat_deadline: float
    elected_at: float = -math.inf
    sequence: int = 0
    """The number of the last message sent; grows with each within the term."""
    waiting_reads: list[ReadOrigin] = Factory(list)
    round: ReadRound | None = None
    beats: deque[tuple[int, float]] = Factory(deque)
    """(first sequence, time) of heartbeats that may yet be answered: for leases only."""
    lease_given_up: bool = False
    """A TimeoutNow was sent in this term: it may still arrive [RULES R9]."""
    transfer: Transfer | None = None
    catching_up: dict[str, CatchUp] = Factory(dict)
    blocked_since: float = math.inf
    """Since when all have caught up, but too few of the voters that are to be are heard."""
    departing: dict[str, Departure] = Factory(dict)
    """Servers that are no members any more, and are still told so."""
    is_leaving: bool = False
    """It is no voter of the committed configuration and hands over [RULES M6]."""
