"""The command: what it refuses, what it finds, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.task import deferLater

from raft.cli.main import run

pytestmark = pytest.mark.integration

CONFIG = """
[node]
id = "a"
cluster = "mine"
data_directory = "a-data"
machine = "{machine}"

[listen]
peers = "127.0.0.1:7001"
clients = "127.0.0.1:8001"

[timings]
election_timeout = {election_timeout}
"""

FORGETFUL = '''
"""A machine that counts, and whose instances count differently; and what is asked of it."""

import itertools
import os

from zope.interface import implementer

from raft.interfaces import IStateMachine


@implementer(IStateMachine)
class Forgetful:
    machine_name = "forgetful"
    machine_version = 1

    def __init__(self):
        self.count = 0

    def apply(self, command, context):
        self.count += 1
        return self.count if {fault} else [self.count, os.getpid()]

    def query(self, query):
        return self.count

    def snapshot(self):
        return iter([str(self.count).encode()])

    def restore(self, chunks):
        self.count = int(b"".join(chunks))


def draw(chance):
    return chance.randrange(10)


def nothing(chance):
    raise KeyError("nothing to draw")
'''


def chaos(*arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `raft chaos`; `path` is where modules are found, too."""
    environment = dict(os.environ)
    if path is not None:
        environment["PYTHONPATH"] = f"{environment['PYTHONPATH']}:{path}"
    command = [sys.executable, "-c", "from raft.cli.main import main; main()", "chaos"]
    return subprocess.run(
        [*command, *arguments], capture_output=True, text=True, timeout=90, env=environment
    )


def config(tmp_path: Path, machine: str = "kv", election_timeout: float = 0.3) -> Path:
    path = tmp_path / f"{machine.partition(':')[0]}{election_timeout}.toml"
    path.write_text(CONFIG.format(machine=machine, election_timeout=election_timeout))
    path.chmod(0o644)
    return path


FAULTY = [
    (("--faults", "kill,burn"), "'burn' is no fault; there are kill, kill-all"),
    (("--minutes", "0"), "0"),
    (("--config", "none.toml"), "cannot be read"),
    (("--config", "kv0.3.toml", "--config", "kv2.0.toml"), "nodes of a cluster have the same"),
    (("--config", "echo0.3.toml"), "--commands: the machine is echo"),
    (("--commands", "forgetful:nothing"), "draws nothing (KeyError"),
    (("--commands", "nowhere:draw"), "set PYTHONPATH"),
]


@pytest.mark.parametrize(("arguments", "said"), FAULTY, ids=lambda each: each[-1])
def test_what_is_wrong_is_said_and_nothing_is_started(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    said: str,
) -> None:
    (tmp_path / "forgetful.py").write_text(FORGETFUL.format(fault="True"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for each in ((("kv", 0.3)), ("kv", 2.0), ("echo", 0.3)):
        config(tmp_path, *each)
    assert run(["chaos", "--directory", "runs", *arguments]) == 3
    told = capsys.readouterr().err
    assert told.startswith("raft: ")
    assert said in told
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif(
    "RAFT_CHAOS" not in os.environ, reason="a document runs one already; so does `tox -e chaos`"
)
def test_a_short_run_ends_well_and_leaves_nothing(tmp_path: Path) -> None:
    arguments = ("--minutes", "0.06", "--seed", "5", "--pace", "0.4", "--json")
    ended = chaos(*arguments, "--directory", str(tmp_path), "--config", str(config(tmp_path)))
    assert ended.returncode == 0, ended
    told = json.loads(ended.stdout)
    assert told["violations"] == []
    assert told["seed"] == 5
    assert told["outcomes"]["ok"] > 0
    assert told["judged"] > 0
    assert not list(tmp_path.glob("raft-chaos-*"))


@pytest.mark.slow
def test_nodes_that_differ_are_found_and_all_is_kept(tmp_path: Path) -> None:
    """I20, sc-SM3: results that are not the same on every server end a run with code 1."""
    (tmp_path / "forgetful.py").write_text(FORGETFUL.format(fault="False"))
    path = config(tmp_path, "forgetful:Forgetful")
    ended = chaos(
        *("--minutes", "0.05", "--faults", "transfer", "--commands", "forgetful:draw"),
        *("--config", str(path), "--directory", str(tmp_path)),
        path=tmp_path,
    )
    assert ended.returncode == 1, ended
    assert "WRONG     " in ended.stdout
    (kept,) = tmp_path.glob("raft-chaos-*")
    assert f"files     {kept}" in ended.stdout
    assert "again     raft chaos --minutes 0.05 --seed" in ended.stdout
    assert (kept / "node1.log").exists()
    assert "VIOLATION" in (kept / "events.log").read_text()


@pytest.mark.slow
@pytest.mark.deadline(60)
@pytest_twisted.ensureDeferred
async def test_nothing_outlives_an_interrupted_run(tmp_path: Path) -> None:
    """Also where the tests themselves run in the background, and the shell had them ignore it."""
    command = [sys.executable, "-c", "from raft.cli.main import main; main()", "chaos"]
    started = subprocess.Popen(
        [*command, "--directory", str(tmp_path), "--faults", "transfer"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        await until(lambda: list(tmp_path.glob("*/p1.history.jsonl")))
        started.send_signal(signal.SIGINT)
        out, err = started.communicate(timeout=30)
    finally:
        started.kill()
    assert started.returncode == 130, (out, err)
    assert "Traceback" not in err
    (kept,) = tmp_path.glob("raft-chaos-*")
    await until(lambda: not processes_of(kept))
    assert str(kept) not in Path("/proc/mounts").read_text()


async def until(holds: Callable[[], object], seconds: float = 30.0) -> None:
    from twisted.internet import reactor

    for _ in range(round(seconds / 0.05)):
        if holds():
            return
        await deferLater(reactor, 0.05)  # type: ignore[arg-type]
    raise AssertionError("it never came")


def processes_of(directory: Path) -> list[str]:
    """Return the command lines of processes that name this directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        if str(directory) in line:
            found.append(line)
    return found
