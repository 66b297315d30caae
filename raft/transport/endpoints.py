r"""Addresses: Twisted endpoint strings, and the short forms people write.

An address is `tcp:host:port`, `tcp6:host:port`, `unix:/path` or any other endpoint string
that Twisted's plug-ins know; `host:port` and `[v6]:port` are short for `tcp:`. A host
may be a name: it is resolved anew at each dial. The colons of an IPv6 address are
written `\:` inside an endpoint string.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any, Final

from attrs import frozen
from twisted.internet import endpoints
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.interfaces import IStreamClientEndpoint, IStreamServerEndpoint

from raft.errors import BadConfiguration

ATTEMPT_DELAY_SECONDS: Final = 0.05
"""How long after one of a name's addresses the next one is tried."""

_SHORT = re.compile(r"^(?:\[(?P<v6>[0-9A-Fa-f:.%\w]+)\]|(?P<host>[^:\[\]/]+)):(?P<port>\d+)$")
_ENCRYPTED = frozenset({"tls", "ssl"})
_KINDS = _ENCRYPTED | {"tcp", "tcp6", "unix"}


@frozen
class Address:
    """One address, parsed.

    `kind` is the endpoint's first word in lower case; `host` and `port` are set for TCP,
    `path` for Unix sockets. `text` is the whole endpoint string as Twisted reads it.
    """

    kind: str
    host: str = ""
    port: int = 0
    path: str = ""
    text: str = ""

    @property
    def is_private(self) -> bool:
        """Whether nobody but this machine can reach or overhear it."""
        return self.kind == "unix" or (self.kind in {"tcp", "tcp6"} and _is_loopback(self.host))

    @property
    def is_encrypted(self) -> bool:
        """Whether the endpoint itself encrypts."""
        return self.kind in _ENCRYPTED


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def parse_dial(address: str) -> Address:
    """Read an address to connect to.

    Raises:
        BadConfiguration: it is none; the text says what would be.
    """
    short = _short(address)
    if short:
        host = short["v6"] or short["host"]
        text = f"tcp:host={endpoints.quoteStringArgument(host)}:port={short['port']}"
        return Address("tcp", host, _port(address, short["port"]), "", text)
    words, named = _split(address)
    kind = words[0].lower()
    if kind == "unix":
        return _unix(address, words, named)
    if kind in {"tcp", "tcp6"}:
        host = named.get("host") or (words[1] if len(words) > 1 else "")
        port = named.get("port") or (words[2] if len(words) > 2 else "")
        if not host or len(words) > 3:
            raise _bad(address, "a host and a port are needed")
        text = f"tcp:host={endpoints.quoteStringArgument(host)}:port={port}"
        return Address(kind, host, _port(address, port), "", text)
    return Address(kind, text=address)


def parse_listen(address: str) -> Address:
    """Read an address to listen on; a port of 0 lets the system choose.

    `host:port` listens on that interface alone; `tcp:port` on all of them.

    Raises:
        BadConfiguration: it is none; the text says what would be.
    """
    short = _short(address)
    if short:
        host = short["v6"] or short["host"]
        if host == "localhost":
            host = "127.0.0.1"
        kind = "tcp6" if ":" in host else "tcp"
        text = f"{kind}:{short['port']}:interface={endpoints.quoteStringArgument(host)}"
        return Address(kind, host, _port(address, short["port"]), "", text)
    words, named = _split(address)
    kind = words[0].lower()
    if kind == "unix":
        return _unix(address, words, named)
    if kind in {"tcp", "tcp6"}:
        port = named.get("port") or (words[1] if len(words) > 1 else "")
        if len(words) > 2:
            raise _bad(address, "to listen on one interface write tcp:PORT:interface=HOST")
        host = named.get("interface", "")
        return Address(kind, host, _port(address, port), "", address)
    return Address(kind, text=address)


