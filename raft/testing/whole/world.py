"""One world: its machines, network, clients and watchers, on one timeline."""

from __future__ import annotations

import hashlib
import math
import random
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from attrs import Factory, define, evolve, field, frozen
from twisted.logger import ILogObserver, LogLevel, globalLogPublisher
from zope.interface import implementer

from raft.client import RaftClient
from raft.core.configuration import Configuration, Member
from raft.core.outputs import Role
from raft.node.settings import NodeSettings
from raft.service import RaftService
from raft.testing.choices import Choices
from raft.testing.cores.ghost import Violation
from raft.testing.cores.timeline import Timeline
from raft.testing.history import Recorder
from raft.testing.whole.bounds import QueueBounds
from raft.testing.whole.client import Client
from raft.testing.whole.entropy import Entropy
from raft.testing.whole.host import CLIENT_PORT, PEER_PORT, Host, settings_of
from raft.testing.whole.network import Network
from raft.testing.whole.operator import ADDRESS as OPERATOR_ADDRESS
from raft.testing.whole.operator import NAME as OPERATOR_NAME
from raft.testing.whole.operator import Operator
from raft.testing.whole.process import Died
from raft.testing.whole.releases import Releases
from raft.testing.whole.swarm import Swarm
from raft.testing.whole.verdict import Verdict, WatchingMonitors, Witness
from raft.testing.whole.view import Interned, View
from raft.testing.whole.writer import ClockedWriter

JOURNAL_LINES: Final = 2000
CLUSTER_ID: Final = "whole"


@frozen(kw_only=True)
class Parts:
    """What is under test: the real ones, or broken children of theirs."""

    service: type[RaftService] = RaftService
    client: type[RaftClient] = RaftClient
    writer: type[ClockedWriter] = ClockedWriter
    around: Callable[[], Any] | None = None
    """Makes a context manager, entered for as long as a world runs."""


