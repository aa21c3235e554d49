"""Runs a study into a folder: resumes, and runs several trials at a time."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kit.errors import StoreError
from kit.runner.agenda import Agenda, agenda_for
from kit.runner.budget import Budget
from kit.runner.limit import check_search
from kit.runner.place import INTERRUPT_S, POLL_S, Here, RunningTrial, TrialPlace, TrialRun
from kit.servers.prepare import prepare_servers
from kit.servers.traces import sweep
from kit.servers.vllm_env import check_engines
from kit.study.files import write_whole
from kit.study.folder import StudyFolder, TrialFolder
from kit.study.plan import plan
from kit.study.remarks import Remarks
from kit.study.result import TrialResult
from kit.study.spec import StudySpec, TrialSpec
from kit.study.tokenizer_file import keep_tokenizer
from kit.study.traces.keep import keep

if TYPE_CHECKING:
    from kit.runner.dask_cluster import Cluster

#: A file in the study's folder by which another process asks the one that runs it to stop.
STOP = "stop"


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyProgress:
    """How far a study is; a new one about every POLL_S seconds and after every trial."""

    total: int
    done: tuple[tuple[TrialSpec, TrialResult], ...]
    running: tuple[RunningTrial, ...]
    elapsed_s: float
    remarks: tuple[str, ...] = ()  # what there is to know of where it runs; only ever added to


def run_study(
    spec: StudySpec,
    folder: Path,
    *,
    parallel: int | None = None,
    on: Cluster | None = None,
    on_progress: Callable[[StudyProgress], None] | None = None,
    stop: threading.Event | None = None,
    most_requests: int | None = None,
) -> StudyFolder:
    """Run what is left of a study and return its folder.

    Each trial runs in a process of its own (`python -m kit.runner.trial`), `parallel` at a time
    (None: one a core). Trials that share a server that runs already go one after the other.
    on: a Dask cluster (kit.runner.dask_cluster) on whose hosts they run instead, one at a time on
    each; the folder is here all the same. With load_hosts trials run here, one at a time, and their
    load comes from so many of its hosts. Finished trials are not run again; interrupted ones are,
    and those that failed on our side.
    most_requests: no trial is begun that could send more than these, over all trials of this call;
    one without a number of requests counts once it has ended. The progress says so.
    KeyboardInterrupt, or setting `stop`, ends the running trials, which clean up after
    themselves; the study can then be resumed with the same call.

    Raises:
        SpecError, UnknownReleaseError, UnknownScenarioError: the study cannot be run as written.
        StoreError: the folder holds another study, or cannot be written.
        UnsupportedPlatformError, LibpythonMissingError, DownloadError, HashMismatchError: this
            machine cannot run one of the servers; nothing was started.
        ClusterError: the cluster cannot be reached or used, or was lost; the same call resumes,
            with another cluster or none.
        MissingPackageError: Dask is not installed.
    """
    trials = plan(spec)
    if spec.shares_a_server:
        parallel = 1
    if spec.limit is not None:
        check_search(spec)
    has_hosts = check_where(spec, trials, on)
    study = StudyFolder.create(folder, spec)
    for trace in dict.fromkeys(trial.workload.trace for trial in trials):
        keep(study.path, trace)
    for tokenizer in dict.fromkeys(trial.workload.tokenizer for trial in trials):
        keep_tokenizer(study.path, tokenizer)
    agenda = agenda_for(spec, trials, study)
    if on is not None:
        if study.finished:
            return study
        from kit.runner.dask_load_place import load_place
        from kit.runner.dask_place import dask_place

        where = load_place(on, study, trials) if has_hosts else dask_place(on, study, parallel)
        with where as place:
            run_trials(
                agenda,
                study,
                place=place,
                on_progress=on_progress,
                stop=stop,
                most_requests=most_requests,
            )
        return study
    prepare_servers(dict.fromkeys(trial.server for trial in trials))
    check_engines(spec.servers, spec.engines)
    here = Here(parallel or os.cpu_count() or 1)
    run_trials(
        agenda,
        study,
        place=here,
        on_progress=on_progress,
        stop=stop,
        most_requests=most_requests,
    )
    return study


def check_where(spec: StudySpec, trials: Sequence[TrialSpec], on: Cluster | None) -> bool:
    """Whether trials run here, with their load from the cluster's hosts.

    Raises:
        SpecError: the study's servers, or its load, do not go with `on`.
    """
    if on is None and all(trial.workload.load_hosts is None for trial in trials):
        return False  # without importing what has to do with Dask
    from kit.runner.dask_cluster import check_limit, check_servers
    from kit.runner.dask_load_place import has_load_hosts

    if has_load_hosts(trials, on):
        return True
    check_limit(spec)
    check_servers(spec)
    return False


def run_trials(
    agenda: Agenda,
    study: StudyFolder,
    *,
    parallel: int = 1,
    on_progress: Callable[[StudyProgress], None] | None = None,
    stop: threading.Event | None = None,
    launch: Callable[[TrialSpec, StudyFolder], TrialRun] | None = None,
    place: TrialPlace | None = None,
    most_requests: int | None = None,
) -> None:
    """Run the trials of an agenda that have no result yet, `parallel` at a time, into `study`.

    The study is marked as done only if each trial that was run said something about its server:
    interrupted ones and those that failed on our side are run again by the next call.
    launch: what runs one trial; None: a child process of this machine (kit.runner.place).
    place: where they run, with as many at a time as there is room; None: here, as said.

    Raises:
        StoreError: another process runs trials into the folder, or it was removed or cannot be
            written any more; the running trials have ended then.
        ClusterError: the place was lost; what has ended is kept.
    """
    with study.locked():
        budget = Budget(most_requests)
        try:
            _run_trials(agenda, study, place or Here(parallel, launch), on_progress, stop, budget)
        except OSError as error:
            if error.filename is None or not Path(error.filename).is_relative_to(study.path):
                raise
            raise StoreError(
                f"{error.filename}: {error.strerror}, while trials ran into its study",
                "a study folder that stays where it is and can be written",
                "run it again; what is still in the folder is kept",
            ) from error


def _run_trials(
    agenda: Agenda,
    study: StudyFolder,
    place: TrialPlace,
    on_progress: Callable[[StudyProgress], None] | None,
    stop: threading.Event | None,
    budget: Budget,
) -> None:
    started = time.monotonic()
    done = {t.spec.trial_id: (t.spec, r) for t in study.trials() if (r := _final(t))}
    results = {name: result for name, (_, result) in done.items()}
    running: dict[str, TrialRun] = {}
    remarks: list[str] = []
    told = Remarks(study.path)
    sweep()  # what an earlier run left when it was killed

    def report() -> None:
        told.keep((*place.remarks(), *remarks))
        if on_progress:
            on_progress(
                StudyProgress(
                    total=agenda.total(results, running),
                    done=tuple(done.values()),
                    running=tuple(trial.state() for trial in running.values()),
                    elapsed_s=time.monotonic() - started,
                    remarks=(*place.remarks(), *remarks),
                )
            )

    asked = study.path / STOP
    asked.unlink(missing_ok=True)  # it was meant for an earlier run
    try:
        while not ((stop and stop.is_set()) or asked.exists()):
            slots = place.slots()
            while len(running) < slots and (spec := agenda.next(results, running)):
                if not budget.allows(spec, [trial.spec for trial in running.values()]):
                    break
                running[spec.trial_id] = place.launch(spec, study)
            if not running and slots and agenda.next(results, running):
                remarks.append(str(budget))
                report()
                break
            report()
            if not running and not slots and agenda.next(results, running):
                time.sleep(POLL_S)
                continue
            if not running:
                if all(result.verdict.is_counted for result in results.values()):
                    write_whole(study.path / "done.json", b"{}\n")
                break
            _wait_any(running.values())
            for name, trial in [(n, t) for n, t in running.items() if t.ended()]:
                del running[name]
                results[name] = trial.result()
                budget.spend(results[name])
                done[name] = trial.spec, results[name]
    finally:
        _end(running.values())
        asked.unlink(missing_ok=True)
        sweep()


def _final(folder: TrialFolder) -> TrialResult | None:
    """The result of a trial that need not be run again."""
    result = folder.result
    return result if result is not None and result.verdict.is_counted else None


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
