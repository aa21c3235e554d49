"""The search for flips over the trials of a study that was run."""

import shutil
from pathlib import Path

import pytest
from synthetic_studies import write_study, write_trial

from kit.errors import NotEnoughDataError, SpecError
from kit.runner.bisect import bisect_recorded, flips_sentence
from kit.stats.bisect import Assumptions
from kit.study.folder import StudyFolder, TrialFolder
from kit.study.plan import plan
from kit.study.result import TrialResult, Verdict
from kit.study.spec import StudySpec
from kit.ui.choices import choose
from kit.ui.cli import parser
from kit.ui.console import DONE, NOTHING_LEARNED

LINE = ["23.10", "23.12", "24.05", "24.07", "24.08", "24.10"]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    folder = write_study(tmp_path_factory.mktemp("line") / "study", LINE, ["cancel-race"])
    for release in LINE:
        dies = release in ("23.10", "24.08", "24.10")
        for repeat in range(5):
            write_trial(
                folder,
                release,
                scenario="cancel-race",
                repeat=repeat,
                crash_after=9 if dies else None,
            )
    return folder


@pytest.mark.slow
def test_every_flip_of_a_study_is_found_from_its_own_trials(study: StudyFolder) -> None:
    found = bisect_recorded(study, "cancel-race")
    assert found.decided
    assert [(f.older, f.newer, f.came) for f in found.flips] == [
        ("23.10", "23.12", False),
        ("24.07", "24.08", True),
    ]
    assert found.trials < 30, "fewer than all trials of the study"


def test_the_sentence_names_where_it_went_and_where_it_came_back(study: StudyFolder) -> None:
    said = flips_sentence(bisect_recorded(study, "cancel-race"))
    assert said.startswith("23.10 dies; the crash went between 23.10 and 23.12")
    assert "came between 24.07 and 24.08" in said


def test_a_scenario_that_was_not_run_is_refused(study: StudyFolder) -> None:
    with pytest.raises(NotEnoughDataError, match="control"):
        bisect_recorded(study, "control")


@pytest.mark.slow
def test_concurrencies_and_engines_are_never_pooled(study: StudyFolder, tmp_path: Path) -> None:
    study = StudyFolder(shutil.copytree(study.path, tmp_path / "study"))
    write_trial(study, "23.10", scenario="cancel-race", repeat=9, concurrency=1)
    with pytest.raises(SpecError, match="concurrencies 1, 4"):
        bisect_recorded(study, "cancel-race")


@pytest.mark.slow
def test_what_was_not_decided_begins_with_that_word(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "study", LINE, ["cancel-race"])
    for release in LINE:
        write_trial(folder, release, scenario="cancel-race", verdict=Verdict.CLIENT_FAULT)
    nothing = bisect_recorded(folder, "cancel-race")
    assert flips_sentence(nothing) == "undecided: no trial told anything of a server."
    write_trial(folder, "23.10", scenario="cancel-race", repeat=1)
    said = flips_sentence(bisect_recorded(folder, "cancel-race"))
    assert said.startswith("undecided: likeliest, 23.10 stands")
    assert "after 1 trial," in said


@pytest.mark.slow
def test_the_sentence_says_what_it_assumes(study: StudyFolder) -> None:
    assert "dies does so in 30% of its trials or more, " in flips_sentence(
        bisect_recorded(study, "cancel-race")
    )
    fixed = bisect_recorded(study, "cancel-race", assume=Assumptions(detect=0.8))
    assert "if a release that dies does so in 80% of its trials" in flips_sentence(fixed)


def ended(spec: StudySpec, folder: Path, verdicts: dict[str, Verdict]) -> None:
    """All trials of `spec` in `folder`, as if they had been run."""
    study = StudyFolder.create(folder, spec)
    for trial in plan(spec):
        result = TrialResult(
            trial_id=trial.trial_id,
            verdict=verdicts[trial.release],
            reason="invented",
            completed=40,
            load_started_ns=10**12,
            died_ns=2 * 10**12,
            ended_ns=2 * 10**12,
        )
        TrialFolder.create(study.trial(trial.trial_id).path, trial).finish(result)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verdict", "said", "code"),
    [
        (Verdict.CRASHED, "the crash went between 23.10 and 24.05", DONE),
        (Verdict.CLIENT_FAULT, "no trial told anything", NOTHING_LEARNED),
    ],
)
def test_the_command_says_where_it_went_or_that_nothing_was_learned(
    verdict: Verdict,
    said: str,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def start_nothing(*_: object, **__: object) -> None:
        """All trials are there."""

    monkeypatch.setattr("kit.runner.bisect.prepare_servers", start_nothing)
    monkeypatch.setattr("kit.runner.bisect.run_trials", start_nothing)
    spec = choose(["23.10", "24.05"], "cancel-race", name="bisect-cancel-race", repeats=20)
    survived = Verdict.SURVIVED if code == DONE else verdict
    ended(spec, tmp_path / "s", {"23.10": verdict, "24.05": survived})
    command = ["bisect", "cancel-race", "--release", "23.10,24.05", "--out", str(tmp_path / "s")]
    args = parser().parse_args(command)
    assert args.function(args) == code
    out, err = capsys.readouterr()
    assert said in " ".join(out.split())
    assert "kit report" in out
    assert "study folder" in err
