"""Ports that are free on this machine's loopback, and stay so while a node is down."""

from __future__ import annotations

import random
import socket
from collections.abc import Sequence
from typing import Final

from raft.errors import BadConfiguration

HOST: Final = "127.0.0.1"
FIRST_PORT: Final = 10_000
EPHEMERAL_FROM: Final = 32_768
"""Where Linux begins to draw the ports of outgoing connections.

A node's port must lie below: while the node is down, another's connection could be given it, and
on loopback even connect to itself.
"""


def free_base_port(nodes: int, above: Sequence[int], chance: random.Random | None = None) -> int:
    """Return a base port such that for each node 1, 2, ... all its ports are free on loopback.

    Node n listens on the ports n + each of `above` higher than the base.

    Raises:
        BadConfiguration: none was found.
    """
    chance = chance or random.SystemRandom()
    for _ in range(200):
        base = chance.randrange(FIRST_PORT, EPHEMERAL_FROM - max(above) - nodes)
        if all(_is_free(base + more + n) for more in above for n in range(1, nodes + 1)):
            return base
    raise BadConfiguration(
        f"no free ports were found from {FIRST_PORT} to {EPHEMERAL_FROM}; end what listens there"
    )


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True
