"""The HTTP door, over real sockets: what it tells, and what it refuses [SECURITY 28 to 33]."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from attrs import evolve
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol

from raft.core.configuration import Member
from raft.errors import BadConfiguration, StorageFailed
from raft.machines.kv import KeyValueStore
from raft.node.guard import Judgement
from raft.node.settings import NodeSettings
from raft.ops import http
from raft.service import RaftService
from tests.node.running import until

pytestmark = pytest.mark.integration

SECRET = "canary-2f81"

Get = Callable[..., Any]


class Collected(Protocol):
    """Sends what it is given and collects all that comes until the other end closes."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.received = b""
        self.ended: Deferred[bytes] = Deferred(lambda _: self.transport.abortConnection())

    def connectionMade(self) -> None:
        self.transport.write(self.request)

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Any = None) -> None:
        if not self.ended.called:
            self.ended.callback(self.received)


class Answer:
    def __init__(self, received: bytes) -> None:
        head, _, self.body = received.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        self.status = int(first.split()[1]) if first else 0
        self.headers = {
            name.lower(): value for name, value in (line.split(": ", 1) for line in lines)
        }

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def connected(node: RaftService, request: bytes) -> Collected:
    from twisted.internet import reactor

    assert node.ops is not None
    assert node.ops.port is not None
    port = node.ops.port.getHost().port
    collected = Collected(request)
    await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port), collected)
    return collected


async def fetch(
    node: RaftService,
    path: str,
    method: str = "GET",
    host: str | None = "localhost",
    more: bytes = b"",
) -> Answer:
    named = "" if host is None else f"Host: {host}\r\n"
    request = f"{method} {path} HTTP/1.1\r\n{named}Connection: close\r\n".encode()
    collected = await connected(node, request + (more or b"\r\n"))
    return Answer(await collected.ended)


@pytest.fixture
def make_node(tmp_path: Path) -> Iterator[Callable[..., RaftService]]:
    """Start nodes with an HTTP door; clusters of one unless told otherwise."""
    made: list[RaftService] = []

    def make(**changes: Any) -> RaftService:
        settings = NodeSettings(
            id="n1",
            data_directory=str(tmp_path / "n1"),
            peer_endpoint="tcp:0:interface=127.0.0.1",
            http_endpoint="tcp:0:interface=127.0.0.1",
            first_members=(Member("n1", "", "tcp:node1.example:7001", "tcp:shop.example:8001"),),
            cluster_id="c" * 32,
        )
        node = RaftService(evolve(settings, **changes), KeyValueStore())
        node.startService()
        made.append(node)
        return node

    yield make
    for node in made:
        pytest_twisted.blockon(node.stopService())


@pytest.fixture
def node(make_node: Callable[..., RaftService]) -> RaftService:
    """A cluster of one that leads itself and has a secret applied."""
    made = make_node()
    pytest_twisted.blockon(made.when_leader())
    pytest_twisted.blockon(made.write(["set", SECRET, SECRET]))
    # The configuration with its own incarnation is the last entry that comes by itself.
    pytest_twisted.blockon(Deferred.fromCoroutine(until(lambda: is_settled(made))))
    return made


def is_settled(node: RaftService) -> bool:
    server = node.shell.server
    (member,) = server.configuration.members
    return bool(member.incarnation) and node.replica.last_applied == server.log.last_index


async def test_a_node_with_a_leader_is_healthy(node: RaftService) -> None:
    answer = await fetch(node, "/health")
    assert answer.status == 200
    assert answer.json == {"id": "n1", "healthy": True, "leader": "n1", "reason": ""}


async def test_a_node_without_a_leader_is_not_healthy(
    make_node: Callable[..., RaftService],
) -> None:
    waiting = make_node(first_members=(), cluster_id="")
    answer = await fetch(waiting, "/health")
    assert (answer.status, answer.json["reason"]) == (503, "it knows no leader")


async def test_a_node_that_failed_says_so_as_long_as_its_process_lives(node: RaftService) -> None:
    node.shell.fail(StorageFailed("the disk is gone"))
    await node.ended
    answer = await fetch(node, "/health")
    assert answer.status == 503
    assert "the disk is gone" in answer.json["reason"]
    metrics = await fetch(node, "/metrics")
    assert samples(metrics)["raft_failed", ""] == 1


async def test_the_status_page_is_the_status(node: RaftService) -> None:
    told = (await fetch(node, "/status")).json
    known = node.status()
    for status in (told, known):
        del status["uptime_seconds"], status["cluster_time"]  # type: ignore[attr-defined]
    assert told == json.loads(http.as_json(known))


