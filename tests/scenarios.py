"""The table scenario -> test: what must be survived, and which test shows that it is.

A test names the scenarios it shows in its docstring, as `sc-E1`, and nowhere else. What there is
to show stands in `scenarios.toml`. `python tests/scenarios.py` writes both, put together, to
`docs/internals/scenarios.md`; `test_scenarios.py` compares. Nothing is run or imported for it.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

from attrs import field, frozen

TESTS = Path(__file__).parent
LIST = TESTS / "scenarios.toml"
PAGE = TESTS.parent / "docs" / "internals" / "scenarios.md"
CITATION = re.compile(r"\bsc-([A-Z]+\d+[a-z]?)\b")
OWN_FILES = frozenset({"scenarios.py", "test_scenarios.py"})
"""What speaks of citations without citing."""

HEAD = """\
# What is survived, and where that is shown

Raft is easy to get almost right. This is the list of what goes wrong around a cluster, with what
must hold all the same, and the tests that show it. It is made by `python tests/scenarios.py` from
`tests/scenarios.toml` and from the tests, which name in their docstrings what they show (`sc-E1`);
a test of its own keeps this page equal to both. T is a base election timeout.

{counts}
"""
UNSHOWN_HEAD = """\
## Not yet shown

Of each of these something, or everything, has no test so far.
"""
CANNOT_HEAD = """\
## What no test can show
"""


@frozen
class Scenario:
    """One row: what goes wrong and what must hold."""

    name: str
    chapter: str
    happens: str
    holds: str
    yet: str = ""
    """What no test shows so far; empty where nothing is missing."""
    cannot: str = ""
    """Why no test can show it."""


@frozen
class Test:
    """A test, and which scenarios its docstring names."""

    __test__ = False

    path: str
    """Relative to the tests' directory, with `/`."""
    name: str
    cites: tuple[str, ...] = field(default=(), converter=tuple)


def listed(text: str) -> list[Scenario]:
    """Read the list of scenarios, in its order.

    Raises:
        ValueError: A row says too little or too much, or is of no chapter.
    """
    table = tomllib.loads(text)
    chapters: dict[str, str] = table.pop("chapters")
    found = []
    for name, row in table.items():
        letters = name.rstrip("0123456789b")
        if letters not in chapters:
            raise ValueError(f"{name} is of no chapter; there are {', '.join(chapters)}")
        if unknown := row.keys() - {"happens", "holds", "yet", "cannot"}:
            raise ValueError(f"{name} has {', '.join(unknown)}")
        if not (row.get("happens") and row.get("holds")):
            raise ValueError(f"{name} must say what happens and what holds")
        found.append(Scenario(name, chapters[letters], **row))
    return found


def tests_in(path: str, text: str) -> Iterator[Test]:
    """Yield the tests of a module with what they cite."""
    for name, docstring in docstrings(text):
        yield Test(path, name, dict.fromkeys(CITATION.findall(docstring)))


def docstrings(text: str) -> Iterator[tuple[str, str]]:
    """Yield name and docstring of each test of a module."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name[:5] == "test_":
            yield node.name, ast.get_docstring(node, clean=False) or ""


def collected() -> list[Test]:
    """Return all tests there are, by path, in the order of their modules."""
    return [test for path, text in modules() for test in tests_in(path, text)]


def modules() -> Iterator[tuple[str, str]]:
    """Yield path and text of each module among the tests that may cite."""
    for path in sorted(TESTS.rglob("*.py")):
        if path.name not in OWN_FILES:
            yield path.relative_to(TESTS).as_posix(), path.read_text(encoding="utf-8")


def cited_elsewhere(text: str) -> int:
    """Return how many citations of a module stand outside its tests' docstrings."""
    within = sum(len(CITATION.findall(docstring)) for _, docstring in docstrings(text))
    return len(CITATION.findall(text)) - within


def page(scenarios: Iterable[Scenario], tests: Iterable[Test]) -> str:
    """Return the page that stands for these scenarios and tests."""
    scenarios = list(scenarios)
    showing: dict[str, list[Test]] = {scenario.name: [] for scenario in scenarios}
    for test in tests:
        for name in test.cites:
            if name in showing:
                showing[name].append(test)
    parts = [HEAD.format(counts=counts(scenarios, showing))]
    for chapter in dict.fromkeys(scenario.chapter for scenario in scenarios):
        parts.append(f"## {chapter}\n")
        parts.append("| | what happens | what must hold | shown by |\n| --- | --- | --- | --- |")
        parts += [
            f"| {each.name} | {each.happens} | {each.holds} | {places(each, showing[each.name])} |"
            for each in scenarios
            if each.chapter == chapter
        ]
        parts.append("")
    for head, attribute in ((UNSHOWN_HEAD, "yet"), (CANNOT_HEAD, "cannot")):
        reasons = [(each.name, getattr(each, attribute)) for each in scenarios]
        if any(reason for _, reason in reasons):
            parts.append(head)
            parts += [f"- **{name}**: {reason}" for name, reason in reasons if reason]
            parts.append("")
    return "\n".join(parts).rstrip("\n") + "\n"


def counts(scenarios: list[Scenario], showing: dict[str, list[Test]]) -> str:
    """Return the sentence that sums up the page."""
    whole = sum(1 for each in scenarios if showing[each.name] and not each.yet)
    part = sum(1 for each in scenarios if showing[each.name] and each.yet)
    cannot = sum(1 for each in scenarios if not showing[each.name] and each.cannot)
    return (
        f"Of {len(scenarios)} scenarios {whole} are shown, {part} are shown in part, "
        f"{len(scenarios) - whole - part - cannot} not yet, and {cannot} cannot be."
    )


def places(scenario: Scenario, tests: list[Test]) -> str:
    """Return links to the tests of a scenario, and what is missing."""
    links = [f"[{test.name[5:]}](../../tests/{test.path})" for test in tests]
    if scenario.yet:
        links.append("*not yet: see below*" if not links else "*in part: see below*")
    elif scenario.cannot and not links:
        links.append("*cannot be: see below*")
    return "<br>".join(links)


if __name__ == "__main__":
    PAGE.write_text(page(listed(LIST.read_text(encoding="utf-8")), collected()), encoding="utf-8")
