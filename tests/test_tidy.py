"""The code's own manners, read from its syntax trees: imports, purity, sizes, names.

What DESIGN says of directions and of the core's purity is held here and not by good will. The
checkers are small functions from a source to complaints, and each is shown to complain.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from attrs import frozen

import raft

ROOT = Path(raft.__file__).parent

MODULE_LINES = 500
FUNCTION_LINES = 50

PURE_STANDARD_LIBRARY = frozenset(
    """__future__ abc bisect collections contextlib copy dataclasses enum functools heapq itertools
    math operator random re struct types typing zlib""".split()
)

# Who may import what of the package, by longest prefix. What is not here may import anything.
DIRECTIONS: dict[str, tuple[str, ...]] = {
    "raft.errors": (),
    "raft.admission": ("raft.errors",),
    "raft.lives": (),
    "raft.places": (),
    "raft.sparing": (),
    "raft.usage": (),
    "raft.core": ("raft.core", "raft.errors"),
    "raft.interfaces": ("raft.core", "raft.errors", "raft.numbering"),
    "raft.numbering": ("raft.errors",),
    "raft.codec": ("raft.interfaces", "raft.errors"),
    "raft.storage": (
        *("raft.storage", "raft.core", "raft.interfaces", "raft.errors", "raft.codec"),
        "raft.lives",
    ),
    "raft.transport": (
        *("raft.transport", "raft.core", "raft.interfaces", "raft.errors", "raft.codec"),
        *("raft.numbering", "raft.lives", "raft.sparing"),
        # Records are the wire's form too: the one room of storage that is no file.
        "raft.storage.records",
    ),
    "raft.backup": ("raft.errors",),
    "raft.restoration": (*("raft.backup", "raft.errors", "raft.outcomes", "raft.storage.records"),),
    "raft.machines": ("raft.machines", "raft.interfaces", "raft.errors", "raft.codec"),
    "raft.replica": (
        *("raft.replica", "raft.interfaces", "raft.core", "raft.errors", "raft.codec"),
        *("raft.durable", "raft.envelope", "raft.machine", "raft.outcomes", "raft.sessions"),
        *("raft.storage.records", "raft.versions", "raft.backup", "raft.restoration"),
        *("raft.skips", "raft.digest"),
    ),
    "raft.versions": (
        *("raft.interfaces", "raft.errors", "raft.outcomes", "raft.storage.records"),
        "raft.codec",
    ),
    "raft.skips": ("raft.errors", "raft.outcomes", "raft.storage.records"),
    "raft.durable": (
        *("raft.interfaces", "raft.core", "raft.errors", "raft.outcomes", "raft.sessions"),
        *("raft.skips", "raft.storage.records", "raft.codec"),
    ),
    "raft.sessions": ("raft.outcomes", "raft.errors", "raft.storage.records", "raft.codec"),
    "raft.outcomes": ("raft.interfaces", "raft.errors", "raft.codec", "raft.digest"),
    "raft.digest": ("raft.errors", "raft.codec"),
    "raft.envelope": ("raft.interfaces", "raft.core", "raft.errors", "raft.codec"),
    "raft.machine": ("raft.interfaces", "raft.core", "raft.errors", "raft.codec"),
    "raft.node": (
        *("raft.node", "raft.core", "raft.interfaces", "raft.errors", "raft.codec"),
        *("raft.replica", "raft.envelope", "raft.machine", "raft.storage.records"),
        *("raft.transport", "raft.members", "raft.backup", "raft.numbering"),
        *("raft.restoration", "raft.lives", "raft.outcomes", "raft.skips", "raft.places"),
        "raft.sparing",
        # The default of a setting; the log itself is handed to the node.
        "raft.storage.wal.SEGMENT_SIZE_BYTES",
    ),
    "raft.service": (
        *("raft.node", "raft.core", "raft.interfaces", "raft.errors", "raft.codec"),
        *("raft.replica", "raft.envelope", "raft.machine", "raft.storage", "raft.transport"),
        *("raft.numbering", "raft.digest", "raft.repairing"),
        # What it opens where its settings ask for it; it knows no more of it than that.
        "raft.ops.http.OpsDoor",
    ),
    "raft.repairing": ("raft.storage.directory", "raft.storage.repair"),
    # A node as any application sees it, and how addresses are written.
    "raft.ops": (
        *("raft.ops", "raft.service.RaftService", "raft.core.outputs", "raft.errors"),
        "raft.transport.endpoints",
    ),
    "raft.config": (
        *("raft.settings", "raft.addresses", "raft.transport.endpoints"),
        *("raft.core.configuration", "raft.interfaces", "raft.errors"),
    ),
    "raft.settings": ("raft.addresses", "raft.errors"),
    "raft.addresses": ("raft.transport.endpoints", "raft.errors"),
    "raft.members": ("raft.core.configuration", "raft.errors"),
    "raft.client": (
        "raft.admission",
        *("raft.client", "raft.transport", "raft.interfaces", "raft.errors", "raft.codec"),
        *("raft.members", "raft.backup", "raft.numbering"),
    ),
}

# What is imported by none but those under the same name: the top, and what is for tests.
TOPS: dict[str, tuple[str, ...]] = {
    "raft.tap": ("raft.tap", "raft.cli", "raft.bench"),
    # A cluster of processes is made of the files that `raft init` writes.
    "raft.cli": ("raft.cli", "raft.testing.processes", "raft.chaos.cluster"),
    # The demo and the benchmark run such a cluster; `raft check` is the checker's own command.
    "raft.testing": (
        *("raft.testing", "raft.cli.demo", "raft.cli.bench", "raft.bench"),
        *("raft.cli.check", "raft.chaos", "raft.cli.chaos"),
    ),
    "raft.chaos": ("raft.chaos", "raft.cli.chaos"),
    "raft.bench": ("raft.bench", "raft.cli.bench", "raft.cli.bench_report"),
}

FORBIDDEN_MODULES = frozenset({"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle"})
FORBIDDEN_CALLS = frozenset({"eval", "exec", "compile", "__import__"})
CORE_CALLS = frozenset({"open", "print", "input", "breakpoint", "id", "hash"})
BANNED_NAMES = frozenset("handler manager engine processor helper util utils misc common".split())
BANNED_WHOLE = BANNED_NAMES | {"data", "info", "do"}


@frozen
class Source:
    """One module: its dotted name and text."""

    module: str
    text: str

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)


Checker = Callable[[Source], Iterator[str]]


def sources() -> list[Source]:
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found.append(Source(module, path.read_text(encoding="utf-8")))
    return found


def imports(source: Source, types_too: bool = True) -> Iterator[tuple[int, str]]:
    """Yield line and full name of each import: `from a import b` gives a.b.

    Without `types_too`, what stands under `if TYPE_CHECKING` is left out: it never runs.
    """
    tree = source.tree
    never_run = set() if types_too else set(only_for_types(tree))
    for node in ast.walk(tree):
        if node in never_run:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def only_for_types(tree: ast.Module) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in TYPE_CHECKING:
            for statement in node.body:
                yield from ast.walk(statement)


TYPE_CHECKING = ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def directions(source: Source) -> Iterator[str]:
    rooms = [room for room in DIRECTIONS if within(source.module, (room,))]
    for line, name in imports(source, types_too=False):
        if name.startswith("."):
            yield f"{source.module}:{line}: the relative import {name}"
        elif rooms and within(name, ("raft",)) and not within(name, DIRECTIONS[max(rooms)]):
            yield f"{source.module}:{line}: imports {name}"
        for top, importers in TOPS.items():
            if within(name, (top,)) and not within(source.module, importers):
                yield f"{source.module}:{line}: imports {name}, which nothing stands upon"


def purity(source: Source) -> Iterator[str]:
    """Hold the core to values: nothing of the world goes in or out but events and outputs."""
    if not within(source.module, ("raft.core", "raft.errors")):
        return
    allowed = PURE_STANDARD_LIBRARY | ({"attr", "attrs", "raft"})
    for line, name in imports(source):
        if name.partition(".")[0] not in allowed:
            yield f"{source.module}:{line}: imports {name}"
        if re.match(r"random\.(?!Random$)", name):
            yield f"{source.module}:{line}: imports {name}, module-level randomness"
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == "random" and node.attr in RANDOM_FUNCTIONS:
                yield f"{source.module}:{node.lineno}: random.{node.attr}, module-level randomness"
        elif isinstance(node, ast.Call) and called(node) in CORE_CALLS:
            yield f"{source.module}:{node.lineno}: calls {called(node)}"
        elif isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.Global):
            yield f"{source.module}:{node.lineno}: {type(node).__name__}"


RANDOM_FUNCTIONS = frozenset(
    """random seed choice choices randint randrange randbytes getrandbits shuffle sample uniform
    gauss SystemRandom betavariate expovariate triangular""".split()
)


def called(node: ast.Call) -> str:
    return node.func.id if isinstance(node.func, ast.Name) else ""


def no_asserts(source: Source) -> Iterator[str]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Assert):
            yield f"{source.module}:{node.lineno}: assert, which `python -O` drops"


def no_code_from_outside(source: Source) -> Iterator[str]:
    for line, name in imports(source):
        if name.partition(".")[0] in FORBIDDEN_MODULES:
            yield f"{source.module}:{line}: imports {name}"
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and called(node) in FORBIDDEN_CALLS:
            yield f"{source.module}:{node.lineno}: calls {called(node)}"


def sizes(source: Source) -> Iterator[str]:
    lines = source.text.count("\n")
    if lines > MODULE_LINES and not re.search(r"\b(long|one room|one module|lines)\b", doc(source)):
        yield f"{source.module}: {lines} lines, and its docstring does not say why"
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = body_lines(node)
            if length > FUNCTION_LINES:
                yield f"{source.module}:{node.lineno}: {node.name} has {length} lines"


def doc(source: Source) -> str:
    return ast.get_docstring(source.tree) or ""


def body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the lines of a function, signature included, without its docstring."""
    length = (node.end_lineno or node.lineno) - node.lineno + 1
    first = node.body[0]
    if isinstance(first, ast.Expr) and ast.get_docstring(node) is not None:
        length -= (first.end_lineno or first.lineno) - first.lineno + 1
    return length


