"""twistd raft: read the options, check the file, assemble the node.

This is the one module that knows all rooms. `makeService` only parses and checks; whatever
opens, locks or listens waits for `startService`, which twistd calls after it has forked and
dropped its privileges.

How a node ends: a wrong file ends twistd before anything starts; a failure while starting,
or later, goes through `fatal`. In each case one line says why, and the exit code is 1.
"""

from __future__ import annotations

import atexit
import gc
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any, ClassVar, NoReturn, cast

from twisted.application.service import IService, MultiService
from twisted.internet.interfaces import IReactorCore, IReactorTime
from twisted.logger import Logger
from twisted.python import usage

from raft.codec import Codec
from raft.config import LimitsTable, NodeConfig, make_machine, read_config
from raft.core.server import Options as ServerOptions
from raft.errors import BadConfiguration, RaftError
from raft.node.bounds import Bounds
from raft.node.settings import NodeSettings
from raft.service import RaftService
from raft.storage.records import SessionLimits
from raft.transport.clients import ClientLimits
from raft.usage import own_usage

FAILED_EXIT_CODE = 1
OPEN_FILES = 16_384
"""How many files and connections a node's process asks for: more than all its bounds allow."""

_log = Logger()


class Options(usage.Options):
    """The options of `twistd raft`; all else stands in the file."""

    synopsis = "--config node.toml"
    longdesc = (
        "Run one node of a replicated state machine. `raft init` writes a file to start from; "
        "docs/reference/configuration.md explains every line of it."
    )
    optParameters: ClassVar = [["config", "c", None, "The node's configuration file."]]
    optFlags: ClassVar = [
        ["hold", None, "Vote and replicate, and apply nothing: for raft skip (docs/howto/skip.md)."]
    ]

    def postOptions(self) -> None:
        """Refuse to go on without a file."""
        if not self["config"]:
            raise usage.UsageError("--config is missing; give the node's file: -c node.toml")


