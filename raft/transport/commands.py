"""Every command on the wire, declared for `twisted.protocols.amp`.

This is the published contract: a stock `amp.AMP` with these declarations, or with its
own copy of them, can talk to a node in both roles. `docs/reference/wire.md` gives each in
prose. Raft's messages are one way, in both directions, and stand one to one beside
`raft.core.messages`; a client's questions have one answer each.

The errors of a question carry `RaftError.code` as AMP's error code, and as description
a JSON object of the error's facts. Those of single items of a batch ride in its results.

The whole contract stands in one place, in more than 500 lines.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar, Final

from twisted.protocols import amp

from raft import errors
from raft.transport.arguments import LargeBytes, error_from_description

PROTOCOL_VERSION: Final = 1
"""The version of all that is in this module; `Hello` names it."""


def _argument(kind: Callable[..., amp.Argument], optional: bool = False) -> amp.Argument:
    return kind(optional=optional)


_BOOLEAN = _argument(amp.Boolean)
_OPTIONAL_BOOLEAN = _argument(amp.Boolean, optional=True)
_INTEGER = _argument(amp.Integer)
_OPTIONAL_INTEGER = _argument(amp.Integer, optional=True)
_OPTIONAL_FLOAT = _argument(amp.Float, optional=True)
_STRING = _argument(amp.String)
_OPTIONAL_STRING = _argument(amp.String, optional=True)
_UNICODE = _argument(amp.Unicode)
_OPTIONAL_UNICODE = _argument(amp.Unicode, optional=True)
_LARGE_BYTES = LargeBytes()
_OPTIONAL_LARGE_BYTES = LargeBytes(optional=True)


def _by_depth() -> dict[type[Exception], bytes]:
    # AMP takes the first entry that an exception is an instance of: leaves must come first.
    ordered = sorted(errors.BY_CODE.values(), key=lambda error: -len(error.__mro__))
    table: dict[type[Exception], bytes] = {error: error.code.encode() for error in ordered}
    table[Exception] = b"ERROR"
    return table


class Question(amp.Command):
    """A command with one answer, which may be any of the errors in `raft.errors`."""

    errors: ClassVar = _by_depth()


def _question(command: type[Question]) -> type[Question]:
    # Errors have constructors of their own, which AMP's habit of calling them with the
    # description would not meet.
    command.reverseErrors = {  # type: ignore[attr-defined]
        code.encode(): partial(error_from_description, code) for code in errors.BY_CODE
    }
    return command


class OneWay(amp.Command):
    """A command without an answer."""

    requiresAnswer = False


@_question
class Hello(Question):
    """The handshake: who speaks, and whom it means to reach; answered by who listens.

    The first command on a connection between servers, in the direction of the dial; a client
    may leave it out. `role` is `peer` or `client`. `cluster_id` may be empty on a server that
    belongs to no cluster yet, and on a client that does not care. `target` is the id of the
    server meant, or empty. `address` is where the speaker can be dialled, or empty. `lives` are
    the starts of its data directory. `excluded_index` tells who asked that it was removed.
    `term` is the last one that is durable at the speaker. `digests` tells who dialled that it may
    send a `StateDigest`. `committed` tells that a leader of the speaker's cluster has committed an
    entry: who has none of it founds no other. `member_index` is that of the committed
    configuration that names the speaker's very directory: who lags may know another under its id.
    """

    arguments: ClassVar = [
        (b"version", _INTEGER),
        (b"cluster_id", _UNICODE),
        (b"server_id", _UNICODE),
        (b"incarnation", _UNICODE),
        (b"role", _UNICODE),
        (b"target", _OPTIONAL_UNICODE),
        (b"address", _OPTIONAL_UNICODE),
        (b"oldest_machine", _OPTIONAL_INTEGER),
        (b"newest_machine", _OPTIONAL_INTEGER),
        (b"life_count", _OPTIONAL_INTEGER),
        (b"lives", _OPTIONAL_UNICODE),
        (b"term", _OPTIONAL_INTEGER),
        (b"committed", _OPTIONAL_BOOLEAN),
        (b"member_index", _OPTIONAL_INTEGER),
    ]
    response: ClassVar = [
        (b"version", _INTEGER),
        (b"cluster_id", _UNICODE),
        (b"server_id", _UNICODE),
        (b"incarnation", _UNICODE),
        (b"oldest_machine", _OPTIONAL_INTEGER),
        (b"newest_machine", _OPTIONAL_INTEGER),
        (b"life_count", _OPTIONAL_INTEGER),
        (b"lives", _OPTIONAL_UNICODE),
        (b"excluded_index", _OPTIONAL_INTEGER),
        (b"term", _OPTIONAL_INTEGER),
        (b"digests", _OPTIONAL_INTEGER),
        (b"committed", _OPTIONAL_BOOLEAN),
        (b"member_index", _OPTIONAL_INTEGER),
    ]


class PreVote(OneWay):
    """See `raft.core.messages.PreVote`."""

    arguments: ClassVar = [
        (b"term", _INTEGER),
        (b"last_log_index", _INTEGER),
        (b"last_log_term", _INTEGER),
    ]


class PreVoteResult(OneWay):
    """See `raft.core.messages.PreVoteResult`."""

    arguments: ClassVar = [(b"term", _INTEGER), (b"vote_granted", _BOOLEAN)]


class RequestVote(OneWay):
    """See `raft.core.messages.RequestVote`."""

    arguments: ClassVar = [
        (b"term", _INTEGER),
        (b"last_log_index", _INTEGER),
        (b"last_log_term", _INTEGER),
        (b"leadership_transfer", _OPTIONAL_BOOLEAN),
    ]


class RequestVoteResult(OneWay):
    """See `raft.core.messages.RequestVoteResult`."""

    arguments: ClassVar = [(b"term", _INTEGER), (b"vote_granted", _BOOLEAN)]


class AppendEntries(OneWay):
    """See `raft.core.messages.AppendEntries`; `records` holds the entries, end to end.

    Where `fragment_bytes` is there and not 0, so many bytes of records came before, in
    `AppendFragment`s of the same term and sequence on this connection; `records` is the rest.
    """

    arguments: ClassVar = [
        (b"term", _INTEGER),
        (b"prev_log_index", _INTEGER),
        (b"prev_log_term", _INTEGER),
        (b"leader_commit", _INTEGER),
        (b"sequence", _INTEGER),
        (b"records", _LARGE_BYTES),
        (b"fragment_bytes", _OPTIONAL_INTEGER),
    ]


class AppendFragment(OneWay):
    """A piece of the records of an `AppendEntries` that is too large for one box.

    Pieces come in order, without gaps; `offset_bytes` is where this one begins. A piece at
    offset 0 begins anew, and what came before is dropped. Each counts as hearing the leader.
    """

    arguments: ClassVar = [
        (b"term", _INTEGER),
        (b"sequence", _INTEGER),
        (b"offset_bytes", _INTEGER),
        (b"piece", _LARGE_BYTES),
    ]


class AppendEntriesResult(OneWay):
    """See `raft.core.messages.AppendEntriesResult`."""

    arguments: ClassVar = [
        (b"term", _INTEGER),
        (b"success", _BOOLEAN),
        (b"match_index", _INTEGER),
        (b"sequence", _INTEGER),
        (b"last_log_index", _INTEGER),
        (b"hint_index", _OPTIONAL_INTEGER),
        (b"hint_term", _OPTIONAL_INTEGER),
        (b"promise_seconds", _OPTIONAL_FLOAT),
        (b"repairing", _OPTIONAL_BOOLEAN),
    ]


class InstallSnapshot(OneWay):
    """See `raft.core.messages.InstallSnapshot`, with one chunk of the snapshot's bytes.

    `configuration` is MessagePack `[[[id, incarnation, peer address, client address,
    voter], ...], [outgoing id, ...]]`. `checksum` is the CRC-32 of `chunk`, which begins at
    `offset_bytes`. `total_bytes` is the snapshot's size, or -1 while it is not known. `meta`
    is the snapshot's own description, opaque to the wire. `digest` is the SHA-256 of all its
    bytes, with the last chunk.
    """

    arguments: ClassVar = [
        (b"term", _INTEGER),
        (b"last_included_index", _INTEGER),
        (b"last_included_term", _INTEGER),
        (b"configuration", _LARGE_BYTES),
        (b"configuration_index", _INTEGER),
        (b"sequence", _INTEGER),
        (b"done", _BOOLEAN),
        (b"offset_bytes", _INTEGER),
        (b"chunk", _LARGE_BYTES),
        (b"checksum", _INTEGER),
        (b"total_bytes", _OPTIONAL_INTEGER),
        (b"meta", _OPTIONAL_LARGE_BYTES),
        (b"digest", _OPTIONAL_STRING),
    ]


class InstallSnapshotResult(OneWay):
    """See `raft.core.messages.InstallSnapshotResult`."""

    arguments: ClassVar = [
        (b"term", _INTEGER),
        (b"match_index", _INTEGER),
        (b"sequence", _INTEGER),
        (b"done", _BOOLEAN),
        (b"offset_bytes", _INTEGER),
    ]


class StateDigest(OneWay):
    """See `raft.transport.wire.StateDigest`; only for servers whose answer to `Hello` allows it."""

    arguments: ClassVar = [
        (b"index", _INTEGER),
        (b"digest", _OPTIONAL_STRING),
        (b"origin", _OPTIONAL_INTEGER),
        (b"asks", _OPTIONAL_BOOLEAN),
        (b"diverged", _OPTIONAL_BOOLEAN),
        (b"copied", _OPTIONAL_BOOLEAN),
    ]


class TimeoutNow(OneWay):
    """See `raft.core.messages.TimeoutNow`."""

    arguments: ClassVar = [(b"term", _INTEGER)]


class ReadIndex(OneWay):
    """See `raft.core.messages.ReadIndex`."""

    arguments: ClassVar = [(b"term", _INTEGER), (b"request", _INTEGER)]


class ReadIndexResult(OneWay):
    """See `raft.core.messages.ReadIndexResult`; without `index` the leader cannot tell."""

    arguments: ClassVar = [
        (b"term", _INTEGER),
        (b"request", _INTEGER),
        (b"index", _OPTIONAL_INTEGER),
    ]


@_question
class Write(Question):
    """Replicate and apply commands, in their order; answer when all are applied.

    `commands` is a MessagePack array of byte strings, each an encoded command.
    `results` is a MessagePack array of as many pairs: `["", result]`, or `[code, facts]`
    with a code of `raft.errors`. What has not been appended within `timeout_ms` is dropped.
    Where `with_index` is true, `index` is the log index of the last command appended.

    Where `session` is there, the commands have the numbers `first_sequence`,
    `first_sequence` + 1 and so on in that session (16 bytes, as `OpenSession` answers), and
    `low_mark` is the lowest number for which the client has no answer yet. The box may be
    sent again, to any node: each command takes effect once.
    """

    arguments: ClassVar = [
        (b"commands", _LARGE_BYTES),
        (b"timeout_ms", _OPTIONAL_INTEGER),
        (b"with_index", _OPTIONAL_BOOLEAN),
        (b"session", _OPTIONAL_STRING),
        (b"first_sequence", _OPTIONAL_INTEGER),
        (b"low_mark", _OPTIONAL_INTEGER),
    ]
    response: ClassVar = [(b"results", _LARGE_BYTES), (b"index", _OPTIONAL_INTEGER)]


@_question
class OpenSession(Question):
    """Open a session, within which a command takes effect once, however often it is sent.

    `nonce` is 8 random bytes of the client. A question that is repeated opens another
    session; the one that nobody uses expires. The session ends `timeout_us` microseconds of
    the cluster's time after its last command or keep-alive; `results` results are kept for it,
    and `results_bytes` bytes of them.
    """

    arguments: ClassVar = [(b"nonce", _STRING), (b"timeout_ms", _OPTIONAL_INTEGER)]
    response: ClassVar = [
        (b"session", _STRING),
        (b"timeout_us", _INTEGER),
        (b"results", _INTEGER),
        (b"results_bytes", _INTEGER),
    ]


@_question
class KeepSessions(Question):
    """Keep sessions that are not used; tell for each whether it is there.

    `sessions` is a MessagePack array of at most 1,000 ids, `present` of as many booleans.
    """

    arguments: ClassVar = [(b"sessions", _LARGE_BYTES), (b"timeout_ms", _OPTIONAL_INTEGER)]
    response: ClassVar = [(b"present", _LARGE_BYTES)]


@_question
class CloseSessions(Question):
    """End sessions; tell for each whether it was there. As in `KeepSessions`."""

    arguments: ClassVar = [(b"sessions", _LARGE_BYTES), (b"timeout_ms", _OPTIONAL_INTEGER)]
    response: ClassVar = [(b"present", _LARGE_BYTES)]


@_question
class Read(Question):
    """Answer queries; arguments and results as in `Write`.

    `consistency` is `linearizable`, `lease`, `local` or `bounded`. Where it is not there, it is
    `linearizable` for a leader or a node that passes requests on, and others answer
    `NOT_LEADER`. `min_index` must be applied first; `max_age_ms` belongs to `bounded`. A node
    refuses what it does not know with `BAD_COMMAND`. Where any of the three is there, the
    answer tells the `index` of its state, and `age_ms` where the node knows it.
    """

    arguments: ClassVar = [
        (b"queries", _LARGE_BYTES),
        (b"timeout_ms", _OPTIONAL_INTEGER),
        (b"consistency", _OPTIONAL_UNICODE),
        (b"min_index", _OPTIONAL_INTEGER),
        (b"max_age_ms", _OPTIONAL_INTEGER),
    ]
    response: ClassVar = [
        (b"results", _LARGE_BYTES),
        (b"index", _OPTIONAL_INTEGER),
        (b"age_ms", _OPTIONAL_INTEGER),
    ]


@_question
class Status(Question):
    """Tell what the node knows of itself and its cluster: `status` is a MessagePack map."""

    response: ClassVar = [(b"status", _LARGE_BYTES)]


@_question
class Leader(Question):
    """Name the leader and its client address; both are empty while none is known."""

    response: ClassVar = [(b"leader", _UNICODE), (b"address", _UNICODE)]


@_question
class SetConfiguration(Question):
    """Add or update `members`; answered once the change is complete.

    A MessagePack array of maps with `id`, and optionally `peer_address`,
    `client_address`, `voter` (true where it is not there) and `incarnation`. With `replace`
    they are the cluster, and nobody else. `expected_index` is the index of the configuration
    from which they were computed, `force` goes on where too few of the voters are heard.
    """

    arguments: ClassVar = [
        (b"members", _LARGE_BYTES),
        (b"timeout_ms", _OPTIONAL_INTEGER),
        (b"replace", _OPTIONAL_BOOLEAN),
        (b"expected_index", _OPTIONAL_INTEGER),
        (b"force", _OPTIONAL_BOOLEAN),
    ]
    response: ClassVar = []


@_question
class GetEntry(Question):
    """Return the committed entry at `index`: `entry` is a MessagePack map."""

    arguments: ClassVar = [(b"index", _INTEGER)]
    response: ClassVar = [(b"entry", _LARGE_BYTES)]


@_question
class TransferLeadership(Question):
    """Hand the leadership to `target`, or to the most up-to-date voter where it is empty."""

    arguments: ClassVar = [
        (b"target", _OPTIONAL_UNICODE),
        (b"timeout_ms", _OPTIONAL_INTEGER),
    ]
    response: ClassVar = [(b"leader", _UNICODE)]


@_question
class BeginBackup(Question):
    """Begin a backup of the node's state, of this moment or later.

    `name` is what its pieces are asked for by, for a minute from the last one on; `meta` is what
    it says of itself, a MessagePack map as in a backup file. `timeout_ms` is for the cluster to
    confirm how far the state must be.
    """

    arguments: ClassVar = [(b"timeout_ms", _OPTIONAL_INTEGER)]
    response: ClassVar = [(b"name", _UNICODE), (b"meta", _LARGE_BYTES)]


@_question
class BackupPiece(Question):
    """Return piece `number` of a backup, from 0 on and in order; empty after the last one.

    The last one that was given may be asked for again.
    """

    arguments: ClassVar = [(b"name", _UNICODE), (b"number", _INTEGER)]
    response: ClassVar = [(b"piece", _LARGE_BYTES)]


@_question
class EndBackup(Question):
    """Forget a backup: it is complete, or nobody wants it any more."""

    arguments: ClassVar = [(b"name", _UNICODE)]
    response: ClassVar = []


@_question
class BeginRestore(Question):
    """Ask the leader to take the pieces of a backup; nothing is changed before `EndRestore`.

    `id` is 16 random bytes of the asker's choice; the same one may begin anew. `meta` is what
    stands in the backup's header. With `replace` a state that is there already may be replaced.
    """

    arguments: ClassVar = [
        (b"id", _LARGE_BYTES),
        (b"meta", _LARGE_BYTES),
        (b"replace", _OPTIONAL_BOOLEAN),
    ]
    response: ClassVar = []


@_question
class RestorePiece(Question):
    """Append the piece of the backup's content that begins at `offset`; answered once applied."""

    arguments: ClassVar = [
        (b"id", _LARGE_BYTES),
        (b"offset", _INTEGER),
        (b"piece", _LARGE_BYTES),
        (b"timeout_ms", _OPTIONAL_INTEGER),
    ]
    response: ClassVar = []


