"""The little that every command reads and writes: files, aligned columns, JSON and remarks."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from kit.errors import StoreError


def print_json(document: object) -> None:
    """One JSON document on standard output."""
    print(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())


def remark(text: str) -> None:
    """A line on standard error, where it does not disturb a script."""
    print(text, file=sys.stderr, flush=True)


def read_text(path: Path) -> str:
    """A file's text, whatever bytes are in it.

    Raises:
        StoreError: it cannot be read.
    """
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"{path} cannot be read: {error.strerror or error}", "a file", "check the path"
    )
