"""Figure 2's RPCs and their results, PreVote, TimeoutNow and ReadIndex, as values.

All are one way: a result is a message of its own, tied to its request by the term and,
where a leader asked, by the leader's `sequence`. Who sent a message is not part of
it: the transport knows that better than the message could. Entries are never in here,
only the *range* of them (`Entries`): their bytes wait in the shell.
"""

from __future__ import annotations

from attrs import frozen

from raft.core.configuration import Configuration


@frozen
class Run:
    """Consecutive entries of one term, up to but not including `end`.

    `size_bytes` sums their records. Where a run starts is where the one before ends.
    """

    end: int
    term: int
    size_bytes: int


@frozen
class Entries:
    """What the protocol must know of the entries from `start` on; not their payloads.

    `arrival` is the number the shell gave to the records that wait beside the message,
    on a receiver; 0 on a sender. `configurations` holds (index, configuration) of the
    entries that are configurations, in order.
    """

    start: int
    runs: tuple[Run, ...] = ()
    configurations: tuple[tuple[int, Configuration], ...] = ()
    arrival: int = 0

    @property
    def end(self) -> int:
        """The index after the last entry; `start` when there are none."""
        return self.runs[-1].end if self.runs else self.start

    @property
    def size_bytes(self) -> int:
        """The size of all the records."""
        return sum(run.size_bytes for run in self.runs)


@frozen
class PreVote:
    """Would you vote for me in `term`? Changes nothing on either side [D 9.6]."""

    term: int
    last_log_index: int
    last_log_term: int


@frozen
class PreVoteResult:
    """A grant carries the requested term, a refusal the voter's own [RULES E5]."""

    term: int
    vote_granted: bool


@frozen
class RequestVote:
    """Invoked by candidates to gather votes (section 5.2).

    `leadership_transfer` says that the old leader itself asked for this election: it
    is then no disruption [D 4.2.3].
    """

    term: int
    last_log_index: int
    last_log_term: int
    leadership_transfer: bool = False


@frozen
class RequestVoteResult:
    """The voter's current term, for the candidate to update itself, and its answer."""

    term: int
    vote_granted: bool


@frozen
class AppendEntries:
    """Invoked by the leader to replicate entries (5.3); also the heartbeat (5.2).

    `sequence` numbers the leader's messages within its term: results echo the highest
    one seen, which confirms reads and tells late answers from new ones.
    """

    term: int
    prev_log_index: int
    prev_log_term: int
    entries: Entries
    leader_commit: int
    sequence: int


@frozen
class AppendEntriesResult:
    """The follower's answer; `match_index` is saved on its disk [RULES L1].

    On success `last_log_index` is how far the follower matches, saved or not: a leader
    that has sent more in an earlier message knows that it was lost.
    A message of an earlier term is refused with `sequence` 0: what it asked is of no account.
    On a refusal `match_index` is the prev_log_index that was refused,
    (`hint_index`, `hint_term`) is the follower's last entry of a term not above the
    one asked for [RULES L6], and `last_log_index` is the follower's own last: one that is
    below what it acknowledged tells that its disk went back [RULES L5].
    `promise_seconds` is how long the follower refuses other candidates after
    hearing this leader: its own election_timeout_min. `repairing`, in a refusal, says that the
    follower's log was damaged, that it knows how far it was, and fetches it anew [RULES D1].
    """

    term: int
    success: bool
    match_index: int
    sequence: int
    last_log_index: int
    hint_index: int = 0
    hint_term: int = 0
    promise_seconds: float = 0.0
    repairing: bool = False


@frozen
class InstallSnapshot:
    """One chunk of the leader's snapshot (section 7) was received and counts as contact.

    The shell moves the bytes; the core sees which snapshot it is and, by `done`, that
    the last chunk is safely on this server's disk with a good checksum.
    """

    term: int
    last_included_index: int
    last_included_term: int
    configuration: Configuration
    configuration_index: int
    sequence: int
    done: bool = False


@frozen
class InstallSnapshotResult:
    """The follower's term, and how far it matches once the snapshot is installed.

    `offset_bytes` is how much of the snapshot has arrived without a gap: the shell's
    window. The core does not look at it.
    """

    term: int
    match_index: int
    sequence: int
    done: bool = False
    offset_bytes: int = 0


@frozen
class TimeoutNow:
    """The leader of `term` asks the receiver to campaign at once [D 3.10]."""

    term: int


@frozen
class ReadIndex:
    """A follower asks its leader how far it must have applied to serve a read [D 6.4]."""

    term: int
    request: int


@frozen
class ReadIndexResult:
    """The read index for `request`; None when the leader cannot tell: ask again."""

    term: int
    request: int
    index: int | None


Message = (
    PreVote
    | PreVoteResult
    | RequestVote
    | RequestVoteResult
    | AppendEntries
    | AppendEntriesResult
    | InstallSnapshot
    | InstallSnapshotResult
    | TimeoutNow
    | ReadIndex
    | ReadIndexResult
)
