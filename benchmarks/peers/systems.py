"""The systems that stand side by side: how each is started, loaded and ended.

Each is a class with `missing`, which says what is not there and how to get it, and `run`, which
measures one shape of load on a fresh cluster of three and returns its figures. Whatever is started
here is ended here.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Protocol

from attrs import frozen

HERE = Path(__file__).parent
START_SECONDS = 30.0
ANSWER_SECONDS = 60.0
HOST = "127.0.0.1"

Figures = dict[str, Any]


@frozen
class Shape:
    """One line: a workload of `raft bench`, and how the others are loaded alike.

    Attributes:
        workload: as `raft bench` names it.
        outstanding: operations under way, over all clients.
        value_bytes: the size of a value.
        clients: how many issue, for systems that are loaded from inside.
        connections: of systems that are loaded over sockets.
        inside: whether the load is inside the leader's process.
        reads: whether these are linearizable reads.
    """

    workload: str
    outstanding: int
    value_bytes: int = 64
    clients: int = 1
    connections: int = 1
    inside: bool = False
    reads: bool = False


@frozen
class Span:
    """How long load runs before it is measured, and how long it is, in seconds."""

    warm_up: float
    seconds: float


class CannotRun(Exception):
    """A system did not start, or its load ended with an error; the text says why."""


class System(Protocol):
    """One that stands side by side with the others.

    Attributes:
        name: as it calls itself.
        durable: whether what it answers is on the disks of a majority.
        workloads: what it is measured in; empty for all.
    """

    name: str
    durable: bool
    workloads: ClassVar[frozenset[str]]

    def missing(self) -> str:
        """Say what is not there, and how to get it; nothing where all is."""

    def run(self, shape: Shape, span: Span, place: Path) -> Figures:
        """Measure one shape on a fresh cluster whose files go into `place`."""


@contextmanager
def started(
    command: Sequence[str], place: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Run a process in the background; kill it in the end. Its errors go to a file in `place`."""
    with (place / "errors.log").open("a") as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=place,
            env={**os.environ, **(environment or {})},
        )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def first_line(process: subprocess.Popen[str], place: Path, seconds: float) -> Figures:
    """Return the first object that a process prints."""
    try:
        out, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        raise CannotRun(f"no figures within {seconds:.0f} s") from None
    lines = [line for line in out.splitlines() if line.startswith("{")]
    if not lines:
        raise CannotRun((place / "errors.log").read_text()[-300:].strip() or "no figures")
    found: Figures = json.loads(lines[0])
    return found


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listened on just now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((HOST, 0))
        return [each.getsockname()[1] for each in sockets]


class Ours:
    """This library, by `raft bench`."""

    name = "txraft"
    durable = True
    workloads: ClassVar[frozenset[str]] = frozenset()

    def missing(self) -> str:
        """Nothing can be."""
        return ""

    def run(self, shape: Shape, span: Span, place: Path) -> Figures:
        """Measure one shape."""
        words = [shape.workload, "--json", "--runs", "1", "--directory", str(place)]
        words += ["--seconds", str(span.seconds), "--warm-up", str(span.warm_up)]
        words += ["--value-bytes", str(shape.value_bytes), "--outstanding", str(shape.outstanding)]
        command = [sys.executable, "-c", "from raft.cli.main import main; main()", "bench", *words]
        with started(command, place) as process:
            return first_line(process, place, ANSWER_SECONDS + span.seconds)


