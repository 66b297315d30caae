"""`raft bench`: what it counts is what happened, and it ends with all that it started."""

from __future__ import annotations

import json
import os
from array import array
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock

from raft.bench import facts, rows
from raft.bench.load import KEY_BYTES, KEYS, PREPARED, Load, keys, operations, summary
from raft.bench.workloads import SIZES, WORKLOADS, chosen
from raft.cli.bench import Numbers, loadable
from raft.cli.bench_report import durability
from raft.cli.main import run
from raft.errors import BadConfiguration, InvariantViolated, NotLeader, OutcomeUnknown
from raft.usage import Usage, usage
from tests.loaded_side import Side


def make_load(side: Side, outstanding: int) -> tuple[Load, Clock]:
    clock = Clock()
    drawn = operations("write", 64, 1)
    return Load(clock, side.issue, drawn, outstanding, clock.seconds), clock


def test_so_many_operations_are_outstanding_and_never_more() -> None:
    side = Side()
    load, _ = make_load(side, 5)
    load.start()
    for _ in range(100):
        side.answer()
        assert len(side.open) == 5
    assert side.most == 5


def test_a_latency_runs_from_issue_to_answer() -> None:
    side = Side()
    load, clock = make_load(side, 2)
    load.start()
    measured = Deferred.fromCoroutine(load.measure(10.0))
    clock.advance(0.25)
    side.answer()
    clock.advance(0.5)
    side.answer()
    side.answer()
    assert list(load.latencies) == [0.25, 0.75, 0.5]
    clock.advance(9.25)
    found: list[float] = []
    measured.addCallback(found.append)
    assert found == [10.0]


def test_only_what_is_answered_in_the_measured_span_counts() -> None:
    side = Side()
    load, clock = make_load(side, 1)
    load.start()
    side.answer()
    Deferred.fromCoroutine(load.measure(1.0))
    side.answer()
    clock.advance(1.0)
    side.answer()
    assert len(load.latencies) == 1


def test_a_span_may_end_with_so_many_answers() -> None:
    side = Side()
    load, clock = make_load(side, 1)
    load.start()
    found: list[float] = []
    Deferred.fromCoroutine(load.measure(10.0, 2)).addCallback(found.append)
    for _ in range(3):
        clock.advance(0.5)
        side.answer()
    assert found == [1.0]
    assert len(load.latencies) == 2
    assert clock.getDelayedCalls() == []


@pytest.mark.parametrize("how", ["failure", "an item of the answer"])
def test_a_failure_is_no_operation_and_is_counted(how: str) -> None:
    side = Side()
    load, clock = make_load(side, 1)
    load.start()
    Deferred.fromCoroutine(load.measure(1.0))
    if how == "failure":
        side.open.pop(0)[1].errback(NotLeader("n2", None))
        assert not load.latencies
    else:
        side.answer([NotLeader("n2", None)])
    assert load.failures == {"NotLeader": 1}
    # Its place is taken again, after a pause.
    assert not side.open
    clock.advance(0.02)
    assert len(side.open) == 1


def test_an_error_in_an_answer_is_no_operation() -> None:
    side = Side()
    load, _ = make_load(side, 1)
    load.start()
    Deferred.fromCoroutine(load.measure(1.0))
    side.answer([OutcomeUnknown()])
    assert not load.latencies


def test_a_side_that_refuses_at_once_is_not_asked_in_a_tight_loop() -> None:
    clock, asked = Clock(), []

    def refuse(place: int, is_read: bool, command: list[Any]) -> Deferred[Any]:
        asked.append(place)
        return fail(NotLeader("n2", None))

    load = Load(clock, refuse, operations("write", 64, 1), 3, clock.seconds)
    load.start()
    assert asked == [0, 1, 2]


def test_a_stop_waits_for_the_last_answer_and_begins_nothing() -> None:
    side = Side()
    load, clock = make_load(side, 3)
    load.start()
    stopped: list[None] = []
    load.stop().addCallback(stopped.append)
    side.answer()
    side.open.pop(0)[1].errback(OutcomeUnknown())
    assert not stopped
    side.answer()
    assert (stopped, side.open, clock.getDelayedCalls()) == ([None], [], [])


