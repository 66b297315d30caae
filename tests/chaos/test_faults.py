"""Each kind of fault once, with clients; then everything that was promised."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
import pytest_twisted

from raft.chaos.cluster import Template
from raft.chaos.run import Plan, Run
from raft.chaos.storm import FAULTS, unavailable

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.deadline(90)]

LINKS = (
    *("one-way", "deaf", "mute", "isolate", "halves", "black-hole", "trickle", "delay"),
    *("refuse", "flap", "reset", "duplicate", "garbage", "clients", "sleeper"),
)
PROCESSES = (
    *("kill", "pause", "kill-all", "eio", "enospc", "full", "descriptors", "clock"),
    *("strangers", "transfer"),
)
SLOW = ("wipe", "replace", "learner", "roll")

UNIT_SECONDS = 0.05
"""In place of T, so that nothing takes longer than a second."""


def test_every_fault_is_tested() -> None:
    assert sorted((*LINKS, *PROCESSES, *SLOW)) == sorted(FAULTS)


@pytest_twisted.ensureDeferred
async def test_whatever_befalls_links_processes_and_disks_nothing_is_lost(tmp_path: Path) -> None:
    """One fault after another, with clients.

    sc-P1, sc-P2, sc-P8, sc-F7, sc-F8, sc-N2, sc-N4, sc-N8, sc-N9, sc-N11, sc-R9.
    """
    await all_of((*LINKS, *PROCESSES), tmp_path)


@pytest.mark.skipif(
    "RAFT_CHAOS" not in os.environ, reason="takes half a minute: `tox -e chaos` runs it"
)
@pytest_twisted.ensureDeferred
async def test_whoever_comes_and_goes_nothing_is_lost(tmp_path: Path) -> None:
    await all_of(SLOW, tmp_path)


async def all_of(names: tuple[str, ...], directory: Path) -> None:
    """Let these faults strike one after another, then judge."""
    from twisted.internet import reactor

    run = Run(reactor, directory, Plan(1.0, seed=1), Template(), lambda text: None)
    stage = run.stage
    try:
        await run.start()
        stage.unit_seconds = UNIT_SECONDS
        crowd, notes, history = run.crowd("p1")
        reader = run.direct_reader(notes, history)
        assert reader is not None
        crowd.start(reactor)
        try:
            for name in names:
                if name in unavailable():
                    print(f"without {name}: {unavailable()[name]}")
                    continue
                before = stage.tally.total()
                await FAULTS[name][0](stage, random.Random(name))
                assert stage.tally.total() > before, name
                if name not in LINKS:
                    assert await stage.settled(list(stage.cluster.nodes), 15.0), name
            await run.heal(notes.phase)
        finally:
            reader.stop()
            await crowd.stop()
        await run.judge(notes, history)
        assert stage.violations == []
        assert notes.outcomes["ok"] > 0
    finally:
        await run.end()
