"""Shrinks the traffic of a dead trial by real trials in a study folder; resumes.

The folder is that of a study whose trials are named after the candidate that they try
(`try07_02`, `final31_00`), with `shrunk.json` beside `study.json` as the end marker.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from kit.errors import StoreError
from kit.reproduce.shrink import ShrinkStep, Shrunk, shrink
from kit.runner.agenda import FixedAgenda
from kit.runner.place import TrialRun
from kit.runner.study import StudyProgress, run_trials
from kit.servers.prepare import prepare_servers
from kit.servers.vllm_env import check_engines
from kit.study.encoding import to_json
from kit.study.files import write_whole
from kit.study.folder import StudyFolder
from kit.study.result import TrialResult
from kit.study.spec import StudySpec, TrialSpec

MARKER = "shrunk.json"

Launch = Callable[[TrialSpec, StudyFolder], TrialRun]


def shrink_in(
    folder: Path,
    trial: TrialSpec,
    *,
    wanted: float = 0.8,
    budget: int = 80,
    parallel: int = 2,
    like: TrialResult | None = None,
    on_step: Callable[[ShrinkStep], None] | None = None,
    on_progress: Callable[[StudyProgress], None] | None = None,
    launch: Launch | None = None,
) -> Shrunk:
    """Shrink `trial` (see kit.reproduce.shrink), with real servers; all that they left is in
    `folder`.

    The same call goes on where an earlier one was stopped: trials that have ended are not run
    again. launch: as of kit.runner.study.run_trials.

    Raises:
        SpecError: no such probability, or too small a budget.
        StoreError: the folder holds something else, or cannot be written.
        NotEnoughDataError: the trials fail on our own side.
        UnsupportedPlatformError, LibpythonMissingError, DownloadError, HashMismatchError: this
            machine cannot run that server; nothing was started.
    """
    study = StudyFolder.create(folder, _study(trial, budget))
    if launch is None:
        prepare_servers([trial.server])
        check_engines([trial.server], [trial.engine])

    def run(specs: Sequence[TrialSpec]) -> list[TrialResult]:
        for spec in specs:
            _check(study, spec)
        (study.path / "done.json").unlink(missing_ok=True)  # there are more trials now
        run_trials(
            FixedAgenda(specs), study, parallel=parallel, on_progress=on_progress, launch=launch
        )
        results = [study.trial(spec.trial_id).result for spec in specs]
        return [result for result in results if result is not None]

    found = shrink(
        trial, run, wanted=wanted, budget=budget, parallel=parallel, like=like, on_step=on_step
    )
    write_whole(study.path / MARKER, to_json(found))
    return found


def _study(trial: TrialSpec, budget: int) -> StudySpec:
    """What the folder says that it is. Its trials are the shrinking's, not this study's plan."""
    return StudySpec(
        name="shrink",
        servers=(trial.server,),
        engines=(trial.engine,),
        workload=trial.workload,
        repeats=budget,
    )


def _check(study: StudyFolder, spec: TrialSpec) -> None:
    """A trial of that name that was run with another spec is of another shrinking."""
    folder = study.trial(spec.trial_id)
    if folder.path.exists() and folder.spec != spec:
        raise StoreError(
            f"{study.path} holds the shrinking of another trial",
            "an empty folder, or the same trial, probability and number of trials at a time",
            "choose another folder",
        )
