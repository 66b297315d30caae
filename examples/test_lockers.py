"""Tests of the lockers, for any test runner: python -m unittest test_lockers."""

from __future__ import annotations

import random
import unittest

from lockers import Lockers, commands

from raft.testing import SimCluster, check_determinism


class LockersTest(unittest.TestCase):
    def test_a_locker_stays_taken_when_the_leader_dies(self) -> None:
        with SimCluster(Lockers, seed=1) as cluster:
            assert cluster.write(["take", "ann"]) == "locker 1"
            cluster.crash(cluster.leader)
            assert cluster.write(["take", "bob"]) == "locker 2"

    def test_storms(self) -> None:
        for seed in range(20):
            with SimCluster(Lockers, seed=seed) as cluster:
                cluster.storm(300, commands)

    def test_it_is_deterministic(self) -> None:
        chance = random.Random(1)
        check_determinism(Lockers, [commands(chance) for _ in range(300)])
