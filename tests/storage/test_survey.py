"""After a lost majority: the survivors are surveyed, the best one goes on alone [RULES M7-M9].

Whenever the power is lost meanwhile, its directory is what it was, or what it is to be.
"""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from raft.cli import main
from raft.core.configuration import Configuration, Member
from raft.core.outputs import HardState
from raft.errors import BadConfiguration, InvariantViolated, RaftError, StorageDamaged
from raft.storage import repair, repair_plan, survivor
from raft.storage import survey as room
from raft.storage.directory import (
    IDENTITY_NAME,
    DataDirectory,
    Identity,
    decode_identity,
    encode_identity,
)
from raft.storage.divergence import DIVERGED_NAME, Divergence, write_divergence
from raft.storage.files import RealFiles, read_all, replace_file
from raft.storage.imagined import ImaginedDisk
from raft.storage.records import (
    BadRecord,
    Kind,
    RecoveryNote,
    decode_recovery,
    encode,
    encode_configuration,
    encode_recovery,
)
from raft.storage.recovery import Recovery
from raft.storage.survey import Plan, Survey, plan, surveyed
from raft.storage.survivor import Pending, decode_pending, encode_pending
from raft.storage.wal import WriteAheadLog
from tests.storage.test_repair import damaged, in_the_middle, last_of, long_log, wals

DIRECTORY = "/imagined"
SEGMENT_BYTES = 1 << 16
CRASHED_FINISHES_EVERY = 7
MEMBERS = Configuration(
    tuple(Member(id, f"{number:016x}", f"tcp:h:{number}") for number, id in enumerate("abc", 1))
)
NOTE = RecoveryNote("c+1", "c", 1_700_000_000, "raft recover x", encode_configuration(MEMBERS))


def fill(files: Any, path: str, identity: Identity, count: int, term: int = 2) -> None:
    """Write a log of `count` entries, the first with the members, the last one of `term`."""
    replace_file(files, path, IDENTITY_NAME, encode_identity(identity))
    writer = Recovery(files, path, SEGMENT_BYTES, int(identity.incarnation, 16)).run()
    records = encode(1, 1, 0, Kind.CONFIGURATION, encode_configuration(MEMBERS))
    for index in range(2, count + 1):
        records += encode(index, term if index == count else 1, index, Kind.COMMAND, b"command")
    writer.write([(1, HardState(term + 1, "b"), None, 1, count + 1, records)])
    writer.seal()
    writer.close()


def identity_of(id: str, cluster: str = "c") -> Identity:
    member = MEMBERS.member(id)
    assert member is not None
    return Identity(id, member.incarnation, cluster)


@pytest.fixture
def disk() -> ImaginedDisk:
    made = ImaginedDisk()
    fill(made, DIRECTORY, identity_of("a"), 5)
    return made


def identity_on(disk: Any) -> Identity:
    fd = disk.open(f"{DIRECTORY}/{IDENTITY_NAME}")
    return decode_identity(read_all(disk, fd, 1 << 16, 0), "identity")


def state(disk: Any) -> Survey:
    return surveyed(DIRECTORY, identity_on(disk), disk)


def intended(disk: ImaginedDisk) -> Plan:
    return plan(state(disk), command="raft recover x")


def check_new(disk: ImaginedDisk, made: Plan) -> None:
    found = state(disk)
    assert found.identity.cluster_id == made.note.cluster_id
    assert found.identity.incarnation == made.survey.identity.incarnation
    assert found.recoveries == (made.note,)
    assert found.configuration == made.configuration
    assert (found.last_index, found.last_term) == (made.survey.last_index + 2, made.term)
    assert found.hard_state == HardState(made.term)


