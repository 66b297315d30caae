"""What a seed once found stays mended: each is run again, for ever.

The seeds' worlds shift when the simulator draws more; what they found has, where it could be
told in few steps, a test of its own beside this one.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from raft.testing.cores.simulator import simulate

SEEDS = [
    line.split(maxsplit=2)
    for line in Path(__file__).with_name("regress_seeds.txt").read_text().splitlines()
    if not line.startswith("#")
]


@pytest.mark.parametrize(("seed", "rule", "reason"), SEEDS)
def test_a_seed_that_failed_once_passes(seed: str, rule: str, reason: str) -> None:
    """Each line tells which rule was broken, and why."""
    assert rule
    assert reason
    simulate(int(seed))
