"""Finds the Python that a server's models run in.

Triton's Python stub is linked against libpython and embeds it; `kit.servers.environment` gives
that interpreter its standard library and its packages.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from kit.errors import DownloadError, LibpythonMissingError
from kit.servers.python_apt import python_archive
from kit.servers.python_fetch import fetch_python, fetched_python
from kit.servers.python_probe import ask

#: Tried in this order after the running interpreter's version: what the stubs are best tested on.
PREFERRED = ("3.11", "3.10", "3.12", "3.9", "3.8")

_LIBPYTHON = re.compile(r"libpython(3\.\d+)\.so\.1\.0")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerPython:
    """The interpreter inside a server's Python stub. Make one for a virtual environment, such as
    vLLM's, with `python_at`."""

    version: str  # "3.11"
    home: Path  # prefix with lib/python3.11
    libpython: Path | None  # None: only of use to a stub that brings its own
    executable: Path | None = None  # what models start as sys.executable; None: nothing
    paths: tuple[Path, ...] = ()  # first on sys.path
    packages: tuple[Path, ...] = ()  # site-packages folders, after the kit's numpy
    own_numpy: bool = False  # `packages` have a numpy that is to be used instead of the kit's
    libraries: tuple[Path, ...] = ()  # folders where the linker is to look as well, last


def python_at(
    executable: Path, *, paths: tuple[Path, ...] = (), own_numpy: bool = False
) -> ServerPython:
    """The Python that `executable` starts, with the packages of its environment.

    Raises:
        LibpythonMissingError: it cannot be run, or has no shared libpython.
    """
    python = _ask(executable, with_packages=True)
    if python is None or python.libpython is None:
        version = python.version if python else "3.11"
        raise LibpythonMissingError(
            f"{executable}, which "
            + ("has no shared libpython" if python else "cannot be run as Python 3"),
            "a Python built with a shared library",
            ways_to_get(version),
        )
    return replace(python, paths=paths, own_numpy=own_numpy)


def choose_python(
    stubs: Iterable[str],
    *,
    brings_libpython: bool = False,
    known: Iterable[ServerPython] = (),
    fetch: bool = False,
) -> ServerPython:
    """A Python of this machine that one of `stubs` fits: the running one if possible.

    `known` is tried first, then what is found; a stub with its own libpython needs only the
    standard library of its version. fetch: get one if there is none.

    Raises:
        LibpythonMissingError: there is none; says which package brings it.
    """
    wanted = list(stubs)
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    order = sorted(wanted, key=lambda v: (v != running, _rank(v)))
    for candidate in (*known, *_candidates(order)):
        if candidate.version in wanted and (candidate.libpython or brings_libpython):
            return candidate
    best = next((version for version in PREFERRED if version in wanted), running)
    why_not = ""
    archive = python_archive() if fetch else None
    offered = [best, *([archive.python] if archive else [])]
    for version in [v for v in dict.fromkeys(offered) if fetch and v in wanted]:
        try:
            found = _ask(fetch_python(version))
        except DownloadError as error:
            why_not += f"; {error.given}"
        else:
            if found is not None and (found.libpython or brings_libpython):
                return found
            why_not += f"; the Python {version} that was fetched does not run here"
    what = "the standard library" if brings_libpython else "a shared libpython"
    raise LibpythonMissingError(
        f"no Python on this machine with {what} of version {' or '.join(order)}" + why_not,
        f"{best}'s standard library (lib/python{best})"
        if brings_libpython
        else f"libpython{best}.so.1.0 and its standard library",
        ways_to_get(best, brings_libpython=brings_libpython),
    )


def pythons_here() -> list[ServerPython]:
    """Every Python of this machine that the kit can find, each once, for people to read."""
    found: dict[tuple[object, ...], ServerPython] = {}
    for python in _candidates([f"3.{minor}" for minor in range(8, 15)]):
        found.setdefault((python.version, python.home.resolve(), python.libpython), python)
    return list(found.values())


def running_python() -> ServerPython | None:
    """The interpreter that runs this, without the packages of its virtual environment."""
    import find_libpython

    found = find_libpython.find_libpython()
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    home = Path(sys.base_prefix)
    executable = home / "bin" / f"python{version}"
    if not found or not _LIBPYTHON.fullmatch(Path(found).resolve().name):
        return None
    return ServerPython(
        version=version,
        home=home,
        libpython=Path(found).resolve(),
        executable=executable if executable.exists() else None,
    )


