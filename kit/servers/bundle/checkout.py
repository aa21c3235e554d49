"""The kit's checkout as one zip file: packed here, unpacked within limits elsewhere.

The kit runs from its checkout (kit.study.paths), so that is what a bundle carries. What is
unpacked may come from a stranger. Uses the standard library alone (see
kit.servers.bundle.manifest).
"""

from __future__ import annotations

import io
import stat
import struct
import subprocess
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from kit.errors import BundleError
from kit.servers.bundle.content import folder_below, written_whole
from kit.servers.bundle.manifest import path_parts

#: The checkout has about a thousand files and ten megabytes.
MOST_FILES: Final = 20_000
MOST_BYTES: Final = 500_000_000
#: The same bytes from the same files, whenever they were written.
_TIME: Final = (1980, 1, 1, 0, 0, 0)
#: The checkout's folders where git does not say which files are its own; whatever else lies in
#: it, studies or bundles, is not.
_FOLDERS: Final = ("benchmarks", "binder", "data", "docs", "kit", "notebooks", "tests")
_PROGRAM: Final = 0o100


def pack_checkout(root: Path) -> bytes:
    """A zip file of the checkout at `root`: the files that git lists, else those of its folders."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in _names(root):
            add_file(archive, name, (root / name).read_bytes(), _is_program(root / name))
    return packed.getvalue()


def add_file(archive: zipfile.ZipFile, name: str, data: bytes, program: bool = False) -> None:
    """Add a file to an archive, without the time of day."""
    entry = zipfile.ZipInfo(name, _TIME)
    entry.external_attr = (stat.S_IFREG | (0o755 if program else 0o644)) << 16
    entry.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(entry, data)


def unpack_checkout(data: bytes, folder: Path) -> None:
    """Unpack such a zip file into `folder`; what is there already is replaced.

    Raises:
        BundleError: it is damaged, holds links or names that lead elsewhere, or would be larger
            than any checkout.
        StoreError: the disk does not take it.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            _check(entries)
            for entry in entries:
                *folders, name = _parts(entry.filename)
                path = folder_below(folder, folders) / name
                with archive.open(entry) as source, written_whole(path, durable=False) as target:
                    left = entry.file_size
                    while chunk := source.read(min(left + 1, 2**20)):
                        left -= len(chunk)
                        if left < 0:
                            raise _bad(f"{entry.filename!r}, which is larger than it says")
                        target.write(chunk)
                if entry.external_attr >> 16 & _PROGRAM:
                    path.chmod(0o755)
    except (
        *(zipfile.BadZipFile, zlib.error, struct.error, EOFError),
        *(NotImplementedError, RuntimeError, ValueError, UnicodeError),
    ) as error:
        raise _bad(str(error) or type(error).__name__) from error


def _check(entries: list[zipfile.ZipInfo]) -> None:
    """Refuse an archive before anything of it is unpacked."""
    if len(entries) > MOST_FILES or sum(e.file_size for e in entries) > MOST_BYTES:
        raise _bad(f"more than {MOST_FILES:,} files or {MOST_BYTES:,} bytes")
    for entry in entries:
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG):
            raise _bad(f"{entry.filename!r}, which is a link or a device")
        _parts(entry.filename)


def _parts(name: str) -> tuple[str, ...]:
    """As manifest.path_parts, but that the checkout has files such as .gitignore."""
    parts = tuple(name.split("/"))
    bare = [part[1:] if part.startswith(".") and len(part) > 1 else part for part in parts]
    path_parts("/".join(bare))
    return parts


def _names(root: Path) -> Iterator[str]:
    listed = _git(root)
    for name in sorted(listed if listed is not None else _walk(root)):
        path = root / name
        if path.is_file() and not path.is_symlink():
            yield name


def _git(root: Path) -> list[str] | None:
    """The files that git has of a checkout; None: it is none of git's, or there is no git."""
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "ls-files", "-z"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
    except OSError:
        return None
    names = [name for name in done.stdout.decode(errors="replace").split("\0") if name]
    return names if done.returncode == 0 and names else None


def _walk(root: Path) -> Iterator[str]:
    inside = (path for folder in _FOLDERS for path in (root / folder).rglob("*"))
    for path in (*root.iterdir(), *inside):
        parts = path.relative_to(root).parts
        hidden = any(part.startswith(".") or part == "__pycache__" for part in parts)
        if path.is_file() and not hidden:
            yield "/".join(parts)


def _is_program(path: Path) -> bool:
    return bool(path.stat().st_mode & _PROGRAM)


def _bad(what: str) -> BundleError:
    return BundleError(
        f"a bundle whose kit holds {what}",
        "a checkout that `kit bundle` packed",
        "use it no further; fetch it again from where it was made, and compare its SHA-256",
    )
