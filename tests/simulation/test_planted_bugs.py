"""The simulator finds the bugs it is for: each one, within the seeds of every run.

Monitors and faults rot unseen, since they are silent when they work and silent when they
do not. Here each must speak.
"""

from __future__ import annotations

import pytest

from raft.testing.cores.simulator import first_failure
from tests.simulation.planted import BUGS
from tests.simulation.planted_seeds import seen

pytestmark = pytest.mark.slow

SEEDS = 500
"""How many worlds are searched where the one in which a bug was seen last shows it no more.

A changed core or swarm moves that: `python -m tests.simulation.planted_seeds` looks for all anew.
"""


@pytest.mark.parametrize("name", sorted(BUGS))
def test_a_planted_bug_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The failure names a rule that the bug breaks."""
    bug = BUGS[name]
    bug.plant(monkeypatch)
    known = seen().get(name)
    failure = first_failure([*([known] if known is not None else []), *range(SEEDS)])
    assert failure is not None, f"not found in {SEEDS} seeds"
    assert failure.rule in bug.rules, str(failure)


def test_the_seeds_of_bugs_that_were_seen_are_those_of_bugs_there_are() -> None:
    assert set(seen()) <= set(BUGS)