def names(source: Source) -> Iterator[str]:
    """Complain of names that say nothing: a banned word in them, or alone."""
    for part in source.module.split("."):
        if part in BANNED_WHOLE:
            yield f"{source.module}: the module's name"
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            words = set(re.findall(r"[A-Z]?[a-z]+", node.name))
            lowered = {word.lower() for word in words}
            if lowered & BANNED_NAMES or node.name.strip("_").lower() in BANNED_WHOLE:
                yield f"{source.module}:{node.lineno}: {node.name}"
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            arguments = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
            for argument in arguments:
                # Twisted's own callbacks have this argument; their name is the contract.
                if argument.arg in BANNED_WHOLE and node.name not in TWISTED_DATA:
                    yield f"{source.module}:{node.lineno}: {node.name}({argument.arg})"


TWISTED_DATA = frozenset({"dataReceived", "write", "stringReceived"})


def marks(source: Source) -> Iterator[str]:
    for number, line in enumerate(source.text.splitlines(), start=1):
        if re.search(r"\b(TODO|FIXME|XXX|HACK)\b", line):
            yield f"{source.module}:{number}: {line.strip()}"


CHECKERS: tuple[Checker, ...] = (
    *(directions, purity, no_asserts, no_code_from_outside, sizes, names, marks),
)


