"""One run of a world of whole nodes: chaos, healing, service, a steady time, convergence.

After healing a leader must be known to all within 12 election timeouts (L1), beside the time
that connections need to find out that they are dead; a fresh write and read be answered within 4
more (L2); the leader stay (L4); and all logs become the same (L3). Then the clients' history is
judged (I18), and all nodes stop in good order.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from attrs import define, field, frozen

from raft.storage.repair import DONE
from raft.testing.choices import Choice, Choices
from raft.testing.cores.ghost import Violation
from raft.testing.cores.swarm import TIMEOUT_SECONDS
from raft.testing.linearizability import Verdict, check
from raft.testing.whole.client import TIMEOUTS_SECONDS, Client
from raft.testing.whole.host import Host
from raft.testing.whole.machine import EVERYTHING
from raft.testing.whole.minority import PATIENCE_SECONDS, Minority
from raft.testing.whole.settling import Settling
from raft.testing.whole.swarm import Swarm
from raft.testing.whole.troubles import Troubles
from raft.testing.whole.world import Parts, World

T: Final = TIMEOUT_SECONDS
LEADER_SECONDS: Final = 12 * T
TRANSPORT_SECONDS: Final = 4.0
"""Until a connection is known to be dead (2 s; a handshake, up to 3 s), and dialled anew (1 s)."""
SERVICE_SECONDS: Final = 4 * T
CONVERGENCE_SECONDS: Final = 60 * T
MOST_BACKLOG_SECONDS: Final = 600.0
"""However it goes on: a backlog that grows as fast as it is worked off has no end."""
STOP_SECONDS: Final = 15.0
POLL_SECONDS: Final = T / 10
CHECK_STEPS: Final = 2_000_000


class Failure(Exception):
    """A seed that failed: which rule, when, how to see it again, and what happened before."""

    def __init__(
        self, seed: int, violation: Violation, moment: float, world: World, made: list[Choice]
    ) -> None:
        """Keep what a regression test needs: the seed, the rule and the choices."""
        self.seed, self.rule, self.reason = seed, violation.rule, violation.reason
        self.choices = made
        self.world = world
        super().__init__(
            f"seed {seed} at {moment:.4f} s: {violation}\n"
            f"replay it with: python -m raft.testing.whole --seed {seed} --transcript 40"
        )

    def transcript(self, last: int) -> str:
        """Return the last lines of the journal, and the last steps of the cores."""
        journal = list(self.world.journal)[-last:]
        steps = [str(step) for step in self.world.monitors.transcript[-last:]]
        return "\n".join([*journal, "", *steps])


@frozen
class Report:
    """What one seed's run did."""

    seed: int
    events: int
    steps: int
    commits: int
    terms: int
    fired: dict[str, int]
    lives: int
    done: int
    failed: int
    truncations: int
    installed: int
    dropped: int
    """Unsynced writes that a loss of power undid, whole or in part."""
    virtual_seconds: float
    leader_seconds: float
    is_undecided: bool
    digest: str


