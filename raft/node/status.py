"""A node's status, as plain values: for people, programs and pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raft.core.configuration import Configuration
from raft.core.roles import Leader
from raft.errors import Diverged
from raft.node.leaderless import leaderless_reason

if TYPE_CHECKING:
    from raft.service import RaftService
    from raft.storage.records import RecoveryNote


def status_of(node: RaftService) -> dict[str, object]:
    """Return what `node` knows of itself and its cluster.

    Indexes and terms are numbers; `members` lists all members, with what a leader knows of
    their progress; `target` names those that are to be while a change is under way. Of the
    machine, `machine_held` says whether nothing is applied, `skipped` names the entries that were
    never executed, `machine_version` is in force, `machine_versions` are the oldest and the newest
    that a server can, and `switch_waits_for` names the members that cannot the newest, or are not
    connected. `compared_index` is up to where a majority is known to have the same digest,
    `diverged` names the members that have another one with the first entry known to differ,
    `disputed` the servers by digest where none is a majority's. `recovered` tells of the last
    `raft recover`, or is None; `repair` of the last repair of a damaged log. `leaderless_reason`
    says why no leader is known, or is empty. Of what took longer than half an election timeout
    the counts and the longest are told: `stall` (the process stood still), `slow_save` (a save of
    the disk) and `silence` (a connected member did not answer this leader). Times are in
    seconds, sizes in bytes. A node that has its process to itself adds `cpu_seconds`,
    `resident_bytes` and `most_resident_bytes`, where the system tells them.
    """
    if not node.serves:
        if isinstance(node.failure, Diverged):
            return _set_aside(node, node.failure)
        return {"id": node.id, "role": "stopped", "failure": _failure(node)}
    shell, server = node.shell, node.shell.server
    log = server.log
    return {
        "id": node.id,
        "role": server.role.value,
        "term": server.current_term,
        "voted_for": server.voted_for or "",
        "leader": node.leader() or "",
        "leader_address": node.leader_address() or "",
        "leaderless_reason": leaderless_reason(node),
        "commit_index": server.commit_index,
        "last_applied": node.replica.last_applied,
        "last_index": log.last_index,
        "first_index": log.first_index,
        "snapshot_index": server.snapshot_index,
        "saved_index": log.saved_index,
        **_identity(node),
        "configuration_index": log.configuration_index,
        "joint": server.configuration.is_joint,
        "target": [member.id for member in server.configuration.target],
        "removed": node.members.is_removed,
        "members": _members(node),
        "machine_held": shell.applying.is_held,
        "skipped": sorted(node.replica.skips.done),
        "machine_version": node.replica.versions.active,
        "machine_versions": list(node.switching.span_of(node.id) or ()),
        "switch_waits_for": node.switching.waits_for,
        "uptime_seconds": round(node.clock() - node.started_at, 3),
        "cluster_time": node.replica.last_time_us / 1_000_000,
        **_of_snapshots(node),
        "uncommitted_bytes": log.size_bytes(server.commit_index + 1, log.last_index + 1),
        "cache_bytes": shell.cache.size_bytes,
        "save_count": shell.saving.save_count,
        "entry_count": shell.saving.entry_count,
        "sync_count": node.storage.sync_count,
        **_client_counts(node),
        **_of_pulse(node),
        **_of_bytes(node),
        "storage_full": node.storage.full,
        "repair": _repair(node),
        "digest": node.replica.digest,
        **_compared(node),
        **node.usage(),
        "failure": _failure(node),
    }


def _identity(node: RaftService) -> dict[str, object]:
    """Return whose this node is, and when and from what a survivor was made its cluster."""
    identity, note = node.identity, node.replica.recovery
    told = {"cluster_id": identity.cluster_id, "incarnation": identity.incarnation}
    return {**told, "recovered": None if note is None else _recovered(note)}


def _recovered(note: RecoveryNote) -> dict[str, object]:
    return {
        "time": note.recovered_at,
        "command": note.command,
        "cluster_id": note.cluster_id,
        "previous_cluster_id": note.previous_cluster_id,
        "previous_members": sorted(note.previous_configuration.ids),
    }


def _client_counts(node: RaftService) -> dict[str, object]:
    sessions = node.replica.sessions
    return {
        "client_count": node.listener.connection_count,
        "refused_count": node.shell.refused_count,
        "session_count": len(sessions),
        "session_evicted_count": sessions.evicted_count,
        "session_expired_count": sessions.expired_count,
        "session_refused_count": node.session_entries.refused_count,
        "copies_joined_count": node.shell.sequences.joined_count,
    }


def _of_bytes(node: RaftService) -> dict[str, object]:
    """Return what came of bytes that were not as they must be, since the start."""
    peers, clients, shell = node.network.counters, node.listener.counters, node.shell
    return {
        "bad_record_count": shell.bad_record_count,
        "malformed_count": peers.malformed + clients.malformed,
        "stalled_count": peers.stalled + clients.stalled,
        "connection_refused_count": peers.refused + clients.refused,
        "log_left_out_count": sum(
            log.left_out_count for log in (peers.log, clients.log, shell.complaints)
        ),
    }


def _of_snapshots(node: RaftService) -> dict[str, object]:
    shell, log = node.shell, node.shell.server.log
    return {
        "log_bytes": log.size_bytes(log.first_index, log.last_index + 1),
        "oldest_log_age_seconds": shell.log_age.seconds(),
        "snapshot_bytes": shell.snapshots.policy.size_bytes,
        "snapshot_count": shell.snapshots.taken_count,
        "snapshot_failed_count": shell.snapshots.failed_count,
        "snapshot_error": shell.snapshots.last_error,
        "snapshot_running": shell.snapshots.is_taking,
        "restoring": shell.restoring.is_active,
        "snapshot_sent_bytes": shell.snapshots.sending.sent_bytes,
        "snapshots_sending": len(shell.snapshots.sending.indexes),
    }


def _of_pulse(node: RaftService) -> dict[str, object]:
    pulse = node.pulse
    return {
        "stall_count": pulse.stalls.count,
        "stall_longest_seconds": round(pulse.stalls.longest_seconds, 3),
        "slow_save_count": pulse.saves.count,
        "slow_save_longest_seconds": round(pulse.saves.longest_seconds, 3),
        "silence_count": pulse.silences.count,
        "silence_longest_seconds": round(pulse.silences.longest_seconds, 3),
    }


def _set_aside(node: RaftService, failure: Diverged) -> dict[str, object]:
    """Return what a node still tells whose state has diverged."""
    return {
        "id": node.id,
        "role": "diverged",
        "last_applied": node.replica.last_applied,
        "digest": node.replica.digest,
        "diverged": {node.id: failure.index},
        "failure": str(failure),
    }


def _compared(node: RaftService) -> dict[str, object]:
    """Return up to where the digests were compared and the same, and whose differ."""
    guard, dispute = node.guard, node.guard.dispute
    return {
        "compared_index": guard.agreed_index,
        "diverged": guard.diverged,
        "disputed_index": dispute.index if dispute else 0,
        "disputed": [list(side) for side in dispute.sides] if dispute else [],
    }


def _repair(node: RaftService) -> dict[str, object] | None:
    """Return what was last done to a damaged log, or is being done; None where nothing ever was."""
    repair = node.repairing.repair
    if repair is None:
        return None
    return {
        "state": repair.state,
        "begun_at": repair.begun_at,
        "damages": list(repair.damages),
        "set_aside": list(repair.set_aside),
        "last_term": repair.last[0],
        "last_index": repair.last[1],
    }


def _failure(node: RaftService) -> str:
    return str(node.failure) if node.failure else ""


def _role(configuration: Configuration, id: str) -> str:
    """Return what a member is: it votes, it is to vote once it has caught up, or neither."""
    if configuration.is_voter(id):
        return "voter"
    return "joining" if id in configuration.newcomers else "learner"


def _members(node: RaftService) -> list[dict[str, object]]:
    server = node.shell.server
    leader = server.state if isinstance(server.state, Leader) else None
    rows: list[dict[str, object]] = []
    for member in server.configuration.members:
        row: dict[str, object] = {
            "id": member.id,
            "voter": member.voter,
            "role": _role(server.configuration, member.id),
            "peer_address": member.peer_address,
            "client_address": member.client_address,
            "incarnation": member.incarnation,
            "connected": member.id == node.id or node.network.is_connected(member.id),
        }
        span = node.switching.span_of(member.id)
        row["machine_versions"] = list(span) if span else None
        if leader is not None:
            progress = leader.progress.get(member.id)
            row["match_index"] = server.match_index(member.id)
            row["pace"] = progress.pace.value if progress else "leader"
        rows.append(row)
    return rows
