"""Claims about studies of the application: they outlive a page's kernel, not the application."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from kit.errors import KitError
from kit.study.encoding import to_json
from kit.study.folder import StudyFolder
from kit.study.result import Verdict
from kit.study.spec import StudySpec
from kit.ui.apart import run_apart
from kit.ui.choices import choose
from kit.ui.live import ask_to_stop, is_running

#: Starts what is given to it, as Voilà starts a kernel, and says its pid.
APPLICATION = """
import subprocess, sys
kernel = subprocess.Popen([sys.executable, "-c", *sys.argv[1:]])
print(kernel.pid, flush=True)
kernel.wait()
input()
"""
KERNEL = """
import sys, threading
from pathlib import Path
from kit.study.encoding import from_json
from kit.study.spec import StudySpec
from kit.ui.apart import run_apart
spec = from_json(Path(sys.argv[1]).read_bytes(), StudySpec)
run_apart(spec, Path(sys.argv[2]), stop=threading.Event(), minutes=float(sys.argv[3]))
"""
PATIENCE_S = 120


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.1)


def has_ended(process: psutil.Process) -> bool:
    """Also one that nobody has waited for yet."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def words_of(process: psutil.Process) -> list[str]:
    """Its command line; [] of one that ends meanwhile, as other children of a process may."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def spec_of(requests: int) -> StudySpec:
    return choose("24.05", "control", name="apart", concurrency=4, requests=requests, repeats=2)


@pytest.fixture
def kernel(tmp_path: Path) -> tuple[subprocess.Popen[str], psutil.Process, Path]:
    """(application, its kernel, which runs a study that takes minutes; the study's folder)."""
    (tmp_path / "spec.json").write_bytes(to_json(spec_of(100_000)))
    folder = tmp_path / "study"
    command = [sys.executable, "-c", APPLICATION, KERNEL]
    command += [str(tmp_path / "spec.json"), str(folder), "30"]
    application = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert application.stdout is not None
    page = psutil.Process(int(application.stdout.readline()))
    until(lambda: any(folder.glob("trials/*/progress.json")) and is_running(folder))
    return application, page, folder


@pytest.mark.server
def test_a_study_outlives_its_page_and_is_stopped_from_the_next_one(
    kernel: tuple[subprocess.Popen[str], psutil.Process, Path],
) -> None:
    application, page, folder = kernel
    page.kill()
    time.sleep(2)
    assert is_running(folder), "it goes on without the kernel"
    ask_to_stop(folder)
    until(lambda: not is_running(folder))
    verdicts = [trial.result.verdict for trial in StudyFolder(folder).trials() if trial.result]
    assert set(verdicts) == {Verdict.INTERRUPTED}
    application.communicate("\n")


@pytest.mark.server
def test_a_study_stops_with_the_application_however_that_ends(
    kernel: tuple[subprocess.Popen[str], psutil.Process, Path],
) -> None:
    application, page, folder = kernel
    runner = [p for p in page.children() if "kit.ui.apart" in words_of(p)]
    application.kill()
    application.communicate()
    page.kill()
    until(lambda: not is_running(folder))
    until(lambda: all(map(has_ended, runner)))


@pytest.mark.server
def test_it_runs_to_its_end_and_can_be_stopped_and_said_to_be_out_of_time(tmp_path: Path) -> None:
    whole = run_apart(spec_of(8), tmp_path / "whole", stop=threading.Event())
    assert whole.finished
    stopped = threading.Event()
    threading.Timer(4, stopped.set).start()
    cut = run_apart(spec_of(100_000), tmp_path / "cut", stop=stopped)
    assert not cut.finished
    late = run_apart(spec_of(100_000), tmp_path / "late", stop=threading.Event(), minutes=4 / 60)
    assert not late.finished


@pytest.mark.slow
def test_a_stop_before_it_listens_is_a_study_without_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kit.ui.apart.LOOK_S", 0.01)  # Python has not begun by then
    at_once = threading.Event()
    at_once.set()
    study = run_apart(spec_of(8), tmp_path / "study", stop=at_once)
    assert study.spec == spec_of(8)
    assert not study.finished
    assert not [trial for trial in study.trials() if trial.result]


@pytest.mark.slow
def test_a_process_that_is_killed_is_no_study_that_ended(tmp_path: Path) -> None:
    def kill() -> None:
        until(own)
        own()[0].kill()

    def own() -> list[psutil.Process]:
        return [p for p in psutil.Process().children() if "kit.ui.apart" in words_of(p)]

    threading.Thread(target=kill).start()
    with pytest.raises(ChildProcessError, match="ended with -9"):
        run_apart(spec_of(8), tmp_path / "study", stop=threading.Event())


@pytest.mark.slow
def test_what_keeps_it_from_running_is_told_in_the_words_of_the_error(tmp_path: Path) -> None:
    study = StudyFolder.create(tmp_path / "study", spec_of(8))
    with study.locked(), pytest.raises(KitError, match="another process"):
        run_apart(spec_of(8), study.path, stop=threading.Event())
    (tmp_path / "file").write_text("")
    with pytest.raises((KitError, ChildProcessError), match="file"):
        run_apart(spec_of(8), tmp_path / "file" / "study", stop=threading.Event())
