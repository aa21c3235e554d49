"""A newer C library than this machine's, beside it, for the frontends of hybrid servers.

They want glibc 2.39. Debian 12 and Ubuntu 22.04 have an older one, but their `apt-get` can fetch
the next release's as a package, with its signature checked, and its own loader starts a program
with it: no root, no container, and nothing of the system is changed.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kit.errors import DownloadError, UnsupportedPlatformError
from kit.servers.apt import KEYS, AptError, lacking_programs, unpack_packages
from kit.servers.cache import cached, is_whole_entry
from kit.servers.platform import libc_here
from kit.servers.wheels import STUB

#: What is fetched: the C library with its loader, and the C++ runtime that frontends want.
PACKAGES: Final = ("libc6", "libstdc++6", "libgcc-s1")
#: By what /etc/os-release calls the system: the release to fetch from, and its keys.
_SUITES: Final = {
    "debian": ("trixie", KEYS["debian"]),
    "ubuntu": ("noble", KEYS["ubuntu"]),
}
_LOADER: Final = "ld-linux-x86-64.so.2"
_FOLDER: Final = "usr/lib/x86_64-linux-gnu"


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
    if missing := lacking_programs():
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
    try:
        unpacked = unpack_packages(name, keys, PACKAGES, scratch)
    except AptError as error:
        raise _failed(str(error)) from error
    for path in (unpacked / _FOLDER).iterdir():
        if path.is_symlink() or path.is_file():
            path.rename(folder / path.name)
    shutil.rmtree(scratch)
    (folder / STUB).symlink_to(_LOADER)
    if not (folder / _LOADER).exists():
        raise _failed(f"the packages of {name} hold no {_LOADER}")


def _suite(system: Mapping[str, str] | None = None) -> tuple[str, Path] | None:
    try:
        told = platform.freedesktop_os_release() if system is None else system
    except OSError:
        return None
    return _SUITES.get(told.get("ID", ""))


def _entry() -> str:
    return f"libc/glibc-{platform.machine().lower()}"


def _failed(said: str) -> DownloadError:
    return DownloadError(
        f"a newer C library, which apt-get did not get: {said}",
        "this machine's own package archive, which has the next release of the system as well",
        "connect this machine to it once (everything is offline afterwards), or run this on "
        "Debian 13 or Ubuntu 24.04, which need none",
    )
