"""The guard: servers that compare their digests while they run, and leave when theirs is wrong.

    leader:  every second, and every 4,096 entries    ── StateDigest(index, digest, asks) ─▶ all
    anyone:  at its own snapshots                     ── the same ─▶ all
    all:     once they have applied the entry         ── StateDigest(index, digest) ─▶ all

So everybody has the digests of all members of one entry, and judges for itself. What a majority of
the voters has is right [sc-SM3]. A server that has another digest is set aside [sc-SM4]: it first
asks the majority, by halves, for the digests of earlier entries, till it knows the first one
that differs; then it says so to all, marks its directory, and stops for good, its data kept. That
takes a few round trips, half a second at most. The others name it in their logs and their status,
and let it in no more, should it not do so by itself.

Where no digest has a majority (of two voters, both sides have one) nobody can tell who is right, so
nobody is judged: all say so until more voters have answered. A server that compares no digests, or
digests of another format or origin, is left out. Where digests differ, one that was given its state
by another server's snapshot says what that one says, and is not counted beside it: until a majority
without it, or all voters, were seen to have the same digest, it tells that its state is copied.
"""

from __future__ import annotations

from bisect import insort
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from attrs import Factory, define, evolve, frozen
from twisted.logger import Logger

from raft.core.outputs import Role
from raft.transport.greeting import Greeting
from raft.transport.wire import StateDigest

if TYPE_CHECKING:
    from raft.node.shell import Shell

PERIOD_SECONDS: Final = 1.0
PERIOD_ENTRIES: Final = 4096
"""A leader lets digests be compared at least so often, where anything is applied."""
NARROWING_SECONDS: Final = 0.5
"""How long a server that has diverged looks for the first entry that differs."""
DOUBT_SECONDS: Final = 0.5
"""Digests that differ without a majority may only lack the answers that are on their way."""
FAREWELL_SECONDS: Final = 2.0
"""How long others take its messages after they know."""
MOST_COMPARED: Final = 16
"""Entries of which digests are remembered, or still to be told."""

_log = Logger()

REMEDY: Final = (
    "keep its data directory to find out why, then remove it from the cluster and let it join "
    "again with empty directories (docs/howto/divergence.md)"
)


class DigestNetwork(Protocol):
    """What the guard asks of the transport."""

    def send_digest(self, peer: str, digest: StateDigest) -> bool:
        """Send; False where `peer` is not connected, or compares no such digests."""


@frozen
class Judgement:
    """That this server has diverged.

    Attributes:
        index: the first entry with another digest, or where `is_exact` is False, the first seen.
        is_exact: whether the digest was compared at the entry before it, and was the same.
        compared_index: the entry at which a majority had another digest.
        value: this server's digest there.
        majority_value: theirs.
        majority: their ids.
    """

    index: int
    is_exact: bool
    compared_index: int
    value: int
    majority_value: int
    majority: tuple[str, ...]


@frozen
class Dispute:
    """Digests of one entry that differ, none of which a majority has: the servers by digest."""

    index: int
    sides: tuple[tuple[str, ...], ...]


@define(eq=False)
class Accused:
    """Another server that has diverged; `index` is the first entry known to differ."""

    incarnation: str
    index: int
    is_exact: bool
    since: float


@define(eq=False)
class Narrowing:
    """The search for the first entry that differs: the digests differ at `high`.

    `is_known` tells whether they are known to be the same at `low`.
    """

    judgement: Judgement
    low: int
    high: int
    is_known: bool
    asked: int = 0
    deadline: Any = None


Report = tuple[str, int, int]
"""A server's incarnation, and its digest's origin and value."""