@_question
class EndRestore(Question):
    """Let the backup replace the state; `index` is that of the entry from which on it has."""

    arguments: ClassVar = [
        (b"id", _LARGE_BYTES),
        (b"size_bytes", _INTEGER),
        (b"digest", _LARGE_BYTES),
        (b"timeout_ms", _OPTIONAL_INTEGER),
    ]
    response: ClassVar = [(b"index", _INTEGER)]


@_question
class Skip(Question):
    """Let no server execute the command of entry `index`; the answer's `index` says so.

    The leader does it where it holds its machine, and answers once that is committed.
    """

    arguments: ClassVar = [(b"index", _INTEGER), (b"timeout_ms", _OPTIONAL_INTEGER)]
    response: ClassVar = [(b"index", _INTEGER)]


QUESTIONS: Final[tuple[type[Question], ...]] = (
    Hello,
    Write,
    OpenSession,
    KeepSessions,
    CloseSessions,
    Read,
    Status,
    Leader,
    SetConfiguration,
    GetEntry,
    TransferLeadership,
    BeginBackup,
    BackupPiece,
    EndBackup,
    BeginRestore,
    RestorePiece,
    EndRestore,
    Skip,
)
"""All questions, for tables of permissions and their tests."""

MESSAGES: Final[tuple[type[OneWay], ...]] = (
    PreVote,
    PreVoteResult,
    RequestVote,
    RequestVoteResult,
    AppendEntries,
    AppendFragment,
    AppendEntriesResult,
    InstallSnapshot,
    InstallSnapshotResult,
    StateDigest,
    TimeoutNow,
    ReadIndex,
    ReadIndexResult,
)
"""All one-way commands between servers."""
