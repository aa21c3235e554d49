"""What the course reads: a measurement of address reuse, and two recorded stacks of one crash."""

from __future__ import annotations

import re
from functools import cache

import pandas as pd

from kit.crash.stack.maps import MemoryMap
from kit.errors import SpecError
from kit.study.paths import DATA

COURSE = DATA / "course"
#: Number of the stacks that were recorded.
STACKS = (1, 2)
_FRAME = re.compile(r"^ *(\d+)# (\S+) in (\S+)$", re.MULTILINE)


@cache
def _addresses() -> pd.DataFrame:
    return pd.read_parquet(COURSE / "address_reuse.parquet")


def addresses() -> pd.DataFrame:
    """Which address in memory each request got: a row a request, see data/course/README.md.

    Columns: release, clients, request (order of preparation), address (text, hexadecimal),
    prepared_s and final_s (seconds from the first), reused (bool: the address had belonged to an
    earlier request whose answer was still streaming).

    Example:
        >>> bool(addresses().query("clients == 1")["reused"].any())
        False
    """
    return _addresses().copy()


def stack_text(number: int) -> str:
    """What the server printed as it died, in life `number` (1 or 2) of the same 23.10 binary.

    Raises:
        SpecError: there is no such life.
    """
    return _read(number, "log")


def frames(number: int) -> pd.DataFrame:
    """The stack of one life, with where each module had been loaded.

    Columns: frame, module (file name), symbol (as printed, or ""), address (int; NA where only a
    symbol is printed), module_start (int: where the module's first mapping begins).

    Example:
        >>> frames(1).loc[3, "module"]
        'libtriton_python.so'
    """
    memory = MemoryMap.parse(_read(number, "maps"))
    rows = []
    for index, what, path in _FRAME.findall(stack_text(number)):
        address = int(what, 16) if what.startswith("0x") else None
        region = memory.find(address) if address is not None else None
        rows.append(
            {
                "frame": int(index),
                "module": path.rpartition("/")[2],
                "symbol": "" if address is not None else what,
                "address": address,
                "module_start": None if region is None else region.base,
            }
        )
    return pd.DataFrame(rows).astype({"address": "Int64", "module_start": "Int64"})


def _read(number: int, ending: str) -> str:
    if number not in STACKS:
        raise SpecError(f"stack {number!r}", f"one of {STACKS}", "two lives were recorded")
    return (COURSE / f"stack_23.10_{number}.{ending}").read_text("utf-8")
