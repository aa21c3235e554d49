"""Finds the temporary folder that a running Triton's Python backend has made.

The backend makes `/tmp/python_env_XXXXXX` (its own mkdtemp; TMPDIR does not move it) and removes
it only when it ends in good order. A server that crashed, or was killed, leaves it, and nothing
outside the process tells whose it was: so its name is read from the server's memory while it
lives, and written on the register with everything else that must be gone afterwards.

Uses the standard library alone, since a guard does (kit.servers.guard).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from kit.servers.remove import is_own_folder, remove_folder

_NAME = re.compile(rb"/tmp/python_env_[A-Za-z0-9]{6}(?![A-Za-z0-9])")
#: The name lies in a heap of a few hundred kilobytes; no mapping larger than this is read.
_LARGEST_BYTES = 1 << 26
KEY = "also"


def python_env_folders(pid: int) -> list[Path]:
    """The folders that process `pid` has made in our /tmp; none where its memory may not be read.

    That a process may read the memory of one that it started is the usual setting of Linux.
    """
    if _has_own_tmp(pid):
        return []
    with contextlib.suppress(OSError), open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for low, high in sorted(_writable(pid), key=lambda edges: edges[1] - edges[0]):
            with contextlib.suppress(OSError, ValueError):  # gone meanwhile
                memory.seek(low)
                found = {name.decode() for name in _NAME.findall(memory.read(high - low))}
                own = [path for path in map(Path, sorted(found)) if _is_ours(path)]
                if own:
                    return own
    return []


def _has_own_tmp(pid: int) -> bool:
    """Whether its /tmp is another than ours (kit.servers.private_tmp), so goes with its run."""
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/{pid}/ns/mnt") != os.readlink("/proc/self/ns/mnt")
    return False


def _writable(pid: int) -> Iterator[tuple[int, int]]:
    """The private anonymous mappings of a process that can be written, small ones."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        edges, rights, _, _, inode = line.split()[:5]
        low, high = (int(edge, 16) for edge in edges.split("-"))
        if rights == "rw-p" and inode == "0" and high - low <= _LARGEST_BYTES:
            yield low, high


def note(record: Path, folders: Iterable[Path]) -> None:
    """Write on a run's record that these folders go with it; no record: the run is over.

    The folder's number is noted, too: should it be gone one day and another server have made one
    of that name, it is not this one.
    """
    named = []
    for folder in folders:
        with contextlib.suppress(OSError):
            named.append([str(folder), folder.lstat().st_ino])
    if not named:
        return
    with contextlib.suppress(FileNotFoundError):
        content = json.loads(record.read_bytes())
        scratch = record.with_name(f".{record.stem}")
        scratch.write_text(json.dumps(content | {KEY: named}))
        scratch.replace(record)


def noted(record: Path) -> list[Path]:
    """The folders that a run's record names besides its own, as far as they are there."""
    found = []
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError, RecursionError):
        for name, inode in json.loads(record.read_bytes()).get(KEY, ()):
            path = Path(name)
            if _is_ours(path) and path.lstat().st_ino == inode:
                found.append(path)
    return found


def remove_noted(record: Path) -> list[str]:
    """Remove the folders that a run's record names besides its own; those that were there."""
    return [str(path) for path in noted(record) if remove_folder(path)]


def _is_ours(path: Path) -> bool:
    """A folder of that very name and of this user: whatever a record says, nothing else goes."""
    return _NAME.fullmatch(os.fsencode(path)) is not None and is_own_folder(path)
