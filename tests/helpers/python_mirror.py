"""A folder that uv takes for the mirror of its Pythons, with one archive of the test's own."""

from __future__ import annotations

import hashlib
import json
import platform
import tarfile
from pathlib import Path

from kit.servers.python import ServerPython

#: Where uv's own list has its archives; the mirror takes this address's place.
DOWNLOADS = "https://github.com/astral-sh/python-build-standalone/releases/download"
ARCHIVE = "20990101/python.tar.gz"
_LEFT_OUT = ("test", "tests", "idlelib", "tkinter", "site-packages", "dist-packages", "__pycache__")
#: An interpreter that was moved does not find its shared library by itself.
_START = """#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
LD_LIBRARY_PATH=$here/../lib exec "$here/python{version}.bin" "$@"
"""


def pack_python(python: ServerPython, archive: Path) -> None:
    """Write what uv would download: that Python with its library and its standard library."""
    assert python.executable is not None
    assert python.libpython is not None
    version = python.version
    archive.parent.mkdir(parents=True, exist_ok=True)
    start = archive.with_name("start")
    start.write_text(_START.format(version=version))
    start.chmod(0o755)
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        tar.add(start, f"python/bin/python{version}")
        tar.add(python.executable.resolve(), f"python/bin/python{version}.bin")
        tar.add(python.libpython.resolve(), f"python/lib/libpython{version}.so.1.0")
        library = f"lib/python{version}"
        tar.add(python.home / library, f"python/{library}", filter=_wanted)
    start.unlink()


def list_downloads(folder: Path, version: str, sha256: str | None = None) -> dict[str, str]:
    """uv's settings for the mirror `folder`/mirror with the archive of that version.

    sha256: the hash that its list says; None: the archive's.
    """
    archive = folder / "mirror" / ARCHIVE
    major, minor = version.split(".")
    row = {
        "name": "cpython",
        "arch": {"family": platform.machine(), "variant": None},
        **{"os": "linux", "libc": "gnu", "prerelease": "", "variant": None, "build": "20990101"},
        **{"major": int(major), "minor": int(minor), "patch": 99},
        "url": f"{DOWNLOADS}/{ARCHIVE}",
        "sha256": sha256 or hashlib.sha256(archive.read_bytes()).hexdigest(),
    }
    listed = folder / "downloads.json"
    listed.write_text(json.dumps({f"cpython-{version}.99-linux-{platform.machine()}-gnu": row}))
    return {
        "UV_PYTHON_INSTALL_MIRROR": (folder / "mirror").as_uri(),
        "UV_PYTHON_DOWNLOADS_JSON_URL": str(listed),
    }


def _wanted(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    name = Path(entry.name).name
    return None if name in _LEFT_OUT or name.startswith("config-3") else entry
