"""The data directories of stopped servers: what is in them, and which one may go on alone.

When a majority of a cluster's voters is lost for good, nobody can tell any more what was
committed. The best that can be done is to go on with the survivor that has most, alone, as a
cluster with another id: the members that are missing may come back one day, and must not be
taken for its members [RULES M7-M9]. What was only on them is lost.

All of this blocks. A directory is locked while it is looked at: a running server's is refused.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from attrs import evolve, frozen

from raft.core.configuration import Configuration, Member
from raft.core.outputs import HardState
from raft.errors import BadConfiguration, RaftError, StorageDamaged
from raft.interfaces import Recovered
from raft.storage import survivor
from raft.storage.directory import DataDirectory, Identity, encode_identity
from raft.storage.divergence import DIVERGED_NAME, Divergence, read_divergence
from raft.storage.files import Files, RealFiles, failure
from raft.storage.readonly import ReadOnlyFiles
from raft.storage.records import (
    Kind,
    RecoveryNote,
    decode,
    decode_recovery,
    encode,
    encode_configuration,
    encode_recovery,
)
from raft.storage.repair import DONE, FETCHING, Repair, load
from raft.storage.repair_plan import plan as plan_repair
from raft.storage.salvage import Salvaged, salvage
from raft.storage.survivor import Pending
from raft.storage.wal import WriteAheadLog

READ_BYTES = 1 << 20
SUFFIX = "+"
"""Stands between a cluster's first id and what a recovery adds to it."""


def first_id(cluster_id: str) -> str:
    """Return the id that a cluster had before any recovery."""
    return cluster_id.partition(SUFFIX)[0]


@frozen
class Survey:
    """What is in one data directory.

    Attributes:
        path: of the directory.
        identity: whose it is.
        hard_state: the last term that it knows, and its vote.
        first_index: of the log; entries before it are in the snapshot.
        last_index: of the log.
        last_term: of that entry.
        committed: up to here entries are certainly committed; those behind it may be.
        snapshot_index: of the snapshot; 0 for none.
        time_us: the cluster's time at the last entry, in microseconds.
        configuration: the latest in the log, committed or not.
        configuration_index: where it stands.
        recoveries: of the cluster, as far as the log reaches back, oldest first.
        is_pending: a recovery was begun here and is not finished: the next start finishes it.
        divergence: what says that the machine's state is not the cluster's, or None.
        lost: (term, index) of the last entry that the log had before it was damaged, while others
            have not sent it again; zeros for none.
    """

    path: str
    identity: Identity
    hard_state: HardState
    first_index: int
    last_index: int
    last_term: int
    committed: int
    snapshot_index: int
    time_us: int
    configuration: Configuration
    configuration_index: int
    recoveries: tuple[RecoveryNote, ...] = ()
    is_pending: bool = False
    divergence: Divergence | None = None
    lost: tuple[int, int] = (0, 0)

    @property
    def reached(self) -> tuple[int, int]:
        """How far the log is, as elections compare it [RULES E2]."""
        return self.last_term, self.last_index

    @property
    def is_repairing(self) -> bool:
        """Whether its server, when it starts, stands for no election [RULES D1]."""
        return self.lost > self.reached


@frozen
class Plan:
    """What a recovery will do, and to which state of the directory.

    Attributes:
        survey: of the survivor.
        configuration: the members that will be: the survivor alone.
        note: what the log will say of it.
        term: that of the new entries.
    """

    survey: Survey
    configuration: Configuration
    note: RecoveryNote
    term: int

    @property
    def records(self) -> bytes:
        """The entries that go to the end of the log: the note, then the configuration."""
        start, time_us = self.survey.last_index + 1, self.survey.time_us
        return encode(
            start, self.term, time_us, Kind.RECOVERY, encode_recovery(self.note)
        ) + encode(
            start + 1,
            self.term,
            time_us,
            Kind.CONFIGURATION,
            encode_configuration(self.configuration),
        )


def survey(path: str) -> Survey:
    """Look at the data directory `path`; change nothing in it but the lock file.

    Raises:
        BadConfiguration: it is none, somebody else's, its server runs, or a repair was begun there.
        StorageDamaged: what is in it cannot be read.
    """
    with _claimed(path) as directory:
        return surveyed(directory.path, directory.identity, RealFiles())


@contextmanager
def _claimed(path: str) -> Iterator[DataDirectory]:
    directory = DataDirectory.claim(path)
    try:
        yield directory
    except OSError as error:
        raise failure(path, error, "reading the data directory") from error
    finally:
        directory.release()


