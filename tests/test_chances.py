"""The number of lives that tests against real races are given."""

from __future__ import annotations

import math
import random

import pytest
from chances import ONCE_IN, at_least, lives_for, recorded_chance, until


@pytest.mark.parametrize("chance", [0.05, 0.3, 0.55, 0.74, 0.95])
def test_a_right_kit_misses_less_often_than_stated_and_one_life_fewer_would_not_do(
    chance: float,
) -> None:
    lives = lives_for(chance)
    assert (1 - chance) ** lives <= 1 / ONCE_IN < (1 - chance) ** (lives - 1)


def test_the_least_chance_is_the_one_at_which_so_many_deaths_come_in_one_of_twenty_series() -> None:
    assert at_least(5, 5) ** 5 == pytest.approx(0.05)
    p = at_least(3, 5)
    tail = sum(math.comb(5, k) * p**k * (1 - p) ** (5 - k) for k in range(3, 6))
    assert tail == pytest.approx(0.05)
    assert at_least(0, 5) == 0.0


@pytest.mark.slow
def test_the_chance_of_the_racing_check_is_read_from_the_recorded_studies() -> None:
    assert recorded_chance("23.10", "cancel-race") == pytest.approx(at_least(10, 10))
    assert recorded_chance("24.05", "cancel-race") == 0.0


def test_lives_are_tried_until_one_shows_it_and_no_further() -> None:
    rng = random.Random(1)
    missed = 0
    for _ in range(3000):
        tried: list[bool] = []
        try:
            until(
                lambda _: tried.append(rng.random() < 0.55) or tried[-1],  # noqa: B023
                bool,
                chance=0.55,
                known=lambda _: True,
            )
        except AssertionError:
            missed += 1
        else:
            assert tried[-1]
            assert not any(tried[:-1])
    assert missed <= 9  # 2.3 are expected at 0.45**9; more than 9 come once in 4,000 runs


def test_an_ending_that_the_fault_never_has_is_not_tried_away() -> None:
    with pytest.raises(AssertionError, match="life 1 ended as the fault never does"):
        until(lambda n: n, lambda n: n == 2, chance=0.3, known=lambda n: n != 1)
