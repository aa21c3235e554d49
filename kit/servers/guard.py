"""A command in, its life watched from beside: exit status out, and nothing left behind.

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
import resource
import select
import shutil
import signal
import subprocess
import time
from typing import Any

from kit.servers.processes import descendants, kill, remove_shared_memory

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


class Guard:
    """One watched command. `order` has command, environment, folder, log, owner, and what to
    remove at the end: shm_prefix, folder, record."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._order = order
        self._exit: int | None = None
        self._stop_at: float | None = None  # when patience with a stopping server ends
        self._children, wake = os.pipe()
        for end in (self._children, wake):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop(0.0))
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._pid = 0

    def run(self) -> None:
        try:
            self._start()
        except OSError as error:
            _tell(event="failed", reason=str(error))
        else:
            _tell(event="started", pid=self._pid, t_ns=time.monotonic_ns())
            self._watch()
        self._clean_up()
        _tell(event="gone")

    def _start(self) -> None:
        order = self._order
        guard = os.getpid()

        def prepare() -> None:
            # Should the guard be killed, the server goes with it; the rest is found by its mark.
            self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != guard:
                os._exit(1)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash must not leave core files

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

    def _watch(self) -> None:
        """Until the server has ended, by itself, by order, or with its owner."""
        inputs = [0, self._children]
        owner = -1
        with contextlib.suppress(OSError):  # gone already: its end of standard input says so too
            owner = os.pidfd_open(self._order["owner"])
            inputs.append(owner)
        while self._exit is None:
            patience = None if self._stop_at is None else self._stop_at - time.monotonic()
            if patience is not None and patience <= 0:
                kill([self._pid, *descendants(self._pid)], timeout_s=1.0)
                patience = 1.0
            ready, _, _ = select.select(inputs, [], [], patience)
            if self._children in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._children, 4096)
            if 0 in ready:
                order = os.read(0, 4096).split()
                self._stop(float(order[-1]) if order else 0.0)
                if not order:
                    inputs.remove(0)
            if owner in ready:
                inputs.remove(owner)
                self._stop(0.0)
            self._reap()

    def _stop(self, patience_s: float) -> None:
        until = time.monotonic() + patience_s
        if self._stop_at is None and patience_s > 0:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGTERM)
        self._stop_at = until if self._stop_at is None else min(until, self._stop_at)

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
                self._exit = os.waitstatus_to_exitcode(status)
                _tell(event="exited", code=self._exit, t_ns=time.monotonic_ns())

    def _clean_up(self) -> None:
        deadline = time.monotonic() + 10.0
        while self._reap() and time.monotonic() < deadline:
            kill(descendants(os.getpid()), timeout_s=1.0)
        remove_shared_memory(self._order["shm_prefix"])
        shutil.rmtree(self._order["folder"], ignore_errors=True)
        with contextlib.suppress(OSError):
            os.unlink(self._order["record"])


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
