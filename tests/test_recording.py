"""RaftClient(record=...): what is asked and told stands in the file, line by line, as it was."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from raft import errors
from raft.client.recording import Recording
from raft.testing.history import Operation
from raft.testing.history_file import read_history
from raft.testing.linearizability import KEY_VALUE, Verdict, check
from tests.client_bench import Outcome, leading


def recorded(text: str) -> list[Operation]:
    return read_history(io.BytesIO(text.encode()), "recorded", KEY_VALUE.steps)


def seen(operations: list[Operation]) -> list[tuple[Any, ...]]:
    return [
        (each.op, each.key, each.value, each.expected, each.output, each.ok) for each in operations
    ]


def test_commands_queries_and_their_answers_are_a_history(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    bench = leading(record=path)
    for command in (["set", "k", b"\0"], ["cas", "k", b"\0", 2], ["append", "l", {"a": 1}]):
        Outcome(bench.client.write(command))
    Outcome(bench.client.write_indexed(["delete", b"k"]))
    bench.turn()
    bench["n1"].asked[0].answer(None, True, 1)
    bench["n1"].asked[1].answer(False, index=7)
    Outcome(bench.client.read(["get", "k"]))
    Outcome(bench.client.read(["get", "k"], consistency="local"))
    Outcome(bench.client.read(["count"]))
    bench.turn()
    for asked in bench["n1"].asked[2:]:
        asked.answer(*[2] * len(asked.items))
    bench.client.close()
    operations = recorded(path.read_text())
    assert seen(operations) == [
        ("put", "k", b"\0", None, None, True),
        ("cas", "k", 2, b"\0", True, True),
        ("append", "l", {"a": 1}, None, 1, True),
        ("delete", b"k", None, None, False, True),
        ("get", "k", None, None, 2, True),
    ]
    assert check(operations).verdict is Verdict.OK


def test_each_outcome_is_what_the_client_was_told(tmp_path: Path) -> None:
    """A definite refusal is definite, and everything else that failed is unknown."""
    outcomes: list[tuple[Any, bool | None]] = [
        (errors.NotLeader(), False),
        (errors.CommandError("not-a-list", ""), False),
        (errors.Timeout(False), False),
        (errors.Timeout(True), None),
        (errors.OutcomeUnknown(), None),
        (errors.StorageFailed(), None),
        (ValueError(), None),
    ]
    file = io.StringIO()
    recording = Recording(file)
    for error, _ in outcomes:
        answer: Deferred[Any] = Deferred()
        found = Outcome(recording.command(["set", "k", 1], answer))
        answer.errback(error)
        assert found.error is error
    assert [each.ok for each in recorded(file.getvalue())] == [ok for _, ok in outcomes]


def test_what_runs_at_once_is_done_by_several() -> None:
    """A client of a history has one operation open at a time."""
    file = io.StringIO()
    recording = Recording(file, "c")
    answers: list[Deferred[Any]] = [Deferred() for _ in range(4)]
    for each in answers[:3]:
        recording.command(["set", "k", 1], each)
    answers[1].callback(None)
    recording.query(["get", "k"], answers[3])
    for each in (answers[0], answers[2], answers[3]):
        each.callback(1)
    clients = [each.client for each in recorded(file.getvalue())]
    assert sorted(clients) == ["c/0", "c/1", "c/1", "c/2"]


def test_a_write_stands_in_the_file_before_it_is_sent(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    bench = leading(record=path)
    written = Outcome(bench.client.write(["set", "k", 1]))
    assert seen(recorded(path.read_text())) == [("put", "k", 1, None, None, None)]
    bench.client.close()
    assert isinstance(written.error, errors.NotAppended)
    assert seen(recorded(path.read_text())) == [("put", "k", 1, None, None, False)]


def test_what_is_under_way_when_the_process_dies_is_in_the_history(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    script = (
        "import os, sys\n"
        "from twisted.internet.defer import Deferred, succeed\n"
        "from raft.client.recording import Recording\n"
        "recording = Recording(sys.argv[1])\n"
        "recording.command(['set', 'k', 1], succeed(None))\n"
        "recording.command(['set', 'k', 2], Deferred())\n"
        f"os.kill(os.getpid(), {int(signal.SIGKILL)})\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", script, path], env=environment, timeout=30, check=False)
    assert seen(recorded(path.read_text())) == [
        ("put", "k", 1, None, None, True),
        ("put", "k", 2, None, None, None),
    ]


def test_a_file_that_cannot_be_opened_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        leading(record=tmp_path / "no" / "history.jsonl")


class Full(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


def test_a_file_that_fails_ends_the_recording_and_not_the_client(logged_errors: Any) -> None:
    bench = leading(record=Full())
    found = Outcome(bench.client.write(["set", "k", 1]))
    bench.turn()
    bench["n1"].asked[0].answer(None)
    assert found.is_there
    assert len(logged_errors.flush(OSError)) == 1


def test_values_that_json_has_not_are_written_so_that_equal_ones_are_equal() -> None:
    file = io.StringIO()
    recording = Recording(file)
    values = [{1: "a", b"k": [b"v"]}, {"$bytes": "00"}, float("nan"), float("-inf"), 10**30]
    for each in values:
        recording.command(["set", "k", each], Deferred())
    assert [each.value for each in recorded(file.getvalue())] == [
        {"$map": [[1, "a"], [b"k", [b"v"]]]},
        {"$map": [["$bytes", "00"]]},
        {"$float": "nan"},
        {"$float": "-inf"},
        10**30,
    ]
    assert all("NaN" not in line for line in file.getvalue().splitlines())


def test_of_lines_with_one_id_the_last_counts() -> None:
    fields = {"client": "a", "op": "put", "key": "k", "value": 1, "call": 0}
    begun = json.dumps({**fields, "return": None, "id": 1})
    ended = json.dumps({**fields, "return": 5, "id": 1})
    other = json.dumps({**fields, "client": "b", "return": 7, "id": 1})
    for lines in (
        [begun, other, ended],
        [begun, other, ended, "", json.dumps({**fields, "key": 1, "call": 9, "return": 9})],
    ):
        operations = recorded("\n".join(lines))
        assert [(each.client, each.return_ns) for each in operations[:2]] == [("b", 7), ("a", 5)]
