"""The contracts that an application, or a part of the library, may provide.

Everything here is called in the reactor's thread unless it says otherwise.
"""

from __future__ import annotations

import math
import random
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

from attrs import field, frozen
from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from raft.core.configuration import Configuration, Member
from raft.core.messages import Run
from raft.core.outputs import HardState
from raft.errors import BadCommand, RaftError
from raft.numbering import SessionCall

Value = None | bool | int | float | str | bytes | list["Value"] | dict["Value", "Value"]
"""A plain value, as MessagePack carries it. Tuples are accepted and arrive as lists."""


class Context(Protocol):
    """What `IStateMachine.apply` may know besides the command; valid during the call only.

    All of it is the same on every server. `time` is the cluster's time in seconds: it
    never runs backwards and no wall clock moves it. Use it, `random` and `uuid` in
    place of the `time`, `random` and `uuid` modules.
    """

    @property
    def index(self) -> int:
        """The command's log index."""

    @property
    def term(self) -> int:
        """The term of the leader that appended it."""

    @property
    def time(self) -> float:
        """The cluster's time, in seconds."""

    @property
    def random(self) -> random.Random:
        """A generator seeded from the log: the same numbers on every server."""

    def uuid(self) -> uuid.UUID:
        """Return the next UUID drawn from the log."""


class IStateMachine(Interface):
    """The application's state: replicated by applying the same commands everywhere.

    Called in the reactor's thread, one call at a time, never concurrently.
    """

    def apply(command: Value, context: Context) -> Value:
        """Apply a committed command and return its result.

        Called once for each command, in log order, the same on every server: it must
        be deterministic. It must not block; raise `raft.errors.CommandError` to refuse a
        command (a result like any other). Any other exception is recorded as
        `CommandFailed`, and the state must then be unchanged. MemoryError,
        RecursionError, OSError and what is no `Exception` stop this node.
        """

    def query(query: Value) -> Value:
        """Answer from the current state; change nothing. May raise `CommandError`."""

    def snapshot() -> Iterable[bytes]:
        """Return the state of this moment, as chunks of bytes of at most 1 MiB.

        Must be cheap to call; chunks are taken later, a few at a time, while `apply`
        goes on, and must not show what is applied meanwhile. Where what is returned has a
        method `close`, it is called in the end, also if no chunk was taken. Where it has
        `give_up`, that is called first if nobody will take the rest, and then it is exhausted
        as before: its chunks are thrown away, and each may do a part of the tidying.
        """

    def restore(chunks: Iterator[bytes]) -> None:
        """Replace the state by the one whose `snapshot` gave these chunks.

        Chunk borders may differ from those given. Raise to refuse; the node stops.
        """


class IGradualStateMachine(IStateMachine):
    """A machine that can take a snapshot in step by step, so that a large one stops nothing else.

    A follower installs snapshots so while it serves; at a start `restore` is called.
    """

    def restoring(chunks: Iterator[bytes]) -> Iterator[object]:
        """Return an iterator that does what `restore` does, a few milliseconds in each step.

        What it yields means nothing. The state is the snapshot's when it ends. Until then nothing
        else of the machine is called, unless another snapshot takes this one's place: then
        the iterator is dropped, and a new one begins with whatever state there is.
        """


class IPreparingStateMachine(IStateMachine):
    """A machine some of whose queries need work that is too long for one turn of the reactor."""

    def prepare(query: Value, may_work: bool) -> bool:
        """Tell whether `query` can be answered at once; if not, do a millisecond of the work.

        Asked before each query. Where it says no, it is asked again in a later turn, between
        other calls, and so on until the query's time is over. It changes nothing that a query
        shows. Without `may_work` it only tells: there was enough to be done in this turn.
        """


