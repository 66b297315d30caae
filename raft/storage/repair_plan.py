"""Whether and how a damaged log can be repaired: looks, decides, and changes nothing [RULES D1].

The decision is the real recovery's: it is run on the directory as it would be, with the segments
hidden that would be moved out of the way, and what it finds is compared with what `salvage` read.
"""

from __future__ import annotations

import secrets
import time
from typing import Final

from attrs import define, evolve
from twisted.logger import Logger

from raft.core.configuration import Configuration
from raft.errors import RaftError, StorageDamaged, StorageFailed, StorageFull
from raft.interfaces import IStorage, Recovered, SnapshotMeta
from raft.storage.directory import DataDirectory
from raft.storage.files import Files, failure
from raft.storage.readonly import ReadOnlyFiles
from raft.storage.recovery import Recovery
from raft.storage.repair import DONE, FETCHING, MOVING, Repair, begin, end, finish
from raft.storage.salvage import Salvaged, salvage
from raft.storage.snapshots import SnapshotFiles
from raft.storage.starts import read_peers
from raft.storage.wal import SEGMENT_SIZE_BYTES, WriteAheadLog

_log = Logger(namespace="raft.storage")

MOST_DAMAGES: Final = 100
"""Of more than so many, only the first ones are noted."""


def recover(
    storage: IStorage, directory: DataDirectory, allowed: bool
) -> tuple[Recovered, Repair | None]:
    """Recover `storage`, which lives in `directory`; repair its log where that is allowed. Blocks.

    What was begun before is finished in any case. Returns also the last repair, if there ever was
    one; while it is "fetching", `Recovered.lost` tells how far the log was.

    Raises:
        StorageDamaged: it is damaged, and cannot or shall not be repaired.
        StorageFailed, StorageFull: the disk refused.
        BadConfiguration: a newer version of this library wrote it.
    """
    files, path, identity = directory.files, directory.path, directory.identity
    try:
        repair = finish(files, path, identity.incarnation)
        try:
            recovered = storage.recover()
        except StorageDamaged as error:
            intended = _intended(directory, repair, error, allowed)
            begin(files, path, intended)
            repair = finish(files, path, identity.incarnation)
            recovered = storage.recover()
        return _judged(files, path, recovered, repair)
    except OSError as error:
        raise failure(path, error, "repairing the log") from error


def _intended(
    directory: DataDirectory, before: Repair | None, error: StorageDamaged, allowed: bool
) -> Repair:
    identity = directory.identity
    try:
        intended = plan(
            directory.files, directory.path, identity.incarnation, identity.server_id, before, error
        )
    except (StorageFailed, StorageFull):
        if allowed:
            raise
        raise error from None
    if not allowed:
        raise StorageDamaged(
            error.path,
            error.offset,
            f"{error.args[-1]}; or let the other servers repair it: `repair = true` under [node]",
        ) from error
    return intended


def _judged(
    files: Files, path: str, recovered: Recovered, repair: Repair | None
) -> tuple[Recovered, Repair | None]:
    if repair is None or repair.state == DONE:
        return recovered, repair
    if _last(recovered) >= repair.last:
        return recovered, end(files, path, repair)
    _log.warn(
        "{path}: the log was damaged ({damages}). It is good up to entry {good}, and was as far as "
        "entry {last} of term {term}: the leader will send the rest. Until then this server votes "
        "for nobody who lacks that entry, and stands for no election.",
        path=path,
        damages="; ".join(repair.damages),
        good=_last(recovered)[1],
        last=repair.last[1],
        term=repair.last[0],
    )
    return evolve(recovered, lost=repair.last), repair


@define(eq=False)
class Hiding(ReadOnlyFiles):
    """Files among which some segments cannot be seen, and of which nothing can be changed."""

    hidden: frozenset[str]

    def names(self, path: str) -> list[str]:
        """See `Files.names`."""
        return [name for name in super().names(path) if name not in self.hidden]


