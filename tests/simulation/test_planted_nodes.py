"""Whole nodes in virtual time find the bugs they are for; see `test_planted_bugs`."""

from __future__ import annotations

import gc

import pytest

import tests.simulation.planted_pauses
import tests.simulation.planted_releases  # noqa: F401  (they enter their bugs)
from raft.testing.whole.run import first_failure
from raft.testing.whole.swarm import Swarm
from tests.conftest import LoggedErrors
from tests.simulation.planted_nodes import NODE_BUGS, WORLDS

pytestmark = pytest.mark.slow

SEEDS = 300
"""All were found within the first thirty of their worlds when this was written."""


@pytest.mark.parametrize("name", sorted(NODE_BUGS))
def test_a_bug_around_the_core_is_found(
    name: str, monkeypatch: pytest.MonkeyPatch, logged_errors: LoggedErrors
) -> None:
    """The failure names a rule that the bug breaks."""
    bug = NODE_BUGS[name]
    bug.plant(monkeypatch)
    can_show = WORLDS.get(name, lambda _: True)
    failure = first_failure(seed for seed in range(SEEDS) if can_show(Swarm.draw(seed)))
    assert failure is not None, f"not found in {SEEDS} seeds"
    rule, told = failure.rule, str(failure)
    # A world that was broken off leaves failures that nobody takes any more.
    del failure
    gc.collect()
    logged_errors.flush()
    assert rule in bug.rules, told