def surveyed(path: str, identity: Identity, files: Files) -> Survey:
    """Do as `survey` does with a directory that the caller has locked."""
    reading = ReadOnlyFiles(files)
    if not any(name.endswith(".wal") for name in reading.names(path)):
        raise BadConfiguration(f"{path} has no log: there is nothing to recover in it")
    repair = load(files, path)
    if repair is not None and repair.state not in (FETCHING, DONE):
        # Until that is finished the log may lack what the server has promised: term and vote.
        raise BadConfiguration(
            f"{path}: a repair of the log was begun; start the server once, it finishes it"
        )
    log = WriteAheadLog(path, files=reading, incarnation=identity.incarnation)
    found = log.recover()
    try:
        recoveries = tuple(_recoveries(log, found))
    finally:
        log.stop()
    return evolve(
        _survey_of(path, identity, found),
        recoveries=recoveries,
        is_pending=survivor.is_pending(files, path),
        divergence=read_divergence(files, path),
        lost=repair.last if repair is not None and repair.state == FETCHING else (0, 0),
    )


def _survey_of(path: str, identity: Identity, found: Recovered) -> Survey:
    snapshot = found.snapshot
    last_index, last_term = found.first_index - 1, found.prev_term
    if found.runs:
        last_index, last_term = found.runs[-1].end - 1, found.runs[-1].term
    configuration, configuration_index = Configuration(), 0
    if snapshot is not None:
        configuration = snapshot.configuration
        configuration_index = snapshot.configuration_index
    if found.configurations and found.configurations[-1][0] > configuration_index:
        configuration_index, configuration = found.configurations[-1]
    return Survey(
        path,
        identity,
        found.hard_state,
        found.first_index,
        last_index,
        last_term,
        snapshot.index if snapshot else 0,
        snapshot.index if snapshot else 0,
        found.last_time_us,
        configuration,
        configuration_index,
    )


def _recoveries(log: WriteAheadLog, found: Recovered) -> Iterator[RecoveryNote]:
    index = found.first_index
    end = found.runs[-1].end if found.runs else index
    while index < end:
        index, records = log.read(index, end, READ_BYTES)
        for record in decode(records):
            if record.kind == Kind.RECOVERY:
                yield decode_recovery(record.payload)


def plan(
    chosen: Survey,
    others: Sequence[Survey] = (),
    *,
    peer_address: str = "",
    client_address: str = "",
    command: str = "",
    force: bool = False,
) -> Plan:
    """Return what recovering `chosen` would do; `others` are the other survivors.

    Args:
        chosen: who shall go on alone.
        others: whoever else is left.
        peer_address: where other servers will dial it, if not as before.
        client_address: where clients will, if not as before.
        command: what the operator typed, for the log.
        force: also where the survivors are a majority, or `chosen` is no member.

    Raises:
        BadConfiguration: it must not go on alone; the text says why, and what would help.
    """
    me, mine = chosen.identity, chosen.path
    _check_chosen(chosen)
    for other in others:
        _check_other(chosen, other)
    known = chosen.configuration.member(me.server_id)
    left = {me.server_id, *(other.identity.server_id for other in others)}
    if not force:
        if known is None:
            raise BadConfiguration(
                f"{mine}: server {me.server_id} is no member of its cluster: it was removed, or "
                "never added; recover another one, or use --force"
            )
        if _would_elect(chosen, [chosen, *others]):
            raise BadConfiguration(
                f"{', '.join(sorted(left))} are a majority of the voters: start them as they are, "
                "and they elect a leader without any loss (or use --force)"
            )
    before = known or Member(me.server_id)
    member = Member(
        me.server_id,
        me.incarnation,
        peer_address or before.peer_address,
        client_address or before.client_address,
    )
    note = RecoveryNote(
        f"{first_id(me.cluster_id)}{SUFFIX}{secrets.token_hex(4)}",
        me.cluster_id,
        int(time.time()),
        command,
        encode_configuration(chosen.configuration),
    )
    # The vote of an unfinished term must not come back, nor the entries of its leader.
    term = max(chosen.hard_state.current_term, chosen.last_term) + 1
    return Plan(chosen, Configuration((member,)), note, term)


def _would_elect(chosen: Survey, survivors: Sequence[Survey]) -> bool:
    """Tell whether the survivors elect a leader when they are started.

    Who lost a part of its log stands for no election, and votes for nobody who lacks that too.
    """
    whole = [each.reached for each in survivors if not each.is_repairing]
    voters = {
        each.identity.server_id for each in survivors if each.lost <= max(whole, default=(0, 0))
    }
    return bool(whole) and chosen.configuration.majority(voters)


