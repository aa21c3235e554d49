"""Random numbers that depend on seed, purpose and number only, in any order.

Draw i of a purpose comes from block i // BLOCK of a Philox counter generator. Only its raw
64-bit words are used: NumPy guarantees that stream for ever, not those of its distributions.
"""

from __future__ import annotations

import math
from enum import IntEnum
from statistics import NormalDist

import numpy as np
from numpy.random import Philox

from kit.study.spec import Distribution, DistributionKind

#: Draws made at a time.
BLOCK = 1024
NORMAL = NormalDist()


class Purpose(IntEnum):
    """What a draw decides; each has a stream of its own, so none shifts another."""

    NONCE = 0
    PROMPT_START = 1
    PROMPT_TOKENS = 2
    OUTPUT_TOKENS = 3
    FAULT = 4
    FAULT_AFTER = 5
    DEADLINE = 6
    GAP = 7


def uniform_array(seed: int, purpose: Purpose, block: int) -> np.ndarray:
    """The BLOCK uniform numbers in (0, 1) for draws block*BLOCK and on."""
    words = Philox(key=seed % 2**64, counter=[0, 0, block, purpose]).random_raw(BLOCK)
    # 52 bits in the middle of their steps: neither 0 nor 1, where inverse functions are infinite.
    return ((words >> np.uint64(12)) + 0.5) * 2.0**-52


def uniforms(seed: int, purpose: Purpose, block: int) -> list[float]:
    """The same as plain numbers."""
    numbers: list[float] = uniform_array(seed, purpose, block).tolist()
    return numbers


def quantile(distribution: Distribution, u: float) -> float:
    """The value that a share `u` of the distribution lies below, clipped to low..high."""
    value = _unclipped(distribution, u)
    if distribution.low is not None:
        value = max(value, distribution.low)
    if distribution.high is not None:
        value = min(value, distribution.high)
    return value


def whole_quantile(distribution: Distribution, u: float, least: int) -> int:
    """As `quantile`, for a number of things: whole, and not below `least`."""
    if distribution.kind is DistributionKind.UNIFORM:
        low, high = math.ceil(distribution.low or 0), math.floor(distribution.high or 0)
        return max(least, low + int(u * max(1, high - low + 1)))
    return max(least, round(quantile(distribution, u)))


def _unclipped(distribution: Distribution, u: float) -> float:
    mean, stdev = distribution.mean, distribution.stdev
    match distribution.kind:
        case DistributionKind.FIXED:
            return mean
        case DistributionKind.UNIFORM:
            low, high = distribution.low or 0.0, distribution.high or 0.0
            return low + u * (high - low)
        case DistributionKind.NORMAL:
            return mean + stdev * NORMAL.inv_cdf(u)
        case DistributionKind.LOGNORMAL:
            if mean <= 0.0:
                return 0.0
            variance = math.log1p((stdev / mean) ** 2)
            return math.exp(math.log(mean) - variance / 2 + math.sqrt(variance) * NORMAL.inv_cdf(u))
        case DistributionKind.GEOMETRIC:
            if mean <= 1.0:
                return 1.0
            return math.ceil(math.log1p(-u) / math.log1p(-1.0 / mean))
