"""Fetches a Python with a shared library from the archive of an older Debian or Ubuntu.

Where uv's downloads are out of reach, a Debian or Ubuntu still reaches the archive of its own
packages, which has the release before it as well. `apt-get` compares the signature with the keys
of the system; what it brings is unpacked into the kit's cache and nothing is installed: no root.
"""

from __future__ import annotations

import getpass
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kit.errors import DownloadError
from kit.servers.program import run_program

_PROGRAMS: Final = ("apt-get", "dpkg-deb")
_TIMEOUT_S: Final = 300.0
#: The interpreter, its shared library and its standard library; `{}` is the version.
_PACKAGES: Final = (
    "python{}-minimal",
    "libpython{}",
    "libpython{}-minimal",
    "libpython{}-stdlib",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """A release of a system whose Python fits the servers, and the keys that it is signed with."""

    suite: str
    python: str  # "3.11"
    keys: Path


#: By what /etc/os-release calls the system. Debian's 3.11 and Ubuntu's 3.10 fit all servers from
#: 23.07 on; what newer releases of the two bring fits few or none.
_ARCHIVES: Final = {
    "debian": Archive(
        suite="bookworm",
        python="3.11",
        keys=Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
    ),
    "ubuntu": Archive(
        suite="jammy",
        python="3.10",
        keys=Path("/usr/share/keyrings/ubuntu-archive-keyring.gpg"),
    ),
}


def python_archive(system: Mapping[str, str] | None = None) -> Archive | None:
    """The archive that this machine's apt-get can fetch a Python from; None: there is none.

    system: /etc/os-release, in place of this machine's.
    """
    try:
        described = platform.freedesktop_os_release() if system is None else system
    except OSError:
        return None
    archive = _ARCHIVES.get(described.get("ID", ""))
    if archive is None or not archive.keys.exists():
        return None
    return archive if all(shutil.which(program) for program in _PROGRAMS) else None


def unpack_python(archive: Archive, folder: Path) -> None:
    """Put that Python into `folder`, with bin/ and lib/ as its interpreter expects them.

    Raises:
        DownloadError: `apt-get` did not get it; says what it said.
    """
    scratch = folder.with_name(f"{folder.name}-apt")
    for part in ("lists/partial", "archives/partial", "debs", "unpacked"):
        (scratch / part).mkdir(parents=True)
    sources = scratch / "sources.list"
    sources.write_text(f"deb [signed-by={archive.keys}] {system_mirror()} {archive.suite} main\n")
    options = [
        *("-o", f"Dir::Etc::SourceList={sources}", "-o", "Dir::Etc::SourceParts=/dev/null"),
        *("-o", f"Dir::State::Lists={scratch / 'lists'}", "-o", "Dir::State::status=/dev/null"),
        *("-o", f"Dir::Cache={scratch}", "-o", f"Dir::Cache::archives={scratch / 'archives'}"),
        *("-o", "Acquire::Languages=none", "-o", f"APT::Sandbox::User={getpass.getuser()}"),
        *("-o", "Acquire::Retries=2", "-o", "Acquire::http::Timeout=20", "-qq"),
    ]
    packages = [name.format(archive.python) for name in _PACKAGES]
    _run(["apt-get", *options, "update"], scratch)
    _run(["apt-get", *options, "download", *packages], scratch / "debs")
    for package in sorted((scratch / "debs").glob("*.deb")):
        _run(["dpkg-deb", "--extract", str(package), str(scratch / "unpacked")], scratch)
    (scratch / "unpacked/usr").rename(folder)
    shutil.rmtree(scratch)
    _put_right(folder, archive.python)


def _put_right(folder: Path, version: str) -> None:
    """The library also where an interpreter that was moved looks for it; no link to outside."""
    name = f"libpython{version}.so.1.0"
    for library in sorted((folder / "lib").glob(f"*/{name}")):
        (folder / "lib" / name).symlink_to(library.relative_to(folder / "lib"))
        break
    for path in (folder / f"lib/python{version}").iterdir():
        if path.is_symlink() and not path.exists():
            path.unlink()  # Debian's own sitecustomize, of /etc


def system_mirror() -> str:
    """Where this machine fetches its own packages from."""
    # Without the release info also what was never fetched, as in a fresh container; archives of
    # others for the same system (Docker's) have no component of that name.
    options = ("--no-release-info", "--format", "$(REPO_URI)")
    said = _run(["apt-get", "indextargets", *options, "Created-By: Packages", "Component: main"])
    found = [line.strip() for line in said.splitlines() if line.strip()]
    plain = [uri for uri in found if "security" not in uri and re.search("debian|ubuntu", uri)]
    if not plain:
        raise _failed("apt's sources name no archive of Debian or Ubuntu")
    return plain[0]


def _run(command: list[str], where: Path | None = None) -> str:
    try:
        done = run_program(command, {"LC_ALL": "C"}, cwd=where, timeout_s=_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _failed(str(error)) from error
    if done.returncode != 0:
        raise _failed(done.stderr or done.stdout)
    return done.stdout


def _failed(said: str) -> DownloadError:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return DownloadError(
        f"a Python, which apt-get did not get: {' '.join(lines[-2:]) or 'it gave no reason'}",
        "this machine's own package archive, which has the release before it as well",
        "connect this machine to it once; everything is offline afterwards",
    )
