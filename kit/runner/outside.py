"""What befell a trial from outside: a signal to the server's processes, no space left.

A death that somebody else caused is no verdict about the server, so what can be seen of such
causes is looked for while the load runs and kept, the first of each kind.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from kit.servers.processes import SHM, killed_below, stopped_below
from kit.study.files import size_bytes

#: What the server's log says before a stub of the Python backend ends itself with SIGKILL, since
#: the server beside it no longer shows signs of life (pb_stub.cc), and what a server says that
#: dies of a fault of its own.
_BY_ITSELF = re.compile(
    rb"Non-graceful termination detected|^Signal \(\d+\) received", re.MULTILINE
)
_TAIL_BYTES = 256 * 1024
#: A folder with less than this cannot take what a server or a load worker writes next.
LEAST_BYTES = 256 * 1024


class Outside:
    """Looks at the processes below `pid`, whose log is `log`, and at the space a trial needs."""

    def __init__(self, pid: int | None, folders: Iterable[Path], log: Path | None = None) -> None:
        self._pid, self._log = pid, log
        self._folders = (SHM, *folders)
        self.stopped_by: str | None = None  # whose signal it was
        self.shortage: str | None = None  # what there was none left of

    def look(self) -> None:
        """Note what is to be seen now; a few system calls for each process of the server."""
        self.shortage = self.shortage or shortage(self._folders)
        if self._pid is not None and self.stopped_by is None:
            if stopped_below(self._pid):
                self.stopped_by = "SIGSTOP to one of its processes"
            elif killed_below(self._pid) and not self._ended_itself():
                self.stopped_by = "SIGKILL to a process behind the server"

    def _ended_itself(self) -> bool:
        """Whether the log tells of a stub that ends itself, or of a server that dies."""
        if self._log is None:
            return False
        try:
            with self._log.open("rb") as file:
                file.seek(max(0, size_bytes(self._log) - _TAIL_BYTES))
                return _BY_ITSELF.search(file.read()) is not None
        except OSError:
            return False


def shortage(folders: Iterable[Path]) -> str | None:
    """Which of the folders has no space or no file left; None: each has some."""
    for folder in folders:
        try:
            status = os.statvfs(folder)
        except OSError:
            continue
        if status.f_bavail * status.f_frsize < LEAST_BYTES and status.f_blocks:
            return f"no space left in {folder}"
        if status.f_files and status.f_favail < 2:
            return f"no files left in {folder}"
    return None
