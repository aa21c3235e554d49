"""Downloads a wheel of the catalog with pip, and checks its hash."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from kit.errors import DownloadError, HashMismatchError
from kit.servers.cache import cache_root, file_sha256
from kit.servers.program import run_program
from kit.study.releases import Wheel

#: No wheel of the catalog has more; an index that sends without an end is cut off there.
MOST_BYTES = 1_000_000_000
#: pip gives up on silence, but not on an index that sends a byte now and then.
MOST_S = 3600.0
#: pip, by an interpreter that writes no larger file: sys.argv[1] is the limit in bytes.
_LIMITED_PIP = """
import runpy, sys
try:
    import resource
except ImportError:  # Windows
    sys.argv.pop(1)
else:
    most = int(sys.argv.pop(1))
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    sys.dont_write_bytecode = True  # it would be written short, without a word
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""


def fetch(wheel: Wheel, architecture: str, into: Path) -> Path:
    """Download the wheel's file into the folder `into` with the pip of this interpreter.

    Raises:
        DownloadError: pip is missing, finds no network, or no such file; or the index sends more
            than MOST_BYTES, or takes longer than MOST_S.
        HashMismatchError: the file is not the one that the catalog names; it was removed.
    """
    command = [sys.executable, "-c", _LIMITED_PIP, str(MOST_BYTES), "download"]
    command += [*_arguments(wheel, architecture), "--dest", str(into)]
    # pip's own scratch goes to `into`, too, and so is gone even if pip is killed.
    scratch = {"TMPDIR": str(into)}
    try:
        done = run_program(
            [*command, f"{wheel.package}=={wheel.version}"], scratch, timeout_s=MOST_S
        )
    except subprocess.TimeoutExpired:
        raise _failed(wheel, f"ERROR: it took longer than {MOST_S / 60:.0f} minutes") from None
    path = into / wheel.filename[architecture]
    if done.returncode != 0 or not path.exists():
        raise _failed(wheel, done.stderr or done.stdout)
    found = file_sha256(path)
    if found != wheel.sha256[architecture]:
        size = path.stat().st_size
        path.unlink()
        raise HashMismatchError(
            f"{path.name} with SHA-256 {found} ({size} bytes), which was removed",
            f"SHA-256 {wheel.sha256[architecture]}",
            "look at which package index or folder pip is configured to use "
            "(`python -m pip config list`), then try again",
        )
    return path


def _arguments(wheel: Wheel, architecture: str) -> list[str]:
    _, _, python_tag, _, platforms = wheel.filename[architecture].removesuffix(".whl").split("-")
    # A wheel for any Python 3 is unpacked, not installed: which Python asks does not matter.
    python = "3.10" if python_tag == "py3" else wheel.python[0]
    return [
        "--quiet",
        "--no-input",
        "--disable-pip-version-check",
        "--no-deps",
        "--only-binary=:all:",
        "--ignore-requires-python",
        "--no-cache-dir",  # the kit's cache keeps it; and a bad file must not come back from pip's
        "--retries=2",
        f"--python-version={python}",
        *(f"--platform={platform}" for platform in platforms.split(".")),
    ]


def _failed(wheel: Wheel, output: str) -> DownloadError:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:") or "No module named" in line]
    if errors == ["ERROR: Exception:"]:  # a traceback of pip's, of which the end says why
        errors = lines[-1:]
    hint = (
        "connect this machine to a package index once (everything is offline afterwards), or "
        "carry it over from a machine that has one: `kit bundle` there, `kit unbundle` here"
    )
    if any("No module named pip" in line for line in lines):
        hint = f"install pip: `{Path(sys.executable).name} -m ensurepip`"
    return DownloadError(
        f"{wheel.package} {wheel.version} is not in {cache_root()} and pip did not fetch it: "
        + (" ".join(errors or lines[-2:]) or "it gave no reason"),
        "a cached copy or a package index that has this version",
        hint,
    )
