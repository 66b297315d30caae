"""node.toml, read into frozen values.

The file is read once, whole, before anything is started. What is wrong with it is said in
one line that names the file, the key, the value and the remedy:

    node.toml: timings.election_timeout: expected a number of seconds from 0.002 to 600, got
    "300ms"; write it without a unit, such as 0.3

One class stands for each table; each field names its reader (see `raft.settings`). Rules
between fields follow the reading, in `_check_together`.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
import stat
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import attrs
from attrs import field, frozen

from raft import addresses
from raft.core.configuration import Configuration, Member
from raft.errors import BadConfiguration
from raft.interfaces import IOnDiskStateMachine, IStateMachine
from raft.settings import (
    as_dialled,
    as_flag,
    as_listening,
    as_name,
    as_seconds,
    as_text,
    as_whole,
    keyed,
    nearest,
    read_by,
    read_section,
    read_table,
    refuse_unknown,
    shown,
)
from raft.transport.endpoints import parse_dial, parse_listen

FILE_BYTES = 1 << 20
HEARTBEATS_IN_TIMEOUT = 2
"""The election timeout must be at least so many heartbeats: one may be late or lost."""

MACHINE_DIRECTORY = "machine"
"""Where in the data directory a machine lives that keeps its own state on the disk."""

LARGEST_DRIFT = 10.0
"""A larger factor leaves no lease worth having."""

LARGEST_FACTOR = 1000.0
"""Past this the size of the last snapshot would mean nothing."""

SLOWEST_RATE = 65_536

MACHINES: Mapping[str, str] = {
    "kv": "raft.machines.kv:KeyValueStore",
    "echo": "raft.machines.echo:Echo",
    "sqlite": "raft.machines.sqlite:SQLiteDatabase",
    "stack": "raft.machines.stack:Stack",
}
"""The built-in state machines, by the name that `node.machine` gives them."""

_CLASS = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)


def _machine(value: object) -> str:
    text = as_text(value)
    if text in MACHINES or _CLASS.fullmatch(text):
        return text
    raise ValueError(
        f"expected {', '.join(sorted(MACHINES))} or package.module:ClassName, got {shown(value)}"
        f"{nearest(text, MACHINES)}"
    )


def _drift(value: object) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and (value == 0 or 1 <= value <= LARGEST_DRIFT):  # type: ignore[operator]
        return float(value)  # type: ignore[arg-type]
    raise ValueError(
        f"expected 0 (no leases) or a factor from 1 to {LARGEST_DRIFT:g}, got {shown(value)}; "
        "1.1 is generous for ordinary machines"
    )


def _factor(value: object) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and 0 <= value <= LARGEST_FACTOR:  # type: ignore[operator]
        return float(value)  # type: ignore[arg-type]
    raise ValueError(
        f"expected 0 (never) or a number up to {LARGEST_FACTOR:g}, got {shown(value)}; "
        "4 writes a snapshot for every four times its size of log"
    )


def _rate(value: object) -> int:
    read = as_whole(0, 1 << 40)(value)
    if 0 < read < SLOWEST_RATE:  # type: ignore[operator]
        raise ValueError(
            f"expected 0 (no limit) or at least {SLOWEST_RATE} bytes a second, got {shown(value)}; "
            "a snapshot that is sent more slowly would never be over"
        )
    return read  # type: ignore[return-value]


@frozen
class NodeTable:
    """`[node]`: who this node is."""

    id: str = field(metadata=read_by(as_name))
    cluster: str = field(metadata=read_by(as_name))
    data_directory: Path = field(metadata=read_by(lambda value: Path(as_text(value))))
    """Absolute once read: a relative one starts at the file's directory."""
    machine: str = field(default="kv", metadata=read_by(_machine))
    forward: bool = field(default=False, metadata=read_by(as_flag))
    repair: bool = field(default=False, metadata=read_by(as_flag))
    """A log that is found damaged at the start is repaired by the others."""


@frozen
class ListenTable:
    """`[listen]`: the endpoints this node opens, as Twisted's endpoint strings."""

    peers: str = field(metadata=read_by(as_listening))
    clients: str = field(metadata=read_by(as_listening))
    http: str | None = field(default=None, metadata=read_by(as_listening))
    allow_plaintext: bool = field(default=False, metadata=read_by(as_flag))