def test_operations_are_as_the_workloads_say() -> None:
    side = Side()
    writes = operations("write", 100, 7)
    load = Load(Clock(), side.issue, writes, PREPARED)
    load.start()
    assert all(command[0] == "set" and len(command[2]) == 100 for command in side.commands)
    assert {len(command[1]) for command in side.commands} == {KEY_BYTES}
    assert len({command[1] for command in side.commands}) > 0.7 * KEYS
    assert operations("read", 64, 7).reads == b"\1"
    mixed = operations("mixed", 64, 7)
    assert 0.88 < sum(mixed.reads) / PREPARED < 0.92
    # Zipf: the first key is drawn far more often than the thousandth.
    first, thousandth = keys()[0], keys()[999]
    assert mixed.keys.count(first) > 50 * max(1, mixed.keys.count(thousandth))
    with pytest.raises(InvariantViolated):
        operations("scan", 64, 7)


def test_the_state_of_large_values_stays_within_memory() -> None:
    for size in (64, *SIZES):
        names = keys(size)
        assert set(operations("write", size, 1).keys) <= set(names)
        assert len(names) * size <= 64 << 20
    assert len(keys(64)) == KEYS


def test_percentiles_are_by_rank() -> None:
    found = summary(array("d", [number / 1000 for number in range(1000, 0, -1)]), 2.0)
    assert found == {
        "ops_per_second": 500.0,
        "p50_ms": 501.0,
        "p99_ms": 991.0,
        "p999_ms": 1000.0,
        "max_ms": 1000.0,
    }
    assert summary(array("d"), 1.0)["ops_per_second"] == 0.0


def test_the_names_are_those_of_the_published_workloads() -> None:
    names = [each.name for each in WORKLOADS]
    assert names == "W0 W1 W2 W3i W3n W4p W4c W4f W4l W5 W6 W7 W8r W8b W8s W9 W10 W10c".split()


def test_a_short_name_stands_for_all_that_begin_so() -> None:
    assert [each.name for each in chosen(["w3", "W1", "W3i"])] == ["W3i", "W3n", "W1"]


def test_a_name_of_digits_is_not_taken_for_the_beginning_of_another() -> None:
    assert [each.name for each in chosen(["w4"])] == ["W4p", "W4c", "W4f", "W4l"]
    assert [each.name for each in chosen(["W10"])] == ["W10"]
    assert [each.name for each in chosen(["W1"])] == ["W1"]


def test_numbers_replace_a_workloads_own() -> None:
    (one,) = chosen(["W1"], [7, 9], [128])
    assert one.points() == [(7, 128), (9, 128)]


def test_large_values_are_outstanding_within_a_clients_bound() -> None:
    (sizes,) = chosen(["W5"])
    assert all(count * size <= 8 << 20 for count, size in sizes.points())
    assert [size for _, size in sizes.points()] == list(SIZES)


@pytest.mark.parametrize(
    ("names", "outstanding", "value_bytes"),
    [(["W11"], [], []), (["W1"], [0], []), (["W1"], [10**9], []), (["W1"], [], [1 << 30])],
)
def test_what_cannot_be_measured_is_refused(
    names: list[str], outstanding: list[int], value_bytes: list[int]
) -> None:
    with pytest.raises(BadConfiguration):
        chosen(names, outstanding, value_bytes)


def test_wrong_numbers_are_a_wrong_command_line() -> None:
    assert Numbers().convert("1,16", None, None) == (1, 16)
    assert run(["bench", "W1", "--outstanding", "many"]) == 2
    assert run(["bench", "W99"]) == 1


def test_what_needs_nodes_of_its_own_is_refused_on_a_running_cluster() -> None:
    names = [each.name for each in loadable(chosen([]), named=False)]
    assert names == "W1 W2 W3n W4p W4c W4f W4l W5 W6".split()
    # What overloads a cluster that others use, is measured only where it is named.
    assert [each.name for each in loadable(chosen(["W10", "W10c"]), named=True)] == ["W10", "W10c"]
    for name in "W0 W3i W7 W8r W8b W8s W9".split():
        with pytest.raises(click.UsageError, match=f"{name}: .* needs a cluster of its own"):
            loadable(chosen([name]), named=True)


