"""Calls a function at a given time, exact to some ten microseconds.

The event loop's own timers know milliseconds. On Linux a timerfd knows nanoseconds; elsewhere
the loop's timers have to do.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import sys
from collections.abc import Callable

from kit.load.link import Clock

_TFD_TIMER_ABSTIME = 1
_CLOCK_MONOTONIC = 1


class _Spec(ctypes.Structure):
    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


class Timer:
    """Calls `ring` once at the time set last; setting it again moves it."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, clock: Clock, ring: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._ring = ring
        self._handle: asyncio.TimerHandle | None = None
        self._fd = -1
        if sys.platform == "linux":
            libc = ctypes.CDLL(None)
            fd = libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
            if fd >= 0:
                self._fd = fd
                self._is_set = False
                self._spec = _Spec(0, 0, 0, 0)
                self._at = ctypes.byref(self._spec)
                self._settime = libc.timerfd_settime
                self._settime.argtypes = (
                    *(ctypes.c_int, ctypes.c_int),
                    *(ctypes.c_void_p, ctypes.c_void_p),
                )
                loop.add_reader(fd, self._fired)

    def set(self, at_ns: int) -> None:
        """Ring at `at_ns`, CLOCK_MONOTONIC; at once if that has passed."""
        if self._fd >= 0:
            at_ns = max(1, at_ns)  # 0 would switch it off
            self._spec.value_s, self._spec.value_ns = divmod(at_ns, 1_000_000_000)
            self._settime(self._fd, _TFD_TIMER_ABSTIME, self._at, None)
            self._is_set = True
            return
        if self._handle is not None:
            self._handle.cancel()
        delay_s = max(0.0, (at_ns - self._clock()) / 1e9)
        self._handle = self._loop.call_later(delay_s, self._ring)

    def _fired(self) -> None:
        self._is_set = False
        try:
            self._ring()
        finally:
            if not self._is_set and self._fd >= 0:  # setting it makes it forget that it rang
                with contextlib.suppress(BlockingIOError):
                    os.read(self._fd, 8)

    def close(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
        if self._handle is not None:
            self._handle.cancel()
