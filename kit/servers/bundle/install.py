"""Builds the kit's virtual environment out of a bundle, without a network.

Uses the standard library alone (see kit.servers.bundle.manifest): pip runs out of its own wheel.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from kit.errors import BundleError
from kit.servers.bundle.checkout import unpack_checkout
from kit.servers.bundle.content import folder_below
from kit.servers.bundle.manifest import KIT_LIST, BundledFile, Manifest
from kit.servers.bundle.progress import Say, check_space, size
from kit.study.files import MOST_LOG_BYTES, read_file, unwritable

#: Where the kit's checkout lies in the environment.
CHECKOUT: Final = ("share", "triton-crash-kit")
#: These of the caller's environment would reach into what is installed.
_KEPT_OUT: Final = ("PYTHON", "PIP_", "UV_", "VIRTUAL_ENV", "CONDA_PREFIX")


def install_kit(files: Path, manifest: Manifest, venv: Path, say: Say) -> Path:
    """Make a virtual environment with the kit and its packages; the program `kit` in it.

    files: the bundle's files, whole. venv: new, or one of an earlier try, which goes on.

    Raises:
        BundleError: the bundle has no kit, or is for another Python or processor; an installer
            failed; too little disk.
        StoreError: the disk does not take it.
    """
    pip, uv, checkout = _check(manifest)
    needed = sum(_unpacked_bytes(files / one.path) for one in _wheels(files, manifest, KIT_LIST))
    if not venv.exists():
        check_space(venv, needed + checkout.size_bytes * 4, f"the environment {venv}")
    _take(venv)
    say(f"making {venv}: {size(needed)} of packages")
    left_out = ["--system-site-packages"] if manifest.left_out else []
    _run([sys.executable, "-m", "venv", "--without-pip", *left_out, str(venv)], venv)
    python = venv / "bin" / "python"
    uv_list = _list_of(files, venv, uv)
    offline = ["--no-index", "--no-deps", "--find-links", str(files / "packages")]
    _run(
        [
            *(str(python), str(files / pip.path / "pip"), "install", "--quiet", "--no-input"),
            *("--disable-pip-version-check", "--no-warn-script-location", "--no-cache-dir"),
            *(*offline, "--require-hashes", "--requirement", str(uv_list)),
        ],
        venv,
    )
    uv_list.unlink()
    with_uv = [str(venv / "bin" / "uv"), "pip", "install", "--python", str(python), *offline]
    _run([*with_uv, "--require-hashes", "--requirement", str(files / KIT_LIST)], venv)
    source = folder_below(venv, CHECKOUT)
    say(f"unpacking the kit {manifest.kit} to {source}")
    unpack_checkout(read_file(files / checkout.path, within=files, limit=MOST_LOG_BYTES), source)
    _run([*with_uv, "--no-build-isolation", "--editable", str(source)], venv)
    shutil.rmtree(venv / _UV_CACHE, ignore_errors=True)
    return venv / "bin" / "kit"


_UV_CACHE: Final = ".uv-cache"
_MARK: Final = ".triton-crash-kit"


def commands(manifest: Manifest, files: Path, uv: str = "uv") -> list[str]:
    """How a person makes an environment with each vLLM for CUDA of the bundle.

    uv: the program, as a shell takes it.
    """
    lines = []
    for vllm in manifest.vllm:
        if vllm.device == "cuda":
            venv = f"vllm-{vllm.version}"
            site = " --system-site-packages" if manifest.left_out else ""
            lines += [
                f"{uv} venv --offline --python {manifest.python}{site} {venv}",
                f"{uv} pip install --offline --python {venv}/bin/python --no-index --no-deps "
                f"--require-hashes --find-links {shlex.quote(str(files / 'packages'))} "
                f"--requirement {shlex.quote(str(files / vllm.list_path))}",
            ]
    return lines


def _check(manifest: Manifest) -> tuple[BundledFile, BundledFile, BundledFile]:
    """The wheels of pip and uv, and the checkout, of a bundle that fits this machine."""
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if here != manifest.python:
        raise BundleError(
            f"a bundle with packages for Python {manifest.python}, while this is Python {here}",
            f"Python {manifest.python}",
            f"run it with python{manifest.python}, or make the bundle with --python {here}",
        )
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(
        platform.machine().lower(), platform.machine().lower()
    )
    if not manifest.platform.endswith(f"_{machine}"):
        raise BundleError(
            f"a bundle with packages for {manifest.platform}, while this is {machine}",
            f"a platform of {machine}",
            "make the bundle with --platform for this machine",
        )
    wheels = manifest.in_room("packages")
    pip = next((one for one in wheels if one.name.startswith("pip-")), None)
    uv = next((one for one in wheels if one.name.startswith("uv-")), None)
    checkout = next(iter(manifest.in_room("kit")), None)
    if pip is None or uv is None or checkout is None or not manifest.has(KIT_LIST):
        raise BundleError(
            "a bundle without the kit",
            "a checkout, pip, uv and the kit's other packages in it",
            "make the bundle without --no-kit",
        )
    return pip, uv, checkout


def _take(venv: Path) -> None:
    """Make the environment's folder and mark it as the kit's; an earlier one goes on.

    Raises:
        BundleError: it has somebody else's files in it.
    """
    try:
        venv.mkdir(parents=True, exist_ok=True)
        if any(venv.iterdir()) and not (venv / _MARK).is_file():
            raise BundleError(
                f"{venv}, which has other files in it",
                "a new folder, or an environment that the kit made from a bundle",
                "name another one",
            )
        (venv / _MARK).write_text("The Triton crash kit made this environment from a bundle.\n")
    except OSError as error:
        raise unwritable(venv, error) from error


def _wheels(files: Path, manifest: Manifest, list_path: str) -> list[BundledFile]:
    """The wheels of one list, told by their hashes."""
    text = read_file(files / list_path, within=files).decode(errors="replace")
    hashes = set(re.findall(r"--hash=sha256:([0-9a-f]{64})", text))
    return [one for one in manifest.in_room("packages") if one.sha256 in hashes]


def _list_of(files: Path, venv: Path, wheel: BundledFile) -> Path:
    """A list of one package for pip."""
    version = wheel.name.split("-")[1]
    path = folder_below(venv, []) / "uv.txt"
    try:
        path.write_text(f"uv=={version} --hash=sha256:{wheel.sha256}\n")
    except OSError as error:
        raise unwritable(path, error) from error
    return path


def _unpacked_bytes(wheel: Path) -> int:
    try:
        with zipfile.ZipFile(wheel) as archive:
            return sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return 0  # the installer will say what is wrong with it


def _run(command: Sequence[str], venv: Path) -> None:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(_KEPT_OUT)}
    settings = {
        "PIP_CONFIG_FILE": os.devnull,
        "UV_NO_CONFIG": "1",
        "UV_OFFLINE": "1",
        "UV_CACHE_DIR": str(venv / _UV_CACHE),
        "PYTHONNOUSERSITE": "1",
    }
    done = subprocess.run(
        command,
        env=kept | settings,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise BundleError(
            f"{Path(command[0]).name}, which failed while {venv} was made: "
            + (" ".join(lines[-6:]) or "it gave no reason"),
            "an installer that finds all it needs in the bundle",
            "see whether this Python has its venv module and the disk has space, and run it again",
        )
