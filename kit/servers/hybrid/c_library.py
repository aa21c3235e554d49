"""A newer C library than this machine's, beside it, for the frontends of hybrid servers.

They want glibc 2.39. Debian 12 and Ubuntu 22.04 have an older one, but their `apt-get` can fetch
the next release's as a package, with its signature checked, and its own loader starts a program
with it: no root, no container, and nothing of the system is changed.
"""

from __future__ import annotations

import getpass
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kit.errors import DownloadError, UnsupportedPlatformError
from kit.servers.cache import cached, is_whole_entry
from kit.servers.platform import libc_here
from kit.servers.program import run_program
from kit.servers.wheels import STUB

#: What is fetched: the C library with its loader, and the C++ runtime that frontends want.
PACKAGES: Final = ("libc6", "libstdc++6", "libgcc-s1")
#: By what /etc/os-release calls the system: the release to fetch from, and its keys.
_SUITES: Final = {
    "debian": ("trixie", Path("/usr/share/keyrings/debian-archive-keyring.gpg")),
    "ubuntu": ("noble", Path("/usr/share/keyrings/ubuntu-archive-keyring.gpg")),
}
_PROGRAMS: Final = ("apt-get", "dpkg-deb")
_LOADER: Final = "ld-linux-x86-64.so.2"
_FOLDER: Final = "usr/lib/x86_64-linux-gnu"
_TIMEOUT_S: Final = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CLibrary:
    """A C library in a folder of the kit's cache, with the loader that starts programs with it."""

    folder: Path

    def start(
        self, program: Path, libraries: Iterable[Path], *, as_name: str | None = None
    ) -> list[str]:
        """The beginning of a command line that starts a program with this C library.

        libraries: further folders, which only this program looks in, not what it starts.
        as_name: a name of the loader, for the program to be called in lists of processes.
        """
        folders = os.pathsep.join(map(str, (self.folder, *libraries)))
        return [str(self.folder / (as_name or _LOADER)), "--library-path", folders, str(program)]


def is_new_enough(needed: tuple[int, int], libc: str | None = None) -> bool:
    """Whether this machine's glibc will do; libc: "glibc 2.36" in its place."""
    found = re.fullmatch(r"glibc (\d+)\.(\d+).*", libc_here() if libc is None else libc)
    return found is not None and (int(found[1]), int(found[2])) >= needed


def why_no_newer(system: Mapping[str, str] | None = None) -> str | None:
    """What this machine lacks to have a newer C library beside its own; None: nothing.

    system: /etc/os-release, in place of this machine's.
    """
    if is_whole_entry(_entry()):
        return None
    suite = _suite(system)
    if suite is None:
        return "Debian's or Ubuntu's packages"
    missing = [name for name in _PROGRAMS if shutil.which(name) is None]
    if missing:
        return " and ".join(missing)
    return None if suite[1].exists() else str(suite[1])


def newer_c_library(needed: tuple[int, int]) -> CLibrary:
    """The C library of the next Debian or Ubuntu, fetched into the kit's cache if need be.

    Raises:
        UnsupportedPlatformError: this machine cannot have one; names what it lacks.
        DownloadError: `apt-get` did not get it; says what it said.
        StoreError: the cache cannot be written.
    """
    lacks = why_no_newer()
    if lacks is not None:
        wanted = f"{needed[0]}.{needed[1]}"
        raise UnsupportedPlatformError(
            f"{libc_here() or 'a C library other than glibc'}, and no {lacks} to fetch a newer one",
            f"glibc {wanted} or later (Debian 13 and Ubuntu 24.04 have it), or a Debian or Ubuntu "
            f"whose apt-get can fetch it",
            f"run it on such a machine, or in a container of it ({_HINT})",
        )
    return CLibrary(folder=cached(_entry(), _fill))


_HINT: Final = "`make image` builds one of the kit"


def _fill(folder: Path) -> None:
    suite = _suite()
    assert suite is not None, "asked before"
    name, keys = suite
    scratch = folder / "apt"
    for part in ("lists/partial", "archives/partial", "debs", "unpacked"):
        (scratch / part).mkdir(parents=True)
    sources = scratch / "sources.list"
    options = [
        *("-o", f"Dir::Etc::SourceList={sources}", "-o", "Dir::Etc::SourceParts=/dev/null"),
        *("-o", f"Dir::State::Lists={scratch / 'lists'}", "-o", "Dir::State::status=/dev/null"),
        *("-o", f"Dir::Cache={scratch}", "-o", f"Dir::Cache::archives={scratch / 'archives'}"),
        *("-o", "Acquire::Languages=none", "-o", f"APT::Sandbox::User={getpass.getuser()}"),
        *("-o", "Acquire::Retries=2", "-qq"),
    ]
    sources.write_text(f"deb [signed-by={keys}] {_mirror()} {name} main\n")
    _run(["apt-get", *options, "update"], scratch)
    _run(["apt-get", *options, "download", *PACKAGES], scratch / "debs")
    for package in sorted((scratch / "debs").glob("*.deb")):
        _run(["dpkg-deb", "--extract", str(package), str(scratch / "unpacked")], scratch)
    for path in (scratch / "unpacked" / _FOLDER).iterdir():
        if path.is_symlink() or path.is_file():
            path.rename(folder / path.name)
    shutil.rmtree(scratch)
    (folder / STUB).symlink_to(_LOADER)
    if not (folder / _LOADER).exists():
        raise _failed(f"the packages of {name} hold no {_LOADER}")


def _mirror() -> str:
    """Where this machine fetches its own packages from."""
    said = _run(["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"])
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


def _suite(system: Mapping[str, str] | None = None) -> tuple[str, Path] | None:
    try:
        told = platform.freedesktop_os_release() if system is None else system
    except OSError:
        return None
    return _SUITES.get(told.get("ID", ""))


def _entry() -> str:
    return f"libc/glibc-{platform.machine().lower()}"


def _failed(said: str) -> DownloadError:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return DownloadError(
        "a newer C library, which apt-get did not get: "
        + (" ".join(lines[-3:]) or "it gave no reason"),
        "this machine's own package archive, which has the next release of the system as well",
        "connect this machine to it once (everything is offline afterwards), or run this on "
        "Debian 13 or Ubuntu 24.04, which need none",
    )
