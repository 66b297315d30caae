"""raft check: its verdicts are its exit codes, and bad input is told with its remedy."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from raft.cli import main
from raft.testing.history import Operation
from raft.testing.history_file import BadHistory, read_history
from raft.testing.linearizability import KEY_VALUE, MODELS

LEGAL = (
    {"client": "a", "op": "put", "key": "x", "value": 1, "call": 0, "return": 10},
    {"client": "b", "op": "get", "key": "x", "output": 1, "call": 5, "return": 15},
)
STALE = (
    *LEGAL,
    {"client": "a", "op": "put", "key": "x", "value": 2, "call": 20, "return": 30},
    {"client": "b", "op": "get", "key": "x", "output": 1, "call": 40, "return": 50},
)


def written(path: Path, *lines: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(each) + "\n" for each in lines))
    return str(path)


def checked(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Return the exit code, and what was printed on both streams."""
    code = main.run(["check", *arguments])
    printed = capsys.readouterr()
    assert "Traceback" not in printed.out + printed.err
    return code, printed.out, printed.err


def test_a_linearizable_history_ends_with_0(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = checked(capsys, written(tmp_path / "h.jsonl", *LEGAL))
    assert code == 0
    assert out.startswith("linearizable: 2 operations on 1 key")


def test_a_stale_read_ends_with_1_and_the_operations_that_show_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "h.svg"
    code, out, _ = checked(capsys, written(tmp_path / "h.jsonl", *STALE), "--svg", str(picture))
    assert code == 1
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[0].startswith("not linearizable: 4 operations on 1 key")
    assert lines[2:] == [
        "a 0 ns .. 10 ns put 1",
        "a 20 ns .. 30 ns put 2",
        "b 40 ns .. 50 ns get -> 1",
    ]
    root = ET.fromstring(picture.read_text())
    assert "script" not in {each.tag.rpartition("}")[2] for each in root.iter()}
    texts = ["".join(each.itertext()) for each in root.iter() if each.tag.endswith("}text")]
    assert {"put 1", "put 2", "get -> 1"} <= set(texts)


def test_a_spent_budget_ends_with_2_and_never_with_0(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = checked(capsys, written(tmp_path / "h.jsonl", *LEGAL), "--budget", "1")
    assert code == 2
    assert out.startswith("unknown:")
    assert checked(capsys, str(tmp_path / "h.jsonl"), "--budget", "0s")[0] == 2
    assert checked(capsys, str(tmp_path / "h.jsonl"), "--budget", "9s")[0] == 0


def test_the_verdict_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for lines, budget, verdict in (
        (LEGAL, "60s", "linearizable"),
        (STALE, "60s", "not linearizable"),
        (STALE, "0", "unknown"),
    ):
        path = written(tmp_path / "h.jsonl", *lines)
        _, out, _ = checked(capsys, path, "--json", "--budget", budget)
        told = json.loads(out)
        assert (told["verdict"], told["operations"], told["keys"]) == (verdict, len(lines), 1)
        assert bool(told["piece"]) == (verdict == "not linearizable")
        assert told["undecided"] == (["x"] if verdict == "unknown" else [])


def test_a_piece_as_json_is_a_history_that_is_not_linearizable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = checked(capsys, written(tmp_path / "h.jsonl", *STALE), "--json")
    again = written(tmp_path / "piece.jsonl", *json.loads(out)["piece"])
    assert checked(capsys, again)[0] == 1


def test_a_history_comes_from_standard_input(tmp_path: Path) -> None:
    text = "".join(json.dumps(each) + "\n" for each in STALE)
    found = CliRunner().invoke(main.raft, ["check", "-"], input=text, standalone_mode=False)
    assert found.return_value == 1


def test_a_picture_that_cannot_be_written_leaves_the_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path / "h.jsonl", *STALE)
    code, out, err = checked(capsys, path, "--svg", str(tmp_path / "no" / "h.svg"))
    assert (code, out[:16]) == (1, "not linearizable")
    assert "cannot be written" in err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "Missing argument 'FILE'"),
        (("h", "--model", "stack"), "'stack' is not one of"),
        (("h", "--budget", "soon"), "'soon' is no budget: write a time"),
        (("h", "--budget", "-1"), "'-1' is no budget"),
        (("h", "--colour"), "No such option"),
        (("no-such-file",), "no-such-file cannot be read: No such file"),
        ((".",), ". cannot be read: Is a directory"),
    ],
)
def test_a_wrong_command_line_ends_with_3(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], reason: str
) -> None:
    """Not with 2, as for other commands: here that says "unknown"."""
    code, out, err = checked(capsys, *arguments)
    assert (code, out) == (3, "")
    assert err.startswith("raft: ")
    assert reason in err


