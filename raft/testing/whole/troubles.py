"""What goes wrong in a world of whole nodes, until it is healed."""

from __future__ import annotations

from typing import Final

from attrs import define

from raft.testing.whole.host import Host
from raft.testing.whole.world import World

DOWN_SECONDS: Final = (0.0, 2.0)


@define(eq=False)
class Troubles:
    """Draws troubles, one after the other, and carries them out."""

    world: World
    is_over: bool = False

    def begin(self, seconds: float) -> None:
        """Let things go wrong for so long."""

    def end(self) -> list[Host]:
        """Let all be well; return the servers that can be."""
        self.is_over = True
        return list(self.world.hosts.values())
