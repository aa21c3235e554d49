"""Claims about kit.stats.latency and .summary."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from effort import many
from scipy import stats
from synthetic_studies import first_light, write_study, write_trial

from kit.errors import NotEnoughDataError
from kit.stats.frames import requests_frame, trials_frame
from kit.stats.latency import LatencySample, fewest_requests, latency_table, quantile_ratio
from kit.stats.summary import CELL, crash_table
from kit.study.result import Verdict


def requests(ms: np.ndarray, *, failed: int = 0, trials: int = 1) -> pd.DataFrame:
    ok = np.arange(ms.size) >= failed
    return pd.DataFrame(
        {
            "release": "23.10",
            "concurrency": 4,
            "trial_id": [f"t{i % trials}" for i in range(ms.size)],
            "judged": True,
            "ok": ok,
            "e2e_ms": ms,
        }
    )


def test_p99_of_twenty_requests_is_refused_with_the_number_that_is_needed() -> None:
    assert [fewest_requests(q) for q in (0.5, 0.95, 0.99)] == [6, 72, 368]
    with pytest.raises(NotEnoughDataError, match="368 or more"):
        LatencySample.of(requests(np.arange(20.0))).quantile_ms(0.99)
    table = latency_table(requests(np.arange(20.0))).set_index("quantile")
    assert math.isnan(table.loc[0.99, "ms"])
    assert table.loc[0.99, "lacks"].startswith("p99 of 20 requests")
    assert table.loc[0.5, "ms"] == 9.0


def test_a_quantile_is_a_latency_that_was_measured() -> None:
    sample = LatencySample.of(requests(np.arange(1.0, 101.0)))
    assert [sample.quantile_ms(q) for q in (0.5, 0.9, 0.95)] == [50, 90, 95]


def test_failures_count_as_never_answered() -> None:
    table = latency_table(requests(np.full(200, 10.0), failed=12)).set_index("quantile")
    assert table.loc[0.5, "ms"] == 10
    assert math.isinf(table.loc[0.95, "ms"])
    assert table["failed_fraction"].eq(0.06).all()


def test_a_fast_failure_does_not_make_a_release_look_fast() -> None:
    fast = np.r_[np.full(30, 0.1), np.full(70, 50.0)]
    assert LatencySample.of(requests(fast, failed=30)).quantile_ms(0.5) == 50


@pytest.mark.slow
def test_the_interval_covers_the_true_quantile_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    truth = math.exp(stats.norm.ppf(0.95))
    covered = 0
    for _ in range(200):
        row = latency_table(requests(rng.lognormal(size=300)), quantiles=[0.95]).iloc[0]
        covered += row["low_ms"] <= truth <= row["high_ms"]
    assert 183 <= covered <= 200  # 190 expected; below 183 has probability 0.1 %


def lives(rng: np.random.Generator, *, trials: int, n: int, differ: float) -> pd.DataFrame:
    """Requests of servers whose latencies differ as a whole, as those of real ones do."""
    own = rng.normal(0, differ, trials)
    return requests(np.exp(np.tile(own, n) + rng.normal(0, 0.25, trials * n)), trials=trials)


@pytest.mark.slow
@pytest.mark.parametrize("differ", [0.0, 0.05, 0.2])
@pytest.mark.parametrize("trials", [2, 3, 8, 15])
@pytest.mark.parametrize("quantile", [0.5, 0.95])
def test_the_interval_covers_the_truth_of_all_servers_and_not_only_of_those_that_ran(
    quantile: float, trials: int, differ: float
) -> None:
    rng = np.random.default_rng(4)
    truth = math.exp(stats.norm.ppf(quantile) * math.hypot(0.25, differ))
    covered, runs, least = 0, many(150, 2000), 0.94
    for _ in range(runs):
        sample = LatencySample.of(lives(rng, trials=trials, n=100, differ=differ))
        low, high = sample.interval_ms(quantile)
        covered += low <= truth <= high
    assert covered / runs >= least - 3 * math.sqrt(least * (1 - least) / runs)


def test_a_life_that_was_mostly_never_answered_leaves_the_interval_open() -> None:
    frame = requests(np.linspace(10, 20, 300), trials=3)
    frame.loc[frame["trial_id"] == "t0", "ok"] = False
    low, high = LatencySample.of(frame).interval_ms(0.5)
    assert low <= 15
    assert high == math.inf


def test_requests_of_one_server_life_are_not_taken_as_independent() -> None:
    """Ten trials, each with a latency of its own: the interval must span trials, not requests."""
    ms = np.tile(np.arange(10.0, 20.0), 100)
    together = latency_table(requests(ms, trials=10), quantiles=[0.5]).iloc[0]
    alone = latency_table(requests(ms, trials=1), quantiles=[0.5]).iloc[0]
    assert together["interval"] == "10 trials"
    assert alone["interval"] == "one trial"
    wide = together["high_ms"] - together["low_ms"]
    assert wide > 3 * (alone["high_ms"] - alone["low_ms"])


def test_how_many_requests_are_needed_depends_on_the_confidence() -> None:
    sample = LatencySample.of(requests(np.arange(1.0, 81.0)))
    assert sample.quantile_ms(0.95) == 76
    with pytest.raises(NotEnoughDataError, match="104 or more"):
        sample.quantile_ms(0.95, 0.99)
    row = latency_table(requests(np.arange(1.0, 81.0)), quantiles=[0.95], confidence=0.99).iloc[0]
    assert math.isnan(row["ms"])


@pytest.mark.slow
@pytest.mark.parametrize("differ", [0.0, 0.1])
def test_the_interval_of_a_ratio_covers_it_as_often_as_it_says(differ: float) -> None:
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(200):
        slow, fast = (lives(rng, trials=4, n=60, differ=differ) for _ in range(2))
        ratio = quantile_ratio(slow.assign(e2e_ms=slow["e2e_ms"] * 1.5), fast)
        covered += ratio.low <= 1.5 <= ratio.high
    assert covered >= 181  # 190 expected; below 181 has probability 0.2 %


def test_a_side_that_is_never_answered_has_no_finite_ratio() -> None:
    never, always = requests(np.ones(50), failed=40), requests(np.full(50, 2.0))
    assert quantile_ratio(never, always).value == math.inf
    assert quantile_ratio(never, always).high == math.inf
    assert quantile_ratio(always, never).value == 0


def test_ratio_of_medians_has_an_interval_that_holds_the_truth() -> None:
    rng = np.random.default_rng(3)
    slow, fast = requests(2 * rng.lognormal(size=500)), requests(rng.lognormal(size=500))
    ratio = quantile_ratio(slow, fast)
    assert ratio.low < 2 < ratio.high
    assert ratio.low > 1.5
    with pytest.raises(NotEnoughDataError, match="both sides"):
        quantile_ratio(requests(np.ones(50), failed=40), requests(np.ones(50), failed=40))


def test_latency_from_the_schedule_counts_the_wait(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ["24.05"], ["cancel-race"])
    write_trial(study, "24.05", requests=100)
    frame = requests_frame(study)
    sent = latency_table(frame, quantiles=[0.5])["ms"].item()
    due = latency_table(frame, latency="e2e_from_schedule_ms", quantiles=[0.5])["ms"].item()
    assert due == pytest.approx(sent + 0.2)


@pytest.mark.slow
def test_crash_table_counts_the_request_that_killed(tmp_path: Path) -> None:
    table = crash_table(trials_frame(first_light(tmp_path / "s")), CELL)
    deadly = table[table["scenario"] == "cancel-race"].set_index("release")
    row = deadly.loc["23.10"]
    assert (row["trials"], row["crashed"], row["iterations"]) == (3, 3, [28, 33, 51])
    assert row["requests"] == 28 + 33 + 51 + 3
    assert row["per_1000"] == pytest.approx(1000 * 3 / 115)
    assert row["share_low"] == pytest.approx(0.025 ** (1 / 3))
    assert deadly.loc["24.05", "says"] == "0 crashes in 600 requests: at most 1 in 200 at 95 %"


def test_crash_table_leaves_out_what_says_nothing(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ["24.05"], ["cancel-race"])
    write_trial(study, "24.05", repeat=0, verdict=Verdict.CLIENT_FAULT)
    (row,) = crash_table(trials_frame(study)).to_dict("records")
    assert (row["trials"], row["left_out"], row["requests"]) == (0, 1, 0)
    assert math.isnan(row["share"])
    assert row["says"].endswith("nothing can be said")
