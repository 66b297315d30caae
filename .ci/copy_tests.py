"""Copy the checkout without its packages: `copy_tests.py CHECKOUT DIRECTORY`.

Tests that run in the copy find tests, documents and examples where they expect them, and
cannot import anything but the installed package.
"""

import shutil
import sys
from pathlib import Path

LEFT_OUT = {"raft", "twisted", "setup.py", "build", "dist"}


def copy(checkout: Path, directory: Path) -> None:
    for source in checkout.iterdir():
        if source.name in LEFT_OUT or source.name.startswith(".") or source.suffix == ".egg-info":
            continue
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, directory / source.name, ignore=ignored)
        else:
            shutil.copy2(source, directory)


if __name__ == "__main__":
    copy(Path(sys.argv[1]), Path(sys.argv[2]))
