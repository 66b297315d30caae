"""Each place where a watcher in the tests speaks, and the watcher that does not speak there."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from attrs import frozen

from tests.mutants.living import source_of

WATCHERS = (
    "raft.testing.cores.monitors",
    "raft.testing.cores.log_monitors",
    "raft.testing.cores.once",
    "raft.testing.small.rules",
    "raft.testing.cores.workload",
    "raft.testing.cores.transfers",
)
"""The modules that hold a run, or a small model, against the invariants."""


@frozen
class Watch:
    """A place that tells of a broken rule: `source` is the module without it."""

    module: str
    place: str
    """The function and the rule, and where it tells of that more than once, which time it is."""
    source: str


def watches(module: str) -> Iterator[Watch]:
    """Yield the places in `module` that tell of broken rules, in the order of its lines."""
    source = source_of(module)
    lines = source.splitlines(keepends=True)
    seen: dict[str, int] = {}
    for owner, function in _functions(ast.parse(source)):
        for told in _statements(function):
            rule = _rule(told)
            if not rule:
                continue
            place = f"{owner}{function.name} {rule}"
            seen[place] = count = seen.get(place, 0) + 1
            off = f"{' ' * told.col_offset}pass\n"
            rest = lines[told.end_lineno or told.lineno :]
            whole = "".join([*lines[: told.lineno - 1], off, *rest])
            yield Watch(module, place if count == 1 else f"{place} ({count})", whole)


def _functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef]]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield "", node
        elif isinstance(node, ast.ClassDef):
            for each in node.body:
                if isinstance(each, ast.FunctionDef):
                    yield f"{node.name}.", each


def _statements(node: ast.AST) -> Iterator[ast.stmt]:
    for name in ("body", "orelse"):
        for each in getattr(node, name, []):
            yield each
            yield from _statements(each)


def _rule(node: ast.stmt) -> str:
    """Return the rule that a statement tells of, or nothing."""
    match node:
        case ast.Expr(
            ast.Call(
                ast.Attribute(attr="violated") | ast.Name("violated"),
                [ast.Constant(str() as rule), *_],
            )
        ):
            return rule
    return ""
