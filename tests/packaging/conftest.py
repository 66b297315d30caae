"""Running twistd and pytest as a user would, from a directory that holds nothing of ours."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

import raft

INSTALLED = os.environ.get("RAFT_TESTS_INSTALLED")
"""Set by the gate: how the package was installed, "wheel" or "editable"."""


class Program(ProcessProtocol):
    """A program that was started: what it wrote so far, and how it ended."""

    def __init__(self) -> None:
        self.out = ""
        self.err = ""
        self.ended: Deferred[int] = Deferred()
        self._awaited: list[tuple[str, Deferred[None]]] = []

    def outReceived(self, data: bytes) -> None:
        self.out += data.decode()
        for text, deferred in self._awaited[:]:
            if text in self.out:
                self._awaited.remove((text, deferred))
                deferred.callback(None)

    def errReceived(self, data: bytes) -> None:
        self.err += data.decode()

    def processEnded(self, reason: Failure) -> None:
        """Fire with the exit code, or with minus the signal's number."""
        for text, deferred in self._awaited:
            deferred.errback(AssertionError(f"ended without {text!r}: {self.out} {self.err}"))
        ended = reason.value
        if isinstance(ended, ProcessDone):
            self.ended.callback(0)
        elif isinstance(ended, ProcessTerminated):
            self.ended.callback(-ended.signal if ended.signal else ended.exitCode)

    def wrote(self, text: str) -> Deferred[None]:
        """Wait until `text` stands in the standard output."""
        deferred: Deferred[None] = Deferred()
        if text in self.out:
            deferred.callback(None)
        else:
            self._awaited.append((text, deferred))
        return deferred


class Programs:
    """Starts programs in one directory; ends those that are left."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.started: list[Program] = []

    def python(self, *arguments: str) -> Program:
        return self.start([sys.executable, *arguments])

    def twistd(self, *arguments: str) -> Program:
        script = Path(sysconfig.get_path("scripts")) / "twistd"
        return self.start([sys.executable, str(script), *arguments])

    def start(self, arguments: Sequence[str]) -> Program:
        from twisted.internet import reactor

        program = Program()
        environment = dict(os.environ)
        if INSTALLED is None:
            # Outside the gate the checkout itself is tested, so it is put where it is found.
            environment["PYTHONPATH"] = str(Path(raft.__file__).parent.parent)
        reactor.spawnProcess(  # type: ignore[attr-defined]
            program, arguments[0], arguments, environment, str(self.directory)
        )
        self.started.append(program)
        return program


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    """Start programs in the test's directory, and leave none running."""
    programs = Programs(tmp_path)
    yield programs
    for program in programs.started:
        if not program.ended.called and program.transport is not None:
            program.transport.signalProcess("KILL")
            program.transport.loseConnection()
