"""A run in which all is well, and what must not be: each promise broken, at the watcher's feet.

Where a watcher is off, another often speaks of what follows. Here each is shown the one thing that
it is for, in a cluster of three that has a leader of term 2 and five committed entries.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from attrs import evolve, frozen

from raft.core import reads
from raft.core.configuration import Configuration, Member
from raft.core.events import Propose, Read
from raft.core.messages import AppendEntriesResult
from raft.core.outputs import (
    HardState,
    Outputs,
    Quarantined,
    ReadConfirmed,
    RestoreSnapshot,
    Role,
    Save,
    StartSnapshot,
)
from raft.core.roles import Leader
from raft.testing.cores.disk import Entry, StoredSnapshot, Write
from raft.testing.cores.model_node import ModelNode
from raft.testing.cores.monitors import Monitors
from raft.testing.cores.simulator import Simulation
from raft.testing.cores.swarm import Swarm
from raft.testing.cores.workload import Workload

TERM, LAST = 2, 5
STRANGERS = Configuration((Member("n9"),))
ANSWER = AppendEntriesResult(TERM, True, LAST, 1, 0, 0, LAST)


@frozen
class Run:
    """The cluster, and the test's means to change what is no business of its."""

    patch: pytest.MonkeyPatch
    monitors: Monitors
    workload: Workload
    leader: ModelNode
    one: ModelNode
    other: ModelNode

    @classmethod
    def begin(cls, patch: pytest.MonkeyPatch) -> Run:
        """Elect a leader, write three times, and let everyone apply it."""
        simulation = Simulation(Swarm(seed=0))
        nodes = list(simulation.nodes.values())
        for node in nodes:
            node.start()
        simulation.timeline.run(2.0)
        (leader,) = (node for node in nodes if node.role is Role.LEADER)
        for _ in range(3):
            simulation.workload.write(leader)
        simulation.timeline.run(3.0)
        assert {(node.applied, node.term) for node in nodes} == {(LAST, TERM)}
        one, other = (node for node in nodes if node is not leader)
        return cls(patch, simulation.monitors, simulation.workload, leader, one, other)

    @property
    def progress(self):
        """What the leader knows of `one`."""
        state = self.leader.server.state
        assert isinstance(state, Leader)
        return state.progress[self.one.id]

    def outputs(self, node: ModelNode, **changes: object) -> Outputs:
        """Return what a step in which nothing happens answers, but for `changes`."""
        quiet = Outputs(apply_end=LAST + 1, commit_index=LAST)
        assert node.commit_index == LAST
        return evolve(quiet, **changes)

    def append(self, node: ModelNode, entry: Entry) -> int:
        """Put an entry into a node's log, behind its core's back; return its index."""
        node.records.entries.append(entry)
        return node.records.end - 1

    def configure(self, node: ModelNode, configuration: Configuration) -> int:
        """Do so with a configuration, which the monitors have seen."""
        index = self.append(node, (TERM, configuration, 10))
        self.monitors.configuration_places.append(index)
        return index

    def elect(self, node: ModelNode, term: int) -> None:
        """Give `node` everyone's durable vote."""
        for voter in (self.leader, self.one, self.other):
            self.monitors.votes[voter.incarnation, term] = node.id

    def restore(self, **changes: object) -> None:
        """Have `one` install a snapshot up to entry 3, right but for `changes`."""
        members = self.leader.server.configuration
        right = {"index": 3, "term": TERM, "configuration": members}
        told = {name: value for name, value in changes.items() if name in right}
        content = {"configuration_index": 1, "digest": 7, "keep_log": True, **changes}
        snapshot = StoredSnapshot(
            *(told.get(name, value) for name, value in right.items()),
            content["configuration_index"],
            content["digest"],
        )
        restore = RestoreSnapshot(*snapshot.mark[:3], content["keep_log"])
        self.one.applied = content.get("applied", 1)
        self.monitors.digests[3] = 7
        self.monitors.restored(self.one, snapshot, evolve(restore, **content.get("asked", {})))


Break = Callable[[Run], None]
BROKEN: dict[str, tuple[str, Break]] = {}
"""By the place of the watcher: what its reason says, and what it is to notice."""


def told_as(place: str, reason: str = "") -> Callable[[Break], Break]:
    """Enter what breaks a promise."""

    def enter(broken: Break) -> Break:
        BROKEN[place] = (reason, broken)
        return broken

    return enter


