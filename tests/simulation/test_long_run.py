"""A long run counts what befell its worlds, and names what failed."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from raft.testing.cores.long_run import Tally, main, run_seeds
from tests.simulation.planted import BUGS


def test_seeds_are_counted_with_what_befell_them() -> None:
    """Events, checks and faults add up."""
    total, parts = run_seeds(0, 4), [run_seeds(0, 2), run_seeds(2, 4)]
    summed = Tally()
    for part in parts:
        summed.add(part)
    assert summed.seeds == 4
    assert (summed.events, summed.checks, summed.fired) == (
        *(total.events, total.checks),
        total.fired,
    )
    assert total.checks > total.events > 4000


def test_a_failing_seed_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others go on."""
    BUGS["a_vote_leaves_before_it_is_saved"].plant(monkeypatch)
    tally = run_seeds(0, 3)
    assert tally.failures
    told = tally.failures[0]
    assert f"--seed {tally.failing[0]} " in told
    assert "I2: " in told


@pytest.mark.slow
@pytest.mark.integration
def test_the_command_runs_for_as_long_as_it_is_told() -> None:
    """Exit code 0 and a table of faults where nothing failed."""
    result = CliRunner().invoke(main, ["--minutes", "0.01", "--seed", "0", "--processes", "1"])
    assert result.exit_code == 0, result.output
    assert "seeds passed, 0 failed" in result.output
    assert "\nfaults that came about:\n" in result.output