def require_private(address: str, allow_plaintext: bool, listen: bool = False) -> None:
    """Refuse plaintext on anything but loopback and Unix sockets, unless it is allowed.

    Raises:
        BadConfiguration: others could read and change what goes over `address`.
    """
    parsed = parse_listen(address) if listen else parse_dial(address)
    if allow_plaintext or parsed.is_private or parsed.is_encrypted:
        return
    raise BadConfiguration(
        f"{address!r} can be reached from other machines, and nothing on it would be encrypted: "
        "use a loopback address, a unix: socket or TLS, or set allow_plaintext = true where the "
        "network itself is trusted"
    )


def client_endpoint(
    reactor: Any, address: str, timeout_seconds: float = 5.0
) -> IStreamClientEndpoint:
    """Return the endpoint that connects to `address`; names are resolved at each connect.

    Raises:
        BadConfiguration: `address` is none, or no plug-in knows it.
    """
    parsed = parse_dial(address)
    if parsed.kind in {"tcp", "tcp6"}:
        return _tcp_endpoint(reactor, parsed.host, parsed.port, timeout_seconds)
    if parsed.kind == "unix":
        return endpoints.UNIXClientEndpoint(reactor, parsed.path, timeout=timeout_seconds)
    try:
        found: IStreamClientEndpoint = endpoints.clientFromString(reactor, parsed.text)
    except (ValueError, TypeError, LookupError, OSError) as error:
        raise _bad(address, str(error)) from error
    return found


def _tcp_endpoint(
    reactor: Any, host: str, port: int, timeout_seconds: float
) -> IStreamClientEndpoint:
    # HostnameEndpoint tells of a refused connection only at its next attempt's time. For an
    # address there is nothing else to attempt, and after a crash it would cost writes 0.3 s.
    if isIPAddress(host):
        return endpoints.TCP4ClientEndpoint(reactor, host, port, timeout_seconds)
    if isIPv6Address(host):
        return endpoints.TCP6ClientEndpoint(reactor, host, port, timeout_seconds)
    named: IStreamClientEndpoint = endpoints.HostnameEndpoint(
        reactor, host, port, timeout=timeout_seconds, attemptDelay=ATTEMPT_DELAY_SECONDS
    )
    return named


def server_endpoint(reactor: Any, address: str) -> IStreamServerEndpoint:
    """Return the endpoint that listens on `address`.

    Raises:
        BadConfiguration: `address` is none, or no plug-in knows it.
    """
    parsed = parse_listen(address)
    try:
        found: IStreamServerEndpoint = endpoints.serverFromString(reactor, parsed.text)
    except (ValueError, TypeError, LookupError, OSError) as error:
        raise _bad(address, str(error)) from error
    return found


def _short(address: str) -> re.Match[str] | None:
    found = _SHORT.match(address)
    return None if found is None or found["host"] in _KINDS else found


def _unix(address: str, words: list[str], named: dict[str, str]) -> Address:
    path = named.get("address") or named.get("path") or (words[1] if len(words) > 1 else "")
    if not path:
        raise _bad(address, "a path is needed")
    return Address("unix", path=path, text=address)


def _split(address: str) -> tuple[list[str], dict[str, str]]:
    """Cut an endpoint string at its unescaped colons into words and named words."""
    if ":" not in address:
        raise _bad(address, "it names no kind of endpoint")
    words: list[str] = []
    named: dict[str, str] = {}
    for part in re.split(r"(?<!\\):", address):
        name, equals, value = part.partition("=")
        if equals and words:
            named[name] = value.replace("\\:", ":")
        else:
            words.append(part.replace("\\:", ":"))
    return words, named


def _port(address: str, port: str) -> int:
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise _bad(address, f"{port!r} is no port between 0 and 65535")
    return int(port)


def _bad(address: str, why: str) -> BadConfiguration:
    return BadConfiguration(
        f"{address!r} is no usable address: {why}; write for example 127.0.0.1:7001, "
        "tcp:node1.example:7001, [::1]:7001 or unix:/run/raft/node"
    )