def enter(place: str, reason: str, broken: Break) -> None:
    """Enter what takes no more than a line."""
    BROKEN[place] = (reason, broken)


# Steps


@told_as("Monitors.stepped I3")
def a_term_falls(run: Run) -> None:
    run.one.term += 1
    run.monitors.stepped(run.one, [], run.outputs(run.one))


@told_as("Monitors.stepped I4")
def a_leader_truncates(run: Run) -> None:
    outputs = run.outputs(run.leader, save=Save(99, truncate_from=LAST))
    run.monitors.stepped(run.leader, [], outputs)


@told_as("Monitors._answered I22", "neither takes nor refuses")
def a_write_is_swallowed(run: Run) -> None:
    run.monitors.stepped(run.leader, [Propose(1, 1, 10)], run.outputs(run.leader))


@told_as("Monitors._answered I22 (2)", "leaves reads [1]")
def a_read_outlives_its_term(run: Run) -> None:
    run.monitors.stepped(run.one, [Read(1)], run.outputs(run.one))
    run.one.term -= 1
    run.monitors.stepped(run.one, [], run.outputs(run.one))


@told_as("Monitors.stepped L5")
def a_sound_server_is_shut_out(run: Run) -> None:
    outputs = run.outputs(run.leader, changes=(Quarantined(run.one.id, LAST, LAST),))
    run.monitors.stepped(run.leader, [], outputs)


enter(
    "Monitors._elected I1",
    "both lead",
    lambda run: run.monitors._elected(run.one, TERM),
)


@told_as("Monitors._elected I6", "without committed entry 5")
def a_leader_lacks_what_is_committed(run: Run) -> None:
    run.elect(run.one, 99)
    run.one.records.truncate(LAST)
    run.one.commit_index = LAST - 1
    run.monitors._elected(run.one, 99)


@told_as("Monitors._campaigns I15")
def a_stranger_campaigns(run: Run) -> None:
    run.one.server.commit_index = run.configure(run.one, STRANGERS)
    run.monitors._campaigns(run.one)


@told_as("Monitors._chosen I15", "leads term 2 by")
def a_leader_has_no_votes(run: Run) -> None:
    run.monitors.votes.clear()
    run.monitors._chosen(run.leader, TERM)


@told_as("Monitors._unleased R9", "has a lease to")
def another_is_elected_during_a_lease(run: Run) -> None:
    run.patch.setattr(reads, "lease_end", lambda *_: math.inf)
    run.monitors._unleased(run.one, 99)


@told_as("Monitors._replaced R9", "99 was elected")
def a_lease_outlives_an_election(run: Run) -> None:
    run.patch.setattr(reads, "lease_end", lambda *_: math.inf)
    run.monitors.newest_term = 99
    run.monitors.stepped(run.leader, [], run.outputs(run.leader))


@told_as("Monitors._matched I10", "beyond its own log")
def a_match_is_beyond_the_log(run: Run) -> None:
    run.progress.match_index = 99
    run.monitors._matched(run.leader, run.one.id, ANSWER)


@told_as("Monitors._matched I10 (2)", "not durable there")
def a_match_is_not_on_the_disk(run: Run) -> None:
    run.one.disk.records.truncate(LAST)
    run.monitors._matched(run.leader, run.one.id, ANSWER)


# Commits


enter(
    "Monitors._commit I12",
    "moved its commit index",
    lambda run: run.monitors._commit(run.one, LAST - 1, LAST),
)
enter(
    "Monitors._commit I12 (2)",
    "beyond its log's end",
    lambda run: run.monitors._commit(run.one, 99, 99),
)


@told_as("Monitors._commit I13")
def what_is_not_verified_is_committed(run: Run) -> None:
    run.one.commit_index = 1
    run.monitors._commit(run.one, LAST, 3)


@told_as("Monitors._commit I7", "committed is")
def another_entry_is_committed(run: Run) -> None:
    run.one.commit_index = 1
    run.one.records.entries[2] = (TERM, 99, 10)
    run.monitors._commit(run.one, LAST, LAST)


@told_as("Monitors._commit I7 (2)", "commits 5 before 4")
def a_commit_leaves_a_gap(run: Run) -> None:
    del run.monitors.committed[4:]
    run.one.commit_index = 4
    run.monitors._commit(run.one, LAST, LAST)


