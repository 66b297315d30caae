"""Put other code into functions that live: the package on the disk is not touched.

A mutant is a module's source with something changed. It is compiled, and each function that the
running module has gets the code of its namesake. So a mutant costs no import, and tests may run
against an installed package as well as against a checkout.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

CO_NEWLOCALS = inspect.CO_NEWLOCALS | inspect.CO_OPTIMIZED


def source_of(module_name: str) -> str:
    """Return the source of an importable module."""
    module = importlib.import_module(module_name)
    return Path(str(module.__file__)).read_text(encoding="utf-8")


def graft(module_name: str, source: str) -> int:
    """Give the functions of a module the code that `source` has for them; return how many changed.

    What stands outside of functions is not executed again: a change there changes nothing.
    """
    module = importlib.import_module(module_name)
    code = compile(source, str(module.__file__), "exec")
    changed = 0
    for qualified, new in _functions(code, ""):
        function = _living(module, qualified)
        if function is None or _same(function.__code__, new):
            continue
        function.__code__ = new
        changed += 1
    return changed


def _functions(code: CodeType, prefix: str) -> Iterator[tuple[str, CodeType]]:
    """Yield the functions of a module and of its classes; what they have inside comes with them."""
    for const in code.co_consts:
        if not isinstance(const, CodeType) or const.co_name.startswith("<"):
            continue
        name = f"{prefix}{const.co_name}"
        if const.co_flags & CO_NEWLOCALS == CO_NEWLOCALS:
            yield name, const
        else:
            yield from _functions(const, f"{name}.")


def _living(module: ModuleType, qualified: str) -> FunctionType | None:
    """Return the function of that name, out of whatever was put around it."""
    found: object = module
    for name in qualified.split("."):
        owner, found = found, vars(found).get(name) if hasattr(found, "__dict__") else None
        if inspect.ismemberdescriptor(found):
            # A class with slots keeps the functions of its cached properties with this one.
            found = getattr(owner, "__getattr__", found)
            kept = getattr(found, "__globals__", {}).get("cached_properties", {})
            found = kept.get(name)
        if found is None:
            return None
    if isinstance(found, property):
        found = found.fget
    elif isinstance(found, classmethod | staticmethod):
        found = found.__func__
    elif isinstance(found, functools.cached_property):
        found = found.func
    found = inspect.unwrap(found) if callable(found) else found
    return (
        found if isinstance(found, FunctionType) and found.__module__ == module.__name__ else None
    )


def _same(one: CodeType, other: CodeType) -> bool:
    if (one.co_code, one.co_names, len(one.co_consts)) != (
        other.co_code,
        other.co_names,
        len(other.co_consts),
    ):
        return False
    return all(
        _same(ours, theirs)
        if isinstance(ours, CodeType) and isinstance(theirs, CodeType)
        else (type(ours), ours) == (type(theirs), theirs)
        for ours, theirs in zip(one.co_consts, other.co_consts, strict=True)
    )
