"""All that comes out of the core: one frozen value for each step.

The fields of `Outputs` stand in the order in which the shell carries them out; but the save is
handed to the disk when what need not wait for it has left [D 10.2.1].
"""

from __future__ import annotations

import math
from enum import Enum

from attrs import evolve, frozen

from raft.core.configuration import Configuration
from raft.core.messages import Message


class Role(Enum):
    """What a server is at the moment (Figure 4; a pre-candidate only asks)."""

    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


class Refusal(Enum):
    """Why a proposal, read, transfer or bootstrap was refused: definitely nothing was done."""

    NOT_LEADER = "not leader"
    NO_LEADER = "no leader"
    OVERLOADED = "overloaded"
    TRANSFER_IN_PROGRESS = "transfer in progress"
    NOT_A_VOTER = "not a voter"
    NOT_EMPTY = "not empty"
    LOST_LEADERSHIP = "lost leadership"
    CHANGE_IN_PROGRESS = "change in progress"
    OTHER_CONFIGURATION = "other configuration"
    NO_VOTERS = "no voters"
    NO_LIVE_MAJORITY = "no live majority"


@frozen
class HardState:
    """Figure 2's persistent state but for the log."""

    current_term: int = 0
    voted_for: str | None = None


@frozen
class Proposed:
    """Entries [start, end) of `term` are the commands of the proposal `request`."""

    start: int
    end: int
    term: int
    request: int


@frozen
class Replicated:
    """Entries [start, end) stand in the records that arrived under number `arrival`."""

    start: int
    end: int
    arrival: int


@frozen
class NoOp:
    """Entry `index` is the empty entry with which a leader begins its `term` [RULES R1]."""

    index: int
    term: int


@frozen
class Configured:
    """Entry `index` is `configuration`."""

    index: int
    term: int
    configuration: Configuration


Append = Proposed | Replicated | NoOp | Configured


def cut(entry: Append, end: int) -> Append | None:
    """Return the part of `entry` below index `end`, or None."""
    if isinstance(entry, Proposed | Replicated):
        return evolve(entry, end=min(entry.end, end)) if entry.start < end else None
    return entry if entry.index < end else None


@frozen
class Save:
    """One save, to be written in this order: hard state, truncation, entries.

    `truncate_from` removes the entries from that index on. A save is answered by
    `Saved(ticket)` (or a later ticket) once all of it is durable.
    """

    ticket: int
    hard_state: HardState | None = None
    truncate_from: int | None = None
    append: tuple[Append, ...] = ()


@frozen
class Send:
    """`message` for `receiver`; `after` is the ticket that must be saved first, or 0."""

    receiver: str
    message: Message
    after: int = 0


@frozen
class Accepted:
    """The proposal `request` is entries [start, end) of `term`; not yet committed.

    Of a change of the configuration it is the first entry of as many as it takes.
    """

    request: int
    start: int
    end: int
    term: int


@frozen
class Rejected:
    """The proposal, change or read `request` was refused for `reason`."""

    request: int
    reason: Refusal


@frozen
class ReadConfirmed:
    """Read `request` may be answered once everything up to `index` is applied.

    If that is before `valid_until` (monotonic seconds): a lease ends. A clock must be read
    immediately before the answer.
    """

    request: int
    index: int
    valid_until: float = math.inf


@frozen
class RoleChanged:
    """The server's role, term, vote or known leader is another one than before the step."""

    role: Role
    term: int
    leader: str | None


@frozen
class TransferEnded:
    """The transfer of leadership was given up, or refused, for `reason`.

    It is given up, with `reason` None, also where the leader steps down: for the target, as a rule.
    """

    reason: Refusal | None
    request: int = 0


@frozen
class StartSnapshot:
    """Send `peer` the newest snapshot: the log no longer holds what it needs next."""

    peer: str
    sequence: int


@frozen
class RestoreSnapshot:
    """Replace the whole state by the received snapshot up to `index` [RULES N6].

    `keep_log` says that the log already holds the snapshot's last entry: the entries
    after it stay. Otherwise the log is empty after `index`.
    """

    index: int
    term: int
    configuration: Configuration
    keep_log: bool


@frozen
class Quarantined:
    """`peer` acknowledged `match_index` and has lost it: its disk went back [RULES L5]."""

    peer: str
    match_index: int
    last_log_index: int


@frozen
class LogRepaired:
    """The log, which was damaged, is saved as far as it was: up to `index`. It votes for itself."""

    index: int


@frozen
class ConfigurationCommitted:
    """`configuration`, entry `index`, is committed; nothing of it can be undone any more."""

    index: int
    configuration: Configuration


@frozen
class ChangeAbandoned:
    """A change of the configuration is given up, because of `server`, for `reason`.

    Entry `index` takes it back. It is given up for good once that is committed, which
    `ConfigurationCommitted` tells; another leader may lack the entry, and go on.
    """

    server: str
    reason: str
    index: int


@frozen
class Compacted:
    """The log now starts after `index`; what storage holds up to there may go."""

    index: int


Change = (
    RoleChanged
    | TransferEnded
    | Quarantined
    | LogRepaired
    | ConfigurationCommitted
    | ChangeAbandoned
    | Compacted
)


@frozen
class Outputs:
    """What the shell must do after a step, field by field, in this order.

    Attributes:
        restore: replace the state by this snapshot before anything else.
        save: hand this to storage.
        send: send those with `after` 0 now, the others once that ticket is saved.
        accepted: proposals and changes of the configuration that now stand in the log.
        rejected: proposals, changes and reads that were refused, definitely without effect.
        lost: requests of reads that were pending and now fail; safe to retry.
        confirmed: reads that may be answered once their index is applied.
        apply_end: entries below this index may be applied: committed and saved here.
        commit_index: the highest index known to be committed.
        start_snapshots: snapshot transfers to begin.
        changes: what observers may want to know, in order.
        next_deadline: call step again by then, even without events (monotonic seconds).
    """

    restore: RestoreSnapshot | None = None
    save: Save | None = None
    send: tuple[Send, ...] = ()
    accepted: tuple[Accepted, ...] = ()
    rejected: tuple[Rejected, ...] = ()
    lost: tuple[int, ...] = ()
    confirmed: tuple[ReadConfirmed, ...] = ()
    apply_end: int = 1
    commit_index: int = 0
    start_snapshots: tuple[StartSnapshot, ...] = ()
    changes: tuple[Change, ...] = ()
    next_deadline: float = 0.0
