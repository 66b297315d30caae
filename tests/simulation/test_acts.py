"""A run is a list of acts: told again exactly, kept in a file, and made small when it fails."""

from __future__ import annotations

from pathlib import Path

import pytest
from attrs import evolve
from click.testing import CliRunner

from raft.testing.choices import BadChoices
from raft.testing.cores.acts import Act, Scenario
from raft.testing.cores.command import main
from raft.testing.cores.playing import Player, failure_of, play
from raft.testing.cores.recording import RecordedSimulation, record
from raft.testing.cores.reduction import as_test, shrink
from raft.testing.cores.simulator import Failure, first_failure, simulate
from raft.testing.cores.swarm import Swarm
from raft.testing.shrinking import Budget
from tests.simulation.planted import BUGS

EASY = "entries_are_acknowledged_before_they_are_saved"
SHRUNK = (
    EASY,
    "an_older_terms_entry_commits_by_counting",
    "a_vote_leaves_before_it_is_saved",
    "what_was_received_counts_as_saved",
    "the_window_has_no_end",
    "entries_are_applied_before_they_are_saved",
)


@pytest.mark.parametrize("seed", [1, 3, 13, 25, 303968])
def test_a_recorded_run_is_played_again_exactly(seed: int) -> None:
    """I23: no chance is left; every step has the same time, place and result.

    These worlds have sessions, leases, changes, lost directories and gathered turns.
    """
    recorded = RecordedSimulation(Swarm.draw(seed))
    recorded.run()
    player = Player(recorded.swarm, scenario=Scenario.parse(str(recorded.scenario)))
    player.run()
    told, written = ((each.monitors.events, each.monitors.digest) for each in (player, recorded))
    assert told == written


def test_recording_changes_nothing() -> None:
    """A seed tells the same story whether it is written down or not."""
    recorded = RecordedSimulation(Swarm.draw(2))
    assert recorded.run() == simulate(2)


def test_a_scenario_reads_as_it_is_written() -> None:
    """With its world, of which only what is not calm is told."""
    scenario, failure = record(303968)
    assert failure is None
    assert Scenario.parse(str(scenario)) == scenario


def test_every_world_can_be_written_down() -> None:
    """Lists, options and limits come back as they were."""
    for seed in range(300):
        scenario = Scenario(Swarm.draw(seed))
        assert Scenario.parse(str(scenario)).world == scenario.world


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "the first line is not 'raft scenario 1'"),
        ("raft scenario 2", "the first line is not 'raft scenario 1'"),
        ("raft scenario 1\nworld {", "line 2: 'world {' says nothing"),
        ('raft scenario 1\nworld {"voter": 3}', "line 2: .* says nothing: .*'voter'"),
        ('raft scenario 1\nworld {"options": 3}', "line 2: "),
        ("raft scenario 1\n\n1 0.0 n1", "line 3: '1 0.0 n1' says nothing"),
        ("raft scenario 1\n1 0.0 n1 dances", "line 2: .* 'dances' is none of "),
        ("raft scenario 1\n1 soon n1 rings", "line 2: "),
        ("raft scenario 1\n1 0.0 n1 rings | dice", "line 2: "),
        ("raft scenario 1\n1 0.0 n1 rings | dice=[", "line 2: "),
    ],
)
def test_a_text_that_is_no_scenario_is_refused(text: str, complaint: str) -> None:
    """With its name, and the line."""
    with pytest.raises(BadChoices, match=f"^story.*{complaint}"):
        Scenario.parse(text, "story")


@pytest.mark.parametrize("line", ["n1 hears", "n1 hears n2 x 3", "n1 writes 1", "n1 syncs x"])
def test_an_act_that_lacks_what_it_needs_is_refused(line: str) -> None:
    """A list that was edited by hand cannot break the player."""
    with pytest.raises(BadChoices, match=r"line 2: .* needs "):
        Scenario.parse(f"raft scenario 1\n1 0.0 {line}")


