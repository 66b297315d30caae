"""Raft's properties hold in every seed's world, and a seed tells the same story each time.

Each failure names the broken property (I1 election safety, I7 state-machine safety, L1
a leader after healing, ...) and one command that replays it.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from raft.testing.cores.command import main
from raft.testing.cores.simulator import Failure, Report, simulate
from raft.testing.cores.swarm import (
    CHANGE_TRIGGERS,
    FAULTS,
    LEASE_FAULTS,
    LINK_FAULTS,
    TIMEOUT_SECONDS,
    TRIGGERS,
    WIPES,
    Swarm,
)
from tests.simulation.planted import BUGS

CHUNK = 25
QUICK_CHUNKS = 1
CHUNKS = 48


def chunks() -> list[object]:
    """Return the first seed of each chunk; all but the first few belong to the full run."""
    return [
        pytest.param(place * CHUNK, marks=() if place < QUICK_CHUNKS else pytest.mark.slow)
        for place in range(CHUNKS)
    ]


@pytest.mark.parametrize("first", chunks())
def test_every_property_holds_in_every_world(first: int) -> None:
    """I1 to I20 after each step; L1 to L4, and L6, once the world is healed.

    sc-R15, sc-N3, sc-N5, sc-N6, sc-R13.
    """
    for seed in range(first, first + CHUNK):
        simulate(seed)


@pytest.fixture(scope="module")
def reports() -> list[Report]:
    """Return what some worlds were like."""
    return [simulate(seed) for seed in range(40)]


@pytest.mark.slow
def test_the_worlds_are_lively(reports: list[Report]) -> None:
    """A run in which nothing happens proves nothing."""
    assert sum(report.commits for report in reports) > 2000
    assert sum(report.terms for report in reports) > 100
    assert sum(sum(report.fired.values()) for report in reports) > 200
    assert sum(report.truncations for report in reports) > 10
    assert sum(report.installed for report in reports) > 10
    assert sum(report.done_writes for report in reports) > 1000
    assert sum(report.done_reads for report in reports) > 500
    assert sum(report.leased_reads for report in reports) > 100
    assert sum(report.session_commands for report in reports) > 300
    assert sum(report.session_copies for report in reports) > 150
    assert sum(report.sessions_expired for report in reports) > 10
    assert sum(report.configurations for report in reports) > 40 + 60


@pytest.mark.slow
def test_every_kind_of_trouble_comes_about(reports: list[Report]) -> None:
    """A fault that is drawn and finds no victim proves nothing; these 40 worlds meet each."""
    fired = {kind for report in reports for kind in report.fired}
    drawn = {*FAULTS, *LEASE_FAULTS, *LINK_FAULTS, *WIPES, *TRIGGERS, *CHANGE_TRIGGERS}
    assert fired == {*drawn, "damaged snapshot"}


@pytest.mark.slow
def test_a_leader_is_known_to_all_soon_after_healing(reports: list[Report]) -> None:
    """L1, sc-E15: within 12 election timeouts; the run itself fails beyond that."""
    assert max(report.leader_seconds for report in reports) < 12 * TIMEOUT_SECONDS * 1.2


def test_the_same_seed_tells_the_same_story() -> None:
    """I23: equal digests of every output, twenty seeds twice."""
    for seed in range(20):
        first, second = (simulate(seed, full_digest=True) for _ in range(2))
        assert first == second


@pytest.mark.integration
def test_the_story_does_not_depend_on_the_order_of_sets() -> None:
    """I23: also with another hash seed, in another process."""
    told = {
        subprocess.run(
            [sys.executable, "-m", "raft.testing.cores.simulator", "--count", "12", "--digest"],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.rpartition("\n12 seeds")[0]
        for hash_seed in ("1", "2")
    }
    (story,) = told
    assert len(story.splitlines()) == 12


def test_different_seeds_draw_different_worlds() -> None:
    """Every fault, trigger and size of cluster is drawn within a few hundred seeds."""
    worlds = [Swarm.draw(seed) for seed in range(300)]
    assert len(set(worlds)) == 300
    faults = {fault for world in worlds for fault in world.faults}
    assert faults == {*FAULTS, *LEASE_FAULTS, *LINK_FAULTS, *WIPES}
    triggers = {trigger for world in worlds for trigger in world.triggers}
    assert triggers == {*TRIGGERS, *CHANGE_TRIGGERS}
    assert {world.options.max_inflight_messages for world in worlds} == set(range(1, 9))
    assert {world.voters for world in worlds} == {1, 2, 3, 4, 5, 7}
    assert {len(world.servers) for world in worlds if world.change_seconds} >= {2, 4, 5, 6, 7}
    assert {world.session_clients for world in worlds} == {0, 1, 2, 3, 4}
    assert {bool(world.lease_share) for world in worlds if world.clock_skew} == {False, True}


def test_leases_are_promised_what_the_clocks_keep() -> None:
    """R9: no clock of a world runs faster than another's by more than the bound."""
    for seed in range(300):
        world = Swarm.draw(seed)
        if world.lease_share:
            fastest, slowest = 1 + world.clock_skew, 1 - world.clock_skew
            assert world.options.clock_drift_bound >= fastest / slowest


def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plant a bug that the first seeds find."""
    BUGS["a_vote_leaves_before_it_is_saved"].plant(monkeypatch)


def failing_seed() -> int:
    """Return the first seed that fails."""
    for seed in range(20):
        try:
            simulate(seed)
        except Failure:
            return seed
    raise AssertionError("no seed fails")


def test_a_failure_names_the_rule_the_seed_and_the_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The message is all that is needed to see it again."""
    broken(monkeypatch)
    seed = failing_seed()
    with pytest.raises(Failure, match=r"I2: n\d (votes for|shows) ") as caught:
        simulate(seed)
    assert f"python -m raft.testing.cores.simulator --seed {seed} " in str(caught.value)
    assert caught.value.seed == seed
    assert "RequestVote" in caught.value.transcript(10)


def test_a_failing_seed_fails_in_the_same_way_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exact reproduction: the rule, the moment, the servers and the steps before."""
    broken(monkeypatch)
    seed = failing_seed()
    failures = []
    for _ in range(2):
        with pytest.raises(Failure) as caught:
            simulate(seed)
        failures.append((str(caught.value), caught.value.transcript(400)))
    assert failures[0] == failures[1]


def test_the_command_shows_a_failure_and_its_last_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exit code is 1, and the transcript ends with the step that broke the rule."""
    broken(monkeypatch)
    arguments = ["--seed", str(failing_seed()), "--transcript", "5"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert "I2: " in result.output
    assert "    < " in result.output
    assert "0 seeds passed, 1 failed" in result.output


def test_the_command_is_silent_about_what_is_well() -> None:
    """One line for all seeds, and the exit code 0."""
    result = CliRunner().invoke(main, ["--seed", "1", "--count", "2"])
    assert result.exit_code == 0
    assert result.output.startswith("2 seeds passed, 0 failed")
    assert len(result.output.splitlines()) == 1