@define(eq=False)
class Guard:
    """What one node knows of all members' digests.

    Attributes:
        agreed_index: the last entry at which a majority had this server's digest.
        accused: the servers that have diverged, by id.
        dispute: where digests differ and nobody can be judged, or None.
    """

    id: str
    shell: Shell
    network: DigestNetwork
    quarantine: Callable[[Judgement], None]
    agreed_index: int = 0
    accused: dict[str, Accused] = Factory(dict)
    dispute: Dispute | None = None
    narrowing: Narrowing | None = None
    _reports: dict[int, dict[str, Report]] = Factory(dict)
    _waiting: list[int] = Factory(list)
    """Entries of which the digest is to be told once they are applied, in order."""
    _doubt: tuple[int, float] | None = None
    """An entry at which digests differ without a majority, and until when answers are awaited."""
    _copies: dict[str, tuple[str, int]] = Factory(dict)
    """Whose state is copied: its incarnation, and the last entry of which it said so."""
    _borne_out_index: int = 0
    """The last entry at which this server's digest was borne out by others."""
    _asked_index: int = 0
    _ask_at: float = 0.0
    _snapshot_index: int = 0

    # When to compare.

    def turned(self) -> None:
        """At the end of a turn: tell what is due."""
        shell = self.shell
        if not shell.running or self.narrowing is not None:
            return
        if self.dispute is not None:
            self._review_dispute(self.dispute)
        applied, server = shell.replica.last_applied, shell.server
        while self._waiting and self._waiting[0] <= applied:
            self._tell(self._waiting.pop(0))
        if server.snapshot_index != self._snapshot_index:
            self._snapshot_index = server.snapshot_index
            self.ask(server.snapshot_index)
        if self._doubt is not None and shell.clock() >= self._doubt[1]:
            (doubted, _), self._doubt = self._doubt, None
            self._judge(doubted, was_awaited=True)
        if server.role is not Role.LEADER:
            return
        if applied >= self._asked_index + PERIOD_ENTRIES or shell.clock() >= self._ask_at:
            self._ask_at = shell.clock() + PERIOD_SECONDS
            if applied > self._asked_index or not self._all_compared():
                self._asked_index = applied
                self.ask(applied)

    def _all_compared(self) -> bool:
        reports = self._reports.get(self._asked_index, {})
        return all(id in reports for id in self.shell.server.configuration.ids)

    def ask(self, index: int) -> None:
        """Let all members compare their digests of entry `index`."""
        self._tell(index, asks=True)

    def _tell(self, index: int, asks: bool = False) -> None:
        digest = self.shell.replica.rolling
        value = digest.at(index)
        if not index or value is None:
            return
        message = StateDigest(index, value, digest.origin, asks, copied=self._is_copied)
        for peer in sorted(self.shell.server.configuration.ids - {self.id}):
            self.network.send_digest(peer, message)
        self._note(self.id, index, digest.origin, value)
        self._judge(index)

    # What others tell.

    def heard(self, sender: str, message: StateDigest) -> None:
        """Take another server's digest."""
        shell = self.shell
        if not shell.running or sender not in shell.server.configuration.ids:
            return
        if message.diverged:
            self._accuse(sender, message.index, is_exact=True)
            return
        narrowing = self.narrowing
        if narrowing is not None:
            if sender in narrowing.judgement.majority and message.index == narrowing.asked:
                self._narrow(narrowing, message)
            return
        if message.value is not None:
            self._note(sender, message.index, message.origin, message.value)
            if message.copied:
                self._copies[sender] = self._member(sender) or "", message.index
        if message.index > shell.replica.last_applied:
            if message.asks and message.index not in self._waiting:
                insort(self._waiting, message.index)
                del self._waiting[:-MOST_COMPARED]
            return
        mine = shell.replica.rolling.at(message.index)
        if message.asks and mine is not None:
            self._tell(message.index)
            return
        if message.asks:
            self.network.send_digest(sender, StateDigest(message.index))
        if mine is not None:
            self._note(self.id, message.index, shell.replica.rolling.origin, mine)
        # What was told of this server stays comparable, also where it is not known any more.
        self._judge(message.index)

    def _note(self, server: str, index: int, origin: int, value: int) -> None:
        incarnation = self._member(server)
        if incarnation is None:
            return
        reports = self._reports.setdefault(index, {})
        reports[server] = incarnation, origin, value
        if len(self._reports) > MOST_COMPARED:
            del self._reports[min(self._reports)]

    # Who is right.

    def _judge(self, index: int, was_awaited: bool = False) -> None:
        configuration = self.shell.server.configuration
        own = self._reports.get(index, {}).get(self.id)
        if own is None or self.narrowing is not None:
            return
        sides, mine = self._sides(index, own[1]), own[2]
        self._bear_out(index, sides[mine])
        counted = {each: [id for id in sides[each] if not self._is_copy(id)] for each in sides}
        right = next((each for each in sides if configuration.majority(counted[each])), None)
        if right is None:
            if len(sides) == 1:
                self._agree(index, sides[mine])
            elif was_awaited:
                self._differ(Dispute(index, tuple(map(tuple, sides.values()))))
            elif self._doubt is None:
                self._doubt = index, self.shell.clock() + DOUBT_SECONDS
            return
        if self.dispute is not None and index >= self.dispute.index:
            self.dispute = None
        if self._doubt is not None and index >= self._doubt[0]:
            self._doubt = None
        if mine == right:
            self._agree(index, sides[mine])
            for value, servers in sides.items():
                for server in servers if value != right else ():
                    self._accuse(server, index, is_exact=False)
        else:
            self._begin_narrowing(index, mine, right, sides[right])

    def _agree(self, index: int, servers: list[str]) -> None:
        if self.shell.server.configuration.majority(servers):
            self.agreed_index = max(self.agreed_index, index)

    def _bear_out(self, index: int, servers: list[str]) -> None:
        """Count copied states from here on, if `servers`, who have this digest, bear them out.

        They do where they are a majority without copied ones, or all voters.
        """
        configuration = self.shell.server.configuration
        voters = configuration.voters | configuration.outgoing
        are_all = voters - self.diverged.keys() <= set(servers)
        if are_all or configuration.majority(id for id in servers if not self._is_copy(id)):
            self._borne_out_index = max(self._borne_out_index, index)
            for server in servers:
                if server in self._copies and self._copies[server][1] <= index:
                    del self._copies[server]

    @property
    def _is_copied(self) -> bool:
        return self.shell.snapshots.installed_index > self._borne_out_index

    def _is_copy(self, server: str) -> bool:
        if server == self.id:
            return self._is_copied
        return server in self._copies and self._copies[server][0] == self._member(server)

    def _sides(self, index: int, origin: int) -> dict[int, list[str]]:
        """Return who has which digest at `index`, of those who can be compared."""
        sides: dict[int, list[str]] = defaultdict(list)
        for server, (incarnation, begun, value) in sorted(self._reports[index].items()):
            member, accused = self._member(server), self.accused.get(server)
            if (member, origin) == (incarnation, begun) and (
                accused is None or accused.incarnation != incarnation
            ):
                sides[value].append(server)
        return sides

    def _member(self, server: str) -> str | None:
        """Return the incarnation of a member, or None where it is none."""
        member = self.shell.server.configuration.member(server)
        return None if member is None else member.incarnation

    def _differ(self, dispute: Dispute) -> None:
        """Nobody can tell who is right: say so, once for each way in which they differ."""
        copies = ", ".join(id for side in dispute.sides for id in side if self._is_copy(id))
        if self.dispute is None or self.dispute.sides != dispute.sides:
            _log.critical(
                "The states of the servers differ at entry {index}: {sides}. No side is a majority "
                "of the voters{uncounted}, so nobody is judged, and all go on. Compare their data, "
                "and remove those that are wrong",
                index=dispute.index,
                sides=" | ".join(", ".join(side) for side in dispute.sides),
                uncounted=f" (not counted is who copied its state: {copies})" if copies else "",
            )
        self.dispute = dispute

    def _review_dispute(self, dispute: Dispute) -> None:
        """Forget who was removed, or has been judged: it may have been the other side."""
        left = self.shell.server.configuration.ids - self.diverged.keys()
        named = (tuple(id for id in side if id in left) for side in dispute.sides)
        sides = tuple(side for side in named if side)
        self.dispute = evolve(dispute, sides=sides) if len(sides) > 1 else None

    def _accuse(self, server: str, index: int, is_exact: bool) -> None:
        incarnation = self._member(server)
        if incarnation is None:
            return
        known = self.accused.get(server)
        if known is not None and known.incarnation == incarnation:
            if known.is_exact or not is_exact:
                return
            known.index, known.is_exact = index, True
        else:
            now = self.shell.clock()
            self.accused[server] = Accused(incarnation, index, is_exact, now)
        _log.critical(
            "The state of {server} has diverged {at} entry {index}: it is to serve and to vote no "
            "more; {remedy}",
            server=server,
            at="from" if is_exact else "at or before",
            index=index,
            remedy=REMEDY,
        )

    @property
    def diverged(self) -> dict[str, int]:
        """The members that have diverged, with the first entry known to differ."""
        return {
            server: known.index
            for server, known in sorted(self.accused.items())
            if self._member(server) == known.incarnation
        }

    def objection(self, greeting: Greeting) -> str | None:
        """Return why a server is not let in, or None: its state has diverged."""
        known = self.accused.get(greeting.server_id)
        if known is None or known.incarnation != greeting.incarnation:
            return None
        if self.shell.clock() < known.since + FAREWELL_SECONDS:
            return None
        return f"its state has diverged, known since entry {known.index}: {REMEDY}"

    # What differs first.

    def _begin_narrowing(self, index: int, mine: int, right: int, peers: list[str]) -> None:
        oldest = self.shell.replica.rolling.oldest
        low, is_known = self.agreed_index, True
        if low < oldest:
            # The entry before the first one has the same digest everywhere.
            low, is_known = oldest, oldest == 0
        judgement = Judgement(index, False, index, mine, right, tuple(peers))
        narrowing = Narrowing(judgement, min(low, index - 1), index, is_known)
        self.narrowing = narrowing
        self.shell.applying.is_wrong = True
        narrowing.deadline = self.shell.reactor.callLater(NARROWING_SECONDS, self._narrowed)
        if is_known:
            self._ask_between(narrowing)
        else:
            self._ask_at_entry(narrowing, low)

    def _ask_between(self, narrowing: Narrowing) -> None:
        if narrowing.high - narrowing.low <= 1:
            self._narrowed()
        else:
            self._ask_at_entry(narrowing, (narrowing.low + narrowing.high) // 2)

    def _ask_at_entry(self, narrowing: Narrowing, index: int) -> None:
        digest = self.shell.replica.rolling
        value, narrowing.asked = digest.at(index), index
        message = StateDigest(index, value, digest.origin, asks=True)
        # Whoever answers first will do: one of them may be gone.
        majority = narrowing.judgement.majority
        sent = [self.network.send_digest(peer, message) for peer in majority]
        if not any(sent):
            self._narrowed()

    def _narrow(self, narrowing: Narrowing, message: StateDigest) -> None:
        mine = self.shell.replica.rolling.at(message.index)
        if None in (mine, message.value):
            narrowing.low, narrowing.is_known = message.index, False
        elif mine == message.value:
            narrowing.low, narrowing.is_known = message.index, True
        elif message.index > narrowing.low:
            narrowing.high = message.index
        else:
            # It differs as far back as can be known.
            narrowing.high = narrowing.low
        self._ask_between(narrowing)

    def _narrowed(self) -> None:
        """The search is over, or its time: say so and leave."""
        narrowing = self.narrowing
        if narrowing is None or not self.shell.running:
            return
        if narrowing.deadline.active():
            narrowing.deadline.cancel()
        found = narrowing.judgement
        is_exact = narrowing.is_known and narrowing.high - narrowing.low <= 1
        found = Judgement(
            *(narrowing.high, is_exact, found.compared_index),
            *(found.value, found.majority_value, found.majority),
        )
        if is_exact:
            for peer in sorted(self.shell.server.configuration.ids - {self.id}):
                value = self.shell.replica.rolling.at(found.index)
                message = StateDigest(found.index, value, diverged=True)
                self.network.send_digest(peer, message)
        self.quarantine(found)

    def stop(self) -> None:
        """Search no more."""
        narrowing, self.narrowing = self.narrowing, None
        if narrowing is not None and narrowing.deadline.active():
            narrowing.deadline.cancel()
