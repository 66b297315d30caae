"""`raft bench` on a cluster that runs already: measured, and left as it was found."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from raft.client import RaftClient
from raft.testing.processes import ProcessCluster

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.deadline(60)]

BENCH = [sys.executable, "-c", "from raft.cli.main import main; main()", "bench", "--runs", "1"]
QUICK = ["--seconds", "0.3", "--warm-up", "0", "--outstanding", "8", "--connections", "4"]


async def bench(cluster: ProcessCluster, *words: str) -> subprocess.CompletedProcess[str]:
    """Run it in a process of its own; the first node's address is all that it is told."""
    command = [*BENCH, *QUICK, "-e", cluster.addresses[0], *words]
    ended: subprocess.CompletedProcess[str] = await deferToThread(
        subprocess.run, command, capture_output=True, text=True, timeout=50, check=False
    )
    return ended


async def keys_of(client: RaftClient, prefix: str) -> Any:
    return await client.read(["scan", prefix, 10])


@pytest_twisted.ensureDeferred
async def test_a_running_cluster_is_measured_and_left_without_its_keys(
    shared: ProcessCluster, connect: Any
) -> None:
    client = connect(shared)
    await client.write(["set", "raft-bench", "somebody's own"])
    before: Any = await client.read(["count"])
    ended = await bench(shared, "W1", "W2", "W4f", "W10c", "--value-bytes", "64", "--json")
    assert ended.returncode == 0, ended.stderr
    assert "raft: keys begin with raft-bench-" in ended.stderr
    rows = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [row["workload"] for row in rows] == ["W1", "W2", "W4f", *["W10c"] * 5]
    for row in rows:
        assert row["ops_per_second"] > 0
        assert 0 < row["p50_ms"] <= row["p99_ms"] <= row["p999_ms"]
        roles = sorted(each["role"] for each in row["processes"].values())
        assert roles == ["follower", "follower", "leader", "load"]
        # The nodes are no children of the command: their own status tells what they use.
        assert all(each["resident_bytes"] > 1 << 20 for each in row["processes"].values())
        assert len(row["nodes"]) == 3
        assert row["machine"]["filesystem"] is None
    assert rows[0]["syncs"] > 0
    assert await client.read(["count"]) == before
    assert await client.read(["get", "raft-bench"]) == "somebody's own"


@pytest_twisted.ensureDeferred
async def test_an_interrupted_one_leaves_no_key_either(
    shared: ProcessCluster, connect: Any
) -> None:
    client = connect(shared)
    command = [*BENCH, "-e", shared.addresses[0], "W1", "--seconds", "60", "--outstanding", "8"]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:

        async def written() -> Any:
            return await keys_of(client, "raft-bench-")

        assert await shared.until(written, 30.0, "nothing was written")
        running.send_signal(signal.SIGINT)
        _, told = await deferToThread(running.communicate, timeout=45)
    finally:
        running.kill()
        running.wait()
    assert (running.returncode, "interrupted" in told) == (130, True), told
    assert await keys_of(client, "raft-bench-") == []


@pytest_twisted.ensureDeferred
async def test_another_machine_is_refused_in_one_line(make_cluster: Any) -> None:
    stack = make_cluster(size=1, machine="stack")
    await stack.start()
    ended = await bench(stack, "W1")
    assert ended.returncode == 1
    assert "the cluster's machine is not the key-value store" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest_twisted.ensureDeferred
async def test_nobody_there_is_told_in_one_line(tmp_path: Path) -> None:
    command = [*BENCH, "-e", f"unix:{tmp_path}/nobody", "W3n"]
    ended: Any = await deferToThread(
        subprocess.run, command, capture_output=True, text=True, timeout=50, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith("raft: bench: ")
    assert "Traceback" not in ended.stderr
