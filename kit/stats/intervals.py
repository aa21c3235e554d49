"""Exact intervals of rates and shares.

All intervals are two-sided at `confidence` unless the name says otherwise, and exact: they cover
the truth at least as often as they say, however small the counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from scipy import special

from kit.errors import NotEnoughDataError, SpecError

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An estimate and the values that the data do not exclude."""

    value: float
    low: float
    high: float
    confidence: float = CONFIDENCE


@lru_cache(maxsize=4096)
def share(events: int, trials: int, confidence: float = CONFIDENCE) -> Interval:
    """Share of trials with the event, with the interval of Clopper and Pearson (1934).

    Raises:
        NotEnoughDataError: no trials.
    """
    _check_confidence(confidence)
    if trials < 1:
        raise NotEnoughDataError("no trials", "at least one that counts", "run one")
    if not 0 <= events <= trials:
        raise SpecError(f"{events} events in {trials} trials", "0 to all of them", "count again")
    tail = (1 - confidence) / 2
    low = 0.0 if events == 0 else float(special.betaincinv(events, trials - events + 1, tail))
    high = 1.0
    if events < trials:
        high = float(special.betaincinv(events + 1, trials - events, 1 - tail))
    return Interval(value=events / trials, low=low, high=high, confidence=confidence)


@lru_cache(maxsize=4096)
def rate(events: int, exposure: float, confidence: float = CONFIDENCE) -> Interval:
    """Events per unit of exposure, with the Poisson interval of Garwood (1936).

    Raises:
        NotEnoughDataError: no exposure.
    """
    _check_confidence(confidence)
    _check_exposure(exposure)
    tail = (1 - confidence) / 2
    low = float(special.gammaincinv(events, tail)) if events else 0.0
    high = float(special.gammaincinv(events + 1, 1 - tail))
    return Interval(
        value=events / exposure,
        low=low / exposure,
        high=high / exposure,
        confidence=confidence,
    )


@lru_cache(maxsize=4096)
def rate_upper_bound(events: int, exposure: float, confidence: float = CONFIDENCE) -> float:
    """The highest rate that the data do not exclude, one-sided.

    Without events it is -ln(1 - confidence) / exposure; at 95 % that is the "rule of three"
    (Hanley and Lippman-Hand 1983), 2.996 / exposure.
    """
    _check_confidence(confidence)
    _check_exposure(exposure)
    return float(special.gammaincinv(events + 1, confidence)) / exposure


def rate_ratio(
    events_a: int,
    exposure_a: float,
    events_b: int,
    exposure_b: float,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Rate of A over rate of B, with the exact conditional interval.

    Given the sum of both counts, A's count is binomial; the bounds are those of Clopper and
    Pearson, as in R's `poisson.test`. With no events in B the estimate and upper bound are inf.

    Raises:
        NotEnoughDataError: no events at all, or no exposure.
    """
    _check_exposure(exposure_a)
    _check_exposure(exposure_b)
    if events_a + events_b == 0:
        raise NotEnoughDataError(
            "no events on either side", "at least one", "run more, or state the upper bounds"
        )
    of_a = share(events_a, events_a + events_b, confidence)

    def odds(probability: float) -> float:
        if probability >= 1.0:
            return math.inf
        return probability / (1 - probability) * exposure_b / exposure_a

    return Interval(
        value=odds(of_a.value), low=odds(of_a.low), high=odds(of_a.high), confidence=confidence
    )


def same_share_p_value(events_a: int, trials_a: int, events_b: int, trials_b: int) -> float:
    """p-value of "both crash equally often", by Fisher's exact test, two-sided.

    The share of all ways to deal the events out to the trials that are no likelier than what was
    seen (Fisher 1935), counted in whole numbers, so that equally likely ones compare equal.
    scipy.stats has the same, and takes a second to import.

    >>> round(same_share_p_value(5, 5, 0, 5), 4)
    0.0079
    """
    events = events_a + events_b
    ways = [
        math.comb(trials_a, k) * math.comb(trials_b, events - k)
        for k in range(max(0, events - trials_b), min(events, trials_a) + 1)
    ]
    seen = math.comb(trials_a, events_a) * math.comb(trials_b, events_b)
    return sum(way for way in ways if way <= seen) / math.comb(trials_a + trials_b, events)


def evidence_sentence(events: int, requests: int, confidence: float = CONFIDENCE) -> str:
    """What a number of crashes in a number of requests lets one claim, in one sentence.

    Without a crash the one-sided upper bound, rounded so that it claims no more than it may:
    "0 crashes in 40,000 requests: at most 1 in 13,000 at 95 %". With crashes the rate and its
    interval: "5 crashes in 187 requests: 1 in 37 (1 in 16 to 1 in 120 at 95 %)".
    """
    percent = f"{100 * confidence:g} %"
    counted = f"{events:,} crash{'' if events == 1 else 'es'} in {requests:,} requests"
    if requests < 1:
        return f"{counted}: nothing can be said"
    if not events:
        bound = 1 / rate_upper_bound(0, requests, confidence)
        claim = f"at most 1 in {_floor_two_digits(bound):,}" if bound >= 1 else "no useful bound"
        return f"{counted}: {claim} at {percent}"
    seen = rate(events, requests, confidence)
    middle, often, seldom = (_one_in(r) for r in (seen.value, seen.high, seen.low))
    return f"{counted}: {middle} ({often} to {seldom} at {percent})"


def evidence_of_each(requests: Sequence[int], confidence: float = CONFIDENCE) -> str:
    """What no crash in so many requests, of several servers' releases, lets one claim of each.

    Releases are not one another: the sum would claim more than any of them was tried for. So the
    weakest bound is stated: "0 crashes in 8,000 requests: each at most 1 in 330 at 95 %".
    """
    if len(requests) == 1:
        return evidence_sentence(0, requests[0], confidence)
    counted = f"0 crashes in {sum(requests):,} requests"
    if min(requests) < 1:
        return f"{counted}: nothing can be said of one that had none"
    return f"{counted}: each {evidence_sentence(0, min(requests), confidence).partition(': ')[2]}"


def _one_in(per_request: float) -> str:
    many = max(1.0, 1 / per_request)
    digits = max(0, math.floor(math.log10(many)) - 1)
    return f"1 in {round(many, -digits):,.0f}"


def _floor_two_digits(value: float) -> int:
    """Rounded down to two digits, so that the bound is not claimed tighter than it is."""
    step: int = 10 ** max(0, math.floor(math.log10(value)) - 1)
    return int(value // step * step)


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise SpecError(f"a confidence of {confidence}", "between 0 and 1", "0.95 is usual")


def _check_exposure(exposure: float) -> None:
    if not exposure > 0:
        raise NotEnoughDataError(
            f"an exposure of {exposure}", "more than 0 requests or seconds", "run longer"
        )
