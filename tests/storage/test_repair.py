"""A damaged log that others repair: what is decided, what is done, and each crash meanwhile."""

from __future__ import annotations

import json
import random

import pytest
from attrs import evolve

from raft.core.configuration import Configuration, Member
from raft.core.outputs import HardState
from raft.errors import BadConfiguration, StorageDamaged
from raft.lives import Lives
from raft.storage import repair, repair_plan, segments
from raft.storage.directory import DataDirectory
from raft.storage.files import RealFiles
from raft.storage.imagined import ImaginedDisk
from raft.storage.records import Kind, encode, encode_configuration
from raft.storage.repair import DONE, FETCHING, Repair, decode_repair, encode_repair
from raft.storage.salvage import Stretch, salvage
from raft.storage.starts import write_peers
from raft.storage.wal import WriteAheadLog
from tests.storage.crashes import DIRECTORY, SEGMENT_BYTES, Script, digest, recovered
from tests.storage.test_faults import frames_of

THREE = Configuration(tuple(Member(id) for id in "abc"))


def configured(script, configuration=THREE):
    """Append a configuration, as a leader's first entry is."""
    body = encode(
        script.end, script.term, 0, Kind.CONFIGURATION, encode_configuration(configuration)
    )
    held = script.held
    script.note(evolve(held, entries=(*held.entries, (script.end, body))))
    script.ticket += 1
    end = script.end
    script.writer.write([(script.ticket, None, None, end - 1, end, body)])
    script.done()


def long_log(configuration=THREE, snapshot=False):
    """Return the files of a log of several segments, and what it holds."""
    script = Script(ImaginedDisk(), chance=random.Random(5))
    script.open()
    script.vote(1, "a")
    configured(script, configuration)
    script.append(8, 700)
    script.vote(2, "b")
    script.append(4, 500)
    script.save((HardState(3, "a"), script.end - 2, 2, 300))
    if snapshot:
        script.take_snapshot(10, 2)
        script.mark(10, 2, keep_from=1)
    script.append(9, 600)
    script.writer.seal()
    script.writer.close()
    return script.disk.contents(), script.held


def wals(files):
    return sorted(name for name in files if name.endswith(".wal"))


def damaged(files, name, offset):
    flipped = bytearray(files[name])
    flipped[offset] ^= 0x20
    return {**files, name: bytes(flipped)}


