"""What takes longer than an election timeout allows is measured and told."""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, globalLogPublisher

from raft.core.configuration import Member
from raft.core.progress import Progress
from raft.core.roles import Leader
from raft.machines.kv import KeyValueStore
from raft.node.leaderless import leaderless_reason
from raft.node.pulse import BEATS, QUIET_SECONDS, Pulse, better_timeout
from raft.service import RaftService
from raft.storage.files import RealFiles
from raft.storage.wal import WriteAheadLog
from tests.core.cluster import build, newcomer
from tests.node.running import Nodes, until

T = 0.4


class Lines:
    """What is logged while a test runs."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def of(self, level: LogLevel) -> list[str]:
        return [
            str(event["log_format"]).format_map(event)
            for event in self.events
            if event["log_level"] is level and event["log_namespace"].startswith("raft.")
        ]


@pytest.fixture
def lines() -> Iterator[Lines]:
    found = Lines()
    globalLogPublisher.addObserver(found.events.append)
    yield found
    globalLogPublisher.removeObserver(found.events.append)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    made = Nodes(tmp_path)
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.stop()))


def beating(clock: Clock, state: object = None, connected: bool = True) -> tuple[Pulse, Any]:
    """Return a pulse on a clock, and the shell that it looks at."""
    shell = SimpleNamespace(saving=SimpleNamespace(oldest=0), server=SimpleNamespace(state=state))
    node: Any = SimpleNamespace(
        id="a",
        clock=clock.seconds,
        reactor=clock,
        serves=True,
        shell=shell,
        network=SimpleNamespace(is_connected=lambda peer: connected),
        settings=SimpleNamespace(options=SimpleNamespace(election_timeout_seconds=T)),
    )
    pulse = Pulse(node)
    pulse.start()
    return pulse, shell


def test_what_is_in_time_is_not_told(lines: Lines) -> None:
    """A pulse of an idle node counts nothing."""
    clock = Clock()
    pulse, shell = beating(clock)
    for save in range(40):
        shell.saving.oldest = save % 3
        clock.advance(T / BEATS)
    assert (pulse.stalls.count, pulse.saves.count, pulse.silences.count) == (0, 0, 0)
    assert lines.of(LogLevel.warn) == []
    pulse.stop()
    assert clock.getDelayedCalls() == []


def test_a_process_that_stood_still_is_told_with_what_it_took(lines: Lines) -> None:
    """sc-P6."""
    clock = Clock()
    pulse, _ = beating(clock)
    clock.advance(3 * T)
    assert pulse.stalls.count == 1
    assert pulse.stalls.longest_seconds == pytest.approx(3 * T - T / BEATS)
    (line,) = lines.of(LogLevel.warn)
    assert "did nothing for 1.12 s" in line
    assert "the election timeout is 0.4 s" in line


def test_a_disk_that_is_too_slow_for_the_election_timeout_is_told(lines: Lines) -> None:
    """sc-K6: with what was measured, and an election timeout that would do."""
    clock = Clock()
    pulse, shell = beating(clock)
    shell.saving.oldest = 7
    for _ in range(6):
        clock.advance(T / BEATS)
    (line,) = lines.of(LogLevel.warn)
    assert "the disk has been at one save for 0.24 s" in line
    assert f"timings.election_timeout to {better_timeout(0.24):g}" in line
    assert pulse.saves.longest_seconds == pytest.approx(T)


def test_saves_that_follow_each_other_are_not_one_slow_save() -> None:
    clock = Clock()
    pulse, shell = beating(clock)
    for save in range(1, 30):
        shell.saving.oldest = save
        clock.advance(T / BEATS)
    assert pulse.saves.count == 0


@pytest.mark.parametrize(("connected", "answered", "counted"), [(1, 1, 1), (0, 1, 0), (1, 0, 0)])
def test_a_network_that_is_too_slow_for_the_election_timeout_is_told(
    connected: int, answered: int, counted: int, lines: Lines
) -> None:
    """sc-K6: of members that are connected, and have answered before."""
    clock = Clock()
    progress = Progress(1, 0.0, acked_sequence=answered)
    pulse, _ = beating(clock, Leader({"b": progress}, 1, math.inf), bool(connected))
    for _ in range(3):
        clock.advance(T / BEATS)
    assert pulse.silences.count == counted
    assert ["no answer for 0.24 s from b" in line for line in lines.of(LogLevel.warn)] == (
        [True] * counted
    )


def test_a_matter_is_told_once_in_a_while_and_counted_always(lines: Lines) -> None:
    """A fault that lasts does not fill the log."""
    clock = Clock()
    pulse, shell = beating(clock)
    shell.saving.oldest = 1
    beats = int(2.5 * QUIET_SECONDS / (T / BEATS))
    for _ in range(beats):
        clock.advance(T / BEATS)
    assert len(lines.of(LogLevel.warn)) == 3
    assert pulse.saves.count > beats / 2


class SlowQuery(KeyValueStore):
    """Thinks about each query for longer than an election timeout."""

    def query(self, query: Any) -> Any:
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            pass
        return super().query(query)


@pytest.mark.integration
@pytest_twisted.ensureDeferred
async def test_a_machine_that_blocks_the_reactor_shows_in_the_status(nodes: Nodes) -> None:
    """sc-P6: how long it stood still at most, and how often."""
    node = nodes.start("a", SlowQuery())
    await node.set_configuration([Member("a", "", "tcp:127.0.0.1:1")])
    await node.when_leader()
    assert node.status()["stall_count"] == 0
    await node.read(["get", "k"])
    await until(lambda: node.status()["stall_count"])
    assert float(str(node.status()["stall_longest_seconds"])) > 0.2


class HangingFiles(RealFiles):
    """Real files, but a sync waits while they are not open for syncs."""

    def __init__(self) -> None:
        super().__init__()
        self.open_for_syncs = threading.Event()
        self.open_for_syncs.set()

    def fdatasync(self, fd: int) -> None:
        self.open_for_syncs.wait(10)
        super().fdatasync(fd)


@pytest.mark.integration
@pytest_twisted.ensureDeferred
async def test_a_disk_that_hangs_shows_in_the_status(nodes: Nodes) -> None:
    """sc-K6: while it hangs, and not only afterwards."""
    files = HangingFiles()
    node = RaftService(
        nodes.settings("a"),
        KeyValueStore(),
        make_storage=lambda settings, _: WriteAheadLog(settings.data_directory, files),
    )
    nodes.all["a"] = node
    node.startService()
    await node.set_configuration([Member("a", "", "tcp:127.0.0.1:1")])
    await node.when_leader()
    written = node.write(["set", "k", 1])
    await written
    files.open_for_syncs.clear()
    held = node.write(["set", "k", 2])
    held.addErrback(lambda _: None)
    try:
        await until(lambda: node.status()["slow_save_count"])
    finally:
        files.open_for_syncs.set()


@pytest.mark.integration
@pytest_twisted.ensureDeferred
async def test_a_node_tells_what_it_read_and_where_its_file_and_its_log_differ(
    nodes: Nodes, lines: Lines
) -> None:
    """sc-K5, sc-O10."""
    node = nodes.start("a")
    here = Member("a", "", "tcp:127.0.0.1:1")
    await node.set_configuration([here])
    await node.when_leader()
    await node.write(["set", "k", 1])
    cluster_id = node.identity.cluster_id
    await nodes.stop()
    lines.events.clear()
    other = Member("b", "", "tcp:127.0.0.1:2")
    nodes.start("a", first_members=(here, other), cluster_id=cluster_id)
    (told,) = [line for line in lines.of(LogLevel.info) if "starts with" in line]
    assert re.match(r"a starts with (\d+) entries, up to \1, and a snapshot up to 0, read in", told)
    (warned,) = [line for line in lines.of(LogLevel.warn) if "in the log" in line]
    assert "b is tcp:127.0.0.1:2 in the file and no member in the log" in warned
    assert "The log decides" in warned


@pytest.mark.integration
@pytest_twisted.ensureDeferred
async def test_the_status_says_why_there_is_no_leader(nodes: Nodes) -> None:
    """sc-E6: no cluster, no majority in reach, or voters that refuse; nothing where one leads."""
    node = nodes.start("a")
    assert "belongs to no cluster" in str(node.status()["leaderless_reason"])
    b = nodes.start("b")
    await node.set_configuration([nodes.member(node), nodes.member(b)])
    await node.when_leader()
    assert node.status()["leaderless_reason"] == ""
    await b.stopService()
    await until(lambda: node.leader() is None)
    await until(
        lambda: (
            node.status()["leaderless_reason"]
            == "1 of 2 voters are in its reach, no majority; b is not"
        )
    )


def test_a_status_says_that_a_damaged_log_keeps_a_server_from_elections() -> None:
    """D1, sc-F28: it was told to found a cluster, or that it waits for others as any follower."""
    owed = "up to entry 6 of term 3 it stands for no election"
    for server, expected in (
        (newcomer("a", term=3, lost=(3, 6)), "its log was damaged: "),
        (build("a", [1, 1], term=3, lost=(3, 6)), "3 of 3 voters are in its reach; its log was"),
    ):
        network = SimpleNamespace(is_connected=lambda peer: True)
        node = SimpleNamespace(id="a", shell=SimpleNamespace(server=server), network=network)
        node.founding = SimpleNamespace(awaited=())
        reason = leaderless_reason(cast(RaftService, node))
        assert reason.startswith(expected)
        assert owed in reason