class Etcd:
    """etcd: three processes with its defaults, loaded by its own Go client."""

    name = "etcd"
    durable = True
    workloads: ClassVar[frozenset[str]] = frozenset("W1 W2 W3n W4p W4c W4l".split())
    _load: Path | None = None

    def missing(self) -> str:
        """Say what is not there."""
        if shutil.which("etcd") is None:
            return "no etcd in PATH: install the package etcd-server"
        self._load, why = built("etcd_load", "golang-etcd-server-dev, or go.etcd.io/etcd 3.4")
        return why

    def run(self, shape: Shape, span: Span, place: Path) -> Figures:
        """Measure one shape."""
        ports = free_ports(6)
        clients = [f"http://{HOST}:{port}" for port in ports[:3]]
        peers = [f"http://{HOST}:{port}" for port in ports[3:]]
        cluster = ",".join(f"n{number}={peer}" for number, peer in enumerate(peers))
        with ExitStack() as stack:
            for number, (client, peer) in enumerate(zip(clients, peers, strict=True)):
                words = ["--name", f"n{number}", "--data-dir", str(place / f"n{number}")]
                words += ["--listen-client-urls", client, "--advertise-client-urls", client]
                words += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
                words += ["--initial-cluster", cluster, "--log-level", "error"]
                stack.enter_context(started(["etcd", *words], place))
            leader = self._leader(clients)
            words = ["--endpoint", leader, "--clients", str(shape.outstanding)]
            words += ["--connections", str(shape.connections)]
            words += ["--value-bytes", str(shape.value_bytes), *(["--reads"] * shape.reads)]
            words += ["--seconds", str(span.seconds), "--warm-up", str(span.warm_up)]
            load = stack.enter_context(started([str(self._load), *words], place))
            return first_line(load, place, ANSWER_SECONDS + span.seconds)

    def _leader(self, clients: Sequence[str]) -> str:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            for client in clients:
                request = urllib.request.Request(f"{client}/v3/maintenance/status", b"{}")
                try:
                    with urllib.request.urlopen(request, timeout=2) as answer:
                        status = json.load(answer)
                except OSError:
                    continue
                if status.get("leader", "0") == status["header"]["member_id"]:
                    return client
            time.sleep(0.1)
        raise CannotRun("no leader was elected")


class HashicorpRaft:
    """hashicorp/raft with BoltDB: three processes, loaded from inside the leader's."""

    name = "hashicorp/raft"
    durable = True
    workloads: ClassVar[frozenset[str]] = frozenset("W0 W3i W5".split())
    _node: Path | None = None

    def missing(self) -> str:
        """Say what is not there."""
        packages = "golang-github-hashicorp-raft-dev and -raft-boltdb-dev"
        self._node, why = built("hashicorp_node", packages)
        return why

    def run(self, shape: Shape, span: Span, place: Path) -> Figures:
        """Measure one shape."""
        addresses = ",".join(f"{HOST}:{port}" for port in free_ports(3))
        common = [str(self._node), "--addresses", addresses, "--directory", str(place)]
        # Its `Apply` may block until the leader takes the command: with several places in one
        # goroutine fewer than these would be under way.
        words = ["--loops", str(shape.outstanding), "--window", "1"]
        words += ["--value-bytes", str(shape.value_bytes)]
        words += ["--seconds", str(span.seconds), "--warm-up", str(span.warm_up)]
        with ExitStack() as stack:
            for number in (1, 2):
                stack.enter_context(started([*common, "--number", str(number)], place))
            load = stack.enter_context(started([*common, *words], place))
            return first_line(load, place, ANSWER_SECONDS + span.seconds)


