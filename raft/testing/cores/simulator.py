"""The deterministic simulator: one seed, one world, one run of real cores in virtual time.

A run has four phases: *chaos*, in which everything that the seed drew goes wrong while
clients ask; *healing*, after which a leader must be known to all within 12 election
timeouts (L1) and a fresh write and read be answered within 4 more (L2); a *steady*
time without any change of leader (L4); and *convergence* of all logs (L3). Where members
change, a change under way must end before that, one way or another (L6), and "all" are the
members that it leaves. Monitors watch every step of every phase.

Replay a seed with `python -m raft.testing.cores.simulator --seed N`; add `--transcript 40`
to see its last steps, `--shrink` to see the least that fails: `raft.testing.cores.command`.
"""

from __future__ import annotations

import hashlib
import importlib
import random
from collections.abc import Iterable
from typing import ClassVar

from attrs import Factory, define, field, frozen

from raft.core.outputs import Role
from raft.core.server import Server
from raft.errors import RaftError
from raft.testing.cores.changes import Changes
from raft.testing.cores.faults import Faults
from raft.testing.cores.ghost import Step, Violation
from raft.testing.cores.model_node import ModelNode
from raft.testing.cores.monitors import Monitors
from raft.testing.cores.network import Network
from raft.testing.cores.past import give_past
from raft.testing.cores.swarm import TIMEOUT_SECONDS, Swarm
from raft.testing.cores.timeline import Timeline
from raft.testing.cores.workload import Workload

LEADER_TIMEOUTS = 12
SERVICE_TIMEOUTS = 4
CONVERGENCE_TIMEOUTS = 60
CHANGE_TIMEOUTS = 60
POLL_SECONDS = TIMEOUT_SECONDS / 10
WRITE_AGAIN = ("refused", "superseded", "unknown")
READ_AGAIN = ("refused", "lost", "unknown")
BACKLOG_SECONDS = 0.03
"""What a message of entries may cost on the way to a follower, once the world is healed."""


class Failure(Exception):
    """A seed that failed: which rule, when, how to see it again, and the steps before."""

    def __init__(
        self,
        seed: int,
        violation: Violation,
        moment: float,
        steps: Iterable[Step],
        replay: str = "",
    ):
        """Keep what a regression test needs: the seed and the rule."""
        self.seed = seed
        self.rule = violation.rule
        self.reason = violation.reason
        self.steps = tuple(steps)
        replay = replay or f"python -m raft.testing.cores.simulator --seed {seed} --transcript 40"
        super().__init__(f"seed {seed} at {moment:.4f} s: {violation}\nreplay it with: {replay}")

    @property
    def kind(self) -> str:
        """The rule, and where the core raised, the error's class: what tells failures apart."""
        return f"raised {self.reason.partition(':')[0]}" if self.rule == "raised" else self.rule

    def transcript(self, last: int) -> str:
        """Return the last steps before the failure, one event or output a line."""
        return "\n".join(str(step) for step in self.steps[-last:])


@frozen
class Report:
    """What one seed's run did."""

    seed: int
    events: int
    checks: int
    """How often a monitor looked: at a step, a message, a write, an entry, or at everything."""
    commits: int
    terms: int
    fired: dict[str, int]
    """How often each kind of fault came about."""
    truncations: int
    installed: int
    configurations: int
    """Committed configurations, the first included."""
    abandoned: int
    done_writes: int
    done_reads: int
    session_commands: int
    """Commands of sessions whose clients got the result."""
    session_copies: int
    """Entries, on all servers, that were answered from what a session remembers."""
    sessions_expired: int
    """How often a client was told that its session is gone."""
    leased_reads: int
    """Reads that were confirmed by a lease, at once."""
    virtual_seconds: float
    leader_seconds: float
    """How long after healing it took until all knew one leader."""
    digest: str


