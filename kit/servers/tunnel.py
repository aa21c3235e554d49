"""Carries sockets and ports of another machine here, by the user's own ssh and its settings.

One `ssh -N` a tunnel, in the run's register by its environment, so that nothing of it stays.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Final

from kit.errors import ContainerError
from kit.servers.processes import ending_with_us
from kit.servers.runs import Run

CONNECT_S: Final = 20
_POLL_S: Final = 0.05
_MOST_WORDS: Final = 4096  # bytes of what ssh says
#: No question may wait for an answer that nobody gives; a dead link is known within 15 s.
_OPTIONS: Final = {
    "BatchMode": "yes",
    "ExitOnForwardFailure": "yes",
    "ConnectTimeout": str(CONNECT_S),
    "ServerAliveInterval": "5",
    "ServerAliveCountMax": "3",
    "StreamLocalBindUnlink": "yes",
    "ControlPath": "none",  # a shared connection would end, or outlive, with other programs
}


class Tunnel:
    """Forwards of one ssh connection; `forwards` as ssh -L takes them.

    Raises:
        ContainerError: ssh could not connect or forward; its own words are in it.
    """

    def __init__(
        self,
        run: Run,
        destination: str,
        forwards: Sequence[str],
        is_open: Callable[[], bool],
        *,
        port: int | None = None,
    ) -> None:
        # Without a name: the run's folder can be gone, where its containers are being removed.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self._last_words = b""  # of ssh, once its log is closed
        words = [f"-o{name}={value}" for name, value in _OPTIONS.items()]
        words += [] if port is None else [f"-p{port}"]
        words += [word for forward in forwards for word in ("-L", forward)]
        try:
            self._process = subprocess.Popen(
                ["ssh", "-N", *words, "--", destination],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                env=os.environ | run.environment,
                start_new_session=True,
                preexec_fn=ending_with_us(),
            )
        except FileNotFoundError as error:
            self._log.close()
            raise ContainerError(
                "host=ssh://…, and there is no program ssh here",
                "OpenSSH's client",
                "install it (Debian: openssh-client)",
            ) from error
        try:
            self._wait(destination, is_open)
        except BaseException:
            self.close()
            raise

    @property
    def lost(self) -> str | None:
        """What ssh said when the connection ended; None: it holds."""
        if self._process.poll() is None:
            return None
        return self._said() or f"ssh ended with {self._process.returncode}"

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(2.0)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._last_words = self._words()
        self._log.close()

    def _wait(self, destination: str, is_open: Callable[[], bool]) -> None:
        deadline = time.monotonic() + CONNECT_S
        while self._process.poll() is None and time.monotonic() < deadline:
            if is_open():
                return
            time.sleep(_POLL_S)
        said = self._said() or f"no connection within {CONNECT_S} s"
        raise ContainerError(
            f"ssh to {destination}: {said}",
            "a login without a question, by key or agent, as your ssh has it",
            f"try `ssh {destination} docker version` by hand",
        )

    def _said(self) -> str:
        lines = self._words().decode(errors="replace").strip().splitlines()
        return " ".join(lines[-3:])[:300]

    def _words(self) -> bytes:
        """The log's end; read without moving the place at which ssh writes."""
        if self._log.closed:
            return self._last_words
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), _MOST_WORDS, max(0, size - _MOST_WORDS))