def in_the_middle(files, name):
    """Return the offset of a byte within one of the middle frames of a segment."""
    found, _ = frames_of(files[name])
    begin, end = found[len(found) // 2]
    return (begin + end) // 2


def planned(files, before=None):
    disk = ImaginedDisk.holding(files)
    found = repair_plan.plan(disk, DIRECTORY, "", "a", before, segment_size_bytes=SEGMENT_BYTES)
    assert disk.contents() == files, "a plan changes nothing"
    return found


def carried_out(files, intended):
    disk = ImaginedDisk.holding(files)
    repair.begin(disk, DIRECTORY, intended)
    begun = len(disk.operations)
    done = repair.finish(disk, DIRECTORY, "", SEGMENT_BYTES)
    return disk, begun, done


def last_of(held):
    index, record = held.entries[-1]
    return int.from_bytes(record[16:24], "little"), index


def test_a_segment_in_the_middle_is_moved_aside_and_the_rest_is_owed():
    """D1: the good prefix stays, term and vote too, and how far the log went is known."""
    files, held = long_log()
    name = wals(files)[1]
    intended = planned(damaged(files, name, in_the_middle(files, name)))
    assert intended.last == last_of(held)
    assert intended.hard_state == held.hard_state
    assert intended.names == tuple(wals(files)[1:])
    disk, _, done = carried_out(damaged(files, name, in_the_middle(files, name)), intended)
    assert done.state == FETCHING
    found, now = recovered(disk)
    assert now.hard_state == held.hard_state
    assert 0 < len(now.entries) < len(held.entries)
    assert set(now.entries) <= set(held.entries)
    left = disk.contents()
    assert left[name + intended.suffix] == damaged(files, name, in_the_middle(files, name))[name]
    assert found.first_index == 1


def test_the_first_segment_is_no_exception():
    files, held = long_log()
    name = wals(files)[0]
    wrong = damaged(files, name, in_the_middle(files, name))
    disk, _, done = carried_out(wrong, planned(wrong))
    _, now = recovered(disk)
    assert (now.hard_state, now.entries) == (held.hard_state, ())
    assert done.last == last_of(held)


def test_a_missing_segment_is_repaired_like_a_damaged_one():
    """sc-F5."""
    files, held = long_log()
    wrong = {name: content for name, content in files.items() if name != wals(files)[1]}
    with pytest.raises(StorageDamaged):
        recovered(ImaginedDisk.holding(wrong))
    disk, _, done = carried_out(wrong, planned(wrong))
    _, now = recovered(disk)
    assert (now.hard_state, done.last) == (held.hard_state, last_of(held))


def test_what_a_snapshot_covers_is_no_loss():
    """D1, N7: nothing is owed; the log goes on behind the damage."""
    files, held = long_log(snapshot=True)
    name = wals(files)[0]
    wrong = damaged(files, name, in_the_middle(files, name))
    disk, _, done = carried_out(wrong, planned(wrong))
    assert (done.state, done.last, done.hard_state) == (DONE, (0, 0), None)
    found, now = recovered(disk)
    assert (now.hard_state, found.snapshot.index) == (held.hard_state, 10)
    assert now.entries == held.entries[-len(now.entries) :]


def test_where_the_prefix_is_not_enough_the_log_begins_behind_the_snapshot():
    files, held = long_log(snapshot=True)
    wrong = files
    for name in (wals(files)[0], wals(files)[-2]):
        wrong = damaged(wrong, name, in_the_middle(wrong, name))
    intended = planned(wrong)
    assert intended.snapshot == (10, 2)
    disk, _, _ = carried_out(wrong, intended)
    found, now = recovered(disk)
    assert (now.hard_state, now.entries, now.snapshot) == (held.hard_state, (), 10)
    assert (found.first_index, found.prev_term) == (11, 2)


def test_term_and_vote_must_be_certain():
    """E1, D1: what was lost may have been a vote; no frame behind the damage says which."""
    files, _ = long_log()
    name = wals(files)[-1]
    begin, _ = frames_of(files[name])[0][-3]
    with pytest.raises(StorageDamaged, match="cannot be repaired: its last term"):
        planned(damaged(files, name, begin + 40))


@pytest.mark.parametrize("following", [0, 2])
def test_a_frame_that_stands_in_a_later_one_s_place_is_not_believed(following):
    """E1, D1: a misdirected write brought back an old vote, with entries behind it, or none."""
    script = Script(ImaginedDisk())
    script.open()
    script.vote(1, None)
    configured(script)
    script.save((HardState(1, "a"), None, 1, 40))
    script.append(1)
    script.save((HardState(3, "b"), None, 1, 40))
    for _ in range(following):
        script.append(1)
    script.writer.close()
    files = script.disk.contents()
    (name,) = wals(files)
    found, _ = frames_of(files[name])
    (old, old_end), (new, new_end) = found[3], found[5]
    assert old_end - old == new_end - new
    content = bytearray(files[name])
    content[new:new_end] = content[old:old_end]
    wrong = {**files, name: bytes(content)}
    with pytest.raises(StorageDamaged, match="stands where"):
        recovered(ImaginedDisk.holding(wrong))
    with pytest.raises(StorageDamaged, match="its last term and vote"):
        planned(wrong)


def test_an_installed_snapshot_is_how_far_the_log_was():
    """D1, N6: the log before it may have been longer, or shorter; neither is what is owed."""
    script = Script(ImaginedDisk())
    script.open()
    script.vote(1)
    configured(script)
    for _ in range(8):
        script.append(2, 400)
    script.vote(3)
    script.take_snapshot(40, 2)
    script.mark(40, 2, keep_log=False, keep_from=41)
    script.writer.seal()
    script.writer.close()
    files = script.disk.contents()
    (snapshot,) = (name for name in files if name.endswith(".snap"))
    first = wals(files)[0]
    both = damaged(damaged(files, first, in_the_middle(files, first)), snapshot, 100)
    for wrong in (damaged(files, first, in_the_middle(files, first)), both):
        assert salvage(ImaginedDisk.holding(wrong), DIRECTORY).last == (2, 40)
    assert planned(with_peers(both)).last == (2, 40)


def test_as_many_entries_of_an_earlier_term_are_not_what_is_owed(tmp_path):
    """D1, E2: a log of the same length may be what was overwritten."""
    directory, _ = real(tmp_path)
    log = store(directory)
    found, done = repair_plan.recover(log, directory, True)
    term, end = found.runs[-1].term, found.runs[-1].end
    assert term < found.lost[0]
    log.stop()
    shorter = evolve(done, last=(found.lost[0], end - 1))
    repair.begin(directory.files, directory.path, shorter)
    log = store(directory)
    again, done = repair_plan.recover(log, directory, True)
    assert (again.lost, done.state) == (shorter.last, FETCHING)
    log.stop()
    directory.release()


def test_a_server_that_is_alone_is_not_repaired():
    """D1: nobody else has what is lost; to wait for a leader would be to wait for ever."""
    alone = Configuration((Member("a"), Member("b", voter=False)))
    files, _ = long_log(alone)
    name = wals(files)[1]
    with pytest.raises(StorageDamaged, match="alone"):
        planned(damaged(files, name, in_the_middle(files, name)))


def test_without_its_configuration_a_server_must_have_heard_others():
    """D1: one that was alone put its whole log aside, and waited for a leader for ever."""
    files, held = long_log(Configuration((Member("a"),)))
    name = wals(files)[0]
    begin, end = frames_of(files[name])[0][2]
    wrong = damaged(files, name, (begin + end) // 2)
    assert salvage(ImaginedDisk.holding(wrong), DIRECTORY).configurations == ()
    with pytest.raises(StorageDamaged, match="nothing says that there are others"):
        planned(wrong)
    files, held = long_log()
    assert planned(with_peers(damaged(files, name, (begin + end) // 2))).last == last_of(held)


def with_peers(files):
    """Return the files of a server that has heard another one."""
    disk = ImaginedDisk.holding(files)
    write_peers(disk, DIRECTORY, {"b": ("00bb", Lives(1, ("b" * 8,)))})
    return disk.contents()


def test_damage_during_a_repair_forgets_nothing_that_is_owed():
    """D1: how far the log was once stays what this server must reach."""
    files, _ = long_log()
    name = wals(files)[1]
    before = Repair(FETCHING, HardState(9), (8, 500), (0, 0), (), ".x", ("before",), 1)
    again = planned(damaged(files, name, in_the_middle(files, name)), before)
    assert again.last == (8, 500)
    files, _ = long_log(snapshot=True)
    name = wals(files)[0]
    covered = planned(damaged(files, name, in_the_middle(files, name)), before)
    assert (covered.last, covered.hard_state) == ((8, 500), None)
    _, _, done = carried_out(damaged(files, name, in_the_middle(files, name)), covered)
    assert done.state == FETCHING


@pytest.mark.parametrize("snapshot", [False, True])
@pytest.mark.parametrize("at", [0, 1, -2])
def test_a_crash_during_a_repair_leaves_one_that_is_finished(snapshot, at, record_property):
    """D1, D5, sc-F16: whatever is left, the next start ends with the same log and debt."""
    files, _ = long_log(snapshot=snapshot)
    name = wals(files)[at]
    wrong = damaged(files, name, in_the_middle(files, name))
    intended = planned(wrong)
    disk, begun, done = carried_out(wrong, intended)
    _, expected = recovered(ImaginedDisk.holding(disk.contents()))
    seen = set()
    for at_operation, left in disk.crash_states():
        if digest(left) in seen:
            continue
        seen.add(digest(left))
        again = ImaginedDisk.holding(left)
        found = repair.finish(again, DIRECTORY, "", SEGMENT_BYTES)
        if found is None:
            assert at_operation < begun
            with pytest.raises(StorageDamaged):
                recovered(again)
            continue
        assert found == done
        assert recovered(again)[1] == expected
        assert name + intended.suffix in again.contents()
        if len(seen) % 7 == 0:
            for _, crashed in again.crash_states():
                thrice = ImaginedDisk.holding(crashed)
                assert repair.finish(thrice, DIRECTORY, "", SEGMENT_BYTES) == done
                assert recovered(thrice)[1] == expected
                seen.add(digest(crashed))
    record_property("crash states", len(seen))
    assert len(seen) > 15


@pytest.mark.slow
@pytest.mark.parametrize("snapshot", [False, True])
def test_each_flipped_bit_is_harmless_refused_or_repaired_without_a_lie(snapshot, record_property):
    """TESTING 3.7, D1, sc-F2, sc-F3: never another log, another vote, or a shorter memory."""
    files, held = long_log(snapshot=snapshot)
    files = with_peers(files)
    outcomes = {"harmless": 0, "refused": 0, "repaired": 0}
    for name in wals(files):
        used = len(files[name].rstrip(b"\0"))
        for offset in range(0, used, 13):
            outcomes[flipped_outcome(damaged(files, name, offset), held)] += 1
    for outcome, count in outcomes.items():
        record_property(f"flipped bits, {outcome}", count)
    assert outcomes["repaired"] > outcomes["refused"] > 0, outcomes


def flipped_outcome(files, held):
    try:
        _, now = recovered(ImaginedDisk.holding(files))
    except StorageDamaged:
        pass
    else:
        assert (now.hard_state, now.entries, now.snapshot) == (
            held.hard_state,
            held.entries[-len(now.entries) :],
            held.snapshot,
        )
        return "harmless"
    try:
        intended = planned(files)
    except StorageDamaged:
        return "refused"
    disk, _, done = carried_out(files, intended)
    _, now = recovered(disk)
    assert now.hard_state == held.hard_state
    assert set(now.entries) <= set(held.entries)
    if done.state == DONE:
        assert now.entries == held.entries[-len(now.entries) :]
    else:
        assert done.last == last_of(held)
    return "repaired"


def test_salvage_tells_which_entries_are_good():
    """sc-F28: on both sides of the damage."""
    files, held = long_log()
    name = wals(files)[1]
    found = salvage(
        ImaginedDisk.holding(damaged(files, name, in_the_middle(files, name))), DIRECTORY
    )
    (before, after) = found.stretches
    assert (before.start, after.end) == (1, held.entries[-1][0] + 1)
    assert before.end < after.start
    assert [damage.path for damage in found.damages] == [f"{DIRECTORY}/{name}"]
    assert (found.hard_state, found.last) == (held.hard_state, last_of(held))
    whole = salvage(ImaginedDisk.holding(files), DIRECTORY)
    assert whole.damages == ()
    assert whole.stretches == (Stretch(1, held.entries[-1][0] + 1, 3),)


def test_salvage_reads_past_all_sorts_of_damage():
    files, held = long_log()
    first, second, *_ = wals(files)
    end = frames_of(files[first])[0][-1][1]
    header = salvage(ImaginedDisk.holding(damaged(files, second, 20)), DIRECTORY)
    assert header.damages[0].reason.startswith("the segment's header")
    begin, _ = frames_of(files[first])[0][-1]
    cut = {**files, first: files[first][:begin].ljust(len(files[first]), b"\0")}
    lost = salvage(ImaginedDisk.holding(cut), DIRECTORY)
    assert lost.damages[0].offset == begin < end
    assert lost.damages[0].reason.startswith("what followed here is lost")
    empty = {**files, first: files[first][:512].ljust(len(files[first]), b"\0")}
    assert salvage(ImaginedDisk.holding(empty), DIRECTORY).damages[0].offset == 512
    for each in (header, lost):
        assert each.last == last_of(held)


GOLDEN = Repair(
    FETCHING, HardState(3, "b"), (3, 17), (10, 2), ("log-1.wal",), ".damaged-00c0ffee", ("x",), 42
)


def test_the_file_s_form_is_a_contract():
    content = encode_repair(GOLDEN)
    assert json.loads(content) == {
        "format_version": 1,
        "state": "fetching",
        "has_hard_state": True,
        "current_term": 3,
        "voted_for": "b",
        "last_term": 3,
        "last_index": 17,
        "snapshot_index": 10,
        "snapshot_term": 2,
        "names": ["log-1.wal"],
        "suffix": ".damaged-00c0ffee",
        "damages": ["x"],
        "begun_at": 42,
        "checksum": "18d09cbe",
    }
    assert decode_repair(content, "repair") == GOLDEN


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[" * 10_000, encode_repair(GOLDEN).replace(b"17", b"16")]
)
def test_a_damaged_note_of_a_repair_is_refused(content):
    with pytest.raises(StorageDamaged, match="unusable"):
        decode_repair(content, "repair")


def test_a_newer_note_of_a_repair_is_refused():
    """sc-F27."""
    with pytest.raises(BadConfiguration, match="format 2"):
        decode_repair(encode_repair(GOLDEN).replace(b": 1,", b": 2,", 1), "repair")


def real(tmp_path):
    """Return a real data directory with a damaged log, its path, and what the log held."""
    files, held = long_log()
    name = wals(files)[1]
    directory = DataDirectory.open(str(tmp_path / "a"), "a")
    for each, content in damaged(files, name, in_the_middle(files, name)).items():
        (tmp_path / "a" / each).write_bytes(content)
    return directory, held


def store(directory):
    return WriteAheadLog(directory.path, segment_size_bytes=SEGMENT_BYTES)


def test_by_default_a_damaged_log_is_refused_and_the_way_out_is_named(tmp_path):
    """D1: to repair is the operator's decision; nothing is changed without it."""
    directory, _ = real(tmp_path)
    before = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    with pytest.raises(StorageDamaged, match="`repair = true` under") as refused:
        repair_plan.recover(store(directory), directory, False)
    assert refused.value.path.endswith(segments.name(2))
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == before
    directory.release()


def test_a_repair_that_is_allowed_is_done_at_the_start_and_remembered(tmp_path):
    """D1: the next start still owes what this one owed, whatever the setting is by then."""
    directory, held = real(tmp_path)
    log = store(directory)
    found, done = repair_plan.recover(log, directory, True)
    assert (found.lost, done.state) == (last_of(held), FETCHING)
    log.stop()
    log = store(directory)
    again, done = repair_plan.recover(log, directory, False)
    assert again == found
    log._writer.write(
        [(1, None, None, again.runs[-1].end, last_of(held)[1] + 1, rest(again, held))]
    )
    log.stop()
    log = store(directory)
    whole, done = repair_plan.recover(log, directory, False)
    assert (whole.lost, done.state) == ((0, 0), DONE)
    assert whole.runs[-1].end == last_of(held)[1] + 1
    log.stop()
    assert repair.load(RealFiles(), directory.path) == done
    directory.release()


def rest(found, held):
    return b"".join(record for index, record in held.entries if index >= found.runs[-1].end)


def test_what_no_repair_can_help_is_refused_with_the_reason(tmp_path):
    directory, _ = real(tmp_path)
    newest = sorted((tmp_path / "a").glob("*.wal"))[-1]
    content = bytearray(newest.read_bytes())
    content[600] ^= 1
    newest.write_bytes(content)
    with pytest.raises(StorageDamaged, match="cannot be repaired"):
        repair_plan.recover(store(directory), directory, True)
    with pytest.raises(StorageDamaged) as refused:
        repair_plan.recover(store(directory), directory, False)
    assert "repair = true" not in str(refused.value)
    directory.release()