def plan(
    files: Files,
    directory: str,
    incarnation: str,
    server_id: str,
    before: Repair | None = None,
    error: StorageDamaged | None = None,
    segment_size_bytes: int = SEGMENT_SIZE_BYTES,
) -> Repair:
    """Return how what is damaged in `directory` would be repaired. Blocks.

    `before` is the repair that was under way, `error` what recovery said.

    Raises:
        StorageDamaged: it cannot be: says why.
        BadConfiguration: a newer version of this library wrote it.
        OSError: the disk refused.
    """
    owner = int(incarnation, 16) if incarnation else 0
    found = salvage(files, directory, owner)
    told = tuple(map(str, found.damages[:MOST_DAMAGES])) or (str(error or "a snapshot"),)
    suffix = f".damaged-{secrets.token_hex(4)}"
    begun = Repair(MOVING, None, (0, 0), (0, 0), (), suffix, told, int(time.time()))
    if found.hard_state is None or found.last is None:
        raise _hopeless(
            directory, found, "its last term and vote, or how far it went, cannot be known any more"
        )
    owed = before.last if before is not None and before.state == FETCHING else (0, 0)
    # Where a snapshot covers all of the damage nothing is lost.
    gone = tuple(name for name in found.names if name not in found.behind)
    look = _Look(files, directory, incarnation, segment_size_bytes)
    seen = look.without(gone) if found.damages and found.behind else None
    if seen and (seen.hard_state, _last(seen)) == (found.hard_state, found.last):
        return evolve(begun, names=gone, last=owed)
    if not found.damages:
        look.require_log(found)
    snapshot = look.newest_snapshot(owner, found)
    _require_others(files, directory, found, snapshot, server_id)
    begun = evolve(begun, hard_state=found.hard_state, last=max(owed, found.last))
    rest = tuple(name for name in found.names if name not in found.before)
    seen = look.without(rest) if rest and found.before else None
    if seen and (snapshot is None or _last(seen)[1] > snapshot.index):
        return evolve(begun, names=rest)
    begun = evolve(begun, names=found.names)
    if snapshot is None:
        return begun
    return evolve(begun, snapshot=(snapshot.index, snapshot.term))


@define(eq=False)
class _Look:
    files: Files
    directory: str
    incarnation: str
    segment_size_bytes: int

    def without(self, hidden: tuple[str, ...]) -> Recovered | None:
        """Return what the real recovery finds without the hidden segments; None if it refuses."""
        log = WriteAheadLog(
            self.directory,
            Hiding(self.files, frozenset(hidden)),
            self.segment_size_bytes,
            self.incarnation,
        )
        try:
            return log.recover()
        except RaftError:
            return None
        finally:
            log.stop()

    def require_log(self, found: Salvaged) -> None:
        """Refuse where it is something else than a snapshot that is not as it should be."""
        owner = int(self.incarnation, 16) if self.incarnation else 0
        files = ReadOnlyFiles(self.files)
        try:
            Recovery(files, self.directory, self.segment_size_bytes, owner).run().close()
        except RaftError as error:
            raise _hopeless(self.directory, found, str(error)) from error

    def newest_snapshot(self, owner: int, found: Salvaged) -> SnapshotMeta | None:
        """Return the newest snapshot that is good, and that a mark vouches for."""
        files = ReadOnlyFiles(self.files)
        kept = SnapshotFiles(files, self.directory, owner, lambda _: None)
        kept.load()
        marked = {(mark.index, mark.term) for mark in found.marks}
        for index in kept.indexes():
            try:
                meta = kept.verify(index)
            except StorageDamaged:
                continue
            if (meta.index, meta.term) in marked:
                return meta
        return None


def _last(found: Recovered) -> tuple[int, int]:
    if found.runs:
        return found.runs[-1].term, found.runs[-1].end - 1
    return found.prev_term, found.first_index - 1


def _require_others(
    files: Files, directory: str, found: Salvaged, snapshot: SnapshotMeta | None, server_id: str
) -> None:
    """Refuse where nobody else can have what is lost."""
    known: list[tuple[int, Configuration]] = list(found.configurations)
    if snapshot is not None:
        known.append((snapshot.configuration_index, snapshot.configuration))
    if known:
        _, newest = max(known, key=lambda pair: pair[0])
        if not {*newest.voters, *newest.outgoing} - {server_id}:
            raise _hopeless(directory, found, "this server is alone: nobody else has what is lost")
    elif not read_peers(files, directory):
        # The configuration is lost too; who ever heard another member has noted its start.
        raise _hopeless(
            directory, found, "nothing says that there are others who have what is lost"
        )


def _hopeless(directory: str, found: Salvaged, reason: str) -> StorageDamaged:
    path, offset = directory, 0
    if found.damages:
        path, offset = found.damages[0].path, found.damages[0].offset
    return StorageDamaged(
        path,
        offset,
        f"the log cannot be repaired: {reason}; restore the data directory, or remove this server "
        "from the cluster and add it again with an empty directory",
    )
