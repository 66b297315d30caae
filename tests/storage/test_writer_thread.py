"""The writer's own thread: however it fails, it ends when it is told to."""

from __future__ import annotations

import errno
import threading
from queue import SimpleQueue
from typing import Any

import pytest
from attrs import Factory, define
from twisted.logger import globalLogPublisher

from raft.errors import StorageFailed
from raft.storage import thread
from raft.storage.imagined import ImaginedDisk
from raft.storage.marks import Mark
from raft.storage.records import Kind, encode
from raft.storage.thread import MOST_DRAINED, NEWEST_POSSIBLE, RETRY_SECONDS, WriterThread
from raft.storage.writer import MarkSave
from tests.storage.crashes import SEGMENT_BYTES, Script

SAVE = (1, None, None, 1, 2, b"records")
END_SECONDS = 5.0


@define
class FailingWriter:
    """What looks like a log's writer; one of its calls fails, as on a disk that is broken."""

    fails: str
    calls: list[str] = Factory(list)
    full: bool = False
    pressed: bool = False
    untidy: bool = False
    ledger: Any = None
    wait_for_room: Any = None

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name == self.fails:
            raise OSError(5, "Input/output error")

    def write(self, saves: list[Any]) -> None:
        if saves:
            self._call("write")

    def tidy(self) -> bool:
        return False

    def seal(self) -> None:
        self._call("seal")

    def close(self) -> None:
        self._call("close")

    def failed(self, error: BaseException) -> BaseException:
        return StorageFailed(str(error))


@pytest.mark.parametrize(
    ("fails", "queued"),
    [("seal", [None]), ("write", [SAVE, None]), ("write", [SAVE]), ("close", [None])],
    ids=["seal", "write before the end", "write", "close"],
)
def test_a_writer_whose_disk_fails_ends_when_it_is_told(fails: str, queued: list[Any]) -> None:
    """D3: a disk that fails while the node stops must not keep it from ending."""
    queue: SimpleQueue[Any] = SimpleQueue()
    for each in queued:
        queue.put(each)
    ended: list[str] = []
    anything: Any = None
    writer: Any = FailingWriter(fails)
    thread = WriterThread(
        writer,
        anything,
        queue,
        saved=lambda ticket: None,
        failed=lambda error: ended.append(type(error).__name__),
        finished=lambda: ended.append("finished"),
    )
    thread.start()
    if None not in queued:
        queue.put(None)
    assert thread._thread is not None
    thread._thread.join(END_SECONDS)
    assert not thread._thread.is_alive()
    assert ended == (["finished"] if fails == "close" else ["StorageFailed", "finished"])


@define
class Ledger:
    mark: Mark | None = None
    removable: bool = False


@define
class Snapshots:
    """Notes which snapshots were to be kept."""

    retained: list[tuple[int, int]] = Factory(list)

    def retain(self, oldest: int, newest: int) -> None:
        self.retained.append((oldest, newest))


class Unwaited(SimpleQueue[Any]):
    """A queue at which nobody waits: the time is over at once, and for ever is a mistake."""

    waits = 0

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        if self.empty() and timeout is None:
            raise AssertionError("it waits for ever")
        self.waits += self.empty()
        return self.get_nowait()


@define
class Desk:
    """A log's writer that notes what it is asked for, and its thread, of which each turn is ours.

    `steps` are what the writer's steps of tidying return, `arrives` is queued while it writes.
    """

    steps: list[bool] = Factory(list)
    arrives: list[Any] = Factory(list)
    calls: list[Any] = Factory(list)
    saved: list[int] = Factory(list)
    ledger: Ledger = Factory(Ledger)
    snapshots: Snapshots = Factory(Snapshots)
    full: bool = False
    full_because: str = "reason"
    pressed: bool = False
    untidy: bool = False
    becomes_full: bool = False
    now: float = 100.0
    directory: str = "/imagined"
    segment_size_bytes: int = 4096
    queue: Unwaited = Factory(Unwaited)
    thread: Any = None

    def __attrs_post_init__(self) -> None:
        writer: Any = self
        snapshots: Any = self.snapshots
        self.thread = WriterThread(
            writer,
            snapshots,
            self.queue,
            saved=self.saved.append,
            failed=self.calls.append,
            finished=lambda: self.calls.append("finished"),
            seconds=lambda: self.now,
        )

    def write(self, saves: list[Any]) -> None:
        self.calls.append([each[0] for each in saves])
        while self.arrives:
            self.queue.put(self.arrives.pop(0))

    def write_mark(self, mark: MarkSave) -> None:
        self.calls.append(mark)
        self.ledger.mark = Mark(mark.index, mark.term, mark.keep_from, mark.index - 1)

    def tidy(self) -> bool:
        self.calls.append("tidy")
        self.full = self.becomes_full
        return self.steps.pop(0) if self.steps else False

    def turn(self, *queued: Any) -> bool:
        """Queue these, and let the thread have one turn; it must not have to wait."""
        for each in queued:
            self.queue.put(each)
        more: bool = self.thread._turn()
        return more

    def asked(self) -> list[Any]:
        """Return what was asked of the writer since the last time."""
        calls, self.calls = self.calls, []
        return calls


