"""Searches the smallest traffic under which a server still dies of the same crash.

Coordinate by coordinate: what is in the mix, then lengths, then clients, then requests. Each
candidate is decided by a sequential test, so one that is too small costs about two trials and
one that will do about four. The number of requests is read from the crash iterations that were
seen. At the end the result runs a fixed number of trials of its own, and only those are in its
interval, since the others chose it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from kit.errors import SpecError
from kit.reproduce.candidates import (
    NEAR,
    SIZES,
    Proposal,
    Size,
    between,
    least,
    plain,
    say_requests,
    smaller,
    with_requests,
    without_faults,
)
from kit.reproduce.series import Bench, Run, Series
from kit.stats.intervals import Interval, share
from kit.study.result import TrialResult
from kit.study.sequential import Decision
from kit.study.spec import TrialSpec, Workload

LEAST_BUDGET = 20
#: This part of the budget goes to the trials of the result alone, and as much to finding its
#: number of requests.
FINAL_SHARE = 5
LEAST_FINAL, MOST_FINAL = 8, 30


@dataclass(frozen=True, slots=True, kw_only=True)
class ShrinkStep:
    """One workload that was tried, and what its trials said."""

    what: str
    workload: Workload
    decision: Decision
    trials: int  # that say something about the server
    deaths: int  # the crash that is looked for
    other_deaths: int
    final: bool = False  # trials of what may be the result, of a number fixed beforehand


@dataclass(frozen=True, slots=True, kw_only=True)
class Shrunk:
    """The smallest traffic found, how often it kills, and how it was found."""

    original: TrialSpec
    smallest: TrialSpec
    reached: bool  # False: not shown to die in as many trials as wanted
    wanted: float
    crash: TrialResult | None  # one of the deaths counted below; None: there was none
    share: Interval | None  # of the result's own trials that died; None: it had none
    trials: int  # those trials
    deaths: int  # of them, by the crash that is looked for
    other_deaths: int
    iterations: tuple[int, ...]  # requests completed before each of those deaths, sorted
    steps: tuple[ShrinkStep, ...]
    spent_trials: int
    spent_requests: int
    spent_s: float  # of servers' lives, added up


def shrink(
    trial: TrialSpec,
    run: Run,
    *,
    wanted: float = 0.8,
    budget: int = 80,
    parallel: int = 2,
    like: TrialResult | None = None,
    on_step: Callable[[ShrinkStep], None] | None = None,
) -> Shrunk:
    """Make the traffic of `trial` smaller while its server dies in `wanted` of the trials.

    run: runs trials, several at a time, and returns their results in the order given; the specs
    asked for depend on nothing but the results so far. budget: most trials. parallel: trials that
    `run` runs at a time; fewer are asked for where more would likely be wasted. like: the death
    that is to be kept, a different crash is another bug; None: the commonest of the first trials.

    Raises:
        SpecError: no such probability, or too small a budget.
        NotEnoughDataError: the trials fail on our own side.
    """
    if not 0.05 <= wanted <= 0.95:
        raise SpecError(f"a wanted crash probability of {wanted}", "0.05 to 0.95", "0.8 is usual")
    if budget < LEAST_BUDGET:
        raise SpecError(f"a budget of {budget} trials", f"{LEAST_BUDGET} or more", "raise it")
    bench = Bench(trial, run, wanted=wanted, budget=budget, parallel=parallel, like=like)
    final_trials = min(MOST_FINAL, budget // FINAL_SHARE)
    return _Search(trial, bench, wanted, final_trials, on_step or (lambda step: None)).shrink()


class _Search:
    """What will do so far; the next candidate is made of the last of it."""

    def __init__(
        self,
        trial: TrialSpec,
        bench: Bench,
        wanted: float,
        final_trials: int,
        on_step: Callable[[ShrinkStep], None],
    ) -> None:
        self.trial, self.bench, self.wanted, self.on_step = trial, bench, wanted, on_step
        self.final_trials = final_trials
        self.budget = bench.left
        self.steps: list[ShrinkStep] = []
        self.kept = [trial.workload]

    @property
    def current(self) -> Workload:
        return self.kept[-1]

    def shrink(self) -> Shrunk:
        if self._decided(Proposal(what="as it was", workload=self.current)) != Decision.CRASHES:
            return self._result(self.bench.candidates[self.current], reached=False)
        self._lessen_until_nothing_helps()
        for what, workload in self._possible_results():
            if self._dies_as_wanted(what, workload):
                return self._result(self._with_still_fewer_requests(workload), reached=True)
        finals = [s for s in self.bench.finals.values() if s.telling]
        best = max(finals, key=self._share, default=self.bench.candidates[self.current])
        return self._result(best, reached=False)

    def _lessen_until_nothing_helps(self) -> None:
        before = None
        while before != self.current:
            before = self.current
            for make in (without_faults, plain):
                while any(self._will_do(proposal) for proposal in make(self.current)):
                    continue  # the boldest was kept; what else can be taken out of it?
            if not self._will_do(least(self.current)):
                for size in SIZES:
                    self._lessen(size)

    def _lessen(self, size: Size) -> None:
        """The least of a size that will do, to within a factor (see shrink_steps)."""

        def will_do(value: int) -> bool:
            workload = size.put(self.current, value)
            return self._will_do(Proposal(what=size.say(value), workload=workload))

        high, low = size.read(self.current), 0
        if high is None:
            return
        for value in smaller(size, high):
            if will_do(value):
                high = value
                break
            low = value
        while (middle := between(low, high)) is not None:
            low, high = (low, middle) if will_do(middle) else (middle, high)

    def _will_do(self, proposal: Proposal) -> bool:
        """Whether the server dies of it often enough; then it is kept."""
        workload = proposal.workload
        if workload == self.current:
            return False
        if workload not in self.bench.candidates and self.bench.left <= 2 * self.final_trials:
            return False
        if self._decided(proposal) is not Decision.CRASHES:
            return False
        self.kept.append(workload)
        return True

    def _decided(self, proposal: Proposal) -> Decision:
        known = proposal.workload in self.bench.candidates
        decision = self.bench.decided(proposal.workload)
        if not known:
            self._note(proposal.what, self.bench.candidates[proposal.workload], decision)
        return decision

    def _possible_results(self) -> Iterator[tuple[str, Workload]]:
        """The smallest first: with fewer requests, as it is, and what it was made of."""
        enough = self._enough(self.bench.sample(self.current, self.final_trials).telling)
        while 0 < enough < (self.current.requests or math.inf):
            yield say_requests(int(enough)), with_requests(self.current, int(enough))
            enough *= 2
        for workload in reversed(self.kept):
            yield "as it is", workload

    def _with_still_fewer_requests(self, workload: Workload) -> Series:
        """The final series of what will do, or of the same with the fewer requests that its own
        deaths show to be enough.
        """
        telling = list(self.bench.candidates[self.current].telling)
        while workload.requests and with_requests(self.current, workload.requests) == workload:
            telling += self.bench.finals[workload].telling
            enough = self._enough(telling)
            if enough * NEAR > workload.requests:
                break
            fewer = with_requests(self.current, int(enough))
            if not self._dies_as_wanted(say_requests(int(enough)), fewer):
                break
            workload = fewer
        return self.bench.finals[workload]

    def _enough(self, results: Sequence[TrialResult]) -> float:
        """Requests that had been sent when almost all of the servers had died.

        What clients send does not depend on how much they are to send in all, so they would have
        died of that number just as well.
        """
        sent = sorted(
            result.completed + result.in_flight if self.bench.same(result) else math.inf
            for result in results
        )
        almost_all = math.ceil(len(sent) * (1 + self.wanted) / 2)
        died = sum(count < math.inf for count in sent)
        return sent[(min(almost_all, died) if died >= self.wanted * len(sent) else almost_all) - 1]

    def _dies_as_wanted(self, what: str, workload: Workload) -> bool:
        count = min(self.final_trials, self.bench.left)
        if workload in self.bench.finals or count < min(LEAST_FINAL, self.final_trials):
            return False
        passes = self.bench.passes(workload, count, math.ceil(self.wanted * count - 1e-9))
        decision = Decision.CRASHES if passes else Decision.SURVIVES
        self._note(what, self.bench.finals[workload], decision, final=True)
        return passes

    def _share(self, series: Series) -> float:
        return self.bench.deaths(series) / len(series.telling)

    def _note(self, what: str, series: Series, decision: Decision, *, final: bool = False) -> None:
        step = ShrinkStep(
            what=what,
            workload=series.workload,
            decision=decision,
            trials=len(series.telling),
            deaths=self.bench.deaths(series),
            other_deaths=self.bench.others(series),
            final=final,
        )
        self.steps.append(step)
        self.on_step(step)

    def _result(self, series: Series, *, reached: bool) -> Shrunk:
        died = [result for result in series.results if self.bench.same(result)]
        everything = self.bench.everything()
        trials = len(series.telling)
        return Shrunk(
            original=self.trial,
            smallest=replace(self.trial, trial_id="smallest", workload=series.workload),
            reached=reached,
            wanted=self.wanted,
            crash=died[0] if died else None,
            share=share(len(died), trials) if trials else None,
            trials=trials,
            deaths=len(died),
            other_deaths=self.bench.others(series),
            iterations=tuple(sorted(result.completed for result in died)),
            steps=tuple(self.steps),
            spent_trials=self.budget - self.bench.left,
            spent_requests=sum(result.completed + result.in_flight for result in everything),
            spent_s=sum(
                (result.ended_ns - result.started_ns) / 1e9
                for result in everything
                if result.started_ns is not None and result.ended_ns is not None
            ),
        )
