"""The data directory: whose it is, what format it has, and that nobody else is using it.

A server is its data directory. The file `identity` says which cluster and which server it
belongs to, and carries the *incarnation*: a random name that is made once, with the directory.
A server that lost its directory comes back as another incarnation, and must not pass for
the one that had voted and acknowledged [RULES M7, M9].

The directory is private (0700), its files are (0600), and a lock is held for life: it must be
taken after a daemon has forked, which is why `open` belongs in `startService`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
from zlib import crc32

import msgspec
from attrs import define, evolve, field, frozen
from twisted.logger import Logger

from raft.errors import BadConfiguration, StorageDamaged
from raft.lives import Lives
from raft.storage import survivor
from raft.storage.divergence import Divergence, read_divergence, write_divergence
from raft.storage.files import Files, RealFiles, failure, read_all, replace_file
from raft.storage.starts import PeerLives, begin_life, read_peers, write_peers

_log = Logger(namespace="raft.storage")

FORMAT_VERSION = 1
IDENTITY_NAME = survivor.IDENTITY_NAME
LOCK_NAME = "lock"
MOST_IDENTITY_BYTES = 65536


@frozen
class Identity:
    """Whose data these are. `cluster_id` is empty until the server belongs to a cluster."""

    server_id: str
    incarnation: str
    cluster_id: str = ""
    format_version: int = FORMAT_VERSION


class _VersionForm(msgspec.Struct):
    format_version: int


class _IdentityForm(msgspec.Struct, forbid_unknown_fields=True):
    format_version: int
    cluster_id: str
    server_id: str
    incarnation: str
    checksum: str


def encode_identity(identity: Identity) -> bytes:
    """Return the identity file's bytes: one JSON object, for operators to read."""
    form = _IdentityForm(
        identity.format_version,
        identity.cluster_id,
        identity.server_id,
        identity.incarnation,
        _checksum(identity),
    )
    return msgspec.json.format(msgspec.json.encode(form), indent=2) + b"\n"


def decode_identity(content: bytes, path: str) -> Identity:
    """Return the identity in a file's bytes.

    Raises BadConfiguration for a newer format, StorageDamaged for anything else.
    """
    try:
        version = msgspec.json.decode(content, type=_VersionForm).format_version
        if version > FORMAT_VERSION:
            raise BadConfiguration(
                f"{path} has data format {version}, this program knows up to {FORMAT_VERSION}: "
                "start it with the newer version that wrote it"
            )
        form = msgspec.json.decode(content, type=_IdentityForm)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    identity = Identity(form.server_id, form.incarnation, form.cluster_id, form.format_version)
    if _checksum(identity) != form.checksum:
        raise _damaged(path, "its checksum does not match its content")
    return identity


