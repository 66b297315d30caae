"""What goes wrong, and when: at random, and at the moments where it hurts most."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from attrs import Factory, define, field

from raft.core.configuration import Configuration
from raft.core.outputs import Outputs, Role, RoleChanged
from raft.testing.cores.lease_faults import LeaseFaults
from raft.testing.cores.members import halves_of
from raft.testing.cores.network import Network, cut_links
from raft.testing.cores.swarm import LEASE_FAULTS, PARTITIONS, TICK_SECONDS, TIMEOUT_SECONDS, Swarm
from raft.testing.cores.timeline import Timeline
from raft.testing.cores.wipes import Wipes

if TYPE_CHECKING:
    from raft.testing.cores.model_node import ModelNode
    from raft.testing.cores.monitors import Monitors

NOBODY = ""


@define(eq=False)
class Faults:
    """Befalls nodes and links for as long as the chaos lasts."""

    swarm: Swarm
    timeline: Timeline
    network: Network
    monitors: Monitors
    nodes: dict[str, ModelNode] = Factory(dict)
    armed: bool = False
    """Whether the biased triggers may strike."""
    active: bool = False
    hush: Callable[[float], object] = lambda _: None
    """Makes all clients silent for so many seconds."""
    ask_change: Callable[[ModelNode], object] = lambda _: None
    """Asks a node for a change of the members."""
    fired: Counter[str] = Factory(Counter)
    """How often each kind of trouble came about: found a victim, and changed something."""
    wipes_class: ClassVar[type[Wipes]] = Wipes
    _reserved_until: float = 0.0
    """Until then a script of some scenes plays: links are left as they are."""
    wipes: Wipes = field(init=False)
    _rng: random.Random = field(init=False)
    _change_rng: random.Random = field(init=False)
    _leases: LeaseFaults = field(init=False)

    def __attrs_post_init__(self) -> None:
        """Draw the faults' own chance."""
        self._rng = random.Random(f"{self.swarm.seed}/faults")
        self._change_rng = random.Random(f"{self.swarm.seed}/early changes")
        chance = random.Random(f"{self.swarm.seed}/wipes")
        self.wipes = self.wipes_class(self.network, self.monitors, chance, self.nodes)
        chance = random.Random(f"{self.swarm.seed}/lease faults")
        self._leases = LeaseFaults(self, self.timeline, self.network, chance)

    def start(self) -> None:
        """Let things go wrong."""
        self.active = True
        self.armed = bool(self.swarm.triggers)
        self._later()

    def stop(self) -> list[ModelNode]:
        """End all trouble but the swarm's lasting one; return the nodes that are well."""
        self.active = self.armed = False
        self.network.heal()
        lame = self._lame() if self.swarm.minority else []
        for node in self.nodes.values():
            if node not in lame or self.swarm.minority != "down":
                node.heal()
            elif node.up:
                node.crash()
        for node in lame:
            ids = [node.id, *(other for other in self.nodes if other != node.id)]
            if self.swarm.minority != "down":
                self.network.cut.update(cut_links(self.swarm.minority, ids))
        return [node for node in self.nodes.values() if node not in lame]

    def _lame(self) -> list[ModelNode]:
        """Choose as many voters as a cluster can do without."""
        if self.swarm.change_seconds:
            return self._dispensable()
        configuration = self.swarm.configuration
        voters = sorted(configuration.voters)
        if not self.swarm.bootstrap_all:
            # Perhaps nobody else knows the cluster yet.
            voters.remove("n1")
        count = (len(configuration.voters) - 1) // 2
        return [self.nodes[id] for id in self._rng.sample(voters, count)]

    def _dispensable(self) -> list[ModelNode]:
        """Choose some that are a minority of every configuration that stands in any log."""
        known = [self.swarm.configuration]
        for node in self.nodes.values():
            known += [configuration for _, configuration in node.records.configurations()]
            if node.disk.snapshot is not None:
                known.append(node.disk.snapshot.configuration)
        known += [Configuration(each.target) for each in known if each.target]
        halves = [half for each in known for half in halves_of(each)]
        chosen: set[str] = set()
        for id in self._rng.sample(sorted(self.nodes), len(self.nodes) // 2):
            lame = chosen | {id}
            if all(2 * len(half - lame) > len(half) for half in halves if id in half) and (
                self.swarm.bootstrap_all or id != "n1"
            ):
                chosen = lame
        return [self.nodes[id] for id in sorted(chosen)]

    def retire(self, committed: list[tuple[int, Configuration]]) -> None:
        """Shut down who is no member any more, where nothing else would keep them quiet [M6].

        Without pre-vote and check-quorum, who did not hear that it was removed disturbs.
        """
        options = self.swarm.options
        if not committed or (options.pre_vote and options.check_quorum):
            return
        index, configuration = committed[-1]
        later = [
            pair[1]
            for node in self.nodes.values()
            for pair in node.records.configurations()
            if pair[0] > index
        ]
        wanted: set[str] = set()
        for each in (configuration, *later):
            wanted |= each.ids.union(member.id for member in each.target)
        for node in self.nodes.values():
            if node.up and node.id not in wanted:
                node.crash()

    # Random moments

    def _later(self) -> None:
        if self.swarm.faults:
            delay = self._rng.expovariate(1 / self.swarm.fault_seconds)
            self.timeline.after(delay, self._strike)

    def _strike(self) -> None:
        if not self.active:
            return
        self._later()
        rng, up = self._rng, [node for node in self.nodes.values() if node.up]
        leaders = [node for node in up if node.role is Role.LEADER]
        kind = rng.choice(self.swarm.faults)
        match kind:
            case "crash" if up:
                self.crash(rng.choice(up))
            case "crash leader" if leaders:
                self.crash(rng.choice(leaders))
            case "pause" if up:
                rng.choice(up).pause(rng.uniform(0.5, 20) * TICK_SECONDS)
            case "flap":
                self._flap(rng.choice(list(self.nodes)), rng.randint(2, 8))
            case "reset" if len(self.nodes) > 1:
                self.network.reset(*rng.sample(list(self.nodes), 2))
            case "replay" if self.network.has_old_messages:
                self.network.replay(rng.randint(1, 10))
            case "wipe" | "lose":
                victim = self.wipes.victim(kind)
                if victim is None:
                    return
                self.wipes.wipe(kind, victim)
                self.timeline.after(rng.uniform(1, 50) * TICK_SECONDS, self._restart, victim)
            case _ if not self._strike_links(kind, leaders):
                return
        self.fired[kind] += 1

    def _strike_links(self, kind: str, leaders: list[ModelNode]) -> bool:
        """Let links fail, unless another script plays with them; tell whether they did."""
        rng = self._rng
        if kind == "depose" and leaders:
            self._depose(rng.choice(leaders))
        elif self.timeline.now < self._reserved_until:
            return False
        elif kind in LEASE_FAULTS and leaders:
            self._leases.strike(kind, rng.choice(leaders))
        elif kind in PARTITIONS:
            self.network.partition(kind, rng, leaders[0].id if leaders else None)
            self.timeline.after(rng.uniform(1, 10) * TIMEOUT_SECONDS, self._reconnect)
        elif kind == "slow link" and len(self.nodes) > 1:
            one, other = rng.sample(list(self.nodes), 2)
            self.network.slow[one, other] = rng.uniform(0.5, 30) * TICK_SECONDS
            self.timeline.after(rng.uniform(1, 10) * TIMEOUT_SECONDS, self._reconnect)
        else:
            return False
        return True

    def crash(self, node: ModelNode, down_seconds: float | None = None) -> None:
        """Take the power from `node`, for a while that is drawn where it is not given."""
        node.crash()
        if down_seconds is None:
            down_seconds = self._rng.uniform(0, 50) * TICK_SECONDS
        self.timeline.after(down_seconds, self._restart, node)

    def _restart(self, node: ModelNode) -> None:
        if self.active and not node.up:
            node.start()

    def _reconnect(self) -> None:
        if self.active and self.timeline.now >= self._reserved_until:
            self.network.open()

    def reserve_links(self, seconds: float) -> None:
        """Leave the links to the script that plays now, for so long; then open them all."""
        self._reserved_until = self.timeline.now + seconds
        self.timeline.at(self._reserved_until, self._reconnect)

    def _depose(self, leader: ModelNode) -> None:
        """Cut a leader off until long after its successor serves; sometimes it sleeps over it.

        Clients go on asking it: that is how a stale read would come about.
        """
        seconds = self._rng.uniform(3, 8) * TIMEOUT_SECONDS
        self.network.open()
        self.network.isolate(leader.id)
        self.reserve_links(seconds)
        if self._rng.random() < 0.5:
            leader.pause(seconds * self._rng.uniform(0.5, 0.9))

    def _change_first(self, leader: ModelNode) -> None:
        """Ask a new leader for a change that must wait: no entry of its term is committed yet."""
        if self.active and leader.up and leader.role is Role.LEADER:
            self.fired["change first"] += 1
            self.ask_change(leader)

    def _flap(self, node: str, times: int) -> None:
        if not (times and self.active):
            return
        if times % 2:
            self._reconnect()
        elif self.timeline.now >= self._reserved_until:
            self.network.isolate(node)
        self.timeline.after(self._rng.uniform(0, 4) * TICK_SECONDS, self._flap, node, times - 1)

    def damages_snapshot(self) -> bool:
        """Tell whether the newest snapshot of a server that restarts cannot be read."""
        share = self.swarm.damaged_share
        if not (self.active and share and self._rng.random() < share):
            return False
        self.fired["damaged snapshot"] += 1
        return True

    # Delicate moments

    def before_send(self, node: ModelNode, outputs: Outputs) -> str | None:
        """Strike after a step was saved and before its messages leave.

        Return the one peer that is still sent to, `NOBODY`, or None for everyone.
        """
        if node.role is not Role.LEADER or not outputs.send:
            return None
        rng, rate, triggers = self._rng, self.swarm.trigger_rate, self.swarm.triggers
        elected = any(type(change) is RoleChanged for change in outputs.changes)
        if elected:
            if "drop first no-op" in triggers and rng.random() < rate:
                self.fired["drop first no-op"] += 1
                return rng.choice([NOBODY, *self.nodes])
        elif not outputs.accepted:
            return None
        if "crash before send" in triggers and rng.random() < rate / 10:
            self.fired["crash before send"] += 1
            self.crash(node)
            return NOBODY
        if "send to one" in triggers and rng.random() < rate:
            self.fired["send to one"] += 1
            return rng.choice(list(self.nodes))
        return None

    def role_changed(self, node: ModelNode, change: RoleChanged) -> None:
        """Strike at elections: old votes come back, a new leader is cut off."""
        if not self.active:
            return
        rate = self.swarm.trigger_rate
        if change.role is Role.CANDIDATE:
            if "replay" in self.swarm.faults and self._rng.random() < rate:
                self.network.replay_votes(node.id)
            return
        if change.role is not Role.LEADER:
            return
        triggers = self.swarm.triggers
        if "change first" in triggers and self._change_rng.random() < rate:
            # In a turn of its own, as all that clients ask.
            self.timeline.after(0.0, self._change_first, node)
        if (
            "partition after election" in triggers
            and self.timeline.now >= self._reserved_until
            and self._rng.random() < rate
        ):
            self.fired["partition after election"] += 1
            friends = frozenset(self._rng.sample(sorted(self.nodes), self._rng.randint(0, 1)))
            self.network.isolate(node.id, friends)
            self.timeline.after(self._rng.uniform(1, 6) * TIMEOUT_SECONDS, self._reconnect)
