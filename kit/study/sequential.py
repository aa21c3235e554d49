"""Sequential test of one cell: it crashes, it survives, or more trials are needed.

Wald's sequential probability ratio test (Sequential Analysis, 1947), of two hypotheses about a
cell (release x scenario). `TrialTest` looks at the share of trials that die, `RequestTest` at the
hazard of a request, which also uses how long each trial lasted. Pure arithmetic.

Trials must be handed over in the order in which they were started. In the order in which they
end, crashes come first, since they are short; the error rates would then be wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from kit.errors import SpecError

EPSILON = 1e-12  # of a log-likelihood ratio that is compared with a boundary


class Decision(StrEnum):
    CRASHES = "crashes"
    SURVIVES = "survives"
    OPEN = "open"  # more trials are needed
    UNDECIDED = "undecided"  # more would be needed, but the budget is spent


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What one trial adds: whether its server died, and how many requests it completed."""

    crashed: bool
    requests: int = 0


class SequentialTest(Protocol):
    """Two hypotheses about a cell, and the error rates at which to choose."""

    @property
    def alpha(self) -> float: ...  # chance to say "crashes" of a cell that survives
    @property
    def beta(self) -> float: ...  # chance to say "survives" of a cell that crashes

    def evidence(self, seen: Observation) -> float:
        """Log-likelihood ratio of one trial: positive speaks for "crashes"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialTest:
    """A trial dies with probability `survives` at most, or `crashes` at least."""

    survives: float = 0.02
    crashes: float = 0.5
    alpha: float = 0.05
    beta: float = 0.05

    def __post_init__(self) -> None:
        _check(self.survives, self.crashes, self.alpha, self.beta)
        if self.crashes >= 1:
            raise SpecError(
                f"a crash probability of {self.crashes}", "below 1", "0.99 means nearly always"
            )

    def evidence(self, seen: Observation) -> float:
        if seen.crashed:
            return math.log(self.crashes / self.survives)
        return math.log((1 - self.crashes) / (1 - self.survives))


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestTest:
    """Each request kills with hazard `survives` at most, or `crashes` at least; both per request.

    With constant hazard h a trial that completed n requests has likelihood exp(-h n), times h if
    it died; a survivor counts by the requests it stood.
    """

    survives: float = 1e-5
    crashes: float = 1e-3
    alpha: float = 0.05
    beta: float = 0.05

    def __post_init__(self) -> None:
        _check(self.survives, self.crashes, self.alpha, self.beta)

    def evidence(self, seen: Observation) -> float:
        death = math.log(self.crashes / self.survives) if seen.crashed else 0.0
        return death - (self.crashes - self.survives) * seen.requests


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where the test of one cell stands. `trials` counts those that the decision rests on."""

    decision: Decision
    log_ratio: float
    trials: int


def boundaries(test: SequentialTest) -> tuple[float, float]:
    """Log-likelihood ratios at or beyond which the answer is "survives" or "crashes"."""
    return math.log(test.beta / (1 - test.alpha)), math.log((1 - test.beta) / test.alpha)


def decide(
    test: SequentialTest, trials: Iterable[Observation], *, budget: int | None = None
) -> Progress:
    """Walk through a cell's trials, in the order in which they were started, to a decision.

    What comes after the decision is not looked at: trials that ran beside the decisive one must
    not undo it. budget: most trials a cell may have; then the answer is "undecided".
    """
    low, high = boundaries(test)
    ratio, count = 0.0, 0
    for seen in trials:
        if budget is not None and count == budget:
            break
        ratio, count = ratio + test.evidence(seen), count + 1
        if ratio >= high - EPSILON:
            return Progress(decision=Decision.CRASHES, log_ratio=ratio, trials=count)
        if ratio <= low + EPSILON:
            return Progress(decision=Decision.SURVIVES, log_ratio=ratio, trials=count)
    spent = budget is not None and count >= budget
    end = Decision.UNDECIDED if spent else Decision.OPEN
    return Progress(decision=end, log_ratio=ratio, trials=count)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionLines:
    """The test as a chart: after n trials "survives" at s n - h1 deaths, "crashes" at s n + h2."""

    h1: float
    h2: float
    slope: float


def lines(test: TrialTest) -> DecisionLines:
    """The acceptance and rejection lines that textbooks tabulate."""
    k = math.log(test.crashes * (1 - test.survives) / (test.survives * (1 - test.crashes)))
    low, high = boundaries(test)
    slope = math.log((1 - test.survives) / (1 - test.crashes)) / k
    return DecisionLines(h1=-low / k, h2=high / k, slope=slope)


