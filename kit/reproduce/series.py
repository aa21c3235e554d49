"""Runs trials of workloads, one workload after the other, within a budget.

A series is the trials of one workload. Which deaths count is the bench's business, too: only
those that are the crash which is looked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from zlib import crc32

from kit.crash.groups import commonest_death, same_crash
from kit.errors import NotEnoughDataError
from kit.study.result import TrialResult
from kit.study.sequential import Decision, Observation, Progress, TrialTest, boundaries, decide
from kit.study.spec import TrialSpec, Workload

Run = Callable[[Sequence[TrialSpec]], Sequence[TrialResult]]
#: Trials of one workload that may fail on our own side.
MOST_SILENT = 5
#: The test tells odds of dying this many times the wanted ones from odds as much smaller.
ODDS = 4.0
#: Chances to keep a workload that dies too seldom (the final trials would show it), and to drop
#: one that dies often enough.
KEEP_WRONGLY, DROP_WRONGLY = 0.1, 0.05


def candidate_test(wanted: float) -> TrialTest:
    """The test that decides whether a workload kills often enough."""
    odds = wanted / (1 - wanted)
    return TrialTest(
        survives=odds / ODDS / (1 + odds / ODDS),
        crashes=odds * ODDS / (1 + odds * ODDS),
        alpha=KEEP_WRONGLY,
        beta=DROP_WRONGLY,
    )


@dataclass(slots=True)
class Series:
    """The trials of one workload, in the order in which they were started."""

    name: str
    workload: Workload
    results: list[TrialResult] = field(default_factory=list)

    @property
    def telling(self) -> list[TrialResult]:
        return [r for r in self.results if r.verdict.is_counted]

    @property
    def silent(self) -> int:
        return len(self.results) - len(self.telling)


class Bench:
    """Runs series of one trial's variants. like: the death that counts; None: the first series'
    commonest.
    """

    def __init__(
        self,
        trial: TrialSpec,
        run: Run,
        *,
        wanted: float,
        budget: int,
        parallel: int,
        like: TrialResult | None,
    ) -> None:
        self._trial, self._run, self._parallel = trial, run, max(1, parallel)
        self._test = candidate_test(wanted)
        self.like = like
        self.left = budget
        self.candidates: dict[Workload, Series] = {}
        self.finals: dict[Workload, Series] = {}

    def decided(self, workload: Workload) -> Decision:
        """The sequential test of a workload; its trials stop once it is decided."""
        series = self._series(self.candidates, "try", workload)
        while (progress := self._progress(series)).decision is Decision.OPEN:
            if not self._more(series, self._batch(progress)):
                return Decision.UNDECIDED
        return progress.decision

    def sample(self, workload: Workload, count: int) -> Series:
        """The candidate's series, with `count` trials if the budget has them."""
        series = self._series(self.candidates, "try", workload)
        self._more(series, count - len(series.telling))
        return series

    def passes(self, workload: Workload, count: int, needed: int) -> bool:
        """Whether of `count` new trials at least `needed` die; cut short only when that is lost."""
        series = self._series(self.finals, "final", workload)
        chunk = max(self._parallel, 4)
        while len(series.telling) < count:
            lived = len(series.telling) - self.deaths(series)
            left = count - len(series.telling)
            if lived > count - needed or not self._more(series, min(left, chunk)):
                return False
        return self.deaths(series) >= needed

    def same(self, result: TrialResult) -> bool:
        """Whether this is a death, and the one that counts."""
        if self.like is None:
            self.like = self._commonest()
        return self.like is not None and same_crash(result, self.like)

    def deaths(self, series: Series) -> int:
        return sum(map(self.same, series.results))

    def others(self, series: Series) -> int:
        """Deaths that are another crash."""
        died = sum(result.verdict.is_death for result in series.results)
        return died - self.deaths(series)

    def everything(self) -> list[TrialResult]:
        """The results of all trials that were run."""
        series = [*self.candidates.values(), *self.finals.values()]
        return [result for one in series for result in one.results]

    def _series(self, into: dict[Workload, Series], kind: str, workload: Workload) -> Series:
        name = f"{kind}{len(into):02d}"
        return into.setdefault(workload, Series(name=name, workload=workload))

    def _commonest(self) -> TrialResult | None:
        first = next(iter(self.candidates.values()), None)
        deaths = [r for r in first.results if r.verdict.is_death] if first else []
        return commonest_death(deaths, lambda death: death)

    def _progress(self, series: Series) -> Progress:
        seen = [
            Observation(crashed=self.same(result), requests=result.completed)
            for result in series.telling
        ]
        return decide(self._test, seen)

    def _batch(self, progress: Progress) -> int:
        """Trials to start at once: as many as decide it if none dies, or as run at a time."""
        low, _ = boundaries(self._test)
        life = self._test.evidence(Observation(crashed=False))
        return max(self._parallel, math.ceil((low - progress.log_ratio) / life))

    def _more(self, series: Series, count: int) -> bool:
        """Run `count` more trials, or what the budget has; False: none could be run."""
        if series.silent > MOST_SILENT:
            if len(self.candidates) == 1:
                raise NotEnoughDataError(
                    f"trials that say nothing about the server ({series.results[-1].reason})",
                    "trials that tell whether it died",
                    "correct what that sentence says",
                )
            return False
        count = min(count, self.left)
        if count <= 0:
            return False
        first = len(series.results)
        specs = [self._spec(series, number) for number in range(first, first + count)]
        self.left -= count
        series.results += self._run(specs)
        return True

    def _spec(self, series: Series, number: int) -> TrialSpec:
        """The same series of seeds for every workload: they differ in what was shrunk only."""
        seed = crc32(f"{self._trial.workload.seed}/{number}".encode())
        return replace(
            self._trial,
            trial_id=f"{series.name}_{number:02d}",
            repeat=number,
            workload=replace(series.workload, seed=seed),
        )
