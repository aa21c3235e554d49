"""Finds the demangled name of the function at an offset of an ELF file.

The full symbol table serves where the file has one (the wheels' binaries do); of a stripped
file the exported names are left, and the nearest one below may be far from the truth, so its
distance is shown.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from kit.crash.log.shapes import demangle

_COLD = ".cold"


@dataclass(frozen=True, slots=True)
class Symbol:
    """A function found for an offset."""

    name: str  # demangled
    distance_bytes: int  # from its first byte
    inside: bool  # the offset lies within the function's size

    @property
    def text(self) -> str:
        """The name, with the distance where the function only precedes the offset."""
        return self.name if self.inside else f"{self.name}+{self.distance_bytes:#x}"


class SymbolTable:
    """The functions of one ELF file by address."""

    def __init__(self, functions: list[tuple[int, int, str]], first_page: int) -> None:
        self._functions = sorted(functions)
        self._starts = [start for start, _, _ in self._functions]
        self._first_page = first_page

    @classmethod
    def read(cls, path: Path) -> SymbolTable:
        """Read an ELF file; a file that is none, or is torn, has no functions."""
        functions: list[tuple[int, int, str]] = []
        first_page = 0
        try:
            with path.open("rb") as file:
                elf = ELFFile(file)
                loads = [s["p_vaddr"] for s in elf.iter_segments() if s["p_type"] == "PT_LOAD"]
                first_page = min(loads, default=0) & ~0xFFF
                for section in elf.iter_sections():
                    if isinstance(section, SymbolTableSection):
                        functions += _functions_of(section)
        except (OSError, ELFError, UnicodeDecodeError, ValueError, KeyError):
            return cls([], 0)
        return cls(functions, first_page)

    def at(self, offset: int) -> Symbol | None:
        """The function that holds `offset` (from the first mapping), else the nearest below."""
        address = offset + self._first_page
        index = bisect_right(self._starts, address) - 1
        if index < 0:
            return None
        start, size, name = self._functions[index]
        inside = address < start + size
        # several names may share a start; a .cold part belongs to the function it was split from
        plain = name.removesuffix(_COLD).partition(".isra.")[0].partition(".part.")[0]
        return Symbol(demangle(plain), address - start, inside)

    def functions(self, *, demangled: bool = False) -> Iterator[tuple[int, int, str]]:
        """(start, size, name) of every function, by address."""
        for start, size, name in self._functions:
            yield start, size, demangle(name) if demangled else name

    def __len__(self) -> int:
        return len(self._functions)


@lru_cache(maxsize=16)
def _table(path: Path, size_bytes: int, modified_ns: int) -> SymbolTable:
    return SymbolTable.read(path)


def table_of(path: Path) -> SymbolTable:
    """The symbol table of a file, read once as long as the file does not change."""
    try:
        status = path.stat()
    except OSError:
        return SymbolTable([], 0)
    return _table(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def find_module(modules: Path, name: str) -> Path | None:
    """The file called `name` somewhere below `modules`."""
    return next((path for path in sorted(modules.rglob(name)) if path.is_file()), None)


def _functions_of(section: SymbolTableSection) -> list[tuple[int, int, str]]:
    return [
        (symbol["st_value"], symbol["st_size"], symbol.name)
        for symbol in section.iter_symbols()
        if symbol["st_info"]["type"] in ("STT_FUNC", "STT_GNU_IFUNC") and symbol["st_value"]
    ]
