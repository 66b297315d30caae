"""All that goes into the core: a closed union. An unknown event is an error.

The shell gathers what happened in one reactor turn and hands it over in order; time
is an argument of the step, never an event.
"""

from __future__ import annotations

from enum import Enum

from attrs import frozen

from raft.core.configuration import Configuration, Member
from raft.core.messages import Message


@frozen
class Received:
    """`message` arrived from the server `sender`, whose identity the transport vouches for."""

    sender: str
    message: Message


@frozen
class Saved:
    """Everything up to save `ticket` is on stable storage."""

    ticket: int


@frozen
class Propose:
    """Append `count` commands of `size_bytes` (their records) in all, if this server leads.

    `request` is the shell's number for the batch; it comes back in the answer.
    """

    request: int
    count: int
    size_bytes: int


@frozen
class Read:
    """Find the index from which a linearizable read may be answered [RULES R1-R8].

    `request` stands for any number of reads that arrived together. A follower asks its
    leader. With `lease` a leader whose lease is valid asks nobody [RULES R9].
    """

    request: int
    lease: bool = False


@frozen
class CancelReads:
    """Forget these read requests: nobody waits for them any more."""

    requests: tuple[int, ...]


@frozen
class TransferLeadership:
    """Hand the leadership to `target`, or to the most up-to-date voter [RULES M10].

    `TransferEnded` carries `request`, where the transfer is refused or given up.
    """

    target: str | None = None
    request: int = 0


@frozen
class Excluded:
    """A member says: this server is none of the committed configuration at `index` [RULES M6]."""

    index: int


class Standing(Enum):
    """What others have said of a server that holds no more than founding a cluster writes."""

    FREE = "free"
    """Nothing: it may found its cluster."""
    LATE = "late"
    """Its cluster has committed entries, or it knows no members: it founds none."""
    OUTLIVED = "outlived"
    """Its cluster knows it with another data directory, or has removed it: it has no vote."""


@frozen
class Founding:
    """What this server may do as long as its log has no entry of a leader [RULES M8, M9].

    For `wait_seconds` from here on it waits for other first members to object: it does not stand
    for election, and votes for nobody. `founders` found a cluster by an order: they are elected by
    servers that know no members, as no other founder is. See `raft.core.founding`.
    """

    standing: Standing = Standing.FREE
    wait_seconds: float = 0.0
    founders: frozenset[str] = frozenset()


@frozen
class Bootstrap:
    """Start a new cluster: `configuration` becomes entry 1 of term 1 [RULES M8]."""

    configuration: Configuration


@frozen
class ChangeConfiguration:
    """Make `members` the cluster, the whole of it, by as many steps as it takes [RULES M3, M5].

    `expected_index` is the index of the configuration from which the caller computed it, or
    None for any [RULES M4]. A member that is one already keeps its pinned incarnation, and may
    be named with no other. `force` begins the change even where too few of the voters that are
    to be are heard: they must come back before anything is committed again. Where newcomers
    catch up first, the step after that still waits for them.
    """

    request: int
    members: tuple[Member, ...]
    expected_index: int | None = None
    force: bool = False


@frozen
class PinIncarnations:
    """The (id, incarnation) of servers that were heard: pin those not pinned yet [RULES M7].

    Ignored where this server may not change the configuration: tell it again later.
    """

    incarnations: tuple[tuple[str, str], ...]


@frozen
class Unfit:
    """`server`, which is joining, cannot become a voter, for `reason`: give the change up.

    Ignored where it does not catch up here: tell it again later.
    """

    server: str
    reason: str


@frozen
class Unreachable:
    """What was last sent to `peer` may be lost: probe it before sending more [RULES L7]."""

    peer: str


@frozen
class SnapshotSaved:
    """This server has saved a snapshot of its own, up to `index`; older log may go.

    `keep` is how many trailing entries stay in the log for followers that are nearly
    there [RULES N4].
    """

    index: int
    keep: int = 0


@frozen
class SnapshotSent:
    """The transfer of the snapshot up to `index` to `peer` ended, well or not."""

    peer: str
    index: int
    ok: bool


Event = (
    Received
    | Saved
    | Propose
    | Read
    | CancelReads
    | TransferLeadership
    | Excluded
    | Founding
    | Bootstrap
    | ChangeConfiguration
    | PinIncarnations
    | Unfit
    | Unreachable
    | SnapshotSaved
    | SnapshotSent
)
