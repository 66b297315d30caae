"""The mutation score: which changes of the code do the tests notice?

    python -m tests.mutants.mutation --minutes 60
    python -m tests.mutants.mutation --minutes 10 --module raft.core.replication

Results are kept in a file, one line a mutant, under a name that lasts as long as the function's
text does; a later run goes on where this one ended. `--page` writes the table and the survivors to
`docs/internals/mutation.md`, with the reasons that stand in `survivors.toml`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
from attrs import Factory, define

from tests.mutants.bench import UNCHANGED
from tests.mutants.living import source_of
from tests.mutants.mutators import Mutant, mutants_of

HERE = Path(__file__).parent
PAGE = HERE.parent.parent / "docs" / "internals" / "mutation.md"
REASONS = HERE / "survivors.toml"

FOREIGN = "tests/core/test_determinism.py::test_the_hash_seed_of_the_process_does_not_matter"
"""It compares with a process of its own, which has no mutant: any difference would fail it."""
CORE_TESTS = ("tests/core", f"--deselect={FOREIGN}")
SESSION_TESTS = ("tests/test_sessions.py", "tests/test_sessions_model.py", "tests/test_replica.py")
UNHURRIED = (
    "tests/storage/test_faults.py::test_without_descriptors_votes_and_saves_go_on_and_nothing_fails"
)
"""It waits for a second of the clock, and where many mutants run it fails for want of time."""
STORAGE_TESTS = (
    f"--deselect={UNHURRIED}",
    *("tests/storage/test_contract.py", "tests/storage/test_directory.py"),
    *("tests/storage/test_faults.py", "tests/storage/test_formats.py"),
    *("tests/storage/test_ledger.py", "tests/storage/test_starts.py"),
    *("tests/storage/test_survey.py", "tests/storage/test_machine.py"),
    *("tests/storage/test_segments.py", "tests/storage/test_reading.py"),
    *("tests/storage/test_writer.py", "tests/storage/test_recovery.py"),
    *("tests/storage/test_snapshot_files.py", "tests/storage/test_wal.py"),
    *("tests/storage/test_repair.py", "tests/storage/test_writer_thread.py"),
    "tests/storage/test_brief_wait.py",
    *("tests/test_skips.py", "tests/test_sessions.py", "tests/test_versions.py"),
)
ROOMS: dict[str, tuple[str, ...]] = {
    **{
        f"raft.core.{room}": CORE_TESTS
        for room in (
            *("replication", "elections", "log", "server", "membership", "reads"),
            *("snapshots", "transfer", "progress", "configuration", "founding"),
        )
    },
    "raft.sessions": SESSION_TESTS,
    **{
        f"raft.storage.{room}": STORAGE_TESTS
        for room in (
            *("writer", "recovery", "records", "ledger", "frames", "reading", "segments"),
            *("snapshots", "wal", "thread", "marks", "brief_wait"),
        )
    },
}
"""The modules that are mutated, and the tests that may kill their mutants."""


@define
class Results:
    """What became of mutants so far, in a file."""

    path: Path
    killers: dict[str, str] = Factory(dict)
    """By the mutant's name: the test that killed it, or empty for a survivor."""

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read the file, if there is one."""
        results = cls(path)
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                told = json.loads(line)
                results.killers[told["name"]] = told["killer"]
        return results

    def add(self, name: str, killer: str) -> None:
        """Note one more, at once."""
        self.killers[name] = killer
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(f"{json.dumps({'name': name, 'killer': killer})}\n")


def bench(arguments: Sequence[str], **settings: object) -> subprocess.Popen[str]:
    """Start a bench that has collected what `arguments` of pytest name."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.mutants.bench"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=HERE.parent.parent,
    )
    tell(process, {"arguments": list(arguments), "children": 1, "watch": "", **settings})
    return process


def tell(process: subprocess.Popen[str], told: dict[str, object]) -> None:
    """Write one line to a bench."""
    if process.stdin is None:
        raise ValueError("a bench takes orders")
    process.stdin.write(f"{json.dumps(told)}\n")
    process.stdin.flush()


def answers(process: subprocess.Popen[str]) -> Iterator[dict[str, object]]:
    """Yield what a bench answers, until it has no more to say."""
    if process.stdout is None:
        raise ValueError("a bench answers")
    with process.stdout:
        for line in process.stdout:
            yield json.loads(line)


def calls(tests: Sequence[str], package: str) -> dict[str, tuple[float, list[str]]]:
    """Run `tests` once; return of each how long it took, and the functions it called."""
    collected = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"),
            *("-m", "not slow and not integration"),
            *tests,
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    names = [line for line in collected.stdout.splitlines() if "::" in line]
    process = bench(tests, watch=package)
    tell(process, {"name": "calls", "tests": names})
    if process.stdin is not None:
        process.stdin.close()
    (answer,) = answers(process)
    process.wait()
    if answer["killer"]:
        raise click.ClickException(f"{answer['killer']} fails without any mutant")
    called: dict[str, tuple[float, list[str]]] = answer["called"]  # type: ignore[assignment]
    return called


