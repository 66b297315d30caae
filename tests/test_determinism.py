"""`check_determinism`: what the log did not decide is found, in this process and in fresh ones."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from raft.codec import Codec
from raft.errors import BadCommand, BadConfiguration
from raft.interfaces import Context, Value
from raft.testing import MachineFault, check_determinism
from raft.testing.named import name_of
from tests import planted_machines as planted
from tests.planted_machines import Jobs

ROOT = Path(__file__).parents[1]


def drawn(count: int = 150, seed: int = 1) -> list[Value]:
    chance = random.Random(seed)
    return [planted.commands(chance) for _ in range(count)]


@pytest.mark.slow
def test_a_machine_that_is_right_passes() -> None:
    check_determinism(Jobs, drawn(1000))
    check_determinism(Jobs, [])


FOUND = [
    (planted.LooksAtTheClock, 0, {"result", "state"}),
    (planted.CountsSeconds, 0, {"result", "state"}),
    (planted.TellsTheTime, 0, {"result", "state"}),
    (planted.DrawsLots, 0, {"result"}),
    (planted.ForgetsInSnapshots, 0, {"result", "state"}),
    (planted.ChangesThenChecks, 0, {"exception"}),
    (planted.Stumbles, 0, {"exception"}),
    (planted.RefusesItsOwn, 0, {"stopped"}),
    (planted.RunsOutOfFiles, 0, {"stopped"}),
    (planted.TakesTheFirstOfASet, 2, {"result"}),
    (planted.HashesStrings, 2, {"result"}),
    (planted.LivesInAZone, 2, {"state"}),
    (planted.RestoresLess, 0, {"state"}),
    (planted.LooksAtTheDate, 2, {"result", "state"}),
]


@pytest.mark.parametrize(
    ("machine", "processes", "kinds"), FOUND, ids=lambda each: getattr(each, "__name__", None)
)
def test_a_planted_bug_is_found(machine: type[Jobs], processes: int, kinds: set[str]) -> None:
    """SM1, SM3: clocks, chance, hashes and the order of sets; and what a failed command left."""
    with pytest.raises(MachineFault) as found:
        check_determinism(machine, drawn(), processes=processes)
    assert found.value.kind in kinds


def test_the_first_command_that_differs_is_named_with_both_results() -> None:
    commands: list[Value] = [["join", "ann"], ["assign", 3], ["finish", 3]]
    with pytest.raises(MachineFault) as found:
        check_determinism(planted.LooksAtTheClock, commands, state=workers, processes=0)
    fault = found.value
    assert (fault.kind, fault.index, fault.command) == ("result", 3, ["finish", 3])
    assert "command 3" in str(fault)
    assert "an instance in this process" in str(fault)
    assert "`context` has time" in str(fault)


def workers(machine: Jobs) -> object:
    return sorted(machine.workers)


def test_a_failed_command_is_shown_with_what_it_changed() -> None:
    commands: list[Value] = [["join", "ann"], ["assign", 3], ["join", "bob"], ["assign", 3]]
    with pytest.raises(MachineFault, match="taken") as found:
        check_determinism(planted.ChangesThenChecks, commands, processes=0)
    assert (found.value.kind, found.value.index) == ("exception", 4)
    assert "bob" in str(found.value)


class Loud(Jobs):
    """Prints, which must disturb nobody."""

    def apply(self, command: Any, context: Context) -> Value:
        print(command)
        return super().apply(command, context)


def test_a_machine_may_print(capsys: pytest.CaptureFixture[str]) -> None:
    check_determinism(Loud, drawn(5), processes=1)
    assert "assign" in capsys.readouterr().out


class Join(msgspec.Struct, tag="join"):
    worker: str


CODEC = Codec(Join)


class Typed(Jobs):
    """Has commands of its own types."""

    def apply(self, command: Any, context: Context) -> Value:
        return super().apply(["join", command.worker], context)


def test_types_and_a_view_of_its_own_reach_fresh_processes() -> None:
    check_determinism(Typed, [Join("ann"), Join("bob")], codec=CODEC, state=workers, processes=1)


def test_what_a_fresh_process_cannot_import_is_refused_with_a_remedy() -> None:
    class Local(Jobs):
        pass

    with pytest.raises(BadConfiguration, match="put it at the top of a module"):
        check_determinism(Local, drawn(3))
    check_determinism(Local, drawn(3), processes=0)
    with pytest.raises(BadConfiguration, match=r"codec is .* which a fresh process cannot import"):
        check_determinism(Jobs, drawn(3), codec=Codec())


def test_what_is_no_command_or_no_machine_is_refused() -> None:
    with pytest.raises(BadCommand):
        check_determinism(Jobs, [object()])


def test_what_has_another_name_in_its_module_is_found_there() -> None:
    found = name_of(CODEC, "codec", Typed.__module__)
    assert (found.module, found.qualname) == (Typed.__module__, "CODEC")


def test_a_process_that_does_not_end_is_not_waited_for() -> None:
    with pytest.raises(BadConfiguration, match="a fresh process was not done"):
        check_determinism(Jobs, drawn(3), processes=1, timeout=0.01)


def test_the_clock_is_as_it_was() -> None:
    real = time.time
    check_determinism(Jobs, drawn(20), processes=0)
    assert time.time is real


SCRIPT = """
from raft.testing import MachineFault, check_determinism
from tests.planted_machines import HashesStrings

class Mine(HashesStrings):
    pass

if __name__ == "__main__":
    try:
        check_determinism(Mine, [["join", "abcdefgh"[i]] for i in range(8)] + [["assign", 1]])
    except MachineFault as fault:
        print(fault.kind, fault.index)
"""


@pytest.mark.slow
def test_a_machine_of_a_script_is_checked_too(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script)], cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True
    )
    assert done.stdout.split() == [b"result", b"9"], done.stderr.decode()
