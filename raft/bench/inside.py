"""A node with a load generator in its own process, for `twistd -y`.

The node is what `twistd raft` runs, made of the same file; the load calls its `write` and
`read` as an application that embeds a node does.
"""

from __future__ import annotations

from twisted.application.service import Application, Service

from raft.bench.worker import Worker, serve
from raft.config import read_config
from raft.tap import NodeProcess, use_monotonic_time


def tac_of(config_path: str, socket_path: str) -> str:
    """Return the text of a .tac file that runs the node of `config_path`."""
    return (
        "from raft.bench.inside import application_of\n\n"
        f"application = application_of({config_path!r}, {socket_path!r})\n"
    )


def application_of(config_path: str, socket_path: str) -> object:
    """Return the application: the node, and a worker that takes orders on `socket_path`."""
    from twisted.internet import reactor

    use_monotonic_time(reactor)
    process = NodeProcess(read_config(config_path), reactor)
    application = Application("raft bench")
    process.setServiceParent(application)  # type: ignore[no-untyped-call]
    _WorkerService(Worker(reactor, process.node), socket_path, reactor).setServiceParent(  # type: ignore[no-untyped-call]
        application
    )
    return application


class _WorkerService(Service):
    def __init__(self, worker: Worker, path: str, reactor: object) -> None:
        self._worker, self._path, self._reactor = worker, path, reactor

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        serve(self._reactor, self._path, self._worker)
