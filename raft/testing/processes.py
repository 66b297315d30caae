"""A cluster of real `twistd raft` processes on this machine's loopback.

    cluster = ProcessCluster(directory)
    try:
        leader = await cluster.start()
        client = cluster.client()
        await client.write(["set", "a", 1])
        cluster.kill(leader)
        ...
    finally:
        await cluster.stop()

What the demo, the benchmark and the integration tests stand upon. The nodes are what an operator
would start: files as `raft init` writes them, and `twistd` on each. Only processes that were
started here are ever signalled, by their process id.

Nodes do not outlive who started them: `stop` ends them in good order, `destroy` at once, and
leaving the interpreter calls `destroy`. On Linux the kernel also kills them when their parent is
killed; elsewhere a parent that is killed with SIGKILL leaves them running.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from attrs import Factory, define
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from raft.cli.init import CLIENTS_ABOVE_PEERS, HTTP_ABOVE_PEERS, Place, content, places, write_file
from raft.client import RaftClient
from raft.errors import BadConfiguration, NoSuchNode, RaftError, Timeout
from raft.testing.ports import HOST, free_base_port

Found = TypeVar("Found")
Status = dict[str, object]

PORTS_ABOVE: Final = (0, CLIENTS_ABOVE_PEERS, HTTP_ABOVE_PEERS)
"""A node's ports, as `raft init` spreads them above the base port."""

POLL_SECONDS: Final = 0.02
ASK_SECONDS: Final = 0.5
"""How long a node may take to tell its status before it counts as silent."""

STOP_SECONDS: Final = 5.0
"""How long nodes may take to end in good order before they are killed."""

_PR_SET_PDEATHSIG = 1
_C_LIBRARY = ctypes.CDLL(None) if sys.platform == "linux" else None


