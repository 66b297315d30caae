"""Bugs that only a lost directory shows, to be planted into the core and the model node."""

from __future__ import annotations

import pytest

from raft.core.progress import Progress
from raft.testing.cores.model_node import ModelNode
from tests.simulation.planted import planted


@planted("I1", "I6", "I7", "I8", "I10", "I15", "L1", "L2", "L5", "L6", "raised")
def a_wiped_server_is_taken_for_the_old_one(patch: pytest.MonkeyPatch) -> None:
    """[M7, M9]: its votes and acknowledgements are gone with its directory."""
    patch.setattr(ModelNode, "refuses", lambda *_: False)


@planted("I10", "I8")
def a_disk_that_went_back_is_believed(patch: pytest.MonkeyPatch) -> None:
    """[L5]: what it acknowledged before still counts."""
    patch.setattr(Progress, "quarantine", lambda _: None)
