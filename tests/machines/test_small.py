"""The echo, the stack, and the example from the documentation."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from zope.interface.verify import verifyObject

from raft.codec import PLAIN
from raft.errors import CommandError
from raft.interfaces import IStateMachine, Value
from raft.machines.echo import Echo
from raft.machines.slices import packed, unpacked
from raft.machines.stack import Stack
from raft.replica import CommandContext, Replica
from raft.storage.records import encode_commands

CONTEXT = CommandContext(b"")
EXAMPLE = Path(__file__).parents[2] / "examples" / "counter.py"


def test_an_echo_answers_with_what_it_was_given() -> None:
    echo = Echo()
    verifyObject(IStateMachine, echo)
    assert echo.apply(["anything", 1], CONTEXT) == ["anything", 1]
    assert echo.query(None) is None
    echo.restore(iter(echo.snapshot()))
    with pytest.raises(ValueError, match="another machine's"):
        echo.restore(iter([b"x"]))


def put(stack: Stack, *values: Value) -> None:
    for value in values:
        stack.apply(["put", value], CONTEXT)


def test_a_stack_gives_back_the_last_value_first() -> None:
    stack = Stack()
    verifyObject(IStateMachine, stack)
    put(stack, 1, [2], None)
    assert stack.query(["all"]) == [None, [2], 1]
    assert stack.query(["length"]) == 3
    assert stack.apply(["pop"], CONTEXT) is None
    assert stack.apply(["pop"], CONTEXT) == [2]
    assert stack.apply(["pop"], CONTEXT) == 1
    with pytest.raises(CommandError) as caught:
        stack.apply(["pop"], CONTEXT)
    assert caught.value.reason == "empty"
    for bad in (None, "pop", ["push", 1], ["put"]):
        with pytest.raises(CommandError, match="bad-command"):
            stack.apply(bad, CONTEXT)
        with pytest.raises(CommandError, match="bad-command"):
            stack.query(bad)


def test_a_stack_snapshot_stands_still_and_restores() -> None:
    stack = Stack()
    put(stack, *range(20_000))
    chunks = stack.snapshot()
    parts = [next(chunks)]
    for _ in range(10_000):
        stack.apply(["pop"], CONTEXT)
    put(stack, "new")
    parts += list(chunks)
    assert len(parts) == 5
    copy = Stack()
    put(copy, "old")
    copy.restore(iter(parts))
    assert copy.query(["all"]) == list(reversed(range(20_000)))
    assert copy.query(["length"]) == 20_000
    assert copy.apply(["pop"], CONTEXT) == 19_999


def test_slices_find_their_borders_again() -> None:
    values: list[Value] = [number if number % 3 else "x" * number for number in range(9_000)]
    content = b"".join(packed(values))
    for size in (1_000, 70_001, len(content)):
        chunks = (content[at : at + size] for at in range(0, len(content), size))
        assert [value for piece in unpacked(chunks) for value in piece] == values
    with pytest.raises(ValueError, match="ends within a slice"):
        list(unpacked([content[:-1]]))
    assert list(packed([])) == []


def test_the_example_counts_and_survives_a_snapshot() -> None:
    example = runpy.run_path(str(EXAMPLE))
    replica = Replica(example["Counter"]())
    commands = [PLAIN.encode(["add", "a", 2]), PLAIN.encode(["add", "a", 3]), PLAIN.encode(["x"])]
    applied = replica.apply(
        encode_commands(1, 1, 4_000_000, commands), want_from=1, want_end=4, deadline=float("inf")
    )
    assert [code for code, _ in applied.results] == ["", "", "COMMAND_ERROR"]
    meta, chunks = replica.snapshot()
    copy = Replica(example["Counter"]())
    copy.restore(meta, list(chunks))
    assert copy.query(PLAIN.encode("a")) == ("", PLAIN.encode([5, 4.0]))


def test_the_howto_shows_the_example_as_it_is() -> None:
    howto = (EXAMPLE.parents[1] / "docs" / "howto" / "state-machine.md").read_text()
    shown = howto.split("```python\n")[1].split("```")[0]
    assert shown.startswith("@implementer(IStateMachine)")
    assert shown in EXAMPLE.read_text()


def test_the_example_prints_what_the_documentation_shows(
    capsys: pytest.CaptureFixture[str],
) -> None:
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert capsys.readouterr().out == "[1, 3, 42]\nok [42, 7.0]\n"
