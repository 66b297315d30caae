"""Whole nodes in virtual time: real services, logs, connections and clients, on one seed."""

from __future__ import annotations

import pytest
from attrs import evolve

from raft.testing.whole.run import simulate
from raft.testing.whole.swarm import Swarm

QUIET = evolve(Swarm.draw(1), troubles=(), chaos_seconds=2.0)


@pytest.mark.parametrize("voters", [1, 3])
def test_a_leader_is_elected_over_real_logs_and_connections(voters: int) -> None:
    """L1, L2, L4: by real AMP bytes, on the write-ahead log's own frames."""
    report = simulate(1, swarm=evolve(QUIET, voters=voters))
    assert report.terms == 1
    assert report.commits > 10
    assert report.done > 10
