"""What an installation holds, and that it works where nobody may write to it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from importlib.metadata import PackagePath, distribution
from pathlib import Path

import pytest

import raft

INSTALLED = os.environ.get("RAFT_TESTS_INSTALLED")

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(INSTALLED is None, reason="the gate installs the package; this run did not"),
]
wheel_only = pytest.mark.skipif(INSTALLED != "wheel", reason="a wheel is looked into")


def installed() -> list[PackagePath]:
    return [path for path in distribution("txraft").files or () if "__pycache__" not in path.parts]


@wheel_only
def test_the_sources_are_out_of_reach() -> None:
    assert Path(raft.__file__).is_relative_to(sys.prefix)
    assert not Path("setup.py").exists()


@wheel_only
def test_the_wheel_holds_the_package_and_the_plugin_and_nothing_else() -> None:
    roots = {path.parts[0] for path in installed() if not path.parts[0].endswith(".dist-info")}
    assert roots - {".."} == {"raft", "twisted"}
    ours_in_twisted = [str(path) for path in installed() if path.parts[0] == "twisted"]
    assert ours_in_twisted == ["twisted/plugins/raft_plugin.py"]
    assert "raft/py.typed" in map(str, installed())
    scripts = [path.name for path in installed() if path.parts[0] == ".."]
    assert scripts == ["raft"]


@wheel_only
def test_twisted_itself_is_whole() -> None:
    """A package's own twisted/__init__.py would replace Twisted's."""
    import twisted

    assert twisted.version.major >= 24
    assert "twisted/__init__.py" not in map(str, installed())


def test_the_command_is_installed_with_its_version() -> None:
    script = Path(sysconfig.get_path("scripts")) / "raft"
    ran = subprocess.run([script, "--version"], check=True, capture_output=True, text=True)
    assert ran.stdout == f"raft, version {distribution('txraft').version}\n"


def read_only_environment(directory: Path) -> Path:
    """Make an environment with this installation in a site-packages of its own; return it.

    All else is found in the running environment's site-packages.
    """
    venv.create(directory, with_pip=False, symlinks=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = directory / "lib" / version / "site-packages"
    for path in installed():
        if path.parts[0] == "..":
            continue
        target = site.joinpath(*path.parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path.locate(), target)
    (site / "rest.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    for path in (site, *site.rglob("*")):
        if path.is_dir():
            path.chmod(0o555)
    return site


def without_privilege(arguments: list[str]) -> list[str]:
    """Let not even root write where the permissions forbid it."""
    if os.geteuid() != 0:
        return arguments
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("root may write anywhere, and setpriv is not there to stop it")
    dropped = "-dac_override,-dac_read_search,-fowner"
    return [setpriv, f"--inh-caps={dropped}", f"--bounding-set={dropped}", *arguments]


@pytest.fixture
def read_only(tmp_path: Path) -> object:
    site = read_only_environment(tmp_path / "environment")
    yield site
    for path in (site, *site.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)


def test_twistd_finds_the_command_where_site_packages_is_not_writable(
    read_only: Path, tmp_path: Path
) -> None:
    python = str(tmp_path / "environment" / "bin" / "python")
    touch = [python, "-c", f"open({str(read_only / 'probe')!r}, 'w')"]
    assert subprocess.run(without_privilege(touch), check=False, capture_output=True).returncode
    twistd = str(Path(sysconfig.get_path("scripts")) / "twistd")
    ran = subprocess.run(
        without_privilege([python, twistd, "raft", "--help"]),
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert ran.returncode == 0, ran.stderr
    assert "--config=" in ran.stdout
    assert not list(read_only.glob("twisted/plugins/dropin.cache"))
