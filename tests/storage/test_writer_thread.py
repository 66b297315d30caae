"""The writer's own thread: however it fails, it ends when it is told to."""

from __future__ import annotations

from queue import SimpleQueue
from typing import Any

import pytest
from attrs import Factory, define

from raft.errors import StorageFailed
from raft.storage.thread import WriterThread

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
