"""The register of what runs: one small file a run, written before anything is started.

A run is whatever one owner process starts together: a server with its stubs, shared memory and
a temp folder. All of it carries the run's name, so that the file's name alone is enough to find
and remove it, even if a power cut left the file empty.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from kit.errors import StoreError
from kit.servers.cache import cache_root, is_marked, mark_root
from kit.servers.plain import temp_roots
from kit.servers.processes import MARKER, start_ticks
from kit.servers.remove import is_own_file, is_own_folder, remove_folder

_RECORD = re.compile(r"[0-9a-f]{12}\.json")


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
        remove_folder(self.folder)
        for path in (self.record, _scratch(self.record)):
            path.unlink(missing_ok=True)


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
        mark_root()
        folder.mkdir(mode=0o700, exist_ok=True)
        text = json.dumps({"owner": asdict(owner), "folder": str(run.folder)})
        with _scratch(run.record).open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        _scratch(run.record).replace(run.record)
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
    """All runs on the register, by name; files that are no record of the kit's are left alone."""
    folder = _register_folder()
    if not (is_marked() and is_own_folder(folder)):
        return []
    paths = [path for path in sorted(folder.iterdir()) if _RECORD.fullmatch(path.name)]
    found = [_read(path) for path in paths if is_own_file(path)]
    return [run for run in found if run is not None]


def this_process() -> Owner:
    pid = os.getpid()
    return Owner(pid=pid, start_ticks=start_ticks(pid) or 0, **_surroundings())


def is_over(run: Run) -> bool:
    """Whether the run's owner is certainly gone; False for runs of other machines."""
    return why_over(run) is not None


def why_over(run: Run) -> str | None:
    """How it is known that the run's owner is gone; None: it is not, as of other machines' runs."""
    here = _surroundings()
    owner = run.owner
    if owner is None:
        return (
            "an empty record from before this machine started"
            if (_older_than_boot(run.record))
            else None
        )
    if owner.boot != here["boot"]:
        # Another host: a shared home folder, and another machine's run.
        return "its owner ran before this machine started" if owner.host == here["host"] else None
    if owner.pid_namespace != here["pid_namespace"]:
        return None  # of another container; its pids mean nothing here
    ticks = start_ticks(owner.pid)
    if ticks == owner.start_ticks:
        return None
    if ticks is None:
        return f"its owner, process {owner.pid}, is gone"
    return f"its owner, process {owner.pid}, is gone; another one has its number now"


def _read(path: Path) -> Run | None:
    """The run that a record names; None if it is not a record that the kit wrote.

    A power cut may leave a record empty or full of zeros; its name is then all that is known.
    """
    name = path.stem
    folder = next((p for p in _temp_folders(name) if is_own_folder(p)), _temp_folder(name))
    try:
        data = path.read_bytes()
        if not data.strip(b"\0"):
            return Run(name=name, record=path, folder=folder, owner=None)
        content = json.loads(data)
        owner = msgspec.convert(content["owner"], Owner)
        given = Path(content["folder"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    if given.name != folder.name or not given.is_absolute() or ".." in given.parts:
        return None  # it would be removed with all that is in it
    return Run(name=name, record=path, folder=given, owner=owner)


def _register_folder() -> Path:
    return cache_root() / "runs"


def _scratch(record: Path) -> Path:
    """What a record is written to first."""
    return record.with_name(f".{record.stem}")


def _temp_folders(name: str) -> list[Path]:
    return [root / f"tck-{name}" for root in temp_roots()]


def _temp_folder(name: str) -> Path:
    """Where a new run has its temp files: the first of the usual folders that can be used."""
    folders = _temp_folders(name)
    usable = (path for path in folders if os.access(path.parent, os.W_OK | os.X_OK))
    return next(usable, folders[0])


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
