"""The page on hostile bytes names tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "internals" / "hostile-bytes.md"


def test_each_test_that_the_page_names_is_there() -> None:
    named = re.findall(r"`(tests/[\w/.]+)::(test_\w+)`", PAGE.read_text(encoding="utf-8"))
    assert len(named) > 30
    missing = [
        f"{path}::{name}"
        for path, name in named
        if not re.search(rf"def {name}\(", (ROOT / path).read_text(encoding="utf-8"))
    ]
    assert not missing


def test_each_threat_has_its_row() -> None:
    rows = re.findall(r"^\| (\d+)(?:(-|, )(\d+))? \|", PAGE.read_text(encoding="utf-8"), re.M)
    told: list[int] = []
    for first, _, last in rows:
        told += range(int(first), int(last or first) + 1)
    assert told == list(range(1, 43))