GOOD = json.dumps(LEGAL[0]).encode()


def line(**changes: Any) -> bytes:
    fields = {**LEGAL[0], "ok": True, **changes}
    return json.dumps({k: v for k, v in fields.items() if v != "gone"}).encode()


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"", "holds no operation: give one a line"),
        (b"\n \n", "holds no operation"),
        (b"{", r"line 1: column 2 is no JSON"),
        (b"put x 1", r"line 1: column 1 is no JSON .* write one whole object a line"),
        (b"[1]", r"line 1: it is \[1\]: write one JSON object a line"),
        (b"3", r"line 1: it is 3: write one JSON object"),
        (b"\xef\xbb\xbf" + GOOD, "line 1: it begins with a byte order mark"),
        (GOOD + b"\n\xff", r"line 2: byte 1 is no UTF-8 .* write the file as UTF-8"),
        (GOOD.replace(b'"x"', b'"\xc3("'), r"line 1: byte \d+ is no UTF-8"),
        (line(client="gone"), "line 1: there is no 'client': write a text or a whole number"),
        (line(op="gone"), "there is no 'op'"),
        (line(key="gone"), "there is no 'key'"),
        (line(call="gone"), "there is no 'call'"),
        (GOOD.replace(b', "return": 10', b""), "there is no 'return': .* null where the outcome"),
        (line(value="gone"), "there is no 'value': a put needs one"),
        (line(op="cas", value=1), "there is no 'expected': a cas needs one"),
        (line(op="get"), "there is no 'output': a get that returned has one"),
        (
            line(op="steal"),
            "'op' is \"steal\": this model knows append, cas, delete, get, put, set",
        ),
        (line(op=["put"]), r"'op' is \[\"put\"\]"),
        (line(client=None), "'client' is null: write a text"),
        (line(client=True), "'client' is true"),
        (line(client=1.5), "'client' is 1.5"),
        (line(key=None), "'key' is null: write a text, or a whole number"),
        (line(key=["x"]), "'key' is"),
        (line(call=1.5), "'call' is 1.5: write when it began, in whole nanoseconds"),
        (line(call="0"), "'call' is \"0\""),
        (line(call=True), "'call' is true"),
        (line(call=None), "'call' is null"),
        (line(**{"return": 1e3}), "'return' is 1000.0: write when it ended"),
        (line(ok="yes"), "'ok' is \"yes\": write true"),
        (line(ok=1), "'ok' is 1"),
        (line(call=11), "'return' is 10, before 'call', which is 11"),
        (line(op="delete", output=3), "'output' is 3: that of delete is true, false or null"),
        (line(op="append", output=0), "'output' is 0: that of append is a length"),
        (line(op="append", output=True), "'output' is true: that of append is a length"),
        (line(value=float("nan")), "NaN is no JSON"),
        (line(value=float("inf")), "Infinity is no JSON"),
        (GOOD.replace(b'"value": 1', b'"value": 1e999'), "'value': a number is too large"),
        (GOOD.replace(b'"call": 0', b'"call": NaN'), "NaN is no JSON"),
        (
            GOOD.replace(b'"value": 1', b'"value": ' + b"9" * 5000),
            "line 1: a number has 5000 digits",
        ),
        (GOOD.replace(b'"value": 1', b'"value": ' + b"[" * 200 + b"]" * 200), "nested too deep"),
        (GOOD.replace(b'"value": 1', b'"value": ' + b"[" * 10**5 + b"]" * 10**5), "too deep"),
        (GOOD.replace(b'"value": 1', b'"value": 1, "value": 2'), "'value' stands twice"),
        (GOOD.replace(b'"value": 1', rb'"value": 1, "v\u0061lue": 2'), "'value' stands twice"),
        (GOOD.replace(b'"value": 1', rb'"value": "\ud800"'), "half of a surrogate pair"),
        (line(value={"$bytes": "0"}), r"'value': \$bytes is \"0\": write hexadecimal digits"),
        (GOOD + GOOD, "line 1: column .* is no JSON"),
        (GOOD + b"\n" + line(call=4, key="y"), r"line 2: 'client' 'a' has two operations open"),
    ],
)
def test_what_is_wrong_in_a_file_is_told_with_line_field_and_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], bad: bytes, reason: str
) -> None:
    path = tmp_path / "h.jsonl"
    path.write_bytes(bad)
    code, out, err = checked(capsys, str(path))
    assert (code, out) == (3, "")
    assert str(path) in err
    assert re.search(reason, err), err
    # The same in the middle of good lines, with the number of its own.
    good = [line(call=100 * n, client=f"c{n}", **{"return": 100 * n}) for n in range(3)]
    path.write_bytes(b"\n".join([*good, bad, *good[:1]]))
    if bad.strip():
        code, _, err = checked(capsys, str(path))
        assert code == 3
        assert re.search(reason.replace("line 2", "line 5").replace("line 1", "line 4"), err), err


