"""Runs a study into a folder: resumes, and runs several trials at a time."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from kit.runner.agenda import Agenda, agenda_for
from kit.runner.limit import check_search
from kit.servers.prepare import prepare_servers
from kit.servers.traces import sweep
from kit.servers.vllm_env import environment_for
from kit.study.files import write_whole
from kit.study.folder import StudyFolder, TrialFolder
from kit.study.plan import plan
from kit.study.result import TrialResult, Verdict
from kit.study.spec import StudySpec, TrialSpec
from kit.study.traces.keep import keep

POLL_S = 0.1
#: A file in the study's folder by which another process asks the one that runs it to stop.
STOP = "stop"
#: How long an interrupted trial may take to stop its server before it is killed.
INTERRUPT_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningTrial:
    """One trial under way, as far as it has told."""

    spec: TrialSpec
    phase: str = "waiting"  # waiting, starting, loading, judging
    sent: int = 0
    ended: int = 0
    in_flight: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyProgress:
    """How far a study is; a new one about every POLL_S seconds and after every trial."""

    total: int
    done: tuple[tuple[TrialSpec, TrialResult], ...]
    running: tuple[RunningTrial, ...]
    elapsed_s: float


def run_study(
    spec: StudySpec,
    folder: Path,
    *,
    parallel: int | None = None,
    on_progress: Callable[[StudyProgress], None] | None = None,
    stop: threading.Event | None = None,
) -> StudyFolder:
    """Run what is left of a study and return its folder.

    Each trial runs in a process of its own (`python -m kit.runner.trial`), `parallel` at a time
    (None: one a core). Finished trials are not run again; interrupted ones are, and those that
    failed on our side.
    KeyboardInterrupt, or setting `stop`, ends the running trials, which clean up after
    themselves; the study can then be resumed with the same call.

    Raises:
        SpecError, UnknownReleaseError, UnknownScenarioError: the study cannot be run as written.
        StoreError: the folder holds another study, or cannot be written.
        UnsupportedPlatformError, LibpythonMissingError, DownloadError, HashMismatchError: this
            machine cannot run one of the servers; nothing was started.
    """
    trials = plan(spec)
    if spec.limit is not None:
        check_search(spec)
    study = StudyFolder.create(folder, spec)
    for trace in dict.fromkeys(trial.workload.trace for trial in trials):
        keep(study.path, trace)
    prepare_servers(dict.fromkeys(trial.server for trial in trials))
    for engine in spec.engines:
        environment_for(engine)
    run_trials(
        agenda_for(spec, trials, study),
        study,
        parallel=parallel or os.cpu_count() or 1,
        on_progress=on_progress,
        stop=stop,
    )
    return study


def run_trials(
    agenda: Agenda,
    study: StudyFolder,
    *,
    parallel: int,
    on_progress: Callable[[StudyProgress], None] | None = None,
    stop: threading.Event | None = None,
    launch: Callable[[TrialSpec, StudyFolder], TrialRun] | None = None,
) -> None:
    """Run the trials of an agenda that have no result yet, `parallel` at a time, into `study`.

    The study is marked as done only if each trial that was run said something about its server:
    interrupted ones and those that failed on our side are run again by the next call.
    launch: what runs one trial; None: a child process of this machine (TrialProcess).

    Raises:
        StoreError: another process runs trials into the folder.
    """
    with study.locked():
        _run_trials(agenda, study, parallel, on_progress, stop, launch)


def _run_trials(
    agenda: Agenda,
    study: StudyFolder,
    parallel: int,
    on_progress: Callable[[StudyProgress], None] | None,
    stop: threading.Event | None,
    launch: Callable[[TrialSpec, StudyFolder], TrialRun] | None,
) -> None:
    launch = launch or TrialProcess
    started = time.monotonic()
    done = {t.spec.trial_id: (t.spec, r) for t in study.trials() if (r := _final(t))}
    results = {name: result for name, (_, result) in done.items()}
    running: dict[str, TrialRun] = {}
    sweep()  # what an earlier run left when it was killed

    def report() -> None:
        if on_progress:
            on_progress(
                StudyProgress(
                    total=agenda.total(results, running),
                    done=tuple(done.values()),
                    running=tuple(trial.state() for trial in running.values()),
                    elapsed_s=time.monotonic() - started,
                )
            )

    asked = study.path / STOP
    asked.unlink(missing_ok=True)  # it was meant for an earlier run
    try:
        while not ((stop and stop.is_set()) or asked.exists()):
            while len(running) < parallel and (spec := agenda.next(results, running)):
                running[spec.trial_id] = launch(spec, study)
            report()
            if not running:
                if all(result.verdict.is_counted for result in results.values()):
                    write_whole(study.path / "done.json", b"{}\n")
                break
            _wait_any(running.values())
            for name, trial in [(n, t) for n, t in running.items() if t.ended()]:
                del running[name]
                results[name] = trial.result()
                done[name] = trial.spec, results[name]
    finally:
        _end(running.values())
        asked.unlink(missing_ok=True)
        sweep()


def _final(folder: TrialFolder) -> TrialResult | None:
    """The result of a trial that need not be run again."""
    result = folder.result
    return result if result is not None and result.verdict.is_counted else None


class TrialRun(Protocol):
    """One trial under way somewhere, seen from the study."""

    spec: TrialSpec

    def ended(self) -> bool: ...
    def wait(self, timeout_s: float) -> None: ...
    def interrupt(self) -> None: ...
    def kill(self) -> None: ...
    def state(self) -> RunningTrial: ...
    def result(self) -> TrialResult: ...


class TrialProcess:
    """A child that runs one trial; it stops and cleans up when its standard input closes."""

    def __init__(self, spec: TrialSpec, study: StudyFolder) -> None:
        self.spec = spec
        self.folder = study.new_trial(spec)
        with (self.folder.path / "trial.log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "kit.runner.trial", str(self.folder.path)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in the terminal is ours to pass on
            )

    def ended(self) -> bool:
        return self._process.poll() is not None

    def wait(self, timeout_s: float) -> None:
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return

    def interrupt(self) -> None:
        if self._process.stdin and not self._process.stdin.closed:
            self._process.stdin.close()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def state(self) -> RunningTrial:
        try:
            seen = msgspec.json.decode(self.folder.progress.read_bytes(), type=dict[str, str | int])
        except (FileNotFoundError, msgspec.DecodeError):
            return RunningTrial(spec=self.spec)
        return RunningTrial(
            spec=self.spec,
            phase=str(seen["phase"]),
            sent=int(seen["sent"]),
            ended=int(seen["ended"]),
            in_flight=int(seen["in_flight"]),
        )

    def result(self) -> TrialResult:
        """What the trial found; a trial process that died without a result is our own fault."""
        self.interrupt()
        found = self.folder.result
        if found is not None:
            return found
        log = (self.folder.path / "trial.log").read_text(errors="replace").strip()
        result = TrialResult(
            trial_id=self.spec.trial_id,
            verdict=Verdict.CLIENT_FAULT,
            reason=f"the trial process ended with {self._process.returncode} and no result: "
            + (log.splitlines()[-1] if log else "it printed nothing"),
            completed=0,
        )
        self.folder.finish(result)
        return result


def _wait_any(running: Collection[TrialRun]) -> None:
    """Sleep until a trial may have ended, POLL_S at most."""
    next(iter(running)).wait(POLL_S)


def _end(running: Collection[TrialRun]) -> None:
    for process in running:
        process.interrupt()
    deadline = time.monotonic() + INTERRUPT_S
    for process in running:
        process.wait(max(0.0, deadline - time.monotonic()))
        if not process.ended():
            process.kill()