@pytest.mark.parametrize("check", CHECKERS, ids=lambda check: check.__name__)
def test_the_package_is_tidy(check: Checker) -> None:
    complaints = [complaint for source in sources() for complaint in check(source)]
    assert not complaints, "\n".join(["", *complaints])


def test_the_whole_package_is_read() -> None:
    modules = {source.module for source in sources()}
    assert {"raft", "raft.errors", "raft.core.configuration", "raft.config"} <= modules
    for room in ("raft.errors", "raft.core", "raft.interfaces", "raft.storage", "raft.transport"):
        assert any(within(module, (room,)) for module in modules)


LONG_FUNCTION = "def f():\n" + "    x = 1\n" * 50
LONG_MODULE = "x = 1\n" * 501

BROKEN: list[tuple[Checker, str, str]] = [
    (directions, "raft.errors", "import raft.config"),
    (directions, "raft.core.server", "from raft.interfaces import IStorage"),
    (directions, "raft.core.server", "from raft import interfaces"),
    (directions, "raft.core.server", "def f():\n    from raft.storage import records"),
    (directions, "raft.storage.wal", "from raft.transport import boxes"),
    (directions, "raft.storage.wal", "import raft.service"),
    (directions, "raft.transport.peers", "from raft.storage.wal import Wal"),
    (directions, "raft.transport.peers", "from raft import service"),
    (directions, "raft.replica", "from raft.storage import wal"),
    (directions, "raft.client", "from raft.core.server import Server"),
    (directions, "raft.service", "from . import errors"),
    (directions, "raft.service", "from raft import tap"),
    (directions, "raft.node.shell", "from raft.service import RaftService"),
    (directions, "raft.node.shell", "if TYPING:\n    from raft.service import RaftService"),
    (directions, "raft.api", "from raft.testing.cores.simulator import Simulator"),
    (purity, "raft.core.server", "import time"),
    (purity, "raft.core.server", "import logging"),
    (purity, "raft.core.server", "import threading"),
    (purity, "raft.core.server", "from twisted.internet.defer import Deferred"),
    (purity, "raft.core.server", "from os import urandom"),
    (purity, "raft.core.server", "from random import choice"),
    (purity, "raft.core.server", "import random\nx = random.random()"),
    (purity, "raft.core.server", "x = open('/etc/passwd')"),
    (purity, "raft.core.server", "print('x')"),
    (purity, "raft.core.server", "x = hash('x')"),
    (purity, "raft.core.server", "async def f(): ..."),
    (purity, "raft.core.server", "def f():\n    global x\n    x = 1"),
    (purity, "raft.core.server", "if TYPE_CHECKING:\n    import time"),
    (purity, "raft.errors", "import datetime"),
    (no_asserts, "raft.service", "def f(x):\n    assert x"),
    (no_code_from_outside, "raft.service", "import pickle"),
    (no_code_from_outside, "raft.service", "from marshal import loads"),
    (no_code_from_outside, "raft.service", "x = eval('1')"),
    (no_code_from_outside, "raft.service", "exec('1')"),
    (sizes, "raft.service", LONG_FUNCTION),
    (sizes, "raft.service", LONG_MODULE),
    (names, "raft.utils", ""),
    (names, "raft.service", "class PeerManager: ..."),
    (names, "raft.service", "def helper(): ..."),
    (names, "raft.service", "def _message_handler(): ..."),
    (names, "raft.service", "def data(): ..."),
    (names, "raft.service", "def f(info): ..."),
    (marks, "raft.service", "x = 1  # TODO: more"),
]


