"""Lock a file against other processes, on any operating system."""

from __future__ import annotations

import sys
from typing import IO, Any


def lock(file: IO[Any], *, wait: bool) -> None:
    """Lock an open file until it is closed.

    Raises:
        BlockingIOError: another process holds it, and this is not to wait.
        OSError: the file system knows no locks.
    """
    if sys.platform == "win32":
        import msvcrt

        file.seek(0)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError(error.errno, str(error)) from error
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_locked(file: IO[Any]) -> bool:
    """Whether another process holds the lock of an open file. Takes no lock that excludes others.

    Raises:
        OSError: the file system knows no locks.
    """
    try:
        if sys.platform == "win32":
            lock(file, wait=False)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            fcntl.flock(file, fcntl.LOCK_UN)
    except BlockingIOError:
        return True
    return False
