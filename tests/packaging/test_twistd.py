"""`twistd raft`: found, checked before anything starts, and honest in its exit code."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.task import deferLater
from twisted.internet.testing import MemoryReactorClock
from twisted.python import usage

from raft import tap

pytestmark = [pytest.mark.integration, pytest.mark.deadline(60)]

NODE = """
[node]
id = "n1"
cluster = "shop"
data_directory = "n1-data"
machine = "machines_for_twistd:Machine"

[listen]
peers = "unix:/nowhere/peers.sock"
clients = "unix:/nowhere/clients.sock"
"""

MACHINE = """
from zope.interface import implementer
from raft.interfaces import IStateMachine

@implementer(IStateMachine)
class Machine:
    def apply(self, command, context): ...
    def query(self, query): ...
    def snapshot(self): ...
    def restore(self, chunks): ...
"""

DRIVER = """
import sys
sys.path.insert(0, {directory!r})
from twisted.application.service import MultiService
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from raft import errors, tap

class Failing(MultiService):
    def __init__(self):
        super().__init__()
        self.ended = Deferred()

    def startService(self):
        {body}

tap.make_node = lambda config, reactor, **_: Failing()
from twisted.scripts.twistd import run
sys.argv = ["twistd", *{arguments!r}]
run()
"""


@pytest.fixture
def node(tmp_path: Path) -> Path:
    (tmp_path / "machines_for_twistd.py").write_text(MACHINE)
    path = tmp_path / "node.toml"
    path.write_text(NODE)
    path.chmod(0o600)
    return path


@pytest.fixture
def running(node: Path) -> Iterator[Path]:
    """A file with sockets that can be opened: their paths must be short."""
    with TemporaryDirectory(prefix="raft") as sockets:
        text = NODE.replace("/nowhere", sockets).replace("n1-data", "d")
        node.write_text(text.replace("machines_for_twistd:Machine", "echo"))
        yield node


def driver(directory: Path, body: str, *arguments: str) -> str:
    """Return a program that runs twistd with a node whose start is `body`."""
    return DRIVER.format(directory=str(directory), body=body, arguments=arguments)


async def gone(path: Path) -> None:
    """Wait until the file is gone: the parent may end before its daemon has cleaned up."""
    from twisted.internet import reactor

    while path.exists():
        await deferLater(reactor, 0.01)  # type: ignore[arg-type]


@pytest_twisted.ensureDeferred
async def test_twistd_lists_the_command(programs: Any) -> None:
    program = programs.twistd("--help")
    assert await program.ended == 0
    assert "raft             Run a node of a replicated state machine." in program.out
    assert "Traceback" not in program.err


@pytest_twisted.ensureDeferred
async def test_the_options_are_explained(programs: Any) -> None:
    program = programs.twistd("raft", "--help")
    assert await program.ended == 0
    assert "--config=" in program.out


@pytest_twisted.ensureDeferred
async def test_a_missing_option_is_a_usage_error(programs: Any) -> None:
    program = programs.twistd("-n", "raft")
    assert await program.ended == 1
    last = program.out.splitlines()[-1]
    assert last.endswith("--config is missing; give the node's file: -c node.toml")


@pytest_twisted.ensureDeferred
async def test_a_wrong_file_ends_twistd_with_one_line(programs: Any, node: Path) -> None:
    node.write_text(NODE.replace("[listen]", "[timings]\nheartbeat = -1\n[listen]"))
    program = programs.twistd("-n", "raft", "--config", "node.toml")
    assert await program.ended == 1
    assert program.err == (
        "raft: node.toml: timings.heartbeat: expected a number of seconds from 0.001 to 60, "
        "got -1; write it without a unit, such as 0.3\n"
    )
    assert program.out == ""
    assert not (node.parent / "twistd.pid").exists()


@pytest_twisted.ensureDeferred
async def test_a_good_file_runs_until_it_is_told_to_end(programs: Any, node: Path) -> None:
    # Only within its loop has the reactor taken over the signals.
    body = "reactor.callLater(0, print, 'runs by', reactor.seconds.__name__, flush=True)"
    program = programs.python("-c", driver(node.parent, body, "-n", "raft", "-c", "node.toml"))
    await program.wrote("runs by monotonic")
    program.transport.signalProcess("TERM")
    assert await program.ended == -15
    assert program.err == ""
    assert not (node.parent / "twistd.pid").exists()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            "raise errors.StorageFailed('the directory is in use')",
            "(the directory is in use)",
        ),
        ("raise OSError(98, 'Address already in use')", "[Errno 98] Address already in use"),
        (
            "reactor.callLater(0.01, tap.fatal, reactor, 'a late\\nfailure')",
            "a late failure",
        ),
    ],
    ids=["storage", "port", "late"],
)
@pytest_twisted.ensureDeferred
async def test_a_node_that_fails_ends_twistd_with_one_line_and_exit_code_1(
    programs: Any, node: Path, body: str, said: str
) -> None:
    program = programs.python("-c", driver(node.parent, body, "-n", "raft", "-c", "node.toml"))
    assert await program.ended == 1
    (line,) = program.err.splitlines()
    assert line.startswith("raft: ")
    assert said in line
    assert "Traceback" not in program.out
    assert not (node.parent / "twistd.pid").exists()


@pytest_twisted.ensureDeferred
async def test_the_parent_of_a_daemon_hears_of_its_failure(programs: Any, node: Path) -> None:
    """DESIGN, Life of a node: an exception in startService reaches the parent's exit code.

    sc-P13.
    """
    body = "raise OSError(98, 'Address already in use')"
    program = programs.python("-c", driver(node.parent, body, "raft", "-c", "node.toml"))
    assert await program.ended == 1
    assert "Address already in use" in program.err
    await gone(node.parent / "twistd.pid")


@pytest_twisted.ensureDeferred
async def test_two_nodes_cannot_share_a_data_directory(programs: Any, running: Path) -> None:
    """sc-P13, sc-F19: the second is told who has it, on its terminal and as a daemon."""
    first = programs.twistd("-n", "--pidfile=", "raft", "-c", "node.toml")
    await first.wrote("clients.sock'")
    second = programs.twistd("-n", "--pidfile=", "raft", "-c", "node.toml")
    assert await second.ended == 1
    expected = f"{running.parent / 'd'} is in use by process {first.transport.pid}: "
    assert second.err.startswith(f"raft: node.toml: {expected}")
    assert second.err.count("\n") == 1
    daemon = programs.twistd("--pidfile=d.pid", "--logfile=d.log", "raft", "-c", "node.toml")
    assert await daemon.ended == 1
    # As much of it as twistd lets through its pipe: a long path leaves no room for the rest.
    assert f"b'RuntimeError: {expected[:40]}" in daemon.err
    assert expected in (running.parent / "d.log").read_text()
    await gone(running.parent / "d.pid")
    first.transport.signalProcess("TERM")
    assert await first.ended == -15
    assert first.err == ""


@pytest_twisted.ensureDeferred
async def test_an_endpoint_in_use_ends_the_node_and_names_its_key(
    programs: Any, running: Path
) -> None:
    first = programs.twistd("-n", "--pidfile=", "raft", "-c", "node.toml")
    await first.wrote("clients.sock'")
    other = running.with_name("other.toml")
    other.write_text(running.read_text().replace('"d"', '"e"'))
    other.chmod(0o600)
    second = programs.twistd("-n", "--pidfile=", "raft", "-c", "other.toml")
    assert await second.ended == 1
    (line,) = second.err.splitlines()
    assert line.startswith("raft: other.toml: listen.peers: ")
    assert "Traceback" not in second.out
    first.transport.signalProcess("TERM")
    assert await first.ended == -15


def test_the_clock_of_a_reactor_with_delayed_calls_is_left_alone() -> None:
    reactor = MemoryReactorClock()
    reactor.callLater(1, lambda: None)
    before = reactor.seconds
    tap.use_monotonic_time(reactor)
    assert reactor.seconds == before


def test_the_options_refuse_to_go_on_without_a_file() -> None:
    with pytest.raises(usage.UsageError, match="give the node's file"):
        tap.Options().parseOptions([])


def test_a_started_process_is_not_walked_over_by_every_full_collection() -> None:
    """A full collection is a pause of the whole node, however little of it is garbage."""
    before = gc.get_freeze_count()
    kept = [[number] for number in range(1000)]
    try:
        tap.settle_heap()
        assert gc.get_freeze_count() >= before + len(kept)
    finally:
        gc.unfreeze()