@pytest.mark.parametrize("line", ["n9 rings", "c9 sends", "n1 hears n2 7 PreVote", "n1 repeats 3"])
def test_an_act_of_what_is_not_there_is_passed_over(line: str) -> None:
    """Nothing happens, and nothing breaks."""
    assert failure_of(Scenario.parse(f"raft scenario 1\n1 0.0 {line}")) == (None, [])


def test_what_became_impossible_is_passed_over() -> None:
    """Any part of a list is a list: here, every second act of one."""
    scenario, _ = record(1)
    half = evolve(scenario, acts=scenario.acts[::2])
    failure, performed = failure_of(half)
    assert failure is None
    assert 0 < len(performed) < len(half.acts)


def test_a_healed_world_goes_on_by_itself() -> None:
    """L1, L2, L3, L4: what follows `heals` is no act, and is watched as after any chaos."""
    player = play("raft scenario 1\n1 0.0 n1 starts\n2 5.0 world heals")
    done, leaders = player.workload.done_writes, player.monitors.leaders
    assert done > 1
    assert leaders


def shrunk(name: str, monkeypatch: pytest.MonkeyPatch) -> tuple[str, int, Failure]:
    """Return the test that the first failing seed of a bug becomes, its acts, and how it fails."""
    BUGS[name].plant(monkeypatch)
    failure = first_failure(range(300))
    assert failure is not None
    scenario, again = record(failure.seed)
    assert again is not None
    assert str(again) == str(failure)
    reduction = shrink(scenario, failure, budget=Budget(20.0))
    assert reduction.failure is not None
    return as_test(reduction, failure.seed), len(reduction.scenario.acts), reduction.failure


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name == EASY else pytest.mark.slow) for name in SHRUNK],
)
def test_a_failure_becomes_a_short_test_that_runs(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most 30 events; the test fails while the bug is there, and passes when it is mended."""
    text, count, failure = shrunk(name, monkeypatch)
    assert count <= 30, text
    assert failure.rule in BUGS[name].rules
    names: dict[str, object] = {}
    exec(compile(text, "generated", "exec"), names)
    (test,) = (each for told, each in names.items() if told.startswith("test_"))
    assert callable(test)
    with pytest.raises(Failure) as caught:
        test()
    assert (caught.value.rule, caught.value.reason) == (failure.rule, failure.reason)
    monkeypatch.undo()
    test()


def test_messages_are_named_by_the_act_in_which_they_left() -> None:
    """Numbering the acts anew names the messages anew."""
    acts = (Act(7, 0.0, "n1", "rings"), Act(9, 0.5, "n2", "hears", ("n1", 7, "PreVote")))
    scenario = Scenario(Swarm(seed=0), acts).renumbered()
    assert [str(act) for act in scenario.acts] == [
        "1 0.0 n1 rings",
        "2 0.5 n2 hears n1 1 PreVote",
    ]


def test_the_command_saves_plays_and_shrinks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--save, --choices and --shrink; exit code 1 where a rule is broken."""
    BUGS[EASY].plant(monkeypatch)
    path = tmp_path / "story"
    saved = CliRunner().invoke(main, ["--seed", "0", "--save", str(path), "--shrink"])
    assert saved.exit_code == 1
    assert "acts of seed 0 are in " in saved.output
    assert "def test_i11_holds_in_what_seed_0_told() -> None:" in saved.output
    played = CliRunner().invoke(main, ["--choices", str(path), "--transcript", "3"])
    assert played.exit_code == 1
    assert "\nI11: n" in played.output
    monkeypatch.undo()
    mended = CliRunner().invoke(main, ["--choices", str(path)])
    assert mended.exit_code == 0
    assert "no rule was broken" in mended.output


@pytest.mark.parametrize("text", [None, b"\xff", b"nothing"])
def test_the_command_refuses_a_file_of_no_acts(text: bytes | None, tmp_path: Path) -> None:
    """One line that names the file, and no traceback."""
    path = tmp_path / "story"
    if text is not None:
        path.write_bytes(text)
    refused = CliRunner().invoke(main, ["--choices", str(path)])
    assert refused.exit_code == 1
    assert refused.output.startswith("Error: ")
    assert str(path) in refused.output
