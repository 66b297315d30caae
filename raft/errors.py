"""Every way in which a request or a node can fail, cut by who must act.

This is the one table of outcomes: the Deferred API, the wire and the documentation
use it. Four branches hang from `RaftError`, and the branch alone says what a caller
may do:

- `NotApplied`: the command is definitely not applied. Try elsewhere, or later.
- `OutcomeUnknown`: it may or may not be applied. Only a session makes a repeat safe.
- `Refused`: refused for good. The same request will be refused again.
- `NodeFailed`: this node is ill and has stopped serving. Another one may be well.

Each class has one code, a short ASCII word that stands for it on the wire
(`code`), and carries its facts as attributes, in `FACTS` order. Text is for people
and never compared. `to_wire` and `from_wire` are the only translation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

Fact = str | int | bool | None


class RaftError(Exception):
    """Something went wrong in the replicated service."""

    code: ClassVar[str] = "ERROR"
    facts: ClassVar[tuple[str, ...]] = ()

    def __str__(self) -> str:
        """Return the class's sentence, then the facts or the given text."""
        given = ": ".join(str(arg) for arg in self.args)
        sentence = (type(self).__doc__ or "").strip().splitlines()[0]
        return f"{sentence} ({given})" if given else sentence

    def to_wire(self) -> dict[str, Fact]:
        """Return the facts by name, with the text under `message`; plain values only."""
        named: dict[str, Fact] = {name: getattr(self, name) for name in self.facts}
        if self.args:
            named["message"] = ": ".join(str(arg) for arg in self.args)
        return named


class NotApplied(RaftError):
    """The command was definitely not applied; try another node, or later."""

    code = "NOT_APPLIED"


class NotLeader(NotApplied):
    """This node does not lead; ask the leader."""

    code = "NOT_LEADER"
    facts = ("leader", "address")

    def __init__(self, leader: str | None = None, address: str | None = None) -> None:
        """Name the leader (a server id) and its client address (an endpoint), if known."""
        self.leader = leader
        self.address = address
        super().__init__(*([f"the leader is {leader} at {address}"] if leader else []))


class ElectionInProgress(NotApplied):
    """There is no leader at the moment; an election is under way."""

    code = "ELECTION_IN_PROGRESS"


class Overloaded(NotApplied):
    """A queue is full; slow down and try again."""

    code = "OVERLOADED"


class StorageFull(NotApplied):
    """The disk has no room for new entries; free some, reads go on."""

    code = "STORAGE_FULL"


class ConfigurationInProgress(NotApplied):
    """Another configuration change is not finished; try again when it is."""

    code = "CONFIGURATION_IN_PROGRESS"


class ConfigurationAbandoned(NotApplied):
    """The change of the configuration was taken back; the members are those before it."""

    code = "CONFIGURATION_ABANDONED"
    facts = ("server", "reason")

    def __init__(self, server: str, reason: str) -> None:
        """Name the server because of which, and say why: see to it, then try again."""
        self.server = server
        self.reason = reason
        super().__init__(f"because of {server}: {reason}")


class RestoreInProgress(NotApplied):
    """A backup is being restored; try again when that has ended."""

    code = "RESTORE_IN_PROGRESS"


class RestoreAbandoned(NotApplied):
    """The restoration was given up before its end; the state is what it was without it."""

    code = "RESTORE_ABANDONED"


class MachineHeld(NotApplied):
    """This node was started to hold its machine: it votes and replicates, and applies nothing."""

    code = "MACHINE_HELD"


class NotAppended(NotApplied):
    """The command was refused before it reached the log."""

    code = "NOT_APPENDED"


class Superseded(NotApplied):
    """Another leader's entry stands in this command's place in the log."""

    code = "SUPERSEDED"


class OutcomeUnknown(RaftError):
    """The command may or may not have been applied, or may still be."""

    code = "OUTCOME_UNKNOWN"


class StaleSequence(OutcomeUnknown):
    """The number was answered before, by its client's own word; nothing was executed for it now.

    Whoever waits for a number keeps the low mark at or below it, so this answers only
    copies that nobody waits for any more, or a command that was cancelled.
    """

    code = "STALE_SEQUENCE"


