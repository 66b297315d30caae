"""The same commands on several instances of a machine, in this process and in fresh ones.

    check_determinism(Jobs, [["join", "ann"], ["assign", 1]])

Some of what must not decide is the same for all that runs in one process: hash() of a str, the
order of a set, the time zone. So fresh processes apply the commands too, each with other hashes and
in another zone, straight on or with a machine that is restored from a snapshot now and then.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from raft.codec import PLAIN, Codec
from raft.errors import BadConfiguration
from raft.testing.machine_fault import (
    DIFFERENT_BYTES,
    HALF_CHANGED,
    NOT_DETERMINISTIC,
    MachineFault,
    Words,
    first_difference,
    shown,
    table,
)
from raft.testing.named import Name, name_of
from raft.testing.runs import Asked, Ran, Run, run
from raft.testing.watched import States

STATES: Final = 200
"""How many times the state is looked at on the way, where there are more commands than that."""

RESTORED_EVERY: Final = 5
"""After how many commands a machine is restored from its snapshot."""

PROCESS_SECONDS: Final = 120.0
"""How long one fresh process may take, unless told otherwise."""

# They are more than a day apart: no two processes agree on the date.
ZONES: Final = ("AAA-14", "BBB+12")


def check_determinism(
    machine_factory: Callable[[], Any],
    commands: Iterable[object],
    *,
    codec: Codec = PLAIN,
    state: Callable[[Any], object] | None = None,
    processes: int = 2,
    timeout: float = PROCESS_SECONDS,
) -> None:
    """Apply `commands` several times over, and see that results and states are always the same.

    Needs no reactor and no test framework. A fresh process costs about half a second.

    Args:
        machine_factory: makes a machine in its initial state. Fresh processes import it: a
            class or a function at the top of a module.
        commands: in their order.
        codec: of commands and results; fresh processes find it in the factory's module.
        state: returns what machines are compared by: the bytes of `snapshot()` by default, in
            whatever order they come. Importable like the factory; a plain value.
        processes: how many fresh processes there are; 0 for none.
        timeout: in seconds, for each of them.

    Raises:
        MachineFault: names the first command whose result or state differs, and both of them.
        BadConfiguration: a fresh process cannot import something, or did not end in time.
        BadCommand: a command cannot be encoded.
    """
    payloads = [codec.encode(command) for command in commands]
    names = _names(machine_factory, codec, state) if processes else None
    words, states = Words(codec), States(state)
    stride = max(1, len(payloads) // STATES)
    marks = [*range(stride, len(payloads), stride), len(payloads)]
    straight = Run("an instance in this process", payloads, marks)
    first = run(straight, machine_factory, codec, states)
    failing = [at for at, seen in enumerate(first.seen, 1) if seen.outcome[0]]
    restored = Run(
        f"another one, restored from a snapshot every {RESTORED_EVERY} commands",
        *(payloads, marks, RESTORED_EVERY, failing),
    )
    others = [restored]
    for number in range(processes):
        every, how = (RESTORED_EVERY, ", restored now and then") if number % 2 else (0, "")
        others.append(Run(f"one in a fresh process{how}", payloads, marks, every))
    for number, other in enumerate(others):
        if number == 0 or names is None:
            ran = run(other, machine_factory, codec, states)
        else:
            ran = _run_elsewhere(other, names, number, timeout)
        if fault := _compared(straight, first, other, ran, words, states):
            raise fault


def _compared(
    one: Run, first: Ran, other: Run, second: Ran, words: Words, states: States
) -> MachineFault | None:
    """Return what differs first between two runs, or what a failed command changed."""
    for at, (seen, also) in enumerate(zip(first.seen, second.seen, strict=False), 1):
        command = words.command(one.payloads[at - 1])
        rows = [(f"command {at}", shown(command))]
        if seen.outcome != also.outcome:
            rows += [(one.name, words.outcome(seen.outcome))]
            rows += [(other.name, words.outcome(also.outcome))]
            text = "the same commands gave different results:"
            return _fault("result", text, rows, NOT_DETERMINISTIC, at, command)
        if also.before is not None and also.before != also.after:
            before, after = first_difference(also.before, also.after)
            rows += [("outcome", words.outcome(also.outcome)), ("before", before), ("after", after)]
            text = "the machine changed its state with a command that failed:"
            return _fault("exception", text, rows, HALF_CHANGED, at, command)
        if at in one.marks and states.differ(seen.state, also.state):
            left, right = first_difference(seen.state, also.state)
            rows += [(one.name, left), (other.name, right)]
            text = "the same commands left different states, behind this one or shortly before:"
            advice = f"{NOT_DETERMINISTIC}\n{DIFFERENT_BYTES}"
            return _fault("state", text, rows, advice, at, command)
    for told, ran in ((one, first), (other, second)):
        if ran.failure:
            return MachineFault("stopped", f"{told.name} failed: {ran.failure}", len(ran.seen))
    return None


def _fault(
    kind: str,
    text: str,
    rows: Sequence[tuple[str, str]],
    advice: str,
    index: int,
    command: object,
) -> MachineFault:
    return MachineFault(kind, f"{text}\n\n{table(rows)}\n\n{advice}", index, command)


def _names(
    factory: Callable[[], Any], codec: Codec, state: Callable[[Any], object] | None
) -> tuple[Name, Name | None, Name | None]:
    home = getattr(factory, "__module__", "")
    return (
        name_of(factory, "machine_factory", home),
        None if codec is PLAIN else name_of(codec, "codec", home),
        None if state is None else name_of(state, "state", home),
    )


def _run_elsewhere(
    asked: Run, names: tuple[Name, Name | None, Name | None], number: int, timeout: float
) -> Ran:
    """Let a fresh process run it, with hashes and a time zone of its own."""
    question = msgspec.msgpack.encode(Asked(asked, *names, sys.path))
    environment = {**os.environ, "PYTHONHASHSEED": str(number), "TZ": ZONES[number % 2]}
    environment["PYTHONPATH"] = os.pathsep.join(each for each in sys.path if each)
    with tempfile.TemporaryDirectory() as directory:
        answer = Path(directory, "answer")
        # The machine may print what it likes: the answer goes to a file.
        command = [sys.executable, "-m", "raft.testing.runs", str(answer)]
        try:
            done = subprocess.run(  # noqa: S603
                command, input=question, capture_output=True, env=environment, timeout=timeout
            )
        except subprocess.TimeoutExpired as error:
            raise BadConfiguration(
                f"a fresh process was not done after {timeout} s; give fewer commands, or timeout="
            ) from error
        if done.returncode or not answer.exists():
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise BadConfiguration(
                f"a fresh process could not run {names[0].qualname} of {names[0].module}: "
                f"{said[-1] if said else f'exit code {done.returncode}'}"
            )
        return msgspec.msgpack.decode(answer.read_bytes(), type=Ran)