@pytest.mark.parametrize(
    "words",
    [
        ["-e", "tcp:127.0.0.1:1", "W7"],
        ["-e", "tcp:127.0.0.1:1", "--directory", "somewhere"],
        ["--allow-plaintext", "W1"],
    ],
)
def test_what_is_of_no_meaning_for_a_running_cluster_is_a_wrong_command_line(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["bench", *words]) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_cluster_is_loaded_only_where_the_command_line_names_it() -> None:
    """The variable that other commands take their endpoints from may name one in production."""
    from raft.cli.bench import bench

    (option,) = (each for each in bench.params if each.name == "endpoints")
    assert not option.envvar


def test_help_names_every_workload() -> None:
    from raft.cli.bench import bench

    text = CliRunner().invoke(bench, ["--help"]).output
    for each in WORKLOADS:
        assert each.text in text


def test_writes_that_nobody_synced_are_no_figures() -> None:
    idle = {"syncs": 0, "entries": 0, "entries_per_sync": 0.0}
    busy = {"syncs": 9, "entries": 90, "entries_per_sync": 10.0}
    run_of = lambda *nodes: {  # noqa: E731
        "ops_per_second": 1.0,
        "nodes": {str(number): node for number, node in enumerate(nodes)},
    }
    rows.require_durable([run_of(busy, busy, idle)], 3)
    with pytest.raises(InvariantViolated, match="no majority"):
        rows.require_durable([run_of(busy, idle, idle)], 3)


def test_what_a_span_took_is_told_by_node_and_process() -> None:
    counted = rows.synced({"n1": (10, 100, 20, 3)}, {"n1": (20, 600, 70, 3)}, 2.0)
    assert counted["n1"] == {
        "syncs": 10,
        "syncs_per_second": 5.0,
        "entries": 500,
        "entries_per_sync": 50.0,
        "entries_per_save": 10.0,
    }
    assert rows.synced({}, {"n1": (10, 100, 20, 3)}, 2.0) == {}
    # One that began meanwhile counts from there.
    begun = rows.synced({"n1": (90, 900, 90, 3)}, {"n1": (10, 100, 20, 3)}, 2.0, {"n1"})
    assert begun["n1"]["syncs"] == 10
    before = {"node1": Usage(1.0, 5, 6), "load1": Usage(2.0, 7, 8)}
    after = {"node1": Usage(2.0, 50, 60), "load1": Usage(2.5, 70, 80)}
    told = rows.used(before, after, 2.0, {"node1": "leader", "load1": "load"}, 1000.0)
    assert [each["role"] for each in told.values()] == ["leader", "load"]
    assert (told["node1"]["cpu_seconds"], told["node1"]["us_per_operation"]) == (1.0, 500.0)
    # The load is no part of what a node needs.
    assert rows.most_resident(told) == 50


def test_what_nobody_tells_is_null_and_no_zero() -> None:
    roles = {"n1": "leader", "load1": "load"}
    told = rows.used({}, {"n1": Usage(2.0, 50, 60)}, 2.0, roles, 1000.0)
    # Of another machine's process that was silent before, the CPU of the span is not known.
    assert (told["n1"]["cpu_seconds"], told["n1"]["resident_bytes"]) == (None, 50)
    assert set(told["load1"].values()) == {"load", None}
    run_of = {"processes": told, "nodes": {}}
    row = rows.over_runs([run_of])
    assert (row["us_per_operation"], row["syncs"], row["entries_per_sync"]) == (None, None, None)
    began = rows.used({}, {"n1": Usage(2.0, 50, 60, 77)}, 2.0, {"n1": "leader"}, 1000.0)
    assert began["n1"]["cpu_seconds"] == 2.0


