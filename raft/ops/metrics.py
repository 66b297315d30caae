"""A node's status in numbers, as Prometheus reads it.

Nothing is counted twice: what the node counts anyway is read when somebody asks, in the
reactor, from one `status()`. The registry is the door's own, because several nodes may live
in one process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from raft.core.outputs import Change, Role, RoleChanged

if TYPE_CHECKING:
    from raft.service import RaftService

CONTENT_TYPE = CONTENT_TYPE_LATEST

GAUGES = (
    ("term", "term", "The current term."),
    ("commit_index", "commit_index", "The index of the last committed entry."),
    ("last_applied_index", "last_applied", "The index of the last applied entry."),
    ("last_index", "last_index", "The index of the log's last entry."),
    ("first_index", "first_index", "The index of the log's first entry."),
    ("saved_index", "saved_index", "The index of the last entry on this node's disk."),
    ("snapshot_index", "snapshot_index", "The index that the newest snapshot reaches."),
    ("snapshot_bytes", "snapshot_bytes", "The size of the newest snapshot, about."),
    ("snapshot_running", "snapshot_running", "1 while a snapshot is being taken."),
    ("snapshots_sending", "snapshots_sending", "How many peers are being sent a snapshot."),
    ("log_bytes", "log_bytes", "The size of the log behind the newest compaction."),
    ("oldest_log_age_seconds", "oldest_log_age_seconds", "The age of the log's oldest entry."),
    ("configuration_index", "configuration_index", "The index of the configuration in force."),
    ("machine_version", "machine_version", "The version of the machine in force."),
    ("uptime_seconds", "uptime_seconds", "How long the node has run."),
    ("uncommitted_bytes", "uncommitted_bytes", "The size of entries not yet committed."),
    ("cache_bytes", "cache_bytes", "The size of records kept in memory."),
    ("sessions", "session_count", "How many sessions of clients there are."),
    ("client_connections", "client_count", "How many clients are connected."),
    ("stall_longest_seconds", "stall_longest_seconds", "The longest time it stood still."),
    ("slow_save_longest_seconds", "slow_save_longest_seconds", "The longest slow save, at least."),
    ("silence_longest_seconds", "silence_longest_seconds", "The longest silence of a member."),
    ("compared_index", "compared_index", "Up to here a majority has the same digest."),
    ("disputed_index", "disputed_index", "Where digests differ without a majority; else 0."),
    ("storage_full", "storage_full", "1 while the disk has no room for new entries."),
)
COUNTERS = (
    ("entries", "entry_count", "Entries that were given to the log."),
    ("saves", "save_count", "Saves that were given to the log; each holds many entries."),
    ("syncs", "sync_count", "Syncs of the log's files to the disk."),
    ("snapshots", "snapshot_count", "Snapshots that were taken here."),
    ("snapshot_sent_bytes", "snapshot_sent_bytes", "Bytes of snapshots sent to other nodes."),
    ("snapshots_failed", "snapshot_failed_count", "Snapshots that could not be taken."),
    ("sessions_evicted", "session_evicted_count", "Sessions that made room for others."),
    ("sessions_expired", "session_expired_count", "Sessions that were not used for too long."),
    ("sessions_refused", "session_refused_count", "Sessions that could not be opened."),
    ("copies_joined", "copies_joined_count", "Boxes of a session that joined an earlier copy."),
    ("stalls", "stall_count", "Times that the process stood still for half a timeout."),
    ("slow_saves", "slow_save_count", "Looks at a save that took half an election timeout."),
    ("silences", "silence_count", "Looks at a connected member that did not answer its leader."),
    ("proposals_refused", "refused_count", "Commands refused before they reached the log."),
    ("bad_records", "bad_record_count", "Messages of peers whose records were damaged."),
    ("malformed", "malformed_count", "Connections closed for bytes that were no message."),
    ("stalled", "stalled_count", "Connections closed because nothing moved for too long."),
    ("connections_refused", "connection_refused_count", "Connections that were not let in."),
    ("log_lines_left_out", "log_left_out_count", "Log lines that others caused too often."),
)
"""What is told of each: its name here, its name in `status()`, its line of help."""


class Metrics(Collector):
    """The metrics of one node; a process's own (CPU, memory, files) stand beside them.

    Attributes:
        leader_changes: how often another leader than before became known, since `start`.
    """

    def __init__(self, node: RaftService) -> None:
        """Tell of `node` whenever asked."""
        self.leader_changes = 0
        self._node = node
        self._leader: str | None = None
        self._forget: Callable[[], None] | None = None
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def start(self) -> None:
        """Begin to count what only happens and leaves no trace in `status()`."""
        if self._forget is None:
            self._forget = self._node.observe(self._changed)

    def stop(self) -> None:
        """Count no more."""
        if self._forget is not None:
            self._forget()
            self._forget = None

    def page(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return generate_latest(self._registry)

    def _changed(self, change: Change) -> None:
        if isinstance(change, RoleChanged) and change.leader not in (None, self._leader):
            self._leader = change.leader
            self.leader_changes += 1

    def describe(self) -> Iterator[Metric]:
        """Name nothing in advance: a node that does not run yet has no status to read."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Read the node's status, once."""
        status: dict[str, Any] = self._node.status()
        yield _one("raft_failed", "1 once the node has failed and stopped serving.", self._failed)
        yield CounterMetricFamily(
            "raft_leader_changes", "Leaders that became known in turn.", value=self.leader_changes
        )
        for name, key, text in GAUGES:
            if key in status:
                yield _one(f"raft_{name}", text, status[key])
        for name, key, text in COUNTERS:
            if key in status:
                yield CounterMetricFamily(f"raft_{name}", text, value=status[key])
        yield from _roles(status)
        yield from _members(status)

    @property
    def _failed(self) -> bool:
        return self._node.failure is not None


def _one(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=float(value))


def _roles(status: dict[str, Any]) -> Iterator[Metric]:
    role = GaugeMetricFamily("raft_role", "1 for the role that the node has.", labels=["role"])
    for each in Role:
        role.add_metric([each.value], float(status.get("role") == each.value))
    yield role
    yield _one("raft_leader_known", "1 while the node knows a leader.", bool(status.get("leader")))
    leads = GaugeMetricFamily("raft_leader", "1 for the member that leads.", labels=["id"])
    for member in status.get("members", ()):
        leads.add_metric([member["id"]], float(member["id"] == status.get("leader")))
    yield leads


def _members(status: dict[str, Any]) -> Iterator[Metric]:
    connected = GaugeMetricFamily(
        "raft_peer_connected", "1 for each other member that is connected.", labels=["id"]
    )
    diverged = GaugeMetricFamily(
        "raft_diverged_index", "The first entry known to differ of who has diverged.", labels=["id"]
    )
    for id, index in status.get("diverged", {}).items():
        diverged.add_metric([id], index)
    match = GaugeMetricFamily(
        "raft_match_index", "How far a leader knows each member's log to match.", labels=["id"]
    )
    for member in status.get("members", ()):
        if member["id"] != status["id"]:
            connected.add_metric([member["id"]], float(member["connected"]))
        if member.get("match_index") is not None:
            match.add_metric([member["id"]], member["match_index"])
    yield connected
    yield diverged
    yield match
