"""Whole nodes in virtual time: real services, logs, connections and clients, on one seed."""

from __future__ import annotations

import gc
import os
import subprocess
import sys

import pytest
from attrs import evolve

import raft.testing.whole.releases
from raft.interfaces import Value
from raft.testing.choices import Choices
from raft.testing.shrinking import Budget
from raft.testing.whole.run import Failure, simulate
from raft.testing.whole.shrink import as_test, shrink
from raft.testing.whole.swarm import TROUBLES, Swarm
from raft.testing.whole.writer import ClockedWait
from tests.conftest import LoggedErrors
from tests.simulation.planted_nodes import NODE_BUGS

QUIET = evolve(
    Swarm.draw(1), voters=3, spares=0, change_seconds=0.0, troubles=(), chaos_seconds=2.0
)
ROUGH = evolve(
    Swarm.draw(3),
    voters=3,
    troubles=tuple(each for each in TROUBLES if each != "rot"),
    trouble_seconds=0.2,
    max_chaos_events=800,
)
"""With an operator who changes the members."""
DIGEST = "from tests.simulation.test_whole_nodes import digest; print(digest())"


@pytest.mark.parametrize("voters", [1, 3])
def test_a_leader_is_elected_over_real_logs_and_connections(voters: int) -> None:
    """L1, L2, L4: by real AMP bytes, on the write-ahead log's own frames."""
    report = simulate(1, swarm=evolve(QUIET, voters=voters))
    assert report.terms == 1
    assert report.commits > 10
    assert report.done > 10


def test_servers_are_upgraded_and_taken_back_until_all_can_the_newest_version() -> None:
    """sc-U1, sc-U2, sc-SM7: a version begins at one entry, and each command keeps to it."""
    swarm = evolve(QUIET, releases=((1, 1), (1, 2), (1, 3)), release_seconds=0.2, chaos_seconds=4.0)
    report = simulate(1, swarm=swarm)
    assert report.fired["switch to version 3"] == 1
    assert report.fired["life of release 1-1"] > 2
    assert report.fired["upgraded"] > 2


def digest() -> str:
    return simulate(3, swarm=ROUGH).digest


def test_the_machines_are_held_against_what_was_committed(
    monkeypatch: pytest.MonkeyPatch, logged_errors: LoggedErrors
) -> None:
    """I20: a state that lacks one acknowledged write is seen, though nobody reads it."""
    right = raft.testing.whole.releases.made_of

    def one_more(commands: list[Value]) -> Value:
        return right([*commands, ["set", "nobody wrote it", 1]])

    monkeypatch.setattr(raft.testing.whole.releases, "made_of", one_more)
    with pytest.raises(Failure, match="I20: n1 holds "):
        simulate(1, swarm=QUIET)
    gc.collect()
    logged_errors.flush()


@pytest.mark.slow
def test_the_same_seed_does_the_same_again_whatever_the_order_of_hashes() -> None:
    """I23: all outputs of cores and all bytes on the wire are equal, in other processes too."""
    found = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        ran = subprocess.run(
            [sys.executable, "-c", DIGEST],
            env=environment,
            cwd=os.path.dirname(os.path.dirname(os.path.dirname(__file__))),
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        found.add(ran.stdout)
    assert len(found) == 1
    assert len(found.pop().strip()) == 64


@pytest.mark.slow
def test_a_list_of_choices_is_the_run_that_made_it() -> None:
    """A failure is replayed from its choices, and any part of them is a run as well."""
    choices = Choices.drawing(3)
    report = simulate(3, swarm=ROUGH, choices=choices)
    again = Choices.replaying(choices.made())
    assert simulate(3, swarm=ROUGH, choices=again) == report
    assert again.made() == choices.made()
    calmer = [each for each in choices.made() if each.stream == "trouble"]
    assert simulate(3, swarm=ROUGH, choices=Choices.replaying(calmer)).fired


@pytest.mark.slow
def test_a_failure_shrinks_to_what_shows_it(
    monkeypatch: pytest.MonkeyPatch, logged_errors: LoggedErrors
) -> None:
    """A vote that is forgotten takes one start too many, and few choices."""
    NODE_BUGS["recovery_forgets_the_vote"].plant(monkeypatch)
    with pytest.raises(Failure) as caught:
        simulate(9)
    failure = caught.value
    left = shrink(failure, Budget(tries=25))
    assert failure.rule == "I11"
    assert len(left) < 5
    told = as_test(failure, left)
    compile(told, "a test", "exec")
    assert f"simulate({failure.seed}, choices=Choices.replaying(choices))" in told
    assert "--seed 9" in str(failure)
    assert "starts" in failure.transcript(20)
    # Worlds that were broken off leave failures that nobody takes any more.
    del failure, caught
    gc.collect()
    logged_errors.flush()


@pytest.mark.slow
def test_a_wiped_founder_leads_nothing_beside_its_cluster() -> None:
    """I1, M9: seed 600062, where a server that was removed and emptied elected it."""
    report = simulate(600062)
    assert report.fired["wipe"]
    assert report.fired["server emptied"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [4, 6, 9, 14, 22, 23, 171, 175])
def test_nothing_is_promised_in_vain_whatever_befalls_the_nodes(seed: int) -> None:
    """I1 to I23, L1 to L4: the seeds that run always; `raft.testing.whole` runs more."""
    report = simulate(seed)
    assert report.commits
    assert sum(report.fired.values()) > 5


def test_a_disk_is_waited_for_in_vain_and_with_success(monkeypatch: pytest.MonkeyPatch) -> None:
    """D2: a save is reported by who waits, also in the last moment, and by the writer."""
    outcomes: set[tuple[bool, bool]] = set()
    rung: list[bool] = []
    pause, end = ClockedWait.pause, ClockedWait.end

    def watched_pause(wait: ClockedWait, seconds: float) -> bool:
        rung.append(pause(wait, seconds))
        return rung[-1]

    def watched_end(wait: ClockedWait) -> bool:
        is_taken = end(wait)
        outcomes.add((rung[-1], is_taken))
        return is_taken

    monkeypatch.setattr(ClockedWait, "pause", watched_pause)
    monkeypatch.setattr(ClockedWait, "end", watched_end)
    simulate(1, swarm=evolve(QUIET, disk_seconds=(0.0, 0.004)))
    assert outcomes == {(True, True), (False, True), (False, False)}