@define(eq=False)
class Simulation:
    """One run. `server_class` is the core under test."""

    swarm: Swarm
    server_class: type[Server] = Server
    full_digest: bool = False
    """Whether every Outputs is hashed, for the proof of determinism [I23]."""
    timeline: Timeline = Factory(Timeline)
    monitors: Monitors = Factory(Monitors)
    nodes: dict[str, ModelNode] = Factory(dict)
    network: Network = field(init=False)
    faults: Faults = field(init=False)
    workload: Workload = field(init=False)
    changes: Changes = field(init=False)
    healthy: list[ModelNode] = field(init=False)
    """After healing: all nodes but a minority that stays lame where the swarm says so."""
    network_class: ClassVar[type[Network]] = Network
    faults_class: ClassVar[type[Faults]] = Faults
    workload_class: ClassVar[type[Workload]] = Workload
    node_class: ClassVar[type[ModelNode]] = ModelNode
    replay: str = ""
    """The command that shows a failure again, where it is not the seed's own."""
    _leader_seconds: float = 0.0

    def __attrs_post_init__(self) -> None:
        """Wire the world together."""
        swarm, timeline, monitors = self.swarm, self.timeline, self.monitors
        if self.full_digest:
            monitors.sha = hashlib.sha256()
        self.network = self.network_class(swarm, timeline)
        self.faults = self.faults_class(swarm, timeline, self.network, monitors, self.nodes)
        self.workload = self.workload_class(swarm, timeline, monitors, self.nodes)
        self.faults.hush = self.workload.hush
        self.changes = Changes(swarm, timeline, self.workload, self.nodes)
        self.faults.ask_change = self.changes.ask_of
        self.healthy = []
        monitors.nodes = self.nodes
        for server in swarm.servers:
            node = self.node_class(
                server,
                swarm,
                timeline,
                self.network,
                monitors,
                self.workload,
                self.faults,
                self.server_class,
            )
            self.nodes[server] = self.network.listeners[server] = node
        if swarm.aged:
            disks = {node.id: node.disk for node in self.nodes.values()}
            give_past(disks, swarm.configuration, monitors, random.Random(f"{swarm.seed}/past"))

    def run(self) -> Report:
        """Run all phases; raise `Failure` at the first broken promise."""
        try:
            self._play()
        except Violation as violation:
            raise self._failure(violation) from None
        except (RaftError, LookupError, TypeError, ValueError, AttributeError) as error:
            # The core stopped rather than be wrong, or stumbled: both are failures here.
            raised = Violation("raised", f"{type(error).__name__}: {error}")
            raise self._failure(raised) from error
        return self._report()

    def _failure(self, violation: Violation) -> Failure:
        moment, steps = self.timeline.now, self.monitors.transcript
        return Failure(self.swarm.seed, violation, moment, steps, self.replay)

    def _report(self) -> Report:
        monitors = self.monitors
        digest = monitors.sha.hexdigest() if monitors.sha else f"{monitors.digest:x}"
        return Report(
            seed=self.swarm.seed,
            events=monitors.events,
            checks=monitors.steps + monitors.checks,
            commits=len(monitors.committed) - 1,
            terms=len(monitors.leaders),
            fired=dict(self.faults.fired),
            truncations=monitors.truncations,
            installed=monitors.installed,
            configurations=len(monitors.configurations),
            abandoned=monitors.abandoned,
            done_writes=self.workload.done_writes,
            done_reads=self.workload.done_reads,
            session_commands=self.workload.clients.done,
            session_copies=monitors.once.copies,
            sessions_expired=self.workload.clients.expired,
            leased_reads=monitors.leased,
            virtual_seconds=self.timeline.now,
            leader_seconds=self._leader_seconds,
            digest=digest,
        )

    # Phases

    def _play(self) -> None:
        self._chaos()
        self._recover()
        self.monitors.check_all()

    def _recover(self) -> None:
        self._heal()
        leader = self._await_members(self._await_leader())
        self._await_service(leader)
        self._steady(leader)
        self._converge(leader)

    def _chaos(self) -> None:
        for node in self.nodes.values():
            node.start()
        if self.swarm.aged:
            return
        self.faults.start()
        self.workload.start()
        self.changes.start()
        limit = self.swarm.max_chaos_events
        self.timeline.run(self.swarm.chaos_seconds, lambda: self.monitors.events < limit)

    def _heal(self) -> None:
        self.workload.stop()
        self.changes.stop()
        if self.swarm.cold:
            for node in self.nodes.values():
                if node.up:
                    node.crash()
        self.healthy = self.faults.stop()
        self._retire()

    def _retire(self) -> None:
        if self.swarm.change_seconds:
            self.faults.retire(self.monitors.configurations)
            self.healthy = [node for node in self.healthy if node.up]

    def _members(self, leader: ModelNode) -> list[ModelNode]:
        """Return the healthy ones among those that `leader` leads."""
        ids = leader.server.configuration.ids
        return [
            node
            for node in self.healthy
            if node.id in ids and not (node.is_lost or leader.refuses(node))
        ]

    def _run_for(self, seconds: float) -> None:
        self.timeline.run(self.timeline.now + seconds)

    def _agreed_leader(self) -> ModelNode | None:
        """Return the leader that all healthy members know in the same term, if there is one."""
        for node in self.healthy:
            if node.role is Role.LEADER and all(
                (other.server.leader_id, other.term) == (node.id, node.term)
                for other in self._members(node)
            ):
                return node
        return None

    def _await_leader(self) -> ModelNode:
        healed = self.timeline.now
        late = self.swarm.delay_seconds[1] + self.swarm.save_seconds[1]
        limit = LEADER_TIMEOUTS * TIMEOUT_SECONDS * (1 + self.swarm.clock_skew) + late
        while (leader := self._agreed_leader()) is None:
            if self.timeline.now - healed > limit:
                self.monitors.violated(
                    "L1", f"no leader {limit:.1f} s after healing: {self._view()}"
                )
            self._run_for(POLL_SECONDS)
        self._leader_seconds = self.timeline.now - healed
        return leader

    def _await_members(self, leader: ModelNode) -> ModelNode:
        """L6: a change under way ends, and one asked for then: at its target, or where it began."""
        if not self.swarm.change_seconds:
            return leader
        # The guard against a majority that is silent needs to have listened for a while.
        self._run_for(2 * TIMEOUT_SECONDS)
        self.changes.ask_of(self._agreed_leader() or leader)
        # A turn may pass before the core hears of it.
        self._run_for(POLL_SECONDS)
        begun = self.timeline.now
        limit = CHANGE_TIMEOUTS * TIMEOUT_SECONDS + self._backlog_seconds(leader)
        limit += 2 * self.swarm.options.join_timeout_seconds
        while True:
            agreed = self._agreed_leader()
            if agreed is not None and self._is_settled(agreed):
                self._retire()
                return agreed
            if self.timeline.now - begun > limit:
                members = [node.server.configuration for node in self.healthy]
                self.monitors.violated(
                    "L6", f"no end of a change in {limit:.1f} s: {self._view()} {members}"
                )
            self._run_for(POLL_SECONDS)

    def _is_settled(self, leader: ModelNode) -> bool:
        server = leader.server
        configuration = server.configuration
        return (
            not (configuration.is_joint or configuration.target)
            and server.log.configuration_index <= server.commit_index
            and server.is_voter
        )

    def _view(self) -> list[tuple[str, str, int, str | None]]:
        return [
            (node.id, node.role.value, node.term, node.server.leader_id) for node in self.healthy
        ]

    def _backlog_seconds(self, leader: ModelNode) -> float:
        """Estimate how long the followers need for what they have missed."""
        end = leader.records.end
        behind = max(end - 1 - node.applied for node in (leader, *self._members(leader)))
        messages = behind / min(self.swarm.options.max_append_entries, 2)
        return messages * (BACKLOG_SECONDS + 3 * self.swarm.turn_seconds)

    def _await_service(self, leader: ModelNode) -> None:
        begun = self.timeline.now
        limit = SERVICE_TIMEOUTS * TIMEOUT_SECONDS + self._backlog_seconds(leader)
        limit += self.swarm.delay_seconds[1]
        members = self._members(leader)
        reader = members[self.swarm.seed % len(members)]
        requests, term = self.workload.requests, leader.term
        write, read = self.workload.write(leader), self.workload.read(reader)
        while True:
            self._run_for(POLL_SECONDS)
            outcomes = requests[write].outcome, requests[read].outcome
            if outcomes == ("done", "done"):
                return
            if self.timeline.now - begun > limit:
                self.monitors.violated("L2", f"write, read are {outcomes} after {limit:.1f} s")
            successor = self._agreed_leader()
            if successor and (
                outcomes[0] in WRITE_AGAIN or (not outcomes[0] and successor.term > term)
            ):
                # What a deposed leader had accepted may be gone, and nobody would say so.
                write, term = self.workload.write(successor), successor.term
            if outcomes[1] in READ_AGAIN:
                read = self.workload.read(reader)

    def _steady(self, leader: ModelNode) -> None:
        self._run_for(SERVICE_TIMEOUTS * TIMEOUT_SECONDS)
        settled = self._agreed_leader()
        if settled is None:
            self.monitors.violated("L4", f"{leader.id} did not stay: {self._view()}")
        term = settled.term
        self.workload.steady()
        self._run_for(self.swarm.steady_seconds)
        self.workload.stop()
        if self._agreed_leader() is not settled or settled.term != term:
            self.monitors.violated("L4", f"{settled.id} of {term} was replaced: {self._view()}")

    def _converge(self, leader: ModelNode) -> None:
        begun = self.timeline.now
        limit = CONVERGENCE_TIMEOUTS * TIMEOUT_SECONDS + self._backlog_seconds(leader)
        members = self._members(leader)
        while len({(node.applied, node.records.end) for node in members}) > 1:
            if self.timeline.now - begun > limit:
                applied = {node.id: (node.applied, node.records.end) for node in members}
                self.monitors.violated("L3", f"applied, end differ after {limit:.1f} s: {applied}")
            self._run_for(POLL_SECONDS)


def simulate(
    seed: int,
    server_class: type[Server] = Server,
    *,
    full_digest: bool = False,
    swarm: Swarm | None = None,
) -> Report:
    """Run one seed and return what it did; raise `Failure` where a promise is broken.

    Args:
        seed: Draws the world, unless `swarm` is given.
        server_class: The core under test: `Server`, or a broken child of it.
        full_digest: Hash every Outputs; slower, for the proof of determinism.
        swarm: A world of one's own.
    """
    return Simulation(swarm or Swarm.draw(seed), server_class, full_digest).run()


def first_failure(seeds: Iterable[int], server_class: type[Server] = Server) -> Failure | None:
    """Run seeds until one fails; return its failure, or None."""
    for seed in seeds:
        try:
            simulate(seed, server_class)
        except Failure as failure:
            return failure
    return None


if __name__ == "__main__":
    # What shows failures imports this module by its name: it must not be two.
    importlib.import_module("raft.testing.cores.command").main()
