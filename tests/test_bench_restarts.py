"""`raft bench W8` and `W9`: what is told of long logs is what happened to real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import raft
from raft.bench.growth import disk_usage
from raft.cli.main import run


@pytest.mark.integration
@pytest.mark.slow
def test_restarts_catching_up_snapshots_and_growth_are_measured(tmp_path: Path) -> None:
    """A process of its own: `react` owns a reactor's whole life."""
    command = [sys.executable, "-c", "from raft.cli.main import main; main()", "bench"]
    options = ["W8", "W9", "--entries", "2000", "--megabytes", "1", "--growth", "3"]
    ended = subprocess.run(
        [*command, *options, "--sizes", "1", "--seconds", "0.5", "--warm-up", "0.1", "--json"]
        + ["--directory", str(tmp_path / "logs")],
        env={**os.environ, "PYTHONPATH": str(Path(raft.__file__).parent.parent)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [line["workload"] for line in lines] == ["W8r", "W8b", "W8s", "W8s", "W9"]
    restart, behind, _, install, growth = (line["details"] for line in lines)
    assert restart["entries"] >= 2000
    assert restart["ready_seconds"] >= restart["answers_seconds"] > 0
    assert behind["entries"] >= 2000
    assert behind["entries_per_second"] > 0
    assert install["sent_mb"] >= 1
    assert (growth["servers"], lines[4]["at"]) == (1, 1000)
    assert growth["last_index"] >= 1000
    assert list((tmp_path / "logs").iterdir()) == []


@pytest.mark.parametrize("sizes", ["0", "10", ",", "three"])
def test_clusters_of_no_size_are_a_wrong_command_line(sizes: str) -> None:
    assert run(["bench", "W9", "--sizes", sizes]) == 2


def test_a_directory_is_as_large_as_the_blocks_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "file").write_bytes(b"x" * 100_000)
    assert 100_000 <= disk_usage(tmp_path) < 300_000
    assert disk_usage(tmp_path / "none") == 0