@define(eq=False)
class DataDirectory:
    """A data directory that this process holds. Make it with `open`, end with `release`."""

    path: str
    identity: Identity
    _files: Files
    _lock: int | None = field(repr=False)

    @classmethod
    def open(
        cls, path: str, server_id: str, cluster_id: str = "", files: Files | None = None
    ) -> DataDirectory:
        """Create the directory if need be, lock it, and read or write its identity. Blocks.

        With a `cluster_id`, a directory that belongs to no cluster yet is given it, and one
        that belongs to another is refused.

        Raises:
            BadConfiguration: it is in use, unsafe, another server's or cluster's, or newer.
            StorageDamaged: its identity is unreadable or missing beside a log.
            StorageFailed, StorageFull: the disk refused.
        """
        files = files or RealFiles()
        path = os.path.abspath(path)
        try:
            _make_private(path)
            lock = _take_lock(path)
        except OSError as error:
            raise failure(path, error, "opening the data directory") from error
        return cls.load(path, server_id, cluster_id, files, lock)

    @classmethod
    def load(
        cls, path: str, server_id: str, cluster_id: str, files: Files, lock: int | None = None
    ) -> DataDirectory:
        """Do what `open` does in a directory that is there, and held by `lock`. Blocks.

        The lock is closed where this fails; None where nobody else can reach `files`.
        """
        try:
            if survivor.finish(files, path):
                _log.warn("{path}: finished a recovery that was begun before", path=path)
            identity = _load(files, path) or _create(files, path, server_id, cluster_id)
            opened = cls(path, identity, files, lock)
            opened._check(server_id, cluster_id, first_too=True)
            if cluster_id and not identity.cluster_id:
                opened.set_cluster_id(cluster_id)
            return opened
        except OSError as error:
            _close(lock)
            raise failure(path, error, "reading or writing the identity") from error
        except BaseException:
            _close(lock)
            raise

    @classmethod
    def claim(cls, path: str, files: Files | None = None) -> DataDirectory:
        """Lock a data directory that is there, whoever's it is; make nothing. Blocks.

        Raises:
            BadConfiguration: it is none, it is in use, or it belongs to another user.
            StorageDamaged: its identity is unreadable.
            StorageFailed: the disk refused.
        """
        files = files or RealFiles()
        path = os.path.abspath(path)
        if not os.path.lexists(os.path.join(path, IDENTITY_NAME)):
            raise BadConfiguration(f"{path} is no data directory: it has no file {IDENTITY_NAME!r}")
        try:
            _check_owned(path)
            lock = _take_lock(path)
        except OSError as error:
            raise failure(path, error, "locking the data directory") from error
        try:
            identity = _load(files, path)
            if identity is None:
                raise BadConfiguration(f"{path} has no identity: somebody has just removed it")
            return cls(path, identity, files, lock)
        except OSError as error:
            os.close(lock)
            raise failure(path, error, "reading the identity") from error
        except BaseException:
            os.close(lock)
            raise

    @property
    def files(self) -> Files:
        """The file system that the directory is on."""
        return self._files

    def set_cluster_id(self, cluster_id: str) -> None:
        """Make the server a member of `cluster_id`, durably and for good. Blocks."""
        if self.identity.cluster_id == cluster_id:
            return
        self._check(self.identity.server_id, cluster_id)
        identity = evolve(self.identity, cluster_id=cluster_id)
        try:
            replace_file(self._files, self.path, IDENTITY_NAME, encode_identity(identity))
        except OSError as error:
            raise failure(self.path, error, "writing the identity") from error
        self.identity = identity

    def begin_life(self) -> Lives:
        """Note durably that a server starts from here once more; return all its starts. Blocks.

        Raises:
            StorageDamaged: they are unreadable.
            StorageFailed, StorageFull: the disk refused.
        """
        return begin_life(self._files, self.path)

    def peer_lives(self) -> dict[str, tuple[str, Lives]]:
        """Return what was seen of other servers' starts, as `raft.storage.starts` says. Blocks."""
        return read_peers(self._files, self.path)

    def note_peers(self, peers: PeerLives) -> None:
        """Note durably what was seen of other servers' starts. Blocks.

        Raises:
            StorageFailed, StorageFull: the disk refused.
        """
        write_peers(self._files, self.path, peers)

    def divergence(self) -> Divergence | None:
        """Return what says that this server's state has diverged, or None. Blocks.

        Raises:
            StorageDamaged: it is unreadable.
            StorageFailed: the disk refused.
        """
        return read_divergence(self._files, self.path)

    def note_divergence(self, found: Divergence) -> None:
        """Note durably that this server's state has diverged. Blocks.

        Raises:
            StorageFailed, StorageFull: the disk refused.
        """
        write_divergence(self._files, self.path, found)

    def release(self) -> None:
        """Let go of the lock. Again: nothing."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _check(self, server_id: str, cluster_id: str, first_too: bool = False) -> None:
        """Refuse another's directory; its cluster's first id is right too where `first_too`."""
        mine = self.identity
        if mine.server_id != server_id:
            raise BadConfiguration(
                f"{self.path} belongs to server {mine.server_id!r}, not {server_id!r}: give each "
                "server a data directory of its own"
            )
        # The members in a node's file are still those before a recovery, and so is their id.
        known = {mine.cluster_id}
        if first_too:
            known.add(mine.cluster_id.partition("+")[0])
        if cluster_id and mine.cluster_id and cluster_id not in known:
            raise BadConfiguration(
                f"{self.path} belongs to cluster {mine.cluster_id!r}, not {cluster_id!r}: use "
                "that cluster's configuration, or another data directory"
            )


def _make_private(path: str) -> None:
    try:
        os.mkdir(path, 0o700)
        # The umask may have taken the owner's own rights away.
        os.chmod(path, 0o700)
        RealFiles().sync_directory(os.path.dirname(path))
        return
    except FileExistsError:
        pass
    except FileNotFoundError as error:
        raise BadConfiguration(
            f"{path} cannot be created: {os.path.dirname(path)} does not exist; create it first"
        ) from error
    found = _check_owned(path)
    if stat.S_IMODE(found.st_mode) != 0o700:
        os.chmod(path, 0o700)


def _check_owned(path: str) -> os.stat_result:
    """Refuse what is no directory, another user's, or writable for everyone."""
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode):
        what = "a symbolic link" if stat.S_ISLNK(found.st_mode) else "no directory"
        raise BadConfiguration(f"{path} is {what}: name the data directory itself")
    if found.st_uid != os.geteuid():
        raise BadConfiguration(
            f"{path} is owned by user {found.st_uid}, the server runs as {os.geteuid()}: give it "
            "a data directory that it owns"
        )
    if found.st_mode & stat.S_IWOTH:
        raise BadConfiguration(
            f"{path} has mode {stat.S_IMODE(found.st_mode):04o}, anyone can write to it: check "
            "what is in it, then chmod 0700"
        )
    return found


def _take_lock(path: str) -> int:
    name = os.path.join(path, LOCK_NAME)
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(name, flags, 0o600)
    try:
        os.fchmod(fd, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
        os.close(fd)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise BadConfiguration(
                f"{path} is in use by process {holder or 'unknown'}: stop that server, or give "
                "this one another data directory"
            ) from error
        raise
    return fd


def _close(lock: int | None) -> None:
    if lock is not None:
        os.close(lock)


def _load(files: Files, path: str) -> Identity | None:
    name = os.path.join(path, IDENTITY_NAME)
    with contextlib.suppress(FileNotFoundError):
        files.unlink(name + ".tmp")
    try:
        fd = files.open(name)
    except FileNotFoundError:
        strays = [n for n in files.names(path) if n.endswith((".wal", ".snap"))]
        if strays:
            raise _damaged(name, f"it is missing beside {strays[0]}") from None
        return None
    try:
        content = read_all(files, fd, MOST_IDENTITY_BYTES, 0)
    finally:
        files.close(fd)
    # The name may be visible and not yet on disk.
    files.sync_directory(path)
    return decode_identity(content, name)


def _create(files: Files, path: str, server_id: str, cluster_id: str) -> Identity:
    identity = Identity(server_id, secrets.token_hex(8), cluster_id)
    replace_file(files, path, IDENTITY_NAME, encode_identity(identity))
    return identity


def _checksum(identity: Identity) -> str:
    fields = (
        str(identity.format_version),
        identity.cluster_id,
        identity.server_id,
        identity.incarnation,
    )
    return f"{crc32(chr(0).join(fields).encode()):08x}"


def _damaged(path: str, reason: str) -> StorageDamaged:
    return StorageDamaged(
        path,
        0,
        f"the identity is unusable: {reason}; restore it from a backup of this very directory, or "
        "remove this server and add it again with an empty directory",
    )
