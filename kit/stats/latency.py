"""Latency quantiles with intervals; failed requests count as never answered.

The population is the judged requests (kit.stats.frames.requests_frame). One that failed, or was
open when the server died, has latency infinity: a quantile that falls among them is inf ("never"),
so that a release cannot look fast by dropping its slow requests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from kit.errors import NotEnoughDataError, SpecError
from kit.stats.intervals import CONFIDENCE, Interval


def fewest_requests(quantile: float, confidence: float = CONFIDENCE) -> int:
    """The smallest sample of which the largest value bounds `quantile` from above.

    A distribution-free interval for the quantile exists from there on (Wilks 1941): 6 requests
    for the median, 72 for p95, 368 for p99, all at 95 %.
    """
    tail = (1 - confidence) / 2
    return math.ceil(math.log(tail) / math.log(max(quantile, 1 - quantile)))


#: So few trials say little of how much trials differ.
FEW_TRIALS = 3
#: Columns of frames that count requests (kit.stats.counted): how many a row stands for, and which
#: latency it counts. A frame of one row a request has neither.
COUNT, MEASURE = "requests", "measure"
#: Requests a second that the schedule of the row's trial had, in such a frame of an open loop.
OFFERED = "offered_per_s"


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencySample:
    """The sorted latencies of one group: failures as inf, and which trial each is from."""

    values_ms: NDArray[np.float64]
    trial: NDArray[np.int64]
    counts: NDArray[np.int64] | None = None  # requests of each value; None: one

    @classmethod
    def of(cls, requests: pd.DataFrame, latency: str = "e2e_ms") -> LatencySample:
        """The judged requests; a latency that is missing is one that never came.

        Raises:
            SpecError: `latency` was not counted, of a study that is too large for a frame.
        """
        requests = _of_measure(requests, latency)
        read = [c for c in ("ok", latency, "trial_id", COUNT) if c in requests]
        judged = requests.loc[requests["judged"].to_numpy(bool), read]
        values = np.where(judged["ok"].to_numpy(bool), judged[latency].to_numpy(float), np.inf)
        values = np.where(np.isnan(values), np.inf, values)
        order = np.argsort(values, kind="stable")
        trial = pd.factorize(judged["trial_id"])[0].astype(np.int64)
        counts = judged[COUNT].fillna(1).to_numpy(np.int64)[order] if COUNT in judged else None
        return cls(values_ms=values[order], trial=trial[order], counts=counts)

    @property
    def n(self) -> int:
        """Requests."""
        return int(self.values_ms.size if self.counts is None else self.counts.sum())

    @property
    def cumulative(self) -> NDArray[np.int64]:
        """Requests up to each value."""
        counts = np.ones(self.values_ms.size, np.int64) if self.counts is None else self.counts
        return np.cumsum(counts)

    @property
    def failed_fraction(self) -> float:
        never = np.isinf(self.values_ms)
        counts = never if self.counts is None else self.counts[never]
        return float(counts.sum() / self.n) if self.n else math.nan

    def _at(self, rank: int) -> float:
        """The latency of that rank, from 0."""
        place = rank if self.counts is None else np.searchsorted(self.cumulative, rank, "right")
        return float(self.values_ms[place])

    def quantile_ms(self, quantile: float, confidence: float = CONFIDENCE) -> float:
        """The smallest value with at least that share at or below it (never interpolated).

        Raises:
            NotEnoughDataError: fewer requests than `fewest_requests`.
        """
        n, needed = self.n, fewest_requests(quantile, confidence)
        if n < needed:
            raise NotEnoughDataError(
                f"p{100 * quantile:g} of {n} requests",
                f"{needed} or more, else its interval does not exist",
                "run more requests, or ask for a lower quantile",
            )
        return self._quantile_ms(quantile)

    def interval_ms(self, quantile: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """Values between which the quantile lies: the widest of the intervals that follow.

        The order statistics that bracket it whatever the distribution, as if all requests were
        independent (Wilks 1941). And, since those of one server life are alike, the same with
        the variance between trials of the share below the quantile, and Student's t for so few
        trials as there are: with limits at equal distance (Woodruff 1952, with the variance of a
        ratio of cluster totals), and with those of Clopper and Pearson for as many independent
        requests as tell the same (Korn and Graubard 1998), which reach further towards the middle.
        One trial alone tells nothing of how much trials differ.

        Of few lives none reaches beyond the slowest request that was seen, where the quantile of
        all lives may well lie. So up to FEW_TRIALS Student's t of the logarithms of each life's
        own quantile is joined to them.

        Simulated with latencies that differ by 0 to 20 % between 2 to 15 lives: covers the median
        and p95 in 94 % of cases or more (tests/stats/test_latency.py). Woodruff's alone covers p95
        in 93 % with 8 to 15 lives that differ by 20 %, and in 84 % with two. Bootstrap draws of
        whole trials, which need no t, cover as little as 82 % with so few.
        """
        n, tail = self.n, (1 - confidence) / 2
        low = _binomial_quantile(tail, n, quantile) - 1
        high = _binomial_quantile(1 - tail, n, quantile)
        if self.trials > 1:
            below, above = _share_limits(
                quantile, self._share_error(quantile), self.trials, n, tail
            )
            low, high = min(low, math.floor(n * below) - 1), max(high, math.ceil(n * above))
        lowest, highest = self._at(max(0, low)), self._at(min(high, n - 1))
        if 1 < self.trials <= FEW_TRIALS:
            under, over = self._of_lives(quantile, tail)
            lowest, highest = min(lowest, under), max(highest, over)
        return lowest, highest

    def _of_lives(self, quantile: float, tail: float) -> tuple[float, float]:
        """Student's t interval of the logarithms of each trial's quantile; a life of which so many
        requests were never answered leaves it open above."""
        lives = np.array(
            [
                LatencySample(
                    values_ms=self.values_ms[own],
                    trial=self.trial[own],
                    counts=None if self.counts is None else self.counts[own],
                )._quantile_ms(quantile)
                for own in (self.trial == number for number in np.unique(self.trial))
            ]
        )
        if not np.all((lives > 0) & np.isfinite(lives)):
            return float(lives.min()), float(lives.max())
        logs = np.log(lives)
        reach = special.stdtrit(lives.size - 1, 1 - tail) * logs.std(ddof=1) / lives.size**0.5
        return math.exp(logs.mean() - reach), math.exp(logs.mean() + reach)

    def _quantile_ms(self, quantile: float) -> float:
        return self._at(self._rank(quantile))

    @property
    def trials(self) -> int:
        return int(np.unique(self.trial).size)

    def _rank(self, quantile: float) -> int:
        return max(0, math.ceil(self.n * quantile - 1e-9) - 1)

    def _share_error(self, quantile: float) -> float:
        """Standard error of the share of requests up to the quantile, from what trials differ."""
        n, trials = self.n, self.trials
        counts = np.ones(self.trial.size) if self.counts is None else self.counts
        of_trial = np.bincount(self.trial, counts)
        is_below = self.values_ms <= self._at(self._rank(quantile))
        below = np.bincount(self.trial, is_below * counts, of_trial.size)
        excess = below - of_trial * below.sum() / n
        return math.sqrt(trials / (trials - 1) * float((excess**2).sum())) / n


def _of_measure(requests: pd.DataFrame, latency: str) -> pd.DataFrame:
    """The rows that say something of that latency: all, but in a frame that counts."""
    if MEASURE not in requests:
        return requests
    of_it = requests[MEASURE].isna() | (requests[MEASURE] == latency)
    if latency not in requests:
        raise SpecError(
            f"{latency} of a study that is too large for a frame",
            "e2e_ms, e2e_from_schedule_ms, ttft_ms or itl_ms_mean",
            "ask study.sql(...) for it, or take a part: study.where(...)",
        )
    return requests[of_it.to_numpy(bool)]


def count_requests(requests: pd.DataFrame, *, judged: bool = False) -> int:
    """Requests in a frame, of one row a request or counted; judged: only those that are."""
    if COUNT in requests:
        requests = _of_measure(requests, "e2e_ms")
    own = requests[requests["judged"].to_numpy(bool)] if judged else requests
    return int(own[COUNT].fillna(1).sum()) if COUNT in own else len(own)


def latency_table(
    requests: pd.DataFrame,
    by: Sequence[str] = ("release", "concurrency"),
    *,
    latency: str = "e2e_ms",
    quantiles: Sequence[float] = (0.5, 0.95, 0.99),
    confidence: float = CONFIDENCE,
) -> pd.DataFrame:
    """One row a group and quantile: `by`, quantile, n, failed_fraction, ms, low_ms, high_ms,
    interval ("3 trials", or "one trial": how much trials differ is then not known), lacks.

    ms is inf where the quantile falls among requests that were never answered, and NaN where n
    is too small, with the reason in `lacks`.
    """
    rows = []
    read = {*by, "judged", "ok", "trial_id", latency, COUNT, MEASURE}
    requests = requests[[c for c in requests if c in read]]  # a group's rows are copied
    for key, group in requests.groupby(list(by), observed=True, sort=False, dropna=False):
        sample = LatencySample.of(group, latency)
        if not sample.n:
            continue
        for quantile in quantiles:
            row = dict(zip(by, key, strict=True)) | {
                "quantile": quantile,
                "n": sample.n,
                "failed_fraction": sample.failed_fraction,
                "interval": f"{sample.trials} trials" if sample.trials > 1 else "one trial",
            }
            try:
                row["ms"] = sample.quantile_ms(quantile, confidence)
                low, high = sample.interval_ms(quantile, confidence)
                row |= {"low_ms": low, "high_ms": high, "lacks": ""}
            except NotEnoughDataError as error:
                row["lacks"] = f"{error.given}; {error.expected}"
            rows.append(row)
    measures = ["n", "failed_fraction", "ms", "low_ms", "high_ms", "interval", "lacks"]
    return pd.DataFrame(rows, columns=[*by, "quantile", *measures])


def quantile_ratio(
    a: pd.DataFrame,
    b: pd.DataFrame,
    quantile: float = 0.5,
    *,
    latency: str = "e2e_ms",
    confidence: float = CONFIDENCE,
) -> Interval:
    """A's quantile over B's, with an interval made of both of theirs; requests_frame rows of each.

    On the logarithms the bounds of a difference follow from the bounds of either side (Zou and
    Donner 2008). A side that may never be answered has no finite bound, and neither has the ratio.

    Raises:
        NotEnoughDataError: too few requests, or both quantiles are "never".
    """
    first, second = LatencySample.of(a, latency), LatencySample.of(b, latency)
    over, under = (s.quantile_ms(quantile, confidence) for s in (first, second))
    if math.isinf(over) and math.isinf(under):
        raise NotEnoughDataError(
            f"p{100 * quantile:g} among unanswered requests on both sides",
            "an answer on one side",
            "compare the shares that failed",
        )
    (low_a, high_a), (low_b, high_b) = (
        s.interval_ms(quantile, confidence) for s in (first, second)
    )
    ratio = over / under
    if math.isinf(over) or math.isinf(under):  # the extremes of both sides are all there is
        low = low_a / high_b if high_b < math.inf else 0.0
        high = high_a / low_b if high_a < math.inf else math.inf
    else:
        low = ratio * math.exp(-math.hypot(math.log(over / low_a), math.log(high_b / under)))
        high = ratio * math.exp(math.hypot(math.log(high_a / over), math.log(under / low_b)))
    return Interval(value=ratio, low=low, high=high, confidence=confidence)


def _share_limits(
    share: float, error: float, trials: int, n: int, tail: float
) -> tuple[float, float]:
    """Limits of a share of n requests whose standard error comes from what trials differ."""
    t = float(special.stdtrit(trials - 1, 1 - tail))
    if error == 0:
        return share, share
    worth = min(n, share * (1 - share) * (float(special.ndtri(1 - tail)) / (t * error)) ** 2)
    lower = special.betaincinv(worth * share, worth * (1 - share) + 1, tail)
    upper = special.betaincinv(worth * share + 1, worth * (1 - share), 1 - tail)
    return min(share - t * error, float(lower)), max(share + t * error, float(upper))


def _binomial_quantile(probability: float, n: int, chance: float) -> int:
    """The least number of successes of n that is not exceeded with at least this probability."""
    found = int(max(0, math.ceil(special.bdtrik(probability, n, chance))))
    below = max(0, found - 1)
    is_enough = float(special.bdtr(below, n, chance)) >= probability
    return below if is_enough else found