@pytest.mark.parametrize(("check", "module", "text"), BROKEN)
def test_each_checker_complains_of_what_it_is_for(check: Checker, module: str, text: str) -> None:
    assert list(check(Source(module, text)))


FINE: list[tuple[Checker, str, str]] = [
    (directions, "raft.core.server", "from raft.core.log import Log"),
    (directions, "raft.transport.peers", "from raft.storage.records import Record"),
    (directions, "raft.service", "from raft.storage import wal"),
    (directions, "raft.errorsome", "import raft.config"),
    (directions, "raft.node.desk", "if TYPE_CHECKING:\n    from raft.service import RaftService"),
    (purity, "raft.core.server", "import random\ndef f(r: random.Random): return r.random()"),
    (purity, "raft.core.server", "from random import Random"),
    (purity, "raft.service", "import time"),
    (sizes, "raft.service", LONG_FUNCTION.replace("    x = 1\n", "", 1)),
    (sizes, "raft.service", '"""This is long because of a table."""\n' + LONG_MODULE),
    (sizes, "raft.service", 'def f():\n    """' + "x\n" * 60 + '"""'),
    (names, "raft.service", "def dataReceived(self, data): ..."),
    (names, "raft.storage.data_directory", "class DataDirectory: ..."),
]


@pytest.mark.parametrize(("check", "module", "text"), FINE)
def test_no_checker_complains_of_what_is_fine(check: Checker, module: str, text: str) -> None:
    assert not list(check(Source(module, text)))
