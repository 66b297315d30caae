"""What a change of the members must keep, judged without the core's own arithmetic.

A monitor that asked `Configuration` what a majority is would believe a core that is wrong
about it. Here a quorum is spelled out once more.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from itertools import combinations
from typing import TYPE_CHECKING

from raft.core.configuration import Configuration

if TYPE_CHECKING:
    from raft.testing.cores.model_node import ModelNode

Halves = tuple[frozenset[str], ...]
"""The sets of voters of which a quorum needs a majority each."""


def halves_of(configuration: Configuration) -> Halves:
    """Return the voters, and the outgoing ones where the configuration is joint."""
    voters = frozenset(member.id for member in configuration.members if member.voter)
    return (voters, configuration.outgoing) if configuration.outgoing else (voters,)


def votes(configuration: Configuration, server: str) -> bool:
    """Tell whether `server` is a voter of either half."""
    return any(server in half for half in halves_of(configuration))


def is_quorum(configuration: Configuration, servers: Iterable[str]) -> bool:
    """Tell whether `servers` hold a majority of every half; learners count for nothing."""
    return _is_quorum(halves_of(configuration), frozenset(servers))


def _is_quorum(halves: Halves, servers: frozenset[str]) -> bool:
    return all(2 * len(half & servers) > len(half) for half in halves)


def quorums_meet(one: Configuration, other: Configuration) -> bool:
    """Tell whether any quorum of `one` and any of `other` have a server in common [I14]."""
    return _quorums_meet(halves_of(one), halves_of(other))


@lru_cache(maxsize=4096)
def _quorums_meet(one: Halves, other: Halves) -> bool:
    everyone = frozenset().union(*one, *other)
    return not any(
        _is_quorum(one, frozenset(some)) and _is_quorum(other, everyone.difference(some))
        for count in range(1, len(everyone))
        for some in combinations(sorted(everyone), count)
    )


def latest_configuration(
    node: ModelNode,
    places: list[int],
    committed: list[tuple[int, Configuration]],
    end: int | None = None,
) -> tuple[int, Configuration]:
    """Return the last configuration in the node's log below `end`, with its index [RULES M1].

    `places` are all indexes at which any log ever held one, in order. `committed` are the
    committed ones: the last of them that the log's beginning covers counts where the log itself
    holds none.
    """
    records = node.records
    first, last = records.first, (end or records.end) - 1
    for index in reversed(places):
        if first <= index <= last:
            payload = records.entries[index - first][1]
            if type(payload) is Configuration:
                return index, payload
    for index, configuration in reversed(committed):
        if index < records.first:
            return index, configuration
    return 0, Configuration()
