"""Signals to load workers and to all processes of a real trial, at a random moment."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import psutil
from load_helpers import started, workload
from scripted_server import Script, ScriptedServer, generate

from benchmarks.faults.batch import ROOT, Fault
from kit.servers.processes import SHM, marked
from kit.study.folder import TrialFolder
from kit.study.plan import plan
from kit.study.result import Verdict
from kit.study.spec import Endpoint, StudySpec, embedded

#: Of a killed worker: 4 clients whose answers take 5 ms end no more in half a second.
MOST_LOST = 400
STRIKES = {
    "SIGTERM": [signal.SIGTERM],
    "SIGHUP": [signal.SIGHUP],
    "SIGINT, which is not for it": [signal.SIGINT],
    "SIGKILL": [signal.SIGKILL],
    "SIGSTOP and SIGCONT": [signal.SIGSTOP, signal.SIGCONT],
    "SIGTERM twice": [signal.SIGTERM, signal.SIGTERM],
    "SIGSTOP, SIGTERM, SIGCONT": [signal.SIGSTOP, signal.SIGTERM, signal.SIGCONT],
}


def workers(rng: random.Random, folder: Path) -> list[Fault]:
    """Three lives of a load worker, each struck at a random moment."""
    return [_worker(rng, folder / str(n), rng.choice(list(STRIKES))) for n in range(3)]


def _worker(rng: random.Random, path: Path, name: str) -> Fault:
    def slowly(head: bytes, body: bytes) -> Script:
        return [0.005, *generate(head, body)]

    with ScriptedServer(slowly) as server:
        load = workload(requests=100_000, timeout_s=60.0)
        folder, [worker] = started(load, Endpoint(http_port=server.port), path)
        _until(lambda: worker.progress().ended > 20 or worker.poll() is not None)
        time.sleep(rng.random())
        assert worker.pid is not None
        ended = worker.progress().ended
        for number in STRIKES[name]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, number)
            time.sleep(rng.random() * 0.1)
        if name.startswith(("SIGINT", "SIGSTOP and")):
            _until(lambda: worker.progress().ended > ended + 20)
            ended = worker.progress().ended
            worker.stop()
        _until(lambda: worker.poll() is not None)
        error = worker.error()
        worker.close()
    rows = folder.requests().num_rows
    lost = ended - rows
    if lost > (MOST_LOST if name == "SIGKILL" else 0):
        return f"worker: {name}", f"{lost} rows were lost"
    fine = name.startswith(("SIGINT", "SIGSTOP and"))
    if fine != (error is None):
        return f"worker: {name}", f"it said {error}"
    return f"worker: {name}", ""


def _until(met: Callable[[], bool], timeout_s: float = 90.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not met():
        if time.monotonic() > deadline:
            raise TimeoutError("it did not come to that")
        time.sleep(0.01)


def _of(trial: psutil.Process, words: str) -> psutil.Process | None:
    for process in trial.children(recursive=True):
        try:
            if words in " ".join(process.cmdline()):
                return process
        except psutil.Error:
            continue
    return None


VICTIMS: dict[str, Callable[[psutil.Process], psutil.Process | None]] = {
    "the trial": lambda trial: trial,
    "the guard": lambda trial: (s := _of(trial, "--model-repository")) and s.parent(),
    "the server": lambda trial: _of(trial, "--model-repository"),
    "a stub": lambda trial: _of(trial, "triton_python_backend_stub"),
    "a load worker": lambda trial: _of(trial, "kit.load.worker.worker"),
}
SIGNALS = [signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGSTOP]
#: Of a fault that came from outside; anything else would be said of the server.
FAIR = {Verdict.INTERRUPTED, Verdict.CLIENT_FAULT, Verdict.SURVIVED}


def trials(rng: random.Random, folder: Path) -> list[Fault]:
    """One trial of a real server, of which one process is struck at a random moment."""
    who, number = rng.choice(list(VICTIMS)), rng.choice(SIGNALS)
    if who == "the trial" and number is signal.SIGSTOP:
        number = signal.SIGKILL  # nothing would ever go on
    release = rng.choice(["23.10", "24.05"])
    study = StudySpec(
        name="t", servers=embedded(release), scenarios=("control",), requests=300, repeats=1
    )
    place = TrialFolder.create(folder / "trial", plan(study)[0])
    child = subprocess.Popen(
        [sys.executable, "-m", "kit.runner.trial", str(place.path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    early = rng.random() < 0.3
    kind = f"trial: {number.name} to {who}, {'at its start' if early else 'under load'}"
    trial = psutil.Process(child.pid)
    _until(
        lambda: (
            child.poll() is not None
            or (VICTIMS[who](trial) is not None if early else _rows(place) >= 5)
        ),
        timeout_s=200.0,
    )
    time.sleep(rng.random() * 0.5)
    try:
        victim = VICTIMS[who](trial)
        if victim is not None:
            victim.send_signal(number)
    except psutil.Error:
        victim = None  # it had ended already
    try:
        child.wait(200.0)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
        return [(kind, "the trial did not end")]
    return [(kind, _after(place, is_alone=number is signal.SIGKILL and who == "the trial"))]


def _rows(place: TrialFolder) -> int:
    return TrialFolder(place.path).requests().num_rows


def _after(place: TrialFolder, *, is_alone: bool) -> str:
    result = TrialFolder(place.path).result
    if result is not None and result.verdict not in FAIR:
        return f"{result.verdict.value}: {result.reason}"
    if result is None and not is_alone:
        return "no result"
    if not place.server.exists():
        return ""
    server = msgspec.json.decode(place.server.read_bytes())
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        left = [str(pid) for pid in marked(server["run"])]
        left += [path.name for path in SHM.glob(f"{server['shm_prefix']}*")]
        if not left:
            return ""
        time.sleep(0.1)
    return f"left: {', '.join(left)}"
