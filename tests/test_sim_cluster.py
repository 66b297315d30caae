"""A simulated cluster for machines of one's own: a real one, repeatable, that finds bugs."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from raft.errors import BadConfiguration, CommandError, Timeout
from raft.machines.kv import KeyValueStore
from raft.machines.sqlite import SQLiteDatabase
from raft.testing import MachineFault, SimCluster
from raft.testing.cluster.world import NeverHappened
from tests import planted_machines as planted
from tests.planted_machines import Jobs, commands, queries

ROOT = Path(__file__).parents[1]
SEEDS = range(20)


def storm_until_found(machine: type[Jobs]) -> MachineFault:
    """Return what storms with default settings find, in as many seeds as an application tries."""
    for seed in SEEDS:
        cluster = SimCluster(machine, seed=seed)
        try:
            cluster.storm(300, commands, queries)
        except MachineFault as fault:
            return fault
        finally:
            cluster.close()
    raise AssertionError(f"{machine.__name__} passed {len(SEEDS)} storms")


# It is a cluster.


def test_what_is_written_can_be_read_after_the_leader_crashed() -> None:
    with SimCluster(KeyValueStore, seed=1) as cluster:
        assert cluster.write(["set", "k", 1]) is None
        gone = cluster.leader
        assert gone is not None
        cluster.crash(gone)
        assert cluster.read(["get", "k"]) == 1
        assert cluster.leader not in (gone, None)
        cluster.restart(gone)
        cluster.settle()
        assert all(each.query(["get", "k"]) == 1 for each in cluster.machines().values())
        assert sorted(cluster.machines()) == ["n1", "n2", "n3"] == sorted(cluster.up)


def test_the_machines_own_error_is_raised_as_a_client_gets_it() -> None:
    with SimCluster(KeyValueStore) as cluster, pytest.raises(CommandError, match="bad-command"):
        cluster.write(["no such command"])


def test_without_a_majority_nothing_is_answered_and_after_healing_all_is() -> None:
    with SimCluster(KeyValueStore, seed=3, nodes=5) as cluster:
        cluster.partition(["n1", "n2"], ["n3", "n4"], "n5")
        began = cluster.seconds
        with pytest.raises(Timeout):
            cluster.write(["append", "k", 1], timeout=5.0)
        assert cluster.seconds - began == pytest.approx(5.0, abs=0.1)
        cluster.heal()
        # S2: the first try is of an earlier number, and may take effect at most once.
        assert cluster.write(["append", "k", 2]) in (1, 2)


def test_a_minority_is_no_obstacle_but_stays_behind() -> None:
    with SimCluster(KeyValueStore, seed=4) as cluster:
        leader = cluster.leader
        assert leader is not None
        cluster.partition(leader)
        cluster.write(["set", "k", 1])
        assert cluster.leader != leader
        assert cluster.machines()[leader].query(["get", "k"]) is None
        cluster.heal()
        cluster.settle()
        assert cluster.machines()[leader].query(["get", "k"]) == 1


def test_a_write_is_repeated_within_a_session_while_messages_are_lost() -> None:
    """S2, S7: each takes effect once, however many are lost."""
    with SimCluster(KeyValueStore, seed=5) as cluster:
        cluster.drop(0.25)
        lengths = [cluster.write(["append", "k", number], 60.0) for number in range(30)]
        assert lengths == list(range(1, 31))


def test_a_session_that_ended_long_ago_is_no_obstacle() -> None:
    with SimCluster(KeyValueStore, seed=6) as cluster:
        cluster.write(["set", "k", 1])
        # All computers sleep: an hour and a half in which nobody keeps the session.
        cluster.world.rightNow += 5400.0
        cluster.write(["set", "k", 2])
        assert cluster.read(["get", "k"]) == 2


def test_what_a_slow_disk_has_not_saved_is_lost_with_the_power() -> None:
    with SimCluster(KeyValueStore, seed=7, nodes=1) as cluster:
        cluster.slow_disk("n1", 1000.0)
        with pytest.raises(Timeout):
            cluster.write(["set", "k", 1], timeout=2.0)
        cluster.crash("n1")
        cluster.restart("n1")
        assert cluster.read(["get", "k"]) is None


def test_a_node_restarts_from_a_snapshot_that_it_was_told_to_take() -> None:
    with SimCluster(KeyValueStore, seed=8) as cluster:
        for number in range(20):
            cluster.write(["set", f"k{number}", number])
        cluster.settle()
        assert cluster.snapshot("n2") == cluster.applied()["n2"]
        cluster.crash("n2")
        cluster.restart("n2")
        cluster.settle()
        assert cluster.machines()["n2"].query(["count"]) == 20


def test_nodes_that_cannot_meet_do_not_settle() -> None:
    with SimCluster(KeyValueStore, seed=9) as cluster:
        cluster.partition("n1")
        cluster.write(["set", "k", 1])
        with pytest.raises(NeverHappened):
            cluster.settle(2.0)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda cluster: cluster.crash("n9"), "no node 'n9' runs; there are n1, n2, n3"),
        (lambda cluster: cluster.restart("n1"), "n1 runs; crash it first"),
        (lambda cluster: cluster.restart("n9"), "no node 'n9'; there are n1, n2, n3"),
        (lambda cluster: cluster.partition("n9"), "no node 'n9'; there are n1, n2, n3"),
        (lambda cluster: cluster.drop(1.5), "rate is 1.5; give a probability"),
    ],
)
def test_a_call_that_means_nothing_says_what_would(call: Any, text: str) -> None:
    with SimCluster(KeyValueStore) as cluster, pytest.raises(BadConfiguration, match=text):
        call(cluster)


def test_what_cannot_be_simulated_is_refused() -> None:
    with pytest.raises(BadConfiguration, match="nodes is 0"):
        SimCluster(KeyValueStore, nodes=0)
    with pytest.raises(BadConfiguration, match="SQLiteDatabase keeps its state on a real disk"):
        SimCluster(lambda: SQLiteDatabase("nowhere"))
    with pytest.raises(BadConfiguration, match="is no state machine"):
        SimCluster(dict)


# It is repeatable, and leaves nothing behind.


def test_the_same_seed_does_the_same_again_and_another_one_does_not() -> None:
    """I23: nothing but the seed decides what happens."""

    def story(seed: int) -> list[object]:
        with SimCluster(Jobs, seed=seed) as cluster:
            counts = cluster.storm(200, commands, queries)
            states = [b"".join(each.snapshot()) for each in cluster.machines().values()]
            return [counts, cluster.seconds, cluster.applied(), cluster.leader, states]

    assert story(11) == story(11)
    assert story(11) != story(12)


STORY = """
from raft.testing import SimCluster
from tests.planted_machines import Jobs, commands, queries

