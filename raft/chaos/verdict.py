"""What a cluster must have kept through all of it, looked at once everything is healed."""

from __future__ import annotations

import json
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from attrs import Factory, define
from twisted.internet.utils import getProcessOutputAndValue

from raft.chaos.clients import Notes
from raft.chaos.stage import Stage
from raft.client import RaftClient
from raft.errors import RaftError
from raft.interfaces import Value
from raft.testing.processes import NodeProcess, Status

PAGE: Final = 10_000
READ_SECONDS: Final = 20.0
DESCRIPTORS: Final = 48
"""The most that a node without clients has open: its log, its doors and its peers."""

DESCRIPTORS_SECONDS: Final = 15.0
CHECK_SECONDS: Final = 60
IDLE_OPERATIONS: Final = 20
"""Who began so many operations in a run must have seen one done."""

DIFFERING: Final = 3
"""So often nodes that have applied the same entries are seen with different digests."""

_FORBIDDEN = re.compile(
    r"^.*(Traceback \(most recent call last\)|InvariantViolated|Unhandled error).*$", re.MULTILINE
)


async def found_under(client: RaftClient, prefix: str) -> dict[str, Value]:
    """Return all pairs whose key begins with `prefix`, in pages of one moment each.

    Raises:
        RaftError: they cannot be read.
    """
    found: dict[str, Value] = {}
    last: list[Value] = []
    while True:
        pairs: Any = await client.read(["scan", prefix, PAGE, *last], READ_SECONDS)
        if not pairs:
            return found
        found.update(pairs)
        last = [pairs[-1][0]]


async def equal(stage: Stage, seconds: float) -> list[str]:
    """Wait until all nodes are in the same state; return what keeps them from it."""
    deadline, differing = time.monotonic() + seconds, 0
    while True:
        statuses = await stage.cluster.statuses(stage.cluster.nodes)
        states = {id: _state(status) for id, status in statuses.items()}
        applied = {state[:2] for state in states.values() if state is not None}
        if None not in states.values() and len(applied) == 1:
            if len(set(states.values())) == 1:
                return []
            differing += 1
        if differing >= DIFFERING or time.monotonic() > deadline:
            told = ", ".join(f"{id} {state or 'silent'}" for id, state in states.items())
            return [f"the nodes are not equal: {told} (applied, last, digest)"]
        await stage.sleep(0.1)


def _state(status: Status | None) -> tuple[object, object, object] | None:
    if status is None:
        return None
    return status["last_applied"], status["last_index"], status["digest"]


async def kept(client: RaftClient, notes: Notes) -> list[str]:
    """Return what of the ledger is lost or false."""
    try:
        found = await found_under(client, notes.prefix)
    except RaftError as error:
        return [f"the keys of {notes.phase} cannot be read: {error!r}"]
    return notes.differences(found)


def idle(asked: Counter[str], done: Counter[str]) -> list[str]:
    """Return which clients asked often and got nothing done: of them all else proves nothing."""
    return [
        f"client {name} has begun {count} operations, and none was done"
        for name, count in sorted(asked.items())
        if count >= IDLE_OPERATIONS and not done[name]
    ]


@define
class Judgement:
    """What `raft check` says of a history."""

    verdict: str
    operations: int = 0
    text: str = ""


async def judged(history: Path, picture: Path) -> Judgement:
    """Let `raft check` judge a history, in a process of its own."""
    if not history.exists():
        return Judgement("bad", 0, "nobody has written it")
    command = ["-c", "from raft.cli.main import main; main()", "check", str(history)]
    command += ["--budget", f"{CHECK_SECONDS}s", "--svg", str(picture), "--json"]
    out, err, code = await getProcessOutputAndValue(sys.executable, command, env=None)
    if code > 2:
        return Judgement("bad", 0, err.decode("utf-8", "replace").strip())
    told = json.loads(out)
    text = f"key {told['key']!r}, see {picture}" if told["key"] is not None else ""
    return Judgement(told["verdict"], told["operations"], text)


@define
class Logs:
    """The nodes' logs, each part of which is looked at once."""

    _seen: dict[Path, int] = Factory(dict)

    def complaints(self, nodes: Iterable[NodeProcess]) -> list[str]:
        """Return the lines that no log may have, of what was not looked at yet."""
        found = []
        for node in nodes:
            text = node.log
            start = self._seen.get(node.log_path, 0)
            self._seen[node.log_path] = len(text)
            found += [
                f"{node.log_path.name} says: {match[0].strip()[:200]}"
                for match in _FORBIDDEN.finditer(text, start)
            ]
        return found


async def descriptors_are_few(stage: Stage) -> list[str]:
    """Return which nodes keep more open than they need, with no client left."""
    deadline = time.monotonic() + DESCRIPTORS_SECONDS
    while True:
        counts = {
            node.id: descriptor_count(node.process.pid)
            for node in stage.cluster.nodes.values()
            if node.running and node.process is not None
        }
        many = [f"{id} has {count} open" for id, count in counts.items() if count > DESCRIPTORS]
        if not many or time.monotonic() > deadline:
            return many
        await stage.sleep(0.2)


def descriptor_count(pid: int) -> int:
    """Return how many descriptors a process has open; 0 where nothing tells."""
    try:
        return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return 0


def resident_bytes(pid: int) -> int:
    """Return how much memory a process has resident; 0 where nothing tells."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"^VmRSS:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
