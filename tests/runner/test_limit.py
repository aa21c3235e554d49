"""The conduct of a search for a limit, with trials that only pretend to run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from kit.errors import SpecError
from kit.report.limit import draw_limit, limit_advice, limit_remarks, limit_sentence
from kit.runner.limit import MOST_FAULTS, LimitAgenda, check_search, trial_at
from kit.runner.study import RunningTrial, run_trials
from kit.stats.limit import Point, Posterior
from kit.stats.limit_study import (
    DIED,
    GoalPoint,
    LimitFound,
    first_to_break,
    limit_of,
    load_of,
    posterior_of,
)
from kit.study.encoding import from_json, to_json
from kit.study.folder import StudyFolder, TrialFolder
from kit.study.limit import Goals, LimitSearch, LoadKind
from kit.study.result import TrialResult, Verdict
from kit.study.spec import StudySpec, TrialSpec, Workload, embedded
from kit.ui.limits import limit_spec

LIMIT = 37


def spec_of(workload: Workload | None = None, **search: Any) -> StudySpec:
    return StudySpec(
        name="limit",
        servers=embedded("24.05"),
        workload=workload or Workload(protocol="http-generate-stream"),
        repeats=1,
        limit=LimitSearch(**({"goals": Goals(p95_ttft_ms=100)} | search)),
    )


def wall(study: StudyFolder, trial: TrialFolder, result: TrialResult) -> list[GoalPoint]:
    """A server that is fast up to LIMIT clients, and very slow from there on."""
    assert study.spec.limit is not None
    load = load_of(trial, study.spec.limit)
    bad = 0.0 if load <= LIMIT else 0.6
    return [
        GoalPoint(
            trial_id=trial.spec.trial_id,
            goal="p95_ttft_ms",
            point=Point(load=load, bad=bad, allowed=0.05, n=400),
            value=40.0 + 1000 * bad,
            wanted=100.0,
        )
    ]


class Ended:
    """A trial that has ended as soon as it is started."""

    def __init__(self, spec: TrialSpec, study: StudyFolder, verdict: Verdict) -> None:
        self.spec = spec
        self._result = TrialResult(
            trial_id=spec.trial_id, verdict=verdict, reason="pretended", completed=3
        )
        TrialFolder.create(study.trial(spec.trial_id).path, spec).finish(self._result)

    def ended(self) -> bool:
        return True

    def wait(self, timeout_s: float) -> None: ...

    def interrupt(self) -> None: ...

    def kill(self) -> None: ...

    def state(self) -> RunningTrial:
        return RunningTrial(spec=self.spec)

    def result(self) -> TrialResult:
        return self._result


def run(study: StudyFolder, verdict: Verdict = Verdict.SURVIVED, most: int = 99) -> list[str]:
    """Run the search; the trials that were started."""
    started: list[str] = []

    def launch(spec: TrialSpec, folder: StudyFolder) -> Ended:
        if len(started) == most:
            raise KeyboardInterrupt
        started.append(spec.trial_id)
        return Ended(spec, folder, verdict)

    agenda = LimitAgenda(study.spec, study, wall)
    try:
        run_trials(agenda, study, parallel=3, launch=launch)
    except KeyboardInterrupt:
        assert len(started) == most
    return started


@pytest.mark.slow
def test_a_search_finds_the_limit_and_an_interrupted_one_goes_on(tmp_path: Path) -> None:
    whole = StudyFolder.create(tmp_path / "whole", spec_of())
    at_once = run(whole)
    assert whole.finished
    points = [p for t in whole.trials() if t.result for p in wall(whole, t, t.result)]
    assert whole.spec.limit is not None
    found = posterior_of(points, whole.spec.limit).estimate()
    assert found.value == pytest.approx(LIMIT, abs=2)
    assert found.low <= LIMIT <= found.high

    parts = StudyFolder.create(tmp_path / "parts", spec_of())
    first = run(parts, most=3)
    assert not parts.finished
    assert [*first, *run(parts)] == at_once
    assert run(parts) == []


def test_trials_that_fail_on_our_side_end_the_search(tmp_path: Path) -> None:
    study = StudyFolder.create(tmp_path / "s", spec_of())
    assert len(run(study, Verdict.CLIENT_FAULT)) == MOST_FAULTS
    assert not study.finished


def test_a_trial_leaves_its_first_round_out_and_has_several_more() -> None:
    small, large = (trial_at(spec_of(), load, 0).workload for load in (8, 500))
    assert (small.concurrency, small.warmup_requests, small.requests) == (8, 8, 408)
    assert (large.concurrency, large.warmup_requests, large.requests) == (500, 500, 3500)
    rate = trial_at(spec_of(by=LoadKind.RATE), 2.5, 1)
    assert (rate.workload.rate, rate.workload.requests, rate.repeat) == (2.5, 400, 1)
    assert trial_at(spec_of(), 8, 0).workload.seed != trial_at(spec_of(), 8, 1).workload.seed


def test_what_no_trial_could_tell_is_refused_before_anything_is_started() -> None:
    with pytest.raises(SpecError, match="shows no tokens"):
        check_search(spec_of(Workload(), goals=Goals(p95_itl_ms=50)))
    with pytest.raises(SpecError, match="a closed loop"):
        check_search(spec_of(Workload(rate=5)))
    with pytest.raises(SpecError, match="without a goal"):
        Goals(failed=None)
    with pytest.raises(SpecError, match="a share between 0 and 1"):
        Goals(kv=90)
    with pytest.raises(SpecError, match="the smaller first"):
        LimitSearch(goals=Goals(), low=5, high=5)
    several = {"by": None, "low": None, "high": None, "within": 0.05, "most_trials": 9}
    with pytest.raises(SpecError, match="over output_tokens"):
        limit_spec(
            "24.05",
            "control",
            goals={"failed": 0.01},
            requests=100,
            workload=None,
            engine=None,
            name="limit",
            seed=0,
            traffic={"output_tokens": [8, 16]},
            **several,  # type: ignore[arg-type]
        )


def test_a_search_is_kept_in_its_spec() -> None:
    spec = spec_of(by=LoadKind.RATE, goals=Goals(kv=0.9, failed=0.001))
    assert from_json(to_json(spec), StudySpec) == spec
    assert spec.limit is not None
    assert spec.limit.goals.words == "failed ≤ 0.1 %, p95 KV usage ≤ 90 %"


def found_of(goal: str, broken_at: tuple[float, ...], **more: Any) -> LimitFound:
    search = LimitSearch(goals=Goals(p95_ttft_ms=100, kv=0.9))
    loads = (1.0, 8.0, 30.0, 36.0, *broken_at)
    points = tuple(
        GoalPoint(
            trial_id=f"t{number}",
            goal=goal if load in broken_at else "p95_ttft_ms",
            point=Point(load=load, bad=0.5 if load in broken_at else 0.0, allowed=0.05, n=400),
            value=(math.inf if load > 60 else 812.0) if load in broken_at else 40.0,
            wanted=100.0 if goal != DIED else 0.0,
        )
        for number, load in enumerate(loads)
    )
    posterior = posterior_of(points, search)
    broke = next((one for one in points if not one.holds), None)
    usual: dict[str, Any] = {
        "search": search,
        "estimate": posterior.estimate(),
        "points": points,
        "goodput": tuple((load, load * 3) for load in loads),
        "decided": True,
        "broke": broke,
        "deaths": (),
        "client_limited": 0,
        "client_busy": 0,
        "places": None,
    }
    return LimitFound(**(usual | more))


def test_the_answer_names_limit_interval_and_what_broke_first() -> None:
    found = found_of("p95_ttft_ms", (38.0, 64.0))
    said = limit_sentence(found)
    assert "hold up to 3" in said
    assert "at 95 %)" in said
    assert "first to break, at 38: p95 TTFT 812 ms (goal 100 ms)" in said
    advice = limit_advice(found)
    assert f"at most {found.estimate.low:g} concurrent clients" in advice[0]
    assert "max_queue_size" in advice[1]
    roomy = found_of("p95_ttft_ms", (38.0, 64.0), places=256)
    assert "takes 256 sequences at once" in limit_advice(roomy)[1]
    assert limit_remarks(found) == []
    assert "max_num_seqs" in limit_advice(found_of("p95_itl_ms", (38.0,)))[1]
    assert "KV cache is full" in limit_advice(found_of("kv", (38.0,)))[1]


def test_deaths_and_a_client_at_its_own_limit_are_said() -> None:
    found = found_of(DIED, (38.0,), deaths=(38.0,), client_limited=3, client_busy=2)
    deaths, client, machine = limit_remarks(found)
    assert "died in 1 of 5 trials, at 38" in deaths
    assert "load generator itself was at its limit in 2 of 5" in client
    assert "In 1 of 5 trials the load generator had to wait for a processor" in machine
    assert "study.crashes" in limit_advice(found)[-1]


def test_trials_that_contradict_each_other_are_said() -> None:
    (said,) = limit_remarks(found_of("p95_ttft_ms", (9.0, 38.0)))
    assert "p95 TTFT 812 ms (goal 100 ms) broke at 9 and held at 36" in said
    (said,) = limit_remarks(found_of("p95_ttft_ms", (36.0,), points=(
        *found_of("p95_ttft_ms", ()).points,
        GoalPoint(trial_id="again", goal="p95_ttft_ms", value=812.0, wanted=100.0,
                  point=Point(load=36.0, bad=0.5, allowed=0.05, n=400)),
    )))  # fmt: skip
    assert "broke at 36 and held at 36" in said


def test_a_goal_that_broke_once_by_chance_is_not_thefirst_to_break() -> None:
    def point(load: float, goal: str, bad: float) -> GoalPoint:
        of = Point(load=load, bad=bad, allowed=0.05, n=400)
        return GoalPoint(trial_id=f"{load:g}", goal=goal, point=of, value=812.0, wanted=100.0)

    chance, *often = (point(9, "p95_itl_ms", 0.3), *(point(n, "p95_ttft_ms", 0.1) for n in (9, 12)))
    assert first_to_break([chance, *often]) is often[0]
    assert first_to_break([point(12, "kv", 0.1), point(12, "failed", 0.4)]).goal == "failed"  # type: ignore[union-attr]
    assert first_to_break([]) is None


def test_the_ends_of_the_range_are_no_limit() -> None:
    search = LimitSearch(goals=Goals(), low=4, high=64)
    for bad, words in ((0.5, "hold at no load from 4"), (0.0, "still hold at 64")):
        points = [Point(load=load, bad=bad, allowed=0.05, n=400) for load in (4, 16, 64, 64)]
        estimate = Posterior(points, low=4, high=64, is_whole=True).estimate()
        found = found_of("failed", (), search=search, estimate=estimate, broke=None)
        assert words in limit_sentence(found)


def test_the_picture_marks_the_limit_and_what_is_broken() -> None:
    found = found_of("p95_ttft_ms", (38.0, 64.0))
    ax = draw_limit(found, Figure().add_subplot())
    marked = {line.get_gid(): line for line in ax.get_lines()}
    assert list(marked["limit"].get_xdata()) == [found.estimate.value] * 2
    assert list(marked["goal"].get_ydata()) == [1.0, 1.0]
    assert sorted(marked["broken p95_ttft_ms"].get_xdata()) == [38.0, 64.0]
    assert max(marked["broken p95_ttft_ms"].get_ydata()) <= 30.0  # never answered: the edge
    assert ax.get_title().replace("\n", " ").startswith("The goals hold up to 3")
    assert "n 6 trials" in ax.get_xlabel().replace("\n", " ")


def test_a_study_that_looks_for_no_limit_says_so(tmp_path: Path) -> None:
    plain = StudySpec(name="s", servers=embedded("24.05"), scenarios=("control",))
    with pytest.raises(SpecError, match="does not look for one"):
        limit_of(StudyFolder.create(tmp_path / "s", plain))