@frozen
class AdvertiseTable:
    """`[advertise]`: the addresses at which others reach this node."""

    peers: str = field(default="", metadata=read_by(as_dialled))
    clients: str = field(default="", metadata=read_by(as_dialled))


@frozen
class MemberTable:
    """`[[members]]`: one server of the first configuration."""

    id: str = field(metadata=read_by(as_name))
    peers: str = field(metadata=read_by(as_dialled))
    clients: str = field(metadata=read_by(as_dialled))


@frozen
class TimingsTable:
    """`[timings]`: in seconds, but for `clock_drift`."""

    heartbeat: float = field(default=0.06, metadata=read_by(as_seconds(0.001, 60)))
    election_timeout: float = field(default=0.3, metadata=read_by(as_seconds(0.002, 600)))
    """Timeouts are drawn from [election_timeout, 2 * election_timeout)."""
    request_timeout: float = field(default=3.0, metadata=read_by(as_seconds(0.001, 3600)))
    clock_drift: float = field(default=0.0, metadata=read_by(_drift))
    """How many times faster one node's clock may run than another's; 0 for no leases."""


@frozen
class LimitsTable:
    """`[limits]`: past these, a node refuses, pauses or cuts."""

    command_bytes: int = field(default=4 << 20, metadata=read_by(as_whole(1, 64 << 20)))
    uncommitted_bytes: int = field(default=64 << 20, metadata=read_by(as_whole(1024, 16 << 30)))
    snapshot_factor: float = field(default=4.0, metadata=read_by(_factor))
    """A snapshot is taken when the log is so many times its size; 0 for never."""
    snapshot_floor_bytes: int = field(default=64 << 20, metadata=read_by(as_whole(0, 1 << 40)))
    """But not for fewer bytes of log."""
    snapshot_entries: int = field(default=1_000_000, metadata=read_by(as_whole(0, 1_000_000_000)))
    """A snapshot is taken after so many entries, too; 0 for never."""
    snapshot_bytes_per_second: int = field(default=0, metadata=read_by(_rate))
    """All snapshots that this node sends leave at no more than that; 0 for no limit."""
    trailing_bytes: int = field(default=256 << 20, metadata=read_by(as_whole(0, 1 << 40)))
    """So much of the log stays behind a snapshot for followers that lack it."""
    sessions: int = field(default=10_000, metadata=read_by(as_whole(1, 1 << 20)))
    """The one unused for longest makes room for a new one."""
    session_timeout: float = field(default=3600.0, metadata=read_by(as_seconds(1, 31_536_000)))
    session_results: int = field(default=4096, metadata=read_by(as_whole(1, 1 << 20)))
    session_result_bytes: int = field(default=1 << 20, metadata=read_by(as_whole(0, 1 << 30)))
    segment_bytes: int = field(default=16 << 20, metadata=read_by(as_whole(1 << 16, 1 << 30)))


@frozen
class NodeConfig:
    """All that one node.toml says, checked."""

    path: Path
    node: NodeTable
    listen: ListenTable
    advertise: AdvertiseTable
    members: tuple[MemberTable, ...] = ()
    """The first configuration; empty for a node that waits to be added to a cluster."""
    timings: TimingsTable = TimingsTable()
    limits: LimitsTable = LimitsTable()
    warnings: tuple[str, ...] = ()
    """What is allowed and yet deserves a second look; one sentence each."""

    @property
    def cluster_id(self) -> str | None:
        """The id that bootstrapping from this file gives the cluster [RULES M8].

        32 hexadecimal digits, derived from the cluster's name and its sorted first members
        (ids and peer addresses): nodes that start from the same members agree on it without
        a word. None without members: the node takes the id of the leader that adds it.
        """
        if not self.members:
            return None
        members = sorted([member.id, member.peers] for member in self.members)
        named = json.dumps([self.node.cluster, members], separators=(",", ":"))
        return hashlib.sha256(named.encode()).hexdigest()[:32]

    @property
    def machine_directory(self) -> Path:
        """Where a machine that is durable by itself lives; nothing else uses it."""
        return self.node.data_directory / MACHINE_DIRECTORY

    @property
    def first_configuration(self) -> Configuration:
        """The configuration of the first entry, the same on every first member."""
        return Configuration(
            members=tuple(
                Member(id=member.id, peer_address=member.peers, client_address=member.clients)
                for member in self.members
            )
        )


