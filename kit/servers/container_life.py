"""Follows a started container: its process, its log, its end and when that was."""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from pathlib import Path
from typing import Final

import psutil

from kit.errors import ContainerError
from kit.servers.base import End
from kit.servers.container_engine import ContainerEngine
from kit.servers.engine_errors import Asked
from kit.servers.processes import descendants

SERVER: Final = "tritonserver"
_JOIN_S: Final = 5.0
_FIND_S: Final = 5.0
_SIGNALLED: Final = 128


class ContainerLife:
    """Two threads beside one container, each with a client of its own.

    first_pid: the container's first process, where the engine's are this machine's processes.
    """

    def __init__(
        self, engine: ContainerEngine, container: str, log: Path, *, first_pid: int | None
    ) -> None:
        self._engine = engine
        self._asked = Asked(engine=engine.address.url)
        self._container = container
        self._log_path = log
        self._ended: End | None = None
        self._is_over = threading.Event()
        self.stopping = threading.Event()  # what ends from now on was ended by the kit
        self.pid = None if first_pid is None else _server_below(first_pid)
        self._log = threading.Thread(target=self._follow, name="container-log", daemon=True)
        self._end = threading.Thread(target=self._await_end, name="container-end", daemon=True)
        self._log.start()
        self._end.start()

    def end(self, timeout_s: float) -> End | None:
        """Its end, once there is one or the time is over."""
        self._is_over.wait(timeout_s)
        return self._ended

    def join(self) -> None:
        """Wait for the threads, once the container is removed."""
        self._log.join(_JOIN_S)
        self._end.join(_JOIN_S)

    def _follow(self) -> None:
        """Write what the server prints to the trial's log as it comes."""
        with (
            contextlib.suppress(ContainerError),  # a cut connection ends the log
            self._engine.errors(self._asked),
            self._log_path.open("ab", buffering=0) as file,
        ):
            client = self._engine.client()
            try:
                for piece in client.api.logs(self._container, stream=True, follow=True):
                    file.write(piece)
            finally:
                client.close()

    def _await_end(self) -> None:
        """Wait for the server's process, where it is seen, then for the container and its log."""
        at_ns = self._await_process()
        try:
            with self._engine.errors(self._asked):
                client = self._engine.client()
                try:
                    client.api.wait(self._container, timeout=None)
                    state = client.api.inspect_container(self._container)["State"]
                finally:
                    client.close()
        except ContainerError as error:
            self._tell(End(at_ns=time.monotonic_ns(), lost=self._engine.lost or error.given))
            return
        at_ns = at_ns or time.monotonic_ns()
        self._log.join(_JOIN_S)
        self._tell(End(exit_code=as_subprocess(int(state["ExitCode"])), at_ns=at_ns))

    def _tell(self, end: End) -> None:
        if not self.stopping.is_set():
            self._ended = end
            self._is_over.set()

    def _await_process(self) -> int | None:
        """When the server's process ended, as exactly as the kernel told; None: not seen."""
        if self.pid is None:
            return None
        try:
            handle = os.pidfd_open(self.pid)
        except OSError:
            return time.monotonic_ns()
        poller = select.poll()
        poller.register(handle, select.POLLIN)
        try:
            while not self.stopping.is_set():
                if poller.poll(200):
                    return time.monotonic_ns()
        finally:
            os.close(handle)
        return None


def _server_below(first: int) -> int | None:
    """The server's process in a container, once it is there; None: it is not, or not to be seen."""
    deadline = time.monotonic() + _FIND_S
    while time.monotonic() < deadline and psutil.pid_exists(first):
        for pid in [first, *descendants(first)]:
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text().strip() == SERVER:
                    return pid
        time.sleep(0.02)
    return None


def as_subprocess(code: int) -> int:
    """128 + N of a container that a signal ended, as subprocess gives it: -N."""
    return _SIGNALLED - code if _SIGNALLED < code <= _SIGNALLED + 64 else code
