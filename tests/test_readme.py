"""The README says what is so: its lines are those that run, its examples those that are tested."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from raft.config import parse_config

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_the_gate_runs_the_line_that_the_readme_gives() -> None:
    (line,) = [block.strip() for block in blocks("sh") if block.strip().endswith("tox")]
    gate = ROOT / ".ci" / "run"
    if gate.exists():  # Not beside the copy of the tests that runs against the wheel.
        assert gate.read_text().rstrip().splitlines()[-1] == line


def test_the_state_machine_is_the_example_that_is_run() -> None:
    (shown,) = [block for block in blocks("python") if "class Counter" in block]
    assert shown in (ROOT / "examples" / "counter.py").read_text()


def test_the_links_lead_somewhere() -> None:
    for path in re.findall(r"\]\(([^):]+)\)", README):
        assert (ROOT / path).exists(), path


def test_the_configuration_file_is_one(tmp_path: Path) -> None:
    (shown,) = blocks("toml")
    config = parse_config(shown, tmp_path / "node1.toml")
    defaults = {"timings", "limits"}
    assert defaults <= set(tomllib.loads(shown))
    assert config.node.id == "node1"
    assert config.members[0].clients == "tcp:127.0.0.1:8001"
