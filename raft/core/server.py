"""One Raft server: Figure 2's state, the one door `step`, and the verbs that change state.

The rooms beside this one decide (elections, replication, reads, transfer, snapshots);
only the verbs here change what the server is: `adopt_term`, `vote_for`, `become_...`,
`append`, `truncate`, `commit_to`, `send`. What a step does is gathered in a `Turn` and
leaves as one `Outputs`.

It is one room of a little more than 500 lines, so that every verb stands in one place.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import assert_never

from attrs import Factory, define, field, frozen

from raft.core import elections, founding, membership, reads, replication, snapshots, transfer
from raft.core import events as ev
from raft.core import messages as ms
from raft.core import outputs as out
from raft.core.configuration import Configuration
from raft.core.log import Log
from raft.core.roles import Candidate, Follower, Leader, PreCandidate, Question
from raft.errors import InvariantViolated, LogLost


@frozen
class Options:
    """The protocol's settings; the same on every server but for good reason.

    Election timeouts are drawn from [election_timeout_seconds, twice that).
    `clock_drift_bound` is how many times faster one server's clock may run than another's, at
    least 1 and the same on every server; 0 means that nobody serves reads by lease.
    """

    heartbeat_seconds: float = 0.06
    election_timeout_seconds: float = 0.3
    max_append_bytes: int = 256 * 1024
    max_append_entries: int = 1 << 30
    max_inflight_messages: int = 64
    max_inflight_bytes: int = 8 * 1024 * 1024
    max_uncommitted_bytes: int = 64 * 1024 * 1024
    disk_timeout_seconds: float = 2.0
    join_timeout_seconds: float = 30.0
    clock_drift_bound: float = 0.0
    pre_vote: bool = True
    check_quorum: bool = True


@define
class Turn:
    """What one step has done so far."""

    log_end: int
    """The end of the log when the step began: entries from there on are in `append`."""
    ticket: int = 0
    hard_state: bool = False
    truncate_from: int | None = None
    append: list[out.Append] = Factory(list)
    restore: out.RestoreSnapshot | None = None
    send: list[out.Send] = Factory(list)
    accepted: list[out.Accepted] = Factory(list)
    rejected: list[out.Rejected] = Factory(list)
    lost: list[int] = Factory(list)
    confirmed: list[out.ReadConfirmed] = Factory(list)
    start_snapshots: list[out.StartSnapshot] = Factory(list)
    changes: list[out.Change] = Factory(list)


_FRESH = out.HardState()

State = Follower | PreCandidate | Candidate | Leader

_ROLES: dict[type[State], out.Role] = {
    Follower: out.Role.FOLLOWER,
    PreCandidate: out.Role.PRE_CANDIDATE,
    Candidate: out.Role.CANDIDATE,
    Leader: out.Role.LEADER,
}


@define
class Server:
    """Figure 2's state and what the other chapters add to it.

    Invariants: current_term never falls and is at least the term of the last entry;
    snapshot_index <= commit_index <= log.last_index; apply_end only grows.
    """

    id: str
    options: Options
    rng: random.Random
    now: float
    log: Log
    current_term: int = 0
    voted_for: str | None = None
    commit_index: int = 0
    snapshot_index: int = 0
    apply_end: int = 1
    state: State = Factory(Follower)
    heard_at: float = -math.inf
    """When a leader of the current term was last heard."""
    election_deadline: float = math.inf
    failed_elections: int = 0
    incarnation: str = ""
    """Of its data directory; empty for one that nobody tells from another."""
    excluded_index: int = 0
    """A committed configuration without this server, as a member says; 0 once a leader is heard."""
    told_excluded_index: int = 0
    """What a member said of that kind while a leader was heard; 0 once it was looked at again."""
    standing: ev.Standing = ev.Standing.FREE
    """What others have said of a server without a history; see `raft.core.founding`."""
    founding_until: float = -math.inf
    """Until when other first members may object to a founder."""
    founders: frozenset[str] = frozenset()
    """Who founds a cluster by an order, and may be elected by a server that knows no members."""
    last_ticket: int = 0
    saved_ticket: int = 0
    hard_state_ticket: int = 0
    unsaved_since: float = math.inf
    """Since when a save has been waiting without any being done; infinity when none is."""
    told_configuration: int = 0
    """The index of the last configuration that was told to be committed."""
    started_at: float = -math.inf
    lost: tuple[int, int] = (0, 0)
    """(term, index) of the last entry that a damaged log had, while it is being repaired.

    Until the log is saved as far again, by the order of elections, this server does not stand for
    them, and grants its vote as though it still had that entry [RULES D1].
    """
    asked_leader: dict[int, Question] = Factory(dict)
    """Reads that a follower passed on, by their number on the wire."""
    next_question: int = 0
    turn: Turn = field(default=Factory(lambda: Turn(1)), repr=False)

    @classmethod
    def recover(
        cls,
        id: str,
        options: Options,
        rng: random.Random,
        now: float,
        hard_state: out.HardState = _FRESH,
        snapshot: tuple[int, int, Configuration, int] | None = None,
        first_index: int = 1,
        prev_term: int = 0,
        runs: tuple[ms.Run, ...] = (),
        configurations: tuple[tuple[int, Configuration], ...] = (),
        applied: tuple[int, int] = (0, 0),
        incarnation: str = "",
        lost: tuple[int, int] = (0, 0),
    ) -> Server:
        """Return a follower with what storage recovered.

        `snapshot` is (index, term, configuration, configuration index). The log begins at
        `first_index`, at most one above the snapshot's index. `applied` is index and term of the
        last entry that the machine has, which may be durable by itself: it was committed. `lost` is
        term and index of the last entry that the log had before it was damaged; zeros for none.

        Raises:
            InvariantViolated: what was recovered does not fit together.
            LogLost: the machine has an entry that the log does not hold.
        """
        log = Log(first_index, prev_term)
        server = cls(id, options, rng, now, log, started_at=now, incarnation=incarnation)
        server.current_term, server.voted_for = hard_state.current_term, hard_state.voted_for
        if snapshot is not None:
            index, _, configuration, configuration_index = snapshot
            log.configurations = [(configuration_index, configuration)]
            server.commit_index = server.snapshot_index = index
            server.apply_end = index + 1
        for run in runs:
            log.append(run.end, run.term, run.size_bytes)
        log.configurations += [
            pair for pair in configurations if pair[0] > log.configurations[-1][0]
        ]
        log.saved_index = log.last_index
        server.lost = lost if lost > (log.last_term, log.last_index) else (0, 0)
        server._check_recovered(snapshot[1] if snapshot else 0)
        server._resume_after(*applied)
        # A number that no question of an earlier life can have carried (sc-D3).
        server.next_question = rng.getrandbits(62)
        elections.reset_timer(server)
        return server

    def _check_recovered(self, snapshot_term: int) -> None:
        log, index = self.log, self.snapshot_index
        if not log.matches(index, snapshot_term):
            raise InvariantViolated(
                f"recovered log holds [{log.first_index}, {log.last_index + 1}), which does not "
                f"join the snapshot up to index {index} of term {snapshot_term}"
            )
        if log.last_term > self.current_term:
            raise InvariantViolated(
                f"recovered log ends in term {log.last_term}, above term {self.current_term}"
            )

    def _resume_after(self, index: int, term: int) -> None:
        """Entries up to `index` are applied, which proves that they were committed."""
        if index <= self.snapshot_index:
            return
        if not self.log.matches(index, term):
            raise LogLost(index, self.log.last_index)
        self.commit_to(index)
        self.apply_end = index + 1

    # What others may want to know.

    @property
    def role(self) -> out.Role:
        """What the server is at the moment."""
        return _ROLES[type(self.state)]

    @property
    def leader_id(self) -> str | None:
        """The leader of the current term, where known."""
        if isinstance(self.state, Leader):
            return self.id
        return self.state.leader if isinstance(self.state, Follower) else None

    @property
    def configuration(self) -> Configuration:
        """The latest configuration, committed or not."""
        return self.log.configuration

    @property
    def is_voter(self) -> bool:
        """Whether this server votes, by its own latest configuration."""
        return self._votes_in(self.configuration)

    def _votes_in(self, configuration: Configuration) -> bool:
        """Tell whether `configuration` lets this server vote, and not one that had its id before.

        Who joins under an old id replays the configurations of its predecessor, whose entries
        and votes it does not have [RULES M7, M9].
        """
        member = configuration.member(self.id)
        known = member.incarnation if member else ""
        is_other = known and self.incarnation and known != self.incarnation
        return not is_other and configuration.is_voter(self.id)

    @property
    def may_campaign(self) -> bool:
        """Whether this server may start elections [RULES E8].

        Voters may, and who lost its vote by a configuration that may not be committed: others
        may lack that entry, and can elect nobody against a log that ends with it [D 4.2.2].
        """
        if self.excluded_index or self.is_repairing:
            return False
        if founding.is_barred(self):
            return False
        if self.is_voter:
            return True
        log = self.log
        return log.configuration_index > self.commit_index and self._votes_in(
            log.configuration_before
        )

    @property
    def is_repairing(self) -> bool:
        """Whether the log was damaged, and the leader has not yet sent again what it held."""
        return self.lost != (0, 0)

    def would_elect(self, last_index: int, last_term: int) -> bool:
        """Tell whether a log that ends so is as up to date as this server's is, or was (5.4.1)."""
        return (
            self.log.is_up_to_date(last_index, last_term) and (last_term, last_index) >= self.lost
        )

    @property
    def peers(self) -> list[str]:
        """The other members, in order of their ids."""
        return sorted(self.configuration.ids - {self.id})

    def match_index(self, peer: str) -> int:
        """Return how far `peer` is known to hold the log; 0 unless this server leads."""
        if not isinstance(self.state, Leader):
            return 0
        if peer == self.id:
            return self.log.saved_index
        progress = self.state.progress.get(peer)
        return progress.match_index if progress else 0

    # The door.

    def step(self, events: Sequence[ev.Event], now: float) -> out.Outputs:
        """Take what happened until `now` (monotonic seconds) and say what to do.

        Events are taken in order, then deadlines are judged, then a leader commits and
        sends. The same state, events and time give equal Outputs, always.
        """
        self.now = max(self.now, now)
        self.turn = Turn(log_end=self.log.last_index + 1)
        before = (self.role, self.current_term, self.leader_id)
        for event in events:
            self._take(event)
        elections.judge_deadlines(self)
        replication.judge_deadlines(self)
        replication.advance(self)
        membership.advance(self)
        reads.advance(self)
        transfer.advance(self)
        replication.replicate(self)
        self._tell_configuration()
        after = (self.role, self.current_term, self.leader_id)
        if after != before:
            self.turn.changes.append(out.RoleChanged(*after))
        return self._outputs()

    def _tell_configuration(self) -> None:
        """Say once of each configuration that it is committed."""
        index, configuration = self.log.configuration_at(self.commit_index)
        if index > self.told_configuration:
            self.told_configuration = index
            self.turn.changes.append(out.ConfigurationCommitted(index, configuration))

    def _take(self, event: ev.Event) -> None:
        match event:
            case ev.Received():
                self._receive(event.sender, event.message)
            case ev.Saved():
                self._saved(event.ticket)
            case ev.Propose():
                replication.propose(self, event)
            case ev.Read():
                reads.ask(self, event)
            case ev.CancelReads():
                reads.cancel(self, event.requests)
            case ev.TransferLeadership():
                transfer.begin(self, event.target, event.request)
            case ev.Excluded():
                elections.leave_elections(self, event.index)
            case ev.Founding():
                founding.judge(self, event)
            case ev.Bootstrap():
                self._bootstrap(event.configuration)
            case ev.ChangeConfiguration():
                membership.change(self, event)
            case ev.PinIncarnations():
                membership.pin(self, event)
            case ev.Unfit():
                membership.unfit(self, event)
            case ev.Unreachable():
                replication.unreachable(self, event.peer)
            case ev.SnapshotSaved():
                snapshots.saved(self, event)
            case ev.SnapshotSent():
                snapshots.sent(self, event)
            case _:
                assert_never(event)

    def _receive(self, sender: str, message: ms.Message) -> None:
        """The front desk: first who may not raise our term, then the term, then the room.

        PreVote and its result never change the term by being heard; a RequestVote is
        first asked whether it is a disruption (4.2.3): after adopting, harm is done.
        """
        match message:
            case ms.PreVote():
                elections.answer_pre_vote(self, sender, message)
                return
            case ms.PreVoteResult():
                elections.count_pre_vote(self, sender, message)
                return
            case ms.RequestVote():
                elections.answer_vote_request(self, sender, message)
                return
            case _:
                pass
        if message.term > self.current_term:
            self.adopt_term(message.term)
        match message:
            case ms.RequestVoteResult():
                elections.count_vote(self, sender, message)
            case ms.AppendEntries():
                replication.receive_entries(self, sender, message)
            case ms.AppendEntriesResult():
                replication.receive_result(self, sender, message)
            case ms.InstallSnapshot():
                snapshots.receive(self, sender, message)
            case ms.InstallSnapshotResult():
                snapshots.receive_result(self, sender, message)
            case ms.TimeoutNow():
                transfer.timeout_now(self, sender, message)
            case ms.ReadIndex():
                reads.answer_read_index(self, sender, message)
            case ms.ReadIndexResult():
                reads.receive_read_index(self, message)
            case _:
                assert_never(message)

    def _saved(self, ticket: int) -> None:
        if ticket > self.last_ticket:
            raise InvariantViolated(f"save {ticket} is done but only {self.last_ticket} was asked")
        if ticket <= self.saved_ticket:
            return
        self.saved_ticket = ticket
        self.unsaved_since = math.inf if ticket == self.last_ticket else self.now
        self.log.saved(ticket)
        replication.judge_repair(self)
        elections.count_own_vote(self)
        replication.acknowledge_saved(self)

    def _bootstrap(self, configuration: Configuration) -> None:
        # Whoever has an entry or a snapshot has a term.
        if self.current_term:
            self.turn.rejected.append(out.Rejected(0, out.Refusal.NOT_EMPTY))
            return
        self.current_term = 1
        self._hard_state_changed()
        self.append_configuration(configuration)

    # The verbs. Only these change the server's state.

    def adopt_term(self, term: int) -> None:
        """Go to a newer term, as a follower without a leader or a vote [RULES E1]."""
        if term <= self.current_term:
            raise InvariantViolated(f"term {term} adopted after {self.current_term}")
        self.current_term, self.voted_for = term, None
        self._hard_state_changed()
        self.become_follower(None)

    def vote_for(self, candidate: str) -> None:
        """Give this term's one vote to `candidate`."""
        if self.voted_for not in (None, candidate):
            raise InvariantViolated(
                f"second vote in term {self.current_term}: {candidate} after {self.voted_for}"
            )
        if self.voted_for != candidate:
            self.voted_for = candidate
            self._hard_state_changed()

    def become_follower(self, leader: str | None) -> Follower:
        """Follow `leader`, or wait for one; what the old role kept ends here."""
        if isinstance(self.state, Follower) and self.state.leader == leader:
            return self.state
        was_leading = isinstance(self.state, Leader)
        self.leave_role()
        self.state = follower = Follower(leader)
        if was_leading:
            elections.reset_timer(self)
        return follower

    def leave_role(self) -> None:
        """End what depends on the present role or leader: reads fail, safe to retry [RULES R6]."""
        reads.fail_all(self)
        transfer.abandon(self)

    def append(self, end: int, size_bytes: int, entry: out.Append) -> None:
        """Append entries of the current term up to `end`, which stand in `entry`."""
        self.log.append(end, self.current_term, size_bytes)
        self.turn.append.append(entry)
        self.log_changed()

    def append_no_op(self) -> None:
        """Append the empty entry of a new leader."""
        index = self.log.last_index + 1
        self.append(index + 1, 64, out.NoOp(index, self.current_term))

    def append_configuration(self, configuration: Configuration) -> int:
        """Append `configuration`, which counts at once [RULES M1]; return its index."""
        index = self.log.last_index + 1
        entry = out.Configured(index, self.current_term, configuration)
        listed = len(configuration.members) + len(configuration.target)
        self.append(index + 1, 64 + 128 * listed, entry)
        self.log.configurations.append((index, configuration))
        self.configuration_changed()
        return index

    def configuration_changed(self) -> None:
        """Let what depends on the members follow the latest configuration."""
        if isinstance(self.state, Leader):
            replication.follow_configuration(self, self.state)
        elif self.election_deadline == math.inf:
            elections.reset_timer(self)

    def truncate(self, start: int) -> None:
        """Remove the entries from `start` on: the leader's follow in their place [RULES L3]."""
        if start <= self.commit_index:
            raise InvariantViolated(
                f"entry {start} conflicts with the leader's, but {self.commit_index} is committed"
            )
        self.log.truncate(start)
        turn = self.turn
        turn.append = [kept for entry in turn.append if (kept := out.cut(entry, start))]
        if start < turn.log_end:
            turn.truncate_from = min(start, turn.truncate_from or start)

    def commit_to(self, index: int) -> None:
        """Advance the commit index; it never goes back."""
        if index > self.log.last_index:
            raise InvariantViolated(f"commit {index} is past the log's end {self.log.last_index}")
        self.commit_index = max(self.commit_index, index)

    def log_changed(self) -> None:
        """Make this step's save cover the log as it stands."""
        self.log.await_save(self.need_ticket())

    def need_ticket(self) -> int:
        """Return the ticket of this step's save, taking the next one if it has none yet."""
        if not self.turn.ticket:
            self.last_ticket += 1
            self.turn.ticket = self.last_ticket
            self.unsaved_since = min(self.unsaved_since, self.now)
        return self.turn.ticket

    def _hard_state_changed(self) -> None:
        self.turn.hard_state = True
        self.hard_state_ticket = self.need_ticket()

    def send(self, receiver: str, message: ms.Message, after: int = 0) -> None:
        """Send once `after`, and the term and vote that the message shows, are saved [RULES E1]."""
        ticket = max(after, self.hard_state_ticket)
        if ticket <= self.saved_ticket:
            ticket = 0
        self.turn.send.append(out.Send(receiver, message, ticket))

    def _outputs(self) -> out.Outputs:
        turn = self.turn
        save = None
        if turn.ticket:
            hard_state = (
                out.HardState(self.current_term, self.voted_for) if turn.hard_state else None
            )
            save = out.Save(turn.ticket, hard_state, turn.truncate_from, tuple(turn.append))
        ready = min(self.commit_index, self.log.saved_index) + 1
        self.apply_end = max(self.apply_end, self.snapshot_index + 1, ready)
        return out.Outputs(
            restore=turn.restore,
            save=save,
            send=tuple(turn.send),
            accepted=tuple(turn.accepted),
            rejected=tuple(turn.rejected),
            lost=tuple(turn.lost),
            confirmed=tuple(turn.confirmed),
            apply_end=self.apply_end,
            commit_index=self.commit_index,
            start_snapshots=tuple(turn.start_snapshots),
            changes=tuple(turn.changes),
            next_deadline=self._next_deadline(),
        )

    def _next_deadline(self) -> float:
        if not isinstance(self.state, Leader):
            return self.election_deadline
        moved = self.state.transfer
        return min(self.state.heartbeat_deadline, moved.deadline if moved else math.inf)
