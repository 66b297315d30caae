"""Writing at once: bytes go to the socket in this call, where nothing is waiting before them.

A transport of Twisted keeps what it is given until the reactor comes round again: two changes of
what is polled for, and a turn of the reactor, for each write. Most writes here find a socket that
takes all of it, so they are tried first. What the socket does not take goes the ordinary way, in
order, and so does everything on transports that are no plain sockets, such as TLS.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet import tcp

Write = Callable[[bytes], object]

MOST_BYTES: Final = tcp.Connection.SEND_LIMIT
"""What a transport gives to its socket at a time; of more, a part would be copied once more."""


def direct_write(transport: Any) -> Write:
    """Return what writes to `transport` in order, and at once where that is possible."""
    if not isinstance(transport, tcp.Connection):
        return lambda octets: transport.write(octets)

    def write_at_once(octets: bytes) -> None:
        if (
            transport.dataBuffer
            or transport._tempDataLen
            or transport.disconnecting
            or not transport.connected
            or len(octets) > MOST_BYTES
            or getattr(transport, "TLS", False)
        ):
            transport.write(octets)
            return
        written = transport.writeSomeData(octets)
        # Of a socket that is broken the reactor tells in its own time.
        done = written if isinstance(written, int) else 0
        if done < len(octets):
            transport.write(octets[done:])

    return write_at_once