@define(eq=False)
class Run:
    """One run of a world."""

    world: World
    troubles: Troubles = field(init=False)
    minority: Minority = field(init=False)
    healthy: list[Host] = field(init=False, factory=list)
    is_undecided: bool = False
    """Whether the history was too much for the checker's budget."""
    _leader_seconds: float = 0.0

    def __attrs_post_init__(self) -> None:
        """Let troubles befall this world."""
        self.troubles = Troubles(self.world)
        self.minority = Minority(self.world)

    def run(self) -> Report:
        """Run all phases; raise `Failure` at the first broken promise."""
        world = self.world
        try:
            with world.running():
                self._chaos()
                self._heal()
                self._await_leader()
                Settling(self.world, self.healthy, self._violated).run()
                self._await_service()
                self._steady()
                self._await_switch()
                self._converge()
                self._judge()
                self._heal_all()
                self._stop()
                world.verdict.check()
        except Violation as violation:
            moment, made = world.timeline.now, world.choices.made()
            raised = Failure(world.seed, violation, moment, world, made)
            raise raised from world.verdict.trace
        return self._report()

    def _report(self) -> Report:
        world, monitors = self.world, self.world.monitors
        if monitors.leased:
            world.fired["read confirmed by lease"] += monitors.leased
        return Report(
            seed=world.seed,
            events=world.events,
            steps=monitors.steps,
            commits=len(monitors.committed) - 1,
            terms=len(monitors.leaders),
            fired=dict(world.fired),
            lives=sum(host.lives for host in world.hosts.values()),
            done=sum(client.done for client in world.clients),
            failed=sum(client.failed for client in world.clients),
            truncations=monitors.truncations,
            installed=monitors.installed,
            dropped=sum(host.disk.dropped for host in world.hosts.values()),
            virtual_seconds=world.timeline.now,
            leader_seconds=self._leader_seconds,
            is_undecided=self.is_undecided,
            digest=world.sha.hexdigest(),
        )

    # Phases.

    def _chaos(self) -> None:
        world, swarm = self.world, self.world.swarm
        for host in world.hosts.values():
            host.start()
        for client in world.clients:
            client.start()
            self._act(client, world.timeline.now + swarm.chaos_seconds)
        if swarm.change_seconds:
            world.operator.start()
            self._order(world.timeline.now + swarm.chaos_seconds)
        if swarm.releases:
            self._upgrade(world.timeline.now + swarm.chaos_seconds)
        self.troubles.begin()
        limit = swarm.max_chaos_events
        world.run(swarm.chaos_seconds, lambda: world.events < limit)

    def _act(self, client: Client, until: float) -> None:
        timeline = self.world.timeline
        if timeline.now < until and not self.troubles.is_over:
            client.act()
            delay = client.chance.expovariate(1 / self.world.swarm.act_seconds)
            timeline.after(delay, self._act, client, until)

    def _order(self, until: float) -> None:
        operator, timeline = self.world.operator, self.world.timeline
        if timeline.now < until and not self.troubles.is_over:
            operator.act()
            delay = operator.chance.expovariate(1 / self.world.swarm.change_seconds)
            timeline.after(delay, self._order, until)

    def _upgrade(self, until: float) -> None:
        releases, timeline = self.world.releases, self.world.timeline
        if timeline.now < until and not self.troubles.is_over:
            delay = releases.chance.expovariate(1 / self.world.swarm.release_seconds)
            timeline.after(delay, self._upgrade, until)
            if timeline.now:
                releases.act()

    def _members(self) -> list[Host]:
        """Return those of the healthy who belong to the cluster."""
        ids = self.world.configuration().ids
        return [host for host in self.healthy if host.id in ids]

    def _heal(self) -> None:
        self.world.tell("world", "heals")
        well = self.troubles.end()
        self.minority.begin()
        self.healthy = [host for host in well if host not in self.minority.sick]

    def _await_leader(self) -> None:
        world, healed = self.world, self.world.timeline.now
        skew = 1 + self.world.swarm.clock_skew
        limit = LEADER_SECONDS * skew + TRANSPORT_SECONDS
        while world.agreed_leader(self.healthy) is None:
            if world.timeline.now - healed > limit:
                self._violated("L1", f"no leader {limit:.1f} s after healing")
            world.run(POLL_SECONDS)
        self._leader_seconds = world.timeline.now - healed

    def _violated(self, rule: str, reason: str) -> None:
        views = [
            (host.id, host.server.role.value, host.server.current_term, host.server.leader_id)
            if host.is_serving
            else (host.id, "down", str(host.refused))
            for host in self.world.hosts.values()
        ]
        self.world.verdict.violated(rule, f"{reason}: {views}")

    def _await_service(self) -> None:
        """L2: a fresh client's write and read are answered."""
        world = self.world
        if world.swarm.is_throttled:
            self._await_backlog()
        begun = world.timeline.now
        # Sessions may all be in use: by clients that died without a word, too.
        has_session = world.swarm.session_limits.sessions >= 100
        fresh = Client(world, "fresh", "127.0.2.1", has_session, False)
        process = fresh.start()
        limit = SERVICE_SECONDS + TRANSPORT_SECONDS + PATIENCE_SECONDS * len(self.minority.sick)
        while fresh.done < 2:
            if not fresh.open:
                fresh.done = 0
                for operation in ("put", "get"):
                    process.enter(fresh.ask, [operation, 1], limit)
            if world.timeline.now - begun > limit:
                self._violated("L2", f"no answers to a fresh client in {limit:.1f} s")
            world.run(POLL_SECONDS)
        world.clients.append(fresh)

    def _await_backlog(self) -> None:
        """Wait for what older clients had asked: it stands before, in the one queue there is.

        A crowd may have filled a leader's log far faster than one entry at a time is sent: how
        long that takes is no fault, as long as it goes on.
        """
        world = self.world
        world.run(max(TIMEOUTS_SECONDS))
        reached, began, moved_at = -1, world.timeline.now, world.timeline.now
        longest = max(host.server.log.last_index for host in self._members())
        while True:
            leader = world.agreed_leader(self.healthy)
            applied = [
                host.service.replica.last_applied for host in self._members() if host.service
            ]
            if leader is not None and min(applied) == leader.server.log.last_index:
                return
            # Without an entry of the leader's own term none is committed: all go there first. What
            # was not there at the beginning counts for nothing: each election adds an entry.
            saved = [min(host.server.log.saved_index, longest) for host in self._members()]
            moved = sum(applied) + sum(saved)
            if moved > reached:
                reached, moved_at = moved, world.timeline.now
            now = world.timeline.now
            if now - moved_at > CONVERGENCE_SECONDS or now - began > MOST_BACKLOG_SECONDS:
                self._violated("L2", f"the log is not committed and applied: {applied}")
            world.run(POLL_SECONDS)

    def _steady(self) -> None:
        world = self.world
        world.run(SERVICE_SECONDS)
        leader = world.agreed_leader(self.healthy)
        if leader is None:
            self._violated("L4", "no leader stays")
            return
        term = leader.server.current_term
        world.run(world.swarm.steady_seconds)
        if world.agreed_leader(self.healthy) is not leader or leader.server.current_term != term:
            self._violated("L4", f"{leader.id} of {term} was replaced")

    def _await_switch(self) -> None:
        """U1: once all members can the newest version, it comes into force everywhere."""
        world, begun = self.world, self.world.timeline.now
        members = self._members()
        if len(members) < len(world.configuration().ids):
            # For who is sick or shut out, the switch waits.
            return
        while not world.releases.is_over(members):
            if world.timeline.now - begun > CONVERGENCE_SECONDS:
                switches = world.releases.switches
                self._violated("U1", f"version {world.releases.newest} is not begun: {switches}")
            world.run(POLL_SECONDS)

    def _converge(self) -> None:
        """L3: all come to the same entry; the last of them may take long, and goes on meanwhile."""
        world = self.world
        reached, moved_at = -1, world.timeline.now
        while True:
            applied = {
                host.id: host.service.replica.last_applied if host.service is not None else -1
                for host in self._members()
            }
            last = min(applied.values())
            if last == max(applied.values()):
                break
            if last > reached:
                reached, moved_at = last, world.timeline.now
            if world.timeline.now - moved_at > CONVERGENCE_SECONDS:
                self._violated("L3", f"applied differs: {applied}")
            world.run(POLL_SECONDS)
        world.monitors.check_all()
        self._compare(min(applied.values()))

    def _compare(self, applied: int) -> None:
        """I20: each machine is what the committed commands make of an empty one, and no less.

        Digests of what was applied do not see what a snapshot forgets.
        """
        right = self.world.releases.right_state(applied)
        for host in self._members():
            if host.service is None:
                continue
            repair = host.service.repairing.repair
            if repair is not None and repair.state != DONE:
                self._violated("L3", f"{host.id} is at {applied}, and still repairs {repair}")
            if repair is not None:
                self.world.fired["repair done"] += 1
            found = host.service.replica.machine.query(EVERYTHING)
            if found != right:
                self._violated("I20", f"{host.id} holds {found!r} at {applied}, not {right!r}")

    def _judge(self) -> None:
        """I22: every call has ended; I18: one copy of the state could have answered so."""
        world = self.world
        open_calls = {client.name: len(client.open) for client in world.clients if client.open}
        if open_calls:
            self._violated("I22", f"calls without an outcome: {open_calls}")
        judgement = check(world.recorder.close(), budget_steps=CHECK_STEPS)
        self.is_undecided = judgement.verdict is Verdict.UNKNOWN
        if judgement.verdict is Verdict.ILLEGAL:
            self._violated("I18", judgement.text)

    def _heal_all(self) -> None:
        """L3: who was sick comes to the same state, and takes nobody's leadership for it."""
        if self.minority.sick:
            self.healthy += self.minority.sick
            self.minority.end()
            self._await_leader()
            self._await_switch()
            self._converge()

    def _stop(self) -> None:
        """All nodes stop in good order, within a bound."""
        world = self.world
        for client in world.clients:
            client.finish()
        world.operator.finish()
        world.run(1.0)
        for host in world.hosts.values():
            host.stop()
        world.run(STOP_SECONDS)
        still = [host.id for host in world.hosts.values() if host.is_up]
        if still:
            self._violated("stop", f"{still} have not stopped within {STOP_SECONDS} s")


def simulate(
    seed: int,
    parts: Parts | None = None,
    *,
    swarm: Swarm | None = None,
    choices: Choices | None = None,
) -> Report:
    """Run one seed and return what it did; raise `Failure` where a promise is broken.

    Args:
        seed: draws the world, unless `swarm` is given.
        parts: what is under test; the real ones by default.
        swarm: a world of one's own.
        choices: what befalls it, and what clients do; drawn from the seed by default.
    """
    world = World(swarm or Swarm.draw(seed), choices or Choices.drawing(seed), parts or Parts())
    return Run(world).run()


def first_failure(seeds: Iterable[int], parts: Parts | None = None) -> Failure | None:
    """Run seeds until one fails; return its failure, or None."""
    for seed in seeds:
        try:
            simulate(seed, parts)
        except Failure as failure:
            return failure
    return None
