"""Give every test a deadline that the reactor keeps, and let none leave a mess behind.

The reactor is imported inside functions only: this file is read before pytest-twisted
installs the one that `--reactor` names.
"""

from __future__ import annotations

import functools
import gc
import inspect
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import formatEvent, globalLogPublisher
from twisted.python.failure import Failure

DEADLINE_SECONDS = 10.0
CLOSING_TURNS = 100


def pytest_collection_finish(session: pytest.Session) -> None:
    """Set aside all that collecting made, so that a collection after each test is cheap."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the sums of what the tests counted, over all processes of the run."""
    sums: dict[str, int] = {}
    for report in terminalreporter.stats.get("passed", []):
        for name, value in getattr(report, "user_properties", ()):
            if isinstance(value, int):
                sums[name] = sums.get(name, 0) + value
    for name, total in sorted(sums.items()):
        terminalreporter.write_line(f"{name}: {total:,}")


def waiting_at(coroutine: Any) -> str:
    """Return file and line of the innermost coroutine that `coroutine` waits in."""
    line = "an unknown line"
    while getattr(coroutine, "cr_frame", None) is not None:
        frame = coroutine.cr_frame
        line = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        coroutine = coroutine.cr_await
    return line


def with_deadline(test: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    """Wrap `test`: what it waits for is cancelled after `seconds`, and the test fails."""
    from twisted.internet import reactor

    @functools.wraps(test)
    def timed(*args: Any, **kwargs: Any) -> Any:
        outcome = test(*args, **kwargs)
        coroutine = outcome if inspect.iscoroutine(outcome) else None
        if coroutine is not None:
            outcome = Deferred.fromCoroutine(coroutine)
        if not isinstance(outcome, Deferred):
            return outcome
        expired_at: list[str] = []

        def expire() -> None:
            expired_at.append(waiting_at(coroutine))
            outcome.cancel()

        timer = reactor.callLater(seconds, expire)

        def finish(value: object) -> object:
            if timer.active():
                timer.cancel()
            if expired_at:
                raise AssertionError(
                    f"the test passed its deadline of {seconds} s, waiting at {expired_at[0]}"
                )
            return value

        return outcome.addBoth(finish)

    # pytest-twisted takes what a test of this kind returns as it is, a Deferred included.
    timed._pytest_twisted_mark = "inline_callbacks_test"  # type: ignore[attr-defined]
    return timed


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Run each test under its deadline; under hypothesis, each example."""
    mark = pyfuncitem.get_closest_marker("deadline")
    seconds = float(mark.args[0]) if mark else DEADLINE_SECONDS
    examples = getattr(pyfuncitem.obj, "hypothesis", None)
    test = examples.inner_test if examples else pyfuncitem.obj
    timed = with_deadline(test, seconds)
    if examples:
        examples.inner_test = timed
    else:
        pyfuncitem.obj = timed
    try:
        return (yield)
    finally:
        if examples:
            examples.inner_test = test
        else:
            pyfuncitem.obj = test


class LoggedErrors(list[Failure]):
    """The failures logged during one test."""

    def flush(self, *types: type[BaseException]) -> list[Failure]:
        """Remove and return those of `types`, or all: the test expected them."""
        expected = [failure for failure in self if not types or failure.check(*types)]
        self[:] = [failure for failure in self if failure not in expected]
        return expected


@pytest.fixture(autouse=True)
def logged_errors() -> Iterator[LoggedErrors]:
    """Fail a test after which a logged failure is left, such as a Deferred's that nobody took."""
    seen = LoggedErrors()

    def observe(event: dict[str, Any]) -> None:
        if event.get("log_failure") is not None:
            seen.append(event["log_failure"])

    globalLogPublisher.addObserver(observe)
    try:
        yield seen
        # A Deferred in a cycle reports its failure only when it is collected.
        gc.collect()
    finally:
        globalLogPublisher.removeObserver(observe)
    texts = "\n".join(failure.getTraceback() for failure in seen)
    assert not seen, f"failures were logged and not flushed:\n{texts}"


@pytest.fixture
def logged_texts() -> Iterator[list[str]]:
    """Collect each line that is logged, as it reads."""
    heard: list[str] = []

    def observe(event: dict[str, Any]) -> None:
        heard.append(formatEvent(event))

    globalLogPublisher.addObserver(observe)
    yield heard
    globalLogPublisher.removeObserver(observe)


def selectables(reactor: Any) -> set[Any]:
    """Return the sockets and files that `reactor` watches, without its own."""
    own = getattr(reactor, "_internalReaders", set())
    return {each for each in (*reactor.getReaders(), *reactor.getWriters()) if each not in own}


@pytest.fixture(autouse=True)
def clean_reactor() -> Iterator[None]:
    """Fail a test that leaves delayed calls or sockets in the reactor."""
    from twisted.internet import reactor

    calls_before = set(reactor.getDelayedCalls())
    selectables_before = selectables(reactor)
    yield
    left = selectables(reactor) - selectables_before
    for _ in range(CLOSING_TURNS):
        if not left:
            break
        # A connection that was closed is gone some turns later.
        pytest_twisted.blockon(deferLater(reactor, 0.002, lambda: None))
        left = selectables(reactor) - selectables_before
    calls = [call for call in reactor.getDelayedCalls() if call not in calls_before]
    for call in calls:
        call.cancel()
    assert not calls, f"delayed calls are left: {calls}"
    assert not left, f"sockets are left open: {left}"
