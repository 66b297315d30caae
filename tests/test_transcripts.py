"""What a transcript is, and that no command in a document is left out of one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.transcripts import Command, Directive, Session, fits, pieces, steps

ROOT = Path(__file__).parents[1]
PROSE = [ROOT / "README.md", *sorted((ROOT / "docs" / "howto").glob("*.md"))]

DOCUMENT = """\
# Title

<!-- transcript: cluster demo 3 -->

```console
$ raft status
node1 ...
$ raft kv set \\
    a 1
```

<!-- transcript: file new.toml -->
```toml
[node]
```

```python
$ no command
```
"""


def test_commands_and_comments_are_found_in_order() -> None:
    assert steps(DOCUMENT) == [
        Directive(3, "cluster", ("demo", "3")),
        Command(6, "raft status", ("node1 ...",)),
        Command(8, "raft kv set a 1"),
        Directive(12, "file", ("new.toml",), "[node]\n"),
    ]


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ("<!-- transcript: burn node1 -->", "line 1: 'burn' is none of"),
        ("```console\nout\n```", "line 2: output before"),
        ("```console\n$ raft status\n", "line 1: the block does not end"),
    ],
)
def test_what_is_unclear_is_an_error(document: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        steps(document)


@pytest.mark.parametrize(
    ("shown", "printed", "good"),
    [
        (("a  b", "c"), "a b\nc\n", True),
        (("a ... b",), "a 12 b\n", True),
        (("a", "...", "z"), "a\nb\nc\nz\n", True),
        (("a", "...", "z"), "a\nz\n", True),
        (("a",), "a\nb\n", False),
        (("a", "b"), "a\n", False),
        ((), "", True),
        ((), "a\n", False),
        (("a.c",), "abc\n", False),
        (("a", ""), "a\n\n", True),
    ],
)
def test_what_is_printed_must_be_what_is_shown(
    shown: tuple[str, ...], printed: str, good: bool
) -> None:
    assert fits(shown, printed) is good


def test_documented_ports_stand_for_the_session_s(tmp_path: Path) -> None:
    session = Session(tmp_path, base_port=20_000)
    text = "tcp:127.0.0.1:8002 7001 --base-port 7000 7999 17001 1.7001"
    mapped = "tcp:127.0.0.1:21002 20001 --base-port 20000 7999 17001 1.7001"
    assert session.to_ports(text) == mapped
    assert session.from_ports("tcp:127.0.0.1:21002 :20001 20001 :20999 :99999") == (
        "tcp:127.0.0.1:8002 :7001 20001 :20999 :99999"
    )


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.name)
def test_every_command_in_the_prose_is_in_a_transcript(path: Path) -> None:
    """A command that is shown and not run goes wrong one day, and nobody sees it."""
    for _, language, lines in pieces(path.read_text("utf-8")):
        if language not in (None, "console"):
            for line in lines:
                assert not re.match(r"(\$ )?(raft|twistd) ", line), line
