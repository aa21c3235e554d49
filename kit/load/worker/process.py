"""Starts, watches and ends one load worker in a process of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from types import TracebackType

import msgspec

from kit.load.worker.counters import Counters, LoadProgress, counters_path, progress_of
from kit.study.folder import TrialFolder
from kit.study.paths import ROOT
from kit.study.spec import Endpoint, TrialSpec

#: A worker that was asked to leave needs milliseconds; this is for a machine in distress.
LEAVE_S = 10.0
#: Signals that a process can bring upon itself; the log then says more.
_OWN_FAULTS = ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL")


class LoadWorker:
    """Worker `worker` of `spec.workload.workers`; it dies with whoever started it.

    It reads the spec from `folder` and appends requests-<w>.arrows and client-<w>.arrows there;
    what goes wrong in it is in load-<w>.log. Use it as a context manager, or `stop`/`kill` it.
    """

    def __init__(
        self, spec: TrialSpec, endpoint: Endpoint, folder: TrialFolder, *, worker: int = 0
    ) -> None:
        self._endpoint = endpoint
        self._folder = folder
        self._worker = worker
        self._process: subprocess.Popen[bytes] | None = None
        self._counters: Counters | None = None
        self._killed_by_us = False
        self._ended_ns: int | None = None
        self._broke_ns: int | None = None
        self.log = folder.path / f"load-{worker}.log"

    def start(self) -> None:
        """Start the process; it begins to send when all workers of the workload are there."""
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "kit.load.worker.worker"),
                    str(self._folder.path.resolve()),
                    str(self._worker),
                    msgspec.json.encode(self._endpoint).decode(),
                ],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                # gRPC would write a line for each connection that fails, which are records here.
                env={"GRPC_VERBOSITY": "NONE", **os.environ},
                start_new_session=True,  # Ctrl-C in a terminal is for the trial, not for us
            )
        threading.Thread(target=self._note_end, args=(self._process,), daemon=True).start()

    def _note_end(self, process: subprocess.Popen[bytes]) -> None:
        process.wait()
        self._ended_ns = time.monotonic_ns()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def poll(self) -> int | None:
        """None: running; 0: its workload came to a stop rule; else it failed (see `log`)."""
        return self._process.poll() if self._process else None

    def error(self, *, until_ns: int | None = None) -> str | None:
        """What it said when it failed; None: it has not, or only after `until_ns`."""
        code = self.poll()
        if until_ns is not None and (since := self._failing_since_ns()) and since > until_ns:
            return None
        if self._killed_by_us:
            return f"it did not answer for {LEAVE_S:g} s, and was killed"
        if code in (0, None):
            return None
        number = -code if code < 0 else code - 128
        with contextlib.suppress(ValueError):  # else it is no signal's number
            name = signal.Signals(number).name
            if name not in _OWN_FAULTS:
                return f"somebody ended it with {name}"
        with contextlib.suppress(OSError):
            text = self.log.read_text(errors="replace").split("\n")
            if lines := [line.strip() for line in text if line.strip()]:
                return lines[-1]
        return f"it ended with status {code}"

    def _failing_since_ns(self) -> int | None:
        """When it began to fail, as it noted itself; else when it was seen to have ended."""
        self.progress()
        return self._broke_ns or self._ended_ns

    def wait(self, timeout_s: float) -> int | None:
        """As `poll`, after waiting for the end for at most so long."""
        if self._process is None:
            return None
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(timeout_s)
        return None

    def progress(self) -> LoadProgress:
        """How far it has come; costs no system call once the worker is up."""
        words = self.words()
        progress = LoadProgress() if words is None else progress_of(words)
        self._broke_ns = progress.broke_ns or self._broke_ns
        return progress

    def words(self) -> list[int] | None:
        """Its counts as it writes them (kit.load.worker.counters.Field); None: not yet."""
        if self._counters is None:
            try:
                self._counters = Counters(counters_path(self._folder.path, self._worker))
            except (OSError, ValueError):
                return None
        return self._counters.words.tolist()

    def server_died(self, died_ns: int) -> None:
        """Tell it that the server is dead: open requests become in_flight, it flushes and ends."""
        self._tell(b"died %d\n" % died_ns)

    def begin(self, start_ns: int) -> None:
        """Tell a worker of several hosts when to begin, by this host's clock."""
        self._tell(b"start %d\n" % start_ns)

    def stop(self) -> None:
        """Ask it to end soon; open requests are recorded."""
        self._tell(b"stop\n")

    def kill(self) -> None:
        """End it now; at most the last half second of records is lost."""
        if self._process is not None:
            self._killed_by_us = self._process.poll() is None
            self._process.kill()
            self._process.wait()
        self.close()

    def close(self) -> None:
        """Let go of pipe and shared memory; a worker that still runs writes and leaves."""
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        if self._counters is not None:
            self.progress()
            self._counters.close()
            self._counters = None

    def _tell(self, line: bytes) -> None:
        if self._process is None or self._process.stdin is None:
            return
        with contextlib.suppress(OSError, ValueError):  # it has already left
            self._process.stdin.write(line)
            self._process.stdin.flush()

    def __enter__(self) -> LoadWorker:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        if self.wait(LEAVE_S) is None:
            self.kill()
