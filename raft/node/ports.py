"""The ports that a node opens."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort
from twisted.python.failure import Failure

from raft.errors import BadConfiguration


def address_of(port: IListeningPort) -> str:
    """Return an address that dials `port`, or nothing where it listens everywhere."""
    host: Any = port.getHost()
    if isinstance(host, UNIXAddress):
        return f"unix:{(host.name or b'').decode()}"
    return "" if host.host in ("0.0.0.0", "::") else f"tcp:{host.host}:{host.port}"  # noqa: S104


def at_once(listening: Deferred[IListeningPort], key: str) -> IListeningPort:
    """Return the port of an endpoint that listens at once, as all of Twisted's own do.

    Raises:
        BadConfiguration: it does not; `key` names the setting.
    """
    found: list[IListeningPort] = []
    failed: list[Failure] = []
    listening.addCallbacks(found.append, failed.append)
    if failed:
        raise BadConfiguration(f"{key}: {failed[0].getErrorMessage()}; choose another port")
    if not found:
        raise BadConfiguration(f"{key}: the endpoint does not listen at once")
    return found[0]
