"""A real nginx in front of one server, as deployments have it; needs Debian's package nginx."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Final

from real_engine import SEARCHED

_SETTINGS: Final = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location / {{ proxy_pass http://127.0.0.1:{behind}; }}
    }}
}}
"""


def missing() -> str | None:
    """What this machine lacks; None: nothing."""
    return None if _program() else "nginx (Debian: apt-get install nginx)"


class RealNginx:
    """Use as a context manager; it listens on 127.0.0.1:`port`, the server on `behind`."""

    def __init__(self, folder: Path, behind: int) -> None:
        self._folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._settings = _SETTINGS.format(folder=folder, port=self.port, behind=behind)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> RealNginx:
        path = self._folder / "nginx.conf"
        path.write_text(self._settings)
        command = [_program(), "-c", str(path), "-p", str(self._folder)]
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60.0
        while not self._accepts():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise RuntimeError((self._folder / "error.log").read_text())
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def _accepts(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def _program() -> str:
    return shutil.which("nginx", path=SEARCHED) or ""
