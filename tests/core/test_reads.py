"""Linearizable reads by ReadIndex: the dissertation's 6.4."""

from __future__ import annotations

import pytest

from raft.core.events import CancelReads, Propose, Read, Received
from raft.core.messages import (
    AppendEntries,
    AppendEntriesResult,
    Message,
    ReadIndex,
    ReadIndexResult,
)
from raft.core.outputs import Outputs, ReadConfirmed, Refusal, Rejected, Role, Send
from raft.core.server import Server
from tests.core.cluster import (
    HEARTBEAT,
    TIMEOUT,
    Cluster,
    append,
    build,
    campaign,
    configuration,
    elapse,
    elect,
    hear,
    leader,
    only,
    save,
    step,
    time_out,
)


def result(server: Server, match: int = 2, sequence: int | None = None) -> Message:
    """Return a follower's success, by default to the leader's last message."""
    number = server.state.sequence if sequence is None else sequence
    return AppendEntriesResult(server.current_term, True, match, number, match)


def ready(**keywords: object) -> Server:
    """Return a leader that has committed the no-op of its term, entry 2."""
    server = leader("a", **keywords)
    for peer in server.peers:
        hear(server, peer, result(server))
    assert server.commit_index == 2
    return server


def test_no_read_is_served_before_an_entry_of_the_own_term_is_committed() -> None:
    """R1: reads wait for the no-op, and are answered after it (sc-D2)."""
    server = leader("a", [1, 1])
    outputs = step(server, Read(1))
    assert (outputs.confirmed, outputs.send, outputs.rejected) == ((), (), ())
    outputs = hear(server, "b", result(server, 3))
    assert outputs.confirmed == ()
    assert len(only(outputs, AppendEntries)) == 2
    outputs = hear(server, "b", result(server, 3))
    assert outputs.confirmed == (ReadConfirmed(1, 3),)


def test_a_read_is_answered_from_the_commit_index_of_its_arrival() -> None:
    """R2: readIndex is the commit index at arrival."""
    server = ready()
    step(server, Propose(1, 1, 100))
    step(server, Read(1))
    save(server)
    outputs = hear(server, "b", result(server, 3))
    assert (outputs.commit_index, outputs.confirmed) == (3, (ReadConfirmed(1, 2),))


def test_a_read_needs_a_round_that_is_sent_after_it() -> None:
    """R3: answers to messages sent before the read do not confirm it."""
    server = ready()
    elapse(server, HEARTBEAT)
    before = server.state.sequence
    outputs = step(server, Read(1))
    assert [message.sequence for message in only(outputs, AppendEntries)] == [
        before + 1,
        before + 2,
    ]
    for peer in "bc":
        assert hear(server, peer, result(server, sequence=before)).confirmed == ()
    assert hear(server, "b", result(server, sequence=before + 1)).confirmed == (
        ReadConfirmed(1, 2),
    )


def test_the_same_answer_twice_is_one_voter() -> None:
    """R3: a quorum is a set of voters, not a number of answers (sc-D9)."""
    server = ready(members=configuration("abcde"))
    step(server, Read(1))
    assert hear(server, "b", result(server), result(server)).confirmed == ()
    assert hear(server, "b", result(server)).confirmed == ()
    assert hear(server, "c", result(server)).confirmed == (ReadConfirmed(1, 2),)


def test_a_refusal_of_the_log_confirms_the_term() -> None:
    """R3: refusals count: the term is what counts."""
    server = leader("a", [1, 1])
    hear(server, "b", result(server, 3))
    step(server, Read(1))
    refusal = AppendEntriesResult(2, False, 2, server.state.sequence, 1, 1, 1)
    assert hear(server, "c", refusal).confirmed == (ReadConfirmed(1, 3),)


def test_learners_and_strangers_confirm_no_read() -> None:
    """R3: a quorum of voters."""
    server = ready(members=configuration("abc", learners="d"))
    step(server, Read(1))
    assert hear(server, "d", result(server)).confirmed == ()
    assert hear(server, "z", result(server)).confirmed == ()


