"""Log compaction and InstallSnapshot as the protocol sees them (section 7) [RULES N1, N5, N6].

The shell moves the bytes; here is decided who needs a snapshot, what installing one does
to the log, and when the log may be cut.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raft.core import membership, replication
from raft.core.events import SnapshotSaved, SnapshotSent
from raft.core.messages import InstallSnapshot, InstallSnapshotResult
from raft.core.outputs import Compacted, RestoreSnapshot, StartSnapshot
from raft.core.progress import Pace, Progress
from raft.core.roles import Leader
from raft.errors import InvariantViolated

if TYPE_CHECKING:
    from raft.core.server import Server


def saved(server: Server, event: SnapshotSaved) -> None:
    """Cut the log that this server's own snapshot covers, but for `keep` entries."""
    if event.index >= server.apply_end:
        raise InvariantViolated(
            f"a snapshot up to {event.index}, but only entries below {server.apply_end} are applied"
        )
    server.snapshot_index = max(server.snapshot_index, event.index)
    cut = event.index - event.keep
    if cut >= server.log.first_index:
        server.log.compact(cut)
        server.turn.changes.append(Compacted(cut))


def start(server: Server, leader: Leader, peer: str, progress: Progress) -> None:
    """Begin to send `peer` the snapshot: its next entry is compacted away."""
    progress.send_snapshot()
    progress.snapshot_index = server.snapshot_index
    leader.sequence += 1
    server.turn.start_snapshots.append(StartSnapshot(peer, leader.sequence))


def sent(server: Server, event: SnapshotSent) -> None:
    """The shell's transfer ended: probe from where the follower should be now.

    After a failure not before the follower is heard: what fails at once would be begun again
    at once, in a circle [RULES N5].
    """
    leader = server.state
    if not isinstance(leader, Leader):
        return
    progress = leader.progress.get(event.peer)
    if progress is not None and progress.pace is Pace.SNAPSHOT:
        progress.probe(event.index + 1 if event.ok else progress.match_index + 1)
        progress.paused = not event.ok
        if not event.ok:
            membership.transfer_failed(leader, event.peer)


def receive(server: Server, sender: str, request: InstallSnapshot) -> None:
    """Hear the leader; once the whole snapshot is safe on disk, let it replace the state."""
    if request.term < server.current_term:
        # The sequence is of another term, and so not echoed: see replication's refusals.
        server.send(sender, InstallSnapshotResult(server.current_term, 0, sequence=0))
        return
    follower = replication.hear_leader(server, sender, request.sequence)
    index = request.last_included_index
    if not request.done:
        match = min(follower.verified_index, server.log.saved_index)
        server.send(sender, InstallSnapshotResult(server.current_term, match, request.sequence))
        return
    if index > server.commit_index:
        _install(server, request)
        # Entries of this very step may have gone with the log that the snapshot replaced.
        follower.verified_index = min(follower.verified_index, server.log.last_index)
    # What is committed is the same everywhere: an old offer is answered with the truth.
    follower.verified_index = max(follower.verified_index, index)
    match = max(index, min(follower.verified_index, server.log.saved_index))
    result = InstallSnapshotResult(server.current_term, match, request.sequence, done=True)
    server.send(sender, result, after=server.last_ticket)


def _install(server: Server, request: InstallSnapshot) -> None:
    """Keep the log after the snapshot if it holds its last entry, else begin anew [RULES N6]."""
    index, term = request.last_included_index, request.last_included_term
    turn, log = server.turn, server.log
    untouched = turn.truncate_from is None or turn.truncate_from > index
    keep_log = index < turn.log_end and untouched and log.matches(index, term)
    if not keep_log:
        turn.append, turn.truncate_from = [], None
        log.restart_after(index, term, server.commit_index)
        log.configurations = [(request.configuration_index, request.configuration)]
        turn.log_end = index + 1
    turn.restore = RestoreSnapshot(index, term, request.configuration, keep_log)
    server.snapshot_index = server.commit_index = index
    if keep_log:
        log.compact(index)
    server.log_changed()
    server.configuration_changed()


def receive_result(server: Server, sender: str, result: InstallSnapshotResult) -> None:
    """Note the contact, and once the snapshot is installed go on with the log after it."""
    found = replication.answering(server, sender, result.term, result.sequence)
    if found is None or not result.done:
        return
    leader, progress = found
    progress.matched(min(result.match_index, server.log.last_index), leader.sequence)
    if progress.pace is Pace.SNAPSHOT and progress.match_index >= progress.snapshot_index:
        progress.replicate(progress.match_index)
