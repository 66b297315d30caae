"""Machines that raise at one command, as whole nodes and real processes run them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from raft.machines.kv import KeyValueStore


class Strict(KeyValueStore):
    """A store that stops its node at `["set", "poison", ...]`, unless it was mended."""

    stop_on_error = True
    mended = False
    error: BaseException = ValueError("canary")

    def apply(self, command: Any, context: Any) -> Any:
        if command[:2] == ["set", "poison"] and not self.mended:
            super().apply(["set", "half", "changed"], context)
            raise self.error
        return super().apply(command, context)


class Lax(Strict):
    """One that leaves it at a failed command."""

    stop_on_error = False


class Mended(Strict):
    """A release that can apply it."""

    mended = True


class Hungry(Strict):
    """One that runs out of memory at it, on every server alike."""

    stop_on_error = False
    error = MemoryError()


class Sick(Strict):
    """One that raises `OSError` on servers beside whose file of configuration stands a `.ill`."""

    stop_on_error = False
    error = OSError(5, "canary")

    @property
    def mended(self) -> bool:  # type: ignore[override]
        return not Path(f"{sys.argv[-1]}.ill").exists()
