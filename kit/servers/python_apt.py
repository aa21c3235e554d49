"""Fetches a Python with a shared library from the archive of an older Debian or Ubuntu.

Where uv's downloads are out of reach, a Debian or Ubuntu still reaches the archive of its own
packages, which has the release before it as well. What it brings is unpacked into the kit's cache.
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kit.errors import DownloadError
from kit.servers.apt import KEYS, AptError, lacking_programs, unpack_packages

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
        keys=KEYS["debian"],
    ),
    "ubuntu": Archive(
        suite="jammy",
        python="3.10",
        keys=KEYS["ubuntu"],
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
    return None if lacking_programs() else archive


def unpack_python(archive: Archive, folder: Path) -> None:
    """Put that Python into `folder`, with bin/ and lib/ as its interpreter expects them.

    Raises:
        DownloadError: `apt-get` did not get it; says what it said.
    """
    scratch = folder.with_name(f"{folder.name}-apt")
    packages = [name.format(archive.python) for name in _PACKAGES]
    try:
        unpacked = unpack_packages(archive.suite, archive.keys, packages, scratch)
    except AptError as error:
        raise DownloadError(
            f"a Python, which apt-get did not get: {error}",
            "this machine's own package archive, which has the release before it as well",
            "connect this machine to it once; everything is offline afterwards",
        ) from error
    (unpacked / "usr").rename(folder)
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
