"""The register of what runs: one small file a run, written before anything is started.

A run is whatever one owner process starts together: a server with its stubs, shared memory and
a temp folder. All of it carries the run's name, so that the file's name alone is enough to find
and remove it, even if a power cut left the file empty.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from kit.errors import StoreError
from kit.servers.cache import cache_root
from kit.servers.plain import temp_roots
from kit.servers.processes import MARKER, start_ticks


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """The process that a run belongs to, told apart from all others on all machines."""

    pid: int
    start_ticks: int  # since boot
    boot: str
    pid_namespace: str
    host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One registered run; `owner` is None where a power cut left the file unreadable."""

    name: str
    record: Path
    folder: Path  # for temp files of everything in the run; short, since sockets may lie in it
    owner: Owner | None

    @property
    def shm_prefix(self) -> str:
        return f"tck-{self.name}-"

    @property
    def environment(self) -> dict[str, str]:
        """What processes of the run must have in their environment."""
        return {MARKER: self.name, "TMPDIR": str(self.folder)}

    def forget(self) -> None:
        """Take the run off the register: its processes are gone. Removes its temp folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.record.unlink(missing_ok=True)


def register() -> Run:
    """A new run of this process, on disk before this returns, with its temp folder made.

    Raises:
        StoreError: the register cannot be written.
    """
    name = secrets.token_hex(6)
    owner = this_process()
    folder = _register_folder()
    run = Run(name=name, record=folder / f"{name}.json", folder=_temp_folder(name), owner=owner)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"owner": asdict(owner), "folder": str(run.folder)})
        scratch = folder / f".{name}"
        with scratch.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(run.record)
    except OSError as error:
        raise StoreError(
            f"the register of runs in {folder} cannot be written: {error}",
            "a writable folder",
            "free space, or name another folder in TRITON_CRASH_KIT_CACHE",
        ) from error
    try:
        with writable(run.folder):
            run.folder.mkdir(mode=0o700)
    except StoreError:
        run.forget()
        raise
    return run


@contextlib.contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Say of an OSError inside the block that a run's temp folder cannot be written.

    Raises:
        StoreError: it cannot.
    """
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"the folder for temp files {folder} cannot be written: {error}",
            "a writable folder, whose path has letters, digits and ._+- only",
            "free space in it, or name another one in TMPDIR",
        ) from error


def registered() -> list[Run]:
    """All runs on the register, by name."""
    return [_read(path) for path in sorted(_register_folder().glob("*.json"))]


def this_process() -> Owner:
    pid = os.getpid()
    return Owner(pid=pid, start_ticks=start_ticks(pid) or 0, **_surroundings())


def is_over(run: Run) -> bool:
    """Whether the run's owner is certainly gone; False for runs of other machines."""
    here = _surroundings()
    owner = run.owner
    if owner is None:
        return _older_than_boot(run.record)
    if owner.boot != here["boot"]:
        return owner.host == here["host"]  # else a shared home folder, and another machine's run
    if owner.pid_namespace != here["pid_namespace"]:
        return False  # of another container; its pids mean nothing here
    return start_ticks(owner.pid) != owner.start_ticks


def _read(path: Path) -> Run:
    owner = None
    folder = _temp_folder(path.stem)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        content = json.loads(path.read_bytes())
        owner = Owner(**content["owner"])
        given = Path(content["folder"])
        if given.name == folder.name:  # it will be removed with all that is in it
            folder = given
    return Run(name=path.stem, record=path, folder=folder, owner=owner)


def _register_folder() -> Path:
    return cache_root() / "runs"


def _temp_folder(name: str) -> Path:
    """Where a new run has its temp files: the first of the usual folders that can be used."""
    roots = temp_roots()
    usable = (root for root in roots if os.access(root, os.W_OK | os.X_OK))
    return next(usable, roots[0]) / f"tck-{name}"


def _surroundings() -> dict[str, str]:
    return {
        "boot": _text("/proc/sys/kernel/random/boot_id"),
        "pid_namespace": _link("/proc/self/ns/pid"),
        "host": socket.gethostname(),
    }


def _older_than_boot(path: Path) -> bool:
    """Files are written whole, so an unreadable one is from before a power cut."""
    try:
        booted = next(_numbers("/proc/stat", "btime"))
        return path.stat().st_mtime < booted
    except (OSError, StopIteration):
        return False


def _numbers(path: str, key: str) -> Iterator[int]:
    for line in Path(path).read_text().splitlines():
        if line.startswith(f"{key} "):
            yield int(line.split()[1])


def _text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return str(Path(path).readlink())
    except OSError:
        return ""
