"""One server of a small world between two steps: its core, its log with payloads, and its disk.

These are the values; `raft.testing.small.server` changes them, and `raft.testing.small.reactions`
numbers them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Hashable

from attrs import field, frozen

from raft.core.configuration import Configuration
from raft.core.messages import Message
from raft.core.outputs import HardState, Role
from raft.core.server import Options, Server
from raft.testing.cores.disk import Entry, configurations_among, summed_up
from raft.testing.small.normal import key_of

ENTRY_BYTES = 64
Log = tuple[Entry, ...]
"""All entries from index 1 on, those under a snapshot included: what was compacted is known."""


class Steady(random.Random):
    """Chance without chance: the shortest time-out, and another number in each life."""

    def __init__(self, life: int) -> None:
        """Give the numbers of the life `life`."""
        super().__init__(0)
        self.life = life

    def random(self) -> float:
        """Return the least there is."""
        return 0.0

    def getrandbits(self, count: int, /) -> int:
        """Return a number that no other life gets."""
        return self.life << 16


@frozen
class Letter:
    """A message on its way, with the entries that go beside it."""

    sender: str
    receiver: str
    message: Message
    entries: Log = ()


@frozen
class Disk:
    """What is durable: term and vote, the log, and up to where a snapshot stands for it."""

    hard_state: HardState
    log: Log
    snapshot_index: int = 0


@frozen
class Write:
    """What the disk holds once save `ticket` is done."""

    ticket: int
    disk: Disk


@frozen(eq=False)
class Situation:
    """A server between two steps. `server` is never stepped itself: a copy of it is."""

    server: Server
    log: Log
    disk: Disk
    queue: tuple[Write, ...] = ()
    held: tuple[tuple[int, Letter], ...] = ()
    """(the ticket that must be saved first, the message)."""
    votes: tuple[tuple[int, str], ...] = ()
    """The durable votes of all lives, by term."""
    verified: int = 0
    """How far the log is known to match that of the leader of the current term."""
    life: int = 1

    @property
    def key(self) -> Hashable:
        """What tells it from others."""
        return (
            key_of(self.server),
            *(self.log, self.disk, self.queue, self.held),
            *(self.votes, self.verified, self.life),
        )


@frozen(eq=False)
class View:
    """What the rules between servers look at."""

    id: str
    term: int
    role: Role
    commit_index: int
    log: Log
    disk: Disk
    votes: tuple[tuple[int, str], ...]
    match: tuple[tuple[str, int], ...]
    """(peer, how far it is known to hold the log), of a leader."""
    waiting_writes: int
    campaigns: bool
    """Whether it asks for votes when its time is up; a leader beats then."""
    applied: int
    snapshot_index: int
    configuration: Configuration
    judged: Hashable = field(init=False)
    """All of it that a rule between servers may judge."""

    @judged.default
    def _sum_up(self) -> Hashable:
        leads = self.role is Role.LEADER
        state = (leads, self.term, self.commit_index, self.log, self.disk, self.match)
        return (*state, self.votes)


@frozen
class Act:
    """What may happen to one server: a letter that arrives, or anything else by its name.

    "time" passes to the next deadline; the oldest write is "saved"; "propose", "read" and
    "change" ask something under a `number`; "crash" keeps so many of the writes that wait;
    "compact" takes a snapshot of all that is applied; "transfer" hands over.
    """

    kind: str
    number: int = 0
    letter: Letter | None = None


@frozen(eq=False)
class Reaction:
    """What a server makes of an act: where it is then, and what leaves it."""

    situation: int
    sent: tuple[int, ...]
    confirmed: tuple[tuple[int, int], ...]
    accepted: bool
    saves: bool
    """Whether it wrote anything: a quick disk is done with it at once."""


def shown_log(log: Log) -> str:
    """Show each entry as its term and what it holds."""
    return f"[{' '.join(f'{term}:{_shown_payload(payload)}' for term, payload, _ in log)}]"


def _shown_payload(payload: object) -> str:
    return "members" if isinstance(payload, Configuration) else str(payload or "no-op")


def latest_of(log: Log) -> Configuration:
    """Return the last configuration in `log`."""
    known = configurations_among(1, log)
    return known[-1][1] if known else Configuration()


def recovered(id: str, disk: Disk, options: Options, life: int, now: float) -> Server:
    """Return the core of a server that finds `disk`."""
    index = disk.snapshot_index
    known = configurations_among(1, disk.log)
    mark = None
    if index:
        at, configuration = [pair for pair in known if pair[0] <= index][-1]
        mark = (index, disk.log[index - 1][0], configuration, at)
    return Server.recover(
        id,
        options,
        Steady(life),
        now,
        disk.hard_state,
        mark,
        index + 1,
        disk.log[index - 1][0] if index else 0,
        summed_up(index + 1, disk.log[index:]),
        tuple(pair for pair in known if pair[0] > index),
    )


def view_of(situation: Situation) -> View:
    """Sum up a situation."""
    server = situation.server
    match: tuple[tuple[str, int], ...] = ()
    if server.role is Role.LEADER:
        pairs = ((peer, server.match_index(peer)) for peer in server.peers)
        match = tuple(pair for pair in pairs if pair[1])
    return View(
        server.id,
        server.current_term,
        server.role,
        server.commit_index,
        situation.log,
        situation.disk,
        situation.votes,
        match,
        len(situation.queue),
        server.election_deadline != math.inf,
        server.apply_end - 1,
        server.snapshot_index,
        latest_of(situation.log),
    )
