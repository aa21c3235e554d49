"""Whether a series grows: the trend test of Mann and Kendall, for series that remember their past.

What a server holds (memory, open files) fluctuates, and each value is like the one before it. The
plain test takes that for a trend far too often; its variance is corrected for it here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

#: Of a run, what is left out at its begin: caches fill and pools are made.
SETTLING = 0.25
#: Means of equal parts of the rest are tested; so many make the test exact enough.
BLOCKS = 24
#: More than this is noise of so short a series, and would hide every leak.
_MOST_ALIKE = 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """How a series changes over what is tested of it."""

    p_value: float  # one-sided: of a growth at least as clear, if there were none
    slope: float  # per unit of the axis, median of all pairs (Theil 1950, Sen 1968)
    low: float  # 95 % interval of the slope
    high: float
    start: float  # level at the begin of what is tested
    growth: float  # slope times the length of the axis
    goes_on: bool  # it also grows in the second half alone, at half the pace or more

    @property
    def relative(self) -> float:
        """Growth as a share of the level at the start; NaN: that is 0."""
        return self.growth / self.start if self.start else math.nan


def trend(axis: NDArray[np.float64], values: NDArray[np.float64]) -> Trend | None:
    """The trend of `values` along `axis` (requests or seconds, growing), its begin left out.

    None: fewer than three values in a block, or all on one place of the axis.
    """
    kept = is_settled(axis)
    axis, values = axis[kept], values[kept]
    if axis.size < 3 * BLOCKS or axis[-1] <= axis[0]:
        return None
    parts = np.array_split(np.arange(axis.size), BLOCKS)
    x = np.array([axis[part].mean() for part in parts])
    y = np.array([values[part].mean() for part in parts])
    slopes = _slopes(x, y)
    slope = float(np.median(slopes))
    p_value, deviation = _mann_kendall(x, y, slope)
    low, high = _interval(slopes, deviation)
    half = BLOCKS // 2
    later = float(np.median(_slopes(x[half:], y[half:])))
    length = float(x[-1] - x[0])
    middle = float(np.median(y) - slope * (np.median(x) - x[0]))
    return Trend(
        p_value=p_value,
        slope=slope,
        low=low,
        high=high,
        start=middle,
        growth=slope * length,
        goes_on=later >= slope / 2,
    )


def is_settled(axis: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Of each place on the axis, whether it lies behind the begin that is left out."""
    begin = axis[0] + SETTLING * (axis[-1] - axis[0]) if axis.size else 0.0
    return np.asarray(axis >= begin)


def _slopes(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of all pairs, in order of size."""
    first, second = np.triu_indices(x.size, 1)
    return np.sort((y[second] - y[first]) / (x[second] - x[first]))


def _mann_kendall(
    x: NDArray[np.float64], y: NDArray[np.float64], slope: float
) -> tuple[float, float]:
    """(one-sided p-value of growth, standard deviation of the statistic).

    The variance is that of Mann (1945) and Kendall (1975) with ties, times (1 + r) / (1 - r) for
    blocks that are like the one before them with the correlation r (Bayley and Hammersley 1946);
    r is what is left around the trend, corrected for its bias in short series (Marriott and Pope
    1954), and 0 at least.
    """
    n = y.size
    first, second = np.triu_indices(n, 1)
    statistic = float(np.sign(y[second] - y[first]).sum())
    _, ties = np.unique(y, return_counts=True)
    variance = n * (n - 1) * (2 * n + 5) / 18 - float(
        (ties * (ties - 1) * (2 * ties + 5)).sum() / 18
    )
    if variance <= 0:
        return 1.0, 0.0
    rest = y - slope * x
    rest = rest - rest.mean()
    power = float((rest**2).sum())
    alike = float((rest[1:] * rest[:-1]).sum()) / power if power > 0 else 0.0
    alike = min(_MOST_ALIKE, max(0.0, (alike + 2 / n) / (1 - 4 / n)))
    deviation = math.sqrt(variance * (1 + alike) / (1 - alike))
    z = (statistic - np.sign(statistic)) / deviation
    return float(special.ndtr(-z)), deviation


def _interval(slopes: NDArray[np.float64], deviation: float) -> tuple[float, float]:
    """Of the median slope at 95 % (Sen 1968)."""
    reach = 1.96 * deviation
    low = max(0, math.floor((slopes.size - reach) / 2))
    high = min(slopes.size - 1, math.ceil((slopes.size + reach) / 2))
    return float(slopes[low]), float(slopes[high])