def save(ticket: int) -> tuple[Any, ...]:
    return (ticket, None, None, 0, 0, b"")


@pytest.fixture
def desk() -> Desk:
    """One that has tidied all it can."""
    made = Desk()
    assert made.turn()
    assert made.asked() == ["tidy"]
    return made


def test_all_that_is_queued_is_written_at_once_and_reported_once(desk: Desk) -> None:
    """D1, D2: the slower the disk, the more there is in one write."""
    assert desk.turn(save(1), save(2), save(3))
    assert (desk.asked(), desk.saved) == ([[1, 2, 3]], [3])
    assert desk.snapshots.retained == []


def test_what_is_written_at_once_is_bounded(desk: Desk) -> None:
    """I21: the rest has its own turn."""
    assert desk.turn(*map(save, range(MOST_DRAINED + 1)))
    assert desk.turn()
    first, second = desk.asked()
    assert (len(first), second) == (MOST_DRAINED, [MOST_DRAINED])
    assert desk.saved == [MOST_DRAINED - 1, MOST_DRAINED]


def test_a_mark_is_written_in_its_place(desk: Desk) -> None:
    """N1, N7: older snapshots go once it is saved and told, and only then."""
    mark = MarkSave(3, 9, 1, True, 5)
    assert desk.turn(save(1), save(2), mark, save(4))
    assert (desk.asked(), desk.saved) == ([[1, 2], mark, [4]], [4])
    assert desk.snapshots.retained == [(8, NEWEST_POSSIBLE)]
    assert desk.turn(save(5))
    assert len(desk.snapshots.retained) == 1
    assert desk.turn(mark)
    assert (desk.saved, len(desk.snapshots.retained)) == ([4, 5, 3], 2)


def test_what_was_queued_before_the_end_is_written(desk: Desk) -> None:
    """Nothing after it is: there is nothing."""
    assert not desk.turn(save(1), None, save(2))
    assert (desk.asked(), desk.saved) == ([[1]], [1])


def test_a_poisoned_store_writes_nothing_more(desk: Desk) -> None:
    """D3: what was queued before it may be lost as well: nobody was told of it."""
    with pytest.raises(StorageFailed):
        desk.turn(save(1), StorageFailed("x"), save(2))
    assert (desk.asked(), desk.saved) == ([], [])


def test_tidying_waits_for_saves_unless_it_is_pressing(desk: Desk) -> None:
    """A step at a time, and none where saves are waiting, until it cannot be put off."""
    desk.untidy, desk.steps = True, [True, False]
    desk.arrives = [save(2)]
    desk.turn(save(1))
    assert desk.asked() == [[1]]
    desk.arrives, desk.pressed = [save(3)], True
    desk.turn()
    assert desk.asked() == [[2], "tidy"]
    desk.turn()
    assert desk.asked() == [[3], "tidy"]
    desk.untidy = False
    desk.turn(save(4))
    assert desk.asked() == [[4]]
    desk.untidy, desk.pressed, desk.steps = True, False, [True, True, False]
    for expected in ([[5], "tidy"], ["tidy"], ["tidy"]):
        desk.turn(*[save(5)] * (expected[0] == [5]))
        assert desk.asked() == expected


@pytest.fixture
def told() -> Any:
    """The formats of what was logged meanwhile."""
    formats: list[Any] = []

    def observe(event: dict[str, Any]) -> None:
        if event.get("log_namespace") == "raft.storage":
            formats.append(event["log_format"])

    globalLogPublisher.addObserver(observe)
    yield formats
    globalLogPublisher.removeObserver(observe)


