"""The search for a limit, on servers whose limit is known by arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import special

from kit.stats.limit import BOLDEST_STEP, Estimate, Point, Posterior, design_effect

SEEDS = 20
MOST_TRIALS = 12
Observe = Callable[[float], Point]


def point(load: float, bad: np.ndarray, allowed: float = 0.05) -> Point:
    return Point(
        load=load,
        bad=float(bad.mean()),
        allowed=allowed,
        n=bad.size,
        design_effect=design_effect(bad),
    )


def closed_loop(seed: int, places: int, goal_s: float, requests: int = 400) -> Observe:
    """Clients that wait for one of so many places, first come, first served, 8 answers a second
    each: who finds k others waiting has to see k + 1 of them leave."""
    rng = np.random.default_rng(seed)

    def observe(clients: float) -> Point:
        ahead = max(0, int(clients) - places)
        n = max(requests, 6 * int(clients))
        left = np.cumsum(rng.exponential(1 / (8.0 * places), n + ahead))
        waits = left[ahead:] - left[: left.size - ahead]
        return point(clients, waits > goal_s)

    return observe


def closed_limit(places: int, goal_s: float) -> int:
    """The wait is the sum of (clients - places) exponential times: Erlang."""
    clients = places
    while 1 - special.gammainc(clients + 1 - places, 8.0 * places * goal_s) <= 0.05:
        clients += 1
    return clients


def open_loop(seed: int, served_per_s: float, goal_s: float, requests: int = 4000) -> Observe:
    """One server, Poisson arrivals, exponential service: M/M/1, by Lindley's recursion."""
    rng = np.random.default_rng(seed)

    def observe(rate: float) -> Point:
        gaps = rng.exponential(1 / rate, requests + 200)
        work = rng.exponential(1 / served_per_s, requests + 200)
        walk = np.concatenate([[0.0], np.cumsum(work[:-1] - gaps[1:])])
        stay = walk - np.minimum.accumulate(walk) + work
        return point(rate, stay[200:] > goal_s)

    return observe


def search(
    observe: Observe, *, low: float = 1, high: float = 1024, is_whole: bool = True
) -> tuple[Estimate, list[Point]]:
    points: list[Point] = []
    while True:
        posterior = Posterior(points, low=low, high=high, is_whole=is_whole)
        if len(points) == MOST_TRIALS or (points and posterior.is_decided(0.05)):
            return posterior.estimate(), points
        points.append(observe(posterior.next_load()))


@pytest.mark.slow
@pytest.mark.parametrize(("places", "goal_s"), [(4, 0.3), (16, 0.3)])
def test_the_limit_of_a_closed_loop_is_found_within_5_percent(places: int, goal_s: float) -> None:
    truth = closed_limit(places, goal_s)
    near = covered = 0
    for seed in range(SEEDS):
        found, points = search(closed_loop(seed, places, goal_s))
        assert len(points) <= MOST_TRIALS
        near += abs(found.value - truth) <= max(1.0, 0.05 * truth)  # clients are whole
        covered += found.low <= truth <= found.high
    assert near >= 19
    assert covered >= 17  # a share of 0.95 gives fewer in 1 % of such tests


@pytest.mark.slow
def test_the_limit_of_an_open_loop_is_found_within_5_percent() -> None:
    served, goal_s = 100.0, 0.1
    truth = served - math.log(20) / goal_s  # M/M/1: P(stay > t) = exp(-(served - rate) t)
    near = covered = 0
    for seed in range(SEEDS):
        found, _ = search(open_loop(seed, served, goal_s), high=1000, is_whole=False)
        near += abs(found.value / truth - 1) <= 0.05
        covered += found.low <= truth <= found.high
    assert near >= 19
    assert covered >= 17


@pytest.mark.slow
@pytest.mark.parametrize("limit", [1, 4, 37, 350])
def test_a_wall_is_found_and_no_load_is_far_beyond_what_has_held(limit: int) -> None:
    def observe(load: float) -> Point:
        return Point(load=load, bad=0.0 if load <= limit else 0.9, allowed=0.05, n=400)

    found, points = search(observe)
    assert found.value == pytest.approx(limit, rel=0.05)
    assert found.low <= limit <= found.high
    highest = 0.0
    for one in points:
        assert one.load <= max(1.0, BOLDEST_STEP * highest)
        highest = max(highest, one.load if one.excess <= 0 else 0.0)


def test_trials_go_where_the_answer_lies() -> None:
    _, points = search(closed_loop(1, 16, 0.3))
    truth = closed_limit(16, 0.3)
    late = [one.load for one in points[4:]]
    near = [load for load in late if 0.7 * truth <= load <= 1.4 * truth]
    assert len(near) >= 0.75 * len(late)


def test_a_server_that_always_or_never_holds_is_said_so_in_few_trials() -> None:
    never, tried = search(lambda load: Point(load=load, bad=0.5, allowed=0.05, n=400))
    assert (never.is_below, never.value) == (True, 0.0)
    assert len(tried) <= 3
    always, tried = search(lambda load: Point(load=load, bad=0.0, allowed=0.05, n=400))
    assert (always.is_above, always.high) == (True, math.inf)
    assert len(tried) <= 6


def test_few_requests_give_a_wide_interval() -> None:
    def width(n: int) -> float:
        points = [
            Point(load=load, bad=bad, allowed=0.05, n=n)
            for load, bad in ((10.0, 0.0), (40.0, 0.03), (50.0, 0.1))
        ]
        found = Posterior(points, low=1, high=100, is_whole=False).estimate()
        return found.high / max(found.low, 1.0)

    assert width(40) > 1.3 * width(4000)


def test_observations_that_come_in_runs_count_as_fewer() -> None:
    rng = np.random.default_rng(1)
    alone = rng.random(2000) < 0.1
    runs = np.repeat(rng.random(100) < 0.1, 20)
    assert (design_effect(alone) or 0.0) < 3
    assert (design_effect(runs) or 0.0) > 6
    assert design_effect(np.zeros(100, bool)) is None
