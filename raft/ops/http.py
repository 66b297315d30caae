"""The HTTP door: health, status and metrics, for people, load balancers and Prometheus.

Read-only, and safe to leave open on a machine where browsers run: only GET and HEAD are
answered, only under names that are this node's own (a page elsewhere whose name is made to
point here, DNS rebinding, gets nothing), and no answer holds a command or a traceback.
Requests, connections and silence are bounded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from io import BytesIO
from typing import TYPE_CHECKING, Any

import msgspec
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress, IListeningPort
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from raft.ops.metrics import CONTENT_TYPE, Metrics
from raft.transport.endpoints import parse_dial, parse_listen, server_endpoint

if TYPE_CHECKING:
    from raft.service import RaftService

MOST_CONNECTIONS = 64
IDLE_SECONDS = 10
MOST_BODY_BYTES = 4096
"""What a request may send after its headers, all of it unread; more ends the connection."""

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})

_HOST = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[^:\[\]/@\s]+))(?::\d{1,5})?", re.ASCII)

HEADERS = {
    "Server": "raft",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"

INDEX = b"""A node of a Raft cluster.
/health   200 while it serves and knows a leader, else 503
/status   what it knows of itself and its cluster, as JSON
/metrics  the same in numbers, for Prometheus
"""


class OpsDoor:
    """Answers HTTP for one node, from `listen` until `stop`.

    Attributes:
        port: what it listens on, or None.
    """

    def __init__(self, node: RaftService, reactor: Any) -> None:
        """Serve `node`; open nothing."""
        self.port: IListeningPort | None = None
        self._reactor = reactor
        self._metrics = Metrics(node)
        self._door = _Limited(_QuietSite(_Pages(node, self._metrics), reactor))

    def listen(self, endpoint: str) -> Deferred[IListeningPort]:
        """Listen on an endpoint string; fails where the port is taken.

        Raises:
            BadConfiguration: `endpoint` is none.
        """
        self._metrics.start()
        listening = server_endpoint(self._reactor, endpoint).listen(self._door)
        return listening.addCallback(self._listening)

    def _listening(self, port: IListeningPort) -> IListeningPort:
        self.port = port
        return port

    def stop(self) -> Deferred[None]:
        """Close the port and every connection; fires once the port is closed."""
        self._metrics.stop()
        port, self.port = self.port, None
        self._door.abort()
        return (port.stopListening() if port else None) or succeed(None)


class _Pages(Resource):
    """Every path there is; whatever is refused is refused here, before a page is made."""

    isLeaf = True

    def __init__(self, node: RaftService, metrics: Metrics) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._node = node
        self._pages: dict[bytes, Callable[[], tuple[int, str, bytes]]] = {
            b"/": lambda: (200, TEXT, INDEX),
            b"/health": self._health,
            b"/status": lambda: (200, JSON, as_json(node.status())),
            b"/metrics": lambda: (200, CONTENT_TYPE, metrics.page()),
        }

    def render(self, request: Request) -> bytes:
        """Answer one request."""
        # First, so that Twisted's own page for an unforeseen error carries them too.
        for name, value in HEADERS.items():
            request.setHeader(name, value)
        status, kind, body = self._answer(request)
        request.setResponseCode(status)
        request.setHeader("Content-Type", kind)
        if status == 405:
            request.setHeader("Allow", "GET, HEAD")
        if request.method == b"HEAD":
            request.setHeader("Content-Length", str(len(body)))
            return b""
        return body

    def _answer(self, request: Request) -> tuple[int, str, bytes]:
        if not self._is_named(request):
            return 421, TEXT, b"This node is not known under that name.\n"
        if request.method not in (b"GET", b"HEAD"):
            return 405, TEXT, b"Only GET and HEAD are answered here.\n"
        page = self._pages.get(request.path)
        return page() if page else (404, TEXT, b"There is no such page; / names them all.\n")

    def _is_named(self, request: Request) -> bool:
        """Whether the request's Host is this node's: of the loopback, listened on, or advertised.

        The address at which the connection arrived is fine too: a page elsewhere can make its
        own name point here, but then the browser sends that name.
        """
        # As bytes: Twisted's own decoding raises at what is not UTF-8.
        given = request.requestHeaders.getRawHeaders(b"Host") or []
        host = host_of(given[0].decode("latin-1")) if len(given) == 1 else None
        if host is None:
            return False
        arrived: Any = request.getHost()
        return (
            host in LOOPBACK_NAMES
            or host == getattr(arrived, "host", None)
            or (host in own_names(self._node))
        )

    def _health(self) -> tuple[int, str, bytes]:
        node = self._node
        leader = node.leader()
        if node.failure is not None:
            reason = f"it has failed: {node.failure}"
        elif not node.running:
            reason = "it does not run"
        elif node.settings.hold:
            reason = "it holds its machine"
        else:
            reason = "" if leader else "it knows no leader"
        answer = {"id": node.id, "healthy": not reason, "leader": leader or "", "reason": reason}
        return (503 if reason else 200), JSON, as_json(answer)


def own_names(node: RaftService) -> set[str]:
    """Return the hosts under which `node` listens for HTTP or is advertised."""
    addresses = [node.settings.peer_address]
    members: Any = node.status().get("members", ())
    for member in members:
        if member["id"] == node.id:
            addresses += [member["peer_address"], member["client_address"]]
    names = {parse_listen(node.settings.http_endpoint).host}
    names.update(parse_dial(address).host for address in addresses if address)
    return {name.lower() for name in names if name}


def host_of(header: str) -> str | None:
    """Return the host that a Host header names, in lower case, without its port; or None."""
    found = _HOST.fullmatch(header.strip())
    return (found["v6"] or found["name"]).lower() if found else None


def as_json(value: object) -> bytes:
    """Write plain values as JSON, a line."""
    return msgspec.json.encode(value) + b"\n"


class _Request(Request):
    """A request whose body is never kept."""

    _body_bytes = 0

    def gotLength(self, length: int | None) -> None:
        """Keep nothing: Twisted would make a file of a large body."""
        self.content = BytesIO()

    def handleContentChunk(self, chunk: bytes) -> None:
        """Drop what arrives, and whoever sends much of it."""
        self._body_bytes += len(chunk)
        if self._body_bytes > MOST_BODY_BYTES and self.channel is not None:
            self.channel.forceAbortClient()


class _QuietSite(Site):
    """Twisted's, without a log line for each request of each monitor."""

    displayTracebacks = False

    def __init__(self, pages: Resource, reactor: Any) -> None:
        super().__init__(  # type: ignore[no-untyped-call]
            pages, requestFactory=_Request, timeout=IDLE_SECONDS, reactor=reactor
        )

    def startFactory(self) -> None:
        """Begin nothing: Twisted would begin a clock for its log lines, a call each second."""

    def stopFactory(self) -> None:
        """End nothing."""

    def log(self, request: object) -> None:
        """Log nothing."""


class _Limited(WrappingFactory[ProtocolWrapper]):
    """Keeps account of the connections, and takes no more than so many."""

    noisy = False

    def __init__(self, site: Site) -> None:
        super().__init__(site)  # type: ignore[no-untyped-call]

    def buildProtocol(self, addr: IAddress | None) -> ProtocolWrapper | None:  # type: ignore[override]
        """Take one more connection; where there are too many the oldest goes.

        An answer takes one turn: who is here for longest has asked nothing, or is done.
        """
        staying: list[Any] = [each for each in self.protocols if not each.disconnecting]
        if len(staying) >= MOST_CONNECTIONS:
            # It is lost in a later turn, and must not be counted, or cut, once more until then.
            staying[0].disconnecting = True
            staying[0].transport.abortConnection()
        return super().buildProtocol(addr)

    def abort(self) -> None:
        """Cut all connections."""
        open_ones: Iterable[Any] = list(self.protocols)
        for connection in open_ones:
            connection.transport.abortConnection()
