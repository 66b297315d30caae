"""Bugs of what stands around the core, to be planted into whole nodes and their clients.

Each is one wrong line of the log, the snapshots, the connections, the sessions or the client: what
a simulator of cores alone cannot see.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from attrs import evolve

import raft.client.numbered
import raft.core.configuration
import raft.core.membership
import raft.storage.records
import raft.storage.repair_plan
import raft.storage.snapshots
import raft.storage.writer
from raft.client.lanes import Lane
from raft.client.meanings import Meaning, meaning
from raft.client.session import SessionLife
from raft.core.configuration import Configuration
from raft.core.outputs import HardState, Send
from raft.core.server import Server
from raft.errors import RaftError, StorageFull, Timeout
from raft.interfaces import Value
from raft.machines.kv import KeyValueStore
from raft.node.changes import Changes
from raft.node.doubles import Doubles
from raft.node.membership import Members
from raft.node.reads import Reads
from raft.node.sending import Sending
from raft.outcomes import Result
from raft.sessions import Session, Sessions
from raft.storage.directory import DataDirectory
from raft.storage.files import Files, sync
from raft.storage.recovery import Recovery
from raft.storage.snapshots import SnapshotWriter
from raft.storage.writer import LogWriter, Save
from raft.testing.whole.scenes import SCENES
from raft.testing.whole.swarm import Swarm
from raft.testing.whole.writer import ClockedWriter
from raft.transport.boxes import Box
from raft.transport.calls import ClientConnection
from tests.simulation import planted_leases
from tests.simulation.planted import Bug, Patch

NODE_BUGS: dict[str, Bug] = {}
WORLDS: dict[str, Callable[[Swarm], bool]] = {}
"""Where a bug can show at all; everywhere if it does not stand here."""


def planted(
    *rules: str, where: Callable[[Swarm], object] | None = None
) -> Callable[[Patch], Patch]:
    """Enter a bug under its function's name; it can show in the worlds `where` that is so."""

    def enter(plant: Patch) -> Patch:
        NODE_BUGS[plant.__name__] = Bug(plant, frozenset(rules))
        if where is not None:
            WORLDS[plant.__name__] = lambda swarm: bool(where(swarm))
        return plant

    return enter


def where_members_change(swarm: Swarm) -> object:
    """Tell whether an operator changes the members of this world."""
    return swarm.change_seconds


def where_leases_are_hard(swarm: Swarm) -> object:
    """Tell whether this world reads by lease, and little else befalls it than what shows one."""
    return swarm.lease_share and set(swarm.troubles) <= set(SCENES) and swarm.clock_skew


def where_some_stay_sick(swarm: Swarm) -> object:
    """Tell whether a minority stays silent after the healing."""
    return swarm.minority in ("down", "paused", "mute")


# The log.


@planted("I11")
def frames_are_not_synced(patch: pytest.MonkeyPatch) -> None:
    """[D5]: what is acknowledged stands in the page cache alone."""
    patch.setattr(raft.storage.writer, "sync", lambda *_: None)


@planted("I11")
def a_failed_sync_passes_for_done(patch: pytest.MonkeyPatch) -> None:
    """[D3]: after the first failure the pages are clean, and not on the disk."""

    def forgiving(files: Files, fd: int) -> None:
        with contextlib.suppress(OSError):
            sync(files, fd)

    patch.setattr(raft.storage.writer, "sync", forgiving)


@planted("I11")
def saves_are_reported_before_they_are_written(patch: pytest.MonkeyPatch) -> None:
    """[L8]: the acknowledgement overtakes the disk."""
    wake = ClockedWriter._wake
    tickets: dict[int, list[int]] = {}

    def eager(writer: ClockedWriter) -> None:
        wake(writer)
        queued: Any = writer.queue
        for ticket in tickets.pop(id(queued), []):
            writer.saved(ticket)

    from raft.testing.whole.writer import RingingQueue

    put = RingingQueue.put

    def noted(queue: RingingQueue, item: Any, *rest: Any) -> None:
        if type(item) is tuple:
            tickets.setdefault(id(queue), []).append(item[0])
        put(queue, item, *rest)

    patch.setattr(RingingQueue, "put", noted)
    patch.setattr(ClockedWriter, "_wake", eager)


