"""What every command reads and writes: files, JSON, errors, remarks, and that it is still busy."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import msgspec

from kit.cleaning import clean_json, clean_text
from kit.errors import KitError, StoreError

#: Exit codes; kit.ui.cli.EXIT_CODES says what each means.
DONE, FAILED, CRASHED, NOTHING_LEARNED, BY_SIGNAL = 0, 1, 3, 4, 128
#: A command that is silent for so long says what it does.
BUSY_AFTER_S = 2.0


def print_json(document: object) -> None:
    """One JSON document on standard output."""
    print(clean_json(msgspec.json.format(msgspec.json.encode(document), indent=2)))


def print_text(text: str) -> None:
    """Text for people on standard output; what a server said cannot move the cursor."""
    print(clean_text(text))


def print_error(error: KitError) -> None:
    """An error of the kit's, on standard error."""
    said = f"error: {error.given}\n  expected: {error.expected}\n  hint: {error.hint}"
    said += f"\n  see: {error.see}" if error.see else ""
    print(clean_text(said), file=sys.stderr)


def remark(text: str) -> None:
    """A line on standard error, where it does not disturb a script."""
    print(clean_text(text), file=sys.stderr, flush=True)


@contextmanager
def busy(
    what: str, *, stream: TextIO | None = None, after_s: float = BUSY_AFTER_S
) -> Iterator[None]:
    """Say on standard error what is being done if it takes longer than `after_s`.

    A terminal shows the seconds gone by, and loses the line at the end; a pipe gets one line.
    """
    stream, what = stream or sys.stderr, clean_text(what, lines=False)
    over = threading.Event()

    def show() -> None:
        if over.wait(after_s):
            return
        if not stream.isatty():
            stream.write(f"{what} ...\n")
            stream.flush()
            return
        gone_s, line = after_s, ""
        while True:
            line = f"{what} ... {gone_s:.0f} s"
            stream.write(f"\r{line}")
            stream.flush()
            if over.wait(1.0):
                break
            gone_s += 1.0
        stream.write("\r" + " " * len(line) + "\r")
        stream.flush()

    shown = threading.Thread(target=show, daemon=True)
    shown.start()
    try:
        yield
    finally:
        over.set()
        shown.join()


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