def test_the_formats_stand_still() -> None:
    assert encode_recovery(NOTE).hex() == (
        "95a3632b31a163ce6553f100ae72616674207265636f7665722078c45d929395a161b03030303030"
        "3030303030303030303031a77463703a683a31a0c395a162b0303030303030303030303030303030"
        "32a77463703a683a32a0c395a163b030303030303030303030303030303033a77463703a683a33a0"
        "c390"
    )
    pending = Pending(7, 4, 6, b"identity", b"records")
    assert encode_pending(pending).hex() == (
        "524146545352560a01000000ba5d884b070000000000000004000000000000000600000000000000"
        "080000006964656e746974797265636f726473"
    )
    assert decode_pending(encode_pending(pending), "x") == pending
    assert decode_recovery(encode_recovery(NOTE)) == NOTE
    assert NOTE.previous_configuration == MEMBERS
    for wrong in (b"\x91\xa1c", encode_recovery(RecoveryNote("c+1", "c", 0, "x", b"\xc1"))):
        with pytest.raises(BadRecord):
            decode_recovery(wrong)


def test_a_survey_tells_what_is_there_and_changes_nothing(disk: ImaginedDisk) -> None:
    before, done = disk.contents(), len(disk.operations)
    found = state(disk)
    assert found.reached == (2, 5)
    assert (found.first_index, found.committed, found.time_us) == (1, 0, 5)
    assert (found.configuration, found.configuration_index) == (MEMBERS, 1)
    assert found.hard_state == HardState(3, "b")
    assert found.recoveries == ()
    assert disk.contents() == before
    assert len(disk.operations) == done


def test_the_survivor_is_a_cluster_by_itself_with_another_id(disk: ImaginedDisk) -> None:
    """sc-M15."""
    made = intended(disk)
    room.carry_out(made, DIRECTORY, identity_on(disk), disk)
    check_new(disk, made)
    member = MEMBERS.member("a")
    assert made.configuration == Configuration((member,))  # type: ignore[arg-type]
    assert room.first_id(made.note.cluster_id) == "c" != made.note.cluster_id
    assert made.term == 4
    assert not survivor.is_pending(disk, DIRECTORY)
    assert not survivor.finish(disk, DIRECTORY)
    # And once more, should that be needed: the first id stays, and all is told.
    again = plan(state(disk), force=True)
    room.carry_out(again, DIRECTORY, identity_on(disk), disk)
    assert [note.cluster_id for note in state(disk).recoveries] == [
        made.note.cluster_id,
        again.note.cluster_id,
    ]
    assert room.first_id(again.note.cluster_id) == "c"


def test_a_crash_leaves_what_was_or_what_is_to_be(disk: ImaginedDisk) -> None:
    """D1, M9: every state that the disk may be in, and crashes of finishing it, too."""
    made, before = intended(disk), state(disk)
    begun = len(disk.operations)
    room.carry_out(made, DIRECTORY, identity_on(disk), disk)
    ended = len(disk.operations)
    old = new = 0
    for number, (done, files) in enumerate(disk.crash_states(begun)):
        restarted = ImaginedDisk.holding(files)
        finished = survivor.finish(restarted, DIRECTORY)
        if not finished and state(restarted) == before:
            assert done < ended
            old += 1
            continue
        check_new(restarted, made)
        new += 1
        if finished and number % CRASHED_FINISHES_EVERY == 0:
            for _, crashed in restarted.crash_states():
                again = ImaginedDisk.holding(crashed)
                survivor.finish(again, DIRECTORY)
                check_new(again, made)
    assert old > 10
    assert new > 30


def test_a_disk_that_fails_anywhere_leaves_what_was_or_what_is_to_be() -> None:
    """D3: whatever call fails, the next attempt finds one of the two."""
    calls = 0
    while True:
        calls += 1
        disk = ImaginedDisk()
        fill(disk, DIRECTORY, identity_of("a"), 5)
        made, before = intended(disk), state(disk)
        first = disk.calls

        def fault(call: str, number: int, last: int = first + calls) -> None:
            if number == last:
                raise OSError(errno.EIO, "failed")

        disk.fault = fault
        try:
            room.carry_out(made, DIRECTORY, before.identity, disk)
        except (OSError, RaftError):
            disk.fault = None
            restarted = ImaginedDisk.holding(disk.contents())
            if not survivor.finish(restarted, DIRECTORY) and state(restarted) == before:
                continue
            check_new(restarted, made)
        else:
            break
    assert calls > 30