enter(
    "Monitors._counted I8",
    "of term 1 in term 2",
    lambda run: run.monitors._counted(run.leader, 1, TERM),
)


@told_as("Monitors._counted I8 (2)", "hold it of")
def a_minority_commits(run: Run) -> None:
    for node in (run.one, run.other):
        node.disk.records.truncate(LAST)
    run.monitors._counted(run.leader, LAST, TERM)


@told_as("Monitors._ordered I12", "believes in 5, holds 4")
def a_core_mistakes_its_log(run: Run) -> None:
    run.one.records.truncate(LAST)
    run.monitors._ordered(run.one, run.outputs(run.one), LAST)


@told_as("Monitors._ordered I12 (2)", "applies 98 of 5 committed")
def what_is_not_committed_is_applied(run: Run) -> None:
    run.monitors._ordered(run.one, run.outputs(run.one, apply_end=99), LAST)


@told_as("Monitors._ordered I12 (3)", "applies 5 before it is saved")
def what_is_not_saved_is_applied(run: Run) -> None:
    run.one.applied = LAST - 1
    run.one.disk.records.truncate(LAST)
    run.monitors._ordered(run.one, run.outputs(run.one), LAST)


# Logs


enter(
    "LogMonitors.appended I12",
    "appends 99 after 5",
    lambda run: run.monitors.appended(run.one, 99, [], True),
)
enter(
    "LogMonitors.appended I5",
    "nobody created",
    lambda run: run.monitors.appended(run.one, LAST + 1, [(TERM, 77, 10)], False),
)


@told_as("LogMonitors.appended I5 (2)", "known is")
def two_entries_have_one_name(run: Run) -> None:
    run.monitors.created[LAST + 1, TERM] = (TERM, (TERM, 78, 10))
    run.monitors.appended(run.one, LAST + 1, [(TERM, 77, 10)], False)


enter(
    "LogMonitors.appended I5 (3)",
    "after an entry of term 2",
    lambda run: run.monitors.appended(run.one, LAST + 1, [(1, 77, 10)], True),
)
enter(
    "LogMonitors._configured I14",
    "before it committed",
    lambda run: run.monitors._configured(run.leader, LAST + 1, 99, STRANGERS),
)


@told_as("LogMonitors._configured I14 (2)", "two uncommitted")
def a_change_follows_a_change(run: Run) -> None:
    index = run.configure(run.leader, run.leader.server.configuration)
    members = run.leader.server.configuration
    run.monitors._configured(run.leader, index + 1, TERM, members)


enter(
    "LogMonitors._configured I14 (3)",
    "goes from",
    lambda run: run.monitors._configured(run.leader, LAST + 1, TERM, STRANGERS),
)
enter("LogMonitors.compared M4", "", lambda run: run.monitors.compared(run.leader, 6, 5))


@told_as("LogMonitors.synced I2")
def a_second_vote_is_saved(run: Run) -> None:
    for candidate in ("n1", "n2"):
        run.monitors.synced(run.one, Write(hard_state=HardState(99, candidate)))


@told_as("LogMonitors.restarted I3")
def a_disk_is_not_believed(run: Run) -> None:
    run.one.disk.hard_state = HardState(99)
    run.monitors.restarted(run.one)


RESTORED = {
    "I7": ("from StoredSnapshot", {"asked": {"index": 4}}),
    "I12": ("goes back from 5", {"applied": LAST}),
    "I7 (2)": ("which is not committed", {"term": 1}),
    "I20": ("another state", {"digest": 8}),
    "I14": ("with other members", {"asked": {"configuration": STRANGERS}}),
    "I14 (2)": ("committed is", {"configuration_index": 2}),
    "N6": ("the wrong log", {"keep_log": False}),
}
for rule, (reason, changes) in RESTORED.items():
    enter(
        f"LogMonitors.restored {rule}",
        reason,
        lambda run, changes=changes: run.restore(**changes),
    )

enter("LogMonitors.compacted N1", "", lambda run: run.monitors.compacted(run.one, 2))
enter(
    "LogMonitors.left I2",
    "its disk",
    lambda run: run.monitors.left(run.one, "n1", evolve(ANSWER, term=99, success=False)),
)
enter(
    "LogMonitors._voted I2",
    "durable is",
    lambda run: run.monitors._voted(run.one, "n9", TERM),
)
enter(
    "LogMonitors._acknowledged I11",
    "5 is durable",
    lambda run: run.monitors._acknowledged(run.one, TERM, 99),
)


