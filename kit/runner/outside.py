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
from kit.study.files import read_end

#: What a stub of the Python backend logs before it ends itself with SIGKILL, since the server
#: beside it shows no sign of life: it dies, or hangs. Alike in nvidia-pytriton 0.2.5 to 0.7.0.
_ENDS_ITSELF = re.compile(rb"pb_stub\.cc:\d+\]\s+Non-graceful termination detected")
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
            elif killed_below(self._pid) and not self._stub_ended_itself():
                self.stopped_by = "SIGKILL to a process behind the server"

    def _stub_ended_itself(self) -> bool:
        if self._log is None:
            return False
        return _ENDS_ITSELF.search(read_end(self._log, _TAIL_BYTES)) is not None


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
