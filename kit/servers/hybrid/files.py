"""What a hybrid server needs of this machine and of the package index, and whether it is there."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

from kit.errors import LibpythonMissingError, UnsupportedPlatformError
from kit.servers.hybrid.c_library import (
    CLibrary,
    is_new_enough,
    newer_c_library,
    why_no_newer,
)
from kit.servers.python import ServerPython, choose_python, ways_to_get
from kit.servers.wheels import package_folder
from kit.study.hybrids import Hybrid

#: The one that the frontends' wheels are listed for.
_MACHINE = "x86_64"
#: Frontends up to 2.72.0 bring a library of this name that only stands in for the core's.
_STAND_IN = "tritonfrontend.libs/libtritonserver-*.so"
_NAMES = "core-names"


@dataclass(frozen=True, slots=True, kw_only=True)
class HybridFiles:
    """The unpacked packages of a hybrid, beside those of its core."""

    frontends: Path
    paths: tuple[Path, ...]  # for sys.path of its process
    python: ServerPython
    c_library: CLibrary | None  # None: this machine's own will do

    @property
    def core_names(self) -> tuple[str, ...]:
        """File names under which the core's library is looked for."""
        own = sorted(path.name for path in (self.frontends / _NAMES).iterdir())
        return ("libtritonserver.so", *own)


def hybrid_files(hybrid: Hybrid) -> HybridFiles:
    """All that a hybrid needs beside its core, fetched and unpacked if the cache has it not.

    Raises:
        UnsupportedPlatformError: another processor, or no glibc that it runs with.
        LibpythonMissingError: no Python of its version.
        DownloadError, HashMismatchError, StoreError: see `kit.servers.fetch`.
    """
    _check_processor(hybrid)
    needed = hybrid.glibc(_MACHINE)
    c_library = None if is_new_enough(needed) else newer_c_library(needed)
    python = _python_for(hybrid, fetch=True)
    libc = f"glibc {needed[0]}.{needed[1]}"
    frontends = package_folder(hybrid.wheel, libc=libc, complete=_take_stand_in_away)
    others = [package_folder(one, libc=libc) for one in (hybrid.binding, *hybrid.packages)]
    return HybridFiles(
        frontends=frontends, paths=(frontends, *others), python=python, c_library=c_library
    )


def hybrid_lacks_here(hybrid: Hybrid) -> str | None:
    """What this machine lacks to run the hybrid; None: nothing. Nothing is fetched."""
    try:
        _check_processor(hybrid)
        _python_for(hybrid, fetch=False)
    except (UnsupportedPlatformError, LibpythonMissingError) as error:
        return error.expected
    needed = hybrid.glibc(_MACHINE)
    if is_new_enough(needed) or (lacks := why_no_newer()) is None:
        return None
    return f"glibc {needed[0]}.{needed[1]}, or {lacks} to fetch it"


def _check_processor(hybrid: Hybrid) -> None:
    found = {"amd64": _MACHINE}.get(platform.machine().lower(), platform.machine().lower())
    if platform.system() != "Linux" or found != _MACHINE:
        raise UnsupportedPlatformError(
            f"{platform.system()} on {found}, for which the kit lists no frontends of "
            f"{hybrid.frontends}",
            f"Linux on {_MACHINE}",
            "run it on such a machine, or that release from its image (kit.container)",
        )


def _python_for(hybrid: Hybrid, *, fetch: bool) -> ServerPython:
    """The Python that runs both the frontends and the models: with program and library."""
    python = choose_python([hybrid.python], fetch=fetch)
    if python.executable is None:
        raise LibpythonMissingError(
            f"{python.libpython} without the Python of its version",
            f"Python {hybrid.python}, which {hybrid.name} runs in",
            ways_to_get(hybrid.python),
        )
    return python


def _take_stand_in_away(root: Path) -> None:
    """So that the loader finds the core's own library under that name."""
    names = root / _NAMES
    names.mkdir()
    for path in root.glob(_STAND_IN):
        path.unlink()
        (names / path.name).touch()