def test_two_fields_of_which_one_is_missing_elsewhere_are_still_two(tmp_path: Path) -> None:
    """Counting names over a chunk must not let one line make up for another."""
    path = tmp_path / "h.jsonl"
    twice = GOOD.replace(b'"value": 1', b'"value": 1, "value": 2')
    path.write_bytes(twice + b"\n" + line(op="get", value="gone", output=None, client="b"))
    with pytest.raises(BadHistory, match="line 1: 'value' stands twice"), path.open("rb") as file:
        read_history(file, "h", KEY_VALUE.steps)


def read(path: Path, *lines: bytes, model: str = "kv") -> list[Operation]:
    path.write_bytes(b"\n".join(lines))
    with path.open("rb") as file:
        return read_history(file, "h", MODELS[model].steps)


def test_lines_are_read_alike_fast_and_slowly(tmp_path: Path) -> None:
    """A line that only the careful reader understands takes its neighbours along."""
    lines = [
        line(),
        line(client=7, call=100, **{"return": None}),
        line(
            client="c", ok=False, value=[1, {"$bytes": "00ff"}], call=10**30, **{"return": 10**31}
        ),
        line(op="get", client="d", output={"a": None}, ok="gone"),
        line(op="cas", client="e", expected=None, output=False, ok=True),
        line(op="get", client="f", output="gone", ok=None),
        line(op="append", client="g", value="key", output=2),
    ]
    fast = read(tmp_path / "a", *lines)
    slow = read(tmp_path / "b", *lines, b"", line(key=7, client="z"))
    assert slow[:-1] == fast
    assert slow[-1].key == 7
    assert fast == [
        Operation("a", "put", "x", 1, None, None, True, 0, 10),
        Operation("7", "put", "x", 1, None, None, None, 100, None),
        Operation("c", "put", "x", [1, b"\0\xff"], None, None, False, 10**30, 10**31),
        Operation("d", "get", "x", 1, None, {"a": None}, True, 0, 10),
        Operation("e", "cas", "x", 1, None, False, True, 0, 10),
        Operation("f", "get", "x", 1, None, None, None, 0, None),
        Operation("g", "append", "x", "key", None, 2, True, 0, 10),
    ]


def test_only_the_store_must_have_keys(tmp_path: Path) -> None:
    lines = (line(op="enqueue", key="gone"), line(op="dequeue", key="gone", client=2, output=1))
    assert [each.key for each in read(tmp_path / "q", *lines, model="queue")] == ["", ""]


def test_help_states_the_format_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = checked(capsys, "--help")
    assert code == 0
    for words in ("client ", "expected ", "call ", "return ", "0  linearizable", "3  the file"):
        assert re.search(rf"^ +{words}", out, re.MULTILINE), words
