"""Turns the kernel's stamps of what came into the run's clock.

The kernel stamps with the wall clock. `KernelClock` looks at both clocks before each batch of
reads, so that a wall clock that is slewed or set during the run does no harm.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from time import monotonic_ns

from kit.load.link import Clock

#: Clocks that drift apart by less are left alone; a step of more is no drift.
_DRIFT_NS = 20_000
_STEP_NS = 1_000_000


class KernelClock:
    """The offset from the kernel's stamps to the run's clock.

    >>> clock = KernelClock(clock=lambda: 5_000, wall=lambda: 1_000_005_000)
    >>> clock.check(), clock.offset_ns
    (5000, 1000000000)
    """

    def __init__(self, clock: Clock = monotonic_ns, wall: Callable[[], int] = time.time_ns) -> None:
        self._clock = clock
        self._wall = wall
        self.steps = 0  # how often the wall clock was set
        self.stepped = False  # it was, between the last two checks
        self.offset_ns = self._measured()

    def check(self) -> int:
        """The time now; stamps that are read after it are to be turned by `offset_ns`."""
        now = self._clock()
        self.stepped = False
        if not -_DRIFT_NS < self._wall() - now - self.offset_ns < _DRIFT_NS:
            offset_ns = self._measured()
            if abs(offset_ns - self.offset_ns) > _STEP_NS:
                self.stepped = True
                self.steps += 1
            self.offset_ns = offset_ns
        return now

    def _measured(self) -> int:
        """The wall clock less the run's: of several measurements the one that took least time."""
        best_ns, offset_ns = 1 << 62, 0
        for _ in range(5):
            before, wall, after = self._clock(), self._wall(), self._clock()
            if after - before < best_ns:
                best_ns, offset_ns = after - before, wall - (before + after) // 2
        return offset_ns
