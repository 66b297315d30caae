"""Bugs that Raft implementations have had, to be planted into the real core.

Each is one wrong line, put in place by patching the function that holds the right one.
A simulator that does not find them proves nothing when it finds nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
from attrs import evolve, frozen

from raft.core import elections, membership, reads, replication
from raft.core.configuration import Configuration
from raft.core.events import ChangeConfiguration, Event
from raft.core.log import Log
from raft.core.messages import (
    AppendEntries,
    AppendEntriesResult,
    Message,
    PreVoteResult,
    ReadIndexResult,
    RequestVote,
    RequestVoteResult,
)
from raft.core.outputs import Outputs, ReadConfirmed
from raft.core.progress import Progress
from raft.core.roles import Candidate, Follower, Leader
from raft.core.server import Server

Patch = Callable[[pytest.MonkeyPatch], None]


@frozen
class Bug:
    """One wrong line, and the rules whose monitors may see it first."""

    plant: Patch
    rules: frozenset[str]


BUGS: dict[str, Bug] = {}


def planted(*rules: str) -> Callable[[Patch], Patch]:
    """Enter a bug under its function's name; `raised` stands for the core's own checks."""

    def enter(plant: Patch) -> Patch:
        BUGS[plant.__name__] = Bug(plant, frozenset(rules))
        return plant

    return enter


def changed_messages(
    patch: pytest.MonkeyPatch, change: Callable[[Server, Message, int], tuple[Message, int]]
) -> None:
    """Let `change` rewrite each message and the ticket it waits for."""
    send = Server.send

    def changed(server: Server, receiver: str, message: Message, after: int = 0) -> None:
        send(server, receiver, message, after)
        last = server.turn.send[-1]
        message, after = change(server, message, last.after)
        server.turn.send[-1] = evolve(last, message=message, after=after)

    patch.setattr(Server, "send", changed)


@planted("I8")
def an_older_terms_entry_commits_by_counting(patch: pytest.MonkeyPatch) -> None:
    """Figure 8 [L4]."""

    def advance(server: Server) -> None:
        if isinstance(server.state, Leader):
            agreed = server.configuration.agreed(server.match_index)
            if agreed > server.commit_index:
                server.commit_to(int(agreed))

    patch.setattr(replication, "advance", advance)


@planted("I2")
def a_vote_leaves_before_it_is_saved(patch: pytest.MonkeyPatch) -> None:
    """[E1]."""

    def change(_: Server, message: Message, after: int) -> tuple[Message, int]:
        return message, 0 if isinstance(message, RequestVoteResult) else after

    changed_messages(patch, change)


@planted("I2")
def a_candidate_asks_before_its_own_vote_is_saved(patch: pytest.MonkeyPatch) -> None:
    """[E1]."""

    def change(_: Server, message: Message, after: int) -> tuple[Message, int]:
        return message, 0 if isinstance(message, RequestVote) else after

    changed_messages(patch, change)


@planted("I2", "I1", "raised")
def a_vote_is_never_saved(patch: pytest.MonkeyPatch) -> None:
    """[E1]: the term is written, the vote is not."""
    step = Server.step

    def forgetful(server: Server, events: Sequence[Event], now: float) -> Outputs:
        outputs = step(server, events, now)
        if outputs.save is None or outputs.save.hard_state is None:
            return outputs
        hard_state = evolve(outputs.save.hard_state, voted_for=None)
        return evolve(outputs, save=evolve(outputs.save, hard_state=hard_state))

    patch.setattr(Server, "step", forgetful)


@planted("I11")
def entries_are_acknowledged_before_they_are_saved(patch: pytest.MonkeyPatch) -> None:
    """[L1, L8]."""

    def change(server: Server, message: Message, after: int) -> tuple[Message, int]:
        if (
            isinstance(message, AppendEntriesResult)
            and message.success
            and isinstance(server.state, Follower)
        ):
            message = evolve(message, match_index=server.state.verified_index)
        return message, after

    changed_messages(patch, change)


@planted("I11", "I10", "raised")
def the_own_last_index_is_acknowledged(patch: pytest.MonkeyPatch) -> None:
    """[L1]: what stands behind the leader's entries may be another leader's."""

    def change(server: Server, message: Message, after: int) -> tuple[Message, int]:
        if isinstance(message, AppendEntriesResult) and message.success:
            message = evolve(message, match_index=server.log.saved_index)
        return message, after

    changed_messages(patch, change)


@planted("I10", "I8")
def what_was_received_counts_as_saved(patch: pytest.MonkeyPatch) -> None:
    """[L5]: the leader takes a follower's last entry for its match."""
    receive_result = replication.receive_result

    def trusting(server: Server, sender: str, result: AppendEntriesResult) -> None:
        if result.success:
            result = evolve(result, match_index=result.last_log_index)
        receive_result(server, sender, result)

    patch.setattr(replication, "receive_result", trusting)


