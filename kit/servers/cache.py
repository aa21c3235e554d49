"""The user's cache of unpacked files: an entry is there as a whole, or not at all.

An entry is a folder that appears by one rename and carries `whole.json`, the sizes and hashes
of its files. Missing, half or damaged entries are made anew; several processes may ask at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import platformdirs

from kit.errors import StoreError
from kit.servers.remove import is_own_file, is_own_folder, remove_folder
from kit.study.locks import lock

_STAMP = "whole.json"
_MARK = ".triton-crash-kit"
#: The folder of an entry that is being filled, or that was damaged and is on its way out.
_SCRATCH = re.compile(r"\.tck-(new|old)-(?P<entry>.+)-[0-9a-f]{8}", re.DOTALL)


def cache_root() -> Path:
    """The kit's folder in the user's cache; the variable TRITON_CRASH_KIT_CACHE moves it."""
    given = os.environ.get("TRITON_CRASH_KIT_CACHE")
    if given:
        return Path(given).expanduser().absolute()
    return Path(platformdirs.user_cache_dir("triton-crash-kit"))


def cached(entry: str, fill: Callable[[Path], None]) -> Path:
    """The folder of `entry` ("servers/0.4.2-x86_64"); `fill` is given an empty one if need be.

    Raises:
        StoreError: the cache cannot be written.
        whatever `fill` raises; nothing of the entry is then kept.
    """
    folder = cache_root() / entry
    if is_whole(folder):
        return folder
    with _writable(folder), _lock(folder) as alone:
        if is_whole(folder):  # another process made it while this one waited
            return folder
        if alone:
            _remove_leftovers(folder)
        scratch = folder.with_name(f".tck-new-{folder.name}-{secrets.token_hex(4)}")
        scratch.mkdir()
        try:
            fill(scratch)
            _stamp(scratch)
            _move_into_place(scratch, folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return folder


def is_whole_entry(entry: str) -> Path | None:
    """The folder of an entry that is in the cache, and whole; None: it is not."""
    folder = cache_root() / entry
    return folder if is_whole(folder) else None


def is_whole(folder: Path) -> bool:
    """Whether every file is as it was when the folder was filled.

    Sizes and times are compared; only a file whose time differs is read, so this is cheap.
    """
    try:
        files = json.loads((folder / _STAMP).read_bytes())["files"]
        for name, (size, mtime_ns, sha256) in files.items():
            status = (folder / name).stat()
            if status.st_size != size:
                return False
            if status.st_mtime_ns != mtime_ns and file_sha256(folder / name) != sha256:
                return False
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False
    return True


def remove_half_filled(*, dry_run: bool = False) -> list[Path]:
    """Remove what killed processes left of entries that nobody is filling now; what it was.

    An entry that is being filled is locked, and its folder has a name that only the kit gives,
    beside the lock's file of that entry. Nothing in a folder without the kit's mark is looked at.
    """
    found: list[Path] = []
    for path in _scratch_folders():
        name = _SCRATCH.fullmatch(path.name)
        assert name is not None
        folder = path.with_name(name["entry"])
        if is_own_file(_lock_file(folder)):
            with contextlib.suppress(OSError), _lock(folder, wait=False) as alone:
                if alone and (dry_run or remove_folder(path)):
                    found.append(path)
    return found


def mark_root() -> None:
    """Mark the cache's folder as the kit's, so that it may be cleaned.

    Raises:
        OSError: it cannot be written.
    """
    root = cache_root()
    root.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError), (root / _MARK).open("x") as file:
        file.write("The Triton crash kit keeps its downloads and its register of runs here.\n")


def is_marked() -> bool:
    """Whether the kit has worked in the cache's folder."""
    return is_own_file(cache_root() / _MARK)


def _scratch_folders() -> list[Path]:
    if not is_marked():
        return []
    rooms = [room for room in cache_root().iterdir() if is_own_folder(room)]
    paths = [path for room in rooms for path in room.iterdir()]
    return sorted(p for p in paths if _SCRATCH.fullmatch(p.name) and is_own_folder(p))


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stamp(folder: Path) -> None:
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            status = path.stat()
            name = str(path.relative_to(folder))
            files[name] = (status.st_size, status.st_mtime_ns, file_sha256(path))
    (folder / _STAMP).write_text(json.dumps({"files": files}))


def _move_into_place(scratch: Path, folder: Path) -> None:
    if folder.exists():  # damaged; servers that run from it keep their open files
        damaged = folder.with_name(f".tck-old-{folder.name}-{secrets.token_hex(4)}")
        with contextlib.suppress(FileNotFoundError):
            folder.rename(damaged)
        shutil.rmtree(damaged, ignore_errors=True)
    try:
        scratch.rename(folder)
    except OSError:
        if not is_whole(folder):  # else: where files cannot be locked, another process was faster
            raise


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left; the caller holds the lock, so nobody works there."""
    for path in folder.parent.iterdir():
        name = _SCRATCH.fullmatch(path.name)
        if name is not None and name["entry"] == folder.name:
            remove_folder(path)


def _lock_file(folder: Path) -> Path:
    return folder.with_name(f".lock-{folder.name}")


@contextlib.contextmanager
def _lock(folder: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the entry's lock; False if another holds it and this does not wait, and on file
    systems without locks, where renames decide."""
    with _lock_file(folder).open("a") as file:
        try:
            lock(file, wait=wait)
        except OSError:
            yield False
        else:
            yield True


@contextlib.contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        mark_root()
        folder.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise StoreError(
            f"the cache {cache_root()} cannot be written: {error}",
            "a writable folder with 300 MB free for each release",
            "free space, or name another folder in TRITON_CRASH_KIT_CACHE",
        ) from error