@define(eq=False)
class NodeProcess:
    """One node: its files, and its process if one was started.

    Attributes:
        place: its id, host and ports.
        config_path: its node.toml.
        log_path: where its process writes; each start appends.
        data_directory: its log, snapshots and identity.
        process: the last one that was started, running or not; None before the first.
        arguments: what twistd is told; to run the node of `config_path` by default.
        program: the command that runs twistd.
    """

    place: Place
    config_path: Path
    log_path: Path
    data_directory: Path
    process: subprocess.Popen[bytes] | None = None
    arguments: list[str] = Factory(
        lambda self: ["raft", "--config", str(self.config_path)], takes_self=True
    )
    program: list[str] = Factory(lambda: twistd())

    @property
    def id(self) -> str:
        """The server's id."""
        return self.place.id

    @property
    def address(self) -> str:
        """The client address, an endpoint string."""
        return self.place.clients

    @property
    def running(self) -> bool:
        """Whether its process has not ended; a stopped one (SIGSTOP) counts as running."""
        return self.process is not None and self.process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """The exit code, minus the signal's number where one ended it, or None."""
        return None if self.process is None else self.process.poll()

    @property
    def log(self) -> str:
        """All that its processes have written so far."""
        return self.log_path.read_text("utf-8", "replace") if self.log_path.exists() else ""

    def start(self, limits: Callable[[], object] | None = None) -> None:
        """Start its process and return at once; nothing where one runs.

        `limits` runs in the new process before the node does, for a test's `setrlimit`.
        """
        if not self.running:
            command = [*self.program, "-n", "--pidfile=", *self.arguments]
            self.process = start_process(command, self.log_path, limits)

    def signal(self, number: int) -> None:
        """Send a signal to its process; nothing where it has ended."""
        if self.process is not None:
            # Popen knows whether the process was waited for: a reused id is never signalled.
            self.process.send_signal(number)

    def destroy(self) -> None:
        """Kill its process and wait until it is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


class ProcessCluster:
    """Nodes of one cluster, each a process of its own, on free ports of the loopback.

    Attributes:
        directory: holds the nodes' files, logs and data directories.
        nodes: by id: `node1`, `node2`, and so on.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        size: int = 3,
        *,
        machine: str = "kv",
        cluster: str = "demo",
        settings: Mapping[str, object] | None = None,
        base_port: int | None = None,
        reactor: Any = None,
        dialled: Callable[[Place], Place] = lambda place: place,
    ) -> None:
        """Write the nodes' files into `directory`, which is made if need be; start nothing.

        Args:
            directory: where everything goes; files of nodes must not be there yet.
            size: how many nodes.
            machine: what is replicated, as `node.machine` has it.
            cluster: the cluster's name.
            settings: what differs from the defaults, the same on every node, by key:
                `{"snapshot_entries": 1000, "election_timeout": 1.0}`.
            base_port: node n listens for peers on the port n above it; chosen where None.
            reactor: the global one where it is None.
            dialled: returns a place with the addresses at which a node is dialled, where these
                are not those at which it listens.

        Raises:
            FileExistsError: there are node files already.
            BadConfiguration: a setting is not in the files, or no ports are free.
        """
        if reactor is None:
            from twisted.internet import reactor
        self.directory = Path(directory).absolute()
        self.directory.mkdir(parents=True, exist_ok=True)
        everyone = places(
            size, free_base_port(size, PORTS_ABOVE) if base_port is None else base_port, [HOST]
        )
        self.nodes: dict[str, NodeProcess] = {}
        members = [dialled(place) for place in everyone]
        for place, member in zip(everyone, members, strict=True):
            path = self.directory / f"{place.id}.toml"
            start = f"twistd -n --pidfile= raft --config {path}"
            text = content(member, members, cluster, machine, start)
            write_file(path, with_settings(text, settings or {}))
            self.nodes[place.id] = self._node(place, path)
        self._reactor = reactor
        self._asking: RaftClient | None = None
        atexit.register(self.destroy)

    def _node(self, place: Place, config_path: Path) -> NodeProcess:
        return NodeProcess(
            place,
            config_path=config_path,
            log_path=self.directory / f"{place.id}.log",
            data_directory=self.directory / f"{place.id}-data",
        )

    # -- Life --------------------------------------------------------------------------------

    async def start(self, timeout_seconds: float = 30.0) -> str:
        """Start every node that does not run; return the leader's id once there is one.

        Raises:
            Timeout: no leader was elected; the text has the ends of the nodes' logs.
        """
        self.start_processes()
        return await self.wait_for_leader(timeout_seconds)

    def start_processes(self) -> None:
        """Start every node that does not run, and wait for nothing."""
        for node in self.nodes.values():
            node.start()

    async def stop(self, timeout_seconds: float = STOP_SECONDS) -> dict[str, int | None]:
        """End every node by SIGTERM, and by SIGKILL what has not ended in time.

        Returns:
            The exit codes by id; None for a node that was never started.
        """
        try:
            self.terminate()
            deadline = time.monotonic() + timeout_seconds
            while self.running and time.monotonic() < deadline:
                await deferLater(self._reactor, POLL_SECONDS)
        finally:
            self.destroy()
        if self._asking is not None:
            await self._asking.close()
            self._asking = None
        return {id: node.exit_code for id, node in self.nodes.items()}

    def terminate(self) -> None:
        """Tell every node to end; one that is stopped (SIGSTOP) hears it when it is killed."""
        for node in self.nodes.values():
            node.signal(signal.SIGTERM)

    def destroy(self) -> None:
        """Kill every node at once and wait until they are gone. Again: nothing."""
        for node in self.nodes.values():
            node.signal(signal.SIGKILL)
        for node in self.nodes.values():
            node.destroy()
        atexit.unregister(self.destroy)

    # -- One node ----------------------------------------------------------------------------

    def node(self, id: str) -> NodeProcess:
        """Return the node `id`; raise NoSuchNode where there is none."""
        try:
            return self.nodes[id]
        except KeyError:
            raise NoSuchNode(f"{id!r}; the nodes are {', '.join(self.nodes)}") from None

    def kill(self, id: str, number: int = signal.SIGKILL) -> None:
        """Send a signal, by default SIGKILL, and after SIGKILL wait until the process is gone."""
        node = self.node(id)
        node.signal(number)
        if number == signal.SIGKILL:
            node.destroy()

    def pause(self, id: str) -> None:
        """Stop the process where it stands (SIGSTOP); its connections stay open."""
        self.node(id).signal(signal.SIGSTOP)

    def resume(self, id: str) -> None:
        """Let a paused process go on (SIGCONT)."""
        self.node(id).signal(signal.SIGCONT)

    async def restart(self, id: str, timeout_seconds: float = 30.0) -> Status:
        """Kill the node if it runs, start it, and return its status once it answers.

        Raises:
            Timeout: it does not answer, or ended; the text has the end of its log.
        """
        node = self.node(id)
        node.destroy()
        node.start()

        async def answers() -> Status | None:
            if not node.running:
                raise self._silent(f"{id} ended with code {node.exit_code}", [node])
            return await self.status(id)

        return await self.until(answers, timeout_seconds, f"{id} does not answer", [node])

    @property
    def running(self) -> list[str]:
        """The ids of the nodes whose process has not ended."""
        return [id for id, node in self.nodes.items() if node.running]

    # -- Questions ---------------------------------------------------------------------------

    @property
    def addresses(self) -> list[str]:
        """The client addresses of all nodes."""
        return [node.address for node in self.nodes.values()]

    def client(self, **options: Any) -> RaftClient:
        """Return a client that knows all nodes; closing it is yours. Options as `RaftClient`."""
        return RaftClient(self.addresses, reactor=self._reactor, **options)

    async def status(self, id: str, timeout_seconds: float = ASK_SECONDS) -> Status | None:
        """Return what node `id` says of itself, or None where it does not answer in time."""
        if not self.node(id).running:
            return None
        if self._asking is None:
            self._asking = self.client(
                timeout_seconds=timeout_seconds, connect_timeout_seconds=timeout_seconds
            )
        try:
            return await self._asking.status(self.nodes[id].address, timeout_seconds)
        except RaftError:
            return None

    async def statuses(self, ids: Iterable[str] | None = None) -> dict[str, Status | None]:
        """Return what nodes say of themselves, asked at once; of all that run by default."""
        asked = list(self.running if ids is None else ids)
        asking = [Deferred.fromCoroutine(self.status(id)) for id in asked]
        # Who waits may be cancelled, and each of these fails then.
        found = await gatherResults(asking, consumeErrors=True)
        return dict(zip(asked, found, strict=True))

    async def wait_for_leader(
        self, timeout_seconds: float = 30.0, other_than: str | None = None
    ) -> str:
        """Return the id of the leader once one leads, and a majority knows it.

        Raises:
            Timeout: none was elected in time, or too few nodes run to elect one.
        """
        majority = len(self.nodes) // 2 + 1

        async def led() -> str | None:
            running = self.running
            if len(running) < majority:
                raise self._silent(f"only {len(running)} of {len(self.nodes)} nodes run")
            known = [each for each in (await self.statuses(running)).values() if each]
            for each in known:
                follows = [other for other in known if _term_and_leader(other) == _led_by(each)]
                if each["role"] == "leader" and len(follows) >= majority:
                    return str(each["id"])
            return None

        async def another() -> str | None:
            leader = await led()
            return leader if leader != other_than else None

        return await self.until(another, timeout_seconds, "no leader was elected")

    async def wait_until_equal(
        self, index: int = 0, timeout_seconds: float = 30.0
    ) -> dict[str, Status]:
        """Return the statuses of all nodes once all have applied the same entries.

        Equal are: the last applied index, which is at least `index` and each node's whole
        log, and the digest of all that was applied.

        Raises:
            Timeout: they did not become equal; the text has how far each is.
        """
        told = ""

        async def equal() -> dict[str, Status] | None:
            nonlocal told
            found = await self.statuses(self.nodes)
            known = {id: each for id, each in found.items() if each}
            told = ", ".join(f"{id} {_progress(each)}" for id, each in known.items())
            states = {_progress(each) for each in known.values()}
            if len(known) < len(self.nodes) or len(states) > 1:
                return None
            each = next(iter(known.values()))
            applied, last = each["last_applied"], each["last_index"]
            return known if applied == last and _number(applied) >= index else None

        try:
            return await self.until(equal, timeout_seconds, "the nodes differ")
        except Timeout as error:
            raise Timeout(False, f"{error.args[0]}; {told or 'no node answers'}") from error

    async def until(
        self,
        ask: Callable[[], Awaitable[Found | None]],
        timeout_seconds: float,
        otherwise: str,
        nodes: Iterable[NodeProcess] | None = None,
    ) -> Found:
        """Return what `ask` returns as soon as that is something.

        Raises:
            Timeout: it never was; the text is `otherwise` and the ends of the logs of `nodes`,
                which are all by default.
        """
        deadline = time.monotonic() + timeout_seconds
        while True:
            if found := await ask():
                return found
            if time.monotonic() >= deadline:
                raise self._silent(f"{otherwise} within {timeout_seconds:g} s", nodes)
            await deferLater(self._reactor, POLL_SECONDS)

    def _silent(self, what: str, nodes: Iterable[NodeProcess] | None = None) -> Timeout:
        chosen = self.nodes.values() if nodes is None else nodes
        ends = [f"{node.id}: {line}" for node in chosen for line in node.log.splitlines()[-3:]]
        return Timeout(False, "; ".join([what, *ends]))


