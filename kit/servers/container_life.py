"""Follows a started container: its process, its log, its end and when that was."""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from pathlib import Path
from typing import Final

from kit.errors import ContainerError
from kit.servers.base import End
from kit.servers.container_engine import ContainerEngine
from kit.servers.engine_errors import Asked
from kit.servers.processes import descendants

SERVER: Final = "tritonserver"
_JOIN_S: Final = 5.0
_FIND_S: Final = 0.05
_SIGNALLED: Final = 128


class ContainerLife:
    """Threads beside one container, each with a client of its own.

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
        self.pid: int | None = None
        self._first_pid = first_pid
        self._is_searched = threading.Event()
        self._gives_up = threading.Event()
        self._died_ns: int | None = None
        self._log = threading.Thread(target=self._follow, name="container-log", daemon=True)
        self._end = threading.Thread(target=self._await_end, name="container-end", daemon=True)
        self._process = threading.Thread(
            target=self._await_process, name="container-process", daemon=True
        )
        for thread in (self._log, self._end, self._process):
            thread.start()

    def end(self, timeout_s: float) -> End | None:
        """Its end, once there is one or the time is over."""
        self._is_over.wait(timeout_s)
        return self._ended

    def search(self, timeout_s: float) -> None:
        """Wait until the server's process is found; one that is not by then has another name."""
        if not self._is_searched.wait(timeout_s):
            self._gives_up.set()

    def join(self) -> None:
        """Wait for the threads, once the container is removed."""
        for thread in (self._log, self._end, self._process):
            thread.join(_JOIN_S)

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
        """Wait for the container's end and its log's.

        The engine is asked from the start, so that one that ends itself is noticed: when it comes
        back it stops its containers, and that is no end of the server's own.
        """
        try:
            with self._engine.errors(self._asked):
                client = self._engine.client()
                try:
                    client.api.wait(self._container, timeout=None)
                    state = client.api.inspect_container(self._container)["State"]
                finally:
                    client.close()
        except ContainerError as error:
            self._tell(End(at_ns=time.monotonic_ns(), lost=self._engine.how_lost(error.given)))
            return
        at_ns = time.monotonic_ns()
        self._log.join(_JOIN_S)
        self._process.join(_JOIN_S)
        self._tell(
            End(exit_code=as_subprocess(int(state["ExitCode"])), at_ns=self._died_ns or at_ns)
        )

    def _tell(self, end: End) -> None:
        if not self.stopping.is_set():
            self._ended = end
        self._is_over.set()

    def _await_process(self) -> None:
        """Note when the server's process ended, as exactly as the kernel tells."""
        try:
            handle = self._find()
        finally:
            self._is_searched.set()
        if handle is None:
            return
        poller = select.poll()
        poller.register(handle, select.POLLIN)
        try:
            while not self.stopping.is_set():
                if poller.poll(200):
                    self._died_ns = time.monotonic_ns()
                    return
        finally:
            os.close(handle)

    def _find(self) -> int | None:
        """A handle of the server's process, once it is there; None: it is not to be seen."""
        first = self._first_pid
        over = (self.stopping, self._is_over, self._gives_up)
        while first is not None and not any(event.is_set() for event in over):
            # Elsewhere, as with an engine in a virtual machine, the number is another process's.
            if not _is_inside(first, self._container):
                return None
            for pid in [first, *descendants(first)]:
                with contextlib.suppress(OSError):
                    if Path(f"/proc/{pid}/comm").read_text().strip() == SERVER:
                        handle = os.pidfd_open(pid)
                        self.pid = pid
                        return handle
            # An entrypoint may work for seconds before it becomes the server.
            self._is_over.wait(_FIND_S)
        return None


def _is_inside(pid: int, container: str) -> bool:
    """True if this process of this machine is one of that container's."""
    try:
        return container in Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return False


def as_subprocess(code: int) -> int:
    """128 + N of a container that a signal ended, as subprocess gives it: -N."""
    return _SIGNALLED - code if _SIGNALLED < code <= _SIGNALLED + 64 else code
