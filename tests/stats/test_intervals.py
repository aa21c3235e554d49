"""kit.stats.intervals against figures printed in R's manual, and against their definitions."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from kit.errors import NotEnoughDataError, SpecError
from kit.stats.intervals import (
    evidence_of_each,
    evidence_sentence,
    rate,
    rate_ratio,
    rate_upper_bound,
    same_share_p_value,
    share,
)


def test_share_equals_binom_test_of_r() -> None:
    """R: binom.test(682, 925), Conover (1971), p. 97."""
    seen = share(682, 925)
    assert [round(x, 7) for x in (seen.value, seen.low, seen.high)] == [
        0.7372973,
        0.7076683,
        0.7654066,
    ]


def test_rate_equals_poisson_test_of_r() -> None:
    """R: poisson.test(137, 24.19893), births of Down's syndrome in Scotland."""
    seen = rate(137, 24.19893)
    assert [round(x, 6) for x in (seen.value, seen.low, seen.high)] == [
        5.661407,
        4.753125,
        6.692709,
    ]


def test_rate_ratio_equals_poisson_test_of_r() -> None:
    """R: poisson.test(c(11, 6+8+7), c(800, 1083+1050+878)), Fleiss et al. (2003)."""
    seen = rate_ratio(11, 800, 21, 3011)
    assert [round(x, 7) for x in (seen.value, seen.low, seen.high)] == [
        1.9714881,
        0.8584264,
        4.2772659,
    ]


@pytest.mark.parametrize(
    ("deaths", "low", "high"), [(0, 0.0, 3.6889), (1, 0.0253, 5.5716), (10, 4.7954, 18.3904)]
)
def test_poisson_bounds_equal_the_printed_tables(deaths: int, low: float, high: float) -> None:
    """Garwood's limits as in Pearson and Hartley, Biometrika Tables, table 40 (95 %)."""
    seen = rate(deaths, 1)
    assert (round(seen.low, 4), round(seen.high, 4)) == (low, high)


def test_fisher_and_the_lady_tasting_tea() -> None:
    """Agresti (2002), p. 92; R's fisher.test: two-sided 0.4857."""
    assert round(same_share_p_value(3, 4, 1, 4), 4) == 0.4857


@given(st.integers(0, 60), st.integers(1, 60), st.integers(0, 60), st.integers(1, 60))
def test_the_same_share_is_judged_as_scipy_does(a: int, of_a: int, b: int, of_b: int) -> None:
    a, b = min(a, of_a), min(b, of_b)
    expected = stats.fisher_exact([[a, of_a - a], [b, of_b - b]]).pvalue
    assert same_share_p_value(a, of_a, b, of_b) == pytest.approx(expected, rel=1e-9)


def test_thousands_of_trials_are_judged_too() -> None:
    assert same_share_p_value(40, 4000, 80, 4000) == pytest.approx(
        stats.fisher_exact([[40, 3960], [80, 3920]]).pvalue, rel=1e-9
    )


def test_no_crash_gives_the_bound_that_the_evidence_supports() -> None:
    assert (
        evidence_sentence(0, 40_000) == "0 crashes in 40,000 requests: at most 1 in 13,000 at 95 %"
    )
    assert evidence_sentence(5, 187) == (
        "5 crashes in 187 requests: 1 in 37 (1 in 16 to 1 in 120 at 95 %)"
    )
    assert evidence_sentence(3, 3).startswith("3 crashes in 3 requests: 1 in 1 (1 in 1 to 1 in 5")
    assert evidence_sentence(0, 0) == "0 crashes in 0 requests: nothing can be said"
    assert evidence_sentence(0, 2) == "0 crashes in 2 requests: no useful bound at 95 %"
    assert rate_upper_bound(0, 1) == pytest.approx(-math.log(0.05))


def test_no_crash_on_one_side_bounds_the_ratio_on_one_side() -> None:
    seen = rate_ratio(5, 100, 0, 1000)
    assert (seen.value, seen.high) == (math.inf, math.inf)
    assert seen.low > 1


@pytest.mark.slow
@settings(deadline=None)
@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_share_bounds_are_those_at_which_the_tail_is_exactly_left_out(
    seen: tuple[int, int],
) -> None:
    events, trials = seen
    found = share(events, trials)
    assert found.low <= found.value <= found.high
    if events:
        assert stats.binom.sf(events - 1, trials, found.low) == pytest.approx(0.025, rel=1e-6)
    if events < trials:
        assert stats.binom.cdf(events, trials, found.high) == pytest.approx(0.025, rel=1e-6)


@pytest.mark.slow
@settings(deadline=None)
@given(st.integers(0, 200), st.floats(0.1, 1e6))
def test_rate_bounds_are_those_at_which_the_tail_is_exactly_left_out(
    e: int, exposure: float
) -> None:
    found = rate(e, exposure)
    assert stats.poisson.cdf(e, found.high * exposure) == pytest.approx(0.025, rel=1e-6)
    if e:
        assert stats.poisson.sf(e - 1, found.low * exposure) == pytest.approx(0.025, rel=1e-6)
    assert stats.poisson.cdf(e, rate_upper_bound(e, exposure) * exposure) == pytest.approx(0.05)


def test_what_cannot_be_said_is_a_named_error() -> None:
    with pytest.raises(NotEnoughDataError):
        share(0, 0)
    with pytest.raises(NotEnoughDataError):
        rate(0, 0)
    with pytest.raises(NotEnoughDataError, match="no events"):
        rate_ratio(0, 10, 0, 10)
    with pytest.raises(SpecError):
        share(4, 3)
    with pytest.raises(SpecError):
        rate(1, 1, confidence=95)


def test_a_bound_of_each_of_several_is_that_of_the_least_tried() -> None:
    assert evidence_of_each([1000] * 8) == (
        "0 crashes in 8,000 requests: each at most 1 in 330 at 95 %"
    )
    assert evidence_of_each([1000, 0]).endswith("nothing can be said of one that had none")
    assert evidence_of_each([1000]) == evidence_sentence(0, 1000)
