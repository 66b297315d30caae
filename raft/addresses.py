"""Endpoint strings as configurations hold them: where a node listens, what others dial.

Two dialects of Twisted's endpoint strings. *Listening* strings name a port and perhaps an
interface (`tcp:7001:interface=127.0.0.1`); any kind that Twisted knows is accepted. *Dialled*
strings name a host and a port, or a path (`tcp:10.0.0.1:7001`, `unix:/run/raft.sock`); the
short form `10.0.0.1:7001` is brought to that form, so that equal addresses are equal strings.
"""

from __future__ import annotations

import ipaddress
import re

from attrs import frozen
from twisted.internet.endpoints import quoteStringArgument, serverFromString

PORT_END = 65536

_SHORT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[^:\[\]/\\=]+):(?P<port>[0-9]+)")
_ENCRYPTED = frozenset({"ssl", "tls"})


@frozen
class Description:
    """An endpoint string, taken apart: its kind, arguments by position and by name."""

    kind: str
    positional: tuple[str, ...]
    named: dict[str, str]

    def argument(self, place: int, name: str) -> str | None:
        """Return the argument at `place` or called `name`, or None."""
        if place < len(self.positional):
            return self.positional[place]
        return self.named.get(name)


def take_apart(text: str) -> Description:
    """Split an endpoint string at its colons; a backslash keeps the next character as it is."""
    names: list[str | None] = [None]
    values = [""]
    characters = iter(text)
    for character in characters:
        if character == "\\":
            values[-1] += next(characters, "")
        elif character == ":":
            names.append(None)
            values.append("")
        elif character == "=" and names[-1] is None:
            names[-1] = values[-1]
            values[-1] = ""
        else:
            values[-1] += character
    arguments = list(zip(names, values, strict=True))[1:]
    return Description(
        kind=values[0].lower(),
        positional=tuple(value for name, value in arguments if name is None),
        named={name: value for name, value in arguments if name is not None},
    )


def dialled(text: str) -> str:
    """Return `text` as the one way to write that address.

    Accepts `host:port`, `[::1]:port`, `tcp:host:port` and `unix:/path`.

    Raises:
        ValueError: It is none of these, or its port is not in [1, 65536).
    """
    short = _SHORT.fullmatch(text)
    if short and not text.startswith(("tcp:", "unix:")):
        return _tcp(short["host"].strip("[]"), short["port"])
    address = take_apart(text)
    if address.kind == "tcp":
        return _tcp(address.argument(0, "host") or "", address.argument(1, "port") or "")
    path = address.argument(0, "path") if address.kind == "unix" else None
    if path and path.startswith("/"):
        return f"unix:{quoteStringArgument(path)}"
    raise ValueError("an address to dial is host:port, tcp:host:port or unix:/path")


def listening(text: str) -> str:
    """Return `text`, checked: an endpoint string that Twisted can listen on.

    Raises:
        ValueError: Twisted does not understand it, or its port is not in [0, 65536).
    """
    address = take_apart(text)
    if address.kind in ("tcp", "tcp6"):
        _port(address.argument(0, "port") or "", lowest=0)
    try:
        # Only `listen` would touch a reactor: making the endpoint just keeps it.
        serverFromString(object(), text)
    except (ValueError, TypeError, LookupError, OSError) as error:
        reason = str(error) if isinstance(error, (ValueError, OSError)) else "wrong arguments"
        raise ValueError(
            f"not an endpoint to listen on ({reason}), such as tcp:7001:interface=127.0.0.1"
        ) from error
    return text


def stays_here(text: str) -> bool:
    """Tell whether what goes through this listening or dialled string never leaves the machine."""
    address = take_apart(text)
    if address.kind == "unix":
        return True
    if address.kind not in ("tcp", "tcp6"):
        return False
    host = address.named.get("interface") or address.named.get("host")
    if host is None:
        # tcp:host:port is dialled, tcp:port or tcp:port:interface is listened on.
        places = address.positional
        host = next((place for place in places[:2] if not place.isdigit()), "")
    return _is_loopback(host)


def is_plaintext(text: str) -> bool:
    """Tell whether this endpoint string brings no encryption of its own."""
    return take_apart(text).kind not in _ENCRYPTED


def derived(listen: str) -> str | None:
    """Return the address to dial for what listens on `listen`, where it is concrete.

    A port of 0, all interfaces (none given, `0.0.0.0`, `::`) and kinds other than TCP and
    UNIX sockets say too little: None.
    """
    address = take_apart(listen)
    if address.kind == "unix":
        path = address.argument(0, "address")
        return dialled(f"unix:{quoteStringArgument(path)}") if path else None
    if address.kind not in ("tcp", "tcp6"):
        return None
    port = address.argument(0, "port") or "0"
    host = address.argument(1, "interface") or ""
    if int(port) == 0 or host in ("", "0.0.0.0", "::"):  # noqa: S104
        return None
    return _tcp(host, port)


def _tcp(host: str, port: str) -> str:
    if not host or not re.fullmatch(r"[A-Za-z0-9.:%_-]+", host):
        raise ValueError(f"{host!r} is not a host name or an IP address")
    return f"tcp:{quoteStringArgument(host.lower())}:{_port(port, lowest=1)}"


def _port(text: str, lowest: int) -> int:
    if re.fullmatch(r"[0-9]{1,5}", text) and lowest <= int(text) < PORT_END:
        return int(text)
    raise ValueError(f"the port must be a number from {lowest} to {PORT_END - 1}, not {text!r}")


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
