"""Debian's packages for a test, unpacked into a folder: nothing is installed, no script is run.

apt-get fetches them with what they depend on, and compares the signature with Debian's keys.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from kit.servers.apt import system_mirror

KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def missing_for_packages(*programs: str) -> list[str]:
    """What this machine lacks to unpack packages, and of these other programs."""
    lacking = [n for n in ("apt-get", "dpkg-deb", *programs) if shutil.which(n) is None]
    return lacking + ([] if KEYS.exists() else [str(KEYS)])


def unpack_packages(
    packages: Iterable[str], folder: Path, *, suite: str, architecture: str | None = None
) -> None:
    """Make `folder` hold them and what they depend on.

    architecture: as Debian calls it ("arm64"); None: this machine's.

    Raises:
        RuntimeError: they could not be had; quotes what was said.
    """
    scratch = folder.with_name(f"{folder.name}.apt")
    for part in ("lists/partial", "archives/partial"):
        (scratch / part).mkdir(parents=True)
    sources = scratch / "sources.list"
    sources.write_text(f"deb [signed-by={KEYS}] {system_mirror()} {suite} main\n")
    (scratch / "status").touch()  # nothing is installed there
    options = [
        *("-o", f"Dir::Etc::SourceList={sources}", "-o", "Dir::Etc::SourceParts=/dev/null"),
        *("-o", f"Dir::State::Lists={scratch / 'lists'}"),
        *("-o", f"Dir::State::status={scratch / 'status'}"),
        *("-o", f"Dir::Cache={scratch}", "-o", f"Dir::Cache::archives={scratch / 'archives'}"),
        *("-o", "Acquire::Languages=none", "-o", "APT::Sandbox::User=root"),
        *("-o", "Acquire::Retries=3", "-qq"),
    ]
    if architecture is not None:
        own = f"APT::Architecture={architecture}", f"APT::Architectures={architecture}"
        options += ["-o", own[0], "-o", own[1]]
    _do("apt-get", *options, "update")
    install = ("install", "--download-only", "--no-install-recommends", "--yes", *packages)
    _do("apt-get", *options, *install)
    folder.mkdir()
    found = sorted((scratch / "archives").glob("*.deb"))
    found.sort(key=lambda path: not path.name.startswith("base-files_"))  # its links come first
    for package in found:
        _do("dpkg-deb", "--extract", str(package), str(folder))
    shutil.rmtree(scratch)


def _do(*command: str) -> None:
    environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command[-3:])}: {done.stdout}{done.stderr}")
