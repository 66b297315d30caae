"""`raft skip`: what it shows, what it refuses, and what it asks for."""

from __future__ import annotations

from typing import Any

import click
import pytest
from twisted.internet.defer import Deferred, fail, succeed

from raft.cli import main, skip
from raft.cli.running import Cluster
from raft.errors import NotFound, Timeout

A, B, C = (f"tcp:127.0.0.1:{8000 + number}" for number in (1, 2, 3))


class Asked:
    """Stands in for a client of three nodes."""

    def __init__(self) -> None:
        self.entry: dict[str, object] = {
            "index": 57,
            "term": 3,
            "kind": "command",
            "size_bytes": 21,
            "command": ["set", "poison", 1],
        }
        self.applied = {A: 56, B: 0, C: 12}
        self.silent: set[str] = set()
        self.skipped: list[int] = []
        self.error: Exception | None = None

    def get_entry(self, index: int, timeout: float) -> Deferred[dict[str, object]]:
        assert timeout > 0
        return succeed(self.entry) if index == 57 else fail(NotFound(f"entry {index} is not"))

    def status(self, address: str) -> Deferred[dict[str, Any]]:
        if address in self.silent:
            return fail(Timeout())
        id = {A: "a", B: "b", C: "c"}[address]
        return succeed({"id": id, "last_applied": self.applied[address], "members": []})

    def skip(self, index: int, timeout: float) -> Deferred[int]:
        self.skipped.append(index)
        return fail(self.error) if self.error else succeed(61)

    def run(self, cluster: Cluster, work: Any) -> int:
        assert cluster.endpoints == (A, B, C)
        ended: list[Any] = []
        Deferred.fromCoroutine(work(self)).addBoth(ended.append)
        if isinstance(ended[0], int):
            return ended[0]
        ended[0].raiseException()
        raise AssertionError


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    made = Asked()
    monkeypatch.setattr(skip, "run", made.run)
    return made


def typed(*arguments: str) -> int:
    return main.run(["skip", *arguments, "-e", A, "-e", B, "-e", C])


def test_it_shows_the_entry_and_skips_it(asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    assert typed("57", "--yes") == 0
    assert capsys.readouterr().out.splitlines() == [
        'Entry 57 of term 3 is a command of 21 bytes: ["set", "poison", 1]',
        "Lost is this command, on every server and for good; who repeats it is refused.",
        "Entry 61 says that entry 57 is skipped. Start the nodes as usual.",
    ]
    assert asked.skipped == [57]


def test_a_dry_run_does_nothing(asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    assert typed("57", "--dry-run") == 0
    assert capsys.readouterr().out.endswith("Nothing is done.\n")
    assert asked.skipped == []


def test_without_yes_it_asks_and_where_nobody_can_answer_it_refuses(
    asked: Asked, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert typed("57") == 1
    assert "--dry-run, then give --yes" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("click.confirm", lambda question: False)
    assert typed("57") == 1
    assert capsys.readouterr().out.endswith("Nothing is done.\n")

    def interrupted(question: str) -> bool:
        raise click.Abort

    monkeypatch.setattr("click.confirm", interrupted)
    assert typed("57") == 1
    assert asked.skipped == []
    monkeypatch.setattr("click.confirm", lambda question: True)
    assert typed("57") == 0
    assert asked.skipped == [57]


def test_where_a_server_has_applied_it_only_force_helps(
    asked: Asked, capsys: pytest.CaptureFixture[str]
) -> None:
    """SM2: there it is no poison, and that server would stop."""
    asked.applied[B] = 57
    assert typed("57", "--yes") == 1
    assert "raft: The request was refused for good. (b could apply entry 57" in (
        capsys.readouterr().err
    )
    assert asked.skipped == []
    assert typed("57", "--yes", "--force") == 0
    assert asked.skipped == [57]


def test_who_does_not_answer_is_named(asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    asked.silent.add(C)
    assert typed("57", "--dry-run") == 0
    assert f"No answer came from {C}" in capsys.readouterr().out


def test_what_is_not_there_or_not_done_is_one_line(
    asked: Asked, capsys: pytest.CaptureFixture[str]
) -> None:
    assert typed("58", "--yes", "-t", "0.000001") == 1
    assert capsys.readouterr().err.startswith("raft: ")
    assert typed("0", "--yes") == 2
    asked.error = Timeout()
    assert typed("57", "--yes") == 1
    assert capsys.readouterr().err.count("\n") == 2


def test_long_commands_are_shown_in_part(asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    asked.entry |= {"command": "x" * 5000, "kind": "session_command"}
    assert typed("57", "--dry-run") == 0
    line = capsys.readouterr().out.splitlines()[0]
    assert line.startswith("Entry 57 of term 3 is a command in a session of 21 bytes: ")
    assert line.endswith("x...")
    assert len(line) < 300
