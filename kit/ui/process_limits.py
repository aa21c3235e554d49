"""What this process may use: files, address space. Too little is said by name, not by a traceback.

A library that finds no room for a thread or a file ends the process in ways of its own, so the
command line looks at the limits before it loads any.
"""

from __future__ import annotations

import contextlib
import errno
import sys

from kit.errors import MachineError

#: A study holds a few files open for each of its trials, and one for each client.
LEAST_FILES = 256
#: Of address space, not of memory: a load worker or a server takes up to 2 GB of it.
LEAST_BYTES = 4_000_000_000


def check_limits() -> None:
    """Raise the limit of open files to what is needed, if that is allowed.

    Raises:
        MachineError: this process may open too few files, or has too little address space.
    """
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < LEAST_FILES:
        with contextlib.suppress(OSError, ValueError):  # above the hard limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (LEAST_FILES, hard))
            soft = LEAST_FILES
    if 0 <= soft < LEAST_FILES:
        raise MachineError(
            f"a limit of {soft} open files for this process",
            f"{LEAST_FILES} or more",
            "raise it: `ulimit -n 1024`",
        )
    if resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY:
        # CPython writes its cache of compiled modules short, without a word, and never reads
        # them again: every later import fails. https://github.com/python/cpython/issues/126606
        sys.dont_write_bytecode = True
    space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if 0 <= space < LEAST_BYTES:
        raise MachineError(
            f"a limit of {space // 1_000_000:,} MB of address space for this process",
            f"{LEAST_BYTES // 1_000_000:,} MB or more",
            "raise it: `ulimit -v unlimited`; to bound memory itself, use a cgroup",
        )


def lacking(error: OSError | MemoryError) -> MachineError:
    """The named error for what the operating system refused.

    >>> lacking(OSError(28, "No space left on device", "/data/x")).given
    '/data/x: No space left on device'
    """
    if isinstance(error, MemoryError):
        return MachineError(
            "no memory is left for this command", "enough of it", "end other programs, or ask less"
        )
    said = error.strerror or str(error) or type(error).__name__
    place = "" if error.filename is None else f"{error.filename}: "
    hints = {
        errno.ENOSPC: "free some space, or name another folder",
        errno.EDQUOT: "free some of your quota, or name another folder",
        errno.EFBIG: "raise the limit of a file's size: `ulimit -f unlimited`",
        errno.EMFILE: "raise the limit of open files: `ulimit -n 1024`",
        errno.ENFILE: "close other programs: the machine has no more open files to give",
        errno.EROFS: "name a folder of a file system that can be written",
        errno.EACCES: "name a folder that you may use",
        errno.EAGAIN: "raise the limit of processes: `ulimit -u`, or end some",
        errno.ENOMEM: "end other programs, or ask less",
    }
    hint = hints.get(error.errno or 0, "look at the path and at the file system that it lies on")
    return MachineError(f"{place}{said}", "that the operating system allows it", hint)
