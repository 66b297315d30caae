"""Every rule of the protocol that the core keeps has a test that names it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

RULES = [
    *(f"E{number}" for number in range(1, 10)),
    *(f"L{number}" for number in range(1, 11)),
    *(f"R{number}" for number in range(1, 9)),
    *(f"M{number}" for number in range(1, 8)),
    *("M10", "N6", "D1"),
]
"""Elections, log replication, reads, membership, snapshots: the core's part of them."""


def stated() -> dict[str, str]:
    """Return the first line of each test's docstring, by the test's name."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        if path.name == Path(__file__).name:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                found[f"{path.name}::{node.name}"] = ast.get_docstring(node) or ""
    return found


def test_each_rule_is_stated_by_a_test() -> None:
    """A rule that no test names is a rule that nobody would miss."""
    named = {text.split(":")[0] for text in stated().values()}
    assert [rule for rule in RULES if rule not in named] == []


def test_each_test_names_its_rule() -> None:
    """Each test of the core begins with the rule that it holds, and says it in a sentence."""
    pattern = re.compile(r"[DELRMN]\d+: [^.?]+", re.ASCII)
    assert [name for name, text in stated().items() if not pattern.match(text)] == []