def test_who_opens_the_directory_finishes_what_was_begun(tmp_path: Path) -> None:
    path = str(tmp_path / "a")
    DataDirectory.open(path, "a", "c").release()
    claimed = DataDirectory.claim(path)
    claimed.release()
    identity = claimed.identity
    shutil.rmtree(path)
    (tmp_path / "a").mkdir(mode=0o700)
    fill(RealFiles(), path, evolve(identity_of("a"), incarnation=identity.incarnation), 5)
    made = plan(room.survey(path))
    renamed = encode_identity(evolve(made.survey.identity, cluster_id=made.note.cluster_id))
    number = int(identity.incarnation, 16)
    survivor.begin(RealFiles(), path, Pending(number, made.term, 6, renamed, made.records))
    assert room.survey(path).is_pending
    with pytest.raises(BadConfiguration, match="start the server"):
        plan(room.survey(path))
    # The members in its file are those of before, and so is the id that comes from them.
    opened = DataDirectory.open(path, "a", "c")
    assert opened.identity.cluster_id == made.note.cluster_id
    with pytest.raises(BadConfiguration, match="belongs to cluster"):
        opened.set_cluster_id("c")
    opened.release()
    found = room.survey(path)
    assert (found.last_index, found.is_pending) == (7, False)
    with pytest.raises(BadConfiguration, match="belongs to cluster"):
        DataDirectory.open(path, "a", "d")


def test_what_is_left_to_be_done_is_checked() -> None:
    content = encode_pending(Pending(7, 4, 6, b"identity", b"records"))
    for wrong in (b"", content[:-1], b"X" + content[1:], content[:20] + b"!" + content[21:]):
        with pytest.raises(StorageDamaged):
            decode_pending(wrong, "x")
    with pytest.raises(BadConfiguration, match="format 2"):
        decode_pending(content[:8] + b"\x02" + content[9:], "x")
    disk = ImaginedDisk()
    fill(disk, DIRECTORY, identity_of("a"), 5)
    made = intended(disk)
    survivor.begin(disk, DIRECTORY, Pending(1, made.term, 5, b"", made.records))
    with pytest.raises(InvariantViolated):
        survivor.finish(disk, DIRECTORY)
    # As many entries as there should be, and not those: of another term.
    survivor.begin(disk, DIRECTORY, Pending(1, made.term, 4, b"", made.records))
    with pytest.raises(InvariantViolated):
        survivor.finish(disk, DIRECTORY)


def failing_once(disk: ImaginedDisk, name: str) -> None:
    """Let the next call of that name fail; the program goes on to see what it did."""

    def fault(call: str, _: int) -> None:
        if call == name:
            disk.fault = None
            raise OSError(errno.EIO, "failed")

    disk.fault = fault


def test_what_was_begun_is_durable_before_anything_is_finished(disk: ImaginedDisk) -> None:
    """D1: a name may be seen that is not on the disk; the log must not change before it is."""
    made, before = intended(disk), state(disk)
    failing_once(disk, "sync_directory")
    with pytest.raises(OSError, match="failed"):
        room.carry_out(made, DIRECTORY, before.identity, disk)
    assert survivor.is_pending(disk, DIRECTORY)
    begun = len(disk.operations)
    survivor.finish(disk, DIRECTORY)
    for _, files in disk.crash_states(begun):
        restarted = ImaginedDisk.holding(files)
        if survivor.finish(restarted, DIRECTORY) or state(restarted) != before:
            check_new(restarted, made)