class ResultDropped(OutcomeUnknown):
    """The result is no longer kept: more followed than a session holds. It was not repeated.

    The command was applied before, exactly once, where the session's commands reached the
    log in the order of their numbers, as a leader appends them.
    """

    code = "RESULT_DROPPED"


class Timeout(RaftError):
    """The deadline passed; `appended` says whether the outcome is unknown."""

    code = "TIMEOUT"
    facts = ("appended",)

    def __init__(self, appended: bool = False, message: str = "") -> None:
        """Say whether the command had (or may have) reached the log: then it is unknown."""
        self.appended = appended
        text = message or ("the outcome is unknown" if appended else "definitely not applied")
        super().__init__(text)


class Refused(RaftError):
    """The request was refused for good."""

    code = "REFUSED"


class CommandError(Refused):
    """The state machine refused the command."""

    code = "COMMAND_ERROR"
    facts = ("reason", "detail")

    def __init__(self, reason: str, detail: str = "") -> None:
        """Carry the machine's own short `reason` code and a sentence of `detail`.

        Both are part of the replicated result: they must be the same on every server.
        """
        self.reason = reason
        self.detail = detail
        super().__init__(*([reason, detail] if detail else [reason]))


class CommandFailed(Refused):
    """The state machine raised an exception that it had not foreseen."""

    code = "COMMAND_FAILED"
    facts = ("exception",)

    def __init__(self, exception: str) -> None:
        """Carry the exception's class name; its text may differ between servers."""
        self.exception = exception
        super().__init__(exception)


class CommandTooLarge(Refused):
    """The command is larger than the limit."""

    code = "COMMAND_TOO_LARGE"
    facts = ("size_bytes", "limit_bytes")

    def __init__(self, size_bytes: int, limit_bytes: int) -> None:
        """Carry both sizes in bytes, encoded."""
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes
        super().__init__(f"{size_bytes} bytes, the limit is {limit_bytes}")


class BadCommand(Refused):
    """The command, query or request cannot be encoded or decoded."""

    code = "BAD_COMMAND"


class NoSuchNode(Refused):
    """No node of that name runs in this process."""

    code = "NO_SUCH_NODE"


class NotFound(Refused):
    """What was asked for is not there."""

    code = "NOT_FOUND"


class BadConfiguration(Refused):
    """The configuration is wrong; the text names the key and the remedy."""

    code = "BAD_CONFIGURATION"

    def __str__(self) -> str:
        """Return the given text alone: it says all that the class's sentence does, and more."""
        return ": ".join(str(arg) for arg in self.args) or super().__str__()


class BadBackup(Refused):
    """The backup cannot be used; the text says why, and what would help."""

    code = "BAD_BACKUP"


class WouldReplace(Refused):
    """The cluster holds state already, which restoring a backup would replace."""

    code = "WOULD_REPLACE"


class PeerRefused(Refused):
    """The other side belongs to another cluster, server or protocol version."""

    code = "PEER_REFUSED"


class Unauthorized(Refused):
    """The caller may not do this."""

    code = "UNAUTHORIZED"


class SessionExpired(Refused):
    """The session is gone; the command was not executed."""

    code = "SESSION_EXPIRED"


class NodeFailed(RaftError):
    """This node is ill and has stopped serving."""

    code = "NODE_FAILED"


class StorageFailed(NodeFailed):
    """Writing to stable storage failed; the node stopped before it could promise anything."""

    code = "STORAGE_FAILED"


class StorageDamaged(StorageFailed):
    """Stored bytes are damaged; the text names the file, the offset and the remedy."""

    code = "STORAGE_DAMAGED"
    facts = ("path", "offset")

    def __init__(self, path: str, offset: int, message: str) -> None:
        """Name the file, the byte offset and what to do."""
        self.path = path
        self.offset = offset
        super().__init__(f"{path}, offset {offset}", message)


