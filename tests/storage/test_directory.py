"""The data directory: private, locked, and never taken for another's."""

from __future__ import annotations

import os
import stat
import subprocess
import sys

import pytest
from attrs import evolve

from raft.errors import BadConfiguration, StorageDamaged, StorageFailed
from raft.storage.directory import DataDirectory, decode_identity, encode_identity
from raft.storage.imagined import ImaginedDisk
from raft.storage.wal import WriteAheadLog


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "node")


def opened(path, *arguments, **named):
    directory = DataDirectory.open(path, *arguments, **named)
    directory.release()
    return directory


def test_an_identity_is_made_once(path):
    """M9: the incarnation belongs to the directory, whoever opens it and when."""
    first = opened(path, "a")
    assert first.identity.server_id == "a"
    assert len(first.identity.incarnation) == 16
    assert first.identity.cluster_id == ""
    assert opened(path, "a").identity == first.identity


def test_a_wiped_directory_is_another_incarnation(tmp_path):
    """M7, sc-F6: the same id with an empty disk is not the same server."""
    one, other = opened(str(tmp_path / "1"), "a"), opened(str(tmp_path / "2"), "a")
    assert one.identity.incarnation != other.identity.incarnation


def test_the_cluster_is_set_once(path):
    directory = DataDirectory.open(path, "a")
    directory.set_cluster_id("c1")
    directory.set_cluster_id("c1")
    with pytest.raises(BadConfiguration, match="belongs to cluster 'c1', not 'c2'"):
        directory.set_cluster_id("c2")
    directory.release()
    assert opened(path, "a", "c1").identity.cluster_id == "c1"
    with pytest.raises(BadConfiguration, match="'c2'"):
        opened(path, "a", "c2")


def test_a_directory_without_a_cluster_takes_the_configured_one(path):
    opened(path, "a")
    assert opened(path, "a", "c1").identity.cluster_id == "c1"
    assert opened(path, "a").identity.cluster_id == "c1"


def test_another_server_s_directory_is_refused(path):
    opened(path, "a")
    with pytest.raises(BadConfiguration, match="belongs to server 'a', not 'b'"):
        opened(path, "b")
    opened(path, "a")


