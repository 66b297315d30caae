"""What a seed once found stays mended: each is run again, for ever.

The seeds' worlds shift when the simulator draws more; what they found has, where it could be
told in few steps, a test of its own beside this one.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from raft.testing.cores.simulator import simulate
from raft.testing.whole.run import simulate as simulate_nodes


def seeds(name: str) -> list[list[str]]:
    lines = Path(__file__).with_name(name).read_text().splitlines()
    return [line.split(maxsplit=2) for line in lines if not line.startswith("#")]


@pytest.mark.parametrize(("seed", "rule", "reason"), seeds("regress_seeds.txt"))
def test_a_seed_that_failed_once_passes(seed: str, rule: str, reason: str) -> None:
    """Each line tells which rule was broken, and why."""
    assert rule
    assert reason
    simulate(int(seed))


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "rule", "reason"), seeds("regress_nodes.txt"))
def test_a_seed_of_whole_nodes_that_failed_once_passes(seed: str, rule: str, reason: str) -> None:
    """The same for worlds of whole nodes."""
    assert rule
    assert reason
    simulate_nodes(int(seed))