def read_config(path: str | os.PathLike[str]) -> NodeConfig:
    """Read and check the file at `path`; touch nothing else but the machine's module.

    Raises:
        BadConfiguration: One line that names the file, the key, the value and the remedy.
    """
    return parse_config(_content(Path(path)), path)


def parse_config(text: str, path: str | os.PathLike[str]) -> NodeConfig:
    """Check `text` as the content of the file `path`, which need not exist.

    Raises:
        BadConfiguration: As `read_config`.
    """
    path = Path(path)
    try:
        return _config(_toml(text), path)
    except ValueError as error:
        raise BadConfiguration(f"{path}: {error}") from error


def load_machine(name: str) -> Callable[..., object]:
    """Return the class that `node.machine` names; its instances provide `IStateMachine`.

    Raises:
        ValueError: It cannot be imported, or it does not implement `IStateMachine`.
    """
    module_name, _, class_name = MACHINES.get(name, name).partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(
            f"cannot import {module_name} ({reason}); install it for the "
            "Python that runs this node, or set PYTHONPATH"
        ) from error
    found = getattr(module, class_name, None)
    if found is None:
        classes = [each for each in vars(module) if not each.startswith("_")]
        raise ValueError(
            f"the module {module_name} has no {class_name}{nearest(class_name, classes)}"
        )
    if not isinstance(found, type) or not IStateMachine.implementedBy(found):
        raise ValueError(
            f"{module_name}:{class_name} does not implement raft.interfaces.IStateMachine; "
            "write @implementer(IStateMachine) above the class"
        )
    return found


def make_machine(config: NodeConfig) -> object:
    """Return a new machine of the class that the file names.

    One that is durable by itself (`IOnDiskStateMachine`) is made with a single argument, the path
    of its directory, a str: it belongs to this machine, and may not be there yet. Others are made
    with none.

    Raises:
        BadConfiguration: it cannot be made so.
    """
    name = config.node.machine
    try:
        kind = load_machine(name)
        if IOnDiskStateMachine.implementedBy(kind):
            return kind(str(config.machine_directory))
        return kind()
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise BadConfiguration(
            f"{config.path}: node.machine: {name} cannot be made ({reason}); a class that "
            "implements IOnDiskStateMachine gets its directory, any other no argument"
        ) from error


def _content(path: Path) -> str:
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            content = file.read(FILE_BYTES + 1)
    except OSError as error:
        raise BadConfiguration(
            f"{path}: cannot be read: {error.strerror}; `raft init` writes such files"
        ) from error
    if status.st_mode & stat.S_IWOTH:
        raise BadConfiguration(f"{path}: anyone may write to it; run: chmod o-w {path}")
    if len(content) > FILE_BYTES:
        raise BadConfiguration(f"{path}: larger than {FILE_BYTES} bytes; is it the right file?")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise BadConfiguration(
            f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8"
        ) from error