def _candidates(versions: list[str]) -> Iterator[ServerPython]:
    """Pythons of this machine: the running one, then by version; found as they are asked for."""
    running = running_python()
    if running is not None:
        yield running
    for version in versions:
        for executable in (*_executables(version), *filter(None, [fetched_python(version)])):
            python = _ask(executable)
            if python is not None and python.version == version:
                yield python
        yield from _libraries(version)


def _executables(version: str) -> Iterator[Path]:
    """Where interpreters of a version lie: the PATH, then pyenv, uv and conda."""
    home = Path.home()
    name = f"python{version}"
    folders = [Path(folder) for folder in os.get_exec_path() if "shims" not in folder]
    pyenv = Path(os.environ.get("PYENV_ROOT") or home / ".pyenv")
    uv = Path(os.environ.get("UV_PYTHON_INSTALL_DIR") or home / ".local/share/uv/python")
    folders += sorted(pyenv.glob(f"versions/{version}*/bin"), reverse=True)
    folders += sorted(uv.glob(f"*-{version}*/bin"), reverse=True)
    conda = [
        home / d for d in ("miniconda3", "anaconda3", "miniforge3", "mambaforge", "micromamba")
    ]
    conda += [Path("/opt/conda"), Path(os.environ.get("MAMBA_ROOT_PREFIX") or home / "mamba")]
    if os.environ.get("CONDA_EXE"):
        conda.append(Path(os.environ["CONDA_EXE"]).parent.parent)
    for root in conda:
        folders += [root / "bin", *sorted(root.glob("envs/*/bin"))]
    folders += [Path("/usr/local/bin"), Path("/usr/bin")]
    seen: set[Path] = set()
    for folder in folders:
        executable = folder / name
        if executable.exists() and executable.resolve() not in seen:
            seen.add(executable.resolve())
            yield executable


def _libraries(version: str) -> Iterator[ServerPython]:
    """Libraries without their interpreter, as Debian's libpython3.X package brings them."""
    multiarch = f"{os.uname().machine}-linux-gnu"
    for prefix in (Path("/usr"), Path("/usr/local")):
        for folder in (f"lib/{multiarch}", "lib64", "lib"):
            library = prefix / folder / f"libpython{version}.so.1.0"
            if library.exists() and (prefix / f"lib/python{version}/os.py").exists():
                yield ServerPython(version=version, home=prefix, libpython=library)


def _ask(executable: Path, *, with_packages: bool = False) -> ServerPython | None:
    """What the interpreter says of itself; None if it does not answer as a Python should.

    Without `with_packages` only its standard library is asked for, not its environment.
    """
    facts = ask(executable, with_packages=with_packages)
    if facts is None:
        return None
    library = facts.libpython()
    return ServerPython(
        version=facts.version,
        home=Path(facts.prefix),
        libpython=library if library and _LIBPYTHON.fullmatch(library.name) else None,
        executable=executable,
        packages=tuple(Path(path) for path in facts.packages),
    )


def _rank(version: str) -> int:
    return PREFERRED.index(version) if version in PREFERRED else len(PREFERRED)


def ways_to_get(
    version: str, *, brings_libpython: bool = False, system: Mapping[str, str] | None = None
) -> str:
    """How a person gets such a Python, for a hint.

    brings_libpython: the stub has a libpython of its own, so any Python of that version will do.
    system: /etc/os-release, in place of this machine's.
    """
    ways = [
        *_packages_with(version, system),
        f"`conda create -n python{version} python={version}`",
        f"`uv python install {version}`",
        f"`pyenv install {version}`"
        if brings_libpython
        else f"`PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install {version}`",
    ]
    return f"{', '.join(ways[:-1])}, or {ways[-1]}"


#: The Pythons with a shared library that a system's own packages bring.
_PACKAGED: Final = {
    ("debian", "12"): ("3.11",),
    ("debian", "13"): ("3.13",),
    ("ubuntu", "22.04"): ("3.10", "3.11"),
    ("ubuntu", "24.04"): ("3.12",),
}


def _packages_with(version: str, system: Mapping[str, str] | None) -> list[str]:
    """What to install from the system's own packages, where it is known to have that."""
    try:
        described = platform.freedesktop_os_release() if system is None else system
    except OSError:
        described = {}
    name = described.get("ID", ""), described.get("VERSION_ID", "")
    if name in _PACKAGED:
        return [f"install the package libpython{version}"] if version in _PACKAGED[name] else []
    if name[0] == "fedora":
        return [f"install the package python{version}"]
    return [f"install Debian's or Ubuntu's package libpython{version}, Fedora's python{version}"]
