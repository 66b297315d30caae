"""The handshake: who speaks, whom it means to reach, and whether they belong together.

Nothing else that arrives on a connection is believed before this. Both sides judge: the
listener judges the greeting, the dialler the answer to it.
"""

from __future__ import annotations

from typing import Final

from attrs import frozen

from raft.errors import PeerRefused
from raft.lives import KEPT, Lives
from raft.transport.arguments import describe_error
from raft.transport.boxes import Box, encode_box
from raft.transport.commands import PROTOCOL_VERSION
from raft.transport.wire import BadMessage

NAME_BYTES: Final = 255
"""The longest id in a greeting, encoded."""
TERM_DIGITS: Final = 19
ADDRESS_BYTES: Final = 512
"""The longest address in a greeting, encoded."""


@frozen
class Identity:
    """Who this server is; `cluster_id` is empty until it belongs to a cluster.

    `address` is where peers dial it: a server that knows no members yet answers there.
    `versions` are the oldest and the newest version that its machine can. `lives` are the starts
    of its data directory. `term` is the last one that is durable, or 0 where that is not told.
    `digests` is the format of the digests that it compares, or 0. `committed` tells that a leader
    of its cluster has committed an entry, as far as it knows. `member_index` is that of the
    committed configuration that names this very directory as a member, or 0.
    """

    cluster_id: str
    server_id: str
    incarnation: str
    address: str = ""
    versions: tuple[int, int] = (1, 1)
    lives: Lives = Lives()
    term: int = 0
    digests: int = 0
    committed: bool = False
    member_index: int = 0


@frozen
class Greeting:
    """What the other side said of itself in its handshake, before it is believed.

    `role` is `peer` or `client`. `target` is whom it meant to reach, or empty. `address` is
    where it can be dialled, or empty. `versions` are the oldest and the newest version that its
    machine can. `lives` are the starts of its data directory. `excluded_index` is that of a
    committed configuration of which the other side is no member, in the answer to it; else 0.
    `term`, `digests`, `committed` and `member_index` are as in `Identity`.
    """

    version: int
    cluster_id: str
    server_id: str
    incarnation: str
    role: str = "peer"
    target: str = ""
    address: str = ""
    versions: tuple[int, int] = (1, 1)
    lives: Lives = Lives()
    excluded_index: int = 0
    term: int = 0
    digests: int = 0
    committed: bool = False
    member_index: int = 0


def encode_greeting(identity: Identity, role: str, target: str, ask: bytes) -> bytes:
    """Return the box of `Hello`, asked under the tag `ask`."""
    return encode_box(
        [
            (b"_ask", ask),
            (b"_command", b"Hello"),
            *_names(identity),
            (b"role", role.encode()),
            (b"target", target.encode()),
            (b"address", identity.address.encode()),
            *_versions(identity),
            *_lives(identity),
            *_term(identity),
            *_committed(identity),
        ]
    )


def encode_answer(identity: Identity, ask: bytes, excluded_index: int = 0) -> bytes:
    """Return the box that answers a `Hello` asked under the tag `ask`."""
    pairs = [(b"_answer", ask), *_names(identity), *_versions(identity), *_lives(identity)]
    pairs += _term(identity)
    if excluded_index:
        pairs.append((b"excluded_index", b"%d" % excluded_index))
    if identity.digests:
        pairs.append((b"digests", b"%d" % identity.digests))
    return encode_box(pairs + _committed(identity))


def encode_refusal(reason: str, ask: bytes, is_outlived: bool = False) -> bytes:
    """Return the box that refuses a `Hello`.

    `is_outlived` tells the asker that its cluster knows it with another data directory.
    """
    pairs = [
        (b"_error", ask),
        (b"_error_code", PeerRefused.code.encode()),
        (b"_error_description", describe_error(PeerRefused(reason))),
    ]
    return encode_box([*pairs, (b"outlived", b"True")] if is_outlived else pairs)


def tells_outlived(box: Box) -> bool:
    """Tell whether the refusal in `box` says that the asker's cluster lives without it."""
    return box.get(b"outlived") == b"True"


def _names(identity: Identity) -> list[tuple[bytes, bytes]]:
    return [
        (b"version", b"%d" % PROTOCOL_VERSION),
        (b"cluster_id", identity.cluster_id.encode()),
        (b"server_id", identity.server_id.encode()),
        (b"incarnation", identity.incarnation.encode()),
    ]


def _versions(identity: Identity) -> list[tuple[bytes, bytes]]:
    """Return what is said of the machine: nothing where it can version 1 alone."""
    oldest, newest = identity.versions
    if newest == 1:
        return []
    return [(b"oldest_machine", b"%d" % oldest), (b"newest_machine", b"%d" % newest)]


def _lives(identity: Identity) -> list[tuple[bytes, bytes]]:
    """Return what is said of the starts of the directory: nothing where they are not known."""
    lives = identity.lives
    if not lives.count:
        return []
    return [(b"life_count", b"%d" % lives.count), (b"lives", " ".join(lives.names).encode())]