def _check_chosen(chosen: Survey) -> None:
    path = chosen.path
    if chosen.is_pending:
        raise BadConfiguration(f"{path}: a recovery was begun; start the server, it finishes it")
    if chosen.divergence is not None:
        raise BadConfiguration(
            f"{path}: the state of this server has diverged, since entry "
            f"{chosen.divergence.index}: it would not serve; recover another one. Where none is "
            f"left, remove the file {DIVERGED_NAME!r} there, if you can do with a state that may "
            "be wrong"
        )
    if not chosen.configuration.members:
        raise BadConfiguration(f"{path} knows no members: it belongs to no cluster yet")


def _check_other(chosen: Survey, other: Survey) -> None:
    mine, theirs = chosen.identity, other.identity
    if first_id(theirs.cluster_id) != first_id(mine.cluster_id):
        raise BadConfiguration(
            f"{other.path} belongs to cluster {theirs.cluster_id!r}, {chosen.path} to "
            f"{mine.cluster_id!r}: name the directories of one cluster"
        )
    if theirs.cluster_id != mine.cluster_id:
        raise BadConfiguration(
            f"{other.path} belongs to cluster {theirs.cluster_id}, {chosen.path} to "
            f"{mine.cluster_id}: one of the two was recovered before; go on with that cluster"
        )
    if theirs.server_id == mine.server_id:
        raise BadConfiguration(
            f"{other.path} and {chosen.path} are both of server {mine.server_id}: one is a copy; "
            "name each survivor once"
        )
    if other.is_pending:
        raise BadConfiguration(
            f"{other.path}: a recovery was begun there, and {theirs.server_id} is a cluster by "
            "itself from its next start on; start it, and let the others join"
        )
    if other.reached > chosen.reached:
        raise BadConfiguration(
            f"{chosen.path} ends with entry {chosen.last_index} of term {chosen.last_term}, but "
            f"{other.path} with entry {other.last_index} of term {other.last_term}: recover that "
            "one, or what only it has is lost"
        )


def recover(intended: Plan) -> None:
    """Carry out a plan: from here on the survivor is a cluster by itself.

    A crash leaves the directory as it was, or as it is to be: then the next start of the server,
    or the next call, finishes what is left.

    Raises:
        BadConfiguration: the directory has changed since it was surveyed, or its server runs.
        StorageDamaged, StorageFailed, StorageFull: the disk refused.
    """
    with _claimed(intended.survey.path) as directory:
        carry_out(intended, directory.path, directory.identity, RealFiles())


def carry_out(intended: Plan, path: str, identity: Identity, files: Files) -> None:
    """Do as `recover` does with a directory that the caller has locked."""
    if surveyed(path, identity, files) != intended.survey:
        raise BadConfiguration(f"{path} has changed since it was looked at; begin anew")
    renamed = evolve(identity, cluster_id=intended.note.cluster_id)
    pending = Pending(
        int(identity.incarnation, 16),
        intended.term,
        intended.survey.last_index + 1,
        encode_identity(renamed),
        intended.records,
    )
    survivor.begin(files, path, pending)
    survivor.finish(files, path)


@frozen
class Wreck:
    """What is left in a data directory that is damaged.

    Attributes:
        identity: whose it is.
        error: what keeps its server from starting.
        salvaged: what can still be read, on both sides of the damage.
        helpless: why the other servers cannot repair it; empty where they can.
    """

    identity: Identity
    error: StorageDamaged
    salvaged: Salvaged
    helpless: str = ""


def wreck(path: str, error: StorageDamaged) -> Wreck:
    """Look at a data directory whose survey ended with `error`; change nothing in it.

    Raises what `survey` raises, where not even that can be told.
    """
    files = RealFiles()
    with _claimed(path) as directory:
        identity = directory.identity
        salvaged = salvage(ReadOnlyFiles(files), directory.path, int(identity.incarnation, 16))
        helpless = ""
        try:
            before = _startable(directory.path, files, error)
            plan_repair(
                files, directory.path, identity.incarnation, identity.server_id, before, error
            )
        except RaftError as refused:
            helpless = str(refused.args[-1])
    return Wreck(identity, error, salvaged, helpless)


def _startable(path: str, files: Files, error: StorageDamaged) -> Repair | None:
    """Return the last repair; raise where a start fails on something else than the log."""
    if survivor.is_pending(files, path):
        # It is finished before the log is looked at, and fails there.
        raise error
    read_divergence(files, path)
    return load(files, path)


def look(paths: Sequence[str]) -> Iterator[tuple[str, Survey | Wreck | RaftError]]:
    """Yield each path with what is there, or what is left of it, or why that cannot be told."""
    for path in paths:
        found: Survey | Wreck | RaftError
        try:
            try:
                found = survey(path)
            except StorageDamaged as error:
                found = wreck(path, error)
        except RaftError as error:
            found = error
        yield os.path.abspath(path), found