def test_a_second_process_is_refused_while_the_lock_is_held(path):
    """sc-F19: the lock is held for life, and goes with the process."""
    program = (
        "import sys; from raft.storage.directory import DataDirectory;"
        f"DataDirectory.open({path!r}, 'a'); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(BadConfiguration, match=f"in use by process {other.pid}"):
            DataDirectory.open(path, "a")
        other.stdin.close()
        other.wait(10)
    opened(path, "a")


def test_the_lock_excludes_the_same_process_too(path):
    directory = DataDirectory.open(path, "a")
    with pytest.raises(BadConfiguration, match="in use"):
        DataDirectory.open(path, "a")
    directory.release()
    directory.release()
    opened(path, "a")


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_files_are_private_whatever_the_umask(path, umask):
    """SECURITY 20, sc-K8: the directory 0700, its files 0600."""
    before = os.umask(umask)
    try:
        directory = DataDirectory.open(path, "a")
        store = WriteAheadLog(path, segment_size_bytes=8192)
        store.recover()
        store.stop()
        directory.release()
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o700
    names = os.listdir(path)
    assert len(names) == 3
    for name in names:
        assert stat.S_IMODE(os.stat(os.path.join(path, name)).st_mode) == 0o600, name


def test_a_directory_that_others_may_read_is_made_private(path):
    """sc-K8."""
    os.mkdir(path)
    os.chmod(path, 0o755)
    opened(path, "a")
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o700


def test_a_directory_that_anyone_may_write_is_refused(path):
    """SECURITY 21, sc-K8: someone may have put files there."""
    os.mkdir(path)
    os.chmod(path, 0o777)
    with pytest.raises(BadConfiguration, match="0777"):
        opened(path, "a")


def test_a_linked_directory_is_refused(path, tmp_path):
    real = tmp_path / "real"
    real.mkdir()
    os.symlink(real, path)
    with pytest.raises(BadConfiguration, match="symbolic link"):
        opened(path, "a")
    assert not list(real.iterdir())


def test_a_file_in_the_directory_s_place_is_refused(path):
    with open(path, "w"):
        pass
    with pytest.raises(BadConfiguration, match="no directory"):
        opened(path, "a")


def test_a_directory_whose_parent_is_missing_is_refused(path):
    with pytest.raises(BadConfiguration, match="create it first"):
        opened(os.path.join(path, "deeper"), "a")


@pytest.mark.parametrize("name", ["lock", "identity", "identity.tmp"])
def test_a_planted_link_is_not_followed(path, tmp_path, name):
    """SECURITY 22: neither read nor written through."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    os.mkdir(path, 0o700)
    os.symlink(victim, os.path.join(path, name))
    if name == "identity.tmp":
        opened(path, "a")
    else:
        with pytest.raises(StorageFailed):
            opened(path, "a")
    assert victim.read_bytes() == b"precious"


@pytest.mark.parametrize("name", ["log-00000000000000000001.wal", "log-next.tmp"])
def test_a_linked_segment_is_not_followed(path, tmp_path, name):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    os.mkdir(path, 0o700)
    os.symlink(victim, os.path.join(path, name))
    store = WriteAheadLog(path, segment_size_bytes=8192)
    if name.endswith(".tmp"):
        store.recover()
    else:
        with pytest.raises(StorageFailed):
            store.recover()
    store.stop()
    assert victim.read_bytes() == b"precious"


def test_a_newer_format_is_refused_by_its_number(path):
    """sc-F27: an old program does not guess."""
    identity = opened(path, "a").identity
    with open(os.path.join(path, "identity"), "wb") as file:
        file.write(encode_identity(evolve(identity, format_version=2)))
    with pytest.raises(BadConfiguration, match="data format 2, this program knows up to 1"):
        opened(path, "a")


def test_a_log_without_its_identity_is_refused(path):
    """M9: a new incarnation must not inherit an old one's votes."""
    opened(path, "a")
    store = WriteAheadLog(path, segment_size_bytes=8192)
    store.recover()
    store.stop()
    os.unlink(os.path.join(path, "identity"))
    with pytest.raises(StorageDamaged, match=r"missing beside log-0+1\.wal"):
        opened(path, "a")


def test_an_identity_with_any_flipped_bit_is_refused(path):
    content = encode_identity(opened(path, "a", "c").identity)
    original = decode_identity(content, "identity")
    for offset in range(len(content)):
        for bit in range(8):
            flipped = bytearray(content)
            flipped[offset] ^= 1 << bit
            try:
                found = decode_identity(bytes(flipped), "identity")
            except (StorageDamaged, BadConfiguration):
                continue
            assert found == original, "only white space may differ"


def test_a_failed_open_leaves_no_lock_behind(path):
    opened(path, "a")
    for _ in range(3):
        with pytest.raises(BadConfiguration, match="belongs"):
            opened(path, "b")
    opened(path, "a")


def test_setting_the_cluster_is_whole_or_not_at_all(path):
    """Every crash while the identity is written leaves the old one or the new one."""
    disk = ImaginedDisk()
    directory = opened(path, "a", files=disk)
    begun = len(disk.operations)
    directory.set_cluster_id("c1")
    ids = set()
    for done, files in disk.crash_states(begun):
        after = opened(path, "a", files=ImaginedDisk.holding(files)).identity
        assert after.incarnation == directory.identity.incarnation
        if done == len(disk.operations):
            assert after.cluster_id == "c1"
        ids.add(after.cluster_id)
    assert ids == {"", "c1"}


def test_an_identity_that_was_read_is_durable(path):
    """M9: a name may be seen that is not on the disk; others pin what they are told."""
    disk = ImaginedDisk()

    def fault(call, _):
        if call == "sync_directory":
            raise OSError(5, "failed")

    disk.fault = fault
    with pytest.raises(StorageFailed):
        opened(path, "a", files=disk)
    disk.fault = None
    identity = opened(path, "a", files=disk).identity
    for _, files in disk.crash_states(len(disk.operations)):
        assert opened(path, "a", files=ImaginedDisk.holding(files)).identity == identity