def test_what_is_finished_does_not_come_back_once_the_log_goes_on(disk: ImaginedDisk) -> None:
    """D1: left to be done a second time, behind later entries, it would fit nowhere."""
    made = intended(disk)
    room.carry_out(made, DIRECTORY, identity_on(disk), disk)
    finished = len(disk.operations)
    writer = Recovery(disk, DIRECTORY, SEGMENT_BYTES, 1).run()
    records = encode(8, made.term, 9, Kind.COMMAND, b"later")
    writer.write([(1, None, None, 8, 9, records)])
    writer.close()
    for _, files in disk.crash_states(finished):
        assert not survivor.finish(ImaginedDisk.holding(files), DIRECTORY)


@pytest.fixture
def three(tmp_path: Path) -> dict[str, str]:
    """The directories of three servers: b has most, and c is a term behind."""
    paths = {}
    for id, count, term in (("a", 5, 2), ("b", 6, 2), ("c", 9, 1)):
        (tmp_path / id).mkdir(mode=0o700)
        paths[id] = str(tmp_path / id)
        fill(RealFiles(), paths[id], identity_of(id), count, term)
    return paths


def test_a_worse_survivor_is_refused(three: dict[str, str]) -> None:
    """E2: by the last term, then by the last index; and a majority needs no rescue."""
    a, b, c = (room.survey(path) for path in three.values())
    with pytest.raises(BadConfiguration, match=r"/b with entry 6 of term 2"):
        plan(a, [b], force=True)
    assert plan(b, [a, c], force=True).survey == b
    assert plan(a, [c], force=True).survey == a
    with pytest.raises(BadConfiguration, match="a, c are a majority"):
        plan(a, [c])
    with pytest.raises(BadConfiguration, match="are both of server b"):
        plan(b, [b])
    stranger = evolve(c, identity=evolve(c.identity, cluster_id="other"))
    with pytest.raises(BadConfiguration, match="of one cluster"):
        plan(b, [stranger])
    recovered = evolve(c, identity=evolve(c.identity, cluster_id="c+1"))
    with pytest.raises(BadConfiguration, match="recovered before"):
        plan(b, [recovered])
    # Its next start would make it a cluster of the same servers beside the new one [RULES M7].
    with pytest.raises(BadConfiguration, match="a recovery was begun there"):
        plan(b, [evolve(c, is_pending=True)], force=True)
    removed = evolve(b, configuration=Configuration(MEMBERS.members[::2]))
    with pytest.raises(BadConfiguration, match="no member"):
        plan(removed)
    moved = plan(removed, force=True, peer_address="tcp:new:1", client_address="tcp:new:2")
    (member,) = moved.configuration.members
    assert (member.peer_address, member.client_address) == ("tcp:new:1", "tcp:new:2")
    with pytest.raises(BadConfiguration, match="knows no members"):
        plan(evolve(b, configuration=Configuration()))