def start_process(
    command: list[str], log_path: Path, limits: Callable[[], object] | None = None
) -> subprocess.Popen[bytes]:
    """Start `command` beside its log, to which it appends; it does not outlive this process."""
    parent = os.getpid()

    def prepare() -> None:
        _die_with(parent)
        if limits is not None:
            limits()

    with log_path.open("ab") as log, warnings.catch_warnings():
        # From 3.12 on Python warns of a fork beside threads; `prepare` takes no lock of theirs.
        warnings.simplefilter("ignore", DeprecationWarning)
        return subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=log_path.parent,
            # A Ctrl-C in the terminal is for whoever started the processes, not for them.
            start_new_session=True,
            preexec_fn=prepare,
        )


def twistd() -> list[str]:
    """Return the command that runs twistd with this interpreter."""
    script = Path(sys.executable).parent / "twistd"
    if script.is_file():
        return [sys.executable, str(script)]
    return [sys.executable, "-c", "from twisted.scripts.twistd import run; run()"]


def with_settings(text: str, settings: Mapping[str, object]) -> str:
    """Return a file of `raft init` in which the defaults named in `settings` are replaced.

    Raises:
        BadConfiguration: the file has no such line.
    """
    for key, value in settings.items():
        shown = str(value).lower() if isinstance(value, bool) else str(value)
        line = f'{key} = "{value}"' if isinstance(value, str) else f"{key} = {shown}"
        pattern = re.compile(rf"^(# )?{re.escape(key)} = .*$", re.MULTILINE)
        text, count = pattern.subn(lambda _, line=line: line, text)  # type: ignore[misc]
        if count != 1:
            raise BadConfiguration(f"settings: {key!r} stands {count} times in a node's file")
    return text


def _die_with(parent: int) -> None:
    """Let the kernel kill this process when `parent` ends; runs between fork and exec."""
    if _C_LIBRARY is not None:
        _C_LIBRARY.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            # It ended before the kernel was told.
            os._exit(1)


def _led_by(status: Status) -> tuple[object, object]:
    return status["term"], status["id"]


def _term_and_leader(status: Status) -> tuple[object, object]:
    return status.get("term"), status.get("leader")


def _progress(status: Status) -> tuple[object, object]:
    return status.get("last_applied"), status.get("digest")


def _number(value: object) -> int:
    return value if isinstance(value, int) else -1