@define(eq=False)
class World:
    """All of one run."""

    swarm: Swarm
    choices: Choices
    parts: Parts = Factory(Parts)
    timeline: Timeline = Factory(Timeline)
    verdict: Verdict = Factory(Verdict)
    hosts: dict[str, Host] = Factory(dict)
    clients: list[Client] = Factory(list)
    operator: Operator = field(init=False)
    releases: Releases = field(init=False)
    rates: dict[str, float] = Factory(dict)
    errors: Counter[str] = Factory(Counter)
    """What clients were told, by the name of the error."""
    fired: Counter[str] = Factory(Counter)
    """How often each trouble came about."""
    journal: deque[str] = Factory(lambda: deque(maxlen=JOURNAL_LINES))
    ended: Callable[[Host], None] = lambda _: None
    """Called when a server has ended by itself, or could not start."""
    bounds: QueueBounds = field(init=False)
    entropy: Entropy = field(init=False)
    network: Network = field(init=False)
    monitors: WatchingMonitors = field(init=False)
    witness: Witness = field(init=False)
    recorder: Recorder = field(init=False)
    sha: Any = Factory(hashlib.sha256)
    _numbers: int = 0
    _crashes: Counter[str] = Factory(Counter)

    def __attrs_post_init__(self) -> None:
        """Make machines and clients; start nothing."""
        swarm = self.swarm
        self.entropy = Entropy(random.Random(f"{swarm.seed}/entropy"))
        self.network = Network(self.timeline, swarm.weather, swarm.seed, self.sha)
        self.monitors = WatchingMonitors(verdict=self.verdict)
        self.monitors.sha = self.sha
        self.witness = Witness(self.verdict)
        self.bounds = QueueBounds(self.verdict)
        self.recorder = Recorder(clock_ns=lambda: round(self.timeline.now * 1e9))
        self._make_hosts()
        for number in range(1, swarm.clients + 1):
            has_sessions = swarm.sessions[number % len(swarm.sessions)]
            name, address = f"c{number}", f"127.0.1.{number}"
            self.clients.append(Client(self, name, address, has_sessions, number % 3 == 0))
        self.operator = Operator(self)
        self.releases = Releases(self)
        if swarm.releases:
            self.witness.in_force = self.releases.in_force
            self.monitors.created_at = self.releases.appended

    def _make_hosts(self) -> None:
        swarm, interned = self.swarm, Interned()
        skew = random.Random(f"{swarm.seed}/skew")
        ids = [f"n{number}" for number in range(1, swarm.voters + swarm.spares + 1)]
        first_members = tuple(self.member(id) for id in ids[: swarm.voters])
        model = NodeSettings(
            "model",
            "model",
            "model",
            first_members=first_members,
            cluster_id=CLUSTER_ID,
            forward=swarm.forward,
            repair=swarm.repair,
            segment_size_bytes=swarm.segment_size_bytes,
            options=swarm.options,
            bounds=swarm.bounds,
            session_limits=swarm.session_limits,
        )
        for id in ids:
            if id == f"n{swarm.voters + 1}":
                # Spares wait until somebody lets them join.
                model = evolve(model, first_members=(), cluster_id="")
            bias = skew.uniform(-swarm.clock_skew, swarm.clock_skew)
            if swarm.extreme_clocks:
                bias = math.copysign(swarm.clock_skew, bias)
            self.rates[id] = 1 + bias
            view = View(id, self.timeline, self.monitors, interned, may_repair=swarm.repair)
            self.monitors.nodes[id] = view  # type: ignore[assignment]
            address = f"127.0.0.{id[1:]}"
            host = Host(self, id, address, settings_of(id, address, model), view)
            host.disk_seconds = swarm.disk_seconds
            self.hosts[id] = host

    # What others ask.

    @property
    def seed(self) -> int:
        """The seed of all chance."""
        return self.swarm.seed

    @property
    def events(self) -> int:
        """How much has happened: events of cores, and pieces that came over the network."""
        return self.monitors.events + self.network.segments

    @property
    def client_addresses(self) -> list[str]:
        """Where clients connect."""
        return [f"tcp:{host.address}:{CLIENT_PORT}" for host in self.hosts.values()]

    def member(self, id: str) -> Member:
        """Return a server as an operator names it to others."""
        address = f"127.0.0.{id[1:]}"
        return Member(id, "", f"tcp:{address}:{PEER_PORT}", f"tcp:{address}:{CLIENT_PORT}")

    def configuration(self) -> Configuration:
        """Return the members that were committed last."""
        known = self.monitors.configurations
        return known[-1][1] if known else Configuration()

    def next_number(self) -> int:
        """Return a number that was not there before."""
        self._numbers += 1
        return self._numbers

    def disk_chance(self, host: str) -> random.Random:
        """Return what decides what a loss of power leaves on this disk, this time."""
        self._crashes[host] += 1
        return random.Random(f"{self.seed}/{host}/power/{self._crashes[host]}")

    def tell(self, who: str, what: str) -> None:
        """Write a line for the transcript."""
        self.journal.append(f"{self.timeline.now:9.4f} {who}: {what}")

    def broke(self, error: BaseException) -> None:
        """Nothing in a process has caught this."""
        self.verdict.note("raised", f"{type(error).__name__}: {error}")
        self.verdict.trace = error

    def address_of(self, name: str) -> str:
        """Return the address of a server or client."""
        if name in self.hosts:
            return self.hosts[name].address
        if name == OPERATOR_NAME:
            return OPERATOR_ADDRESS
        return next(client.address for client in self.clients if client.name == name)

    def may_damage(self, host: Host) -> bool:
        """Tell whether one more disk may lose what was durable: a minority's, in all."""
        voters = set(self.configuration().voters if self.swarm.change_seconds else self.hosts)
        damaged = {each.id for each in self.hosts.values() if each.is_damaged} | {host.id}
        return len(damaged & voters) <= (len(voters) - 1) // 2

    def is_pinned(self, host: Host) -> bool:
        """Tell whether all others know `host` by its directory: then no other passes for it.

        And whether nothing is under way that could make the loss of it one too many.
        """
        index, configuration = (self.monitors.configurations or [(0, Configuration())])[-1]
        is_changing = configuration.is_joint or configuration.target
        if is_changing or host.id not in configuration.ids or not self.operator.is_quiet:
            return False
        for each in self.hosts.values():
            if each.id not in configuration.ids or each.view.is_lost:
                continue
            if not each.is_serving or each.server.log.configuration_index != index:
                return False
            if each.server.commit_index < index:
                return False
        member = configuration.member(host.id)
        return member is not None and bool(member.incarnation)

    # Time.

    def run(self, seconds: float, going_on: Callable[[], bool] = lambda: True) -> None:
        """Let time pass; raise the first violation that is seen."""
        verdict = self.verdict

        def unbroken() -> bool:
            return verdict.first is None and going_on()

        self.timeline.run(self.timeline.now + seconds, unbroken)
        verdict.check()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let this world be the only one, and hear of errors that nobody handled."""

        @implementer(ILogObserver)
        def hear(event: Any) -> None:
            if event.get("log_level") is LogLevel.critical and "log_failure" in event:
                failure = event["log_failure"]
                # A violation has its place already, or is what another world has left behind.
                if failure.check(Died, Violation):
                    return
                self.verdict.note("raised", f"logged: {failure.type.__name__}: {failure.value}")

        globalLogPublisher.addObserver(hear)
        around = self.parts.around() if self.parts.around is not None else None
        try:
            with self.entropy.installed():
                if around is not None:
                    around.__enter__()
                yield
        finally:
            if around is not None:
                around.__exit__(None, None, None)
            globalLogPublisher.removeObserver(hear)

    # Reading it.

    def leaders(self) -> list[Host]:
        """Return those who take themselves for leaders, the latest term first."""
        found = [
            host
            for host in self.hosts.values()
            if host.is_serving and host.server.role is Role.LEADER
        ]
        return sorted(found, key=lambda host: -host.server.current_term)

    def agreed_leader(self, among: list[Host]) -> Host | None:
        """Return the leader that all its members among these know in the same term, if any."""
        for host in self.leaders():
            known, ids = (host.id, host.server.current_term), host.server.configuration.ids
            if host in among and all(
                other.is_serving and (other.server.leader_id, other.server.current_term) == known
                for other in among
                if other.id in ids
            ):
                return host
        return None
