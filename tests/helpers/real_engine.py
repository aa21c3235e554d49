"""A real container engine for the tests: dockerd with everything of its own, gone afterwards.

One engine serves all tests of a run, whichever of pytest's processes asks first. It belongs to a
supervisor (this file as a program), which starts dockerd in a mount namespace of its own, starts
it again if it dies, as systemd does, and removes all of it once the run's first process is gone.
Needs root and, on the PATH or in the folders for root's programs, those of Debian's packages
docker.io, containerd, runc, tini and iproute2.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

RELEASES = ("24.05", "24.10")
PROGRAMS = ("dockerd", "containerd", "runc", "docker-proxy", "tini-static", "ip", "unshare")
SEARCHED = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin:/usr/sbin:/sbin"])
START_S = 120.0
_PR_SET_CHILD_SUBREAPER = 36
_RECORD = "engine.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class RealEngine:
    """Where it is; `pid_file` names dockerd's process, another one after each of its starts."""

    folder: str
    supervisor: int

    @property
    def socket(self) -> Path:
        return Path(self.folder) / "docker.sock"

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    @property
    def pid_file(self) -> Path:
        return Path(self.folder) / "docker.pid"

    @property
    def log(self) -> str:
        return (Path(self.folder) / "dockerd.log").read_text(errors="replace")


def missing() -> str | None:
    """What this machine lacks for an engine; None: nothing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "root on Linux, for a container engine of the tests' own"
    lacking = [name for name in PROGRAMS if shutil.which(name, path=SEARCHED) is None]
    if not lacking:
        return None
    return (
        f"{', '.join(lacking)} for a container engine of the tests' own (Debian: apt-get install "
        "docker.io containerd runc tini iproute2)"
    )


def shared_engine(run: Path) -> RealEngine:
    """The engine of this run of pytest, with both images; started if nobody has started it.

    run: a folder that the run's processes share.

    Raises:
        RuntimeError: it does not start; its log is in the message.
    """
    record = run / _RECORD
    with (run / "engine.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if record.exists():
            return RealEngine(**json.loads(record.read_text()))
        engine = _start(owner=int((run / "owner").read_text()))
        _load_images(engine)
        record.write_text(json.dumps(asdict(engine)))
        return engine


def stop_shared_engine(run: Path) -> None:
    """End the run's engine, if there is one, and wait until nothing of it is left."""
    with contextlib.suppress(OSError):
        engine = RealEngine(**json.loads((run / _RECORD).read_text()))
        handle = os.pidfd_open(engine.supervisor)
        os.kill(engine.supervisor, signal.SIGTERM)
        select.select([handle], [], [], 60.0)
        os.close(handle)


def _start(*, owner: int) -> RealEngine:
    folder = Path(tempfile.mkdtemp(prefix="crash-kit-engine-"))
    folder.chmod(0o711)  # so that it is the socket's own mode that refuses other users
    with (folder / "supervisor.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, __file__, str(folder), str(owner)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    engine = RealEngine(folder=str(folder), supervisor=process.pid)
    try:
        wait_until_up(engine)
    except BaseException:
        process.terminate()
        process.wait()
        raise
    return engine


def wait_until_up(engine: RealEngine) -> None:
    """Wait until it answers.

    Raises:
        RuntimeError: it does not.
    """
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if is_up(engine):
            return
        time.sleep(0.1)
    said = "\n".join((engine.log if engine.socket.parent.exists() else "").splitlines()[-20:])
    raise RuntimeError(f"dockerd does not answer; the end of its log:\n{said}")


def is_up(engine: RealEngine) -> bool:
    import docker
    import requests

    try:
        client = docker.DockerClient(base_url=engine.url, timeout=10)
        try:
            return bool(client.ping())
        finally:
            client.close()
    except (docker.errors.DockerException, requests.RequestException, OSError):
        return False


def _load_images(engine: RealEngine) -> None:
    import docker
    from real_image import write_images

    client = docker.DockerClient(base_url=engine.url, timeout=300)
    with tempfile.TemporaryDirectory(dir=engine.folder) as folder, contextlib.closing(client):
        archive = Path(folder) / "images.tar"
        write_images(RELEASES, archive)
        with archive.open("rb") as file:
            client.images.load(file)


class _Supervisor:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = f"kit-{secrets.token_hex(4)}"
        self._number = 0

    def run(self, owner: int) -> None:
        """Until the owner is gone or SIGTERM comes; then nothing is left."""
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        os.environ["PATH"] = SEARCHED
        stop_read, stop_write = os.pipe()
        signal.signal(signal.SIGTERM, lambda *_: os.write(stop_write, b"x"))
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            watched = [stop_read, os.pidfd_open(owner)]
            self._make_bridge()
            while not select.select(watched, [], [], 0.0)[0]:
                process = self._start_dockerd()
                handle = os.pidfd_open(process.pid)
                ready = select.select([*watched, handle], [], [])[0]
                os.close(handle)
                if handle in ready:
                    process.wait()
                    self._end_all(("containerd",))  # systemd ends what is in the unit, not shims
                    select.select(watched, [], [], 2.0)
        except OSError as error:
            print(error, flush=True)
        finally:
            self._remove()

    def _start_dockerd(self) -> subprocess.Popen[bytes]:
        folder = self.folder
        (folder / "docker.pid").unlink(missing_ok=True)
        command = [
            *("unshare", "--mount", "--propagation", "private", "dockerd"),
            f"--host=unix://{folder}/docker.sock",
            f"--data-root={folder}/data",
            f"--exec-root={folder}/exec",
            f"--pidfile={folder}/docker.pid",
            f"--bridge={self.name}",
            f"--cgroup-parent=/{self.name}",
            f"--init-path={shutil.which('tini-static')}",
            *("--iptables=false", "--ip6tables=false", "--ip-masq=false", "--ip-forward=false"),
        ]
        with (folder / "dockerd.log").open("ab") as log:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def _make_bridge(self) -> None:
        """A network of its own, in a range that this machine does not use."""
        said = subprocess.run(["ip", "-o", "-4", "addr"], capture_output=True, text=True).stdout
        number = next(n for n in range(7, 255) if f" 10.99.{n}." not in said)
        _ip("link", "add", self.name, "type", "bridge")
        _ip("addr", "add", f"10.99.{number}.1/24", "dev", self.name)
        _ip("link", "set", self.name, "up")

    def _end_all(self, names: tuple[str, ...] = ()) -> None:
        """SIGKILL to every process below this one, or to those of these names."""
        import psutil

        for _ in range(20):
            found = [
                process
                for process in psutil.Process().children(recursive=True)
                if not names or process.name() in names
            ]
            for process in found:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            if not found:
                return
            psutil.wait_procs(found, timeout=1.0)

    def _remove(self) -> None:
        self._end_all()  # their mounts go with the last process of their namespace
        subprocess.run(["ip", "link", "del", self.name], capture_output=True)
        for root in (Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()):
            top = root / self.name
            if top.is_dir():
                folders = [top, *(path for path in top.rglob("*") if path.is_dir())]
                for folder in sorted(folders, reverse=True):
                    with contextlib.suppress(OSError):
                        folder.rmdir()
        for _ in range(20):
            shutil.rmtree(self.folder, ignore_errors=True)
            if not self.folder.exists():
                return
            time.sleep(0.1)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


if __name__ == "__main__":
    _Supervisor(Path(sys.argv[1])).run(int(sys.argv[2]))
