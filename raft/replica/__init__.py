"""Committed entries to the application's machine, and its results back.

A `Replica` owns one machine. The service hands it the record bytes of consecutive
entries that are committed and saved, as they stand in the log, and gets the encoded
results of those for whom somebody waits. The machine never meets an entry twice, never
misses one, and never sees the log, a clock or the network: `last_applied` grows by
exactly one for each entry, and all that a command may know besides itself is in its
`Context`, derived from the log.

A command of a session is executed only if its number was not executed before; what the
sessions remember is kept here beside the machine, and `raft.sessions` tells how. What a
machine's exception means is told in `raft.outcomes`, what a machine on a disk keeps for the
replica in `raft.durable`, which version of a machine is in force in `raft.versions`, and how a
backup comes back in `raft.restoration`.

The rooms, each standing on the one before it: `state` holds all that a replica is, `snapshots`
takes and takes in the whole of it, `backups` takes in the machine's part alone, `applying` is the
loop from records to results, `answering` answers queries.
"""

from raft.machine import CommandContext
from raft.outcomes import Result
from raft.replica.answering import Answering
from raft.replica.applying import Applied, Applying
from raft.replica.state import SLICE_SECONDS

__all__ = ["SLICE_SECONDS", "Applied", "CommandContext", "Replica", "Result"]


class Replica(Applying, Answering):
    """The application's machine on this server, fed from the log.

    Not re-entrant: the machine must not call back into the replica.
    """
