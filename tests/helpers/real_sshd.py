"""A real sshd on 127.0.0.1 with keys and settings of its own, and an `ssh` that logs in there.

Needs root and Debian's openssh-server (its program; the service need not run).
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Final

import psutil
from real_engine import SEARCHED

#: sshd wants a user and a folder that its package makes; both are put before it alone.
_START: Final = """
set -eu
mount -t tmpfs tmpfs /run
mkdir /run/sshd
if ! grep -q ^sshd: /etc/passwd; then
    { cat /etc/passwd; echo 'sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin'; } > "$1/passwd"
    mount --bind "$1/passwd" /etc/passwd
fi
exec "$2" -D -e -f "$1/sshd_config"
"""


def missing() -> str | None:
    """What this machine lacks; None: nothing."""
    lacking = [name for name in ("sshd", "ssh", "ssh-keygen", "unshare") if not _program(name)]
    if os.geteuid() != 0 or lacking:
        return f"root and {', '.join(lacking) or 'sshd'} (Debian: apt-get install openssh-server)"
    return None


class RealSshd:
    """Use as a context manager. `programs` holds the `ssh` to be found first on the PATH."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.programs = folder / "programs"
        self.port = _free_port()
        self.destination = f"root@127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> RealSshd:
        for name in ("host", "user"):
            command = [_program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f"]
            subprocess.run([*command, str(self._folder / name)], check=True)
        self._write("sshd_config", self._server_settings())
        self._write("ssh_config", self._client_settings())
        self.programs.mkdir()
        wrapper = self.programs / "ssh"
        wrapper.write_text(f'#!/bin/sh\nexec {_program("ssh")} -F {self._folder}/ssh_config "$@"\n')
        wrapper.chmod(0o755)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *(_program("unshare"), "--mount", "--propagation", "private"),
                    *("sh", "-c", _START, "sh", str(self._folder), _program("sshd")),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 60.0
        while not _accepts(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.cut()
                raise RuntimeError(f"sshd does not run: {self.log.read_text()}")
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()

    @property
    def log(self) -> Path:
        return self._folder / "sshd.log"

    def cut(self) -> None:
        """End it and every connection through it, without a word to the other side."""
        if self._process is not None and self._process.returncode is None:
            server = psutil.Process(self._process.pid)
            for process in [server, *server.children(recursive=True)]:
                process.send_signal(signal.SIGKILL)
            self._process.wait()

    def _server_settings(self) -> list[str]:
        return [
            "ListenAddress 127.0.0.1",
            f"Port {self.port}",
            f"HostKey {self._folder}/host",
            f"AuthorizedKeysFile {self._folder}/user.pub",
            "PidFile none",
            "StrictModes no",
            "UsePAM no",
            "PermitRootLogin prohibit-password",
            "PasswordAuthentication no",
        ]

    def _client_settings(self) -> list[str]:
        return [
            f"IdentityFile {self._folder}/user",
            "IdentitiesOnly yes",
            f"UserKnownHostsFile {self._folder}/known",
            "StrictHostKeyChecking accept-new",
            "LogLevel ERROR",
        ]

    def _write(self, name: str, lines: list[str]) -> None:
        (self._folder / name).write_text("\n".join(lines) + "\n")


def _program(name: str) -> str:
    return shutil.which(name, path=SEARCHED) or ""


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
