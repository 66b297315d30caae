"""Nodes of a real cluster, and bytes of someone who has no business with them.

What a listener refuses is shown elsewhere in memory; here it is shown what it costs a process.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from raft.cli.init import CLIENTS_ABOVE_PEERS, HTTP_ABOVE_PEERS
from raft.client import RaftClient
from raft.testing.processes import NodeProcess, ProcessCluster
from raft.transport.boxes import encode_box
from tests.fuzz import corpora
from tests.fuzz.oracle import fields
from tests.fuzz.wire_targets import BETWEEN

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.deadline(120)]

FLOOD_BYTES = 262 << 20
"""What stock AMP takes of one box, and grows by."""
GROWTH_BYTES = 8 << 20
"""How much a node may grow by while it is flooded, all of its ports together."""
IDLE = 300
"""Connections to each port that say nothing, or next to nothing."""
SEND_SECONDS = 20.0


def resident_bytes(node: NodeProcess) -> int:
    """Return the largest resident size that the node's process ever had."""
    assert node.process is not None
    status = Path(f"/proc/{node.process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


def descriptors(node: NodeProcess) -> int:
    assert node.process is not None
    return len(list(Path(f"/proc/{node.process.pid}/fd").iterdir()))


Door = tuple[str, int]


def doors(node: NodeProcess) -> dict[str, Door]:
    """Return where a node listens: for peers, for clients, and for HTTP."""
    place = node.place
    ports = {"peers": 0, "clients": CLIENTS_ABOVE_PEERS, "http": HTTP_ABOVE_PEERS}
    return {name: (place.host, place.port + above) for name, above in ports.items()}


def flood(door: Door, chunk: bytes) -> int:
    """Send `chunk` again and again until the other side closes; return how many bytes left."""
    sent = 0
    with socket.create_connection(door, SEND_SECONDS) as one:
        while sent < FLOOD_BYTES:
            try:
                sent += one.send(chunk)
            except (ConnectionError, TimeoutError):
                break
    return sent


ENDLESS_BOX = encode_box([(b"%d" % number, bytes(60_000)) for number in range(4)])[:-2]
MANY_KEYS = encode_box([(b"%d" % number, b"") for number in range(6000)])[:-2]


@pytest.mark.parametrize("chunk", [ENDLESS_BOX, MANY_KEYS], ids=["box", "keys"])
@pytest_twisted.ensureDeferred
async def test_an_endless_box_is_cut_off_and_costs_next_to_nothing(
    shared: ProcessCluster, connect: Callable[..., RaftClient], chunk: bytes
) -> None:
    """SECURITY 13, 14, sc-N10: 262 MB for one box are refused at the bound, at every port."""
    leader = await shared.wait_for_leader()
    node = shared.node(leader)
    before = resident_bytes(node)
    for name, door in doors(node).items():
        sent = flood(door, chunk)
        # What the two kernels hold counts as sent, besides the largest question of a client.
        assert sent < 20 << 20, name
    assert resident_bytes(node) - before < GROWTH_BYTES
    await connect(shared).write(["set", "flooded", 1], 20.0)
    assert (await shared.status(leader) or {}).get("malformed_count", 0) >= 2


def corpus_boxes() -> list[bytes]:
    """Return what the search has found to reach code of its own, as bytes on a connection."""
    found = []
    for target in ("peers", "questions", "answers"):
        for octets in corpora.kept(target):
            boxes = [fields(box) for box in octets[1:].split(BETWEEN)]
            found += [octets[1:], b"".join(encode_box(box) for box in boxes)]
    return [*found, *(octets[1:] for octets in corpora.kept("http"))]


@pytest_twisted.ensureDeferred
async def test_a_leader_leads_on_whatever_bytes_it_is_sent(
    shared: ProcessCluster, connect: Callable[..., RaftClient]
) -> None:
    """SECURITY 17, sc-N11, sc-O7: nothing changes but the counters, and the log hardly grows."""
    leader = await shared.wait_for_leader()
    node = shared.node(leader)
    before = await shared.status(leader)
    assert before is not None
    log_bytes = len(node.log)
    inputs = corpus_boxes()
    assert len(inputs) > 100
    for octets in inputs:
        for door in doors(node).values():
            with socket.create_connection(door, SEND_SECONDS) as one:
                one.setblocking(False)
                one.send(octets[:60_000] or b"\0")
    client = connect(shared)
    await client.write(["set", "after", 1], 20.0)

    async def counted() -> bool:
        status = await shared.status(leader) or {}
        return status.get("malformed_count", 0) > before["malformed_count"] + len(inputs) // 2

    await shared.until(counted, 30.0, "malformed connections are not counted")
    after = await shared.status(leader)
    assert after is not None
    assert (after["term"], after["role"]) == (before["term"], "leader")
    assert "Traceback" not in node.log
    assert len(node.log) - log_bytes < 64 * 1024


@pytest_twisted.ensureDeferred
async def test_hundreds_of_connections_that_say_nothing_keep_nobody_out(
    make_cluster: Callable[..., ProcessCluster], connect: Callable[..., RaftClient]
) -> None:
    """SECURITY 11, 12, 15, sc-N19: a member that restarts is let in, and so are clients."""
    cluster = make_cluster()
    await cluster.start()
    leader = await cluster.wait_for_leader()
    node = cluster.node(leader)
    before = descriptors(node)
    opened: list[socket.socket] = []
    places = doors(node)

    def crowd() -> None:
        """Let there be as many as ever, and let half of them say a byte."""
        for each in opened:
            each.close()
        opened.clear()
        for number in range(IDLE):
            for door in places.values():
                one = socket.socket()
                one.setblocking(False)
                one.connect_ex(door)
                opened.append(one)
            if number % 2:
                for one in opened[-3:]:
                    trickle(one)

    try:
        crowd()
        follower = next(id for id in cluster.nodes if id != leader)
        cluster.kill(follower)
        await cluster.restart(follower)
        for one in opened:
            trickle(one)
        fresh = connect(cluster)
        await fresh.write(["set", "in the crowd", 1], 30.0)
        crowd()

        async def rejoined() -> bool:
            status = await cluster.status(leader) or {}
            members: Any = status.get("members", ())
            return all(member["connected"] for member in members) and len(members) == 3

        await cluster.until(rejoined, 30.0, "a member does not get in")
        await fresh.write(["set", "still", 1], 30.0)
        assert await fresh.read(["get", "still"], 30.0) == 1
        assert fetched(places["http"]).startswith(b"HTTP/1.1 200")
        # 64 silent ones of peers, 64 at the HTTP door, and those of clients for 5 s.
        assert descriptors(node) < before + 2 * 64 + 2 * IDLE + 20
    finally:
        for each in opened:
            each.close()
    await cluster.wait_until_equal()
    assert "Traceback" not in node.log


def trickle(one: socket.socket) -> None:
    try:
        one.send(b"\0")
    except OSError:
        return


def fetched(door: Door) -> bytes:
    """Ask the HTTP door for the node's health."""
    deadline = time.monotonic() + SEND_SECONDS
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(door, 5.0) as one:
                one.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
                if answer := one.recv(4096):
                    return answer
        except OSError:
            continue
    return b""