def samples(answer: Answer) -> dict[tuple[str, str], float]:
    return {
        (sample.name, ",".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
    }


def calls_of(function: Callable[[], object]) -> int:
    """Return how many functions are called in one call of `function`."""
    counted = 0

    def count(_frame: object, event: str, _: object) -> None:
        nonlocal counted
        counted += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(None)
    return counted


async def test_a_status_costs_the_same_however_large_log_and_state_are(node: RaftService) -> None:
    """sc-O9: it may be asked for at any time, so it walks over nothing that grows."""

    def status() -> object:
        return http.as_json(node.status())

    status()
    before = calls_of(status)
    assert before > 100
    for start in range(0, 3000, 500):
        await gatherResults([node.write(["set", f"k{n}", n]) for n in range(start, start + 500)])
    # Whatever a turn had left to be told by now is a few calls.
    assert abs(calls_of(status) - before) < before / 5


async def test_metrics_are_what_prometheus_reads(node: RaftService) -> None:
    answer = await fetch(node, "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    told, status = samples(answer), node.status()
    assert told["raft_term", ""] == status["term"]
    assert told["raft_commit_index", ""] == status["commit_index"]
    assert told["raft_last_applied_index", ""] == status["last_applied"]
    assert told["raft_entries_total", ""] == status["entry_count"]
    assert told["raft_syncs_total", ""] == status["sync_count"]
    assert told["raft_leader_changes_total", ""] == 1
    assert told["raft_role", "leader"] == 1
    assert told["raft_role", "follower"] == 0
    assert told["raft_leader", "n1"] == 1
    assert told["raft_match_index", "n1"] >= told["raft_commit_index", ""]
    assert told["process_resident_memory_bytes", ""] > 0


async def test_a_node_whose_state_has_diverged_says_so(node: RaftService) -> None:
    """sc-SM4: on every page, as long as its process lives."""
    told = samples(await fetch(node, "/metrics"))
    assert told["raft_compared_index", ""] >= 0
    assert told["raft_disputed_index", ""] == 0
    node._set_aside(Judgement(5, True, 6, 1, 2, ("n2", "n3")))
    told = samples(await fetch(node, "/metrics"))
    assert told["raft_failed", ""] == 1
    assert told["raft_diverged_index", "n1"] == 5
    assert (await fetch(node, "/health")).status == 503
    status = (await fetch(node, "/status")).json
    assert (status["role"], status["diverged"]) == ("diverged", {"n1": 5})
    assert "from entry 5 on" in status["failure"]


async def test_refused_commands_are_counted(make_node: Callable[..., RaftService]) -> None:
    waiting = make_node(first_members=(), cluster_id="")
    refused = [waiting.write(["set", "a", number]) for number in range(3)]
    for each in refused:
        with pytest.raises(Exception, match="lead"):
            await each
    answer = await fetch(waiting, "/metrics")
    assert samples(answer)["raft_proposals_refused_total", ""] == 3


async def test_the_front_page_names_the_others_and_the_rest_is_not_there(node: RaftService) -> None:
    front = await fetch(node, "/")
    for path in ("/health", "/status", "/metrics"):
        assert path.encode() in front.body
    for path in ("/nothing", "/status/", "/metrics/x", "//status", "/%2e%2e/etc/passwd"):
        assert (await fetch(node, path)).status == 404


async def test_a_head_has_the_headers_of_a_get_and_no_body(node: RaftService) -> None:
    head, get = await fetch(node, "/", "HEAD"), await fetch(node, "/")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == get.headers["content-length"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "X"])
async def test_nothing_but_get_and_head_is_answered(node: RaftService, method: str) -> None:
    answer = await fetch(node, "/status", method, more=b"Content-Length: 2\r\n\r\n{}")
    assert answer.status == 405
    assert answer.headers["allow"] == "GET, HEAD"
    assert b"n1" not in answer.body


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "LOCALHOST:9001", "127.0.0.1", "127.0.0.1:1", "[::1]:80"),
        *("node1.example:9", "shop.example"),
    ],
)
async def test_a_nodes_own_names_are_answered(node: RaftService, host: str) -> None:
    assert (await fetch(node, "/health", host=host)).status == 200


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "localhost.evil.example", "evil.example:127.0.0.1", "localhost@evil"),
        *("", "10.0.0.1", "[::1", "localhost evil", "xlocalhost"),
    ],
)
async def test_other_names_are_misdirected(node: RaftService, host: str) -> None:
    """A page elsewhere may make its own name point here; it must not read the answer."""
    answer = await fetch(node, "/status", host=host)
    assert answer.status == 421
    assert b"n1" not in answer.body


