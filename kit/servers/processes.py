"""Finds or removes a run's processes and shared memory. Standard library only."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from kit.servers.remove import is_own_file

#: In the environment of everything that a run starts, and so of what those start: the run's name.
MARKER = "TRITON_CRASH_KIT_RUN"

_PR_SET_PDEATHSIG = 1

SHM = Path("/dev/shm")  # noqa: S108 (that is where POSIX shared memory lies on Linux)


def ending_with_us() -> Callable[[], int]:
    """What a child calls before its program (`preexec_fn`), to get SIGTERM when the thread that
    starts it ends, however that ends. Linux only.

    Source: prctl(2), PR_SET_PDEATHSIG.
    """
    libc = ctypes.CDLL(None)
    return lambda: int(libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0))


def start_ticks(pid: int) -> int | None:
    """When the process began, in clock ticks since boot; None = it is gone, or a zombie.

    With the pid this names a process for good: pids are used again, together they are not.
    """
    fields = _status(pid)
    return None if fields is None or fields[0] in ("Z", "X") else int(fields[19])


def marked(run: str) -> list[int]:
    """The pids of all processes that carry the run's marker, wherever they stand in the tree."""
    needle = f"{MARKER}={run}".encode()
    found = []
    for pid in _pids():
        with contextlib.suppress(OSError):  # gone meanwhile, or another user's
            if needle in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found.append(pid)
    return found


def children(pid: int) -> list[int]:
    """The pids of the processes that `pid` is the parent of, zombies included."""
    return _by_parent().get(pid, [])


def descendants(root: int) -> list[int]:
    """The pids of all processes below `root`, zombies included."""
    by_parent = _by_parent()
    found: list[int] = []
    level = [root]
    while level:
        level = [child for pid in level for child in by_parent.get(pid, [])]
        found += level
    return found


def seen_below(root: int) -> list[int]:
    """As `descendants`, at a fraction of its cost, for who looks again a moment later.

    The kernel's own list of children (/proc/<pid>/task/<tid>/children, see proc(5)) may leave one
    out while another ends; a search through all processes takes 20 ms on a busy machine.
    """
    own = os.getpid()
    if not Path(f"/proc/{own}/task/{own}/children").exists():  # a kernel without such lists
        return descendants(root)
    found: list[int] = []
    level = [root]
    while level:
        level = [child for pid in level for child in _listed_children(pid)]
        found += level
    return found


def _listed_children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):  # it has ended
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_bytes().split())
    return found


def stopped_below(root: int) -> list[int]:
    """Of a process and those below it, the ones that a signal has stopped (SIGSTOP)."""
    pids = [root, *seen_below(root)]
    return [pid for pid in pids if (fields := _status(pid)) and fields[0] == "T"]


def killed_below(root: int) -> list[int]:
    """Of the processes below `root`, the dead ones that it has not waited for and that SIGKILL
    ended: whoever kills its own child waits for it."""
    found = []
    for pid in seen_below(root):
        fields = _status(pid)
        # The last field but for the kernel's later ones: the wait status; 0 where it is hidden.
        if fields and fields[0] == "Z" and int(fields[49]) & 0x7F == signal.SIGKILL:
            found.append(pid)
    return found


def kill(pids: list[int], *, timeout_s: float) -> None:
    """Kill the processes and wait until they have ended, at most `timeout_s`.

    Another process that takes over one of the pids meanwhile is not hit.
    """
    poller = select.poll()
    waiting = []
    blind = False
    for pid in pids:
        before = start_ticks(pid)
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        except OSError:  # a kernel before 5.3: signal by number, and give it a moment
            blind = True
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
            continue
        waiting.append(handle)
        poller.register(handle, select.POLLIN)
        if before is not None and start_ticks(pid) == before:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
    if blind:
        time.sleep(min(0.1, timeout_s))
    deadline = time.monotonic() + timeout_s
    while waiting and (left := deadline - time.monotonic()) > 0:
        for handle, _ in poller.poll(left * 1000):
            poller.unregister(handle)
            waiting.remove(handle)
            os.close(handle)
    for handle in waiting:
        os.close(handle)


def semaphores_of(pids: list[int]) -> set[str]:
    """Names of the semaphores of Python's multiprocessing that these processes have open.

    vLLM makes some; whoever is killed cannot remove its own, and their names do not tell whose
    they are. The C library maps one under a name that it has removed since, so the file's number
    has to tell.
    """
    numbers = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
                if f" {SHM}/sem." in line:
                    numbers.add(int(line.split()[4]))
    found = set()
    for path in SHM.glob("sem.mp-*") if numbers else ():
        with contextlib.suppress(OSError):
            if path.stat().st_ino in numbers:
                found.add(path.name)
    return found


def regions(prefix: str) -> list[str]:
    """Names of the shared-memory regions of this user that begin with `prefix`."""
    try:
        names = sorted(os.listdir(SHM))
    except OSError:
        return []
    return [name for name in names if name.startswith(prefix) and is_own_file(SHM / name)]


def remove_regions(names: Iterable[str]) -> list[str]:
    """Remove the shared-memory regions of exactly these names; those that were there."""
    removed = []
    for name in names:
        with contextlib.suppress(OSError):
            (SHM / name).unlink()
            removed.append(name)
    return removed


def oom_kills() -> int | None:
    """Processes killed for want of memory since boot; None: the kernel does not tell."""
    try:
        counters = Path("/proc/vmstat").read_text().split()
        return int(counters[counters.index("oom_kill") + 1])
    except (OSError, ValueError):
        return None


def _by_parent() -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for pid in _pids():
        fields = _status(pid)
        if fields is not None:
            found.setdefault(int(fields[1]), []).append(pid)
    return found


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _status(pid: int) -> list[str] | None:
    """The fields of /proc/<pid>/stat from the state on, 0-based."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        return text[text.rindex(")") + 2 :].split()  # names may hold spaces and brackets
    except (OSError, ValueError):
        return None
