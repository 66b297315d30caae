"""What a node says when it has started: what was found, and what its operator may not expect."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from twisted.logger import Logger

from raft.interfaces import Recovered
from raft.places import place_warning

if TYPE_CHECKING:
    from raft.service import RaftService

_log = Logger()


def tell_start(node: RaftService, recovered: Recovered, seconds: float) -> None:
    """Log what `node` read in `seconds`, where it lies, and how its file differs from its log."""
    snapshot, log = recovered.snapshot, node.shell.server.log
    _log.info(
        "{id} starts with {count} entries, up to {last}, and a snapshot up to {snapshot}, "
        "read in {seconds:.2f} s",
        id=node.id,
        count=log.last_index + 1 - log.first_index,
        last=log.last_index,
        snapshot=snapshot.index if snapshot else 0,
        seconds=seconds,
    )
    for warning in (
        place_warning(Path(node.settings.data_directory)),
        founders_warning(node),
    ):
        if warning:
            _log.warn("{id}: {warning}", id=node.id, warning=warning)


def founders_warning(node: RaftService) -> str:
    """Return how the first members that `node` was given differ from its log's."""
    members = node.shell.server.configuration.members
    given = {each.id: each.peer_address for each in node.settings.first_members}
    logged = {each.id: each.peer_address for each in members}
    if not given or not logged or given == logged:
        return ""
    differing = sorted(id for id in given.keys() | logged.keys() if given.get(id) != logged.get(id))
    told = "; ".join(
        f"{id} is {given.get(id, 'no member')} in the file and {logged.get(id, 'no member')} "
        "in the log"
        for id in differing
    )
    return (
        f"its file names other members than its log: {told}. The log decides; the file's "
        "[[members]] are for founding a cluster only. `raft member` changes the log's"
    )