def test_a_line_has_medians_of_its_runs_and_their_spread() -> None:
    runs = []
    for rate, cpu in ((900.0, 1.0), (1000.0, 2.0), (1100.0, 4.0)):
        used = rows.used(
            {"n1": Usage(0.0, 1, 2, 7)}, {"n1": Usage(cpu, 1, 2, 7)}, 1.0, {"n1": "leader"}, rate
        )
        counted = rows.synced({"n1": (0, 0, 0, 1)}, {"n1": (10, 100, 20, 1)}, 1.0)
        latencies = dict.fromkeys(rows.LATENCIES, 1.0)
        figures = {"ops_per_second": rate, "failures": {}, "elections": 0, **latencies}
        runs.append(figures | {"processes": used, "nodes": counted})
    row = rows.row_of(WORKLOADS[1], 16, 64, runs, 1)
    assert (row["ops_per_second"], row["spread"], row["syncs"]) == (1000.0, 0.2, 30)
    assert row["processes"]["n1"]["cpu_seconds"] == 2.0
    assert row["nodes"]["n1"]["entries_per_sync"] == 10.0


def test_memory_that_poses_as_a_disk_is_told() -> None:
    assert "memory" in durability({"filesystem": "tmpfs", "fdatasync_p50_ms": 0.0})
    assert "synced to ext4" in durability({"filesystem": "ext4", "fdatasync_p50_ms": 0.2})


def test_the_system_is_asked_for_what_processes_use(tmp_path: Path) -> None:
    used = usage(os.getpid())
    assert used is not None
    assert used.most_resident_bytes >= used.resident_bytes > 1 << 20
    assert usage(1 << 30) is None
    told = facts.machine(tmp_path)
    assert told["cores"] == os.cpu_count()
    assert list(tmp_path.iterdir()) == []


def processes_naming(directory: Path) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if str(directory) in words:
            found.append(words)
    return found


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="finds processes in /proc")
def test_real_clusters_are_measured_and_nothing_is_left(tmp_path: Path) -> None:
    """A process of its own: `react` owns a reactor's whole life."""
    import subprocess
    import sys

    import raft

    command = [sys.executable, "-c", "from raft.cli.main import main; main()", "bench"]
    # A socket's path may not be so long.
    place = tmp_path / ("long " * 20)
    place.mkdir()
    options = ["W0", "W2", "W4l", "W7", "W10c", "--runs", "1", "--seconds", "0.3", "--warm-up", "0"]
    ended = subprocess.run(
        [*command, *options, "--kills", "1", "--json", "--directory", str(place)]
        + ["--outstanding", "10", "--connections", "4", "--load-processes", "2"],
        env={**os.environ, "PYTHONPATH": str(Path(raft.__file__).parent.parent)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [row["workload"] for row in lines] == ["W0", "W2", "W4l", "W7", *["W10c"] * 5]
    assert [line["at"] for line in lines[4:]] == [None, 0.5, 1.0, 2.0, 4.0]
    assert all(line["details"]["offered_per_second"] > 0 for line in lines[5:])
    asked = "workload outstanding value_bytes ops_per_second p50_ms p99_ms p999_ms runs".split()
    for row in lines:
        assert {*asked, "spread", "syncs", "entries_per_sync", "machine"} <= row.keys()
        assert all(each["resident_bytes"] > 1 << 20 for each in row["processes"].values())
        assert len(row["nodes"]) == 3
    for row in lines[:3]:
        assert row["ops_per_second"] > 0
        assert row["outstanding"] == 10
        assert 0 < row["p50_ms"] <= row["p99_ms"] <= row["p999_ms"] <= row["max_ms"]
        roles = [used["role"] for used in row["runs"][0]["processes"].values()]
        assert (roles.count("leader"), roles.count("follower")) == (1, 2)
    assert lines[0]["syncs_per_second"] > 0
    assert [used["role"] for used in lines[1]["runs"][0]["processes"].values()].count("load") == 2
    assert lines[3]["p50_ms"] > 0
    assert list(place.iterdir()) == []
    assert processes_naming(tmp_path) == []
