"""The server's processes and its health endpoints → samples, and what is still alive.

A server is `tritonserver` and the processes under it: Python stubs and, with a real engine,
the engine's own. They outlive a crashed server, so they are remembered.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from kit.servers.processes import seen_below
from kit.servers.watch.names import (
    OPEN_FILES,
    PROCESS,
    SERVER_CPU,
    SERVER_RSS,
    SERVER_SHARED,
    STUB_CPU,
    STUB_RSS,
    Sample,
)

#: Looking for new processes costs some system calls for each; a model's stubs seldom change.
RESCAN_S: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What was seen last; None = never told (no such endpoint, or no answer yet)."""

    ready: bool | None = None
    model_ready: bool | None = None
    at_ns: int | None = None  # when a health endpoint answered last
    stubs_alive: bool | None = None  # every stub and engine process there at the start still runs


class ServerProcesses:
    """The process `pid` and all below it, by psutil."""

    def __init__(self, pid: int) -> None:
        self._below: dict[int, psutil.Process] = {}
        self._scanned_ns: int | None = None
        self._at_start: list[psutil.Process] = []
        try:
            self._server: psutil.Process | None = psutil.Process(pid)
        except psutil.Error:
            self._server = None  # it died already
        self._scan()
        self._at_start = list(self._below.values())

    def read(self, *, t_ns: int) -> list[Sample]:
        """Memory and processor time of the server, and of the processes below it together; its
        shared memory and open files.

        A process that is gone, or dead and not yet waited for, gives no row.
        """
        if self._scanned_ns is None or t_ns - self._scanned_ns >= RESCAN_S * 1e9:
            self._scan()
            self._scanned_ns = t_ns
        values: list[tuple[str, float]] = []
        server = [] if self._server is None else [self._server]
        for processes, rss_name, cpu_name in (
            (server, SERVER_RSS, SERVER_CPU),
            (list(self._below.values()), STUB_RSS, STUB_CPU),
        ):
            readings = [reading for p in processes if (reading := _read(p)) is not None]
            if readings:
                values.append((rss_name, sum(rss for rss, _ in readings)))
                values.append((cpu_name, sum(cpu for _, cpu in readings)))
        if self._server is not None:
            values += _held(self._server)
        return [Sample(t_ns=t_ns, source=PROCESS, name=name, value=v) for name, v in values]

    def stubs_alive(self) -> bool | None:
        """Whether each process there was below the server at the start still runs."""
        if not self._at_start:
            return None  # there was none
        return all(_read(process) is not None for process in self._at_start)

    def _scan(self) -> None:
        if self._server is None:
            return
        for pid in seen_below(self._server.pid):
            if pid not in self._below:
                with contextlib.suppress(psutil.Error):  # gone meanwhile
                    self._below[pid] = psutil.Process(pid)


def _held(process: psutil.Process) -> list[tuple[str, float]]:
    """Shared memory and open files of the server; nothing of what the kernel does not tell."""
    values = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        status = Path(f"/proc/{process.pid}/status").read_text()
        kilobytes = status.partition("RssShmem:")[2].split()[0]
        values.append((SERVER_SHARED, 1024.0 * int(kilobytes)))
    with contextlib.suppress(psutil.Error, OSError):
        files = float(process.num_fds())
        if files:  # a dead process that nobody has waited for has none
            values.append((OPEN_FILES, files))
    return values


def _read(process: psutil.Process) -> tuple[float, float] | None:
    """Resident bytes and processor seconds; None for one that is dead, buried or not."""
    try:
        with process.oneshot():
            if process.status() == psutil.STATUS_ZOMBIE:
                return None
            times = process.cpu_times()
            return float(process.memory_info().rss), times.user + times.system
    except psutil.Error:
        return None
