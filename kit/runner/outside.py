"""What befell a trial from outside: a signal to the server's processes, no space left.

A death that somebody else caused is no verdict about the server, so what can be seen of such
causes is looked for while the load runs and kept, the first of each kind.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from kit.servers.processes import SHM, killed_below, stopped_below

#: A folder with less than this cannot take what a server or a load worker writes next.
LEAST_BYTES = 256 * 1024


class Outside:
    """Looks at the processes below `pid` and at the space that a trial needs."""

    def __init__(self, pid: int | None, folders: Iterable[Path]) -> None:
        self._pid = pid
        self._folders = (SHM, *folders)
        self.stopped_by: str | None = None  # whose signal it was
        self.shortage: str | None = None  # what there was none left of

    def look(self) -> None:
        """Note what is to be seen now; a few system calls for each process of the server."""
        self.shortage = self.shortage or shortage(self._folders)
        if self._pid is not None and self.stopped_by is None:
            if stopped_below(self._pid):
                self.stopped_by = "SIGSTOP to one of its processes"
            elif killed_below(self._pid):
                self.stopped_by = "SIGKILL to a process behind the server"


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