class NodeProcess(MultiService):
    """The process around one node: a node that cannot start ends the process, in one line."""

    def __init__(
        self, config: NodeConfig, reactor: Any, daemonized: bool = False, hold: bool = False
    ) -> None:
        """Assemble the node of `config`, to run in `reactor`.

        `daemonized` says that twistd's parent process waits to hear of an error; `hold` that the
        machine is to apply nothing.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self._config = config
        self._reactor = reactor
        self._daemonized = daemonized
        self._failed = False
        self.node = make_node(config, reactor, hold=hold)
        self.node.usage = own_usage
        self.node.setServiceParent(self)  # type: ignore[no-untyped-call]
        self.node.ended.addCallback(self._ended)

    def _ended(self, error: BaseException | None) -> None:
        """A node that stopped for a reason of its own takes its process with it."""
        if error is not None:
            self._fail(error)

    def startService(self) -> None:
        """Start the node; let no traceback of a foreseen failure reach the operator."""
        for warning in self._config.warnings:
            _log.warn("{path}: {warning}", path=str(self._config.path), warning=warning)
        try:
            super().startService()  # type: ignore[no-untyped-call]
        except (RaftError, OSError) as error:
            if self._daemonized:
                _log.critical("The node does not start: {reason}", reason=str(error))
                # twistd carries the class and about 80 characters of the text through a pipe to
                # its parent, which prints them and exits with 1: so both are kept short.
                raise RuntimeError(str(error)) from None
            self._fail(error)
        else:
            settle_heap()

    def _fail(self, error: BaseException) -> None:
        """End the process, once: a node that cannot start may tell it in two ways."""
        if not self._failed:
            self._failed = True
            fatal(self._reactor, f"{self._config.path}: {error}")


def session_limits_of(limits: LimitsTable) -> SessionLimits:
    """Return what sessions are bounded by, as a registration carries it."""
    return SessionLimits(
        timeout_us=round(limits.session_timeout * 1_000_000),
        sessions=limits.sessions,
        results=limits.session_results,
        results_bytes=limits.session_result_bytes,
    )


def settings_of(config: NodeConfig, hold: bool = False) -> NodeSettings:
    """Return what `config` tells a node, which may have to hold its machine."""
    timings, limits, listen = config.timings, config.limits, config.listen
    return NodeSettings(
        id=config.node.id,
        data_directory=str(config.node.data_directory),
        peer_endpoint=listen.peers,
        client_endpoint=listen.clients,
        http_endpoint=listen.http or "",
        peer_address=config.advertise.peers,
        first_members=config.first_configuration.members,
        cluster_id=config.cluster_id or "",
        forward=config.node.forward,
        allow_plaintext=listen.allow_plaintext,
        timeout_seconds=timings.request_timeout,
        hold=hold,
        segment_size_bytes=limits.segment_bytes,
        repair=config.node.repair,
        options=ServerOptions(
            heartbeat_seconds=timings.heartbeat,
            election_timeout_seconds=timings.election_timeout,
            max_uncommitted_bytes=limits.uncommitted_bytes,
            clock_drift_bound=timings.clock_drift,
        ),
        bounds=Bounds(
            queued_bytes=limits.uncommitted_bytes,
            snapshot_factor=limits.snapshot_factor,
            snapshot_floor_bytes=limits.snapshot_floor_bytes,
            snapshot_entries=limits.snapshot_entries,
            trailing_bytes=limits.trailing_bytes,
            snapshot_bytes_per_second=limits.snapshot_bytes_per_second,
        ),
        session_limits=session_limits_of(limits),
        client_limits=ClientLimits(
            # A question holds at most one command of the largest size, and what is around it.
            box_bytes=max(limits.command_bytes, 4 << 20) + (64 << 10),
            timeout_seconds=timings.request_timeout,
        ),
    )


def make_node(
    config: NodeConfig, reactor: Any, machine: object = None, *, hold: bool = False
) -> RaftService:
    """Assemble the node that `config` describes; start and open nothing.

    `machine` stands in for the one that the file names: for applications that make theirs. With
    `hold` it applies nothing (`NodeSettings.hold`).

    Raises:
        BadConfiguration: the machine is none.
    """
    if machine is None:
        machine = make_machine(config)
    codec = Codec(limit_bytes=config.limits.command_bytes)
    return RaftService(settings_of(config, hold), machine, reactor=reactor, codec=codec)


def makeService(options: Options) -> IService:
    """Check the file and return the service that twistd will start."""
    # Importing it installs it, so it waits until twistd has chosen one.
    from twisted.internet import reactor

    try:
        config = read_config(options["config"])
        # `twist` has no such option and never leaves its terminal.
        parent: Any = options.parent or {}
        daemonized = not parent.get("nodaemon", True)
        node = NodeProcess(config, reactor, daemonized, bool(options["hold"]))
    except BadConfiguration as error:
        refuse(str(error))
    use_monotonic_time(reactor)
    allow_open_files()
    return cast(IService, node)


def use_monotonic_time(reactor: Any) -> None:
    """Let `reactor` keep time by the monotonic clock, so that a wall clock's step moves nothing.

    Twisted's reactors keep wall time: set an hour forward, every election timeout of every
    node would pass at once. A delayed call keeps the time at which it was made, so the clock is
    changed only while there is none; where there is one, the clock stays.
    """
    if not IReactorTime(reactor).getDelayedCalls():
        reactor.seconds = time.monotonic


def allow_open_files() -> None:
    """Raise this process's own limit of open files, as far as its hard limit lets it.

    The usual 1,024 is less than the connections a node accepts, so that clients alone could take
    them all; a log that finds none for its next segment stops its node. Elsewhere than on Linux
    a reactor may not be able to watch more, and the limit stays.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    wanted = OPEN_FILES if hard == unlimited else min(hard, OPEN_FILES)
    if sys.platform == "linux" and soft != unlimited and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def settle_heap() -> None:
    """Take what the process holds by now out of the garbage collector's sight.

    Modules, and the state that was restored, stay to the end. Every full collection would walk
    over them again, in one piece: some 30 ms for the modules alone, a second for a few
    million lists. Reference counts still free what is dropped.
    """
    gc.collect()
    gc.freeze()


def fatal(
    reactor: Any, message: str, at_exit: Callable[[Callable[[], None]], object] = atexit.register
) -> None:
    """Stop the reactor in good order, and let the process then end with exit code 1.

    `reactor.stop()` alone would end with 0, and SystemExit is swallowed by the reactor. What
    runs before the interpreter ends (services stopped, the pid file removed) still runs.
    `message` becomes one line on standard error and one in the log.
    """
    line = " ".join(message.split())
    _log.critical("The node ends: {reason}", reason=line)
    # twistd has put its log in place of `sys.stderr`.
    print(f"raft: {line}", file=sys.__stderr__)
    at_exit(_leave)
    core = cast(IReactorCore, reactor)
    if core.running:
        core.stop()
    else:
        core.callWhenRunning(core.stop)


def refuse(message: str) -> NoReturn:
    """End the process before anything was started: one line, exit code 1."""
    raise SystemExit(f"raft: {' '.join(message.split())}")


def _leave() -> None:
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            stream.flush()
    os._exit(FAILED_EXIT_CODE)
