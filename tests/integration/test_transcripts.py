"""Every transcript in a document is executed, and prints what the document shows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted

from tests.transcripts import Command, Session, steps

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.deadline(120)]

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    path
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if any(isinstance(step, Command) for step in steps(path.read_text("utf-8")))
]


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    directory = tmp_path / "work"
    directory.mkdir()
    made = Session(directory)
    yield made
    made.close()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
@pytest_twisted.ensureDeferred
async def test_the_document_is_what_happens(path: Path, session: Session) -> None:
    await session.perform(steps(path.read_text("utf-8")))


@pytest_twisted.ensureDeferred
async def test_what_is_not_so_is_seen(session: Session) -> None:
    """A wrong output, a failure that is not shown, a success where a failure is."""
    for shown in (
        "$ raft --version\nnonsense",
        "$ raft nonsense\n...",
        "$ raft --version\nraft: x",
    ):
        with pytest.raises(AssertionError, match="it printed"):
            await session.perform(steps(f"```console\n{shown}\n```\n"))
    await session.perform(steps("```console\n$ raft nonsense\n...\n$ echo $?\n2\n```\n"))