def test_who_has_diverged_is_no_survivor(
    three: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """sc-SM4: it would not serve, and what it holds is wrong; a survey says so."""
    write_divergence(RealFiles(), three["b"], Divergence(5, True, 6, "0" * 16, "1" * 16, ("a",)))
    with pytest.raises(BadConfiguration, match="diverged, since entry 5"):
        plan(room.survey(three["b"]), force=True)
    assert main.run(("recover", "--survey", *three.values())) == 0
    assert "diverged, since entry 5; it does not serve" in capsys.readouterr().out
    assert main.run(("recover", "--survey", "--json", *three.values())) == 0
    assert '"diverged_index": 5' in capsys.readouterr().out


def test_the_command_surveys_asks_and_recovers(
    three: dict[str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main.run(("recover", "--survey", *three.values())) == 0
    told = capsys.readouterr().out
    assert "0000000000000002" in told
    assert "Of cluster c: a, b, c" in told
    assert main.run(("recover", "--survey", str(tmp_path))) == 1
    assert "is no data directory" in capsys.readouterr().out
    held = DataDirectory.open(three["b"], "b", "c")
    assert main.run(("recover", three["b"])) == 1
    assert "in use" in capsys.readouterr().err
    held.release()
    assert main.run(("recover", three["a"], three["b"], "--force")) == 1
    assert "recover that one" in capsys.readouterr().err
    assert main.run(("recover", three["b"], "--dry-run")) == 0
    told = capsys.readouterr().out
    assert "Lost is whatever only a, c had" in told
    assert "Nothing is done." in told
    assert main.run(("recover", three["b"])) == 1
    assert "--yes" in capsys.readouterr().err
    assert room.survey(three["b"]).last_index == 6
    assert main.run(("recover", three["b"], "--yes")) == 0
    assert "b is cluster c+" in capsys.readouterr().out
    assert main.run(("recover", "--survey", "--json", three["b"])) == 0
    assert '"command": "raft recover ' in capsys.readouterr().out
    assert main.run(("recover", "--survey", three["b"])) == 0
    assert "b: recovered 2" in capsys.readouterr().out
    assert main.run(("recover", three["a"], three["b"], "--yes")) == 1
    assert "recovered before" in capsys.readouterr().err


def test_a_directory_that_changed_since_is_left_alone(three: dict[str, str]) -> None:
    made = plan(room.survey(three["b"]))
    room.recover(plan(room.survey(three["b"])))
    with pytest.raises(BadConfiguration, match="has changed"):
        room.recover(made)


def test_a_survey_of_a_damaged_directory_tells_which_entries_are_good(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """sc-F28: on both sides of the damage, how far the log went, and what would help."""
    files, held = long_log()
    name = wals(files)[1]
    directory = DataDirectory.open(str(tmp_path / "a"), "a")
    for each, content in damaged(files, name, in_the_middle(files, name)).items():
        (tmp_path / "a" / each).write_bytes(content)
    directory.release()
    before = {path.name: path.read_bytes() for path in (tmp_path / "a").glob("*.wal")}
    assert main.run(("recover", "--survey", directory.path)) == 1
    shown = capsys.readouterr().out
    term, index = last_of(held)
    assert f"its log went up to entry {index} of term {term}." in shown
    assert "a: good are entries 1 to " in shown
    assert f"damaged is {directory.path}/{name}, byte " in shown
    assert "repair = true" in shown
    assert main.run(("recover", "--survey", "--json", directory.path)) == 1
    (found,) = json.loads(capsys.readouterr().out).values()
    assert (found["last_index"], found["last_term"]) == (index, term)
    assert found["good"][0][0] == 1
    assert found["good"][-1][1] == index + 1
    assert len(found["good"]) == 2
    assert found["can_be_repaired"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").glob("*.wal")} == before
    # To go on alone with it is refused as ever.
    assert main.run(("recover", directory.path, "--yes")) != 0


def test_a_survey_says_where_no_repair_helps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """sc-F28: what was lost may have been a vote."""
    files, _ = long_log()
    directory = DataDirectory.open(str(tmp_path / "a"), "a")
    for each, content in damaged(files, wals(files)[-1], 700).items():
        (tmp_path / "a" / each).write_bytes(content)
    directory.release()
    assert main.run(("recover", "--survey", directory.path)) == 1
    assert "a: the log cannot be repaired: its last term and vote" in capsys.readouterr().out


def half_repaired(path: Path, state: str) -> tuple[str, tuple[int, int]]:
    """Make the directory of a server whose repair has come to `state`; and tell what it owes."""
    files, held = long_log()
    name = wals(files)[1]
    directory = DataDirectory.open(str(path), "a")
    for each, content in damaged(files, name, in_the_middle(files, name)).items():
        (path / each).write_bytes(content)
    real, incarnation = RealFiles(), directory.identity.incarnation
    begun = repair_plan.plan(real, directory.path, incarnation, "a")
    repair.begin(real, directory.path, begun)
    if state != repair.MOVING:
        for each in begun.names:
            (path / each).rename(path / (each + begun.suffix))
        repair.begin(real, directory.path, evolve(begun, state=repair.WRITING))
    if state == repair.FETCHING:
        repair.finish(real, directory.path, incarnation)
    directory.release()
    return directory.path, last_of(held)


@pytest.mark.parametrize("state", [repair.MOVING, repair.WRITING])
def test_nobody_goes_on_alone_in_the_middle_of_a_repair(
    tmp_path: Path, state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """E1, D1, sc-F16: what is left of the log does not say its term and vote until it is finished.

    It was recovered in a term that it had voted in, and the repair then stood in its way for ever.
    """
    path, _ = half_repaired(tmp_path / "a", state)
    before = {each.name: each.read_bytes() for each in (tmp_path / "a").iterdir()}
    assert main.run(("recover", path, "--yes")) == 1
    assert "a repair of the log was begun" in capsys.readouterr().err
    assert main.run(("recover", "--survey", path)) == 1
    shown = capsys.readouterr().out
    assert "start the server once" in shown
    assert "repair = true" not in shown
    after = {each.name: each.read_bytes() for each in (tmp_path / "a").iterdir()}
    assert {**after, "lock": b""} == {**before, "lock": b""}


def test_a_survey_tells_what_a_repaired_log_lacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """D1, sc-F28: it was shown as a shorter log and nothing else."""
    path, (term, index) = half_repaired(tmp_path / "a", repair.FETCHING)
    assert main.run(("recover", "--survey", path)) == 0
    assert f"lacks what it had up to entry {index} of term {term};" in capsys.readouterr().out
    assert main.run(("recover", "--survey", "--json", path)) == 0
    (found,) = json.loads(capsys.readouterr().out).values()
    assert (found["lost_index"], found["lost_term"]) == (index, term)
    assert main.run(("recover", path, "--yes")) == 0
    assert f"up to entry {index} of term {term}.\nKept are" in capsys.readouterr().out
    # Once it goes on alone nothing is owed: it must stand for election.
    directory = DataDirectory.open(path, "a")
    log = WriteAheadLog(path, incarnation=directory.identity.incarnation)
    found, done = repair_plan.recover(log, directory, allowed=False)
    assert (found.lost, done and done.state) == ((0, 0), repair.DONE)
    log.stop()
    directory.release()


def test_survivors_of_whom_nobody_can_be_elected_are_no_majority(three: dict[str, str]) -> None:
    """D1, sc-F28: they were said to elect a leader without any loss, which they never did."""
    a, b = room.survey(three["a"]), evolve(room.survey(three["b"]), last_index=5)
    with pytest.raises(BadConfiguration, match="are a majority"):
        plan(a, [b])
    # The one that is whole has all that the other one lost.
    with pytest.raises(BadConfiguration, match="are a majority"):
        plan(a, [evolve(b, last_index=3, lost=(2, 5))])
    assert plan(a, [evolve(b, last_index=3, lost=(2, 6))]).survey == a
    assert plan(evolve(a, lost=(2, 7)), [evolve(b, last_index=3, lost=(2, 7))])
    # Two would elect the third, which stands for no election.
    b = evolve(b, last_index=3, lost=(2, 4))
    c = evolve(b, identity=identity_of("c"))
    assert plan(evolve(a, lost=(2, 7)), [b, c])
    # It was repaired, and has not noted that yet.
    with pytest.raises(BadConfiguration, match="are a majority"):
        plan(evolve(a, lost=(2, 5)), [b])


@pytest.mark.parametrize("rotten", [repair.REPAIR_NAME, DIVERGED_NAME, survivor.PENDING_NAME])
def test_a_survey_promises_no_repair_where_the_server_does_not_come_so_far(
    tmp_path: Path, rotten: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """sc-F28: the start fails on another file; it said that the others would repair the log."""
    files, _ = long_log()
    name = wals(files)[1]
    directory = DataDirectory.open(str(tmp_path / "a"), "a")
    for each, content in damaged(files, name, in_the_middle(files, name)).items():
        (tmp_path / "a" / each).write_bytes(content)
    (tmp_path / "a" / rotten).write_bytes(b"{")
    directory.release()
    assert main.run(("recover", "--survey", "--json", directory.path)) == 1
    (found,) = json.loads(capsys.readouterr().out).values()
    assert found["can_be_repaired"] is False
