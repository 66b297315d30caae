"""The demo tells the truth, ends with 0, and leaves nothing behind however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.slow]

DEMO = [sys.executable, "-c", "from raft.cli.main import main; main()", "demo"]


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "HOME": str(home), "TMPDIR": str(home)}


def survivors(directory: Path) -> list[str]:
    """Return the command lines of the nodes whose file is in `directory`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"twistd" in b" ".join(words) and any(str(directory).encode() in each for each in words):
            found.append(b" ".join(words).decode())
    return found


def test_the_demo_ends_with_0_and_shows_what_it_promises(tmp_path: Path) -> None:
    ran = subprocess.run(
        [*DEMO, "--exit"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(tmp_path),
        cwd=tmp_path,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stderr == ""
    assert "\x1b" not in ran.stdout
    for promised in (
        "was elected",
        "named characters of Unicode",
        "SNOWMAN is U+2603",
        "writes were refused for",
        "leads now",
        "acknowledged writes are there",
    ):
        assert promised in ran.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_used_is_refused(tmp_path: Path) -> None:
    (tmp_path / "node1.toml").write_text("")
    ran = subprocess.run(
        [*DEMO, "--exit", "--directory", str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert ran.returncode == 1
    assert ran.stderr == (
        f"raft: {tmp_path}/node1.toml is there already; choose another directory\n"
    )


def test_a_demo_that_fails_says_why(tmp_path: Path) -> None:
    for id in ("node1", "node2"):
        (tmp_path / f"{id}-data").write_text("no directory")
    ran = subprocess.run(
        [*DEMO, "--exit", "--directory", str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
        timeout=40,
    )
    assert ran.returncode == 1
    (line,) = ran.stderr.splitlines()
    assert line.startswith("raft: the demo failed: only 1 of 3 nodes run; ")
    assert "is no directory: name the data directory itself" in line
    assert survivors(tmp_path) == []


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks into /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_node_survives_an_interrupted_demo(tmp_path: Path, number: signal.Signals) -> None:
    with (tmp_path / "out").open("wb") as out:
        demo = subprocess.Popen(
            [*DEMO, "--directory", str(tmp_path)],
            stdout=out,
            stderr=subprocess.STDOUT,
            # What a shell starts in the background ignores SIGINT, and so would its children.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
    try:
        wait_until(lambda: len(survivors(tmp_path)) == 3)
        demo.send_signal(number)
        code = demo.wait(20)
    finally:
        demo.kill()
        demo.wait()
    wait_until(lambda: not survivors(tmp_path))
    assert code == (-signal.SIGKILL if number == signal.SIGKILL else 130)
    assert "Traceback" not in (tmp_path / "out").read_text()


def wait_until(condition: object, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not happen"
        # Nothing here runs in the reactor; waiting for a process that never ends is a pause.
        subprocess.run(["sleep", "0.05"], check=True)