def test_a_joint_configuration_confirms_by_both_halves() -> None:
    """R3: both halves while joint (sc-D10)."""
    server = ready(members=configuration("ade"))
    server.append_configuration(configuration("abc", outgoing="ade"))
    step(server, Read(1))
    assert hear(server, "b", result(server)).confirmed == ()
    assert hear(server, "e", result(server)).confirmed == (ReadConfirmed(1, 2),)


def test_answers_are_counted_anew_in_each_term() -> None:
    """R3: acknowledgements of an earlier term confirm nothing in this one (sc-D3)."""
    server = ready()
    for _ in range(5):
        elapse(server, HEARTBEAT)
        hear(server, "b", result(server))
        hear(server, "c", result(server))
    old = [result(server), result(server)]
    hear(server, "b", append((2, 2), term=3))
    elect(server)
    save(server)
    hear(server, "b", AppendEntriesResult(4, True, 3, 1, 3))
    step(server, Read(1))
    assert hear(server, "b", *old).confirmed == ()
    assert hear(server, "c", *old).confirmed == ()


def test_a_late_message_of_an_earlier_term_confirms_no_read() -> None:
    """R3: a deposed leader's reads are not confirmed by what it sent when it led before.

    A heartbeat of term 2 with a high number reaches a follower in term 4. Its refusal is of
    term 4; echoing the number, it would confirm every round to come without any answer:
    a stale read (sc-D1, sc-D3).
    """
    cluster = Cluster.of(a=build("a"), b=build("b", seed=2), c=build("c", seed=3))
    cluster.time_out("a")
    cluster.settle()
    for _ in range(20):
        cluster.beat("a")
    cluster.time_out("a")
    late = cluster.drop()
    assert max(packet.message.sequence for packet in late) > 20
    cluster.isolate("a")
    cluster.run(8 * TIMEOUT)
    cluster.heal()
    cluster.run(2 * TIMEOUT)
    (between,) = cluster.leaders
    cluster.isolate(between)
    cluster.now += 8 * TIMEOUT
    for _ in range(4):
        if cluster["a"].role is not Role.LEADER:
            cluster.time_out("a")
            cluster.settle()
    assert "a" in cluster.leaders
    cluster.heal()
    cluster.beat("a")
    for packet in late:
        cluster.step(packet.receiver, Received("a", packet.message))
    cluster.settle()
    cluster.isolate("a")
    cluster.step("a", Read(1))
    assert cluster.nodes["a"].confirmed == {}


def test_one_round_serves_all_reads_before_it_and_the_next_waits() -> None:
    """R4: one round serves all reads queued before it; the next starts when it ends (sc-O6)."""
    server = ready()
    outputs = step(server, Read(1), Read(2))
    assert len(outputs.send) == 2
    assert step(server, Read(3)).send == ()
    outputs = hear(server, "b", result(server))
    assert outputs.confirmed == (ReadConfirmed(1, 2), ReadConfirmed(2, 2))
    assert len(outputs.send) == 2
    assert hear(server, "b", result(server)).confirmed == (ReadConfirmed(3, 2),)


def test_a_lost_round_is_carried_on_by_the_next_heartbeat() -> None:
    """R4: a round that is lost costs a heartbeat interval, not the read."""
    server = ready()
    step(server, Read(1))
    elapse(server, HEARTBEAT)
    assert hear(server, "c", result(server)).confirmed == (ReadConfirmed(1, 2),)


def test_a_read_waits_for_what_is_saved_and_applied() -> None:
    """R5: answer when last_applied >= readIndex: the index comes with the answer (sc-D5)."""
    server = build("a")
    elect(server)
    for peer in "bc":
        hear(server, peer, result(server))
    step(server, Read(1))
    outputs = hear(server, "b", result(server))
    assert (outputs.confirmed, outputs.apply_end) == ((ReadConfirmed(1, 2),), 2)


