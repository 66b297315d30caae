"""What the simulator found in the core, each as the shortest story that shows it."""

from __future__ import annotations

import random

from raft.core.configuration import Configuration, Member
from raft.core.events import Event, Read, Received, Saved, SnapshotSaved
from raft.core.messages import (
    AppendEntries,
    AppendEntriesResult,
    Entries,
    InstallSnapshot,
    Message,
    RequestVoteResult,
    Run,
)
from raft.core.outputs import HardState, Outputs, Quarantined
from raft.core.server import Options, Server

THREE = Configuration((Member("n1"), Member("n2"), Member("n3")))
OPTIONS = Options(pre_vote=False, max_inflight_messages=1)
FIRST = Run(2, 1, 64)


def recovered(id: str, term: int, *runs: Run) -> Server:
    """Return a server of three with that log behind the first configuration, all saved."""
    return Server.recover(
        id,
        OPTIONS,
        random.Random(1),
        0.0,
        HardState(term),
        runs=(FIRST, *runs),
        configurations=((1, THREE),),
    )


def leading(term: int, *runs: Run) -> Server:
    """Return n1 as the leader of `term`, its no-op saved, at 10 seconds."""
    server = recovered("n1", term - 1, *runs)
    outputs = server.step([], 10.0)
    assert outputs.save is not None
    outputs = server.step(
        [Saved(outputs.save.ticket), Received("n3", RequestVoteResult(term, True))], 10.0
    )
    assert outputs.save is not None
    server.step([Saved(outputs.save.ticket)], 10.0)
    return server


def sent(outputs: Outputs, receiver: str) -> list[Message]:
    """Return the messages for `receiver` that may leave at once."""
    return [send.message for send in outputs.send if send.receiver == receiver and not send.after]


def step(server: Server, *events: Event, at: float = 10.0) -> Outputs:
    """Step once."""
    return server.step(events, at)


def accepted(sequence: int, match_index: int, term: int = 3) -> AppendEntriesResult:
    """Return a follower's yes."""
    return AppendEntriesResult(term, True, match_index, sequence, match_index)


def test_a_refusal_of_an_older_terms_message_confirms_no_read() -> None:
    """R3: only answers to what this leader sent in this term count.

    Seed 9: a late AppendEntries of term 5, number 34, was refused in term 6. The leader
    of term 6 took the number for one of its own.
    """
    leader = leading(3, Run(3, 1, 50))
    step(leader, Received("n2", accepted(1, 3)), at=10.01)
    step(leader, Read(7), at=10.02)
    late = AppendEntries(2, 9, 2, Entries(10), 0, sequence=1000)
    refusals = sent(step(recovered("n2", 3, Run(4, 1, 50)), Received("n1", late)), "n1")
    outputs = step(leader, *(Received("n2", refusal) for refusal in refusals), at=10.03)
    assert not outputs.confirmed


def test_a_refusal_of_an_older_terms_message_quarantines_nobody() -> None:
    """L5: only a refusal of this term's message can mean a disk that went back (seed 9)."""
    leader = leading(3, Run(3, 1, 50))
    step(leader, Received("n2", accepted(1, 3)), at=10.01)
    late = AppendEntries(2, 2, 2, Entries(3), 0, sequence=1000)
    refusals = sent(step(recovered("n2", 3, Run(4, 1, 50)), Received("n1", late)), "n1")
    outputs = step(leader, *(Received("n2", refusal) for refusal in refusals), at=10.03)
    assert not [change for change in outputs.changes if isinstance(change, Quarantined)]


def test_an_answer_acknowledges_all_that_is_verified_and_saved() -> None:
    """L1: a heartbeat's answer repeats the newest acknowledgement, which may have been lost.

    Seed 2: the window was full, the answer to it was lost, and each heartbeat was
    answered with its own prev_log_index: nothing was ever sent again.
    """
    follower = recovered("n2", 1)
    entries = Entries(2, (Run(4, 1, 100),), arrival=1)
    outputs = step(follower, Received("n1", AppendEntries(1, 1, 1, entries, 1, sequence=1)))
    assert outputs.save is not None
    step(follower, Saved(outputs.save.ticket))
    heartbeat = AppendEntries(1, 1, 1, Entries(2), 1, sequence=2)
    (answer,) = sent(step(follower, Received("n1", heartbeat)), "n1")
    assert isinstance(answer, AppendEntriesResult)
    assert answer.match_index == 3


def test_what_a_snapshot_replaced_is_not_acknowledged_before_its_mark_is_saved() -> None:
    """N1: the mark is saved, then it is acknowledged (seed 127).

    The old log had another entry 3, saved. That one's being saved says nothing of the
    snapshot's: a crash before the mark brings the old log back.
    """
    follower = recovered("n2", 2, Run(4, 1, 100))
    snapshot = InstallSnapshot(2, 3, 2, THREE, 1, sequence=1, done=True)
    step(follower, Received("n1", snapshot))
    heartbeat = AppendEntries(2, 3, 2, Entries(4), 3, sequence=2)
    for message in sent(step(follower, Received("n1", heartbeat)), "n1"):
        assert isinstance(message, AppendEntriesResult)
        assert message.match_index < 3


def test_a_probe_whose_place_was_compacted_turns_into_a_snapshot() -> None:
    """L7: a follower that is probed when the log is cut below its probe is not forgotten.

    Seed 66: the probe was lost, its place was compacted, and the heartbeats' answers
    did not let the leader send anything again.
    """
    leader = leading(3, Run(3, 1, 50))
    step(leader, Received("n3", accepted(2, 3)), at=10.01)
    outputs = step(leader, SnapshotSaved(3), at=10.02)
    started = [start.peer for start in outputs.start_snapshots]
    for turn in range(1, 40):
        outputs = step(leader, at=10.02 + turn * 0.03)
        started += [start.peer for start in outputs.start_snapshots]
        answers = [
            Received(peer, AppendEntriesResult(3, True, match, message.sequence, match))
            for peer, match in (("n2", 0), ("n3", 3))
            for message in sent(outputs, peer)
            if isinstance(message, AppendEntries)
        ]
        outputs = step(leader, *answers, at=10.025 + turn * 0.03)
        started += [start.peer for start in outputs.start_snapshots]
    assert "n2" in started
