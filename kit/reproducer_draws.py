"""A distribution in, a Python expression out that draws from it with `draw`, a random.Random."""

from __future__ import annotations

import math

from kit.load.faults import DEFAULT_DEADLINE_S
from kit.records import Distribution, DistributionKind, fixed
from kit.shrink_steps import TYPICAL_WORDS


def is_drawn(expression: str) -> bool:
    return "draw." in expression


def prompt_text(distribution: Distribution, prefix: int) -> str:
    """The prompt of request `number`: its number, and as many words as it is to have."""
    unique = 'f"[{number}]'
    if distribution == Distribution():  # the prompts of a set, as they are
        distribution = fixed(TYPICAL_WORDS)
    if distribution.kind is DistributionKind.FIXED:
        count = max(0, round(distribution.mean) - 1 + prefix)
        return f'{unique}" + " word" * {count}' if count else f'{unique}"'
    words = drawn_length(distribution, 1)
    more = f"+ {prefix - 1}" if prefix else "- 1"
    return f'{unique}" + " word" * ({words} {more})'


def drawn_length(distribution: Distribution, least: int) -> str:
    """A whole number, `least` at least."""
    if distribution.kind is DistributionKind.FIXED:
        return str(max(least, round(distribution.mean)))
    if distribution.kind is DistributionKind.UNIFORM:
        low, high = math.ceil(distribution.low or 0), math.floor(distribution.high or 0)
        return f"draw.randint({max(least, low)}, {max(least, low, high)})"
    low = max(least, round(distribution.low or 0))
    clipped = f"max({low}, round({_real(distribution)}))"
    return clipped if distribution.high is None else f"min({round(distribution.high)}, {clipped})"


def drawn_seconds(distribution: Distribution | None) -> str:
    """A time above 0; None is a client's usual impatience."""
    if distribution is None:
        return f"{DEFAULT_DEADLINE_S:g}"
    if distribution.kind is DistributionKind.FIXED:
        return f"{distribution.mean:g}"
    low = max(1e-6, distribution.low or 0.0)
    clipped = f"max({low:g}, {_real(distribution)})"
    return clipped if distribution.high is None else f"min({distribution.high:g}, {clipped})"


def _real(distribution: Distribution) -> str:
    mean, stdev = distribution.mean, distribution.stdev
    match distribution.kind:
        case DistributionKind.UNIFORM:
            return f"draw.uniform({distribution.low:g}, {distribution.high:g})"
        case DistributionKind.NORMAL:
            return f"draw.gauss({mean:g}, {stdev:g})"
        case DistributionKind.LOGNORMAL if mean > 0:
            variance = math.log1p((stdev / mean) ** 2)
            center = math.log(mean) - variance / 2
            return f"draw.lognormvariate({center:.6g}, {math.sqrt(variance):.6g})"
        case DistributionKind.GEOMETRIC if mean > 1:
            return f"1 + int(draw.expovariate({-math.log1p(-1 / mean):.6g}))"
    return f"{mean:g}"
