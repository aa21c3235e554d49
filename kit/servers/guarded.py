"""A handle on a guarded process: exit code, time of death, who ended it, stop."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from kit.errors import ServerStartError
from kit.servers import traces
from kit.servers.processes import MARKER
from kit.servers.runs import Run

_ROOT = Path(__file__).resolve().parents[2]
_GUARD = f"import sys; sys.path.insert(0, {str(_ROOT)!r}); import kit.servers.guard as g; g.main()"

#: How long the guard may take to remove everything once the server has ended.
_CLEAN_UP_S = 15.0

#: 0 lets servers share /tmp with everybody, as where the system forbids anything else.
PRIVATE_TMP = "KIT_PRIVATE_TMP"


def private_tmp_allowed() -> bool:
    """Whether a server may have a /tmp of its own, if the system can give it one."""
    return os.environ.get(PRIVATE_TMP) != "0"


class GuardedProcess:
    """A process that leaves nothing behind, whatever happens to it or to us.

    Give it a registered run; the run is off the register when `stop` returns. Safe to ask from
    several threads.
    """

    def __init__(
        self, run: Run, command: Sequence[str], environment: Mapping[str, str], log: Path
    ) -> None:
        self._run = run
        self._lock = threading.Lock()
        self._heard = b""
        self._over = threading.Event()  # the guard has ended
        self.pid: int | None = None
        self.exit_code: int | None = None
        self.exited_ns: int | None = None  # CLOCK_MONOTONIC
        self.failure: str | None = None
        self.stopped_by: str | None = None  # who ended it, if neither itself nor its owner did
        order = {
            "command": list(command),
            "environment": {**environment, **run.environment},
            "folder": str(run.folder),
            "log": str(log.absolute()),
            "owner": os.getpid(),
            "shm_prefix": run.shm_prefix,
            "record": str(run.record),
            "private_tmp": private_tmp_allowed(),
        }
        loader = {k: v for k, v in os.environ.items() if k == "LD_LIBRARY_PATH"}
        # -I -S: neither the user's settings nor any package; the guard is up in 30 ms.
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _GUARD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={MARKER: run.name, **loader},
            cwd="/",
            start_new_session=True,  # a Ctrl-C in the terminal is the owner's business
        )
        assert self._guard.stdin is not None
        assert self._guard.stdout is not None
        self._stdin = self._guard.stdin
        self._stdout = self._guard.stdout
        os.set_blocking(self._stdout.fileno(), False)
        self._say(json.dumps(order).encode() + b"\n")
        while self.pid is None and self.failure is None and not self._over.is_set():
            self._listen(None)
        if self.pid is None:
            self.stop()
            raise ServerStartError(
                f"{command[0]} could not be started: {self.failure or 'its guard ended'}",
                "a program that runs",
                "look at the reason given; a cache on a disk that runs no programs is moved by "
                "TRITON_CRASH_KIT_CACHE",
            )

    def poll(self) -> int | None:
        """The exit code as subprocess gives it (-11 is SIGSEGV); None while it runs."""
        if self.exit_code is None:
            self._listen(0.0)
        return self.exit_code

    def wait(self, timeout_s: float) -> int | None:
        """As `poll`, once it has ended or the time is over."""
        deadline = time.monotonic() + timeout_s
        while self.exit_code is None and (left := deadline - time.monotonic()) > 0:
            self._listen(left)
        return self.poll()

    def stop(self, patience_s: float = 0.0) -> int | None:
        """End it: politely for `patience_s`, then not. When this returns, nothing is left.

        Returns its exit code: its own if it had ended by itself, 0 if this made it end, None if
        it never ran.
        """
        self._say(f"{patience_s}\n".encode())
        deadline = time.monotonic() + patience_s + _CLEAN_UP_S
        while not self._over.is_set() and (left := deadline - time.monotonic()) > 0:
            self._listen(left)
        with self._lock:
            self._close()
        return self.exit_code

    def _say(self, line: bytes) -> None:
        with contextlib.suppress(OSError, ValueError):  # the guard is gone; or all was over before
            self._stdin.write(line)
            self._stdin.flush()

    def _listen(self, timeout_s: float | None) -> None:
        """Take in what the guard says within the time; returns early when it said something."""
        if self._over.is_set() or not select.select([self._stdout], [], [], timeout_s)[0]:
            return
        with self._lock:
            if self._over.is_set():
                return
            try:
                chunk = os.read(self._stdout.fileno(), 65_536)
            except BlockingIOError:
                return  # another thread was faster
            *lines, self._heard = (self._heard + chunk).split(b"\n")
            for line in lines:
                self._hear(json.loads(line))
            if not chunk:
                self._over.set()
                self._guard_ended()

    def _hear(self, message: dict[str, object]) -> None:
        match message:
            case {"event": "started", "pid": int(pid)}:
                self.pid = pid
            case {"event": "exited", "code": int(code), "t_ns": int(t_ns), "asked_by": asked}:
                self.exited_ns = t_ns
                if asked not in ("", "owner"):
                    self.stopped_by = f"{asked} to the server's guard"
                self.exit_code = code
            case {"event": "failed", "reason": str(reason)}:
                self.failure = reason
            case _:
                pass

    def _guard_ended(self) -> None:
        """The guard cleaned up and ended; or somebody killed it, and the server died with it."""
        self._guard.wait()
        if self._run.record.exists():
            traces.remove(self._run)
            if self.pid is not None and self.exit_code is None:
                self.stopped_by = "SIGKILL to the server's guard"
                self.exited_ns = time.monotonic_ns()
                self.exit_code = -9

    def _close(self) -> None:
        if not self._over.is_set():  # a guard that hangs, on a process that cannot be killed
            self._over.set()
            self._guard.kill()
            self._guard_ended()
        for pipe in (self._stdin, self._stdout):
            with contextlib.suppress(OSError):
                pipe.close()
