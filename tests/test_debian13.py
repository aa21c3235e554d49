"""The README's two commands on a fresh Debian 13, cut short, with the Pythons that it may have.

Its own Python 3.13 runs the kit; the servers' models need an older one, which is lacking, or is a
3.12, or is fetched.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from debian_root import DebianRoot, debian_root, missing
from lacks import lacks
from python_mirror import ARCHIVE, list_downloads, pack_python

from kit.servers.environment import numpy_folder
from kit.servers.python import ServerPython, pythons_here
from kit.servers.wheels import server_files
from kit.study.releases import get_release

pytestmark = pytest.mark.timeout(900)
#: 23.10 dies of these within 1,000 requests, all but once in 3,000,000 lives; 24.10 far sooner.
SHORT = "--requests 1000 --repeats 1 --concurrency 16 --scenario cancel-race"
NOTHING_FETCHED = {"UV_PYTHON_DOWNLOADS": "never"}


@pytest.fixture(scope="module")
def debian() -> DebianRoot:
    if (what := missing()) is not None:
        lacks(what)
    return debian_root(Path(os.environ["CRASH_KIT_TESTS_LOCKS"]))


@pytest.fixture
def home(request: pytest.FixtureRequest, debian: DebianRoot) -> Iterable[str]:
    """A home directory there, so also a cache, of the test's own."""
    name = f"/home/{request.node.name}"
    yield name
    shutil.rmtree(debian.folder / name.lstrip("/"), ignore_errors=True)


def this_python(version: str) -> ServerPython:
    """A Python of this machine that can be put into another root."""
    fitting = (p for p in pythons_here() if p.version == version and p.libpython and p.executable)
    if (python := next(fitting, None)) is None:
        lacks(f"no Python {version} with a shared library and an interpreter")
    return python


def share_wheels(
    debian: DebianRoot, home: str, releases: Iterable[str], python: ServerPython
) -> None:
    """Put the unpacked servers of this machine's cache into that of the home there."""
    target = debian.folder / home.lstrip("/") / ".cache/triton-crash-kit/wheels"
    numpy = numpy_folder(python)
    assert numpy is not None
    for folder in (numpy, *(server_files(get_release(name)).root for name in releases)):
        shutil.copytree(folder, target / folder.name, symlinks=True, copy_function=link)


def link(source: str, target: str) -> None:
    """The same file at another place; a copy where that is another disk."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def investigate(
    debian: DebianRoot, options: str, folder: str, **how: object
) -> CompletedProcess[str]:
    arguments = f"ARGS={options} --reports {folder}"
    return debian.run("make", "investigate", arguments, **how)  # type: ignore[arg-type]


def test_with_its_own_python_alone_it_says_what_is_missing_and_how_to_get_it(
    debian: DebianRoot, home: str
) -> None:
    done = investigate(debian, SHORT, home, home=home, env=NOTHING_FETCHED)
    assert done.returncode != 0
    assert "no Python on this machine with a shared libpython of version 3.11" in done.stderr
    assert "`uv python install 3.11`" in done.stderr
    assert "package libpython3.11" not in done.stderr, "which Debian 13 does not have"
    assert "python -m kit doctor" in done.stderr
    told = debian.run(".venv/bin/kit", "doctor", "--json", home=home)
    checks = {check["topic"]: check for check in json.loads(told.stdout)}
    assert "numpy before 2.0" in checks["Python 3.13"]["hint"]
    assert checks["Python of the kit"]["state"] == "ok"


def test_with_a_python_3_12_it_runs_what_has_a_stub_for_it_and_says_what_it_left_out(
    debian: DebianRoot, home: str
) -> None:
    python = this_python("3.12")
    share_wheels(debian, home, ["24.05", "24.10"], python)
    # 24.05 lives through all of them; 24.10 has died after 1 to 41.
    done = investigate(
        debian,
        SHORT.replace("1000", "300"),
        home,
        home=home,
        env=NOTHING_FETCHED,
        shared=[python.home],
        path=[python.home / "bin"],
    )
    assert done.returncode == 0, done.stderr
    assert "23.10 is left out: no Python on this machine" in done.stderr
    assert "running 24.05, 24.08 and 24.10" in done.stderr
    report = (debian.folder / home.lstrip("/") / "latest.html").read_text("utf-8")
    assert "23.10 was left out" in report
    assert "SIGSEGV" in done.stdout


def test_with_a_python_3_11_fetched_from_a_mirror_every_release_runs(
    debian: DebianRoot, home: str, tmp_path: Path
) -> None:
    python = this_python("3.11")
    pack_python(python, tmp_path / "mirror" / ARCHIVE)
    share_wheels(debian, home, ["23.10"], python)
    how = {"home": home, "shared": [tmp_path], "env": list_downloads(tmp_path, "3.11")}
    done = investigate(debian, f"{SHORT} --release 23.10", home, **how)
    assert done.returncode == 0, done.stderr
    assert "fetching Python 3.11" in done.stderr
    assert "SIGSEGV" in done.stdout
    pure = "tests/servers/test_python.py tests/servers/test_doctor.py"
    tested = debian.run(
        # The checks before the tests are the same on every machine.
        *(
            "make",
            "--assume-old=lint",
            "test",
            "PROCESSES=1",
            f"ARGS=-q -p no:cacheprovider {pure}",
        ),
        home=home,
        env=NOTHING_FETCHED,
    )
    assert tested.returncode == 0, tested.stdout


def test_where_uv_gets_none_debians_own_archive_has_one(
    debian: DebianRoot, home: str, tmp_path: Path
) -> None:
    fetch = "import sys; from kit.servers.python_fetch import fetch_python; fetch_python('3.11')"
    nowhere = {"UV_PYTHON_INSTALL_MIRROR": tmp_path.as_uri()}
    done = debian.run(".venv/bin/python", "-c", fetch, home=home, env=nowhere)
    assert done.returncode == 0, done.stderr
    assert "fetching that of bookworm" in done.stderr
    told = debian.run(".venv/bin/kit", "releases", "--json", home=home)
    lacking = {row["release"]: row["lacks_here"] for row in json.loads(told.stdout)}
    assert lacking["23.10"] is lacking["24.10"] is None
