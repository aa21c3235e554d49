"""Chooses the trials of a search for a server's limit: each at the load that tells most."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from kit.errors import SpecError
from kit.study.folder import StudyFolder, TrialFolder
from kit.study.limit import LoadKind
from kit.study.plan import plan
from kit.study.result import TrialResult
from kit.study.spec import ArrivalKind, StudySpec, TrialSpec
from kit.study.traffic_field import GridValue

#: So many trials that failed on our side end the search.
MOST_FAULTS = 3
#: A closed loop's trial has so many rounds of all its clients at least, after one of warm-up.
ROUNDS = 6

if TYPE_CHECKING:
    from kit.stats.limit import Posterior
    from kit.stats.limit_study import GoalPoint

    Measure = Callable[[StudyFolder, TrialFolder, TrialResult], Sequence[GoalPoint]]

Results = Mapping[str, TrialResult]


class LimitAgenda:
    """The agenda of a search; one trial at a time, since the next depends on the last.

    measure: what a trial says of each goal; None: kit.stats.limit_study.goal_points.
    """

    def __init__(
        self,
        spec: StudySpec,
        study: StudyFolder,
        measure: Measure | None = None,
    ) -> None:
        check_search(spec)
        from kit.stats.limit_study import goal_points  # pandas, which a trial does without

        assert spec.limit is not None
        self._spec = spec
        self._search = spec.limit
        self._study = study
        self._measure = measure or goal_points
        self._points: dict[str, Sequence[GoalPoint]] = {}

    def next(self, results: Results, running: Collection[str]) -> TrialSpec | None:
        if running or self._is_over(results):
            return None
        load = self._posterior(results).next_load()
        repeat = 0
        while (trial := trial_at(self._spec, load, repeat)).trial_id in results:
            repeat += 1
        return trial

    def total(self, results: Results, running: Collection[str]) -> int:
        if not running and self._is_over(results):
            return len(results)
        return max(len(results) + len(running), self._search.most_trials)

    def _is_over(self, results: Results) -> bool:
        counted = [name for name, result in results.items() if result.verdict.is_counted]
        if len(results) - len(counted) >= MOST_FAULTS or len(counted) >= self._search.most_trials:
            return True
        return bool(counted) and self._posterior(results).is_decided(self._search.within)

    def _posterior(self, results: Results) -> Posterior:
        from kit.stats.limit_study import posterior_of

        for name, result in results.items():
            if result.verdict.is_counted and name not in self._points:
                trial = self._study.trial(name)
                self._points[name] = self._measure(self._study, trial, result)
        return posterior_of([p for own in self._points.values() for p in own], self._search)


def trial_at(spec: StudySpec, load: float, repeat: int) -> TrialSpec:
    """The trial of a search at a load: long enough to tell, without its first round."""
    assert spec.limit is not None
    search = spec.limit
    warmup, judged = 0, search.requests
    value: GridValue = float(load)
    if search.by is LoadKind.CONCURRENCY:
        value = warmup = int(load)
        judged = max(judged, ROUNDS * warmup)
    point: dict[str, tuple[GridValue, ...]] = {
        search.by.value: (value,),
        "requests": (warmup + judged,),
        "warmup_requests": (warmup,),
    }
    one = replace(
        spec,
        limit=None,
        requests=None,
        repeats=repeat + 1,
        least_repeats=1,
        grid=spec.grid | point,
    )
    return next(trial for trial in plan(one) if trial.repeat == repeat)


def check_search(spec: StudySpec) -> None:
    """Refuse a search that no trial could tell anything of.

    Raises:
        SpecError: several servers, engines, scenarios or values; or a goal that its protocol
            cannot show.
    """
    assert spec.limit is not None
    search, fixed = spec.limit, (spec.limit.by.value, "requests", "warmup_requests")
    many = [name for name, values in spec.grid.items() if len(values) > 1 or name in fixed]
    many += [
        name
        for name, values in (
            ("servers", spec.servers),
            ("engines", spec.engines),
            ("scenarios", spec.scenarios),
        )
        if len(values) > 1
    ]
    if many:
        raise SpecError(
            f"the limit over {', '.join(many)}",
            "one server under one traffic, whose "
            f"{', '.join(fixed)} the search itself chooses (low, high, requests)",
            f"give one value, or leave out {many[0]}; search once for each",
        )
    workload = trial_at(spec, search.low, 0).workload
    if search.goals.p95_itl_ms is not None and not workload.protocol.is_streamed:
        raise SpecError(
            f"p95_itl_ms over {workload.protocol.value}, which shows no tokens",
            "a protocol that streams",
            "take a protocol that ends with -stream, or leave out p95_itl_ms",
        )
    if search.by is LoadKind.CONCURRENCY and workload.arrivals.kind is not ArrivalKind.CLOSED:
        raise SpecError(
            f"the highest concurrency under {workload.arrivals.kind.value} arrivals",
            "a closed loop",
            "search by rate, or leave out rate and arrivals",
        )
