"""Fetches packages of another release of this machine's Debian or Ubuntu, and unpacks them.

`apt-get` compares the signatures with the keys of the system. Nothing of the system is changed,
and it needs no root.
"""

from __future__ import annotations

import getpass
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from kit.servers.program import run_program

PROGRAMS: Final = ("apt-get", "dpkg-deb")
#: By what /etc/os-release calls the system: what its archive is signed with.
KEYS: Final = {
    system: Path(f"/usr/share/keyrings/{system}-archive-keyring.gpg")
    for system in ("debian", "ubuntu")
}
_TIMEOUT_S: Final = 300.0


class AptError(Exception):
    """What apt-get or dpkg-deb said, in one line."""

    def __init__(self, said: str) -> None:
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        super().__init__(" ".join(lines[-3:]) or "it gave no reason")


def unpack_packages(suite: str, keys: Path, packages: Iterable[str], scratch: Path) -> Path:
    """Fetch these packages of a release, "trixie", and unpack them; the folder that holds them.

    keys: what its archive is signed with. scratch: a folder that is not there yet; the caller
    removes it.

    Raises:
        AptError: they could not be fetched.
    """
    for part in ("lists/partial", "archives/partial", "debs", "unpacked"):
        (scratch / part).mkdir(parents=True)
    sources = scratch / "sources.list"
    sources.write_text(f"deb [signed-by={keys}] {system_mirror()} {suite} main\n")
    options = [
        *("-o", f"Dir::Etc::SourceList={sources}", "-o", "Dir::Etc::SourceParts=/dev/null"),
        *("-o", f"Dir::State::Lists={scratch / 'lists'}", "-o", "Dir::State::status=/dev/null"),
        *("-o", f"Dir::Cache={scratch}", "-o", f"Dir::Cache::archives={scratch / 'archives'}"),
        *("-o", "Acquire::Languages=none", "-o", f"APT::Sandbox::User={getpass.getuser()}"),
        *("-o", "Acquire::Retries=2", "-o", "Acquire::http::Timeout=20", "-qq"),
    ]
    _run(["apt-get", *options, "update"], scratch)
    _run(["apt-get", *options, "download", *packages], scratch / "debs")
    for package in sorted((scratch / "debs").glob("*.deb")):
        _run(["dpkg-deb", "--extract", str(package), str(scratch / "unpacked")], scratch)
    return scratch / "unpacked"


def system_mirror() -> str:
    """Where this machine fetches its own packages from.

    Raises:
        AptError: its sources name no archive of Debian or Ubuntu.
    """
    # Without the release info also what was never fetched, as in a fresh container; archives of
    # others for the same system (Docker's) have no component of that name.
    options = ("--no-release-info", "--format", "$(REPO_URI)")
    said = _run(["apt-get", "indextargets", *options, "Created-By: Packages", "Component: main"])
    found = [line.strip() for line in said.splitlines() if line.strip()]
    plain = [uri for uri in found if "security" not in uri and re.search("debian|ubuntu", uri)]
    if not plain:
        raise AptError("apt's sources name no archive of Debian or Ubuntu")
    return plain[0]


def lacking_programs() -> list[str]:
    """Those of PROGRAMS that this machine does not have."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


def _run(command: list[str], where: Path | None = None) -> str:
    try:
        done = run_program(command, {"LC_ALL": "C"}, cwd=where, timeout_s=_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise AptError(str(error)) from error
    if done.returncode != 0:
        raise AptError(done.stderr or done.stdout)
    return done.stdout
