"""Processes that import what is tested, installed or not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import raft


@pytest.fixture(scope="session", autouse=True)
def _the_tested_package_is_found() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(raft.__file__).parent.parent))
        yield
