"""The guide to testing shows the examples as they are, and each bug in it is found as it says."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from raft.testing import MachineFault, SimCluster

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "howto" / "testing.md").read_text()
LOCKERS = (ROOT / "examples" / "lockers.py").read_text()
TESTS = (ROOT / "examples" / "test_lockers.py").read_text()

BUGS = re.findall(r"```diff\n(.*?)```\n\n```text\n(.*?)\n```", GUIDE, re.DOTALL)


def broken(diff: str, directory: Path) -> Any:
    """Return the module of the lockers with the bug in it."""
    text = LOCKERS.replace("import json\n", "import json\nimport time\n")
    lines = diff.splitlines()
    for right, wrong in zip(lines[::2], lines[1::2], strict=True):
        assert (right[0], wrong[0], text.count(f"\n{right[1:]}\n")) == ("-", "+", 1)
        text = text.replace(f"\n{right[1:]}\n", f"\n{wrong[1:]}\n")
    path = directory / "broken_lockers.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location("broken_lockers", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["broken_lockers"] = module
    spec.loader.exec_module(module)
    return module


def test_the_guide_shows_the_examples_as_they_are() -> None:
    blocks = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        assert block in LOCKERS or block in TESTS


@pytest.mark.slow
def test_the_example_passes_its_tests() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "unittest", "-v", "test_lockers"],
        cwd=ROOT / "examples",
        env={"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Ran 3 tests" in done.stderr


@pytest.mark.parametrize(("diff", "told"), BUGS, ids=["clock", "set", "half"])
def test_each_bug_of_the_guide_is_found(diff: str, told: str, tmp_path: Path) -> None:
    """SM1, SM3: the clock, the set, and what was changed before the exception."""
    module = broken(diff, tmp_path)
    found = ""
    for seed in range(20):
        try:
            with SimCluster(module.Lockers, seed=seed) as cluster:
                cluster.storm(300, module.commands)
        except MachineFault as fault:
            found = str(fault)
            break
    assert found, "no storm has found it"
    or_else = "a machine restored from a snapshot is not as the one that it was taken of"
    assert or_else in GUIDE
    assert found.startswith((told, or_else)), found


def test_the_guide_has_the_three_bugs() -> None:
    assert len(BUGS) == 3
