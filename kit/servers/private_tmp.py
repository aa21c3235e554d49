"""A /tmp of its own for a server, where the system lets an ordinary user make one.

Triton's Python backend makes `/tmp/python_env_XXXXXX`, wherever TMPDIR points, and leaves it when
it is killed. In a mount namespace of the server's own, /tmp is a folder of the run, which goes
with the run: nothing of it can be missed. What lay in /tmp before is there, too, at the same
paths, since models, caches and studies may lie in it.

Mount namespaces need root or user namespaces, which containers and some distributions forbid.
`possible` tries everything in a child first, so that a server is never started half-way.
Standard library alone, since a guard uses it (kit.servers.guard).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path

_CLONE_NEWNS = 0x00020000
_CLONE_NEWUSER = 0x10000000
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000
_TMP = "/tmp"  # noqa: S108 (the one that the Python backend has built in)
#: A /tmp with more entries than this is left as it is: each of them is a mount.
MOST_ENTRIES = 1000


def possible(folder: Path) -> bool:
    """Whether `enter` works with this folder; tried in a child, which leaves empty files and
    folders in it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            enter(folder)
            code = 0
        except BaseException:  # noqa: BLE001 (whatever it is, the answer is no)
            code = 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def enter(folder: Path) -> None:
    """Give this process, and what it will start, `folder` as /tmp, with bind mounts of what is in
    /tmp now. Call it in a process with one thread, before exec.

    Raises:
        OSError: the system does not allow it; the process is of no more use.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if os.geteuid() == 0 and libc.unshare(_CLONE_NEWNS) == 0:
        pass
    else:
        _checked(libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS))
        # The same user and group as before, without a single right more once the server runs.
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{user} {user} 1")
        _write("/proc/self/gid_map", f"{group} {group} 1")
    # From here on no mount of ours is seen outside: without that, removing the run's folder
    # would remove what is mounted in it.
    _checked(libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None))
    entries = [entry for entry in os.scandir(_TMP) if not entry.name.startswith("python_env_")]
    if len(entries) > MOST_ENTRIES:
        raise OSError(f"{len(entries)} entries in {_TMP}")
    for entry in entries:
        _show(libc, entry, os.path.join(folder, entry.name))
    _checked(libc.mount(os.fsencode(folder), _TMP.encode(), None, _MS_BIND | _MS_REC, None))


def _show(libc: ctypes.CDLL, entry: os.DirEntry[str], place: str) -> None:
    """Have an entry of /tmp at the same name in the new one; what vanishes meanwhile is left."""
    with contextlib.suppress(FileNotFoundError):
        if entry.is_symlink():
            with contextlib.suppress(FileExistsError):
                os.symlink(os.readlink(entry.path), place)
            return
        if entry.is_dir(follow_symlinks=False):
            os.makedirs(place, 0o700, exist_ok=True)
        else:
            os.close(os.open(place, os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW, 0o600))
        # Without MS_REC where it is the run's own folder, in which the new /tmp lies.
        inside = os.path.realpath(place).startswith(f"{entry.path}/")
        flags = _MS_BIND if inside else _MS_BIND | _MS_REC
        if libc.mount(os.fsencode(entry.path), os.fsencode(place), None, flags, None) != 0:
            number = ctypes.get_errno()
            if os.path.lexists(entry.path):
                raise OSError(number, os.strerror(number), entry.path)


def _checked(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _write(path: str, text: str) -> None:
    handle = os.open(path, os.O_WRONLY)
    try:
        os.write(handle, text.encode())
    finally:
        os.close(handle)