@planted("I11")
def recovery_drops_the_last_frame(patch: pytest.MonkeyPatch) -> None:
    """[D1]: a valid frame passes for a torn one."""
    replay = Recovery._replay_entries

    def forgetful(recovery: Recovery, *arguments: Any) -> None:
        _, _, frame, content, _ = arguments
        ends = not any(content[frame.end : frame.end + 64])
        if not (ends and recovery.ledger.next_index > recovery.ledger.first):
            replay(recovery, *arguments)

    patch.setattr(Recovery, "_replay_entries", forgetful)


@planted("I11", "I2", "I3")
def recovery_forgets_the_vote(patch: pytest.MonkeyPatch) -> None:
    """[E1]: the term is read, and whom it voted for in it is not."""
    run = Recovery.run

    def forgetful(recovery: Recovery) -> LogWriter:
        writer = run(recovery)
        writer.ledger.hard_state = HardState(writer.ledger.hard_state.current_term, None)
        return writer

    patch.setattr(Recovery, "run", forgetful)


@planted("I11", "raised")
def truncations_are_not_written(patch: pytest.MonkeyPatch) -> None:
    """[D2]: after a restart the entries that were replaced stand in front of their successors."""
    patch.setattr(raft.storage.writer, "encode_truncate", lambda *_: b"")


@planted("I11")
def hard_state_is_written_when_entries_are(patch: pytest.MonkeyPatch) -> None:
    """[E1]: a vote without entries waits in memory."""
    write = LogWriter.write

    def lazy(writer: LogWriter, saves: Iterable[Save]) -> None:
        write(writer, [save for save in saves if save[3] != save[4] or save[2] is not None])

    patch.setattr(LogWriter, "write", lazy)


@planted("I11", "raised")
def snapshots_are_marked_before_they_are_synced(patch: pytest.MonkeyPatch) -> None:
    """[N1]: the log is dropped for a file that power can take."""
    commit = SnapshotWriter.commit

    def hasty(writer: SnapshotWriter) -> None:
        patch.setattr(raft.storage.snapshots, "sync", lambda *_: None)
        commit(writer)

    patch.setattr(SnapshotWriter, "commit", hasty)


# The connections.


@planted("I11", "I2")
def messages_do_not_wait_for_the_disk(patch: pytest.MonkeyPatch) -> None:
    """[L1, E1]: votes and acknowledgements leave before what they promise is saved."""
    carry_out = Sending.carry_out

    def hasty(sending: Sending, sends: Iterable[Send]) -> None:
        carry_out(sending, [evolve(send, after=0) for send in sends])

    patch.setattr(Sending, "carry_out", hasty)


@planted("I16", "I17", "I18", "raised")
def answers_are_taken_in_the_order_of_the_questions(patch: pytest.MonkeyPatch) -> None:
    """[A3]: an answer belongs to the question whose tag it carries."""
    received = ClientConnection.box_received

    def oldest(connection: ClientConnection, box: Box) -> None:
        if b"_answer" in box and connection._asked and connection.is_greeted:
            box = {**box, b"_answer": next(iter(connection._asked))}
        received(connection, box)

    patch.setattr(ClientConnection, "box_received", oldest)


@planted("L1", "L2", "L3", "L4")
def a_lost_connection_is_not_dialled_again(patch: pytest.MonkeyPatch) -> None:
    """After a reset two servers never speak again."""
    from raft.transport.outgoing import Link

    later = Link._later
    patch.setattr(
        Link, "_later", lambda link, reason: None if " lost" in reason else later(link, reason)
    )


# Reads and answers.


