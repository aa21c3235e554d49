"""The little that every command reads and writes: files, aligned columns, JSON and remarks."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from kit.errors import StoreError


def aligned(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Left-aligned columns under a header and a rule."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    padded = ((text.ljust(w) for text, w in zip(line, widths, strict=True)) for line in lines)
    return "\n".join("  ".join(line).rstrip() for line in padded)


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