async def test_a_request_has_exactly_one_host(node: RaftService) -> None:
    none = await fetch(node, "/status", host=None)
    two = await fetch(node, "/status", host="localhost\r\nHost: evil.example")
    for answer in (none, two):
        assert answer.status in (400, 421)
        assert b"n1" not in answer.body


@pytest.mark.parametrize("path", ["/", "/health", "/status", "/metrics", "/nothing"])
async def test_every_answer_tells_browsers_to_run_nothing(node: RaftService, path: str) -> None:
    headers = (await fetch(node, path)).headers
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"


async def test_no_page_holds_a_command(node: RaftService) -> None:
    for path in ("/", "/health", "/status", "/metrics", f"/{SECRET}"):
        assert SECRET.encode() not in (await fetch(node, path)).body


async def test_an_unforeseen_error_shows_nothing_of_itself(
    node: RaftService, monkeypatch: pytest.MonkeyPatch, logged_errors: Any
) -> None:
    def broken() -> dict[str, object]:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(node, "status", broken)
    answer = await fetch(node, "/status")
    assert answer.status == 500
    assert answer.headers["x-content-type-options"] == "nosniff"
    for word in (SECRET.encode(), b"Traceback", b".py", b"RuntimeError"):
        assert word not in answer.body
    assert len(logged_errors.flush(RuntimeError)) == 1


async def test_who_sends_a_large_body_is_cut_off(node: RaftService) -> None:
    body = b"x" * (http.MOST_BODY_BYTES + 1)
    answer = await fetch(node, "/", "POST", more=b"Content-Length: 999999\r\n\r\n" + body)
    assert answer.status == 0


async def test_a_host_that_is_no_text_is_refused(node: RaftService) -> None:
    """SECURITY 28, 31: it was an error of the server, with a traceback in its log each time."""
    collected = await connected(
        node, b"GET /health HTTP/1.1\r\nHost: localhos\x90\xf2\r\nConnection: close\r\n\r\n"
    )
    assert Answer(await collected.ended).status == 421


async def test_headers_are_bounded(node: RaftService) -> None:
    answer = await fetch(node, "/health", more=b"X: " + b"x" * 20_000 + b"\r\n\r\n")
    assert answer.status != 200


async def test_connections_are_bounded_and_the_oldest_makes_room(
    node: RaftService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SECURITY 12, sc-N19: who opens many and says nothing does not keep a monitor out."""
    monkeypatch.setattr(http, "MOST_CONNECTIONS", 3)
    silent = [await connected(node, b"GET / HT") for _ in range(8)]
    assert (await fetch(node, "/health")).status == 200
    await gatherResults([each.ended for each in silent[:6]])
    open_ones = [each for each in silent if not each.ended.called]
    assert len(open_ones) <= 2
    for each in open_ones:
        each.transport.loseConnection()
        await each.ended


async def test_a_silent_connection_is_closed(
    make_node: Callable[..., RaftService], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "IDLE_SECONDS", 0.05)
    silent = await connected(make_node(), b"GET / HT")
    await silent.ended


async def test_a_stop_closes_the_door_and_who_stands_in_it(node: RaftService) -> None:
    silent = await connected(node, b"")
    # It is in the server's account once something else was answered.
    await fetch(node, "/health")
    await node.stopService()
    await silent.ended
    assert node.ops is None


async def test_a_taken_port_ends_the_start(
    node: RaftService, make_node: Callable[..., RaftService], tmp_path: Path
) -> None:
    assert node.ops is not None
    assert node.ops.port is not None
    taken = f"tcp:{node.ops.port.getHost().port}:interface=127.0.0.1"
    with pytest.raises(BadConfiguration, match=r"listen\.http"):
        make_node(http_endpoint=taken, data_directory=str(tmp_path / "other"))


def test_plaintext_beyond_this_machine_needs_leave(make_node: Callable[..., RaftService]) -> None:
    with pytest.raises(BadConfiguration, match="other machines"):
        make_node(http_endpoint="tcp:9001")


def test_a_node_without_the_setting_has_no_door(make_node: Callable[..., RaftService]) -> None:
    assert make_node(http_endpoint="").ops is None
