"""Addresses as a configuration holds them: checked, and brought to the one way to write them.

What an address means is the transport's to say (`raft.transport.endpoints`). Here stands what
a configuration asks beyond that: equal addresses must be equal strings, since the cluster's id
is derived from them; a port to dial cannot be 0; and whether an address to dial follows from
an endpoint to listen on.
"""

from __future__ import annotations

import re

from twisted.internet.endpoints import quoteStringArgument, serverFromString

from raft.errors import BadConfiguration
from raft.transport.endpoints import parse_dial, parse_listen

_HOST = re.compile(r"[A-Za-z0-9.:%_-]+")


def dialled(text: str) -> str:
    """Return `text`, an address to dial, as `tcp:host:port` or `unix:/path`.

    Raises:
        ValueError: It is neither of these, nor a `host:port` that stands for the first.
    """
    try:
        address = parse_dial(text)
    except BadConfiguration as error:
        raise ValueError(str(error.args[0])) from error
    if address.kind == "unix":
        return _unix(address.path)
    if address.kind in ("tcp", "tcp6"):
        return _tcp(address.host, address.port)
    raise ValueError(f"{address.kind!r} is no kind of address to dial; write host:port")


def listening(text: str) -> str:
    """Return the endpoint string that `text` is or, as `host:port`, stands for.

    Raises:
        ValueError: Twisted does not understand it, its port is not in [0, 65536), or its path
            is relative: the directory that a daemon runs in is not the one it was started in.
    """
    try:
        address = parse_listen(text)
    except BadConfiguration as error:
        raise ValueError(str(error.args[0])) from error
    if address.kind == "unix":
        _unix(address.path)
    try:
        # Only `listen` would touch a reactor: making the endpoint just keeps it.
        serverFromString(object(), address.text)
    except (ValueError, TypeError, LookupError, OSError) as error:
        reason = str(error) if isinstance(error, ValueError | OSError) else "wrong arguments"
        raise ValueError(
            f"it is no endpoint to listen on ({reason}); write for example 127.0.0.1:7001"
        ) from error
    return address.text


def derived(listen: str) -> str | None:
    """Return the address to dial for what listens on `listen`, where it is concrete.

    A port of 0, all interfaces (none given, `0.0.0.0`, `::`) and kinds other than TCP and
    UNIX sockets say too little: None.
    """
    address = parse_listen(listen)
    if address.kind == "unix":
        return _unix(address.path)
    everywhere = address.host in ("", "0.0.0.0", "::")  # noqa: S104
    if address.kind not in ("tcp", "tcp6") or everywhere or address.port == 0:
        return None
    return _tcp(address.host, address.port)


def _tcp(host: str, port: int) -> str:
    if not _HOST.fullmatch(host):
        raise ValueError(f"{host!r} is not a host name or an IP address")
    if port == 0:
        raise ValueError("the port must be a number from 1 to 65535, not 0")
    return f"tcp:{quoteStringArgument(host.lower())}:{port}"


def _unix(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError(f"{path!r} is relative; write unix:/path")
    return f"unix:{quoteStringArgument(path)}"