for seed in range(3):
    with SimCluster(Jobs, seed=seed, nodes=3 + seed) as cluster:
        print(sorted(cluster.storm(150, commands, queries).items()), cluster.seconds)
        print(cluster.leader, cluster.applied(), [m.jobs for m in cluster.machines().values()])
"""


def test_a_seed_does_the_same_in_every_process() -> None:
    """I23: a report is replayed elsewhere, where strings have other hashes."""
    stories = set()
    for hashes in "12":
        environment = {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": hashes}
        done = subprocess.run(
            [sys.executable, "-c", STORY], env=environment, capture_output=True, check=True
        )
        stories.add(done.stdout)
    assert len(stories) == 1
    assert stories.pop().count(b"\n") == 6


def test_nothing_is_left_behind_and_the_clock_is_as_it_was() -> None:
    real = time.time, time.monotonic, time.localtime
    cluster = SimCluster(Jobs, seed=1)
    cluster.storm(100, commands)
    cluster.close()
    cluster.run(0.5)
    assert cluster.world.getDelayedCalls() == []
    assert (time.time, time.monotonic, time.localtime) == real


def test_importing_the_package_does_not_import_the_simulator() -> None:
    code = "import sys, raft, raft.testing; print([m for m in sys.modules if 'sim_' in m])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert printed.stdout.strip() == b"[]"


# It finds bugs.


def test_a_machine_that_is_right_passes_every_storm() -> None:
    befell: set[str] = set()
    for seed in SEEDS:
        with SimCluster(Jobs, seed=seed, nodes=1 + seed % 5) as cluster:
            befell |= set(cluster.storm(100, commands, queries))
    assert befell == {
        *("write", "session", "read", "crash", "restart", "partition", "heal", "drop"),
        *("slow disk", "snapshot"),
    }


def keys(chance: random.Random) -> Any:
    key = f"k{chance.randrange(8)}"
    return chance.choice([["set", key, chance.random()], ["delete", key], ["append", key, 1]])


def scans(chance: random.Random) -> Any:
    return ["scan", "k", chance.randint(1, 10)]


def by_scan(machine: KeyValueStore) -> object:
    return machine.query(["scan", "", 1000])


@pytest.mark.parametrize("state", [None, by_scan])
def test_a_machine_whose_snapshots_have_no_order_passes(state: Any) -> None:
    for seed in range(5):
        with SimCluster(KeyValueStore, seed=seed, state=state) as cluster:
            cluster.storm(200, keys, scans)


FOUND = [
    (planted.LooksAtTheClock, {"result", "snapshot", "state"}, "context. has time"),
    (planted.CountsSeconds, {"result", "snapshot", "state"}, "context. has time"),
    (planted.TellsTheTime, {"result", "snapshot", "state"}, "context. has time"),
    (planted.TakesTheFirstOfASet, {"result"}, r"sorted\(\) makes an order of a set"),
    (planted.DrawsLots, {"result"}, "context. has time, random"),
    (planted.ChangesThenChecks, {"exception"}, "check everything first, then change"),
    (planted.Stumbles, {"exception"}, "CommandFailed: .*KeyError"),
    (planted.ForgetsInSnapshots, {"result", "snapshot"}, "restored"),
    (planted.SnapshotsWhatComesLater, {"result", "snapshot"}, "restored"),
    (planted.RefusesItsOwn, {"snapshot", "stopped"}, "JSONDecodeError"),
    (planted.ChangesWithQueries, {"query"}, "a query must change nothing"),
    (planted.RunsOutOfFiles, {"stopped"}, "OSError at entry"),
]


@pytest.mark.parametrize(
    ("machine", "kinds", "text"), FOUND, ids=lambda each: getattr(each, "__name__", None)
)
def test_a_planted_bug_is_found_and_told_in_words_that_help(
    machine: type[Jobs], kinds: set[str], text: str
) -> None:
    """SM1, SM3: what the log did not decide, and what a failed command left behind, is found."""
    fault = storm_until_found(machine)
    assert fault.kind in kinds
    with pytest.raises(MachineFault, match=f"(?is){text}"):
        raise fault
    assert f"SimCluster({machine.__name__}, seed=" in str(fault)


def test_the_line_in_a_report_finds_the_same_again() -> None:
    fault = storm_until_found(planted.ChangesThenChecks)
    line = str(fault).splitlines()[-1].strip()
    match line.split("seed="):
        case [_, rest]:
            seed = int(rest.split(")")[0])
    assert line == f"SimCluster(ChangesThenChecks, seed={seed}).storm(300, commands, queries)"
    with pytest.raises(MachineFault) as again:
        SimCluster(planted.ChangesThenChecks, seed=seed).storm(300, commands, queries)
    assert str(again.value) == str(fault)
    assert (again.value.index, again.value.command) == (fault.index, fault.command)


def test_the_line_in_a_report_names_what_was_chosen() -> None:
    cluster = SimCluster(
        planted.ChangesThenChecks, seed=2, nodes=5, snapshot_entries=9, state=by_bytes
    )
    with pytest.raises(MachineFault) as found:
        cluster.storm(300, commands)
    line = str(found.value).splitlines()[-1].strip()
    assert line == (
        "SimCluster(ChangesThenChecks, seed=2, nodes=5, snapshot_entries=9, state=by_bytes)"
        ".storm(300, commands)"
    )
    cluster.close()


def by_bytes(machine: Jobs) -> object:
    return b"".join(machine.snapshot())


def test_a_fault_is_raised_at_the_end_of_a_block_too() -> None:
    cluster = SimCluster(planted.ChangesThenChecks, seed=1)

    def block() -> None:
        with cluster:
            cluster.write(["join", "ann"])
            cluster.write(["assign", 1])
            cluster.write(["join", "bob"])
            with pytest.raises(CommandError):
                cluster.write(["assign", 1])

    with pytest.raises(MachineFault, match="the same calls on SimCluster"):
        block()
    assert cluster.up == ()


def test_what_is_lost_between_a_snapshot_and_its_restore_is_found_without_a_crash() -> None:
    """N1: only the replica beside the cluster has restored anything here."""
    cluster = SimCluster(planted.RestoresLess, snapshot_entries=0)
    for _ in range(60):
        cluster.write([])
    with pytest.raises(MachineFault, match="a machine restored from a snapshot") as found:
        cluster.check()
    assert found.value.kind == "snapshot"
    cluster.close()


def test_a_machine_that_was_tampered_with_is_found_by_its_state() -> None:
    cluster = SimCluster(Jobs, seed=1)
    cluster.write(["join", "ann"])
    cluster.settle()
    cluster.check()
    cluster.machines()["n2"].workers.add("eve")
    with pytest.raises(MachineFault, match="have left different states") as found:
        cluster.check()
    assert found.value.kind == "state"
    assert "n2" in str(found.value)
    cluster.close()
