"""The kit on every other Python from 3.11 to 3.14 that this machine has, with the locked packages.

Debian 13's own is tried as well (test_debian13.py). One of the environments has pandas 3, which
the kit allows and the lock does not choose.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from effort import many
from lacks import lacks

from kit.servers.doctor import KIT_PYTHONS
from kit.servers.python import pythons_here

pytestmark = pytest.mark.timeout(many(900, 3600))
ROOT = Path(__file__).resolve().parents[1]
PANDAS_3 = "pandas==3.1.1"
RUNNING = f"3.{sys.version_info.minor}"
#: What differs most between versions: annotations and dataclasses, frames, text, processes.
SLICE = (
    "crash/test_verdict.py",
    "servers/test_python.py",
    "stats/test_frames.py",
    "study/test_spec.py",
    "study/test_words.py",
)
IMPORT_ALL = """
import importlib, pkgutil, kit
for module in pkgutil.walk_packages(kit.__path__, "kit."):
    if not module.name.startswith("kit.servers.models") and not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""


def others() -> dict[str, Path]:
    """The interpreter of each version that the kit can run in, but for the one that runs this."""
    lowest, highest = KIT_PYTHONS[0][1], KIT_PYTHONS[1][1]
    found: dict[str, Path] = {}
    for python in pythons_here():
        if python.executable and lowest <= int(python.version[2:]) <= highest:
            found.setdefault(python.version, python.executable)
    found.pop(RUNNING, None)
    return found


QUICK = "not server and not browser and not slow"


def uv(*words: str) -> None:
    command = [sys.executable, "-m", "uv", *words, "--quiet"]
    for certificates in ({}, {"UV_SYSTEM_CERTS": "1", "UV_NATIVE_TLS": "1"}):
        own = {**os.environ, **certificates}  # a proxy's are known to the system alone
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=False, env=own
        )
        if done.returncode == 0:
            return
    raise AssertionError(done.stderr)


def test_the_kit_runs_on_every_python_of_this_machine(tmp_path: Path) -> None:
    pythons = others()
    if not pythons:
        lacks("no other Python from 3.11 to 3.14 than the one that runs the tests")
    newest = max(pythons, key=lambda version: int(version[2:]))
    for version, executable in pythons.items():
        python = str(tmp_path / version / "bin/python")
        uv("venv", "--python", str(executable), str(tmp_path / version))
        install = ("pip", "install", "--python", python, "--link-mode", "symlink")
        uv(*install, "--require-hashes", "--requirement", "requirements.lock")
        if version == newest:
            uv(*install, PANDAS_3)
        run(version, python, "-W", "error::SyntaxWarning", "-c", IMPORT_ALL)
        tests = many([f"tests/{name}" for name in SLICE], ["tests"])
        pytest_options = ("-q", "-p", "no:cacheprovider", "-m", QUICK)
        run(version, python, "-m", "pytest", *pytest_options, *tests)


def run(version: str, *command: str) -> None:
    own = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=own)
    assert done.returncode == 0, f"Python {version}:\n{done.stdout[-4000:]}{done.stderr[-2000:]}"
