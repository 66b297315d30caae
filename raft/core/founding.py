"""A server that holds no more than founding a cluster writes [RULES M8, M9].

It may be a first member on its first day. It may as well have been one for years, whose data
directory was lost and whose file names the first members still: then its votes and entries are
forgotten, and the cluster lives on beside it. No server can see in its own directory which of the
two it is; the others can tell it (`raft.node.founding`). What it may do until then, and after that,
is decided here and nowhere else.

Founding writes one entry, in term 1, and the first leader's term is 2. So a log whose last entry
has a greater term than 1 has a *history*: it has heard a leader, and nothing here concerns it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from raft.core import elections
from raft.core.events import Founding, Standing

if TYPE_CHECKING:
    from raft.core.server import Server

FOUNDING_TERM: Final = 1
"""The term of the entry that founding writes; no leader has it."""


def has_history(server: Server) -> bool:
    """Tell whether this server's log holds, or held before it was damaged, an entry of a leader."""
    return server.log.last_term > FOUNDING_TERM or server.is_repairing


def is_barred(server: Server) -> bool:
    """Tell whether this server stands for no election, because its cluster may live without it."""
    return server.standing is not Standing.FREE and not has_history(server)


def waits_until(server: Server) -> float:
    """Return until when the other first members may still object; -infinity where they have."""
    return -math.inf if has_history(server) else server.founding_until


def may_elect(server: Server, candidate: str, last_log_term: int) -> bool:
    """Tell whether `candidate`, whose log ends with `last_log_term`, may get this server's vote.

    While first members may still object, nobody does. Whose cluster has committed without it helps
    to elect whoever was there, as any late first member must; never another that has nothing.
    """
    if has_history(server):
        return True
    if server.excluded_index or server.standing is Standing.OUTLIVED:
        return False
    if server.now < server.founding_until:
        return False
    return (
        server.standing is Standing.FREE
        or last_log_term > FOUNDING_TERM
        or candidate in server.founders
    )


def judge(server: Server, event: Founding) -> None:
    """Take what the others have said, and leave an election that is not to be."""
    server.standing, server.founders = event.standing, event.founders
    server.founding_until = server.now + event.wait_seconds if event.wait_seconds else -math.inf
    if has_history(server):
        # Whoever leads has a history too: the first entry of its term.
        return
    if is_barred(server):
        server.become_follower(None)
    elections.reset_timer(server)
