"""Which trial is next, and when a study has seen enough."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from kit.runner.agenda import FixedAgenda, SequentialAgenda, decided
from kit.study.folder import StudyFolder, TrialFolder
from kit.study.plan import plan
from kit.study.result import TrialResult, Verdict
from kit.study.sequential import Decision, TrialTest
from kit.study.spec import StudySpec, TrialSpec, embedded

SPEC = StudySpec(
    name="t", servers=embedded("23.10", "24.05"), scenarios=("cancel-race",), repeats=20
)
Ends = Callable[[TrialSpec], Verdict]


def result(trial: TrialSpec, verdict: Verdict) -> TrialResult:
    return TrialResult(trial_id=trial.trial_id, verdict=verdict, reason="", completed=5)


def run(
    agenda: FixedAgenda | SequentialAgenda, ends: Ends, *, parallel: int = 1
) -> list[TrialSpec]:
    """All trials that the agenda asks for, in the order in which they were started.

    Of the trials under way the one started last ends first, which is the harder order.
    """
    results: dict[str, TrialResult] = {}
    running: dict[str, TrialSpec] = {}
    started: list[TrialSpec] = []
    while True:
        while len(running) < parallel and (trial := agenda.next(results, running)):
            running[trial.trial_id] = trial
            started.append(trial)
        assert agenda.total(results, running) >= len(started) - len(running)
        if not running:
            return started
        name, trial = running.popitem()
        results[name] = result(trial, ends(trial))


def as_known(trial: TrialSpec) -> Verdict:
    return Verdict.CRASHED if trial.release == "23.10" else Verdict.SURVIVED


def test_a_fixed_agenda_runs_every_trial_once_and_in_order() -> None:
    trials = plan(SPEC)
    assert run(FixedAgenda(trials), as_known, parallel=3) == trials


def test_a_sequential_agenda_stops_as_soon_as_the_cells_are_decided() -> None:
    agenda = SequentialAgenda(plan(SPEC), TrialTest())
    started = run(agenda, as_known)
    per_release = {r: sum(t.release == r for t in started) for r in SPEC.releases}
    assert per_release == {"23.10": 1, "24.05": 5}


def test_a_decided_cell_gets_the_least_number_of_trials_all_the_same() -> None:
    agenda = SequentialAgenda(plan(SPEC), TrialTest(), least=3)
    started = run(agenda, as_known)
    per_release = {r: sum(t.release == r for t in started) for r in SPEC.releases}
    assert per_release == {"23.10": 3, "24.05": 5}
    seen = {t.trial_id: result(t, as_known(t)) for t in started}
    decided = agenda.decisions(seen)
    assert {cell.server.label: p.trials for cell, p in decided.items()} == {"23.10": 1, "24.05": 5}


def test_trials_beyond_the_decision_wait_until_no_question_is_open() -> None:
    agenda = SequentialAgenda(plan(SPEC), TrialTest(), least=3)
    order = [t.release for t in run(agenda, as_known)]
    assert order[-2:] == ["23.10", "23.10"]


def test_a_silent_trial_is_none_of_the_least() -> None:
    def ends(trial: TrialSpec) -> Verdict:
        return Verdict.CLIENT_FAULT if trial.repeat == 1 else as_known(trial)

    agenda = SequentialAgenda(plan(SPEC), TrialTest(), least=3)
    started = run(agenda, ends)
    assert sum(t.release == "23.10" for t in started) == 4


def test_it_decides_the_same_whatever_the_order_in_which_trials_end() -> None:
    one, three = (SequentialAgenda(plan(SPEC), TrialTest()) for _ in range(2))
    verdicts = {t.trial_id: result(t, as_known(t)) for t in plan(SPEC)}
    run(one, as_known), run(three, as_known, parallel=3)
    decided = one.decisions(verdicts)
    assert decided == three.decisions(verdicts)
    by_release = {cell.server.label: progress.decision for cell, progress in decided.items()}
    assert by_release == {"23.10": Decision.CRASHES, "24.05": Decision.SURVIVES}


def test_more_trials_than_could_decide_a_cell_never_run_beside_each_other() -> None:
    agenda = SequentialAgenda(plan(SPEC), TrialTest())
    assert len(run(agenda, lambda _: Verdict.SURVIVED, parallel=50)) == 10


def test_a_trial_that_says_nothing_is_replaced_by_another() -> None:
    def ends(trial: TrialSpec) -> Verdict:
        return Verdict.CLIENT_FAULT if trial.repeat == 0 else as_known(trial)

    agenda = SequentialAgenda(plan(SPEC), TrialTest())
    started = run(agenda, ends)
    per_release = {r: sum(t.release == r for t in started) for r in SPEC.releases}
    assert per_release == {"23.10": 2, "24.05": 6}


def test_a_cell_that_its_budget_cannot_decide_ends_undecided() -> None:
    trials = [t for t in plan(SPEC) if t.repeat < 2]
    agenda = SequentialAgenda(trials, TrialTest())
    assert len(run(agenda, lambda _: Verdict.SURVIVED)) == 4
    verdicts = {t.trial_id: result(t, Verdict.SURVIVED) for t in trials}
    decisions = {p.decision for p in agenda.decisions(verdicts).values()}
    assert decisions == {Decision.UNDECIDED}


def test_a_study_folder_says_how_its_cells_were_decided(tmp_path: Path) -> None:
    spec = replace(SPEC, sequential=TrialTest())
    study = StudyFolder.create(tmp_path / "study", spec)
    for trial in plan(spec)[:8]:
        TrialFolder.create(study.trial(trial.trial_id).path, trial).finish(
            result(trial, as_known(trial))
        )
    said = {("23.10", "cancel-race"): "crashes", ("24.05", "cancel-race"): "undecided"}
    assert decided(study) == said
    assert decided(StudyFolder.create(tmp_path / "fixed", SPEC)) == {}


def test_a_cell_that_has_no_trial_left_does_not_keep_the_others_from_theirs() -> None:
    """Of 23.10 one trial said nothing and the last one still runs; 24.05 has seen none."""
    spec = replace(SPEC, repeats=2)
    trials = plan(spec)
    agenda = SequentialAgenda(trials, TrialTest())
    first, second = (t for t in trials if t.release == "23.10")
    other, last = (t for t in trials if t.release == "24.05")
    results = {
        first.trial_id: result(first, Verdict.CLIENT_FAULT),
        other.trial_id: result(other, Verdict.SURVIVED),
    }
    assert agenda.next(results, [second.trial_id]) is last
    assert agenda.total(results, [second.trial_id]) == len(trials)
