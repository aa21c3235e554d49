"""Builds the command that runs an exported script without the kit, as its reader would.

Python runs in isolated mode and without site packages (-I -S), so an HTTP script has the standard
library and nothing else. A gRPC script also gets a folder that holds `tritonclient[grpc]` and what
that needs, package by package: the kit and its other libraries cannot be imported there either.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from kit.errors import ExportError

CLIENT, CLIENT_EXTRA = "tritonclient", "grpc"
_NAME = re.compile(r"[A-Za-z0-9][\w.\-]*")
_EXTRA = re.compile(r"extra\s*==\s*[\"']([\w\-]+)[\"']")
#: Runs a script with one more folder to import from; what else is on the path is Python's own.
_BOOT = (
    "import runpy, sys; sys.path.append(sys.argv.pop(1)); sys.argv.pop(0); "
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)


def command(script: Path, *words: str, packages: Path | None = None) -> list[str]:
    """The command line. packages: a folder that `link_client` filled; None: no libraries."""
    alone = [sys.executable, "-I", "-S"]
    if packages is None:
        return [*alone, str(script), *words]
    return [*alone, "-c", _BOOT, str(packages), str(script), *words]


def link_client(folder: Path) -> Path:
    """Fill `folder` with links to tritonclient and to what its gRPC half needs.

    Raises:
        ExportError: tritonclient is not installed here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for found in _needed():
        for name in {file.parts[0] for file in found.files or ()}:
            source = Path(str(found.locate_file(name)))
            if name not in ("..", "__pycache__") and not (folder / name).exists():
                (folder / name).symlink_to(source)
    return folder


def _needed() -> list[Distribution]:
    """The client and what it requires, directly or not, as far as it is installed."""
    waiting, found = [(CLIENT, {CLIENT_EXTRA})], dict[str, Distribution]()
    while waiting:
        name, extras = waiting.pop()
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue  # for another Python or system
        if package.name.lower() in found:
            continue
        found[package.name.lower()] = package
        for line in package.requires or ():
            wanted = set(_EXTRA.findall(line))
            if not wanted or wanted & extras:
                waiting.append((_NAME.match(line)[0], set()))  # type: ignore[index]
    if CLIENT not in found:
        raise ExportError(
            f"{CLIENT}, which is not installed",
            f"{CLIENT}[{CLIENT_EXTRA}], which the script needs",
            "run `make setup`",
        )
    return list(found.values())
