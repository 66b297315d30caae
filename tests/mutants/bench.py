"""Run tests against mutants, each in a fork of one process that has collected them all.

`python -m tests.mutants.bench` reads its orders, one JSON object a line, and writes one for each
as it is done. Everything is imported and collected once; a mutant then costs the tests it is given,
up to the first that fails.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import zip_longest
from typing import IO, NoReturn

import pytest
from _pytest.runner import runtestprotocol
from attrs import Factory, asdict, define, evolve, frozen

from tests.mutants.living import graft

MEMORY_BYTES = 4 << 30
UNCHANGED = "the change changes no function"
"""The trouble with what is no mutant, such as an assertion for a type checker."""


@frozen
class Order:
    """Run `tests`, by their node ids, with `source` in place of that of `module`.

    Without a module, nothing is changed. `cpu_seconds` is what the mutant may use: one that does
    not end is killed too.
    """

    name: str
    tests: tuple[str, ...]
    module: str = ""
    source: str = ""
    cpu_seconds: int = 20
    limits: tuple[float, ...] = ()
    """Of each test, how many seconds of a processor it may take before that counts as noticed."""


@frozen
class Outcome:
    """What became of an order: `killer` is the test that failed, or empty.

    `trouble` says why nothing was learnt: a test that there is not, a change that changed nothing.
    """

    name: str
    killer: str = ""
    trouble: str = ""
    seconds: float = 0.0
    """What it took of a processor."""
    called: dict[str, tuple[float, tuple[str, ...]]] = Factory(dict)
    """With `watch`: of each test its seconds of a processor, and the functions it called."""


@define
class Bench:
    """A pytest plugin: in place of running the tests it serves orders."""

    orders: Callable[[], Iterator[Order]]
    report: Callable[[Outcome], None]
    children: int = 1
    watch: str = ""
    """Where given, orders run here, and what they call in modules of this name is told."""

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Serve the orders, with so many children at a time."""
        items = {item.nodeid: item for item in session.items}
        running: dict[int, tuple[int, Order, float]] = {}
        for order in self.orders():
            order = evolve(order, tests=tuple(_chosen(order.tests, items)))
            missing = [test for test in order.tests if test not in items]
            if missing or not order.tests:
                self.report(Outcome(order.name, trouble=f"there is no test {missing or ''}"))
                continue
            if self.watch:
                self.report(_watched(order, items, self.watch))
                continue
            while len(running) >= self.children:
                self._reap(running)
            pid, pipe = _forked(order, items)
            running[pipe] = (pid, order, time.monotonic())
        while running:
            self._reap(running)
        return True

    def _reap(self, running: dict[int, tuple[int, Order, float]]) -> None:
        """Take in what one child says; one that says nothing was killed, for taking too long."""
        ready, _, _ = select.select(list(running), [], [], 5.0)
        for pipe in list(running):
            pid, order, begun = running[pipe]
            late = time.monotonic() - begun > 60 + 30 * order.cpu_seconds
            if late:
                os.kill(pid, signal.SIGKILL)
            if pipe not in ready and not late:
                continue
            with os.fdopen(pipe) as stream:
                told = stream.read()
            _, _, used = os.wait4(pid, 0)
            del running[pipe]
            seconds = used.ru_utime + used.ru_stime
            if told:
                self.report(Outcome(order.name, **json.loads(told), seconds=seconds))
            else:
                self.report(Outcome(order.name, killer="it did not end", seconds=seconds))


def _chosen(tests: tuple[str, ...], items: dict[str, pytest.Item]) -> Iterator[str]:
    """Yield the tests, and in place of a parametrized one all that come of it."""
    for test in tests:
        found = [test] if test in items else [each for each in items if each.startswith(f"{test}[")]
        yield from found or [test]


def _forked(order: Order, items: dict[str, pytest.Item]) -> tuple[int, int]:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    try:
        os.close(reading)
        null = os.open(os.devnull, os.O_RDWR)
        for each in (0, 1, 2):
            os.dup2(null, each)
        resource.setrlimit(resource.RLIMIT_CPU, (order.cpu_seconds, order.cpu_seconds + 1))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        told = json.dumps(_run(order, items))
        os.write(writing, told.encode())
    except BaseException as error:
        # Whatever a mutant does to its process, it was noticed.
        os.write(writing, json.dumps({"killer": f"{type(error).__name__}"}).encode())
    finally:
        os._exit(0)


def _run(order: Order, items: dict[str, pytest.Item]) -> dict[str, str]:
    if order.module and not graft(order.module, order.source):
        return {"trouble": UNCHANGED}
    signal.signal(signal.SIGPROF, _late)
    for test, limit in zip_longest(order.tests, order.limits, fillvalue=order.cpu_seconds):
        signal.setitimer(signal.ITIMER_PROF, float(limit))
        if not passes(items[str(test)]):
            return {"killer": str(test)}
    return {}


def _late(*_: object) -> NoReturn:
    """End a test that a mutant keeps from ending."""
    raise TimeoutError("the test takes many times as long as without the mutant")


def passes(item: pytest.Item) -> bool:
    """Run one test; tell whether it passes."""
    return not any(report.failed for report in runtestprotocol(item, nextitem=None, log=False))


def _watched(order: Order, items: dict[str, pytest.Item], package: str) -> Outcome:
    called: dict[str, tuple[float, tuple[str, ...]]] = {}
    killer = ""
    for test in order.tests:
        seen: set[str] = set()

        def profile(frame: object, event: str, _: object, seen: set[str] = seen) -> None:
            if event == "call":
                name = frame.f_globals.get("__name__", "")  # type: ignore[attr-defined]
                if name == package or name.startswith(f"{package}."):
                    seen.add(f"{name}:{frame.f_code.co_qualname}")  # type: ignore[attr-defined]

        begun = time.process_time()
        # What a test starts in another thread, such as the log's writer, it calls too.
        threading.setprofile(profile)
        sys.setprofile(profile)
        try:
            if not passes(items[test]):
                killer = killer or test
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
        called[test] = (time.process_time() - begun, tuple(sorted(seen)))
    return Outcome(order.name, killer=killer, called=called)


def serve(
    arguments: list[str],
    orders: Callable[[], Iterator[Order]],
    report: Callable[[Outcome], None],
    *,
    children: int = 1,
    watch: str = "",
) -> int:
    """Collect the tests that `arguments` of pytest name, and serve `orders`; return its status."""
    # The whole process is one run of pytest, whose own output nobody needs.
    bench = Bench(orders, report, children, watch)
    quiet = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--no-header", "--capture=no"]
    return int(pytest.main([*quiet, *arguments], plugins=[bench]))


def main(stdin: IO[str], stdout: IO[str]) -> int:
    """Serve the orders of `stdin`; its first line holds the arguments and how many children."""
    first = json.loads(stdin.readline())

    def orders() -> Iterator[Order]:
        for line in stdin:
            told = json.loads(line)
            lists = {name: tuple(told.get(name, ())) for name in ("tests", "limits")}
            yield Order(**{**told, **lists})

    def report(outcome: Outcome) -> None:
        stdout.write(f"{json.dumps(asdict(outcome))}\n")
        stdout.flush()

    return serve(
        first["arguments"], orders, report, children=first["children"], watch=first["watch"]
    )


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    raise SystemExit(main(sys.stdin, answers))
