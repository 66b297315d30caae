"""What is drawn, what is noted and what is found wrong: without processes."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_twisted
from attrs import define
from twisted.internet.defer import Deferred, succeed

from raft.chaos import wall_clock
from raft.chaos.clients import Notes, Worker, stale_reads
from raft.chaos.run import slope
from raft.chaos.stage import Nobody, Stage
from raft.chaos.storm import FAULTS, SWARM, Storm
from raft.chaos.verdict import Logs, idle, judged


def storm(seed: str, *kinds: str) -> Storm:
    anything: Any = None
    return Storm(anything, seed, kinds)


def schedule(of: Storm) -> list[tuple[float, str, float]]:
    drawn = [of.draw(number) for number in range(1, 50)]
    return [(pause, kind, chance.random()) for pause, kind, chance in drawn]


def test_a_seed_is_a_schedule() -> None:
    assert storm("7 1").weights == storm("7 1").weights
    assert schedule(storm("7 1")) == schedule(storm("7 1"))
    assert schedule(storm("7 1")) != schedule(storm("8 1"))


def test_what_is_drawn_for_a_fault_does_not_depend_on_earlier_ones() -> None:
    one, other = storm("7 1"), storm("7 1")
    one.draw(1)
    assert one.draw(20)[:2] == other.draw(20)[:2]


def test_phases_differ_in_what_they_have_most_of() -> None:
    shares = {storm(f"7 {phase}").weights["kill"] for phase in range(20)}
    assert shares == {FAULTS["kill"][1] * share for share in SWARM}


def test_who_asks_for_some_faults_gets_all_of_these_and_no_others() -> None:
    assert {kind for _, kind, _ in schedule(storm("7 1", "kill", "deaf"))} == {"kill", "deaf"}


# -- The ledger ------------------------------------------------------------------------------


@pytest.fixture
def notes(tmp_path: Path) -> Iterator[Notes]:
    notes = Notes("p1", tmp_path / "acknowledged")
    notes.acknowledge("p1/ledger/a", 1)
    notes.unknown["p1/ledger/b"] = 2
    notes.refused["p1/ledger/c"] = 3
    yield notes
    notes.close()


def test_a_ledger_that_is_kept_has_no_differences(notes: Notes) -> None:
    assert notes.differences({"p1/ledger/a": 1}) == []
    assert notes.differences({"p1/ledger/a": 1, "p1/ledger/b": 2}) == []


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({}, "a was acknowledged as 1 and is None"),
        ({"p1/ledger/a": 2}, "a was acknowledged as 1 and is 2"),
        ({"p1/ledger/a": 1, "p1/ledger/c": 3}, "c was definitely not applied and is 3"),
        ({"p1/ledger/a": 1, "p1/ledger/b": 1}, "b is 1, which nobody wrote"),
        ({"p1/ledger/a": 1, "p1/ledger/d": 1}, "d is 1, which nobody wrote"),
    ],
)
def test_a_broken_promise_is_found(notes: Notes, found: dict[str, int], said: str) -> None:
    (text,) = notes.differences({**found})
    assert text.endswith(said)


def test_what_is_acknowledged_is_on_the_disk_at_once(notes: Notes, tmp_path: Path) -> None:
    assert (tmp_path / "acknowledged").read_text() == '["p1/ledger/a", 1]\n'


def done_by(name: str, notes: Notes, result: object) -> Worker:
    """Return a client whose every call is answered at once."""
    anything: Any = None
    worker = Worker(name, anything, notes, random.Random(1), stale_reads)
    worker.client = cast("Any", Answering(result))
    return worker


@define
class Answering:
    """What looks like a client that gets the same answer each time."""

    result: object

    def read(self, *_: object, **__: object) -> Deferred[object]:
        return succeed(self.result)


@pytest_twisted.ensureDeferred
async def test_a_reader_that_sees_nothing_after_something_has_gone_back(notes: Notes) -> None:
    """I19, R10: an empty server is the oldest state there is."""
    await stale_reads(done_by("p", notes, None))
    worker = done_by("q", notes, 7)
    await stale_reads(worker)
    assert notes.violations == []
    cast("Any", worker.client).result = None
    await stale_reads(worker)
    assert notes.violations == ["q saw 7 under p1/counter, and None later"]
    assert (notes.asked["q"], notes.done["q"]) == (2, 2)


def test_a_client_that_never_gets_anything_done_is_a_violation() -> None:
    """A run whose clients all fail has shown nothing, and must not end well."""
    asked, done = Counter(p=20, q=20, r=19), Counter(q=1)
    assert idle(asked, done) == ["client p has begun 20 operations, and none was done"]


@pytest_twisted.ensureDeferred
async def test_a_history_that_nobody_wrote_is_not_linearizable(tmp_path: Path) -> None:
    """I18: what was never recorded was never judged."""
    judgement = await judged(tmp_path / "none.jsonl", tmp_path / "none.svg")
    assert (judgement.verdict, judgement.operations) == ("bad", 0)


# -- Logs and memory -------------------------------------------------------------------------


@define
class Log:
    """What looks like a node to whoever reads logs."""

    log_path: Path
    log: str


@pytest.mark.parametrize(
    "line",
    [
        "Traceback (most recent call last):",
        "x [raft#critical] node1 stops serving: raft.errors.InvariantViolated: so",
        "Unhandled error in Deferred:",
    ],
)
def test_a_line_that_no_log_may_have_is_found_once(line: str) -> None:
    logs = Logs()
    node: Any = Log(Path("node1.log"), "all is well\n")
    assert logs.complaints([node]) == []
    node.log += f"{line}\n"
    (found,) = logs.complaints([node])
    assert line in found
    assert logs.complaints([node]) == []


def test_the_slope_of_memory_is_of_each_process_against_itself() -> None:
    # Too few, too short, and all of it too soon after the start.
    assert slope([[(0.0, 100)], [(0.0, 1), (40.0, 9), (80.0, 99)], [(0.0, 1), (29.0, 9)]]) is None
    steady = [(float(second), 500) for second in range(0, 200, 5)]
    growing = [(float(second), 100 + second) for second in range(0, 200, 5)]
    settling = [(float(second), min(second, 30)) for second in range(0, 200, 5)]
    assert slope([steady, settling]) == 0
    assert slope([growing]) == pytest.approx(3600)
    assert slope([growing, steady]) == pytest.approx(1800)


# -- The stage -------------------------------------------------------------------------------


@define
class Process:
    """What looks like a node to the stage."""

    id: str
    running: bool
    process: object = 1
    exit_code: int = 1
    log: str = "raft: the disk\n"
    starts: int = 0

    def start(self) -> None:
        self.starts += 1


class Nodes:
    """What looks like a cluster to the stage."""

    def __init__(self) -> None:
        self.nodes = {id: Process(id, True) for id in ("a", "b", "c")}

    @property
    def running(self) -> list[str]:
        return [id for id, node in self.nodes.items() if node.running]


@pytest.fixture
def stage() -> Stage:
    anything: Any = None
    nodes: Any = Nodes()
    return Stage(anything, nodes, anything, anything, 0.3, lambda text: None)


def test_who_ends_by_itself_is_a_violation_unless_excused(stage: Stage) -> None:
    nodes: Any = stage.cluster.nodes
    nodes["a"].running = nodes["b"].running = nodes["c"].running = False
    stage.excused.add("a")
    stage.down.add("b")
    for id in nodes:
        stage._look_after(id)
    assert stage.violations == ["c ended by itself with code 1: raft: the disk"]
    assert [nodes[id].starts for id in "abc"] == [1, 0, 1]


def test_a_node_is_struck_by_one_fault_at_a_time(stage: Stage) -> None:
    stage.damaged["b"] = False
    with stage.taken(random.Random(1)) as one, stage.taken(random.Random(1)) as other:
        assert {one, other} == {"a", "c"}
        with pytest.raises(Nobody), stage.taken(random.Random(1)):
            pass
    assert not stage.busy


# -- Wall clocks -----------------------------------------------------------------------------

CLOCK = """
import sys, time
sys.argv = ["wall_clock", sys.argv[1]]
import runpy
follow = runpy.run_path({script!r})["follow"]
before, steady = time.time(), time.monotonic()
follow(sys.argv[1])
print(round(time.time() - before), round(time.time_ns() / 1e9 - before))
print(round(time.monotonic() - steady))
"""


def test_a_wall_clock_is_ahead_and_monotonic_time_is_not(tmp_path: Path) -> None:
    path = tmp_path / "clock"
    wall_clock.set_ahead(path, 5.0)
    wall_clock.set_ahead(path, -3600.0)
    program = CLOCK.format(script=str(wall_clock.__file__))
    ran = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, timeout=20
    )
    assert ran.stdout.split() == ["-3600", "-3600", "0"], ran.stderr