class Ra:
    """rabbitmq/ra: three Erlang nodes, loaded from inside the leader's."""

    name = "rabbitmq/ra"
    durable = True
    workloads: ClassVar[frozenset[str]] = frozenset("W0 W3i W5".split())

    def missing(self) -> str:
        """Say what is not there."""
        if shutil.which("erl") is None or shutil.which("epmd") is None:
            return "no erl and epmd in PATH: install erlang-base and erlang-crypto"
        check = "halt(case code:ensure_loaded(ra) of {module, _} -> 0; _ -> 1 end)."
        if subprocess.run(["erl", "-noshell", "-eval", check], timeout=30, check=False).returncode:
            return "ERL_LIBS names no directory with ra, aten, gen_batch_server and seshat"
        compiling = ["erlc", "-o", os.environ["SIDE_BY_SIDE"], str(HERE / "ra_load.erl")]
        ended = subprocess.run(compiling, capture_output=True, text=True, timeout=60, check=False)
        return f"ra_load.erl does not compile: {ended.stdout[-200:]}" if ended.returncode else ""

    def run(self, shape: Shape, span: Span, place: Path) -> Figures:
        """Measure one shape."""
        (port,) = free_ports(1)
        own = {"ERL_EPMD_PORT": str(port), "ERL_EPMD_ADDRESS": HOST}
        names = [f"n{number}@{HOST}" for number in range(3)]
        script = ["erl", "-noshell", "-pa", os.environ["SIDE_BY_SIDE"], "-run", "ra_load", "main"]
        each = max(1, shape.outstanding // shape.clients)
        words = [str(number) for number in (shape.clients, each, shape.value_bytes)]
        words += [f"{span.warm_up:.3f}", f"{span.seconds:.3f}"]
        with ExitStack() as stack:
            stack.enter_context(started(["epmd"], place, own))
            for name in names[1:]:
                command = [*script, "follow", name, str(place / name)]
                stack.enter_context(started(command, place, own))
            lead = [*script, "lead", names[0], str(place / names[0]), ",".join(names[1:]), *words]
            load = stack.enter_context(started(lead, place, own))
            return first_line(load, place, ANSWER_SECONDS + span.seconds)


class PySyncObj:
    """PySyncObj: three processes, loaded from inside the leader's; it never syncs its journal."""

    name = "PySyncObj"
    durable = False
    workloads: ClassVar[frozenset[str]] = frozenset("W0 W3i".split())

    def missing(self) -> str:
        """Say what is not there."""
        return "" if find_spec("pysyncobj") else "pip install pysyncobj"

    def run(self, shape: Shape, span: Span, place: Path) -> Figures:
        """Measure one shape."""
        ports = ",".join(map(str, free_ports(3)))
        words = [ports, str(place), str(shape.outstanding), str(shape.value_bytes)]
        words += [str(span.warm_up), str(span.seconds)]
        with ExitStack() as stack:
            script = [sys.executable, str(HERE / "pysyncobj_node.py")]
            nodes = [
                stack.enter_context(started([*script, str(number), *words], place))
                for number in range(3)
            ]
            deadline = time.monotonic() + ANSWER_SECONDS + span.seconds
            while time.monotonic() < deadline:
                for node in nodes:
                    if node.poll() is not None:
                        return first_line(node, place, 5.0)
                time.sleep(0.05)
        raise CannotRun("nobody led")


class Pipe:
    """No Raft, but the limit: bare pipes of Twisted and fdatasync with the same copies."""

    name = "bare pipe"
    durable = True
    workloads: ClassVar[frozenset[str]] = frozenset({"W5"})

    def missing(self) -> str:
        """Nothing can be."""
        return ""

    def run(self, shape: Shape, span: Span, place: Path) -> Figures:
        """Measure one shape."""
        words = [str(shape.value_bytes), str(shape.outstanding), str(span.warm_up)]
        words += [str(span.seconds), str(place)]
        with started([sys.executable, str(HERE / "pipe.py"), *words], place) as process:
            return first_line(process, place, ANSWER_SECONDS + span.seconds)


def built(program: str, packages: str) -> tuple[Path | None, str]:
    """Compile a Go program of this directory for this run; return it, or why there is none."""
    if shutil.which("go") is None:
        return None, f"no go in PATH: install a Go toolchain, and {packages}"
    target = Path(os.environ["SIDE_BY_SIDE"]) / program
    command = ["go", "build", "-o", str(target), str(HERE / f"{program}.go")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if ended.returncode:
        why = ended.stderr.strip().splitlines()[-1][:200]
        return None, f"{program}.go does not compile ({why}): install {packages}"
    return target, ""


SYSTEMS: tuple[System, ...] = (Ours(), Etcd(), HashicorpRaft(), Ra(), PySyncObj(), Pipe())
