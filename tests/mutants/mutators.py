"""Every small change of a function that a careless hand might make.

A comparison is off by one or turned round, a condition is negated or loses a half, a sum becomes a
difference, a number is one more, the smallest is the largest, a statement is left out: a call, an
assignment to an attribute, a `raise`, an early `return`. Texts, annotations and what is only said
in an error are left alone: they decide nothing.
"""

from __future__ import annotations

import ast
import copy
import hashlib
from collections.abc import Iterator

from attrs import frozen

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
SUMS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
OTHERS = {"min": "max", "max": "min", "any": "all", "all": "any"}


@frozen
class Mutant:
    """One change: in which function, on which line, and what the line says then."""

    module: str
    function: str
    line: int
    before: str
    after: str
    is_safety_check: bool
    """Whether it touches a check that stops the server: one that raises, or what it asks."""
    source: str

    @property
    def name(self) -> str:
        """A name that lasts as long as what was changed stays as it is."""
        told = f"{self.module}:{self.function}: {self.before} -> {self.after}"
        return f"{hashlib.sha256(told.encode()).hexdigest()[:12]} {told}"


def mutants_of(module: str, source: str, *, with_source: bool = True) -> Iterator[Mutant]:
    """Yield the mutants of a module, in the order of its lines.

    Who only counts them may do without the source of each, which costs the most.
    """
    tree = ast.parse(source)
    safe = _safety_lines(tree)
    counts: dict[tuple[str, str, str], int] = {}
    for function, qualified in _functions(tree, ""):
        for node, slot in _places(function):
            for other in _others(node):
                before, after = _first_line(node), _first_line(other)
                key = (qualified, before, after)
                counts[key] = counts.get(key, 0) + 1
                if counts[key] > 1:
                    after += f" (place {counts[key]})"
                slot.put(other)
                whole = ast.unparse(tree) if with_source else ""
                slot.put(node)
                line = getattr(node, "lineno", function.lineno)
                yield Mutant(module, qualified, line, before, after, line in safe, whole)


def _first_line(node: ast.AST) -> str:
    return ast.unparse(node).partition("\n")[0]


def _others(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what may stand in place of `node`."""
    match node:
        case ast.Compare(ops=[operator]) if type(operator) in COMPARISONS:
            other = copy.deepcopy(node)
            other.ops = [COMPARISONS[type(operator)]()]
            yield other
            if isinstance(operator, ast.Lt | ast.LtE | ast.Gt | ast.GtE):
                yield ast.UnaryOp(ast.Not(), copy.deepcopy(node))
        case ast.BoolOp(op, values):
            for at in range(len(values)):
                rest = [copy.deepcopy(each) for place, each in enumerate(values) if place != at]
                yield ast.BoolOp(op, rest) if len(rest) > 1 else rest[0]
            turned = ast.Or() if isinstance(op, ast.And) else ast.And()
            yield ast.BoolOp(turned, copy.deepcopy(values))
        case ast.UnaryOp(ast.Not(), operand):
            yield copy.deepcopy(operand)
        case ast.BinOp(left, operator, right) if type(operator) in SUMS:
            yield ast.BinOp(copy.deepcopy(left), SUMS[type(operator)](), copy.deepcopy(right))
        case ast.Constant(bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(int() | float() as value):
            yield ast.Constant(value + 1)
        case ast.Call(ast.Name(name)) if name in OTHERS:
            other = copy.deepcopy(node)
            other.func = ast.Name(OTHERS[name], ast.Load())
            yield other
        case ast.If(test) if not isinstance(test, ast.Compare | ast.BoolOp | ast.UnaryOp):
            other = copy.deepcopy(node)
            other.test = ast.UnaryOp(ast.Not(), other.test)
            yield other
        case _:
            yield from _left_out(node)


def _left_out(node: ast.AST) -> Iterator[ast.AST]:
    """Yield nothing in place of a statement that only acts."""
    match node:
        case ast.Expr(ast.Call(ast.Attribute(ast.Call(ast.Name("super"))))):
            # Code that refers to its class no more cannot stand in the place of code that does.
            yield ast.Expr(ast.Name("__class__", ast.Load()))
        case ast.Expr(ast.Call()) | ast.Raise() | ast.Return(None) | ast.Delete():
            yield ast.Pass()
        case ast.Assign([ast.Attribute() | ast.Subscript()]) | ast.AugAssign():
            yield ast.Pass()
        case ast.Continue():
            yield ast.Break()
        case ast.Break():
            yield ast.Continue()


def _functions(tree: ast.AST, prefix: str) -> Iterator[tuple[ast.FunctionDef, str]]:
    for node in getattr(tree, "body", []):
        if isinstance(node, ast.ClassDef):
            yield from _functions(node, f"{prefix}{node.name}.")
        elif isinstance(node, ast.FunctionDef):
            yield node, f"{prefix}{node.name}"


def _safety_lines(tree: ast.Module) -> frozenset[int]:
    """Return the lines of the checks that raise: each `raise`, and the condition above it."""
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise):
            lines.add(node.lineno)
        elif isinstance(node, ast.If) and any(isinstance(each, ast.Raise) for each in node.body):
            lines.update(range(node.lineno, node.body[0].lineno))
    return frozenset(lines)


def _places(function: ast.FunctionDef) -> Iterator[tuple[ast.AST, Slot]]:
    """Yield the nodes of a function's body that may change, each with where it stands."""
    body = function.body
    first = body[0]
    start = int(isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant))
    for at in range(start, len(body)):
        yield from _within(body[at], Slot(body, at))


@frozen
class Slot:
    """Where a node stands: an item of a list, or an attribute of its parent."""

    holder: object
    at: int | str

    def put(self, node: object) -> None:
        """Put another node in its place."""
        if isinstance(self.holder, list) and isinstance(self.at, int):
            self.holder[self.at] = node
        else:
            setattr(self.holder, str(self.at), node)


def _within(node: ast.AST, slot: Slot) -> Iterator[tuple[ast.AST, Slot]]:
    yield node, slot
    if isinstance(node, ast.Raise | ast.JoinedStr | ast.arguments):
        return
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "ctx", "cls", "keywords_name"):
            continue
        if isinstance(value, list):
            for at, each in enumerate(value):
                if isinstance(each, ast.AST):
                    yield from _within(each, Slot(value, at))
        elif isinstance(value, ast.AST):
            yield from _within(value, Slot(node, name))
