"""Bugs of upgrades, to be planted into whole nodes: versions that begin too early, or mistaken."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from raft.node.switching import Span, Switching
from raft.testing.whole.swarm import Swarm
from raft.versions import Versions
from tests.simulation.planted import Patch
from tests.simulation.planted_nodes import planted


def where_servers_are_upgraded(swarm: Swarm) -> object:
    """Tell whether the machine of this world has versions."""
    return swarm.releases


def planted_where_upgraded(plant: Patch) -> Patch:
    """Enter a bug that breaks U1, or shows in a result, in a state, or by the end of a server."""
    return planted("U1", "I7", "I11", "I20", "raised", where=where_servers_are_upgraded)(plant)


@planted_where_upgraded
def a_version_begins_before_all_members_can(patch: pytest.MonkeyPatch) -> None:
    """Whom a leader cannot reach might be of an older release."""
    span_of = Switching.span_of

    def hopeful(switching: Switching, member: str) -> Span | None:
        return span_of(switching, member) or span_of(switching, switching.node.id)

    patch.setattr(Switching, "span_of", hopeful)


@planted_where_upgraded
def a_snapshot_forgets_the_version_in_force(patch: pytest.MonkeyPatch) -> None:
    """[N1]: who restores it, after a restart or from a leader, applies the rest as version 1."""

    def forgetful(versions: Versions, slices: Iterable[bytes], what: str) -> None:
        for _ in slices:
            pass
        versions.resume(1, what)

    patch.setattr(Versions, "restore", forgetful)


@planted_where_upgraded
def the_newest_version_is_applied_at_once(patch: pytest.MonkeyPatch) -> None:
    """New code behaves as new code, whatever the log says."""
    put = Versions._set

    def eager(versions: Versions, version: int) -> None:
        put(versions, version)
        if versions.machine is not None:
            versions.machine.active_version = versions.newest

    patch.setattr(Versions, "_set", eager)


@planted_where_upgraded
def an_old_release_passes_by_a_switch(patch: pytest.MonkeyPatch) -> None:
    """It goes on as it always did, where it should have stopped."""
    switch = Versions.switch

    def deaf(versions: Versions, version: int, index: int) -> None:
        if version <= versions.newest:
            switch(versions, version, index)

    patch.setattr(Versions, "switch", deaf)


@planted_where_upgraded
def no_version_ever_begins(patch: pytest.MonkeyPatch) -> None:
    """A leader waits for whom it need not wait for."""
    patch.setattr(Switching, "_next", lambda _: 0)