@planted("I18")
def reads_are_answered_without_a_quorum(patch: pytest.MonkeyPatch) -> None:
    """[R3]: a leader that was deposed answers from its own state."""
    ask = Reads.ask

    def hasty(reads: Reads, request: int, lease: bool = False) -> bool:
        if not ask(reads, request, lease):
            return False
        reads.confirm(request, 0)
        return False

    patch.setattr(Reads, "ask", hasty)


@planted("R9", "I18", where=where_leases_are_hard)
def a_lease_trusts_all_clocks(patch: pytest.MonkeyPatch) -> None:
    """[R9]: it is counted on the leader's clock, and not divided by the bound of the drift."""
    planted_leases.a_lease_trusts_all_clocks(patch)


@planted("R9", "I18", where=where_leases_are_hard)
def a_lease_counts_from_the_answer(patch: pytest.MonkeyPatch) -> None:
    """[R9]: answers that wait on a connection make it longer than it is."""
    planted_leases.a_lease_counts_from_the_answer(patch)


# Sessions and the client.


@planted("I16", "I17", "I20", "I7")
def sessions_are_no_part_of_snapshots(patch: pytest.MonkeyPatch) -> None:
    """[S4]: who restores one executes copies again, or knows nobody."""
    patch.setattr(Sessions, "is_untouched", property(lambda _: True))


@planted("I16", "I17", "I7")
def copies_are_executed_again(patch: pytest.MonkeyPatch) -> None:
    """[S2]: a retry is no retry."""

    class Blind(dict[int, Result]):
        def __contains__(self, _: object) -> bool:
            return False

    touch = Sessions.touch

    def touched(sessions: Sessions, session: bytes, now_us: int) -> Session | None:
        found = touch(sessions, session, now_us)
        if found is not None and type(found.results) is not Blind:
            found.results = Blind(found.results)
        return found

    patch.setattr(Sessions, "touch", touched)


@planted("I16", "I17")
def a_client_repeats_without_a_session(patch: pytest.MonkeyPatch) -> None:
    """[S7]: what may be applied is sent again, and nobody knows it again."""

    def bold(lane: Lane, error: RaftError) -> bool:
        return meaning(error) is not Meaning.FINAL

    patch.setattr(raft.client.lanes.WriteLane, "_may_repeat", bold)


@planted("I16", "I17", "raised")
def a_resumed_session_gets_new_numbers(patch: pytest.MonkeyPatch) -> None:
    """[S7]: a batch that comes back is numbered anew."""
    call = raft.client.numbered.Account.call

    def anew(account: Any, batch: Any) -> Any:
        batch.sequence = 0
        return call(account, batch)

    patch.setattr(raft.client.numbered.Account, "call", anew)


@planted("I16", "I17")
def an_application_resumes_without_its_session(patch: pytest.MonkeyPatch) -> None:
    """[S7]: what it repeats after its restart is new to the cluster."""
    patch.setattr(SessionLife, "resume", lambda *_: None)


@planted("I17")
def a_time_out_passes_for_a_clear_no(patch: pytest.MonkeyPatch) -> None:
    """What was sent may be applied, whatever the clock says."""
    begin = Timeout.__init__

    def sure(error: Timeout, appended: bool = False, message: str = "") -> None:
        begin(error, False, message)

    patch.setattr(Timeout, "__init__", sure)


# What ends well for everybody else.


@planted("L1", "L2", "L4", where=where_some_stay_sick)
def a_majority_is_everybody(patch: pytest.MonkeyPatch) -> None:
    """L5: all is well as long as all are."""
    patch.setattr(
        raft.core.configuration, "_majority_value", lambda half, reached: min(map(reached, half))
    )


@planted("I20", "I16", "I7")
def a_restored_store_lacks_a_key(patch: pytest.MonkeyPatch) -> None:
    """[N1]: what was acknowledged is gone with the log that held it."""
    restore = KeyValueStore.restore

    def forgetful(store: KeyValueStore, chunks: Iterator[bytes]) -> None:
        restore(store, chunks)
        found: Value = store.query(["scan", "l", 1])
        if isinstance(found, list) and found and isinstance(found[0], list):
            store.apply(["delete", found[0][0]], None)  # type: ignore[arg-type]

    patch.setattr(KeyValueStore, "restore", forgetful)


