"""Replay and calibration against engines whose pace is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest

from kit.errors import NotEnoughDataError
from kit.kv.calibrate import Served, fit_pace, served
from kit.kv.expect import expect, footprint
from kit.kv.replay import StepCosts, replay
from kit.study.spec import Engine, fixed

ENGINE = Engine(blocks=4096)
SMALL = Engine(blocks=32, block_size_tokens=32, max_model_tokens=512)
PACE = StepCosts(
    decode_step_ms=2.5, sequence_step_ms=0.15, prefill_tokens_per_s=12_000.0, per_request_ms=3.0
)


def lengths(count: int, seed: int) -> list[tuple[int, int]]:
    random = np.random.default_rng(seed)
    return [(int(p), int(o)) for p, o in random.integers((16, 16), (256, 64), (count, 2))]


def trials(*, noise: float = 0.0, stalls: float = 0.0) -> list[Served]:
    """Closed loops as the known pace serves them; some answers late by a multiple."""
    random = np.random.default_rng(5)
    made = []
    for concurrency in (1, 2, 4, 8):
        asked = lengths(60, concurrency)
        e2e_ms = replay(asked, concurrency=concurrency, engine=ENGINE, pace=PACE).e2e_ms
        late = 1.0 + 4.0 * (random.random(60) < stalls) + noise * random.standard_normal(60)
        made.append(
            Served(engine=ENGINE, concurrency=concurrency, lengths=asked, e2e_ms=e2e_ms * late)
        )
    return made


@pytest.mark.slow
@pytest.mark.parametrize(("noise", "stalls"), [(0.0, 0.0), (0.03, 0.05)])
def test_the_pace_that_made_the_latencies_is_found_again(noise: float, stalls: float) -> None:
    fit = fit_pace(trials(noise=noise, stalls=stalls))

    assert fit.pace.decode_step_ms == pytest.approx(PACE.decode_step_ms, rel=0.1)
    assert fit.pace.sequence_step_ms == pytest.approx(PACE.sequence_step_ms, rel=0.25)
    assert fit.pace.prefill_tokens_per_s == pytest.approx(PACE.prefill_tokens_per_s, rel=0.1)
    assert fit.median_error_fraction < 0.05
    assert fit.requests == 240


def test_trials_that_are_all_alike_are_refused() -> None:
    alike = [t for t in trials() if t.concurrency == 8]
    with pytest.raises(NotEnoughDataError, match="one concurrency"):
        fit_pace(alike)


@pytest.mark.parametrize(
    "some",
    [[], [Served(engine=ENGINE, concurrency=1, lengths=[(1, 1)], e2e_ms=np.array([np.nan]))]],
)
def test_too_few_requests_are_refused(some: Sequence[Served]) -> None:
    with pytest.raises(NotEnoughDataError, match="0 answered"):
        fit_pace(some)


def test_a_frame_of_requests_becomes_trials_in_the_order_sent() -> None:
    frame = pd.DataFrame(
        {
            "trial_id": ["b", "a", "a"],
            "request": [0, 1, 0],
            "concurrency": [4, 2, 2],
            "prompt_tokens_sent": [7, 8, 9],
            "output_tokens_asked": [1, 2, 3],
            "e2e_ms": [70.0, 80.0, 90.0],
            "ok": [True, False, True],
        }
    )
    one, other = served(frame, ENGINE)

    assert (one.concurrency, list(one.lengths)) == (2, [(9, 3), (8, 2)])
    assert one.e2e_ms[0] == 90.0
    assert np.isnan(one.e2e_ms[1])  # it failed: that says nothing about the pace
    assert other.concurrency == 4


def test_a_lone_request_takes_its_steps_and_its_way() -> None:
    done = replay([(24, 10)], concurrency=1, engine=SMALL, pace=PACE)
    steps_ms = 10 * (2.5 + 0.15) + (24 + 9) / 12.0

    assert done.e2e_ms[0] == pytest.approx(3.0 + steps_ms)
    assert len(done.step_end_ms) == 10


@pytest.mark.parametrize("concurrency", [1, 4, 8, 16])
def test_a_replay_reaches_the_peak_that_is_expected(concurrency: int) -> None:
    done = replay([(16, 64)] * 64, concurrency=concurrency, engine=SMALL, pace=PACE)
    expected = expect(SMALL, footprint(SMALL, fixed(16), fixed(64)), concurrency)

    assert done.kv_usage.max() == pytest.approx(expected.peak_fraction, abs=0.05)
    assert (done.preemptions > 0) == expected.limited
    assert (done.e2e_ms > 0).all()
