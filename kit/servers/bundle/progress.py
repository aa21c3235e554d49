"""Says how far the copying and checking of large files is: a line at times, with sizes.

Uses the standard library alone (see kit.servers.bundle.manifest).
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from kit.errors import BundleError

Say = Callable[[str], None]
#: A line is said no more often than this.
EVERY_S: Final = 2.0
#: Left free beside what is written, so that the disk is never full to the last byte.
_SPARE_BYTES: Final = 50_000_000


@dataclass(slots=True, kw_only=True)
class ByteProgress:
    """Counts bytes of one piece of work, and says how far it is when some seconds have passed.

    >>> lines = []
    >>> work = ByteProgress(say=lines.append, what="checking", total_bytes=10, every_s=0)
    >>> work.add(5)
    >>> lines
    ['checking: 5 bytes of 10 bytes']
    """

    say: Say
    what: str
    total_bytes: int
    every_s: float = EVERY_S
    clock: Callable[[], float] = time.monotonic
    done_bytes: int = 0
    said_s: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self.said_s = self.clock()

    def add(self, size_bytes: int) -> None:
        self.done_bytes += size_bytes
        now = self.clock()
        if now - self.said_s >= self.every_s:
            self.said_s = now
            self.say(f"{self.what}: {size(self.done_bytes)} of {size(self.total_bytes)}")


def size(size_bytes: int) -> str:
    """A number of bytes for people: "90 MB", "1.2 GB"."""
    if size_bytes < 1000:
        return f"{size_bytes} bytes"
    for unit, factor in (("GB", 10**9), ("MB", 10**6)):
        if size_bytes >= factor:
            value = size_bytes / factor
            return f"{value:.1f} {unit}" if value < 10 else f"{value:,.0f} {unit}"
    return f"{size_bytes / 1000:.0f} kB"


def check_space(folder: Path, needed_bytes: int, what: str) -> None:
    """Refuse to begin what the disk cannot take.

    Raises:
        BundleError: it has less free than is needed.
    """
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    if needed_bytes and free < needed_bytes + _SPARE_BYTES:
        raise BundleError(
            f"{size(free)} free at {there}, where {what} needs {size(needed_bytes)}",
            f"{size(needed_bytes + _SPARE_BYTES)} of free disk",
            "free space, or name a folder on another disk",
        )
