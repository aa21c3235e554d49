"""What a Dask worker does for a study: says what its machine is, prepares servers, runs trials.

Only bytes go in and come out: JSON of the kit's own nouns, and the files of a trial. A trial runs
in a child process, in a scratch folder of its own, which is on the register of runs; if the worker
is killed, the child stops its server by itself and then removes what is left.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import threading
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from kit import __version__
from kit.errors import KitError
from kit.runner.place import INTERRUPT_S, POLL_S, TrialProcess
from kit.servers.gpu import gpus_here
from kit.servers.platform import libc_here
from kit.servers.prepare import prepare_servers
from kit.servers.runs import register
from kit.servers.traces import sweep
from kit.servers.vllm_env import check_engines
from kit.study.encoding import from_json, to_json
from kit.study.folder import StudyFolder
from kit.study.hosts import HostFacts
from kit.study.paths import DATA, ROOT
from kit.study.spec import StudySpec, TrialSpec
from kit.study.traces.keep import FOLDER as TRACES

if TYPE_CHECKING:
    from distributed import Worker

#: The resource of Dask's of which a worker has one for each trial that it may run at a time.
RESOURCE = "trial"
#: Progress is sent at most this often.
TELL_S = 0.5
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

#: Trials that are to be stopped, or run here, by the keys of their tasks.
_STOPS: dict[str, threading.Event] = {}


def look_over(kit: str, source: str, study: bytes) -> bytes:
    """Say what this machine is, and prepare it for a study: a HostFacts as JSON.

    kit, source: version and digest of the caller's kit; another one here refuses the machine, and
    so does a server of the study that cannot run here. study: a StudySpec as JSON.
    """
    refused = why_other(kit, source)
    if not refused:
        try:
            spec = from_json(study, StudySpec)
            with contextlib.suppress(OSError):  # another worker of the machine removed it first
                sweep()
            prepare_servers(spec.servers)
            check_engines(spec.servers, spec.engines)
        except KitError as error:
            refused = str(error)
    return to_json(host_here(refused))


def why_other(kit: str, source: str) -> str:
    """Why trials of that kit are not run by the one here; "": it is the same."""
    if kit != __version__:
        return f"kit {__version__} is installed there, and {kit} on the caller's side"
    if source != source_digest():
        return "the files of its kit differ from the caller's; install the same checkout"
    return ""


def host_here(refused: str = "") -> HostFacts:
    """What this machine is."""
    gpus = gpus_here()
    return HostFacts(
        machine=machine_digest(),
        kit=__version__,
        source=source_digest(),
        python=platform.python_version(),
        libc=libc_here(),
        system=f"{platform.system()} {platform.machine()}",
        processor=_processor(),
        cores=len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1,
        memory_gib=round(psutil.virtual_memory().total / 2**30),
        gpus=() if isinstance(gpus, str) else tuple(f"{g.name}, driver {g.driver}" for g in gpus),
        refused=refused,
    )


@cache
def source_digest() -> str:
    """Equal for equal checkouts: of the kit's modules, models and catalogs."""
    digest = hashlib.sha256()
    files = [*(ROOT / "kit").rglob("*.py"), *(ROOT / "kit").rglob("*.pbtxt"), *DATA.glob("*.yaml")]
    for path in sorted(files):
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def machine_digest() -> str:
    """The same for all processes and containers of a machine, until it starts again."""
    try:
        boot = BOOT_ID.read_bytes()
    except OSError:
        boot = platform.node().encode()
    return hashlib.sha256(b"triton-crash-kit" + boot).hexdigest()[:16]


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


async def declare(dask_worker: Worker) -> None:
    """Have the worker take one trial at a time; called in its event loop."""
    await dask_worker.set_resources(**{RESOURCE: 1})


def interrupt(key: str) -> None:
    """Stop a trial that runs here, or that is about to; its task returns what was recorded."""
    _STOPS.setdefault(key, threading.Event()).set()


def conduct(key: str, topic: str, spec: bytes, traces: Mapping[str, bytes]) -> dict[str, bytes]:
    """Run a trial in a scratch folder; its files by name, as a local trial leaves them.

    key: of the Dask task that calls this. topic: of Dask's events that say how far it is. spec: a
    TrialSpec as JSON. traces: the files of the study's `traces` folder that the trial reads.

    Raises:
        StoreError, SpecError: the scratch folder cannot be written, the spec not be read.
    """
    stop = _STOPS.setdefault(key, threading.Event())
    run = register()
    try:
        study = StudyFolder(run.folder / "study")
        (study.path / TRACES).mkdir(parents=True)
        for name, data in traces.items():
            (study.path / TRACES / Path(name).name).write_bytes(data)
        return _files_of(_run(key, topic, from_json(spec, TrialSpec), study, stop))
    finally:
        _STOPS.pop(key, None)
        run.forget()


def _run(key: str, topic: str, spec: TrialSpec, study: StudyFolder, stop: threading.Event) -> Path:
    """Run the trial to its end, or until it is to stop; its folder."""
    trial = TrialProcess(spec, study)
    teller, stopped_s = _Teller(key, topic, trial.folder.progress), None
    try:
        while not trial.ended():
            trial.wait(POLL_S)
            teller.tell()
            if stopped_s is None and (stop.is_set() or is_cut(key)):
                stopped_s = time.monotonic()
                trial.interrupt()
            elif stopped_s is not None and time.monotonic() - stopped_s > INTERRUPT_S:
                trial.kill()
    finally:
        trial.interrupt()
        if not trial.ended():
            trial.kill()
    trial.result()  # of a process that died without one, the file that says so is written now
    return trial.folder.path


def _files_of(folder: Path) -> dict[str, bytes]:
    found = (path for path in sorted(folder.iterdir()) if path.is_file() and path.name[0] != ".")
    return {path.name: path.read_bytes() for path in found}


def is_cut(key: str) -> bool:
    """Whether the worker is closing, or the task that calls this was cancelled: by the caller, or
    since the caller or the scheduler is gone."""
    from distributed import get_worker

    worker = get_worker()
    if worker.status.name not in ("running", "paused"):
        return True
    task = worker.state.tasks.get(key)
    return task is None or task.state not in ("executing", "long-running")


class _Teller:
    """Sends how far a trial is to whoever asked for it."""

    def __init__(self, key: str, topic: str, progress: Path) -> None:
        from distributed import get_worker

        self._worker = get_worker()
        self._key, self._topic, self._progress = key, topic, progress
        self._told, self._told_s = b"", 0.0

    def tell(self) -> None:
        now = time.monotonic()
        if now - self._told_s < TELL_S:
            return
        self._told_s = now
        with contextlib.suppress(FileNotFoundError):
            seen = self._progress.read_bytes()
            if seen != self._told:
                self._worker.log_event(self._topic, {"key": self._key, "progress": seen})
                self._told = seen
