"""Fetch a Python with a shared library for the servers, where this machine has none that fits.

`uv`, which comes with the kit, knows where such Pythons lie and checks their hashes. Where it gets
none, a Debian or Ubuntu has one in its own package archive (kit.servers.python_apt). uv's own
settings name other places: UV_PYTHON_INSTALL_MIRROR (a folder's file:// address, or a server's),
UV_PYTHON_DOWNLOADS_JSON_URL (a list of Pythons of one's own), UV_PYTHON_DOWNLOADS=never.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from kit.errors import DownloadError
from kit.servers.cache import cached, is_whole_entry
from kit.servers.program import run_program, uv
from kit.servers.python_apt import python_archive, unpack_python

_TIMEOUT_S = 600.0


def fetched_python(version: str) -> Path | None:
    """The interpreter of that version that was fetched before; None: none was."""
    entry = _entry(version)
    return _executable(folder, version) if (folder := is_whole_entry(entry)) else None


def fetch_python(version: str, say: Callable[[str], None] | None = None) -> Path:
    """The interpreter of that version ("3.11") in the kit's cache, fetched if it is not there.

    say: told what is fetched and why, before it is; None: standard error.

    Raises:
        DownloadError: uv is missing, or did not get one, nor did apt-get; says what they said.
        StoreError: the cache cannot be written.
    """
    failure = _failures().get(version)
    if failure is not None:
        raise failure  # each release would ask again, and wait for the network each time

    say = say or _to_stderr

    def fill(folder: Path) -> None:
        say(
            f"fetching Python {version} (about 30 MB, once) into the kit's cache: the servers' "
            "models run in a Python with a shared library, and this machine has none that fits"
        )
        try:
            _install(version, folder)
        except DownloadError as error:
            _instead(version, folder, error, say)

    try:
        return _executable(cached(_entry(version), fill), version)
    except DownloadError as error:
        _failures()[version] = error
        raise


def _instead(version: str, folder: Path, error: DownloadError, say: Callable[[str], None]) -> None:
    """Have apt-get bring what uv did not, if this machine's archive has that version."""
    archive = python_archive()
    if archive is None or archive.python != version or not _may_download():
        raise error
    say(f"uv did not get it; fetching that of {archive.suite} (7 MB) with this machine's apt-get")
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    try:
        unpack_python(archive, folder / f"cpython-{version}.{archive.suite}")
    except DownloadError as second:
        raise DownloadError(
            f"{error.given}; {second.given}", error.expected, error.hint
        ) from second


def _may_download() -> bool:
    return os.environ.get("UV_PYTHON_DOWNLOADS") != "never" and not os.environ.get("UV_OFFLINE")


def fetch_archive(version: str, architecture: str, into: Path, scratch: Path) -> None:
    """Have uv keep in the folder `into` the archive of that Python for a machine like that.

    scratch: a folder in which it is unpacked, which shows that it is whole.

    Raises:
        DownloadError: as for `fetch_python`.
    """
    request = f"cpython-{version}-linux-{architecture}-gnu"
    _install(version, scratch, request=request, settings={"UV_PYTHON_CACHE_DIR": str(into)})


def unpack_archive(version: str, archives: Path) -> Path:
    """The interpreter of that version in the kit's cache, from the archive that `fetch_archive`
    has kept in the folder `archives`; nothing is fetched. uv compares the hash with its own list.

    Raises:
        DownloadError, StoreError: as for `fetch_python`.
    """

    def fill(folder: Path) -> None:
        _install(
            version,
            folder,
            settings={"UV_PYTHON_CACHE_DIR": str(archives), "UV_OFFLINE": "1"},
        )

    return _executable(cached(_entry(version), fill), version)


def _install(
    version: str, folder: Path, *, request: str = "", settings: Mapping[str, str] | None = None
) -> None:
    command = [uv(), "python", "install", "--no-bin", "--no-config", request or version]
    own = {
        "UV_HTTP_TIMEOUT": os.environ.get("UV_HTTP_TIMEOUT", "20"),
        **(settings or {}),
        "UV_PYTHON_INSTALL_DIR": str(folder),
        "UV_NO_PROGRESS": "1",
    }
    try:
        said = run_program(command, own, cwd=folder, timeout_s=_TIMEOUT_S).stderr
        if "peer certificate" in said:  # a proxy with one of its own, which the system knows
            own |= {"UV_SYSTEM_CERTS": "1", "UV_NATIVE_TLS": "1"}  # as newer and older uv call it
            said = run_program(command, own, cwd=folder, timeout_s=_TIMEOUT_S).stderr
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _failed(version, str(error)) from error
    try:
        _executable(folder, version)
    except DownloadError:
        raise _failed(version, said) from None
    for path in folder.iterdir():
        if not path.name.startswith("cpython-"):  # uv's notes, a link to a folder's old name
            path.unlink() if path.is_symlink() or path.is_file() else None


def _executable(folder: Path, version: str) -> Path:
    for path in sorted(folder.glob(f"cpython-{version}.*/bin/python{version}")):
        if not path.parents[1].is_symlink():
            return path
    raise _failed(version, f"no bin/python{version} came")


def _entry(version: str) -> str:
    return f"pythons/{version}-{platform.machine().lower()}"


@cache
def _failures() -> dict[str, DownloadError]:
    """What went wrong in this process, by version."""
    return {}


def _failed(version: str, said: str) -> DownloadError:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return DownloadError(
        f"Python {version}, which uv did not get: {' '.join(lines[-3:]) or 'it gave no reason'}",
        "a network that reaches uv's downloads, or a mirror",
        "name a mirror or a folder with those archives in UV_PYTHON_INSTALL_MIRROR "
        "(https:// or file://), or install a Python with a shared library, or carry one over: "
        "`kit bundle --with-python` on a machine with a network, `kit unbundle` here",
    )


def _to_stderr(text: str) -> None:
    sys.stderr.write(f"{text}\n")
