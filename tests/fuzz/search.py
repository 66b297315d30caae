"""Search every way in for bytes that do harm, guided by coverage: `python -m tests.fuzz.search`.

Needs `atheris`; where there is none for this Python, a line says so and nothing is searched.
The targets take turns within the time given. A finding is printed with its input, and the exit
code is 1. With `--keep` what was found to reach new code joins the corpora.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

UNIT_SECONDS = 10
"""An input that takes longer, under instrumentation, is a finding."""
UNIT_MEGABYTES = 64
"""One allocation of more than that is a finding."""
RESIDENT_MEGABYTES = 600
LONGEST_INPUT_BYTES = 4096
_DONE = re.compile(r"#(\d+)\s+DONE\s+cov: (\d+) ft: (\d+)")


def search_one(name: str, arguments: list[str]) -> None:
    """Search one target in this process; libFuzzer ends it."""
    import atheris

    with atheris.instrument_imports(
        include=["raft", "tomllib", "twisted.web", "twisted.protocols"]
    ):
        from tests.fuzz.targets import TARGETS
    run = TARGETS[name].run

    def one(octets: bytes) -> None:
        run(octets)

    atheris.Setup([sys.argv[0], *arguments], one)
    atheris.Fuzz()


def child(name: str, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Run one target in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "tests.fuzz.search", "--one", name, *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False,
    )  # fmt: skip


def limits() -> list[str]:
    return [
        f"-timeout={UNIT_SECONDS}",
        f"-malloc_limit_mb={UNIT_MEGABYTES}",
        f"-rss_limit_mb={RESIDENT_MEGABYTES}",
        f"-max_len={LONGEST_INPUT_BYTES}",
    ]


def search(name: str, seconds: int, is_keeping: bool) -> tuple[int, bool]:
    """Search one target for so long; return how many inputs were tried, and whether it held."""
    from tests.fuzz import corpora
    from tests.fuzz.targets import TARGETS

    target = TARGETS[name]
    with tempfile.TemporaryDirectory() as directory:
        known, found = Path(directory, "known"), Path(directory, "found")
        for each in (known, found):
            each.mkdir()
        for number, octets in enumerate([*target.seeds(), *corpora.kept(name)]):
            (known / str(number)).write_bytes(octets)
        words = Path(directory, "words")
        words.write_text("".join(f'"{escaped(word)}"\n' for word in target.words))
        options = [f"-max_total_time={seconds}", f"-artifact_prefix={directory}/finding-"]
        options += [f"-dict={words}"] if target.words else []
        ended = child(name, [*options, *limits(), str(found), str(known)])
        done = _DONE.findall(ended.stdout)
        inputs, coverage, features = map(int, done[-1]) if done else (0, 0, 0)
        findings = sorted(Path(directory).glob("finding-*"))
        print(
            f"{name:10} {inputs:>10,} inputs, coverage {coverage:,}, features {features:,}, "
            f"{len(list(found.iterdir()))} new, {len(findings)} findings",
            flush=True,
        )
        for finding in findings:
            print(f"  {finding.name}: {finding.read_bytes()!r}")
        if ended.returncode:
            print(told(ended.stdout))
        if is_keeping and any(found.iterdir()):
            known_ones = [*target.seeds(), *corpora.kept(name)]
            new = [each.read_bytes() for each in found.iterdir()]
            count = corpora.keep(name, corpora.cover(target.run, known_ones, new))
            print(f"  {count} inputs are kept")
        return inputs, not ended.returncode


def told(output: str) -> str:
    """Return what a search says of its end: the traceback where there is one."""
    _, there, trace = output.rpartition("=== Uncaught Python exception: ===")
    return trace.partition("==ERROR")[0][:6000] if there else output[-3000:]


def escaped(word: bytes) -> str:
    """Write a word as libFuzzer's dictionaries want it."""
    return "".join(f"\\x{byte:02x}" for byte in word[:200])


def main() -> int:
    if len(sys.argv) > 2 and sys.argv[1] == "--one":
        search_one(sys.argv[2], sys.argv[3:])
        return 0
    from tests.fuzz.targets import TARGETS

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0, help="for all targets together")
    parser.add_argument("--keep", action="store_true", help="let the corpora grow")
    parser.add_argument("targets", nargs="*", help=f"of {', '.join(TARGETS)}; all if none is named")
    options = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        print(f"skipped: atheris is not installed, or there is none for Python {sys.version[:4]}")
        return 0
    names = options.targets or list(TARGETS)
    if unknown := set(names) - set(TARGETS):
        parser.error(f"no target is called {', '.join(sorted(unknown))}")
    began, total, held = time.monotonic(), 0, True
    for name in names:
        count, is_right = search(name, max(1, int(options.minutes * 60 / len(names))), options.keep)
        total, held = total + count, held and is_right
    print(f"{total:,} inputs in {time.monotonic() - began:.0f} s, {os.cpu_count()} cores")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