class LogLost(NodeFailed):
    """The machine has applied what this server's log does not hold; the log was lost or replaced.

    Entries that this server acknowledged are gone with it, so it must not vote under its old name:
    remove it from the cluster, and let it join again with empty directories, the machine's too.
    Or bring the data directory back that belongs to the machine's state, if nobody has started
    the server since.
    """

    code = "LOG_LOST"
    facts = ("last_applied", "last_index")

    def __init__(self, last_applied: int, last_index: int) -> None:
        """Carry how far the machine is, and the last entry of the log."""
        self.last_applied = last_applied
        self.last_index = last_index
        what = f"the machine has applied entry {last_applied}, "
        if last_applied > last_index:
            what += f"the log ends with entry {last_index}"
        else:
            what += "the log holds another one in its place"
        super().__init__(
            f"{what}: remove this server from the cluster and let it join again with empty "
            "directories, the machine's too; or bring back the data directory that belongs to them"
        )


class InvariantViolated(NodeFailed):
    """A promise of the protocol was found broken; the server stopped rather than be wrong."""

    code = "INVARIANT_VIOLATED"


class Diverged(NodeFailed):
    """This server's state is not the cluster's; it keeps its data, and serves and votes no more.

    Its machine has answered a command otherwise than the machines of a majority. `index` is the
    entry: the first one with another digest, where `is_exact`, else the first at which it was seen.
    """

    code = "DIVERGED"
    facts = ("index", "is_exact")

    def __init__(self, index: int, is_exact: bool = True, message: str = "") -> None:
        """Name the entry; `message` takes the place of all else in the text."""
        self.index = index
        self.is_exact = is_exact
        at = f"from entry {index} on" if is_exact else f"at entry {index} or before"
        super().__init__(
            message
            or f"its machine has diverged {at}: keep its data directory to find out why, then "
            "remove this server from the cluster and let it join again with empty directories, the "
            "machine's too"
        )


class StateMachineFailed(NodeFailed):
    """The application's state machine failed on this node, which stopped."""

    code = "STATE_MACHINE_FAILED"


class NodeStopped(NotApplied):
    """The node is stopped or stopping; nothing was appended."""

    code = "NODE_STOPPED"


def _tree(root: type[RaftError]) -> list[type[RaftError]]:
    return [root, *(leaf for child in root.__subclasses__() for leaf in _tree(child))]


BY_CODE: dict[str, type[RaftError]] = {error.code: error for error in _tree(RaftError)}
"""The table, by code."""


def from_wire(code: str, facts: Mapping[str, object]) -> RaftError:
    """Rebuild the error that `code` and `facts` of `to_wire` stand for.

    An unknown code (a newer peer's) becomes `OutcomeUnknown`: the only answer that
    promises nothing. Facts of the wrong type are dropped to their text.
    """
    kind = BY_CODE.get(code)
    if kind is None:
        return OutcomeUnknown(f"the node answered with the unknown code {code!r}")
    named = {name: facts.get(name) for name in kind.facts}
    message = facts.get("message")
    if not kind.facts:
        return kind(*([str(message)] if message else []))
    try:
        return _with_facts(kind, named, str(message or ""))
    except (TypeError, ValueError):
        return OutcomeUnknown(f"the node answered {code} with unreadable facts")


def _with_facts(kind: type[RaftError], named: dict[str, object], message: str) -> RaftError:
    if kind is NotLeader:
        return NotLeader(_text(named["leader"]), _text(named["address"]))
    if kind is ConfigurationAbandoned:
        return ConfigurationAbandoned(_text(named["server"]) or "?", _text(named["reason"]) or "?")
    if kind is Timeout:
        return Timeout(bool(named["appended"]), message)
    if kind is CommandError:
        return CommandError(_text(named["reason"]) or "?", _text(named["detail"]) or "")
    if kind is CommandFailed:
        return CommandFailed(_text(named["exception"]) or "?")
    if kind is CommandTooLarge:
        return CommandTooLarge(_number(named["size_bytes"]), _number(named["limit_bytes"]))
    if kind is StorageDamaged:
        return StorageDamaged(_text(named["path"]) or "?", _number(named["offset"]), message)
    if kind is Diverged:
        return Diverged(_number(named["index"]), bool(named["is_exact"]), message)
    if kind is LogLost:
        return LogLost(_number(named["last_applied"]), _number(named["last_index"]))
    raise InvariantViolated(f"{kind.__name__} has facts but no way back from the wire")


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _number(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(f"expected a number, got {value!r}")
    return value
