"""Where the load of a server breaks a goal: next load to try, estimate and interval.

A goal says that at most a share q of some observations (requests, token gaps, samples) may be bad.
The share p that is bad grows with the load L, and near the limit L* as

    logit p = logit q + slope x (ln L - ln L*)

with an unknown slope. The posterior over L* and the slope is worked out on a grid, and the next
trial runs where L* is as likely above as below: the adaptive estimation of a threshold of
psychophysics (Watson and Pelli 1983, QUEST; Kontsevich and Tyler 1999, whose grid has the slope).
Three things make the interval honest: requests of one trial are no independent observations, so
they count as fewer (batch means, Conway 1963); server lives differ, so that each trial has a limit
of its own near the server's; and since the line above holds near the limit only, trials far from
it, or with a share far from q, say above or below and no more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

#: A load is never more than so many times the highest one that held.
BOLDEST_STEP = 8.0
CONFIDENCE = 0.95
_GRID_STEP = 0.01  # of ln L*
_SLOPES = np.geomspace(1.5, 300.0, 8)
#: Between trials of one load more differs than chance has it: no trial counts for more.
_MOST_WEIGHT = 400.0
#: What a trial far from the limit counts for, as a log likelihood ratio: it says above or below,
#: and not how far.
_ABOVE_OR_BELOW = 4.0
#: Of ln L: how near is near.
_NEAR = 0.2
#: Of ln L*: how much one server life differs from another of the same server.
_BETWEEN_TRIALS = 0.025
_BATCHES = 10
#: So many times more or less than allowed is clearly broken, or clearly held.
_CLEAR = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What one trial says of one goal at one load."""

    load: float
    bad: float  # share of the observations that are worse than the goal's value
    allowed: float  # share that may be
    n: int
    design_effect: float | None = None  # n / design_effect independent ones; None: not known

    @property
    def excess(self) -> float:
        """Above 0: the goal is broken. On the scale of log odds, which all goals share."""
        floor = 0.5 / (self.n + 1)
        return _logit(min(max(self.bad, floor), 1 - floor)) - _logit(self.allowed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Where the limit lies, as far as the trials tell."""

    value: float  # the highest load that holds; inf: above the range; 0: below it
    low: float
    high: float
    confidence: float = CONFIDENCE

    @property
    def is_below(self) -> bool:
        """Not even the lowest load holds."""
        return self.value == 0.0

    @property
    def is_above(self) -> bool:
        """Even the highest load holds."""
        return math.isinf(self.value)


def design_effect(bad: Sequence[bool] | NDArray[np.bool_]) -> float | None:
    """How many times less observations in this order say than independent ones, 1 or more.

    None: all are alike, which tells nothing of it.
    """
    flags = np.asarray(bad, float)
    share = float(flags.mean()) if flags.size else 0.0
    if flags.size < 2 * _BATCHES or share in (0.0, 1.0):
        return None
    size = flags.size // _BATCHES
    means = flags[: size * _BATCHES].reshape(_BATCHES, size).mean(axis=1)
    return max(1.0, float(means.var(ddof=1)) * size / (share * (1 - share)))


class Posterior:
    """What is known of the limit after some trials.

    is_whole: loads are whole numbers, and so is the limit.
    """

    def __init__(self, points: Sequence[Point], *, low: float, high: float, is_whole: bool) -> None:
        self._range = low, high
        self._whole = is_whole
        self._x = _grid(low, high)
        self._points = list(points)
        self._mass = self._posterior(points)

    def _posterior(self, points: Sequence[Point]) -> NDArray[np.float64]:
        middle: float | None = None
        mass = np.full(self._x.size, 1 / self._x.size)
        for _ in range(3 if points else 0):  # what is near depends on where it is
            likelihood = np.zeros((_SLOPES.size, self._x.size))
            for point, weight in zip(points, self._weights(points, middle), strict=True):
                low, high = point.allowed / _CLEAR, min(0.5, point.allowed * _CLEAR)
                # What is clearly above or below says that, and not by how much.
                share = min(max(point.bad, low), high)
                bad, good = _log_chances(
                    point.load,
                    point.allowed,
                    *self._range,
                    low if point.bad <= low else 0.0,
                    high if point.bad >= high else 1.0,
                )
                alone = weight * (share * bad + (1 - share) * good)
                likelihood += self._blurred(alone)
            joint = np.exp(likelihood - likelihood.max())
            mass = joint.sum(axis=0)
            mass /= mass.sum()
            middle = float(self._x[np.searchsorted(mass.cumsum(), 0.5)])
        return mass

    @staticmethod
    def _blurred(log_likelihood: NDArray[np.float64]) -> NDArray[np.float64]:
        """The same if each trial's limit differs from the server's own by chance."""
        best = log_likelihood.max()
        half = round(math.sqrt(3) * _BETWEEN_TRIALS / _GRID_STEP)  # a box of that deviation
        padded = np.pad(np.exp(log_likelihood - best), ((0, 0), (half + 1, half)), mode="edge")
        sums = padded.cumsum(axis=1)
        means = (sums[:, 2 * half + 1 :] - sums[:, : -2 * half - 1]) / (2 * half + 1)
        return np.asarray(np.log(np.maximum(means, 1e-300)) + best)

    def _weights(self, points: Sequence[Point], middle: float | None) -> list[float]:
        effects = [p.design_effect for p in points if p.design_effect is not None]
        usual = float(np.mean(effects)) if effects else 1.0
        weights = []
        for point in points:
            independent = min(point.n / max(usual, point.design_effect or 1.0), _MOST_WEIGHT)
            far = 0.0 if middle is None else (math.log(point.load) - middle) / _NEAR
            least = min(_ABOVE_OR_BELOW / _divergence(point.bad, point.allowed), independent)
            weights.append(max(least, independent * math.exp(-far * far)))
        return weights

    def at_least(self, load: float) -> float:
        """The probability that this load holds."""
        return float(self._mass[self._x >= math.log(self._edge(load)) - 1e-12].sum())

    def _edge(self, load: float) -> float:
        """The least limit at which a load holds. Among whole numbers the limit lies between two,
        and one that has held need not hold by a margin."""
        return load - min(0.45, 2 * _BETWEEN_TRIALS * load) if self._whole else load

    def estimate(self) -> Estimate:
        """The limit with its interval, whole where loads are."""
        low, high = self._range
        share = self._mass.cumsum()
        tail = (1 - CONFIDENCE) / 2
        value, least, most = (
            float(math.exp(self._x[min(int(np.searchsorted(share, q)), self._x.size - 1)]))
            for q in (0.5, tail, 1 - tail)
        )
        if self._whole:
            value, least, most = (self._whole_limit(one) for one in (value, least, most))
        if self.at_least(low) < 0.5:
            value = 0.0
        elif self.at_least(high) > 0.5:
            value = math.inf
        return Estimate(
            value=value,
            low=0.0 if least < low else least,
            high=math.inf if most >= high else most,
        )

    def _whole_limit(self, limit: float) -> float:
        """The highest whole load that holds at this limit."""
        load = math.ceil(limit)
        return float(load if self._edge(load) <= limit else load - 1)

    def next_load(self) -> float:
        """The load to try next: as likely to hold as not, and not too bold a step."""
        low, high = self._range
        held = [p.load for p in self._points if p.excess <= 0]
        boldest = BOLDEST_STEP * max(held) if held else low
        broken = [p.load for p in self._points if p.excess > 0]
        if not held and broken:
            boldest = min(broken)
        if self._whole:
            return self._next_whole(boldest)
        median = float(math.exp(self._x[np.searchsorted(self._mass.cumsum(), 0.5)]))
        return float(f"{min(max(median, low), boldest, high):.3g}")

    def _next_whole(self, boldest: float) -> float:
        low, high = (int(one) for one in self._range)
        # The limit is below load c with a probability that the mass below ln c has.
        share = self._mass.cumsum()
        last = max(low, min(high, int(boldest)))
        loads = np.arange(low, last + 1)
        edges = np.array([self._edge(float(load)) for load in loads])
        places = np.searchsorted(self._x, np.log(edges) - 1e-12)
        below = np.where(places > 0, share[np.maximum(places - 1, 0)], 0.0)
        return float(loads[int(np.argmin(np.abs(below - 0.5)))])

    def is_decided(self, within: float) -> bool:
        """Whether the interval is as narrow as asked, or lies outside the range."""
        found = self.estimate()
        if found.is_below or found.is_above:
            low, high = self._range
            sure = 1 - self.at_least(low) if found.is_below else self.at_least(high)
            return sure >= CONFIDENCE
        if self._whole and found.low == found.high:
            return True
        # Where in its interval the limit is, is open: so the whole of it has to be narrow.
        return found.low > 0 and found.high <= found.low * (1 + 1.5 * within)


@lru_cache(maxsize=8)
def _grid(low: float, high: float) -> NDArray[np.float64]:
    """Values of ln L*. A limit may lie outside the range, at half and at twice its ends."""
    return np.arange(math.log(low) - 0.7, math.log(high) + 0.7, _GRID_STEP)


@lru_cache(maxsize=64)
def _log_chances(
    load: float, allowed: float, low: float, high: float, least: float, most: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """ln p and ln (1 - p) that an observation is bad: a row a slope, a column a limit.

    low, high: the range of loads. least, most: what p is clipped to.
    """
    logit = _logit(allowed) + np.outer(_SLOPES, math.log(load) - _grid(low, high))
    p = 0.002 + 0.996 / (1 + np.exp(-np.clip(logit, -40, 40)))
    p = np.clip(p, least, most)
    return np.log(p), np.log1p(-p)


def worst_of(points: Sequence[Point]) -> int:
    """Which of the goals of one trial is nearest to breaking, or broken most."""
    return max(range(len(points)), key=lambda index: points[index].excess)


def _divergence(bad: float, allowed: float) -> float:
    """Kullback-Leibler divergence: what one observation says against "as many as allowed"."""
    against = bad * math.log(bad / allowed) if bad > 0 else 0.0
    return max(1e-6, against + ((1 - bad) * math.log((1 - bad) / (1 - allowed)) if bad < 1 else 0))


def _logit(share: float) -> float:
    return math.log(share / (1 - share))
