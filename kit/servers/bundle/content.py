"""The files of a bundle on the disk: checked, written whole, and never through a link.

Uses the standard library alone (see kit.servers.bundle.manifest).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from kit.errors import BundleError, StoreError
from kit.servers.bundle.manifest import BundledFile, path_parts
from kit.study.files import open_regular, unwritable

CHUNK_BYTES: Final = 2**20


def folder_below(root: Path, parts: Iterable[str]) -> Path:
    """The folder below `root` that the parts name, made as far as it is not there.

    Raises:
        BundleError: on the way lies a link, or something that is no folder.
        StoreError: it cannot be made.
    """
    folder = root
    for part in parts:
        folder = folder / part
        try:
            folder.mkdir(exist_ok=True)
            mode = folder.lstat().st_mode
        except FileExistsError:
            mode = 0
        except OSError as error:
            raise unwritable(folder, error) from error
        if not stat.S_ISDIR(mode):
            raise no_place(folder, "a link, or no folder")
    return folder


def is_whole(root: Path, file: BundledFile, add: Callable[[int], None] = lambda _: None) -> bool:
    """Whether the file lies below `root` as the manifest has it: size and hash are compared.

    add: told how many bytes were read.

    Raises:
        BundleError: in its place, or on the way there, lies a link or something else.
    """
    path = root
    for part in path_parts(file.path):
        path = path / part
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:
            return False
        except OSError as error:
            raise no_place(path, str(error)) from error
        if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
            raise no_place(path, "a link, or neither a file nor a folder")
    if path.stat().st_size != file.size_bytes:
        return False
    return sha256_of(path, within=root, add=add) == file.sha256


def sha256_of(
    path: Path, *, within: Path | None = None, add: Callable[[int], None] = lambda _: None
) -> str:
    """The hash of a regular file.

    Raises:
        StoreError: it is none, or cannot be read.
    """
    digest = hashlib.sha256()
    with open_regular(path, within=within) as source:
        while chunk := source.read(CHUNK_BYTES):
            digest.update(chunk)
            add(len(chunk))
    return digest.hexdigest()


def scratch_of(path: Path) -> Path:
    """What a file is written to before it is whole."""
    return path.with_name(f".{path.name}.part")


@contextlib.contextmanager
def written_whole(path: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` when it is closed without an error, or never.

    A link in its place, or in its scratch file's, is replaced and not followed. durable: it is on
    the disk then; False: for many small files that are checked again before they are used.

    Raises:
        StoreError: the disk does not take it.
    """
    scratch = scratch_of(path)
    try:
        with contextlib.suppress(FileNotFoundError):
            scratch.unlink()
        with scratch.open("xb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        scratch.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink()


def refuse_unlisted(root: Path, files: Iterable[BundledFile]) -> None:
    """Refuse a folder with more in it than the manifest lists: an installer might take it.

    Raises:
        BundleError: names some of what is not listed.
    """
    listed = {file.path for file in files}
    known = listed | {str(scratch_of(Path(path))) for path in listed}
    if found := sorted(path for path in below(root) if path not in known)[:5]:
        raise BundleError(
            f"{root} with {', '.join(found)}, which the bundle's manifest does not list",
            "the files of the bundle alone",
            "remove them if they are yours, else fetch the bundle again",
        )


def below(root: Path) -> Iterator[str]:
    """Every path below `root` that is no folder, links among them, relative to it."""
    try:
        entries = sorted(os.scandir(root), key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"{root} cannot be read: {error}", "a folder", "check it") from error
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from (f"{entry.name}/{path}" for path in below(root / entry.name))
        else:
            yield entry.name


def no_place(path: Path, what: str) -> BundleError:
    """An error of something else where a file or folder of a bundle belongs."""
    return BundleError(
        f"{path}, where a file of the bundle belongs, but which is {what}",
        "a folder that the kit wrote",
        "remove it, or name another folder",
    )
