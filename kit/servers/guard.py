"""Supervisor process: runs one command, reports its exit status, cleans up.

A small process of its own between an owner (a trial) and a server. It is told what to run on
standard input and reports on standard output, one JSON object a line. All that the server
starts stays below it (it is their subreaper), so it can end and reap every one, also those that
a crashed server leaves; and it outlives its owner, so it can clean up after a `kill -9` of it.
Runs with the standard library alone, to be small and quick to start.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from kit.servers import private_tmp
from kit.servers.processes import (
    children,
    descendants,
    kill,
    regions,
    remove_regions,
    semaphores_of,
)
from kit.servers.python_env import remove_noted
from kit.servers.remove import remove_folder

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
#: Who may want the server to end: the trial that started it, or else a signal's name.
OWNER = "owner"


class Guard:
    """One watched command. `order` has command, environment, log, owner and private_tmp, and what
    to remove at the end: shm_prefix, folder, record."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._order = order
        self._pid = 0
        self._ended = False
        self._semaphores: set[str] = set()
        self._kill_at: float | None = None  # set once it is to stop
        self._asked_by: str | None = None  # who wanted that first
        self._libc = ctypes.CDLL(None)
        self._libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        woken, wake = os.pipe()
        os.set_blocking(woken, False)
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, self._on_signal)
        #: What is waited for, and what to do when it can be read.
        self._inputs: dict[int, Callable[[], None]] = {
            0: self._hear,
            woken: lambda: _drain(woken),
        }

    def run(self) -> None:
        try:
            self._start()
        except (OSError, subprocess.SubprocessError) as error:
            _tell(event="failed", reason=str(error))
        else:
            _tell(event="started", pid=self._pid, t_ns=time.monotonic_ns())
            self._watch()
        self._clean_up()

    def _start(self) -> None:
        import resource

        order = self._order
        guard = os.getpid()
        own_tmp = self._private_tmp()

        def prepare() -> None:
            if own_tmp is not None:
                private_tmp.enter(own_tmp)
                os.chdir(order["folder"])
            # Should the guard be killed, the server goes with it; the rest is found by its mark.
            self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != guard:
                os._exit(1)
            # A crash leaves no core file; 1 also keeps it from programs that collect cores,
            # which 0 does not.
            if resource.getrlimit(resource.RLIMIT_CORE)[1] != 0:
                resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
            # As many open files as it may have: what a shell grants is for other programs.
            most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
        log = os.open(order["log"], flags, 0o644)
        try:
            # Waited for by waitpid below, together with the orphans, never through this object.
            self._pid = subprocess.Popen(
                order["command"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=order["folder"],
                env=order["environment"],
                start_new_session=True,
                preexec_fn=prepare,  # safe: this process has one thread
            ).pid
        finally:
            os.close(log)

    def _private_tmp(self) -> Path | None:
        """The folder that the server has as its /tmp; None where the system allows no such thing.

        The server is then in a mount namespace; this guard, which removes the folder, is not.
        """
        if not self._order["private_tmp"]:
            return None
        folder = Path(self._order["folder"]) / "tmp"
        folder.mkdir(mode=0o700)
        return folder if private_tmp.possible(folder) else None

    def _watch(self) -> None:
        """Until the server has ended: by itself, by order, or with its owner."""
        with contextlib.suppress(OSError):  # gone already: the end of standard input says so too
            owner = os.pidfd_open(self._order["owner"])
            self._inputs[owner] = lambda: self._lose_owner(owner)
        while not self._ended:
            left = None if self._kill_at is None else self._kill_at - time.monotonic()
            if left is not None and left <= 0:
                self._kill([self._pid, *descendants(self._pid)])
                left = 0.1
            for handle in select.select(list(self._inputs), [], [], left)[0]:
                self._inputs[handle]()
            self._reap()

    def _hear(self) -> None:
        """An order to stop: a number, the seconds to be polite for. The end: the owner died."""
        words = os.read(0, 4096).split()
        if not words:
            self._lose_owner(0)
        elif self._kill_at is None:
            self._ask_to_end()
            self._kill_within(float(words[-1]), OWNER)
        else:
            self._kill_within(float(words[-1]), OWNER)

    def _ask_to_end(self) -> None:
        """Have it unload its models, and know when they are unloaded: its own children end.

        What a server does after that, two seconds of waiting for its threads, nobody needs.
        """
        pids = children(self._pid)
        self._semaphores |= semaphores_of([self._pid, *descendants(self._pid)])
        models = set(_handles(pids))

        def ended(handle: int) -> None:
            del self._inputs[handle]
            os.close(handle)
            models.discard(handle)
            if not models:
                self._kill_within(0.0)

        for handle in models:
            self._inputs[handle] = partial(ended, handle)
        if not pids:
            self._kill_within(0.0)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGTERM)

    def _lose_owner(self, handle: int) -> None:
        del self._inputs[handle]
        self._kill_within(0.0, OWNER)

    def _on_signal(self, number: int, _frame: object) -> None:
        self._kill_within(0.0, signal.Signals(number).name)

    def _kill_within(self, patience_s: float, asked_by: str = OWNER) -> None:
        self._asked_by = self._asked_by or asked_by
        until = time.monotonic() + patience_s
        self._kill_at = until if self._kill_at is None else min(until, self._kill_at)

    def _reap(self) -> bool:
        """Take the status of every child that ended; False once there is no child left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self._pid:
                self._ended = True
                code = os.waitstatus_to_exitcode(status)
                if self._kill_at is not None and code in (-signal.SIGKILL, -signal.SIGTERM):
                    code = 0  # that was this guard; a negative code always is the server's own
                asked = self._asked_by or ""
                _tell(event="exited", code=code, t_ns=time.monotonic_ns(), asked_by=asked)

    def _kill(self, pids: list[int]) -> None:
        """Kill them, and remember the semaphores that they can then no longer remove."""
        self._semaphores |= semaphores_of(pids)
        kill(pids, timeout_s=1.0)

    def _clean_up(self) -> None:
        deadline = time.monotonic() + 10.0
        while self._reap() and time.monotonic() < deadline:
            self._kill(descendants(os.getpid()))
        remove_regions([*regions(self._order["shm_prefix"]), *self._semaphores])
        remove_noted(Path(self._order["record"]))
        remove_folder(Path(self._order["folder"]))
        with contextlib.suppress(OSError):
            os.unlink(self._order["record"])


def _handles(pids: list[int]) -> list[int]:
    handles = []
    for pid in pids:
        with contextlib.suppress(OSError):
            handles.append(os.pidfd_open(pid))
    return handles


def _drain(handle: int) -> None:
    with contextlib.suppress(BlockingIOError):
        os.read(handle, 4096)


def _tell(**message: object) -> None:
    with contextlib.suppress(OSError):  # the owner is gone
        os.write(1, json.dumps(message).encode() + b"\n")


def main() -> None:
    with open(0, "rb", buffering=0, closefd=False) as orders:  # unbuffered: select comes next
        line = orders.readline()
    if line.endswith(b"\n"):  # else the owner died before it had said anything
        Guard(json.loads(line)).run()


if __name__ == "__main__":
    main()
