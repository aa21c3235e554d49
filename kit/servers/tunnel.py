"""Carries sockets and ports of another machine here, by the user's own ssh and its settings.

One `ssh -N` a tunnel, in the run's register by its environment, so that nothing of it stays.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Final

from kit.errors import ContainerError
from kit.servers.processes import ending_with_us
from kit.servers.runs import Run

CONNECT_S: Final = 20
_POLL_S: Final = 0.05
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
        self._log = run.folder / f"ssh-{len(list(run.folder.glob('ssh-*')))}.log"
        words = [f"-o{name}={value}" for name, value in _OPTIONS.items()]
        words += [] if port is None else [f"-p{port}"]
        words += [word for forward in forwards for word in ("-L", forward)]
        with self._log.open("wb") as log:
            try:
                self._process = subprocess.Popen(
                    ["ssh", "-N", *words, "--", destination],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=os.environ | run.environment,
                    start_new_session=True,
                    preexec_fn=ending_with_us(),
                )
            except FileNotFoundError as error:
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
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return " ".join(lines[-3:])[:300]