class IOnDiskStateMachine(IStateMachine):
    """A machine that keeps its own durable state, with the replica's notes beside it [RULES S5].

    Called in the reactor's thread, one call at a time: `open` first, then batches of `begin`,
    any number of `apply` (or one `restore`), `commit`; queries and `snapshot` between batches.
    A batch becomes durable as a whole or not at all: a process may end at any moment, and what
    was not committed is applied again. After a failed batch nothing more is called but `close`.
    Exceptions of these methods stop this node.
    """

    def open() -> Iterable[tuple[bytes, bytes]]:
        """Open what is durable, make it where there is nothing; return all notes. May block."""

    def begin() -> None:
        """Begin a batch."""

    def commit(last_applied: int, notes: Mapping[bytes, bytes | None]) -> None:
        """End the batch and make it visible to queries, with `notes` in the same transaction.

        `last_applied` is the index that the state is of, for the machine's own use. Notes are
        opaque: each replaces the one under the same key, None removes it.
        The batch may be lost with the computer's power, as long as no earlier one is lost
        without the later ones: the log has it still.
        """

    def restore(chunks: Iterator[bytes]) -> None:
        """Replace the state, as in `IStateMachine`; the notes of before are all forgotten.

        Called within a batch: until `commit`, what was there before must stay durable.
        """

    def close() -> None:
        """Close what is open. Nothing is called after that but `open`."""


class IVersionedStateMachine(IStateMachine):
    """A machine that can also behave as the releases before it: for upgrades without a stop.

    While servers are upgraded one by one, old code and new must come to the same state. So new
    code behaves as `active_version` says, and an entry of the log raises that on every server
    at the same place, once every member of the cluster can. Each log begins with version 1, which
    is also what a machine of no versions has.

    A class may drop behaviour that no log and no snapshot needs any more: `oldest_version` is then
    the first version that it can; 1 where it has no such attribute.
    """

    version: int = Attribute(
        "The newest version that it can, from 1 on; the same in each instance."
    )
    active_version: int = Attribute(
        "The version to behave as, 1 in a new instance. The node sets it: before the first call "
        "but for `open`; before `restore`, to that of the snapshot; and when `switch` has "
        "returned. `apply`, `query`, `snapshot` and `restore` go by it: what `snapshot` gives "
        "must be readable by the releases that can this version."
    )

    def switch(version: int) -> None:
        """The cluster goes over to `version` with the next command: reshape the state for it.

        Called once for each switch, between two commands, in the place of the log where it
        stands; `active_version` is still the one before, and steps between may be skipped. As
        deterministic as `apply`; a snapshot that is being read must show none of it. Whatever it
        raises stops this node.
        """


@frozen
class SnapshotMeta:
    """What a snapshot says of itself besides the machine's bytes [RULES N1].

    `machine_version` is the version in force, of a machine that has versions; of another one
    what it says of itself.
    """

    index: int
    term: int
    configuration: Configuration
    configuration_index: int
    time_us: int
    machine: str = ""
    machine_version: int = 0


@frozen
class Recovered:
    """What storage found: where a server goes on after a restart.

    `snapshot` is the newest good one, or None. The log holds entries from `first_index`
    on: `first_index` is at most one above the snapshot's index. `prev_term` is the term of
    the entry before the first (0 for none). `configurations` are those in the log, by index.
    `skips` are the entries of the log that skip others: by their index, which one they name.
    `snapshot_bytes` is the size of the snapshot's machine bytes, about. `lost` is (term, index) of
    the last entry that the log held before it was damaged, where it is being repaired.
    """

    hard_state: HardState = HardState()
    snapshot: SnapshotMeta | None = None
    first_index: int = 1
    prev_term: int = 0
    runs: tuple[Run, ...] = ()
    configurations: tuple[tuple[int, Configuration], ...] = ()
    last_time_us: int = 0
    snapshot_bytes: int = 0
    skips: Mapping[int, int] = field(factory=dict)
    lost: tuple[int, int] = (0, 0)


class ISnapshotWriter(Interface):
    """A snapshot file that is being written. May be used from any one thread."""

    def write(chunk: bytes) -> None:
        """Add machine bytes."""

    def commit() -> None:
        """Make it durable under its name: sync, rename, sync the directory. Blocks."""

    def abort() -> None:
        """Remove what was written."""


