"""How much a test with chance or brute force in it does.

`make test` does enough for a fault to show; `make test-long` as much as the claim deserves.
"""

from __future__ import annotations

import os
from typing import Final, TypeVar

T = TypeVar("T")
LONG: Final = os.environ.get("TRITON_CRASH_KIT_LONG_TESTS") == "1"


def many(short: T, long: T) -> T:
    """`long` in `make test-long`, else `short`."""
    return long if LONG else short
