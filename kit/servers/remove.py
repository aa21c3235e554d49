"""Remove a folder of the kit's own, and nothing else. Standard library only: a guard uses it."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")


def remove_folder(path: Path) -> bool:
    """Remove `path` with all that is in it; False if it is not a folder of this user, or still
    there. A link is not followed, and nothing that is mounted below it is touched."""
    if not is_own_folder(path) or mounts_below(path):
        return False
    shutil.rmtree(path, ignore_errors=True)
    return not os.path.lexists(path)


def is_own_folder(path: Path) -> bool:
    """Whether it is a folder, no link to one, and this user's."""
    with contextlib.suppress(OSError, ValueError):
        status = path.lstat()
        return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
    return False


def is_own_file(path: Path) -> bool:
    """Whether it is a regular file, no link to one, and this user's."""
    with contextlib.suppress(OSError, ValueError):
        status = path.lstat()
        return stat.S_ISREG(status.st_mode) and status.st_uid == os.getuid()
    return False


def mounts_below(folder: Path) -> list[str]:
    """Mount points at or below `folder`."""
    top = os.path.realpath(folder)
    found = []
    with contextlib.suppress(OSError):
        for line in MOUNTS.read_text(errors="surrogateescape").splitlines():
            place = _unescaped(line.split(" ")[4])
            if place == top or place.startswith(f"{top}/"):
                found.append(place)
    return found


def _unescaped(word: str) -> str:
    """A path as mountinfo writes it: space, tab, newline and backslash in octal."""
    for character in " \t\n\\":
        word = word.replace(f"\\{ord(character):03o}", character)
    return word