@pytest.mark.parametrize("waiting", ["for the no-op", "for the round"])
def test_a_leader_that_steps_down_fails_its_reads(waiting: str) -> None:
    """R6: on step-down reads fail, and are never confirmed later (sc-D8)."""
    server = ready() if waiting == "for the round" else leader("a")
    step(server, Read(1))
    step(server, Read(2), Received("b", ReadIndex(2, 77)))
    late = result(server)
    outputs = hear(server, "c", append((1, 1), term=3))
    assert set(outputs.lost) == {1, 2}
    assert ReadIndexResult(3, 77, None) in only(outputs, ReadIndexResult, "b")
    assert hear(server, "b", late).confirmed == ()


def test_a_leader_without_its_quorum_fails_its_reads() -> None:
    """R6: check-quorum fails pending reads (E7)."""
    server = ready()
    step(server, Read(1))
    outputs = elapse(server, TIMEOUT + HEARTBEAT)
    assert (server.role, outputs.lost) == (Role.FOLLOWER, (1,))


def test_a_sole_voter_needs_no_round() -> None:
    """R7: a sole voter answers at once (sc-D10)."""
    server = build("a", members=configuration("a", learners="b"))
    campaign(server)
    save(server)
    outputs = step(server, Read(1))
    assert outputs.confirmed == (ReadConfirmed(1, 2),)


def test_a_follower_asks_its_leader() -> None:
    """R8: a follower asks the leader for the read index, with a request id."""
    follower = build("b")
    hear(follower, "a", append((1, 1), term=2))
    save(follower)
    outputs = step(follower, Read(5))
    (question,) = only(outputs, ReadIndex, "a")
    server = ready()
    hear(server, "b", question)
    outputs = hear(server, "c", result(server))
    (told,) = only(outputs, ReadIndexResult, "b")
    assert told == ReadIndexResult(2, question.request, 2)
    assert hear(follower, "a", told).confirmed == (ReadConfirmed(5, 2),)
    assert hear(follower, "a", told).confirmed == ()


def test_each_question_is_answered_for_itself() -> None:
    """R8: a follower may wait for several read indexes, told in any order."""
    follower = build("b")
    hear(follower, "a", append((1, 1)))
    questions = only(step(follower, Read(5), Read(6)), ReadIndex)
    told = [ReadIndexResult(1, each.request, index) for index, each in enumerate(questions, 1)]
    assert hear(follower, "a", *reversed(told)).confirmed == (
        ReadConfirmed(6, 2),
        ReadConfirmed(5, 1),
    )


def test_a_question_that_the_leader_cannot_answer_is_lost() -> None:
    """R8: no read index is no answer: whoever asked may ask again (R6)."""
    follower = build("b")
    hear(follower, "a", append((1, 1)))
    (question,) = only(step(follower, Read(5)), ReadIndex)
    outputs = hear(follower, "a", ReadIndexResult(1, question.request, None))
    assert (outputs.confirmed, outputs.lost) == ((), (5,))


def test_a_learner_reads_like_a_follower() -> None:
    """R8: offered to learners too."""
    learner = build("d", members=configuration(learners="d"))
    hear(learner, "a", append((1, 1)))
    (question,) = only(step(learner, Read(5)), ReadIndex, "a")
    assert hear(learner, "a", ReadIndexResult(1, question.request, 1)).confirmed


def test_a_follower_without_a_leader_refuses_a_read() -> None:
    """R8: a read that cannot be passed on is refused at once."""
    assert step(build("a"), Read(5)).rejected == (Rejected(5, Refusal.NO_LEADER),)


def test_a_new_leader_drops_the_questions_to_the_old() -> None:
    """R8: dropped on leader change; answers to older ids are ignored (sc-D3)."""
    follower = build("b")
    hear(follower, "a", append((1, 1)))
    (question,) = only(step(follower, Read(5)), ReadIndex)
    outputs = hear(follower, "c", append((1, 1), term=2))
    assert outputs.lost == (5,)
    assert hear(follower, "a", ReadIndexResult(2, question.request, 9)).confirmed == ()