def _term(identity: Identity) -> list[tuple[bytes, bytes]]:
    return [(b"term", b"%d" % identity.term)] if identity.term else []


def _committed(identity: Identity) -> list[tuple[bytes, bytes]]:
    pairs = [(b"committed", b"True")] if identity.committed else []
    if identity.member_index:
        pairs.append((b"member_index", b"%d" % identity.member_index))
    return pairs


def read_greeting(box: Box) -> Greeting:
    """Return the greeting in a `Hello` or in the answer to one.

    Raises:
        BadMessage: a key is missing or unreadable.
    """
    versions = (1, 1)
    if b"newest_machine" in box:
        versions = _number(box, b"oldest_machine"), _number(box, b"newest_machine")
        if not 1 <= versions[0] <= versions[1]:
            raise BadMessage(f"Hello: a machine of versions {versions[0]} to {versions[1]}")
    return Greeting(
        _number(box, b"version"),
        _text(box, b"cluster_id"),
        _text(box, b"server_id"),
        _text(box, b"incarnation"),
        _text(box, b"role") if b"role" in box else "peer",
        _text(box, b"target") if b"target" in box else "",
        _text(box, b"address", ADDRESS_BYTES) if b"address" in box else "",
        versions,
        _read_lives(box),
        _number(box, b"excluded_index", TERM_DIGITS) if b"excluded_index" in box else 0,
        _number(box, b"term", TERM_DIGITS) if b"term" in box else 0,
        _number(box, b"digests") if b"digests" in box else 0,
        box.get(b"committed") == b"True",
        _number(box, b"member_index", TERM_DIGITS) if b"member_index" in box else 0,
    )


def _read_lives(box: Box) -> Lives:
    if b"life_count" not in box:
        return Lives()
    lives = Lives(_number(box, b"life_count"), tuple(_text(box, b"lives").split(" ")))
    if not 0 < len(lives.names) <= min(KEPT, lives.count):
        raise BadMessage(f"Hello: {len(lives.names)} names for {lives.count} lives")
    return lives


def _number(box: Box, key: bytes, most_digits: int = 10) -> int:
    text = _text(box, key)
    if not text.isascii() or not text.isdigit() or len(text) > most_digits:
        raise BadMessage(f"Hello: {key.decode()} is {text!r}, not a number")
    return int(text)


def _text(box: Box, key: bytes, limit_bytes: int = NAME_BYTES) -> str:
    value = box.get(key)
    if value is None:
        raise BadMessage(f"Hello lacks {key.decode()}")
    if len(value) > limit_bytes:
        raise BadMessage(f"Hello: {key.decode()} has {len(value)} bytes, {limit_bytes} are allowed")
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadMessage(f"Hello: {key.decode()} is not UTF-8") from error
    if not text.isprintable():
        # It goes into logs and status pages: a newline there would forge lines.
        raise BadMessage(f"Hello: {key.decode()} is {text!r}: it must be printable")
    return text


def _left_behind(ours: str, theirs: str) -> str:
    """Say what a server finds that belongs to the same cluster before, or after, a recovery."""
    remedy = (
        "empty the data directory of the one that was left behind, remove [[members]] from its "
        "file, start it, and let it join again (raft join)"
    )
    if "+" not in theirs:
        return f"its cluster {theirs} was recovered as {ours} without it: {remedy}"
    if "+" not in ours:
        return f"this server's cluster {ours} was recovered as {theirs} without it: {remedy}"
    return f"cluster {ours.partition('+')[0]} was recovered as {ours} and as {theirs}: {remedy}"


def objection(identity: Identity, greeting: Greeting, role: str, expected: str = "") -> str | None:
    """Return why `greeting` does not fit this server, or None.

    `role` is the one this place is for. `expected` is the id of the server that was
    dialled, on the dialler's side.
    """
    if greeting.version > PROTOCOL_VERSION:
        return (
            f"it speaks version {greeting.version} of the protocol and this server only up to "
            f"{PROTOCOL_VERSION}: upgrade this server"
        )
    if greeting.role != role:
        return f"this address is for {role}s, not for {greeting.role}s"
    ours, theirs = identity.cluster_id, greeting.cluster_id
    if ours and theirs and ours != theirs:
        if ours.partition("+")[0] == theirs.partition("+")[0]:
            return _left_behind(ours, theirs)
        return f"it belongs to cluster {theirs}, this server to {ours}: check the addresses"
    if greeting.target and greeting.target != identity.server_id:
        return (
            f"it means to reach server {greeting.target}, this is {identity.server_id}: "
            "check the addresses"
        )
    if expected and greeting.server_id != expected:
        return f"it is server {greeting.server_id}, not {expected}: check the addresses"
    if role == "peer" and not greeting.server_id:
        return "it names no server id"
    if role == "peer" and greeting.server_id == identity.server_id:
        return f"it calls itself {greeting.server_id}, as this server does"
    return None
