"""The test configuration itself: it fails what waits for ever or leaves a mess behind."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

BAD = """
import gc
import pytest, pytest_twisted
from hypothesis import Phase, given, settings, strategies
from twisted.internet.defer import Deferred, fail

@pytest.mark.deadline(0.1)
@pytest_twisted.ensureDeferred
async def test_waits_for_ever():
    await Deferred()

@pytest.mark.deadline(0.1)
def test_returns_what_never_fires():
    return Deferred()

@pytest.mark.deadline(0.1)
@settings(max_examples=1, phases=[Phase.generate])
@given(strategies.integers())
@pytest_twisted.ensureDeferred
async def test_example_waits_for_ever(number):
    await Deferred()

def test_loses_a_failure():
    deferred = fail(ValueError("lost"))
    deferred.itself = deferred

def test_leaves_a_call():
    from twisted.internet import reactor
    reactor.callLater(100, print)

def test_leaves_a_port():
    from twisted.internet import protocol, reactor
    reactor.listenTCP(0, protocol.Factory(), interface="127.0.0.1")

def test_expects_a_failure(logged_errors):
    fail(ValueError("expected"))
    gc.collect()
    assert len(logged_errors.flush(ValueError)) == 1

@pytest_twisted.ensureDeferred
async def test_is_fine():
    from twisted.internet import reactor, task
    await task.deferLater(reactor, 0)
"""


@pytest.mark.integration
@pytest.mark.deadline(120)
@pytest_twisted.ensureDeferred
async def test_what_hangs_or_leaves_a_mess_fails_and_nothing_else(
    programs: Any, tmp_path: Path
) -> None:
    """sc-P9."""
    shutil.copy(Path(__file__).parent.parent / "conftest.py", tmp_path)
    (tmp_path / "test_bad.py").write_text(BAD)
    program = programs.python("-m", "pytest", "-p", "no:cacheprovider", "-rA", "test_bad.py")
    assert await program.ended == 1
    told = {
        name: outcome
        for outcome, name in re.findall(r"^(\w+) test_bad\.py::(\w+)", program.out, re.MULTILINE)
        if outcome != "PASSED"
    }
    assert told == {
        "test_waits_for_ever": "FAILED",
        "test_returns_what_never_fires": "FAILED",
        "test_example_waits_for_ever": "FAILED",
        "test_loses_a_failure": "ERROR",
        "test_leaves_a_call": "ERROR",
        "test_leaves_a_port": "ERROR",
    }
    line = BAD.splitlines().index("    await Deferred()") + 1
    assert re.search(
        rf"passed its deadline of 0\.1 s, waiting at \S*test_bad\.py:{line}", program.out
    )