@planted("I7", "I12", "I13", "raised")
def a_follower_commits_what_it_did_not_verify(patch: pytest.MonkeyPatch) -> None:
    """[L2]: commit without the minimum."""
    receive_entries = replication.receive_entries

    def eager(server: Server, sender: str, request: AppendEntries) -> None:
        receive_entries(server, sender, request)
        if request.term == server.current_term:
            server.commit_to(min(request.leader_commit, server.log.last_index))

    patch.setattr(replication, "receive_entries", eager)


@planted("I18")
def a_read_is_confirmed_without_a_round(patch: pytest.MonkeyPatch) -> None:
    """[R3]: a deposed leader answers from the past."""

    def advance(server: Server) -> None:
        leader = server.state
        if isinstance(leader, Leader) and server.commit_index >= leader.first_index:
            origins, leader.waiting_reads = leader.waiting_reads, []
            for origin in origins:
                index = server.commit_index
                if origin.peer is None:
                    server.turn.confirmed.append(ReadConfirmed(origin.request, index))
                else:
                    result = ReadIndexResult(server.current_term, origin.request, index)
                    server.send(origin.peer, result)

    patch.setattr(reads, "advance", advance)


@planted("I18")
def an_answer_sent_before_the_read_confirms_it(patch: pytest.MonkeyPatch) -> None:
    """[R3]: the round's number is that of a message already sent."""
    advance = reads.advance

    def early(server: Server) -> None:
        advance(server)
        if isinstance(server.state, Leader) and server.state.round is not None:
            server.state.round.sequence = 1
            advance(server)

    patch.setattr(reads, "advance", early)


@planted("I18")
def a_read_is_served_before_the_terms_no_op_commits(patch: pytest.MonkeyPatch) -> None:
    """[R1]: a new leader does not know yet what its predecessor committed."""
    advance = reads.advance

    def hasty(server: Server) -> None:
        leader = server.state
        if not isinstance(leader, Leader):
            return
        first_index, leader.first_index = leader.first_index, 0
        advance(server)
        leader.first_index = first_index

    patch.setattr(reads, "advance", hasty)


@planted("I1", "I5", "I6", "I15", "raised")
def votes_are_counted_by_number(patch: pytest.MonkeyPatch) -> None:
    """[E3]: a vote that arrives twice counts twice."""
    count_vote = elections.count_vote

    def by_number(server: Server, sender: str, result: RequestVoteResult) -> None:
        state = server.state
        repeated = isinstance(state, Candidate) and sender in state.granted
        count_vote(server, sender, result)
        if repeated and isinstance(server.state, Candidate) and result.vote_granted:
            spare = sorted(server.configuration.voters - server.state.granted)
            count_vote(server, spare[0], result)

    patch.setattr(elections, "count_vote", by_number)


@planted("I1", "I5", "I6", "I15", "raised")
def a_vote_of_an_older_term_counts(patch: pytest.MonkeyPatch) -> None:
    """[E3]: only grants of the current term do."""
    count_vote = elections.count_vote

    def lax(server: Server, sender: str, result: RequestVoteResult) -> None:
        count_vote(server, sender, evolve(result, term=server.current_term))

    patch.setattr(elections, "count_vote", lax)


