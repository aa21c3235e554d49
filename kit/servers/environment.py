"""Builds the environment and folders that a server's process needs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from kit.errors import LibpythonMissingError
from kit.servers.plain import plain
from kit.servers.python import ServerPython, choose_python
from kit.servers.wheels import ServerFiles, package_folder
from kit.study.releases import numpy_wheels

#: Of the caller's environment these would reach into the stub's Python or its libraries.
_KEPT_OUT = ("PYTHON", "LD_", "VIRTUAL_ENV", "CONDA_PREFIX", "__PYVENV")


def python_for(files: ServerFiles, given: ServerPython | None) -> ServerPython:
    """The Python to run the models in: the given one if a stub fits it, else one found here.

    Raises:
        LibpythonMissingError: no stub fits the given one, or none is found.
    """
    numpy = numpy_wheels()
    if given is None:
        return choose_python(
            [version for version in files.stubs if version in numpy],
            brings_libpython=files.brings_libpython,
            fetch=True,
        )
    if given.version not in files.stubs:
        raise LibpythonMissingError(
            f"a server Python {given.version}, for which this release has no stub",
            " or ".join(files.stubs),
            "make the environment with one of those versions",
        )
    if given.libpython is None and not files.brings_libpython:
        raise LibpythonMissingError(
            f"a server Python {given.version} without a shared library",
            f"libpython{given.version}.so.1.0",
            "take a Python built with a shared library (see kit.servers.python.python_at)",
        )
    return given


def numpy_folder(python: ServerPython) -> Path | None:
    """The folder with the numpy that stubs can use, fetched if need be; None: it has its own.

    Raises:
        LibpythonMissingError: there is no such numpy for this Python.
        and as `kit.servers.wheels.package_folder`.
    """
    if python.own_numpy:
        return None
    wheels = numpy_wheels()
    if python.version not in wheels:
        raise LibpythonMissingError(
            f"a server Python {python.version}, for which there is no numpy before 2.0",
            " or ".join(wheels),
            "use one of those versions; numpy 2 kills Triton's Python stub on BYTES inputs",
        )
    return package_folder(wheels[python.version])


def server_environment(
    files: ServerFiles,
    python: ServerPython,
    numpy: Path | None,
    folder: Path,
    extra: Mapping[str, str],
) -> dict[str, str]:
    """The environment of the server's process; `folder` is the run's, for links and settings."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(_KEPT_OUT)}
    libraries = [str(plain(files.libraries, folder / "links", "libraries"))]
    if python.libpython is not None and not files.brings_libpython:
        # A folder with this one library: beside it may lie others (conda's) that do not fit.
        links = folder / "lib"
        links.mkdir()
        (links / f"libpython{python.version}.so.1.0").symlink_to(python.libpython)
        libraries.append(str(links))
    libraries += map(str, python.libraries)
    programs = _virtual_environment(python, numpy, folder / "python")
    environment["LD_LIBRARY_PATH"] = os.pathsep.join(libraries)
    environment["PATH"] = os.pathsep.join([str(programs), environment.get("PATH", os.defpath)])
    return environment | dict(extra)


def _virtual_environment(python: ServerPython, numpy: Path | None, folder: Path) -> Path:
    """A virtual environment for the stub in `folder`; the folder of its programs.

    The stubs ignore every PYTHON variable (pybind11 starts their interpreter isolated), but that
    interpreter takes the first python3 of the PATH for its own executable, and so belongs to the
    virtual environment around it. What the stub's children start with it sees the same packages.
    """
    programs = folder / "bin"
    packages = folder / f"lib/python{python.version}/site-packages"
    programs.mkdir(parents=True)
    packages.mkdir(parents=True)
    executable = programs / "python3"
    if python.executable is None:
        executable.write_text("#!/bin/sh\nexit 127\n")  # only its place matters
        executable.chmod(0o755)
    else:
        executable.symlink_to(python.executable.resolve())
    links = folder.parent / "links"
    home = plain(python.home, links, "home") / "bin"
    (folder / "pyvenv.cfg").write_text(f"home = {home}\ninclude-system-site-packages = false\n")
    first = [*python.paths, *([numpy] if numpy else [])]
    # Links also because a Python in a C locale cannot look into a folder whose name is not ASCII.
    lines = [
        *(str(plain(path, links, f"path{n}")) for n, path in enumerate(first)),
        *(
            f"import site; site.addsitedir({str(plain(path, links, f'packages{n}'))!r})"
            for n, path in enumerate(python.packages)
        ),
        # What a model prints is then in the log when it is printed.
        "import sys; sys.stdout is None or sys.stdout.reconfigure(line_buffering=True)",
    ]
    (packages / "kit.pth").write_text("\n".join(lines) + "\n")
    return programs
