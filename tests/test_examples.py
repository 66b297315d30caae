"""The examples do what they say: each is run as its reader would run it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.utils import getProcessOutputAndValue

import raft
from raft import api
from raft.testing.ports import free_base_port
from raft.testing.processes import PORTS_ABOVE
from tests.node.running import until

pytestmark = [pytest.mark.integration, pytest.mark.deadline(40)]

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
RAFT = "from raft.cli.main import main; main()"
TWISTD = "from twisted.scripts.twistd import run; run()"


def environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), str(EXAMPLES)])
    return {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "error", **more}


async def run(directory: Path, *arguments: str) -> str:
    """Run Python with `arguments` in `directory`; return what it printed."""
    out, err, code = await getProcessOutputAndValue(
        sys.executable, arguments, env=environment(), path=str(directory)
    )
    assert code == 0, (out + err).decode()
    return str(out.decode())


@pytest_twisted.ensureDeferred
async def test_the_counter_counts(tmp_path: Path) -> None:
    printed = await run(tmp_path, str(EXAMPLES / "counter.py"))
    assert printed.splitlines() == ["[1, 3, 42]", "ok [42, 7.0]"]


@pytest_twisted.ensureDeferred
async def test_the_upgraded_counter_switches(tmp_path: Path) -> None:
    printed = await run(tmp_path, str(EXAMPLES / "upgraded_counter.py"))
    first, switch, second = printed.splitlines()
    assert (first, switch) == ("ok -5", "ok None")
    assert second.startswith("COMMAND_ERROR {'reason': 'negative'")


def test_the_guide_shows_the_upgraded_counter_as_it_is() -> None:
    (_, code, *_) = (ROOT / "docs" / "howto" / "upgrade.md").read_text().split("```")
    assert code.removeprefix("python\n") in (EXAMPLES / "upgraded_counter.py").read_text()


@pytest_twisted.ensureDeferred
async def test_the_client_talks_to_a_running_cluster(tmp_path: Path) -> None:
    names = await raft.test_cluster()
    try:
        ports: Any = [api._nodes[name].client_port for name in names]
        endpoints = [f"tcp:127.0.0.1:{port.getHost().port}" for port in ports]
        printed = await run(tmp_path, str(EXAMPLES / "client.py"), *endpoints)
        assert printed.splitlines() == ["hello", "swapped"]
        found = raft.leader(names[0])
        assert found is not None
        assert await raft.read(found, ["get", "greeting"]) == "goodbye"
    finally:
        for name in names:
            await raft.stop_node(name)


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Run the embedded application as twistd does, from a directory of its own."""
    base = str(free_base_port(1, PORTS_ABOVE))
    written = subprocess.run(
        [sys.executable, "-c", RAFT, "init", "nodes", "--nodes", "1", "--base-port", base],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        check=False,
    )
    assert written.returncode == 0, written.stderr.decode()
    (file,) = (tmp_path / "nodes").glob("*.toml")
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", TWISTD, "--pidfile=", "-ny", str(EXAMPLES / "embedded.tac")],
            cwd=tmp_path,
            env=environment(RAFT_CONFIG=str(file)),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    yield process, log
    if process.poll() is None:
        process.kill()
    process.wait()


@pytest_twisted.ensureDeferred
async def test_the_embedded_application_counts_its_starts(
    embedded: tuple[subprocess.Popen[bytes], Path],
) -> None:
    process, log = embedded

    def counted() -> bool:
        assert process.poll() is None, log.read_text()
        return "The cluster was led 1 times; read back: [1" in log.read_text()

    try:
        await until(counted, 20.0)
    except AssertionError:
        raise AssertionError(log.read_text()) from None
    process.terminate()
    await until(lambda: process.poll() is not None, 10.0)
    # As twistd ends: in good order, then by the signal.
    assert process.returncode == -signal.SIGTERM
    assert "Server Shut Down" in log.read_text()
