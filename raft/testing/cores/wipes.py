"""Servers that lose their directory, and come back empty: another server, or so it should be.

A new directory has a new incarnation, and whoever knows the server by another one lets it in no
more: it could vote against what it once acknowledged [RULES M7, M9]. Operators remove it, and may
let it join again. A learner may also come back empty under its old incarnation, as from a bad
backup: its leader must notice, and not count on it [RULES L5].
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from attrs import Factory, define

from raft.testing.cores.members import halves_of
from raft.testing.cores.network import Network

if TYPE_CHECKING:
    from raft.testing.cores.model_node import ModelNode
    from raft.testing.cores.monitors import Monitors


@define(eq=False)
class Wipes:
    """Wipes one server at a time, never more than the cluster is made to survive."""

    network: Network
    monitors: Monitors
    rng: random.Random
    nodes: dict[str, ModelNode] = Factory(dict)

    def victim(self, kind: str) -> ModelNode | None:
        """Return whom `kind` (wipe, lose) befalls, or None where that would be too much."""
        possible = self.possible(kind)
        if possible and not possible[0].is_lost:
            return self.rng.choice(possible)
        return possible[0] if possible else None

    def possible(self, kind: str) -> list[ModelNode]:
        """Return whom `kind` (wipe, lose) may befall: nobody where that would be too much.

        All must know who is who: before its incarnation is pinned in every log, a server
        that was wiped cannot be told from itself, and votes are lost with its directory.
        """
        if not self.monitors.configurations:
            return []
        index, configuration = self.monitors.configurations[-1]
        nodes = list(self.nodes.values())
        if (
            configuration.is_joint
            or configuration.target
            or any(node.is_paused or node.is_shut_out for node in nodes)
            or any(self._is_behind(node, index) for node in nodes)
        ):
            return []
        for node in nodes:
            if node.is_lost:
                # Once it is removed, it may begin anew as another server.
                removed = configuration.member(node.id) is None
                return [node] if removed and kind == "wipe" else []
        possible = []
        for node in nodes:
            member = configuration.member(node.id)
            if kind == "lose":
                if member and not member.voter and not node.disk.is_empty:
                    possible.append(node)
            elif member is None or (
                member.incarnation == node.incarnation
                and all(len(half) > 2 for half in halves_of(configuration) if node.id in half)
            ):
                possible.append(node)
        return possible

    def _is_behind(self, node: ModelNode, index: int) -> bool:
        """Tell whether a server with a log lacks the last configuration, or has a later one."""
        if node.disk.is_empty and not node.up:
            return False
        latest = node.server.log.configuration_index
        return latest != index and not (latest == 0 and node.disk.is_empty)

    def wipe(self, kind: str, node: ModelNode) -> None:
        """Take the directory away; what the server sent is lost with its connections."""
        if node.up:
            node.crash()
        node.lose_directory(new_incarnation=kind == "wipe")
        self.network.forget(node.id)
        self.monitors.lost(node)