def test_a_full_disk_is_asked_for_room_now_and_then(desk: Desk, told: list[str]) -> None:
    """D4: saves go on meanwhile; it is said once, and once again when there is room."""
    desk.now += 10 * RETRY_SECONDS
    desk.untidy = desk.becomes_full = True
    desk.turn(save(1))
    assert desk.asked() == [[1], "tidy"]
    assert len(told) == 1
    assert told[0].startswith("{path}: no room")
    for ticket in (2, 3):
        desk.now += RETRY_SECONDS / 4
        desk.turn(save(ticket))
        assert desk.asked() == [[ticket]]
    desk.now += RETRY_SECONDS / 2
    desk.turn(save(4))
    assert desk.asked() == [[4], "tidy"]
    assert len(told) == 1
    # With nothing to save it wakes by itself.
    desk.now += RETRY_SECONDS
    desk.becomes_full = False
    assert desk.turn()
    assert desk.asked() == ["tidy"]
    assert told[1:] == ["{path}: there is room again"]
    desk.turn(save(5))
    assert desk.asked() == [[5], "tidy"]
    assert len(told) == 2


def test_what_may_go_goes_from_a_full_disk_at_once(desk: Desk) -> None:
    """D4: that may be what makes room."""
    desk.untidy = desk.becomes_full = True
    desk.turn(save(1))
    desk.ledger.removable = True
    desk.turn(save(2))
    assert desk.asked() == [[1], "tidy", [2], "tidy"]
    desk.becomes_full, desk.steps = False, [True]
    desk.turn(save(3))
    assert desk.asked() == [[3], "tidy"]
    desk.ledger.removable = False
    desk.turn(save(4))
    assert desk.asked() == [[4], "tidy"]


def test_a_disk_that_stays_full_is_not_asked_without_a_pause(desk: Desk) -> None:
    """D4: it waits for saves between two tries, and for no longer than it must."""
    desk.untidy = desk.becomes_full = True
    desk.turn(save(1))
    desk.thread._retry_at = desk.now + 1
    for _ in range(4):
        assert desk.turn()
    assert (desk.asked(), desk.queue.waits) == ([[1], "tidy"], 4)


def test_the_end_of_the_thread_is_the_last_that_is_told() -> None:
    """It can be waited for from anywhere, the thread itself too; it keeps no process alive."""
    calls: list[str] = []
    writer: Any = FailingWriter("nothing", calls)
    queue: SimpleQueue[Any] = SimpleQueue()
    nothing: Any = None

    def finished() -> None:
        thread.join()
        calls.append("finished")

    thread = WriterThread(writer, nothing, queue, nothing, nothing, finished)
    thread.join()
    thread.start()
    assert thread._thread is not None
    assert thread._thread.daemon
    waiter = threading.Thread(target=thread.join, daemon=True)
    waiter.start()
    assert waiter.is_alive()
    queue.put(None)
    waiter.join(END_SECONDS)
    assert not waiter.is_alive()
    assert not thread._thread.is_alive()
    assert calls == ["seal", "close", "finished"]


class NoRoom(ImaginedDisk):
    """A disk without room for another file while it `is_full`."""

    is_full = False

    def allocate(self, *place: Any) -> None:
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().allocate(*place)


@pytest.mark.parametrize("ends", [False, True])
def test_a_save_that_needs_a_segment_waits_for_room_until_the_end(
    ends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D4: the node stopped with what was under way when its disk became full; sc-F8."""
    monkeypatch.setattr(thread, "RETRY_SECONDS", 0.0)
    script = Script(NoRoom())
    script.open()
    script.vote(1, "a")
    writer, queue = script.writer, SimpleQueue[Any]()
    failed: list[Any] = []
    waits: list[bool] = []
    finished = threading.Event()
    snapshots: Any = Snapshots()
    saved: list[int] = []
    writing = WriterThread(writer, snapshots, queue, saved.append, failed.append, finished.set)
    wait_for_room = writing._wait_for_room

    def noted() -> bool:
        waits.append(writer.full)
        if ends:
            writing.ending.set()
        elif len(waits) == 3:
            script.disk.is_full = False
        return wait_for_room()

    script.disk.is_full = True
    records = encode(script.end, script.term, 0, Kind.COMMAND, bytes(SEGMENT_BYTES))
    first = script.end
    writing.start()
    writer.wait_for_room = noted
    queue.put((script.ticket + 1, None, None, first, first + 1, records))
    queue.put((script.ticket + 2, None, None, first + 1, first + 1, b""))
    queue.put(None)
    assert finished.wait(20.0)
    writing.join()
    assert waits == ([True] if ends else [True] * 3)
    assert (not failed and saved) if not ends else (isinstance(failed[0], StorageFailed))
    if not ends:
        assert not writer.full
        assert writer.ledger.next_index == first + 1