def orders_for(
    mutants: Sequence[Mutant], called: dict[str, tuple[float, list[str]]], results: Results
) -> Iterator[dict[str, object]]:
    """Yield the order for each mutant: the tests that call its function, the quickest first.

    Those that have killed others of this function come before all that have not.
    """
    for mutant in mutants:
        function = f"{mutant.module}:{mutant.function}"
        likely = {killer for name, killer in results.killers.items() if f" {function}: " in name}
        chosen = [
            (seconds, test)
            for _, seconds, test in sorted(
                (test not in likely, seconds, test)
                for test, (seconds, names) in called.items()
                if function in names
            )
        ]
        yield {
            "name": mutant.name,
            "module": mutant.module,
            "source": mutant.source,
            "tests": [test for _, test in chosen],
            "limits": [3 + 5 * seconds for seconds, _ in chosen],
            "cpu_seconds": int(10 + 4 * sum(seconds for seconds, _ in chosen)),
        }


def run(
    tests: Sequence[str],
    mutants: Sequence[Mutant],
    called: dict[str, tuple[float, list[str]]],
    results: Results,
    end: float,
) -> None:
    """Run mutants until the time `end`, two at a time."""
    process = bench(tests, children=2)
    orders = orders_for(mutants, called, results)
    told = answers(process)
    waiting = 0
    for order in orders:
        if not order["tests"]:
            results.add(str(order["name"]), "")
            continue
        tell(process, order)
        waiting += 1
        if waiting >= 4:
            _note(next(told), results)
            waiting -= 1
        if time.monotonic() > end:
            break
    if process.stdin is not None:
        process.stdin.close()
    for answer in told:
        _note(answer, results)
    process.wait()


def _note(answer: dict[str, object], results: Results) -> None:
    results.add(str(answer["name"]), str(answer["killer"] or answer["trouble"]))


def table(modules: Sequence[str], results: Results) -> Iterator[str]:
    """Yield the lines of the table of scores."""
    yield "| module | mutants | run | killed | score | of safety checks |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    for module in modules:
        mutants = [
            each
            for each in mutants_of(module, source_of(module), with_source=False)
            if results.killers.get(each.name) != UNCHANGED
        ]
        known = [each for each in mutants if each.name in results.killers]
        killed = [each for each in known if results.killers[each.name]]
        checks = [each for each in known if each.is_safety_check]
        safe = [each for each in checks if results.killers[each.name]]
        score = f"{100 * len(killed) / len(known):.1f} %" if known else "-"
        yield (
            f"| `{module}` | {len(mutants)} | {len(known)} | {len(killed)} | {score} | "
            f"{len(safe)} of {len(checks)} |"
        )


def survivors(modules: Sequence[str], results: Results) -> Iterator[Mutant]:
    """Yield the mutants that no test noticed."""
    for module in modules:
        for mutant in mutants_of(module, source_of(module), with_source=False):
            if results.killers.get(mutant.name) == "":
                yield mutant


def page(modules: Sequence[str], results: Results) -> str:
    """Return the page of the documentation."""
    reasons = tomllib.loads(REASONS.read_text(encoding="utf-8")) if REASONS.exists() else {}
    head = (HERE / "page.md").read_text(encoding="utf-8")
    lines = [head.rstrip(), "", "## Scores", "", *table(modules, results), "", "## Survivors", ""]
    for mutant in survivors(modules, results):
        number, _, told = mutant.name.partition(" ")
        lines.append(f"- `{told}`: {reasons.get(number, 'not looked at yet')}")
    return "\n".join(lines) + "\n"


@click.command()
@click.option("--minutes", default=10.0, help="How long to run; a later run goes on from there.")
@click.option("--module", "modules", multiple=True, help="Only this one; may be repeated.")
@click.option("--results", "path", default="mutation.jsonl", help="Where results are kept.")
@click.option("--longest", default=60.0, help="Leave out tests of more seconds, for a first look.")
@click.option("--page", "writes_page", is_flag=True, help="Write docs/internals/mutation.md anew.")
def main(
    minutes: float, modules: tuple[str, ...], path: str, longest: float, writes_page: bool
) -> None:
    """Run mutants of the core, the log and the sessions, and print the scores."""
    end = time.monotonic() + minutes * 60
    chosen = list(modules or ROOMS)
    results = Results.read(Path(path))
    for tests in dict.fromkeys(ROOMS[module] for module in chosen):
        rooms = [module for module in chosen if ROOMS[module] == tests]
        mutants = [
            mutant
            for room in rooms
            for mutant in mutants_of(room, source_of(room))
            if mutant.name not in results.killers
        ]
        if mutants and time.monotonic() < end:
            called = calls(tests, "raft")
            quick = {test: told for test, told in called.items() if told[0] <= longest}
            run(tests, mutants, quick, results, end)
    click.echo("\n".join(table(chosen, results)))
    for mutant in survivors(chosen, results):
        click.echo(f"survives: line {mutant.line}: {mutant.name}")
    if writes_page:
        PAGE.write_text(page(list(ROOMS), results), encoding="utf-8")


if __name__ == "__main__":
    main()