@planted("I1", "I5", "I6", "I7", "I8", "I15", "I18", "raised")
def a_quorum_is_one_short(patch: pytest.MonkeyPatch) -> None:
    """[E3]: half is not a majority."""

    def majority(configuration: Configuration, granted: frozenset[str]) -> bool:
        return all(len(half & set(granted)) >= len(half) // 2 for half in configuration.halves)

    def agreed(configuration: Configuration, reached: Callable[[str], float]) -> float:
        return min(
            sorted(map(reached, half), reverse=True)[max(0, len(half) // 2 - 1)]
            for half in configuration.halves
        )

    patch.setattr(Configuration, "majority", majority)
    patch.setattr(Configuration, "agreed", agreed)


@planted("I6", "I7", "raised")
def a_longer_log_is_up_to_date(patch: pytest.MonkeyPatch) -> None:
    """[E2]: by index only."""

    def is_up_to_date(log: Log, last_index: int, last_term: int) -> bool:
        return last_index >= log.last_index or last_term < 0

    patch.setattr(Log, "is_up_to_date", is_up_to_date)


@planted("I6", "I8", "I9", "I10", "I11", "L5", "raised")
def a_follower_always_truncates(patch: pytest.MonkeyPatch) -> None:
    """[L3]: a late message removes what was acknowledged since."""
    receive_entries = replication.receive_entries

    def eager(server: Server, sender: str, request: AppendEntries) -> None:
        start = request.entries.start
        if (
            request.entries.runs
            and request.term == server.current_term
            and server.log.matches(request.prev_log_index, request.prev_log_term)
            and server.log.first_index <= start <= server.log.last_index
        ):
            server.truncate(start)
        receive_entries(server, sender, request)

    patch.setattr(replication, "receive_entries", eager)


@planted("I5", "I7", "I11", "I13", "N6", "raised")
def the_previous_term_is_not_checked(patch: pytest.MonkeyPatch) -> None:
    """5.3: a gap is noticed, a conflict is not."""

    def matches(log: Log, index: int, term: int) -> bool:
        return log.first_index - 1 <= index <= log.last_index and term >= 0

    patch.setattr(Log, "matches", matches)


@planted("I12")
def entries_are_applied_before_they_are_saved(patch: pytest.MonkeyPatch) -> None:
    """[L8]: committed by the others, not yet on the own disk."""
    step = Server.step

    def hasty(server: Server, events: Sequence[Event], now: float) -> Outputs:
        outputs = step(server, events, now)
        return evolve(outputs, apply_end=max(outputs.apply_end, outputs.commit_index + 1))

    patch.setattr(Server, "step", hasty)


@planted("I2", "I3")
def a_term_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    """[I3]: a pre-vote's refusal of an older term is adopted."""

    def adopting(server: Server, _: str, result: PreVoteResult) -> None:
        if not result.vote_granted and 0 < result.term < server.current_term:
            server.current_term = result.term
        count_pre_vote(server, _, result)

    count_pre_vote = elections.count_pre_vote
    patch.setattr(elections, "count_pre_vote", adopting)


@planted("L1")
def a_refused_pre_vote_hides_the_newer_term(patch: pytest.MonkeyPatch) -> None:
    """[E5]: safe, and without a leader for ever where logs and terms are unequal."""

    def change(_: Server, message: Message, after: int) -> tuple[Message, int]:
        if isinstance(message, PreVoteResult) and not message.vote_granted:
            message = evolve(message, term=0)
        return message, after

    changed_messages(patch, change)


@planted("L3", "L2", "L1", "L6")
def a_lost_message_is_never_sent_again(patch: pytest.MonkeyPatch) -> None:
    """[L7]: the leader believes in what it sent."""

    def deaf(_: Server, __: str, result: AppendEntriesResult) -> None:
        if result.success:
            receive_result(_, __, result)

    receive_result = replication.receive_result
    patch.setattr(replication, "receive_result", deaf)


@planted("I21")
def the_window_has_no_end(patch: pytest.MonkeyPatch) -> None:
    """[L7]: a follower that is slow to answer is sent more and more."""
    patch.setattr(Progress, "inflight_count", property(lambda _: 0))


@planted("I14", "raised")
def a_truncated_configuration_stays(patch: pytest.MonkeyPatch) -> None:
    """[M1]: with the entry, what it said is reverted."""
    truncate = Log.truncate

    def keeping(log: Log, start: int) -> None:
        configurations = list(log.configurations)
        truncate(log, start)
        log.configurations = configurations

    patch.setattr(Log, "truncate", keeping)


@planted("I14")
def members_change_while_a_change_is_uncommitted(patch: pytest.MonkeyPatch) -> None:
    """[M2]: one at a time."""

    def may_change(server: Server) -> bool:
        leader = server.state
        return isinstance(leader, Leader) and server.commit_index >= leader.first_index

    patch.setattr(membership, "may_change", may_change)


@planted("I14")
def members_change_before_the_term_commits(patch: pytest.MonkeyPatch) -> None:
    """[M2]: first an entry of the own term."""

    def may_change(server: Server) -> bool:
        committed = server.log.configuration_index <= server.commit_index
        return isinstance(server.state, Leader) and committed

    patch.setattr(membership, "may_change", may_change)


@planted("I14", "I8", "raised")
def two_voters_change_in_a_single_step(patch: pytest.MonkeyPatch) -> None:
    """[M3]: the target at once, whatever the difference."""

    def towards(heading: Configuration) -> Configuration:
        return Configuration(heading.target)

    patch.setattr(membership, "_towards", towards)


@planted("I8", "I15")
def a_joint_configuration_takes_a_majority_of_the_union(patch: pytest.MonkeyPatch) -> None:
    """[M3]: both halves must agree, each by itself."""

    def majority(configuration: Configuration, granted: frozenset[str]) -> bool:
        union = frozenset().union(*configuration.halves)
        return len(union & set(granted)) > len(union) // 2

    def agreed(configuration: Configuration, reached: Callable[[str], float]) -> float:
        union = frozenset().union(*configuration.halves)
        return sorted(map(reached, union), reverse=True)[len(union) // 2] if union else -math.inf

    patch.setattr(Configuration, "majority", majority)
    patch.setattr(Configuration, "agreed", agreed)


@planted("I8")
def a_leader_counts_itself_after_its_removal(patch: pytest.MonkeyPatch) -> None:
    """[M6]: it replicates to a majority that it does not belong to."""

    def advance(server: Server) -> None:
        if isinstance(server.state, Leader):
            half = server.configuration.voters | {server.id}
            reached = sorted(map(server.match_index, half), reverse=True)[len(half) // 2]
            if reached > server.commit_index and server.log.term_at(reached) == server.current_term:
                server.commit_to(reached)

    patch.setattr(replication, "advance", advance)


@planted("I8", "I15")
def learners_count_as_voters(patch: pytest.MonkeyPatch) -> None:
    """[M5]: they are there to catch up first."""

    def voters(configuration: Configuration) -> frozenset[str]:
        return frozenset(member.id for member in configuration.members)

    patch.setattr(Configuration, "voters", property(voters))


@planted("I8", "I14", "I15", "L1", "L6", "raised")
def a_configuration_counts_from_its_commit(patch: pytest.MonkeyPatch) -> None:
    """[M1]: it counts from its append."""

    def configuration(server: Server) -> Configuration:
        return server.log.configuration_at(max(1, server.commit_index))[1]

    patch.setattr(Server, "configuration", property(configuration))


@planted("I15")
def a_removed_server_campaigns(patch: pytest.MonkeyPatch) -> None:
    """[E8]: it was told that it is out."""
    patch.setattr(Server, "may_campaign", property(lambda _: True))


@planted("M4")
def a_change_follows_any_configuration(patch: pytest.MonkeyPatch) -> None:
    """[M4]: what the caller had in mind may have changed since."""
    change = membership.change

    def careless(server: Server, event: ChangeConfiguration) -> None:
        change(server, evolve(event, expected_index=None))

    patch.setattr(membership, "change", careless)


@planted("L6", "L2")
def a_joint_configuration_is_left_only_by_its_author(patch: pytest.MonkeyPatch) -> None:
    """[M3]: a new leader does not finish what another began."""
    advance = membership.advance

    def idle(server: Server) -> None:
        leader = server.state
        index = server.log.configuration_index
        if isinstance(leader, Leader) and index < leader.first_index:
            return
        advance(server)

    patch.setattr(membership, "advance", idle)


@planted("L6", "L2")
def a_newcomer_is_waited_for_without_an_end(patch: pytest.MonkeyPatch) -> None:
    """[M5]: who cannot catch up makes the change end where it began."""
    patch.setattr(membership, "_why_hopeless", lambda *_: None)