@told_as("LogMonitors._acknowledged I11 (2)", "which differs from")
def another_entry_is_acknowledged(run: Run) -> None:
    run.leader.records.entries[LAST - 1] = (1, 99, 10)
    run.monitors._acknowledged(run.one, TERM, LAST)


@told_as("LogMonitors._bounded I21")
def a_window_has_no_end(run: Run) -> None:
    run.progress._inflight.extend([(LAST, 1)] * 1000)
    run.monitors._bounded(run.leader, run.one.id)


enter(
    "LogMonitors.applied I7",
    "not committed",
    lambda run: run.monitors.applied(run.one, 3, (TERM, 99, 10)),
)
enter(
    "LogMonitors.reached I20",
    "another state",
    lambda run: run.monitors.reached(run.one, LAST, run.monitors.digests[LAST] + 1),
)


@told_as("LogMonitors._kept I9", "hold committed entry 5")
def two_disks_lose_what_is_committed(run: Run) -> None:
    run.one.disk.records.truncate(LAST)
    run.monitors.synced(run.one, Write(truncate_from=LAST))
    run.other.disk.records.truncate(LAST)
    run.monitors.synced(run.other, Write(truncate_from=LAST))


@told_as("LogMonitors.check_all I12", "starts its log at")
def a_log_begins_elsewhere(run: Run) -> None:
    run.one.records.prev_term = 9
    run.monitors.check_all()


@told_as("LogMonitors.check_all I12 (2)", "mistakes the term of entry 6")
def a_core_mistakes_a_term(run: Run) -> None:
    run.append(run.one, (1, 99, 10))
    run.one.server.log.append(LAST + 2, TERM, 10)
    run.monitors.check_all()


@told_as("LogMonitors.check_all I7", "another committed entry 3")
def a_committed_entry_is_another(run: Run) -> None:
    run.one.records.entries[2] = (TERM, 99, 10)
    run.monitors.check_all()


@told_as("LogMonitors.check_all I14", "goes by another configuration")
def a_core_goes_by_others(run: Run) -> None:
    run.one.server.log.configurations = [(1, STRANGERS)]
    run.monitors.check_all()


@told_as("LogMonitors.check_all I5", "differ below")
def logs_differ_below_one_name(run: Run) -> None:
    for payload, node in enumerate((run.one, run.other)):
        run.append(node, (TERM, 99 + payload, 10))
        node.server.log.append(LAST + 2, TERM, 10)
    run.monitors.check_all()


# Clients


@told_as("Workload.payloads I17")
def an_answered_write_is_appended(run: Run) -> None:
    number = run.workload.write(run.one)
    run.workload.requests[number].outcome = "refused"
    run.workload.payloads(run.leader, number, LAST + 1, LAST + 2, TERM)


@told_as("Workload.answered I18", "was answered before it was asked")
def a_read_goes_back(run: Run) -> None:
    number = run.workload.read(run.leader)
    run.workload.answered(
        run.leader, run.outputs(run.leader, confirmed=(ReadConfirmed(number, LAST - 1),))
    )


@told_as("Workload.answered I18 (2)", "not committed")
def a_read_is_ahead(run: Run) -> None:
    number = run.workload.read(run.leader)
    run.workload.answered(
        run.leader, run.outputs(run.leader, confirmed=(ReadConfirmed(number, 99),))
    )


@told_as("Workload._end I22")
def a_request_is_answered_twice(run: Run) -> None:
    number = run.workload.read(run.leader)
    for _ in range(2):
        run.workload.answered(run.leader, run.outputs(run.leader, lost=(number,)))


@told_as("Workload.applied I18")
def a_write_stands_before_what_was_answered(run: Run) -> None:
    number = run.workload.write(run.leader)
    run.workload.requests[number].floor = 99
    index = run.leader.records.end - 1
    run.workload.applied(run.leader, index, run.leader.records[index])


enter(
    "Transfers.begin N5",
    "has none",
    lambda run: run.leader.transfers.begin(StartSnapshot(run.one.id, 1)),
)