@pytest.mark.parametrize("pre_vote", [True, False])
def test_who_campaigns_drops_its_questions(pre_vote: bool) -> None:
    """R8: it does not know a leader any more who would answer."""
    server = build("b", pre_vote=pre_vote)
    hear(server, "a", append((1, 1)))
    step(server, Read(5))
    assert time_out(server).lost == (5,)


def test_an_answer_of_an_older_term_is_no_answer() -> None:
    """R8: a read index of a deposed leader is not believed."""
    follower = build("b")
    hear(follower, "a", append((1, 1), term=3))
    (question,) = only(step(follower, Read(5)), ReadIndex)
    outputs = hear(follower, "a", ReadIndexResult(2, question.request, 9))
    assert (outputs.confirmed, outputs.lost) == ((), (5,))


def test_who_does_not_lead_says_so() -> None:
    """R8: a read index is never given by one that does not lead the asker's term."""
    server = build("a", term=3)
    outputs = hear(server, "b", ReadIndex(3, 8))
    assert outputs.send == (Send("b", ReadIndexResult(3, 8, None)),)
    assert hear(ready(), "b", ReadIndex(1, 8)).send == (Send("b", ReadIndexResult(2, 8, None)),)


def test_the_numbers_of_an_earlier_life_are_not_used_again() -> None:
    """R8: a restarted follower takes no answer that its earlier life asked for (sc-D3)."""
    cluster = Cluster.of(a=build("a"), b=build("b", seed=2), c=build("c", seed=3))
    cluster.time_out("a")
    cluster.settle()
    cluster.beat("a")
    cluster.step("b", Read(1))
    cluster.deliver(lambda packet: packet.receiver == "a")
    cluster.deliver(lambda packet: packet.receiver == "c")
    cluster.deliver(lambda packet: packet.sender == "c")
    (answer,) = cluster.drop(lambda packet: isinstance(packet.message, ReadIndexResult))
    cluster.crash("b")
    cluster.beat("a")
    cluster.step("b", Read(1))
    outputs = cluster.step("b", Received("a", answer.message))
    assert (outputs.confirmed, outputs.lost) == ((), ())


def test_cancelled_reads_are_forgotten() -> None:
    """R8: what nobody waits for is neither confirmed nor lost, wherever it stands."""
    server = ready()
    step(server, Read(1), Read(2), Received("b", ReadIndex(2, 1)))
    step(server, Read(3))
    step(server, CancelReads((1, 3)))
    outputs = hear(server, "c", result(server))
    assert outputs.confirmed == (ReadConfirmed(2, 2),)
    assert only(outputs, ReadIndexResult) == [ReadIndexResult(2, 1, 2)]
    assert hear(server, "c", result(server)).confirmed == ()
    follower = build("b")
    hear(follower, "a", append((1, 1)))
    step(follower, Read(5))
    step(follower, CancelReads((5,)))
    assert hear(follower, "c", append((1, 1), term=2)).lost == ()


def test_a_deposed_leader_serves_no_read() -> None:
    """R3: a leader that was cut off confirms no read, whoever leads elsewhere (sc-D1, sc-N1)."""
    cluster = Cluster.of(a=build("a"), b=build("b", seed=2), c=build("c", seed=3))
    cluster.time_out("a")
    cluster.settle()
    cluster.beat("a")
    cluster.isolate("a")
    cluster.step("a", Read(1))
    cluster.run(8 * TIMEOUT)
    cluster.heal()
    cluster.run(8 * TIMEOUT)
    assert (cluster.nodes["a"].confirmed, cluster.nodes["a"].lost) == ({}, {1})


def test_after_a_restart_no_read_is_served() -> None:
    """R1: a restarted server knows no leader and refuses (sc-D6)."""
    outputs: Outputs = step(build("a", [1, 1, 1]), Read(1))
    assert (outputs.confirmed, outputs.rejected) == ((), (Rejected(1, Refusal.NO_LEADER),))