@planted("L1")
def a_server_that_started_twice_finds_no_room(patch: pytest.MonkeyPatch) -> None:
    """[D4]: a full disk that is never believed to have room again."""
    load: Any = DataDirectory.load
    lives: dict[Any, int] = {}

    def full(path: str, id: str, cluster: str, files: Any) -> DataDirectory:
        lives[files.disk] = lives.get(files.disk, 0) + 1
        if lives[files.disk] > 2:
            raise StorageFull("there is no room")
        return load(path, id, cluster, files)  # type: ignore[no-any-return]

    patch.setattr(DataDirectory, "load", staticmethod(full))


# Directories that are not what they were.


@planted("M9", "I2", "I6", "I9", "I10", where=lambda swarm: "second" in swarm.troubles)
def a_copied_directory_is_let_in(patch: pytest.MonkeyPatch) -> None:
    """[M9]: two processes vote and acknowledge under one name."""
    patch.setattr(Doubles, "objection", lambda *_: None)


@planted("M9", "I2", "I6", "I9", "I10", where=lambda swarm: "put back" in swarm.troubles)
def an_old_copy_is_let_in(patch: pytest.MonkeyPatch) -> None:
    """[L5, M9]: it has forgotten what it voted and acknowledged since."""
    patch.setattr(Members, "_went_back", lambda *_: None)
    patch.setattr(Doubles, "objection", lambda *_: None)


@planted("M9", where=lambda swarm: "wipe" in swarm.troubles and not swarm.change_seconds)
def a_wiped_directory_is_let_in(patch: pytest.MonkeyPatch) -> None:
    """[M9]: it has the right name, and nothing else."""
    patch.setattr(Members, "is_another", lambda *_: None)


@planted("I11", where=lambda swarm: swarm.repair)
def a_repaired_log_forgets_how_far_it_went(patch: pytest.MonkeyPatch) -> None:
    """[D1]: it votes for whoever has as little as is left of it."""
    judged = raft.storage.repair_plan._judged

    def forgetful(*arguments: Any) -> Any:
        recovered, repair = judged(*arguments)
        return evolve(recovered, lost=(0, 0)), repair

    patch.setattr(raft.storage.repair_plan, "_judged", forgetful)


# The members.


@planted("I17", where=where_members_change)
def a_change_is_done_when_it_has_begun(patch: pytest.MonkeyPatch) -> None:
    """[M2]: what is merely appended may be taken back, or be another leader's to replace."""
    patch.setattr(Changes, "_ended", lambda *_: True)


@planted("I14", "I15", "I6", "I8", where=where_members_change)
def learners_vote_by_what_a_node_reads_of_them(patch: pytest.MonkeyPatch) -> None:
    """[M5]: a learner counts for the quorum of whoever got the configuration by wire or disk."""
    decode = raft.storage.records.decode_configuration

    def voting(payload: bytes | memoryview) -> Configuration:
        found = decode(payload)
        return evolve(found, members=tuple(evolve(each, voter=True) for each in found.members))

    patch.setattr(raft.storage.records, "decode_configuration", voting)


@planted("I15", where=where_members_change)
def who_was_removed_stands_for_election(patch: pytest.MonkeyPatch) -> None:
    """[E8, M6]: by what it remembers of better days."""
    patch.setattr(Server, "may_campaign", lambda _: True)


@planted("M6", where=where_members_change)
def who_was_removed_does_not_say_so(patch: pytest.MonkeyPatch) -> None:
    """[M6]: its operator waits for it to come back."""
    patch.setattr(Members, "is_removed", property(lambda _: False))


@planted("L6", where=where_members_change)
def a_newcomer_never_keeps_up(patch: pytest.MonkeyPatch) -> None:
    """[M5]: it has all of the log, and stays a learner until the change is taken back."""
    patch.setattr(raft.core.membership, "_follow_rounds", lambda *_: None)
