"""Translates addresses to module and offset, with the text of /proc/<pid>/maps.

Offsets are relative to a module's first mapping, which is where a position-independent
executable or library was loaded; they are the same in every run of the same file.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from pathlib import PurePosixPath

_DELETED = " (deleted)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """One mapped stretch of a file, and where that file's first mapping begins."""

    start: int
    end: int
    base: int
    path: str  # as the kernel wrote it; "[vdso]" and its like for what has no file


class MemoryMap:
    """Where the modules of one process lay."""

    def __init__(self, regions: list[Region]) -> None:
        self._regions = sorted(regions, key=lambda region: region.start)
        self._starts = [region.start for region in self._regions]

    @classmethod
    def parse(cls, text: str) -> MemoryMap:
        """Read the kernel's text; lines that are no mapping of a module are passed over."""
        bases: dict[str, int] = {}
        regions = []
        for line in text.splitlines():
            # start-end perms offset dev inode   path
            fields = line.split(None, 5)
            if len(fields) < 6:
                continue  # anonymous memory belongs to no module
            first, _, last = fields[0].partition("-")
            try:
                start, end = int(first, 16), int(last, 16)
            except ValueError:
                continue
            path = fields[5].strip().removesuffix(_DELETED)
            base = bases.setdefault(path, start)
            regions.append(Region(start=start, end=end, base=base, path=path))
        return cls(regions)

    def find(self, address: int) -> Region | None:
        """The mapped region that holds `address`."""
        at = bisect_right(self._starts, address) - 1
        if at < 0 or address >= self._regions[at].end:
            return None
        return self._regions[at]

    def locate(self, address: int) -> tuple[str, int] | None:
        """(file name, offset in the loaded file), or None where no module is mapped."""
        region = self.find(address)
        if region is None:
            return None
        return PurePosixPath(region.path).name, address - region.base
