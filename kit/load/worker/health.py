"""Records a worker's own lateness and load: rows of kit.study.folder.CLIENT."""

from __future__ import annotations

import mmap
import time
from pathlib import Path
from typing import Protocol

from kit.load.link import Clock
from kit.study.arrow_file import ArrowAppender
from kit.study.folder import CLIENT

_PAGE_BYTES = mmap.PAGESIZE


class Counts(Protocol):
    """What a row says about the run."""

    sent: int
    ok: int

    @property
    def ended_count(self) -> int:
        """Requests that have their outcome."""


class ClientHealth:
    """Appends to `client-<worker>.arrows`, one row a tick of its caller's choosing."""

    def __init__(self, folder: Path, worker: int, clock: Clock = time.monotonic_ns) -> None:
        self._worker = worker
        self._clock = clock
        self._appender = ArrowAppender(folder / f"client-{worker}.arrows", CLIENT)
        self._lag_ns = 0
        self._wall_ns = clock()
        self._cpu_ns = time.process_time_ns()

    def late(self, lag_ns: int) -> None:
        """A timer of the event loop came so much later than asked."""
        self._lag_ns = max(self._lag_ns, lag_ns)

    def row(self, counts: Counts, worst_dispatch_ns: int | None) -> None:
        """Append a row over the time since the last one."""
        wall, cpu = self._clock(), time.process_time_ns()
        self._appender.append(
            {
                "t_ns": [wall],
                "worker": [self._worker],
                "loop_lag_s": [self._lag_ns / 1e9],
                "dispatch_delay_s": [
                    None if worst_dispatch_ns is None else worst_dispatch_ns / 1e9
                ],
                "cpu_fraction": [(cpu - self._cpu_ns) / max(1, wall - self._wall_ns)],
                "rss_bytes": [resident_bytes()],
                "in_flight": [counts.sent - counts.ended_count],
                "sent": [counts.sent],
                "ended": [counts.ended_count],
                "ok": [counts.ok],
            }
        )
        self._lag_ns, self._wall_ns, self._cpu_ns = 0, wall, cpu

    def close(self) -> None:
        self._appender.close()


def resident_bytes() -> int | None:
    """Memory of this process; None where the system does not say."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE_BYTES
    except OSError:
        return None