@dataclass(frozen=True, slots=True, kw_only=True)
class Characteristic:
    """How the test fares on a cell of known crash probability."""

    crashes: float
    survives: float
    undecided: float
    expected_trials: float


def characteristic(test: TrialTest, probability: float, *, budget: int) -> Characteristic:
    """Exact, by following every number of deaths through every number of trials."""
    low, high = boundaries(test)
    death = test.evidence(Observation(crashed=True))
    life = test.evidence(Observation(crashed=False))
    open_at = {0: 1.0}  # deaths so far -> probability
    crashes = survives = expected = 0.0
    for n in range(1, budget + 1):
        expected += sum(open_at.values())
        moved: dict[int, float] = {}
        for deaths, mass in open_at.items():
            for more, chance in ((1, probability), (0, 1 - probability)):
                ratio = (deaths + more) * death + (n - deaths - more) * life
                if ratio >= high - EPSILON:
                    crashes += mass * chance
                elif ratio <= low + EPSILON:
                    survives += mass * chance
                elif chance:
                    moved[deaths + more] = moved.get(deaths + more, 0.0) + mass * chance
        open_at = moved
    return Characteristic(
        crashes=crashes,
        survives=survives,
        undecided=sum(open_at.values()),
        expected_trials=expected,
    )


def expected_trials(test: TrialTest, probability: float) -> float:
    """Wald's approximation of the trials needed without a budget, overshoot neglected."""
    low, high = boundaries(test)
    death = test.evidence(Observation(crashed=True))
    life = test.evidence(Observation(crashed=False))
    drift = probability * death + (1 - probability) * life
    if abs(drift) < 1e-9:  # where both answers are equally likely
        return -low * high / (probability * death**2 + (1 - probability) * life**2)
    power = _root(probability, death, life, drift)
    reach = (1 - math.exp(power * low)) / (math.exp(power * high) - math.exp(power * low))
    return (reach * high + (1 - reach) * low) / drift


def _root(probability: float, death: float, life: float, drift: float) -> float:
    """The h other than 0 at which p exp(h death) + (1 - p) exp(h life) is 1."""

    def above(h: float) -> bool:
        return probability * math.exp(h * death) + (1 - probability) * math.exp(h * life) > 1

    sign = -math.copysign(1.0, drift)
    inner, outer = sign * 1e-9, sign
    while not above(outer):
        outer *= 2
    for _ in range(200):
        middle = (inner + outer) / 2
        inner, outer = (inner, middle) if above(middle) else (middle, outer)
    return outer


def fixed_trials(test: TrialTest) -> int:
    """Trials a cell needs for the same error rates when their number is fixed beforehand."""
    n = 1
    while True:
        for least in range(n + 2):  # deaths from which on the answer is "crashes"
            false_alarm = _at_least(least, n, test.survives)
            missed = 1 - _at_least(least, n, test.crashes)
            if false_alarm <= test.alpha and missed <= test.beta:
                return n
        n += 1


def _at_least(deaths: int, trials: int, probability: float) -> float:
    return math.fsum(
        math.comb(trials, k) * probability**k * (1 - probability) ** (trials - k)
        for k in range(deaths, trials + 1)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Saving:
    """What a sequential study spent, against a fixed design of the same error rates."""

    trials: int
    fixed: int
    fraction: float  # of the fixed design's trials that were not needed


def saving(test: TrialTest, cells: Sequence[Progress]) -> Saving:
    """Undecided cells count with what they spent; the fixed design would have decided them."""
    spent, fixed = sum(cell.trials for cell in cells), fixed_trials(test) * len(cells)
    return Saving(trials=spent, fixed=fixed, fraction=1 - spent / fixed if fixed else 0.0)


def _check(survives: float, crashes: float, alpha: float, beta: float) -> None:
    if not 0 < survives < crashes:
        raise SpecError(
            f"hypotheses {survives} and {crashes}",
            "0 < survives < crashes",
            "no finite number of trials proves a probability of 0; choose what is negligible",
        )
    if not (0 < alpha < 0.5 and 0 < beta < 0.5):
        raise SpecError(
            f"error rates {alpha} and {beta}", "between 0 and one half", "0.05 is usual"
        )
