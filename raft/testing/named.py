"""Names of what another process is to import: a module, and what is at its top."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any

import msgspec

from raft.errors import BadConfiguration


class Name(msgspec.Struct, frozen=True, array_like=True):
    """Where something is found: in which module, from which file, under what name."""

    module: str
    path: str
    qualname: str


def name_of(wanted: object, what: str, home: str) -> Name:
    """Return the name of `wanted`, its own or that in the module `home`.

    Raises:
        BadConfiguration: it has none that leads back to it; says what would do.
    """
    module = str(getattr(wanted, "__module__", "") or home)
    qualname = str(getattr(wanted, "__qualname__", ""))
    candidates = [(module, qualname)]
    if home in sys.modules:
        there = vars(sys.modules[home]).items()
        candidates += [(home, name) for name, each in there if each is wanted]
    for place, name in candidates:
        if name and place in sys.modules and _look_up(sys.modules[place], name) is wanted:
            path = str(getattr(sys.modules[place], "__file__", "") or "")
            return Name(place, path, name)
    raise BadConfiguration(
        f"{what} is {qualname or wanted!r} of {module or '?'}, "
        "which a fresh process cannot import; put it at the top of a module, or give processes=0"
    )


def _look_up(module: object, qualname: str) -> object:
    found = module
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found


def load(name: Name) -> Any:
    """Import what `name` tells; by its file where the module is not on the path.

    Raises:
        ImportError: it is not there.
    """
    module = name.module
    if module == "__main__":
        # A script: what it does when it is run is not done again.
        module = "__raft_main__"
        found = _load_file(module, name.path)
    else:
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError:
            found = _load_file(module, name.path)
    wanted = _look_up(found, name.qualname)
    if wanted is None:
        raise ImportError(f"{name.qualname} is not in {name.path or name.module}")
    return wanted


def _load_file(module: str, path: str) -> Any:
    spec = importlib.util.spec_from_file_location(module, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"no module {module!r}, and no file {path!r}")
    found = importlib.util.module_from_spec(spec)
    sys.modules[module] = found
    spec.loader.exec_module(found)
    return found