class IStorage(Interface):
    """Stable storage of one server: the log with hard state, and snapshots.

    `recover` first, once; then `start`; then saves. Saves are carried out in order, off
    the reactor's thread. The first failed write or sync poisons the store: `failed` is
    called once and nothing is ever acknowledged after that [RULES D3].
    """

    full: bool = Attribute("Whether the disk has no room for new entries [RULES D4].")
    sync_count: int = Attribute("How many syncs were done, for metrics.")

    def recover() -> Recovered:
        """Read what is there. Blocks. Raises `StorageDamaged` or `StorageFailed`."""

    def start(
        call_from_thread: Callable[..., object],
        saved: Callable[[int], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        """Start the writer; `saved(ticket)` and `failed(error)` go through `call_from_thread`."""

    def save(
        ticket: int,
        hard_state: HardState | None,
        truncate_from: int | None,
        start: int,
        end: int,
        records: bytes,
        waits: bool = False,
    ) -> bool:
        """Queue one save: hard state, then truncation, then `records` [start, end).

        Tickets grow. `records` are whole records, end to end; start == end and b"" where there
        are none. Never blocks, unless it `waits`: then for a few milliseconds at most. Returns
        whether the save is durable already; then `saved` is not called for it.
        """

    def read(start: int, end: int, limit_bytes: int) -> tuple[int, bytes]:
        """Return (end, records) of saved entries from `start`: at least one, whole records.

        At most up to `end` (exclusive) and at most `limit_bytes` unless a single record is
        larger. Raises KeyError where `start` is not (or no longer, or not yet) there.
        May block for a disk read; entries that are queued but not yet written are not there.
        """

    def create_snapshot(meta: SnapshotMeta) -> ISnapshotWriter:
        """Begin a snapshot file. May be called in any thread."""

    def open_snapshot(index: int) -> tuple[SnapshotMeta, Iterator[bytes]]:
        """Open the snapshot up to `index`, verifying as it is read. Raises KeyError."""

    def mark_snapshot(ticket: int, index: int, term: int, keep_log: bool, keep_from: int) -> None:
        """Queue the mark of the committed snapshot up to `index`, answered like a save.

        `keep_log` False discards the whole log after `index` too. Then entries below `keep_from`
        may go (but for what the previous snapshot needs [RULES N7]), and older snapshots.
        """

    def stop() -> Deferred[None]:
        """Finish what is queued, stop the writer, close all files."""


CONSISTENCIES = ("linearizable", "lease", "local", "bounded")
"""What a read may ask for; see `ReadTerms`."""

HIGHEST_INDEX = (1 << 63) - 1


@frozen
class ReadTerms:
    """What a read asks of the state that it is answered from [RULES R8-R10].

    Attributes:
        consistency: `linearizable`, confirmed by a quorum, by whatever node is asked; `lease`,
            the same by the leader's lease where it has one; `local`, whatever the node has
            applied; `bounded`, the same where it is no older than `max_age_seconds`. Empty is
            `linearizable` where the node leads or passes requests on, and a redirect elsewhere.
        min_index: the state must have this index applied: what the caller wrote, or saw.
        max_age_seconds: for how long the node may not have known its state to be current; for
            `bounded`, and only for it.

    Raises:
        BadCommand: a value is none of these; the text says what would be.
    """

    consistency: str = ""
    min_index: int = 0
    max_age_seconds: float | None = None

    def __attrs_post_init__(self) -> None:
        """Refuse what means nothing."""
        word, index, age = self.consistency, self.min_index, self.max_age_seconds
        if word not in ("", *CONSISTENCIES):
            raise BadCommand(f"consistency is {word!r}; use one of {', '.join(CONSISTENCIES)}")
        if not _is_whole(index) or not 0 <= index <= HIGHEST_INDEX:
            raise BadCommand(f"min_index is {index!r}; give the index of an entry, 0 or more")
        if age is not None and (not _is_number(age) or not age >= 0 or age == math.inf):
            raise BadCommand(f"max_age is {age!r}; give seconds, 0 or more")
        if (word == "bounded") != (age is not None):
            raise BadCommand("max_age and consistency 'bounded' go together; give both or neither")

    @property
    def is_local(self) -> bool:
        """Whether the node asks nobody else."""
        return self.consistency in ("local", "bounded")

    @property
    def on_any_node(self) -> bool:
        """Whether a follower answers too, though it passes nothing on."""
        return self.consistency not in ("", "lease")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


PLAIN_TERMS = ReadTerms()


@frozen
class Indexed:
    """A result, and which state of the machine it belongs to.

    Attributes:
        value: the machine's result or answer.
        index: of a write, its entry; of a read, the last entry that its state has applied. A
            later read with `min_index=index`, on any server, sees all of it.
        age_seconds: of a read, since when the node has not known that state to be current; 0
            where a quorum or a lease confirmed it, infinity where the node never knew.
    """

    value: Value
    index: int
    age_seconds: float = 0.0


Answer = Callable[[bytes | RaftError], None]
"""Takes the packed results of a batch, or the error of the whole of it; once."""


@frozen
class Stated:
    """Packed results of a batch, and the state they belong to; see `Indexed`.

    `index` is of the last command written, or of the last entry that was applied.
    """

    results: bytes
    index: int
    age_seconds: float = 0.0


StatedAnswer = Callable[[bytes | Stated | RaftError], None]
"""As `Answer`; who asked for the index is told it."""


class IRescueService(Interface):
    """What a node answers to who saves its state, brings it back, or skips an entry.

    A provider of `IClientService` may provide this too; where it does not, such questions are
    refused. Calls, answers and errors are as there.
    """

    def begin_backup(timeout_seconds: float) -> object:
        """Begin a backup; return a Deferred of its name and of the bytes of its meta."""

    def backup_piece(name: str, number: int) -> object:
        """Return a Deferred of piece `number`, empty after the last one; in order, from 0 on."""

    def end_backup(name: str) -> None:
        """Forget a backup: it is complete, or nobody wants it any more."""

    def begin_restore(id: bytes, meta: bytes, replace: bool) -> None:
        """Take the pieces of a backup from here on; only the leader does."""

    def restore_piece(id: bytes, offset: int, piece: bytes, timeout_seconds: float) -> object:
        """Append a piece; return a Deferred that fires once it is applied."""

    def end_restore(id: bytes, size_bytes: int, digest: bytes, timeout_seconds: float) -> object:
        """Let the backup replace the state; return a Deferred of the entry's index."""

    def skip(index: int, timeout_seconds: float) -> object:
        """Let no server execute the entry; return a Deferred of the index that says so."""


class IClientService(Interface):
    """What a node answers to clients; the transport calls it, once for each box.

    Called in the reactor's thread. Batches are answered by one call of their `answer`, at
    any later time or before the method returns; calls after the first, and answers to
    clients that have gone, do nothing. `raft.transport.arguments` packs results:
    `pack_results` from outcomes, or `pack_array` from items that are encoded already.
    The other methods return their answer or a Deferred of it. All may raise (or fail with)
    a `RaftError`, which becomes the question's answer; anything else is logged and
    answered with `ERROR`, without its text.
    """

    def write_batch(
        commands: list[bytes],
        timeout_seconds: float,
        answer: StatedAnswer,
        with_index: bool = False,
        session: SessionCall | None = None,
    ) -> None:
        """Append and apply encoded `commands`, in their order, after all those before.

        Those not appended within `timeout_seconds` are dropped, as `Timeout`. The answer is
        `Stated` where `with_index` asks for it and any of them was appended. With `session`
        they are that session's commands, from its number on.
        """

    def open_session(nonce: bytes, timeout_seconds: float) -> object:
        """Return a Deferred of the `OpenedSession`; `nonce` is the client's own, 8 bytes."""

    def keep_sessions(sessions: list[bytes], timeout_seconds: float) -> object:
        """Return a Deferred of booleans: for each of `sessions`, whether it is there."""

    def close_sessions(sessions: list[bytes], timeout_seconds: float) -> object:
        """End `sessions`; return a Deferred of booleans, whether each was there."""

    def read_batch(
        queries: list[bytes], timeout_seconds: float, terms: ReadTerms, answer: StatedAnswer
    ) -> None:
        """Answer encoded `queries` from a state as `terms` say; the answer may be `Stated`."""

    def status() -> object:
        """Return what the node knows, as a plain dict, or a Deferred of it."""

    def leader() -> object:
        """Return (leader's id, its client address), both empty where none is known."""

    def set_configuration(
        members: tuple[Member, ...],
        timeout_seconds: float,
        replace: bool = False,
        expected_index: int | None = None,
        force: bool = False,
    ) -> object:
        """Add or update `members`; return a Deferred that fires once it is done.

        See `RaftService.set_configuration` for what the others mean.
        """

    def get_entry(index: int) -> object:
        """Return the committed entry as a plain dict, or a Deferred of it."""

    def transfer_leadership(target: str | None, timeout_seconds: float) -> object:
        """Hand the leadership on; return a Deferred of the new leader's id."""
