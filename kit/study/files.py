"""Whole files: replaced so that a power cut leaves the old or the new one, read with limits.

What is read may come from a stranger: only regular files, no link out of the folder, and not more
than a limit, so that no device, pipe or huge file holds or fills the reader.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from kit.errors import StoreError

#: A JSON file of the kit has some kilobytes.
MOST_JSON_BYTES = 16 * 2**20
#: A server that logs in a loop for a whole trial; the end of the log is what tells.
MOST_LOG_BYTES = 256 * 2**20


def write_whole(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Replace `path` by `data`, so that a reader sees the old or the new file, never half.

    durable: it is on the disk when this returns, and a power cut takes neither. False: for what
    is replaced several times a second and not needed afterwards.

    Raises:
        StoreError: the disk does not take it.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with scratch.open("wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        scratch.replace(path)
        if durable:
            sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            scratch.unlink()
        raise unwritable(path, error) from error


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable; some file systems cannot."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            os.fsync(folder)
    finally:
        os.close(folder)


def unwritable(path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"{path} cannot be written: {error}",
        "a writable folder",
        "choose another folder or free space",
    )


def read_file(path: Path, *, within: Path | None = None, limit: int = MOST_JSON_BYTES) -> bytes:
    """The bytes of a regular file of at most `limit` bytes.

    within: the folder that links must not lead out of; None: links may lead anywhere.

    Raises:
        StoreError: there is no such file, it is something else, too large, outside, or unreadable.
    """
    with open_regular(path, within=within) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise StoreError(
            f"{path} has more than {limit:,} bytes", "a file that the kit wrote", "remove it"
        )
    return data


@contextlib.contextmanager
def open_regular(path: Path, *, within: Path | None = None) -> Iterator[BinaryIO]:
    """A regular file, open to be read; errors while it is read are named as well.

    Raises:
        StoreError: as `read_file`, but for the size.
    """
    try:
        if within is not None and not _is_inside(path, within):
            raise StoreError(
                f"{path} leads out of {within}",
                "a file in the folder itself",
                "put a copy of the file in the place of the link",
            )
        # Without O_NONBLOCK opening a pipe waits for its writer.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode):
                raise StoreError(
                    f"{path} is no regular file", "a file that the kit wrote", "remove it"
                )
            yield file
    except FileNotFoundError as error:
        raise StoreError(
            f"no {path.name} in {path.parent}", "a folder that the kit wrote", "check the path"
        ) from error
    except (OSError, RuntimeError, ValueError) as error:  # a circle of links, a name with a NUL
        raise StoreError(f"{path} cannot be read: {error}", "a file", "check the path") from error


def read_end(path: Path, limit: int) -> bytes:
    """The last `limit` bytes of a file that may still be written to; nothing if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - limit))
            return file.read()
    except OSError:
        return b""


def size_bytes(path: Path) -> int:
    """Of the file that the path leads to; 0 if it leads nowhere, or in a circle."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def modified_s(path: Path) -> float:
    """When the file was last changed, in seconds of the epoch; 0 if the path leads nowhere."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def read_text(path: Path, *, within: Path | None = None, limit: int = MOST_LOG_BYTES) -> str:
    """The text of a regular file, whatever bytes are in it.

    Raises:
        StoreError: as `read_file`.
    """
    return read_file(path, within=within, limit=limit).decode(errors="replace")


def _is_inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())
