"""A study with real servers on two Dask workers, of which one is killed in the middle."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

import kit
from kit.runner.study import StudyProgress
from kit.servers.processes import MARKER
from kit.servers.runs import registered
from kit.study.hosts import read_hosts

PATIENCE_S = 120.0


def eventually(true: Callable[[], object], what: str) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < until_s, what
        time.sleep(0.1)


@contextmanager
def dask(*words: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A scheduler or a worker, as a person starts it in a shell."""
    with (folder / f"{time.time_ns()}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "dask", *words, "--no-dashboard", "--host", "127.0.0.1"],
            env={**os.environ, "DASK_TEMPORARY_DIRECTORY": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:  # a worker of Dask's now and then does not end
            process.kill()
            process.wait()


@contextmanager
def two_workers(folder: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """The scheduler's address, and the workers; each may run one trial."""
    told = folder / "scheduler.json"
    own = ("--scheduler-file", str(told), "--nthreads", "1", "--no-nanny")
    own += ("--resources", "trial=1", "--local-directory", str(folder))
    with (
        dask("scheduler", "--port", "0", "--scheduler-file", str(told), folder=folder),
        dask("worker", *own, folder=folder) as first,
        dask("worker", *own, folder=folder) as second,
    ):
        eventually(told.exists, "no scheduler")
        yield str(json.loads(told.read_text())["address"]), [first, second]


def below(process: subprocess.Popen[bytes]) -> set[int]:
    return {child.pid for child in psutil.Process(process.pid).children(recursive=True)}


def left_of(runs: set[str]) -> list[str]:
    """What is there of these runs: records, processes, shared memory, folders."""
    found = [f"record {run.name}" for run in registered() if run.name in runs]
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARKER) in runs:
                found.append(f"process {process.name()}")
        except psutil.Error:
            continue
    for folder in (Path("/dev/shm"), Path(tempfile.gettempdir())):
        found += [str(path) for path in folder.glob("tck-*") if path.name[4:16] in runs]
    return found


def test_a_study_on_two_workers_outlives_one_that_is_killed(tmp_path: Path) -> None:
    known = {run.name for run in registered()}
    runs: set[str] = set()  # what was begun meanwhile, by this study
    killed: list[int] = []
    with two_workers(tmp_path) as (address, workers):
        victim, other = workers

        def kill_one(progress: StudyProgress) -> None:
            own = {process.pid for process in workers if process.poll() is None}
            own |= {pid for process in workers if process.pid in own for pid in below(process)}
            runs.update(r.name for r in registered() if r.owner and r.owner.pid in own)
            loading = any(t.phase == "loading" and t.ended > 5 for t in progress.running)
            if not killed and loading and len(below(victim)) > 2:
                killed.extend([victim.pid, *below(victim)])
                its = {r.name for r in registered() if r.owner and r.owner.pid in killed}
                victim.send_signal(signal.SIGKILL)
                victim.wait()
                # The trial itself clears up: this study, which is held up here, does not yet.
                eventually(lambda: not left_of(its), f"left of the killed worker: {left_of(its)}")

        study = kit.run(
            ["24.05", "24.10"],
            scenario="control",
            concurrency=4,
            requests=150,
            repeats=1,
            on=address,
            folder=tmp_path / "study",
            progress=kill_one,
        )
        assert killed, "no trial ran on the first worker"
        trials = study.trials
        assert study.finished
        assert trials["release"].tolist() == ["24.05", "24.10"]
        assert trials["verdict"].tolist() == ["survived"] * 2
        assert trials["completed"].tolist() == [150] * 2
        assert study.requests.groupby("trial_id", observed=True).size().tolist() == [150] * 2
        assert study.client["trial_id"].nunique() == study.samples["trial_id"].nunique() == 2
        [host] = read_hosts(study.path)
        assert trials["host"].tolist() == [host.label] * 2
        folders = sorted(path.name for path in (study.path / "trials").iterdir())
        assert folders == sorted(trials["trial_id"])
        assert not (study.path / "interrupted").exists()
        eventually(lambda: not any(map(psutil.pid_exists, killed)), "the killed worker's are there")
        eventually(lambda: not below(other), "the other worker's are there")
        assert len(runs - known) >= 6, "a scratch folder and a server for each of three trials"
        eventually(lambda: not left_of(runs - known), f"left: {left_of(runs - known)}")