def _toml(text: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply; a node's configuration has two levels") from None
    except ValueError as error:
        what, _, where = str(error).partition(" (at ")
        raise ValueError(f"{where.rstrip(')')}: {what}" if where else what) from error


def _config(toml: dict[str, object], path: Path) -> NodeConfig:
    refuse_unknown(toml, ("node", "listen", "advertise", "members", "timings", "limits"), "")
    node = read_section(NodeTable, toml, "node")
    directory = Path(os.path.abspath(path.parent / node.data_directory.expanduser()))
    node = attrs.evolve(node, data_directory=directory)
    listen = read_section(ListenTable, toml, "listen")
    given = read_section(AdvertiseTable, toml, "advertise", {})
    members = tuple(_members(toml.get("members", [])))
    config = NodeConfig(
        path=path,
        node=node,
        listen=listen,
        advertise=_advertised(given, node, listen, members),
        members=members,
        timings=read_section(TimingsTable, toml, "timings", {}),
        limits=read_section(LimitsTable, toml, "limits", {}),
    )
    _check_together(config)
    keyed("node.machine", load_machine, node.machine)
    return attrs.evolve(config, warnings=tuple(_warnings(config)))


def _members(value: object) -> Iterator[MemberTable]:
    if not isinstance(value, list):
        raise ValueError(
            f"members: expected tables, got {shown(value)}; write [[members]] with two brackets"
        )
    seen: dict[str, str] = {}
    for place, each in enumerate(value, start=1):
        member = read_table(MemberTable, each, f"members[{place}]")
        for key, unique in (
            ("id", f"id {member.id}"),
            ("peers", member.peers),
            ("clients", member.clients),
        ):
            where = f"members[{place}].{key}"
            if unique in seen:
                raise ValueError(
                    f"{where}: {getattr(member, key)!r} stands at {seen[unique]} too; "
                    "every id and every address must be its member's own"
                )
            seen[unique] = where
        yield member


def _advertised(
    given: AdvertiseTable,
    node: NodeTable,
    listen: ListenTable,
    members: Sequence[MemberTable],
) -> AdvertiseTable:
    """Fill what [advertise] leaves out: from this node's own member, else from [listen]."""
    own = next((member for member in members if member.id == node.id), None)
    found: dict[str, str] = {}
    for key in ("peers", "clients"):
        address = getattr(given, key) or (
            getattr(own, key) if own else addresses.derived(getattr(listen, key))
        )
        if not address:
            raise ValueError(
                f"advertise.{key}: missing, and listen.{key} = {shown(getattr(listen, key))} "
                f"names no address that others could dial; add [advertise] with {key} = "
                '"host:port"'
            )
        found[key] = address
    return AdvertiseTable(**found)


def _check_together(config: NodeConfig) -> None:
    timings, limits, listen = config.timings, config.limits, config.listen
    if timings.election_timeout < HEARTBEATS_IN_TIMEOUT * timings.heartbeat:
        raise ValueError(
            f"timings.election_timeout: {timings.election_timeout:g} s is less than "
            f"{HEARTBEATS_IN_TIMEOUT} heartbeats of {timings.heartbeat:g} s, so every late one "
            f"would start an election; set it to {5 * timings.heartbeat:g} or more"
        )
    if limits.uncommitted_bytes < limits.command_bytes:
        raise ValueError(
            f"limits.uncommitted_bytes: {limits.uncommitted_bytes} is less than one command of "
            f"limits.command_bytes = {limits.command_bytes}; raise it to that at least"
        )
    ids = [member.id for member in config.members]
    if ids and config.node.id not in ids:
        raise ValueError(
            f"node.id: {config.node.id!r} is not among the members {', '.join(ids)}"
            f"{nearest(config.node.id, ids)}; add it to [[members]], or leave out all members "
            "for a node that will be added to a running cluster"
        )
    if listen.peers == listen.clients and (
        parse_listen(listen.peers).port or "unix" in listen.peers
    ):
        raise ValueError(f"listen.clients: the same as listen.peers, {listen.peers!r}")
    if not listen.allow_plaintext:
        _refuse_plaintext(config)


def _refuse_plaintext(config: NodeConfig) -> None:
    listen = config.listen
    opened = [("listen.peers", listen.peers), ("listen.clients", listen.clients)]
    if listen.http:
        opened.append(("listen.http", listen.http))
    used = [(key, endpoint, parse_listen(endpoint)) for key, endpoint in opened]
    for place, member in enumerate(config.members, start=1):
        used.append((f"members[{place}].peers", member.peers, parse_dial(member.peers)))
    for key, endpoint, address in used:
        if not address.is_encrypted and not address.is_private:
            raise ValueError(
                f"{key}: {endpoint!r} would carry plaintext beyond this machine, readable and "
                "writable by anyone on the way; use 127.0.0.1 (for [listen], "
                ":interface=127.0.0.1), or set listen.allow_plaintext = true on a network that "
                "you trust"
            )


def _warnings(config: NodeConfig) -> Iterator[str]:
    count = len(config.members)
    if count and count % 2 == 0:
        yield (
            f"{count} voters tolerate the loss of {(count - 1) // 2}, no more than "
            f"{count - 1} would; use an odd number"
        )
    for member in config.members:
        if member.id == config.node.id:
            for key in ("peers", "clients"):
                mine, listed = getattr(config.advertise, key), getattr(member, key)
                if mine != listed:
                    yield f"advertise.{key} is {mine}, but [[members]] has {listed} for this node"
