"""The conduct of a study, with trials that only pretend to run."""

import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kit.errors import StoreError
from kit.runner.agenda import FixedAgenda
from kit.runner.study import RunningTrial, StudyProgress, run_trials
from kit.study.folder import StudyFolder, TrialFolder
from kit.study.plan import plan
from kit.study.result import TrialResult, Verdict
from kit.study.spec import StudySpec, TrialSpec, embedded

SPEC = StudySpec(name="t", servers=embedded("23.10", "24.05"), scenarios=("control",), repeats=2)


class FakeRun:
    """A trial that takes a few looks to end."""

    def __init__(self, spec: TrialSpec, study: StudyFolder, verdict: Verdict, looks: int) -> None:
        self.spec = spec
        self.folder = TrialFolder.create(study.trial(spec.trial_id).path, spec)
        self.verdict = verdict
        self.looks = looks
        self.interrupted = False

    def ended(self) -> bool:
        self.looks -= 1
        return self.looks < 0 or self.interrupted

    def wait(self, timeout_s: float) -> None: ...

    def interrupt(self) -> None:
        self.interrupted = True
        self.verdict = Verdict.INTERRUPTED
        self.result()

    def kill(self) -> None: ...

    def state(self) -> RunningTrial:
        return RunningTrial(spec=self.spec)

    def result(self) -> TrialResult:
        result = TrialResult(
            trial_id=self.spec.trial_id, verdict=self.verdict, reason="pretended", completed=3
        )
        self.folder.finish(result)
        return result


class Launcher:
    def __init__(self, verdict: Verdict = Verdict.SURVIVED, looks: int = 2) -> None:
        self.verdict, self.looks = verdict, looks
        self.runs: list[FakeRun] = []

    def __call__(self, spec: TrialSpec, study: StudyFolder) -> FakeRun:
        self.runs.append(FakeRun(spec, study, self.verdict, self.looks))
        return self.runs[-1]


Run = Callable[..., Launcher]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    study = StudyFolder.create(tmp_path / "study", SPEC)

    def go(launcher: Launcher | None = None, **given: object) -> Launcher:
        launcher = launcher or Launcher()
        options: dict[str, object] = {"parallel": 2, "launch": launcher} | given
        run_trials(FixedAgenda(plan(SPEC)), study, **options)  # type: ignore[arg-type]
        return launcher

    return go


def test_every_trial_runs_once_and_the_study_is_marked_done(run: Run, tmp_path: Path) -> None:
    launcher = run()
    assert [r.spec.trial_id for r in launcher.runs] == [t.trial_id for t in plan(SPEC)]
    assert (tmp_path / "study" / "done.json").exists()


def test_no_more_trials_run_at_a_time_than_asked(run: Run) -> None:
    most = 0

    def look(progress: StudyProgress) -> None:
        nonlocal most
        most = max(most, len(progress.running))

    run(Launcher(looks=5), on_progress=look)
    assert most == 2


def test_finished_trials_are_not_run_again(run: Run) -> None:
    run()
    assert run().runs == []


def test_interrupted_trials_are_run_again(run: Run) -> None:
    run(Launcher(Verdict.INTERRUPTED))
    assert len(run().runs) == 4


@pytest.mark.parametrize("verdict", [Verdict.INTERRUPTED, Verdict.CLIENT_FAULT])
def test_a_study_is_done_only_when_every_trial_says_something_of_its_server(
    run: Run, tmp_path: Path, verdict: Verdict
) -> None:
    run(Launcher(verdict))
    assert not (tmp_path / "study" / "done.json").exists()
    assert len(run().runs) == 4
    assert (tmp_path / "study" / "done.json").exists()


def test_whatever_runs_trials_takes_the_lock_of_the_study(run: Run, tmp_path: Path) -> None:
    with StudyFolder(tmp_path / "study").locked(), pytest.raises(StoreError, match="another"):
        run()


def test_stopping_a_study_interrupts_what_runs_and_keeps_what_is_done(
    run: Run, tmp_path: Path
) -> None:
    stop = threading.Event()

    def look(progress: StudyProgress) -> None:
        if len(progress.done) >= 2:
            stop.set()

    launcher = run(Launcher(looks=3), on_progress=look, stop=stop)
    assert not (tmp_path / "study" / "done.json").exists()
    assert all(r.interrupted or r.looks < 0 for r in launcher.runs)
    assert len(run().runs) == 2


def test_a_study_begins_no_trial_that_its_budget_of_requests_could_not_hold(
    run: Run, tmp_path: Path
) -> None:
    asked = plan(SPEC)[0].workload.requests
    assert asked is not None
    remarks: list[str] = []

    def look(progress: StudyProgress) -> None:
        remarks[:] = progress.remarks

    # Each trial says that it has sent 3: what it asks for must fit beside that.
    launcher = run(parallel=1, most_requests=asked + 7, on_progress=look)
    assert len(launcher.runs) == 3
    assert not (tmp_path / "study" / "done.json").exists()
    [said] = remarks
    assert "is used up: 9 were sent" in said
    run(parallel=1)
    assert (tmp_path / "study" / "done.json").exists(), "the same call without it goes on"


def test_a_study_folder_that_is_removed_meanwhile_is_named(run: Run, tmp_path: Path) -> None:
    class Gone(FakeRun):
        def result(self) -> TrialResult:
            shutil.rmtree(tmp_path / "study")
            (self.folder.path / "trial.log").read_text()
            raise AssertionError("it was there")

    def launch(spec: TrialSpec, study: StudyFolder) -> FakeRun:
        return Gone(spec, study, Verdict.SURVIVED, 2)

    with pytest.raises(StoreError, match=r"study.*No such file.*stays where it is"):
        run(launch=launch, parallel=1)
    assert not (tmp_path / "study").exists(), "nothing is written there again"


def test_a_keyboard_interrupt_ends_the_running_trials(run: Run) -> None:
    launcher = Launcher(looks=1000)

    def look(progress: StudyProgress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(launcher, on_progress=look)
    assert all(r.interrupted for r in launcher.runs)


def test_a_folder_that_holds_another_study_is_refused(tmp_path: Path) -> None:
    StudyFolder.create(tmp_path, SPEC)
    other = StudySpec(name="other", servers=embedded("24.10"), scenarios=("control",))
    with pytest.raises(StoreError, match="another study"):
        StudyFolder.create(tmp_path, other)


def test_a_study_is_the_same_whatever_could_not_be_run_beside_it(tmp_path: Path) -> None:
    StudyFolder.create(tmp_path, replace(SPEC, left_out={"23.10": "no Python"}))
    assert StudyFolder.create(tmp_path, SPEC).spec.left_out == {"23.10": "no Python"}


def test_two_processes_never_run_into_one_folder(tmp_path: Path) -> None:
    study = StudyFolder.create(tmp_path, SPEC)
    hold = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX)"
    wait = "print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", f"{hold}; {wait}", str(tmp_path / "lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(StoreError, match="another process"), study.locked():
            pass
        other.communicate()
    with study.locked():
        pass
